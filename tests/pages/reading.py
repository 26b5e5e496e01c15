"""Reading times of pages, and the two rows of a contract that `nox -s outputs` fills."""

import re
from pathlib import Path

import nbformat
from prose import ROOT

WORDS, CODE_LINES = 200, 12  # a minute
DETAILS = re.compile(r"<details>.*?</details>", re.DOTALL)  # hints and solutions: folded, and each reader's own choice
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
NO_WORDS = re.compile(r"(?<=\])\([^)]*\)|<[^>]+>")  # links' targets and tags
WORD = re.compile(r"\w[\w'’.-]*")
WORKSHOP = " · workshop"  # ends the heading of a section of the 90-minute path


def minutes(page) -> dict[str, float]:
    """Return how many minutes a page takes: "read" without folded sections, "folded", and of "read" the "workshop".

    JupyterLab folds what follows a cell whose heading is collapsed, up to a cell with a heading of that level.
    """
    times, fold, shop = dict.fromkeys(("read", "folded", "workshop"), 0.0), 0, 0
    for cell in page.cells:
        if cell.cell_type == "code":
            sections = [(0, sum(bool(line.strip()) for line in cell.source.splitlines()) / CODE_LINES, "")]
        else:
            sections = list(_sections(cell.source))
        level = min((level for level, _, _ in sections if level), default=0)
        if level and level <= fold:
            fold = 0
        for depth, time, heading in sections:
            if depth and depth <= shop:
                shop = 0
            if heading.endswith(WORKSHOP):
                shop = depth
            times["folded" if fold else "read"] += time
            times["workshop"] += time if shop and not fold else 0
        if cell.metadata.get("jp-MarkdownHeadingCollapsed"):
            fold = fold or level
    return times


def _sections(text: str):
    """Yield (level, minutes, heading) of each part of a cell; level 0 before the first heading."""
    text = FENCE.sub(lambda fence: fence[0].replace("\n#", "\n"), DETAILS.sub("", text))
    for part in re.split(r"^(?=#{1,6} )", text, flags=re.MULTILINE):
        heading = part.splitlines()[0].strip() if part else ""
        level = len(heading) - len(heading.lstrip("#"))
        yield level, len(WORD.findall(NO_WORDS.sub(" ", part))) / WORDS, heading


def read(path: Path):
    """Return a stored page."""
    return nbformat.read(path, as_version=4)


def reading(page) -> str:
    """Return the row *Time to read* as the contract has it."""
    return f"about {max(1, round(minutes(page)['read']))} minutes"


def running(seconds: float) -> str:
    """Return a measured time as the contract has it: to 5 seconds up to a minute, then to half minutes."""
    if seconds < 57.5:
        return f"about {max(5, round(seconds / 5) * 5)} seconds"
    halves = max(2, round(seconds / 30))
    return f"about {halves / 2:g} minute{'s' if halves > 2 else ''}"


def run_minutes(page) -> float:
    """Return the minutes that the contract's *Time to run* says."""
    number, unit = re.search(r"\*Time to run\* \| about ([\d.]+) (second|minute)", page.cells[0].source).groups()
    return float(number) / (60 if unit == "second" else 1)


def fill(page, row: str, value: str) -> None:
    """Put `value` into a row of the page's contract; raises ValueError where the contract has no such row."""
    contract = page.cells[0]
    contract.source, found = re.subn(rf"^(\| \*{row}\* \|).*\|$", rf"\1 {value} |", contract.source, flags=re.MULTILINE)
    if found != 1:
        raise ValueError(f"the first cell has {found} rows {row!r}: {contract.source}")


if __name__ == "__main__":
    pages = {path.stem: minutes(read(path)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    for name, times in pages.items():
        print(f"{name:16}", {kind: round(time, 1) for kind, time in times.items()})
    print("sum", round(sum(times["read"] for times in pages.values()), 1))
