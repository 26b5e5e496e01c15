"""Wrong types and absurd values, given to the functions that a notebook calls."""

import math
from dataclasses import replace

import numpy as np
import pytest

from faults.table import fault
from helpers import catalog, export, show
from helpers.errors import TutorialError
from helpers.files import check_hash, require_disk_space
from helpers.generate.sampling import Sampling
from helpers.load import load_model
from helpers.metrics import quality, timing
from helpers.settings import ROOT, Settings, check
from helpers.settings_form import settings_form


@pytest.mark.parametrize(
    "call, words",
    [
        fault("catalog.find(None)", lambda: catalog.find(None), "no model None"),
        fault("catalog.find of a list", lambda: catalog.find(["phi3-instruct"]), "no model \\['phi3"),
        fault("settings with a number for the model", lambda: check(Settings(model=3)), "model has 3, not text"),
        fault("settings with None for a device", lambda: check(Settings(device=None)), "device has None, not text"),
        fault("settings with a list for ov_config", lambda: check(Settings(ov_config=[])), "not a table"),
        fault("settings with a number in ov_config", lambda: check(Settings(ov_config={"X": 1})), "has 1, not text"),
        fault("export.run of an empty list", lambda: export.run([]), "names no model"),
        fault("export.run of a list without a model", lambda: export.run(["optimum-cli", "x"]), "names no model"),
        fault("need_disk of more than any disk has", lambda: require_disk_space(ROOT, math.inf), "needs inf GiB"),
        fault("A temperature of text", lambda: Sampling(temperature="hot"), "All are numbers"),
        fault("A temperature of None", lambda: Sampling(temperature=None), "All are numbers"),
        fault("A top_k of one and a half", lambda: Sampling(temperature=1, top_k=1.5), "All are numbers"),
        fault("A seed of one and a half", lambda: Sampling(temperature=1, seed=1.5), "All are numbers"),
        fault("A form for a model that is not there", lambda: settings_form(Settings(model="x")), "no model 'x'"),
        fault("A measurement of 0 rounds", lambda: timing.interleaved({}, 0), "rounds of 0 cannot be"),
        fault("A ratio of nothing", lambda: timing.ratio([], []), "0 and 0 rounds"),
        fault("A ratio of rounds that do not match", lambda: timing.ratio([1.0], [1.0, 2.0]), "1 and 2 rounds"),
        fault("The bandwidth of no memory", lambda: timing.read_bandwidth(0), "A size in bytes of 0"),
        fault("The bandwidth for no threads", lambda: timing.read_bandwidth(9, 0), "threads of 0 cannot be"),
        fault("The bytes of an export that is not there", lambda: timing.weight_bytes_per_token("no"), "no export in"),
        fault("Two readings of other lengths", lambda: quality.kl(np.ones((2, 3)), np.ones((3, 3))), "be compared"),
        fault("A table of no rows", lambda: show.table([]), "table of no rows"),
        fault("A hash of another kind than the file's", lambda: check_hash(ROOT / "LICENSE", "0"), "is not the file"),
    ],
)
def test_a_function_refuses_what_it_cannot_use(outcome, call, words):
    with pytest.raises(TutorialError, match=words) as caught:
        call()
    assert caught.value.hint
    outcome(str(caught.value), "nothing was changed")


@pytest.mark.parametrize(
    "ov_config",
    [
        fault("A property of OpenVINO that does not exist", {"PERFORMANCE_HIMT": "LATENCY"}),
        fault("A property of OpenVINO with a value of nonsense", {"PERFORMANCE_HINT": "WARP"}),
        fault("As many streams as there are not", {"NUM_STREAMS": "many"}),
    ],
)
def test_an_ov_config_that_openvino_refuses(outcome, own, ov_config):

    with pytest.raises(TutorialError, match="cannot be loaded on CPU(?s:.*)ov_config") as caught:
        load_model(replace(own, ov_config=ov_config))
    load_model(own)
    outcome(str(caught.value), "the model is as it was; with a good ov_config it loads")


@pytest.mark.parametrize(
    "prompt, budget, words",
    [
        fault("generate with a text instead of ids", "Hello", 3, "not ids of tokens"),
        fault("generate with None instead of ids", None, 3, "not ids of tokens"),
        fault("generate with ids that are not whole", [1.5], 3, "not ids of tokens"),
        fault("generate with a batch of prompts", [[1, 2]], 3, "not ids of tokens"),
        fault("generate with a budget in words", [1], "many", "budget of 'many'"),
        fault("generate with a budget of two and a half", [1], 2.5, "budget of 2.5"),
        fault("generate with no prompt", [], 3, "prompt is empty"),
        fault("generate with an id that the model does not know", [10**9], 3, "does not know"),
        fault("generate with an id below 0", [-1], 3, "not ids of tokens"),
        fault("generate with a prompt longer than the context", [1] * 600, 3, "leaves no room"),
        fault("generate with a budget of 0", [1], 0, "budget of 0"),
    ],
)
def test_generate_refuses_at_once(outcome, own, prompt, budget, words):
    from helpers.generate import generate

    model, _, _ = load_model(own)
    with pytest.raises(TutorialError, match=words) as caught:
        generate(model, prompt, budget)
    assert len(list(generate(model, [1], 2, stop_ids=()))) == 2
    outcome(str(caught.value), "the next call works")


@pytest.mark.parametrize(
    "messages, words",
    [
        fault("A prompt of no messages", [], "There are no messages"),
        fault("A message that is only text", ["Hello"], "has the role None"),
        fault("A message of an unknown role", [{"role": "robot", "content": "Hello"}], "has the role 'robot'"),
        fault("A message without words", [{"role": "user"}], "is not text: None"),
        fault("A message of bytes", [{"role": "user", "content": b"Hello"}], "is not text"),
        fault("A message with half of an emoji", [{"role": "user", "content": "\ud83d"}], "is not text"),
    ],
)
def test_a_prompt_that_cannot_be_made(outcome, own, messages, words):
    from transformers import AutoTokenizer

    from helpers.tokenize import prompt_ids

    tok = AutoTokenizer.from_pretrained(own.model_dir)
    with pytest.raises(TutorialError, match=words) as caught:
        prompt_ids(tok, messages)
    assert prompt_ids(tok, [{"role": "user", "content": "Hello"}])
    outcome(str(caught.value), "the next call works")


@pytest.mark.parametrize(
    "options, words",
    [
        fault("generate with a way to choose that is none", {"sampling": 0.7}, "0.7 is no way to choose"),
        fault("generate with an end token that is not in a list", {"stop_ids": 2}, "not ids of tokens"),
        fault("generate with end tokens of text", {"stop_ids": ["</s>"]}, "not ids of tokens"),
        fault("generate with fewer alternatives than none", {"alternatives": -1}, "choice of -1"),
    ],
)
def test_generate_refuses_options(outcome, own, options, words):
    from helpers.generate import generate

    model, _, _ = load_model(own)
    with pytest.raises(TutorialError, match=words) as caught:
        generate(model, [1], 3, **options)
    outcome(str(caught.value), "the next call works")


@pytest.mark.parametrize(
    "ids, stop, words",
    [
        fault("Decoding of a text", "abc", (), "not ids of tokens"),
        fault("Decoding of None", None, (), "not ids of tokens"),
        fault("Decoding of an id below 0", [5, -1], (), "not ids of tokens"),
        fault("Decoding of half of an id", [1.5], (), "not ids of tokens"),
        fault("A stop string that is not in a list", [5], "ab", "no list of stop strings"),
        fault("A stop string that is a number", [5], [3], "no list of stop strings"),
        fault("An empty stop string", [5], [""], "no list of stop strings"),
    ],
)
def test_what_cannot_be_decoded(outcome, own, ids, stop, words):
    from transformers import AutoTokenizer

    from helpers.decode import stream_decode

    tok = AutoTokenizer.from_pretrained(own.model_dir)
    with pytest.raises(TutorialError, match=words) as caught:
        list(stream_decode(tok, ids, stop=stop))
    if not stop:
        with pytest.raises(TutorialError, match=words):
            show.chips(tok, ids)
    outcome(str(caught.value), "nothing was changed")


@pytest.mark.parametrize(
    "act, words",
    [
        fault("The chat is told nothing", lambda c: c.say(None), "message is empty"),
        fault("The chat is told bytes", lambda c: c.say(b"Hello"), "message is empty"),
        fault("Edit of a message that is not there", lambda c: c.edit(7, "x"), "not one of the user's"),
        fault("Edit of message None", lambda c: c.edit(None, "x"), "not one of the user's"),
        fault("Edit of an answer", lambda c: c.edit(1, "x"), "not one of the user's"),
        fault("A branch of a question", lambda c: c.branch(0, 0, 5), "not one of the assistant's"),
        fault("A branch at a place that is not there", lambda c: c.branch(1, 99, 5), "not among the likeliest"),
        fault("A branch at place None", lambda c: c.branch(1, None, 5), "not among the likeliest"),
        fault("A branch to a token that is not there", lambda c: c.branch(1, 0, -3), "not among the likeliest"),
        fault("A chat loaded from a folder", lambda c: c.load(ROOT), "cannot be read"),
        fault("A chat saved as a folder", lambda c: c.save(ROOT), "cannot be written"),
        fault("A budget set to 0 between answers", lambda c: vars(c).update(max_new_tokens=0), "budget of 0"),
        fault("A system message that is a number", lambda c: vars(c).update(system=3), "is not text: 3"),
        fault("A way to choose that is none, in the chat", lambda c: vars(c).update(sampling=1), "way to choose"),
    ],
)
def test_the_chat_refuses_and_stays_as_it_was(outcome, own, act, words):
    from helpers.chat.conversation import Conversation

    model, tok, _ = load_model(own)
    conversation = Conversation(model, tok, max_new_tokens=2)
    list(conversation.say("Hello"))
    settings, before = (
        {name: getattr(conversation, name) for name in ("max_new_tokens", "system", "sampling")},
        conversation.messages,
    )
    with pytest.raises(TutorialError, match=words) as caught:
        act(conversation)
        list(conversation.say("Hello"))
    assert conversation.messages[:2] == before and not conversation.answering
    vars(conversation).update(settings)
    list(conversation.say("And now?"))
    assert conversation.messages[-2].content == "And now?"
    outcome(str(caught.value), "the turns are as they were; the next one works")
