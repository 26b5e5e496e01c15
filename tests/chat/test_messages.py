"""helpers.turns without a model: the form of the Markdown, and the edges of what a saved conversation may say."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest

from helpers.chat import messages
from helpers.chat.messages import FINISH_REASONS, GenerationStats, Message
from helpers.errors import TutorialError
from helpers.generate import GeneratedToken

TOK = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 1, "c": 2})
STEP = GeneratedToken(1, 0.5, ((1, 0.5), (2, 0.25)), 3.0)
FIGURES = GenerationStats(9, 4, 1, 5.0, None, 99, "budget")
TALK = [Message("user", "Hello"), Message("assistant", "b", (STEP,), FIGURES)]


@pytest.fixture
def read(tmp_path):
    """A function that reads turns back after a change of the table in their file."""

    def back(change=lambda table: None, tok=TOK):
        file = messages.write(tmp_path / "talk.json", TOK, "Be brief.", 0, TALK)
        table = json.loads(file.read_text(encoding="utf-8"))
        change(table)
        file.write_text(json.dumps(table), encoding="utf-8")
        return messages.read(file, tok)

    return back


def test_markdown_has_a_heading_for_each_turn_and_for_a_system_message_that_is_there():
    said = "## User\n\nHello\n\n## Assistant\n\nb\n"
    assert messages.markdown("", TALK) == f"# Conversation\n\n{said}"
    assert messages.markdown("Be brief.", TALK) == f"# Conversation\n\n## System\n\nBe brief.\n\n{said}"
    assert messages.markdown("", []) == "# Conversation\n"


def test_the_counts_of_an_answer_add_up():
    assert (FIGURES.new_tokens, FIGURES.context_tokens) == (5, 10)


def test_tokens_are_read_only_where_they_mean_the_same(read):
    same = SimpleNamespace(get_vocab=lambda: {"c": 2, "b": 1, "a": 0})
    other = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 2, "c": 1})
    assert read(tok=same) == ("Be brief.", 0, TALK)
    assert read(tok=other) == ("Be brief.", 0, [TALK[0], replace(TALK[1], steps=())])


def at(table, place, value):
    for name in place[:-1]:
        table = table[name]
    table[place[-1]] = value


ANSWER, LIMIT = ("messages", 1), 2**31
COUNTS = [(*ANSWER, "figures", name) for name in ("prompt_tokens", "cached_tokens", "answer_tokens", "context_length")]
COUNTS += [(*ANSWER, "steps", 0, "id"), (*ANSWER, "steps", 0, "alternatives", 1, 0)]
AMOUNTS = [(*ANSWER, "steps", 0, name) for name in ("probability", "milliseconds")]
AMOUNTS += [
    (*ANSWER, "steps", 0, "alternatives", 1, 1),
    (*ANSWER, "figures", "ttft_ms"),
    (*ANSWER, "figures", "tpot_ms"),
]


@pytest.mark.parametrize("place", COUNTS, ids=str)
def test_a_count_is_a_whole_number_of_31_bits(read, place):
    for value in (0, LIMIT - 1):
        read(lambda table, value=value: at(table, place, value))
    for value in (-1, LIMIT, 1.0, True, "1", None):
        with pytest.raises(TutorialError, match="is damaged"):
            read(lambda table, value=value: at(table, place, value))


@pytest.mark.parametrize("place", AMOUNTS, ids=str)
def test_an_amount_is_a_number_from_0_on(read, place):
    for value in (0, 0.0, 7, 1e300):
        read(lambda table, value=value: at(table, place, value))
    for value in (-1e-9, float("inf"), float("nan"), True, "1"):
        with pytest.raises(TutorialError, match="is damaged"):
            read(lambda table, value=value: at(table, place, value))


def test_whole_amounts_come_back_as_floats(read):
    _, _, conversation = read(lambda table: at(table, (*ANSWER, "steps", 0, "milliseconds"), 3))
    assert type(conversation[1].steps[0].milliseconds) is float


@pytest.mark.parametrize("times, sound", [((None, None), True), ((5.0, 2.0), True), ((None, 2.0), False)])
def test_there_is_no_time_per_token_without_a_first_token(read, times, sound):
    cost = asdict(replace(FIGURES, ttft_ms=times[0], tpot_ms=times[1]))
    if sound:
        assert asdict(read(lambda table: at(table, (*ANSWER, "figures"), cost))[2][1].figures) == cost
    else:
        with pytest.raises(TutorialError, match="is damaged"):
            read(lambda table: at(table, (*ANSWER, "figures"), cost))


@pytest.mark.parametrize("end", [*FINISH_REASONS, "the end", None])
def test_an_answer_ends_in_a_way_that_is_known(read, end):
    if end in FINISH_REASONS:
        assert (
            read(lambda table: at(table, (*ANSWER, "figures", "finish_reason"), end))[2][1].figures.finish_reason == end
        )
    else:
        with pytest.raises(TutorialError, match="is damaged"):
            read(lambda table: at(table, (*ANSWER, "figures", "finish_reason"), end))


def test_figures_may_be_missing(read):
    assert read(lambda table: at(table, (*ANSWER, "figures"), None))[2][1].figures is None


@pytest.mark.parametrize(
    "truncated_messages, sound", [(0, True), (2, True), (1, False), (4, False), (-2, False), (0.0, False)]
)
def test_turns_are_forgotten_in_pairs_that_are_there(read, truncated_messages, sound):
    if sound:
        assert read(lambda table: at(table, ["truncated_messages"], truncated_messages))[1] == truncated_messages
    else:
        with pytest.raises(TutorialError, match=f"it forgets {truncated_messages} of 2 turns"):
            read(lambda table: at(table, ["truncated_messages"], truncated_messages))


@pytest.mark.parametrize(
    "numbers, sound", [([], True), ([0, 1] * 2, True), ([0], False), ([1, 0], False), ([0] * 2, False)]
)
def test_people_and_model_speak_by_turns(read, numbers, sound):
    def change(table):
        table["messages"] = [table["messages"][number] for number in numbers]

    if sound:
        assert [message.role for message in read(change)[2]] == ["user", "assistant"] * (len(numbers) // 2)
    else:
        with pytest.raises(TutorialError, match="out of order"):
            read(change)


@pytest.mark.parametrize("place", [["system"], ["messages", 0, "content"], [*ANSWER, "content"]], ids=str)
def test_what_is_no_text_is_no_turn(read, place):
    for value in (7, None, ["Hello"], "half a pair \ud83d"):
        with pytest.raises(TutorialError, match="is damaged"):
            read(lambda table, value=value: at(table, place, value))


def test_the_file_is_text_that_people_can_read(tmp_path):
    file = messages.write(tmp_path / "talk.json", TOK, "日本", 0, [])
    assert "日本" in file.read_text(encoding="utf-8")
    with pytest.raises(TutorialError, match="cannot be read"):
        messages.read(tmp_path / "nothing.json", TOK)
    with pytest.raises(TutorialError, match="version None"):
        file.write_text("{}", encoding="utf-8")
        messages.read(file, TOK)
