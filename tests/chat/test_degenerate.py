"""helpers.chat.degenerate: answers that repeat themselves or are not text are named, and ordinary texts are not."""

import argparse
import difflib
import inspect
import statistics

import pytest
from fakes import fake_conversation
from hypothesis import given
from hypothesis import strategies as st
from tiny import EMBEDDED
from transformers import AutoTokenizer

from helpers.chat import terminal
from helpers.chat.box import ChatBox
from helpers.chat.degenerate import describe_degeneration

REFRAIN = "\nRow, row, row your boat,\nmerrily, merrily, merrily, merrily,\nlife is but a dream, a dream, a dream.\n"
POEM = REFRAIN.join(
    ["The sea, the sea, the open sea,", "It sings, it sings, it sings to me,", "and night by night"] * 2
)
TABLE = "| city | people |\n|------|--------|\n" + "".join(f"| no. {n} | {n * 977 % 1000},000 |\n" for n in range(40))
LISTS = "\n".join(f"{n}. Item {n} of the list" for n in range(1, 60)) + "\n- [ ] to do" * 8
MATRIX = "[\n" + "    [0, 0, 0, 0, 0, 0, 0, 0],\n" * 3 + "]\n" + "=" * 79 + "\n" + "ha " * 12
SOURCES = [inspect.getsource(module)[:40_000] for module in (argparse, difflib, inspect, statistics)]


@pytest.fixture(scope="module")
def describe():
    """A function that describes the degeneration of a text, with the tokens of a real tokenizer."""
    tok = AutoTokenizer.from_pretrained(EMBEDDED / "int4")
    return lambda text: describe_degeneration(text, tok(text, add_special_tokens=False)["input_ids"])


@pytest.mark.model
@pytest.mark.parametrize(
    "text", [POEM, TABLE, LISTS, MATRIX, "", "Yes.", "日本" * 20, "Ġ is how GPT-2 writes a space."]
)
def test_texts_that_repeat_much_as_people_do_are_not_named(describe, text):
    assert describe(text) is None


@pytest.mark.model
def test_nothing_in_python_s_own_files_is_named(describe):
    for source in SOURCES:
        for start in range(0, len(source), 3000):  # about a thousand tokens
            assert describe(source[start : start + 3000]) is None


@pytest.mark.model
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("I am happy to help you.\n" * 12, "the same 8 tokens 12 times in a row"),
        ("A story. " + "no " * 80, "the same token 80 times in a row"),
        ("\n" * 400, "repeats itself"),
        ("Ġhello Ġhow Ġare Ġyou Ġtoday Ġmy Ġfriend Ġand Ġso Ġon", "decoding fails"),
        ("\ufffd" * 9, "not text (9 characters such as \ufffd)"),
        ("a <unk> <unk> <unk> b <unk> <unk> <unk> <unk> <unk>", "decoding fails"),
    ],
)
def test_repetition_and_broken_text_are_named(describe, text, words):
    assert words in describe(text) and "python -m helpers check" in describe(text)


@given(period=st.integers(1, 205), more=st.integers(-2, 2), before=st.integers(0, 50), after=st.integers(0, 50))
def test_repetition_lasts_64_tokens_and_twice_its_period(period, more, before, after):
    """Whatever is before and after it; longer periods than 200 are not looked for."""
    repeated = max(64, 2 * period) + more  # how many tokens are equal to the one a period before
    once, others = list(range(period)), list(range(1000, 2000))
    ids = others[:before] + (once * (2 + repeated))[: period + repeated] + others[before : before + after]
    words = describe_degeneration("", ids)
    assert (words is not None) == (more >= 0 and period <= 200)
    if words:
        passage = "token" if period == 1 else f"{period} tokens"
        assert f"the same {passage} {1 + repeated // period} times in a row" in words


def test_two_short_repetitions_do_not_add_up():
    assert describe_degeneration("", [1] * 60 + [2] * 60) is None
    assert describe_degeneration("", [1] * 60 + [2] * 65) is not None


@pytest.mark.parametrize(
    "marks, others, broken", [(8, 231, True), (8, 232, False), (7, 0, False), (9, 260, True), (9, 261, False)]
)
def test_text_is_broken_by_eight_characters_that_are_more_than_a_thirtieth_of_it(marks, others, broken):
    words = describe_degeneration("\ufffd" * marks + "a" * others, [])
    assert (words is not None) == broken
    assert words is None or f"{marks} characters such as \ufffd" in words


def test_box_and_terminal_name_it_below_the_answer(capsys):
    conversation = fake_conversation("\ufffd" * 9 + "a")
    terminal.print_answer(conversation.say("Hello"))
    out, errors = capsys.readouterr()
    assert out == "\ufffd" * 9 + "a\n" and errors.splitlines()[-1].startswith("[Much of the answer is not text")
    box = ChatBox(conversation)
    box.submit("Hello")
    assert box.wait(20) and "decoding fails" in box.status
    conversation.model.reply = lambda text: ["Fine."]
    box.submit("Hello")
    assert box.wait(20) and "check" not in box.status
