"""Look at what was handed in before nbgrader does, which stops at a notebook that it cannot read.

python receive.py exercises        # in notebooks/; looks at submitted/STUDENT/exercises/*

What cannot be graded is moved to returned/STUDENT/exercises, with a sentence for the student beside it.
"""

import sys
from collections import Counter
from pathlib import Path

import nbformat
from nbgrader.nbgraderformat import MetadataValidator

AGAIN = "Put your answers into the notebook that was released."


def fault(path: Path, names: list[str]) -> str:
    """What is wrong with a notebook, and what to do, in a sentence; "" when it can be graded."""
    if path.name not in names:
        return f"No exercise has this name. Call the file what it was called: {', '.join(names)}."
    try:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # of json, of nbformat, of the file system
        why = str(error).splitlines()[0]
        return f"This is no notebook that can be read ({why:.80}). Save it again in Jupyter."
    notes = [cell.metadata["nbgrader"] for cell in notebook.cells if "nbgrader" in cell.metadata]
    twice = [name for name, n in Counter(note.get("grade_id") for note in notes).items() if n > 1]
    if twice:
        return f"Two cells are called {twice[0]}: one was duplicated. Delete one of them, and hand in again."
    if not any(note.get("grade") for note in notes):
        return f"The graded cells are missing, or their notes are. {AGAIN}"
    try:
        MetadataValidator().validate_nb(notebook)
    except Exception as error:  # of jsonschema, and nbgrader's own for another version
        why = str(error).splitlines()[0]
        return f"The notes of its cells are not those that were released ({why:.80}). {AGAIN}"
    return ""


def receive(course: Path, assignment: str) -> dict[Path, str]:
    """Set aside what cannot be graded: where each notebook was -> the sentence."""
    names = sorted(path.name for path in (course / assignment).glob("*.ipynb"))
    if not names:
        raise SystemExit(
            f"There are no notebooks in {course / assignment}: run this in the folder of the course."
        )
    faults = {}
    for path in sorted((course / "submitted").glob(f"*/{assignment}/*")):
        sentence = fault(path, names)
        if sentence:
            faults[path] = sentence
            target = course / "returned" / path.relative_to(course / "submitted")
            target.parent.mkdir(parents=True, exist_ok=True)
            path.replace(target)
            target.with_suffix(".txt").write_text(f"{path.name}: {sentence}\n")
    return faults


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python receive.py ASSIGNMENT")
    found = receive(Path(), sys.argv[1])
    for path, sentence in found.items():
        print(f"{path.parts[1]}: {path.name}: {sentence}")
    print(f"{len(found)} set aside, in returned/; the rest can be graded.")
