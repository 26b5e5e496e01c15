"""Change helpers/ in small ways with mutmut, count what the tests notice, and write the table of docs/mutants.md.

Run by nox -s mutants.  Arguments: none for a sample of every module, "all", or globs such as "helpers.chat*".
"""

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "mutants.md"
META = ROOT / "mutants" / "helpers"
KILLED = {1, 3, 4, -11, 24, -24, 36, 152}  # exit codes: a test or pytest failed, pytest or Python crashed, a timeout
NOT_REACHED = 33  # mutmut's: none of the tests that are tried runs this code
UNDECIDED = 255  # the test session could not start in mutmut's fork server
AT_IMPORT = "helpers.catalog.x__hub_entry__"  # runs before a mutant is chosen, so none of its mutants ever applies
TABLE = re.compile("(?<=<!-- scores -->\n).*(?=<!-- /scores -->)", re.DOTALL)  # the rest of the page is written by hand
ARGUMENTS = ("-p", "no:cacheprovider", "-p", "no:nbval", "-m", "not weekly")
SAMPLE = 6  # mutants of each module


def modules() -> Iterator[tuple[str, dict[str, int | None]]]:
    """Yield each module and the exit codes of its mutants: 33 where no test runs the code, None where not tried."""
    for meta in sorted(META.rglob("*.meta")):
        codes = json.loads(meta.read_text(encoding="utf-8"))["exit_code_by_key"]
        if codes := {name: code for name, code in codes.items() if not name.startswith(AT_IMPORT)}:
            yield meta.relative_to(META).as_posix().removesuffix(".py.meta"), codes


def sample(names: list[str]) -> list[str]:
    """Return a random sample of the names, the same for the same names."""
    return random.Random(0).sample(sorted(names), min(SAMPLE, len(names)))


def mutmut(*names: str) -> None:
    program = str(Path(sys.executable).with_name("mutmut"))
    subprocess.run([program, "run", "--max-children", "2", *names], cwd=ROOT, check=True)


def decide() -> None:
    """Run the tests of each undecided mutant in a process of its own, and record its exit code."""
    stats = json.loads((META.parent / "mutmut-stats.json").read_text(encoding="utf-8"))
    tests = stats["tests_by_mangled_function_name"]
    for meta in sorted(META.rglob("*.meta")):
        content = json.loads(meta.read_text(encoding="utf-8"))
        codes = content["exit_code_by_key"]
        for name in [name for name, code in codes.items() if code == UNDECIDED]:
            argv = [sys.executable, "-m", "pytest", "-qx", *ARGUMENTS, *sorted(tests[name.rpartition("__mutmut_")[0]])]
            mutant = os.environ | {"MUTANT_UNDER_TEST": name}
            codes[name] = subprocess.run(argv, cwd=META.parent, env=mutant, stdout=subprocess.DEVNULL).returncode
            print(name, codes[name], flush=True)
        meta.write_text(json.dumps(content, indent=4), encoding="utf-8")


def table() -> str:
    counts = {}
    for name, codes in modules():
        tried = [code for code in codes.values() if code is not None]
        if len(tried) >= min(SAMPLE, len(codes)):
            counts[name] = len(codes), len(tried), tried.count(NOT_REACHED), sum(code in KILLED for code in tried)
    if counts:
        counts["**together**"] = tuple(map(sum, zip(*counts.values(), strict=True)))
    rows = ["| module | mutants | tried | not reached | killed | score |", "|---|---:|---:|---:|---:|---:|"]
    for name, (every, tried, lost, killed) in counts.items():
        score = f"{killed / (tried - lost):.0%}" if tried > lost else ""
        rows.append(f"| {name} | {every:,} | {tried:,} | {lost:,} | {killed:,} | {score} |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    wanted = sys.argv[1:]
    if not wanted:
        mutmut("helpers.chat.formula*")  # creates all mutants and records which test runs which code
        wanted = [name for _, codes in modules() for name in sample(list(codes))]
    mutmut(*wanted if wanted != ["all"] else ())
    decide()
    text = TABLE.sub(lambda _: table(), PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")
