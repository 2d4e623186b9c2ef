"""Every notebook runs from top to bottom, what is committed is clean, and a lesson has the form of a lesson.

Exercises run with the tests. Lessons, which train and draw, run with `-m lessons`, shortened, and with `-m slow`.
"""

import base64
import json
import re
import struct
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
COURSE = sorted(FOLDER.glob("*.ipynb"))  # of forty-five minutes each
LESSONS = COURSE + sorted((FOLDER / "appendix").glob("*.ipynb"))
NOTEBOOKS = LESSONS + sorted((FOLDER / "exercises").glob("*.ipynb"))
NOT_THE_IDEA = re.compile(r"\b(axis|axes|figure|plt|plots|print|Markdown|assert|import|from)\b")


def execute(notebook, path):
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": path.parent}}).execute()


def read(path):
    cells = json.loads(path.read_text())["cells"]
    return [cell | {"source": "".join(cell["source"])} for cell in cells]


def hidden(cell):
    return "hide-input" in cell["metadata"].get("tags", [])


def lines(cell):
    return [line for line in cell["source"].splitlines() if line.strip()]


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


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_form_of_figures(path):
    """Large enough to read, with a sentence for those who cannot see them."""
    for cell in read(path):
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                width, _ = struct.unpack(">II", base64.b64decode(picture)[16:24])
                assert 500 <= width <= 900, f"{width} pixels wide: {cell['source'][:60]}"
                assert 40 <= len(cell["metadata"].get("alt", "")) <= 400, cell["source"][:60]
        for setting in ("dpi=", "fontsize=", "layout=", "getsource"):
            assert setting not in cell["source"], f"{setting}: the style of the lessons decides"


@pytest.mark.parametrize("path", LESSONS, ids=lambda p: p.stem)
def test_form_of_links(path):
    text = "\n".join(cell["source"] for cell in read(path) if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", text)
    for link in links:
        assert link.startswith("http") or (path.parent / link).exists(), link
    assert any(link.endswith("glossary.md") for link in links)


@pytest.mark.parametrize("path", COURSE, ids=lambda p: p.stem)
def test_form_of_a_lesson(path):
    """One idea in forty-five minutes: prose before code, what draws and asserts out of sight."""
    cells = read(path)
    first, install, *_, last = cells
    fields = ("# ", "**Question.**", "**Answer.**", "**Before this lesson:**", "**After it**", "**Time:**")
    places = [first["source"].find(field) for field in (*fields, "**The first picture**")]
    assert places == sorted(places) and places[0] == 0, f"of {fields} something is missing or out of order"
    assert install == read(COURSE[0])[1] | {"id": install["id"]}, "every lesson has the same second cell"
    assert any("image/png" in str(cell.get("outputs")) for cell in cells[2:5]), (
        "the first picture comes first"
    )

    for before, cell in zip(cells[2:], cells[3:]):
        code = [c["cell_type"] == "code" and not hidden(c) for c in (before, cell)]
        assert not all(code), f"a sentence is missing before {cell['source'][:60]!r}"
    for cell in cells:
        if cell["cell_type"] == "code":
            assert len(lines(cell)) <= (30 if hidden(cell) else 20), cell["source"][:60]
    shown = [line for c in cells if c["cell_type"] == "code" and not hidden(c) for line in lines(c)]
    words = sum(len(cell["source"].split()) for cell in cells if cell["cell_type"] == "markdown")
    assert len(shown) <= 160 and words <= 1330 and len(cells) <= 42, (len(shown), words, len(cells))
    share = sum(bool(NOT_THE_IDEA.search(line)) for line in shown) / len(shown)
    assert share <= 0.25, f"{share:.0%} of the lines that are seen draw, print, assert or import"

    text = "\n".join(cell["source"] for cell in cells)
    assert text.count("**Predict first.**") >= 1 and "<details><summary>Answer</summary>" in text
    assert "## Remember" in last["source"] and last["source"].count("\n- ") == 3
    assert "exercises/" in last["source"] and "Next: [" in last["source"]
