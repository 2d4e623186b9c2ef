"""Fixtures, and `pytest --impl=FILE`: the checks, run on the functions of a notebook or a Python file.

Write it with the equals sign: after a space, pytest takes FILE for a test.
"""

import ast
import contextlib
from pathlib import Path

import pytest
import torch

from minidistill.checks.grading import limits, silence


def pytest_addoption(parser):
    parser.addoption(
        "--impl", type=Path, metavar="FILE", help="check the functions in this .ipynb or .py file"
    )


def pytest_ignore_collect(collection_path, config):
    """With --impl only that file is checked; without it there is nothing to check it on."""
    if collection_path.is_file() and (collection_path.name == "test_impl.py") != (
        config.option.impl is not None
    ):
        return True


def answers(path: Path) -> dict:
    """The functions of a file by name: those that an exercise asks for, or all that the file defines.

    Only imports, functions, classes and constants are run; a statement that fails is left out.
    """
    if not path.exists():
        raise pytest.UsageError(f"--impl: there is no file {path}")
    if path.suffix == ".ipynb":
        import nbformat
        from IPython.core.inputtransformer2 import TransformerManager

        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        sources = [TransformerManager().transform_cell(c.source) for c in cells]
        notes = [c.metadata.get("nbgrader", {}) for c in cells]
        asked = [note["grade_id"] for note in notes if note.get("solution")]
    else:
        sources, asked = [path.read_text()], []
    namespace = {"__name__": path.stem}
    for source in sources:
        with contextlib.suppress(SyntaxError):
            for node in ast.parse(source).body:
                if isinstance(node, (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign)):
                    with contextlib.suppress(Exception, SystemExit), limits(10.0, 4.0), silence():
                        exec(compile(ast.Module([node], []), str(path), "exec"), namespace)
    own = [name for name, f in namespace.items() if getattr(f, "__module__", "") == path.stem]
    return {name: namespace.get(name) for name in asked or own}


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors: a second thread costs more than it brings."""
    torch.set_num_threads(1)


@pytest.fixture
def unchecked_shapes():
    """Switch the shape annotations off, to see what the code itself says about wrong shapes."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
