"""The default weights and sampling: what was chosen, where it is used, and the document of the measurement."""

import inspect
import json
import sys
from dataclasses import replace

import pytest

from helpers import __main__ as command_line
from helpers import settings
from helpers.catalog import SMOLLM2_INT4, STARTERS
from helpers.chat.conversation import Conversation
from helpers.generate.sampling import CHAT, GREEDY
from helpers.load import load_model
from helpers.metrics.quality import REFERENCE
from helpers.settings import ROOT

sys.path.insert(0, str(ROOT / "bench"))  # its files are scripts, not a package
import defaults


@pytest.fixture(scope="module")
def stored():
    return json.loads(defaults.RESULTS.read_text(encoding="utf-8"))


def test_box_terminal_and_ask_have_one_default():
    assert inspect.signature(Conversation).parameters["sampling"].default == CHAT
    assert command_line.chosen_sampling() == CHAT
    assert command_line.chosen_sampling(temperature=None, repetition_penalty=1) == CHAT.__class__()


def test_the_catalog_has_the_chosen_weights():
    assert defaults.WEIGHTS[defaults.CHOSEN] == SMOLLM2_INT4


def test_the_document_shows_the_stored_results(stored):
    assert defaults.PAGE.read_text(encoding="utf-8") == defaults.document(stored)


@pytest.mark.parametrize("surface", defaults.SURFACES)
def test_at_most_one_answer_of_the_defaults_loops_and_none_is_empty(stored, surface):
    verdicts = stored[defaults.defaults_key(surface)]["verdicts"]
    assert len(verdicts) == len(defaults.beginner_questions()) == 24
    assert verdicts.count("l") <= 1
    assert "e" not in verdicts


@pytest.mark.parametrize(
    "text, looped, verdict",
    [
        (" \n", False, "e"),
        ("Rome", True, "l"),
        ("It is Rome.", False, "r"),
        ("It is ROME.", False, "r"),
        ("Romeo lived there.", False, "w"),
        ("." * defaults.HEAD + " Rome", False, "w"),
    ],
)
def test_an_answer_is_right_by_a_whole_word_near_its_beginning(text, looped, verdict):
    assert defaults.judge(("What is the capital of Italy?", ("Rome",)), text, looped) == verdict


def test_a_question_without_words_is_not_checked():
    assert defaults.judge(("Who are you?", ()), "I am a model.", False) == "o"


def test_the_interval_of_equal_chunks_is_a_point():
    results = {"distance | fp16": {"chunks": [[64, 200.0, 0.0, 64]] * 5}}
    assert defaults.with_interval(defaults.drawn(results, "fp16")[:, 1], ".0f") == "1000 [1000, 1000]"


FULL, KV, GROUP = ({name: value} for name, value in REFERENCE.items())  # arithmetic, KV cache, dynamic quantization
ROUNDING = {
    "default": {},
    "f32": FULL,
    "no dynamic quantization": GROUP,
    "f32 KV cache": KV,
    "groups of 32": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "32"},
    "groups of 64, f16 KV cache": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": "64", "KV_CACHE_PRECISION": "f16"},
    "reference": REFERENCE,
}
SHOWN = {  # a question that pages or commands show → one of these words is in a right answer
    "What is photosynthesis?": ("oxygen", "energy"),
    "Give me three tips for a good night's sleep.": ("1.",),
    "What is water made of?": ("hydrogen",),
    "What is the opposite of hot?": ("cold",),
}


@pytest.mark.model
@pytest.mark.weekly
@pytest.mark.parametrize("paged", [True, False], ids=["paged", "stateful"])
@pytest.mark.parametrize("rounding", ROUNDING)
def test_the_questions_that_are_shown_are_answered_whatever_a_processor_rounds(rounding, paged):
    """About the capital of France two first tokens are nearly as likely, and one of them begins a text in French."""
    assert {*STARTERS} < {*SHOWN}
    choice = settings.load()
    choice = replace(choice, model="smollm2-instruct", device="CPU", ov_config=choice.ov_config | ROUNDING[rounding])
    model, tok, _ = load_model(choice, paged=paged)
    for sampling in (CHAT, GREEDY):
        for question, words in SHOWN.items():
            answer = Conversation(model, tok, sampling=sampling, max_new_tokens=90).say(question)
            text = "".join(answer)
            assert any(word in text for word in words), f"{question} {sampling}: {text}"
            assert answer.message.stats.new_tokens > 5 and not [each for each in answer.warnings() if "repeats" in each]
