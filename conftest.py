"""Fixtures, and `pytest --impl=FILE`: the checks, run on the functions of a notebook or a Python file.

Write it with the equals sign: after a space, pytest takes FILE for a test.
"""

from pathlib import Path

import pytest
import torch

from minidistill.checks import apart


def pytest_addoption(parser):
    parser.addoption(
        "--impl", type=Path, metavar="FILE", help="check the functions in this .ipynb or .py file"
    )


def pytest_configure(config):
    """With --impl the file is read here, where an error is one sentence."""
    if path := config.option.impl:
        try:
            config.cells = apart.read(path)
            config.answers = apart.tests(config.cells)
        except ValueError as error:
            raise pytest.UsageError(f"--impl: {path}: {error}") from error


def pytest_ignore_collect(collection_path, config):
    """With --impl only that file is checked; without it there is nothing to check it on."""
    if collection_path.is_file() and (collection_path.name == "test_impl.py") != (
        config.option.impl is not None
    ):
        return True


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
