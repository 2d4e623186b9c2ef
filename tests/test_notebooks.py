"""Every notebook runs from top to bottom, and what is committed is clean.

Exercises run with the tests. Lessons, which train and draw, run with `-m lessons`, shortened, and with `-m slow`.
"""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted([*FOLDER.glob("*.ipynb"), *(FOLDER / "exercises").glob("*.ipynb")])
LESSONS = [path for path in NOTEBOOKS if path.parent == FOLDER]


def execute(notebook, path):
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.lessons] if path in LESSONS else []) for path in NOTEBOOKS],
    ids=lambda p: p.stem,
)
def test_runs(path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as for the tests in this process
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # every training run is one line, `steps = N`: here it is short
        cell.source = re.sub(r"^steps = \d+", "steps = 20", cell.source, flags=re.M)
    execute(notebook, path)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_claims(path):
    """At full length, where the notebook asserts what it claims."""
    execute(nbformat.read(path, as_version=4), path)


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_outputs_are_clean(path):
    notebook = json.loads(path.read_text())
    code = [c for c in notebook["cells"] if c["cell_type"] == "code"]
    assert [c["execution_count"] for c in code] == list(range(1, len(code) + 1)), "run all cells, in order"
    assert "widgets" not in notebook["metadata"], "GitHub cannot show notebooks with widget state"
    assert path.stat().st_size < 500_000, "smaller figures, please"
    outputs = json.dumps([c["outputs"] for c in code])
    for bad in ("widget-view", '"error"', "stderr", "/home/", "/Users/", "/root/", "/tmp/"):
        assert bad not in outputs, f"{bad} in an output"
    assert "image/png" in outputs, "a lesson has figures"
