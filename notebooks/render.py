"""Run notebooks from top to bottom and save them with clean outputs: no widgets, no timings, no progress
bars.

python notebooks/render.py notebooks/00_quickstart.ipynb ...
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def render(path: Path) -> None:
    """Execute one notebook in place."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=600, record_timing=False, resources={"metadata": {"path": path.parent}}
    )
    client.execute()
    notebook.metadata.pop("widgets", None)  # GitHub cannot show notebooks with widget state
    notebook.metadata["language_info"] = {"name": "python"}  # not the version that happened to run
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if "widget-view" not in str(o.get("data", {}).keys())]
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        render(Path(name))
        print(name)
