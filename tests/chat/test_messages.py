"""helpers.chat.messages: Markdown, statistics as text, and what a saved conversation may contain."""

import codecs
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import mistune
import pytest
from fakes import save_conversation
from hypothesis import example, given
from hypothesis import strategies as st
from payloads import PAYLOADS
from strategies import reshaped

from helpers.chat import messages
from helpers.chat.messages import Message, load_conversation, stats_line, to_markdown
from helpers.errors import TutorialError
from helpers.generate.loop import FINISH_REASONS, GeneratedToken, GenerationStats

TOK = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 1, "c": 2})
TOKEN = GeneratedToken(1, 0.5, ((1, 0.5), (2, 0.25)), 3.0)
DRAFTED = replace(TOKEN, drafted=True)
STATS = GenerationStats(9, 4, 1, 5.0, None, 99, "max_new_tokens")
CONVERSATION = [Message("user", "Hello"), Message("assistant", "b", (TOKEN,), STATS)]
# As an earlier release of this project has saved CONVERSATION.
VERSION_1 = """{"version": 1, "tokenizer": "TOKENIZER", "system": "Be brief.", "forgotten": 0, "messages": [
{"role": "user", "content": "Hello", "steps": [], "figures": null}, {"role": "assistant", "content": "b",
"steps": [{"id": 1, "probability": 0.5, "alternatives": [[1, 0.5], [2, 0.25]], "milliseconds": 3.0}],
"figures": {"prompt_tokens": 9, "reused_tokens": 4, "answer_tokens": 1, "ttft_ms": 5.0, "tpot_ms": null,
"context_length": 99, "end": "budget"}}]}"""


@pytest.fixture
def read(tmp_path):
    """A function that loads a conversation after a change of the table in its file."""

    def back(change=lambda table: None, tok=TOK):
        file = save_conversation(tmp_path / "chat.json", TOK, "Be brief.", 0, CONVERSATION)
        table = json.loads(file.read_text(encoding="utf-8"))
        change(table)
        file.write_text(json.dumps(table), encoding="utf-8")
        return load_conversation(file, tok)

    return back


def test_markdown_has_a_heading_for_each_message_and_for_the_system_message():
    said = "## User\n\n> Hello\n\n## Assistant\n\n> b\n"
    assert to_markdown("", CONVERSATION) == f"# Conversation\n\n{said}"
    assert to_markdown("Be brief.", CONVERSATION) == f"# Conversation\n\n## System\n\n> Be brief.\n\n{said}"
    assert to_markdown("", []) == "# Conversation\n"


FORGED = [
    "## Assistant\n\nOf course.",
    "a\n## User\n\nb",
    "a\r## User\r\rb",
    "```\ncut",
    "<!-- cut",
    "<pre>\n\n## User",
]


@pytest.mark.parametrize("text", [*FORGED, *PAYLOADS])
def test_no_text_forges_or_hides_a_message_of_an_exported_conversation(text):
    messages = [Message("user", text), Message("assistant", text), Message("user", "the last one")]
    parse = mistune.create_markdown(renderer=None)
    parts = [each for each in parse(to_markdown(text, messages)) if each["type"] != "blank_line"]
    assert [each["type"] for each in parts] == ["heading", *["heading", "block_quote"] * 4]
    assert [each["children"][0]["raw"] for each in parts[1::2]] == ["System", "User", "Assistant", "User"]
    assert parts[-1]["children"][0]["children"][0]["raw"] == "the last one"


def test_tokens_are_loaded_only_where_they_have_the_same_meaning(read):
    same = SimpleNamespace(get_vocab=lambda: {"c": 2, "b": 1, "a": 0})
    different = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 2, "c": 1})
    assert read(tok=same) == ("Be brief.", 0, CONVERSATION, [])
    assert read(tok=different) == ("Be brief.", 0, [CONVERSATION[0], replace(CONVERSATION[1], tokens=())], [])


OLD_REASONS = {"end token": "eos_token", "budget": "max_new_tokens", "stopped": "stopped", "error": "error"}
NONSENSE = [b"", b"[]", b"null", b'{"version": 2', b"\xff", b"[" * 100_000]
NONSENSE += [b'{"version": 1}', b'{"version": 2}', b'{"version": 3}', b'{"version": %s}' % (b"[" * 900 + b"]" * 900)]
NONSENSE += ['{"version": 2}'.encode("utf-16"), '{"version": 2}'.encode("utf-32"), b"1" * 5000]
NONSENSE += [
    b'{"version": 2, "tokenizer": "", "system": "", "truncated_messages": 0, "messages": [{"tokens": [], '
    b'"role": "user", "content": %s, "stats": 0}]}' % (b"[" * 900 + b"]" * 900)
]


@pytest.mark.parametrize("old, new", OLD_REASONS.items())
def test_a_file_of_version_1_is_loaded(tmp_path, old, new):
    file, text = tmp_path / "old.json", VERSION_1.replace("TOKENIZER", messages.fingerprint(TOK))
    file.write_text(text.replace('"budget"', f'"{old}"'), encoding="utf-8")
    answer = replace(CONVERSATION[1], stats=replace(STATS, finish_reason=new))
    assert load_conversation(file, TOK) == ("Be brief.", 0, [CONVERSATION[0], answer], [])


@pytest.mark.parametrize("content", NONSENSE, ids=lambda content: str(content[:14]))
def test_a_file_that_is_no_conversation_is_refused_by_its_name(tmp_path, content):
    file = tmp_path / "chat.json"
    file.write_bytes(content)
    with pytest.raises(TutorialError, match="chat.json"):
        load_conversation(file, TOK)


def test_a_byte_order_mark_is_ignored(read, tmp_path):
    read()
    file = tmp_path / "chat.json"
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert load_conversation(file, TOK) == ("Be brief.", 0, CONVERSATION, [])


def test_values_that_json_lacks_are_saved_as_0(tmp_path):
    """So that what was saved can be loaded."""
    token = GeneratedToken(1, math.nan, ((1, math.nan), (2, math.inf)), -math.inf)
    file = save_conversation(
        tmp_path / "chat.json", TOK, "", 0, [CONVERSATION[0], replace(CONVERSATION[1], tokens=(token,))]
    )
    assert "NaN" not in file.read_text(encoding="utf-8")
    loaded = load_conversation(file, TOK)[2][1].tokens[0]
    assert loaded == GeneratedToken(1, 0.0, ((1, 0.0), (2, 0.0)), 0.0)


SOUND = json.loads(VERSION_1.replace("TOKENIZER", messages.fingerprint(TOK)))
FORKED = json.loads(messages.to_json("", "", 0, CONVERSATION, [(CONVERSATION * 2, 2)]))


@given(
    st.sampled_from(
        [SOUND, FORKED, {"version": 2, "tokenizer": "", "system": "", "truncated_messages": 0, "messages": []}]
    ).flatmap(reshaped)
)
@example(SOUND | {"system": 10**300})
@example(SOUND | {"forgotten": math.nan})
def test_any_shape_is_loaded_or_refused_by_the_files_name(table):
    with TemporaryDirectory() as folder:
        file = Path(folder, "chat.json")
        file.write_text(json.dumps(table), encoding="utf-8")
        try:
            system, _, conversation, _ = load_conversation(file, TOK)
        except TutorialError as error:
            assert "chat.json" in str(error) and len(str(error)) < 500
        else:
            assert isinstance(system, str) and all(isinstance(message, Message) for message in conversation)


def at(table, place, value):
    for name in place[:-1]:
        table = table[name]
    table[place[-1]] = value


ANSWER, TOKEN_0 = ("messages", 1), ("messages", 1, "tokens", 0)
COUNT = [0, 2**31 - 1], [-1, 2**31, 1.0, True, "1", None]
UNTOLD = [*COUNT[0], None], COUNT[1][:-1]  # by a server
MEASURE = [0, 0.0, 7, 1e300], [-1e-9, float("inf"), float("nan"), True, "1"]
TEXT = ["", "日本"], [7, None, ["Hello"], "half a pair \ud83d"]
USER, ASSISTANT = (json.loads(json.dumps(asdict(message))) for message in CONVERSATION)
VALUES = {  # of each place in a file: valid and invalid ones
    **{(*ANSWER, "stats", name): COUNT for name in ("prompt_tokens", "new_tokens")},
    **{(*ANSWER, "stats", name): UNTOLD for name in ("cached_tokens", "context_length")},
    (*TOKEN_0, "id"): COUNT,
    (*TOKEN_0, "alternatives", 1, 0): COUNT,
    (*TOKEN_0, "alternatives", 1, 1): MEASURE,
    (*TOKEN_0, "probability"): MEASURE,
    (*TOKEN_0, "milliseconds"): MEASURE,
    (*ANSWER, "stats", "tpot_ms"): (MEASURE[0] + [None], MEASURE[1]),
    (*ANSWER, "stats", "ttft_ms"): (MEASURE[0] + [None], MEASURE[1]),
    (*ANSWER, "stats", "finish_reason"): (FINISH_REASONS, ["the end", None, "end token"]),
    (*ANSWER, "stats"): (
        [None],
        ["x", asdict(STATS) | {"ttft_ms": None, "tpot_ms": 2.0}, asdict(STATS) | {"x": 1}],
    ),
    ("truncated_messages",): ([0, 2], [1, 4, -2, 0.0, None]),
    ("messages",): ([[], [USER, ASSISTANT] * 2], [[USER], [ASSISTANT, USER], [USER, USER], None, ["x", "y"]]),
    ("versions",): (
        [[], [{"shared": 2, "truncated_messages": 2, "messages": [USER, ASSISTANT]}]],
        [
            None,
            [7],
            [{"shared": 3, "truncated_messages": 0, "messages": []}],
            [{"shared": -1, "truncated_messages": 0, "messages": []}],
            [{"shared": 1, "truncated_messages": 0, "messages": [USER]}],
            [{"shared": 2, "truncated_messages": 4, "messages": []}],
        ],
    ),
    ("system",): TEXT,
    ("messages", 0, "content"): TEXT,
    (*ANSWER, "content"): TEXT,
}


@pytest.mark.parametrize("place", VALUES, ids=str)
def test_each_value_in_a_file_is_checked(read, place):
    valid, invalid = VALUES[place]
    for value in valid:
        read(lambda table, value=value: at(table, place, value))
    for value in invalid:
        with pytest.raises(TutorialError, match="is damaged"):
            read(lambda table, value=value: at(table, place, value))


def test_integers_come_back_as_floats(read):
    _, _, conversation, _ = read(lambda table: at(table, (*TOKEN_0, "milliseconds"), 3))
    assert type(conversation[1].tokens[0].milliseconds) is float


def test_the_file_is_readable_text(tmp_path):
    file = save_conversation(tmp_path / "chat.json", TOK, "日本", 0, [])
    assert "日本" in file.read_text(encoding="utf-8")
    with pytest.raises(TutorialError, match="cannot be read"):
        load_conversation(tmp_path / "nothing.json", TOK)


COST = GenerationStats(1234, 1000, 12, 250.0, 20.0, 4096, "eos_token")
NO_TOKENS = {"new_tokens": 0, "ttft_ms": None, "tpot_ms": None}


@pytest.mark.parametrize(
    "reason, words",
    [
        ("max_new_tokens", " · stopped at max_new_tokens"),
        ("context", " · context full"),
        ("stopped", " · stopped"),
        ("error", " · ended by an error"),
    ],
)
def test_statistics_say_why_an_answer_ended_early(reason, words):
    assert stats_line(replace(COST, finish_reason=reason)) == stats_line(COST) + words


@pytest.mark.parametrize(
    "change, parts",
    [
        ({}, ["12 tokens", "first token 0.2 s", "50 tokens/s"]),
        ({"new_tokens": 1, "tpot_ms": None}, ["1 token", "first token 0.2 s"]),
        (NO_TOKENS, ["0 tokens"]),
        ({"new_tokens": 1000, "ttft_ms": 0.0, "tpot_ms": 0.0}, ["1,000 tokens", "first token 0.00 s"]),
    ],
)
def test_statistics_in_a_line(change, parts):
    stats = replace(COST, **change)
    context = f"context {1234 + stats.new_tokens:,} of 4,096"
    assert stats_line(stats).split(" · ") == [*parts, "prompt 1,234 tokens (1,000 cached)", context]


@pytest.mark.parametrize("ttft, shown", [(4, "0.00"), (95.04, "0.10"), (99, "0.10"), (100, "0.1"), (3e6, "3000.0")])
def test_short_times_have_one_more_digit(ttft, shown):
    assert stats_line(replace(COST, ttft_ms=ttft)).split(" · ")[1] == f"first token {shown} s"


@pytest.mark.parametrize("tpot, shown", [(20, "50"), (100, "10"), (101, "9.9"), (2000, "0.5"), (0.5, "2,000")])
def test_low_rates_have_one_more_digit(tpot, shown):
    assert stats_line(replace(COST, tpot_ms=tpot)).split(" · ")[2] == f"{shown} tokens/s"


def test_drafted_tokens_are_saved_and_give_the_tokens_per_pass(tmp_path):
    stats = replace(STATS, new_tokens=19, drafted_tokens=9)
    saved = [CONVERSATION[0], Message("assistant", "b", (TOKEN, DRAFTED), stats)]
    assert load_conversation(save_conversation(tmp_path / "chat.json", TOK, "", 0, saved), TOK)[2] == saved
    assert "1.9 tokens per pass" in stats_line(stats).split(" · ") and "per pass" not in stats_line(STATS)
