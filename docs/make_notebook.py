"""Make examples/tutorial.ipynb from docs/tutorial.md: run it, and keep its output.

    CXR_DATA=chest_xray CXR_WEIGHTS=VGG16.h5 python docs/make_notebook.py

The output shown on the page is copied from the notebook by hand.
"""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
NOTEBOOK = HERE.parent / "examples" / "tutorial.ipynb"


def notebook(page: Path = HERE / "tutorial.md") -> nbformat.NotebookNode:
    """Return a page as a notebook that was not run: without output, and with links that lead into docs."""
    cells = jupytext.reads(page.read_text(encoding="utf-8"), fmt="md")
    for number, cell in enumerate(cells.cells):
        cell["id"] = f"cell-{number}"
        if cell.cell_type == "markdown":
            cell.source = re.sub(r"```text\n.*?```\n*", "", cell.source, flags=re.DOTALL)
            cell.source = re.sub(r"\]\((?!https?:)", "](../docs/", cell.source).strip()
    cells.cells = [cell for cell in cells.cells if cell.source]
    cells.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return cells


def run(cells: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run a notebook in a temporary folder; paths of images and weights are relative to the current one."""
    env = dict(os.environ)
    for name in ("CXR_DATA", "CXR_WEIGHTS"):
        if name in env and Path(env[name]).exists():
            env[name] = str(Path(env[name]).resolve())
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(cells, timeout=1800, resources={"metadata": {"path": folder}}).execute(env=env)
    for cell in cells.cells:
        cell.metadata = {}  # when each cell ran
    return cells


if __name__ == "__main__":
    nbformat.write(run(notebook()), NOTEBOOK)
