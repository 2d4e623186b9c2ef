"""Make the learner's version of the exercises: solutions become stubs. No nbgrader needed.

python notebooks/release.py            # writes notebooks/release/exercises/*.ipynb
"""

import re
from pathlib import Path

import nbformat

FOLDER = Path(__file__).parent
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION", re.M | re.S)


def release(path: Path, target: Path) -> None:
    """Write the notebook at `path` to `target`, without solutions and outputs."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = SOLUTION.sub(r"\1# YOUR CODE HERE\n\1raise NotImplementedError()", cell.source)
            cell.outputs, cell.execution_count = [], None
    target.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, target)


if __name__ == "__main__":
    for path in sorted((FOLDER / "exercises").glob("*.ipynb")):
        target = FOLDER / "release" / "exercises" / path.name
        if target.exists():
            print(f"kept {target}: it may hold your answers; delete it for a fresh one")
        else:
            release(path, target)
            print(target)
