"""The solutions of the exercises, as they stand folded in the pages, pass the pages' own checks."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PAGES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<summary>Solution</summary>\s+```python\n(.*?)```", re.DOTALL)
VERDICT = re.compile(r"Exercise \d: (solved|not yet)[.:]")


def verdicts(notebook) -> list[str]:
    """Return what the outputs of the page say about its exercises."""
    return VERDICT.findall("".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", [])))


def verdicts_on_solutions(path: Path, **environ: str) -> list[str]:
    """Run the page with each blank replaced by the solution in the text above it, and return the verdicts."""
    notebook, solution = nbformat.read(path, as_version=4), None
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := SOLUTION.search(cell.source)):
            solution = found[1]
        if "exercise" in cell.metadata.get("tags", []):
            cell.source, solution = solution, None
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}})
    client.execute(env=os.environ | environ)
    return verdicts(notebook)


@pytest.mark.model
@pytest.mark.weekly  # takes minutes
@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_solutions_pass(path):
    assert verdicts_on_solutions(path) == ["solved"] * 3
