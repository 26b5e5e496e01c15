"""What every stored page must satisfy before nbval's verdict on it means anything, and the style of the pages.

nbval accepts a cell that was never run, and does not notice a path of somebody's home folder.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name

import nbformat
from test_exercises import PAGES, verdicts

KNOWN_TAGS = {"nbval-ignore-output", "exercise"}  # nbval-skip and raises-exception would hide failures
PROGRESS = re.compile(r" is complete(; skipping|: [\d.]+ MB)")  # depends on what exists
VOLATILE = re.compile(r"0x[0-9a-f]{8,}|/(home|root|tmp|Users|work)/\S+|[A-Z]:\\|ipykernel_\d+|\d\d:\d\d:\d\d")
CONTRACT = ["*Time to run*", "*Time to read*", "*Needs*", "*Leaves*", "*Prerequisites*"]
ENDING = ["## Recap", "## Glossary", "## Exercises", "## In practice"]
CHECK = re.compile(r"^\s*(assert\b|with (expect|exercise)\()", re.MULTILINE)
HIDDEN = re.compile(r"^\s*(%|!)|os\.chdir|sys\.path|filterwarnings|if .*\bCI\b", re.MULTILINE)


def stored_run(page, code, prose) -> Iterator[str]:
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield "the outputs are not of one run from top to bottom: nox -s outputs"
    if "widgets" in page.metadata or any("execution" in cell.metadata for cell in code):
        yield "widget state or timing metadata is stored"
    if verdicts(page) != ["not yet"] * 3:
        yield f"the stored verdicts on the blank exercises are {verdicts(page)}"


def exercises(page, code, prose) -> Iterator[str]:
    """Yield verdicts on a blank that was compared with its solution, which the stored page then gives away."""
    told = [out.get("text", "") for cell in code for out in cell.outputs if ": not yet:" in out.get("text", "")]
    yield from (f"give a blank a message of its own: {line.strip()}" for line in told if "Ellipsis" in line)


def outputs(page, code, prose) -> Iterator[str]:
    for output in [output for cell in code for output in cell.outputs]:
        data = output.get("data", {})
        text = output.get("text", "") + "".join(str(data[kind]) for kind in data if "image" not in kind)
        if output.output_type == "error" or output.get("name") == "stderr":
            yield f"a traceback or a warning is stored: {output}"
        if found := VOLATILE.search(text):
            yield f"{found[0]!r} is different on the next machine or in the next run"
        if "\r" in text or "%|" in text:
            yield f"a progress bar is stored: {text[:60]}"
        if len(text) >= 20_000:
            yield f"an output has {len(text)} characters: {text[:60]}"
        if "image/png" in data and not output.metadata.get("image/png", {}).get("alt"):
            yield "a figure has no words for a screen reader"


def parts(page, code, prose) -> Iterator[str]:
    first, last = page.cells[0], page.cells[-1]
    if first.cell_type != "markdown" or not first.source.startswith("# "):
        yield "the page does not start with a title"
    rows = re.findall(r"^\| (\*.*?\*) \|", first.source, re.MULTILINE)
    if rows != CONTRACT:
        yield f"the first cell has the rows {rows} and not {CONTRACT}"
    headings = re.findall(r"^## .*$", prose, re.MULTILINE)
    if [heading for heading in headings if heading in ENDING] != ENDING:
        yield f"the page does not end with {ENDING}"
    if last.cell_type != "markdown" or "Next: [" not in last.source:
        yield "the last cell does not link to the next page"


def telemetry(page, code, prose) -> Iterator[str]:
    """Yield imports of libraries that report to their makers before the import that forbids it."""
    lines = [line for cell in code for line in cell.source.splitlines()]
    ours = [at for at, line in enumerate(lines) if re.match(r"(from|import) helpers\b", line)]
    theirs = [
        at for at, line in enumerate(lines) if re.match(r"(from|import) (openvino|nncf|optimum|huggingface_hub)", line)
    ]
    if theirs and min(theirs) < min(ours, default=len(lines)):
        yield f"`{lines[min(theirs)]}` comes before helpers, which switches telemetry off"


def cells(page, code, prose) -> Iterator[str]:
    for cell in code:
        lines = cell.source.splitlines()
        if len(lines) > 20:
            yield f"a cell has {len(lines)} lines: {lines[0]}"
        yield from (f"a line has {len(line)} columns: {line}" for line in lines if len(line) > 79)
        if found := HIDDEN.search(cell.source):
            yield f"code does what the reader does not see: {found[0]}"
    checks = sum(bool(CHECK.search(cell.source)) for cell in code)
    if checks < 0.25 * len(code):
        yield f"only {checks} of {len(code)} code cells check something"
    tags = [set(cell.metadata.get("tags", [])) for cell in code]
    for cell, own in zip(code, tags, strict=True):
        if "nbval-ignore-output" not in own and any(PROGRESS.search(out.get("text", "")) for out in cell.outputs):
            yield f"the first run prints something else than the second: {cell.source.splitlines()[-1]}"
    if unknown := set().union(*tags) - KNOWN_TAGS:
        yield f"unknown tags: {unknown}"
    strict = sum("nbval-ignore-output" not in each for each in tags)
    if strict < 0.6 * len(code):
        yield f"only {strict} of {len(code)} code cells are compared"


def references(page, code, prose) -> Iterator[str]:
    for target in re.findall(r"\]\((?!http)([^)#]+)", prose):
        if not (PAGES[0].parent / target).exists():
            yield f"{target} does not exist"
    for name in re.findall(r"`(helpers(?:\.\w+)+)", prose):
        try:
            resolve_name(name)
        except (ImportError, AttributeError) as error:
            yield f"`{name}` does not exist: {error}"


def faults(path: Path) -> Iterator[str]:
    page = nbformat.read(path, as_version=4)
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    prose = "\n".join(cell.source for cell in page.cells if cell.cell_type == "markdown")
    for check in (stored_run, exercises, outputs, parts, telemetry, cells, references):
        yield from (f"{path.stem}: {fault}" for fault in check(page, code, prose))


def test_every_page_is_fit_to_be_published():
    assert PAGES, "no notebooks were found"
    found = [fault for path in PAGES for fault in faults(path)]
    assert not found, "\n".join(["", *found])
