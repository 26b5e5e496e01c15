"""Reading times: the rules, the times in the contracts, five hours for 00 to 09, 90 minutes for the workshop."""

import pytest
import reading
from nbformat import v4
from prose import PAGES

STORED = {path.stem[:2]: path for path in PAGES}
WORKSHOP = ("03", "04", "07")


def cell(text: str, folded: bool = False):
    return v4.new_markdown_cell(text, metadata={"jp-MarkdownHeadingCollapsed": True} if folded else {})


def words(count: int) -> str:
    return " ".join(["word"] * count)


def times(*cells) -> list[float]:
    return [round(time, 3) for time in reading.minutes(v4.new_notebook(cells=list(cells))).values()]


def test_words_and_lines_of_code_count_and_details_do_not():
    hidden = f"{words(199)} [a](https://host/b/c)\n\n<details><summary>Hint</summary>{words(500)}</details>"
    assert times(cell(hidden)) == [1, 0, 0]
    assert times(v4.new_code_cell("\n\n".join(["x = 1"] * 6))) == [0.5, 0, 0]


def test_a_folded_section_ends_at_the_next_heading_of_its_level_and_its_own_cell_is_read():
    after = cell(f"### Deeper {words(199)}"), v4.new_code_cell("x\n" * 12), cell(f"## Next {words(199)}")
    assert times(cell(f"## Optional: more {words(198)}", folded=True), *after) == [2, 2, 0]


def test_workshop_sections_are_marked_by_their_heading_which_may_stand_within_a_cell():
    marked = cell(f"{words(200)}\n\n### Load · workshop\n\n{words(198)}"), v4.new_code_cell("x\n" * 12)
    assert times(*marked, cell(f"## Next {words(199)}")) == [4, 0, 2]
    assert times(cell(f"## Load · workshop\n\n```\n# not a heading\n```\n{words(195)}")) == [1, 0, 1]


@pytest.mark.parametrize(
    "seconds, row",
    [
        (1, "5 seconds"),
        (38, "40 seconds"),
        (57, "55 seconds"),
        (58, "1 minute"),
        (80, "1.5 minutes"),
        (247, "4 minutes"),
    ],
)
def test_measured_times_are_rounded(seconds, row):
    page = v4.new_notebook(
        cells=[cell("# Title\n\n| | |\n|---|---|\n| *Time to run* | |\n| *Time to read* | about 1 minutes |")]
    )
    reading.fill(page, "Time to run", f"{reading.running(seconds)} (a machine)")
    assert f"| *Time to run* | about {row} (a machine) |\n" in page.cells[0].source
    assert reading.run_minutes(page) == float(row.split()[0]) / (60 if "second" in row else 1)
    with pytest.raises(ValueError):
        reading.fill(page, "Time", "")


def test_each_contract_has_the_pages_reading_time():
    wrong = [
        path.stem for path in PAGES if reading.row(page := reading.read(path), "Time to read") != reading.reading(page)
    ]
    assert not wrong, f"python tests/pages/reading.py {wrong}"


def test_the_pages_up_to_09_are_read_in_five_hours():
    """Those that follow go further than the document, and each stands alone."""
    found = {
        name: round(reading.minutes(reading.read(path))["read"], 1) for name, path in STORED.items() if name < "10"
    }
    assert sum(found.values()) <= 300, f"{sum(found.values()):.0f} minutes: {found}"


def test_the_workshop_takes_ninety_minutes():
    pages = {name: reading.read(STORED[name]) for name in ("00", *WORKSHOP)}
    marked = {name: reading.minutes(page)["workshop"] for name, page in pages.items() if name in WORKSHOP}
    assert all(marked.values()), f"no section is marked: {marked}"
    read = reading.minutes(pages["00"])["read"] + sum(marked.values())
    run = sum(map(reading.run_minutes, pages.values()))
    assert read + run <= 90, f"{read:.0f} minutes to read and {run:.0f} to run; sections: {marked}"
