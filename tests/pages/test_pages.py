"""What every stored page must satisfy before nbval's verdict on it means anything, and the house style.

nbval passes a cell that was never run, and cannot see a path of somebody's home: so this guard comes first.
"""

import re
from pathlib import Path

import nbformat
import pytest

PAGES = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
KNOWN_TAGS = {"nbval-ignore-output", "exercise"}
VOLATILE = re.compile(r"0x[0-9a-f]{8,}|/(home|root|tmp|Users|work)/\S+|[A-Z]:\\|ipykernel_\d+|\d\d:\d\d:\d\d")
CONTRACT = ["*Time*", "*Needs*", "*Leaves*", "*You should know*"]
ENDING = ["## Recap", "## Words", "## Exercises", "## In practice"]
CHECK = re.compile(r"^\s*(assert\b|with (plumbing\.)?(expect|exercise)\()", re.MULTILINE)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def text_of(output):
    return output.get("text", "") + "".join(
        str(text) for kind, text in output.get("data", {}).items() if "image" not in kind
    )


pages = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)


def test_there_are_pages():
    assert PAGES, "no notebooks were found"


@pages
def test_stored_run_is_one_clean_run_from_top_to_bottom(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), (
        "write them again: nox -s outputs"
    )
    assert not [cell.source for cell in cells if "execution" in cell.metadata], "timing metadata"
    assert "widgets" not in read(path).metadata, "widget state"


@pages
def test_stored_outputs_are_fit_to_be_read(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            assert output.output_type != "error", f"a stored traceback: {cell.source}"
            assert output.get("name") != "stderr", f"stored warnings: {output.text}"
            text = text_of(output)
            assert not VOLATILE.search(text), f"{VOLATILE.search(text)[0]!r} is of one machine or one run"
            assert "\r" not in text and text.count("%|") == 0, "a progress bar"
            assert len(text) < 20_000, f"{len(text)} characters"


@pages
def test_page_opens_with_its_contract_and_ends_as_all_pages_do(path):
    cells = read(path).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert not [part for part in CONTRACT if part not in cells[0].source]
    headings = re.findall(r"^## .*$", "\n".join(c.source for c in cells if c.cell_type == "markdown"), re.MULTILINE)
    assert [heading for heading in headings if heading in ENDING] == ENDING
    assert cells[-1].cell_type == "markdown" and "Next: [" in cells[-1].source


@pages
def test_cells_are_short_and_one_in_four_checks_something(path):
    cells = code_cells(path)
    for cell in cells:
        lines = cell.source.splitlines()
        assert len(lines) <= 20, f"{len(lines)} lines in one cell: {lines[0]}"
        assert not [line for line in lines if len(line) > 79], f"a line over 79 columns: {lines[0]}"
    assert sum(bool(CHECK.search(cell.source)) for cell in cells) / len(cells) >= 0.25


@pages
def test_most_cells_are_compared_strictly_and_tags_are_known(path):
    tags = [set(cell.metadata.get("tags", [])) for cell in code_cells(path)]
    assert set().union(*tags) <= KNOWN_TAGS, "nbval-skip and raises-exception hide failures"
    strict = sum("nbval-ignore-output" not in cell_tags for cell_tags in tags) / len(tags)
    assert strict >= 0.6, f"only {strict:.0%} of the code cells are compared"


@pages
def test_local_links_resolve(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (path.parent / target).exists(), f"{target} is not there"


@pages
def test_code_is_not_hidden_from_the_reader(path):
    for cell in code_cells(path):
        assert not re.search(r"^\s*(%|!)|os\.chdir|sys\.path|filterwarnings|if .*\bCI\b", cell.source, re.MULTILINE)
