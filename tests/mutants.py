"""Writes docs/mutants.md: how many small changes of each module the tests notice.  Run by nox -s mutants."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "mutants.md"
KILLED = {1, 3, 24, -24, 36, 152, 255}  # mutmut's exit codes: a test failed, pytest broke, or the time ran out
TABLE = re.compile("(?<=<!-- scores -->\n).*(?=<!-- /scores -->)", re.DOTALL)  # the rest of the page is by hand


def results(meta: Path) -> list[int | None]:
    """The exit code of each mutant of a module: 33 where no test runs the code, None where it was not tried."""
    return list(json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"].values())


def table(folder: Path) -> str:
    """Of the modules that were tried whole: a run with globs leaves the others as they are."""
    counts = {}
    for meta in sorted(folder.rglob("*.meta")):
        codes = results(meta)
        if codes and None not in codes:
            name = meta.relative_to(folder).as_posix().removesuffix(".py.meta")
            counts[name] = len(codes), sum(code in KILLED for code in codes)
    if counts:
        counts["**together**"] = tuple(map(sum, zip(*counts.values(), strict=True)))
    rows = [f"| {name} | {every:,} | {dead:,} | {dead / every:.0%} |" for name, (every, dead) in counts.items()]
    return "\n".join(["| module | mutants | killed | score |", "|---|---:|---:|---:|", *rows]) + "\n"


if __name__ == "__main__":
    text = TABLE.sub(lambda _: table(ROOT / "mutants" / "helpers"), PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")
