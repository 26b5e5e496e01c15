"""Each exercise's solution, as it stands folded in the page, passes its check; the blank is in the stored output."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

PAGES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SOLUTION = re.compile(r"<summary>Solution</summary>\s+```python\n(.*?)```", re.DOTALL)
VERDICT = re.compile(r"Exercise \d: (solved|not yet)\.")
pages = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def verdicts(notebook):
    return VERDICT.findall("".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", [])))


def with_solutions(notebook):
    """The page as a learner leaves it: each blank replaced by the solution in the text above it."""
    solution, filled = None, 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and (found := SOLUTION.search(cell.source)):
            solution = found[1]
        if "exercise" in cell.metadata.get("tags", []):
            cell.source, solution, filled = solution, None, filled + 1
    assert filled == 3
    return notebook


@pages
def test_blanks_are_told_apart_from_solutions(path):
    assert verdicts(nbformat.read(path, as_version=4)) == ["not yet"] * 3  # nbval compares these cells with a real run


def solved(path, **environ: str):
    """The verdicts on the page's solutions."""
    notebook = with_solutions(nbformat.read(path, as_version=4))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}})
    client.execute(env=os.environ | environ)
    return verdicts(notebook)


@pytest.mark.model
@pytest.mark.slow  # minutes; on the Phi-3 lane's tiny model the solutions are run each time
@pages
def test_solutions_pass(path):
    assert solved(path) == ["solved"] * 3
