"""Wrong arguments: types and values that the functions called by notebooks cannot use."""

import math
from dataclasses import replace

import numpy as np
import pytest

from faults.table import fault
from helpers import catalog, export, show
from helpers.errors import TutorialError
from helpers.files import check_hash, require_disk_space
from helpers.load import load_model
from helpers.metrics import quality, timing
from helpers.settings import ROOT, Settings
from helpers.settings_form import SettingsForm


@pytest.mark.parametrize(
    "call, words",
    [
        fault("catalog.find(None)", lambda: catalog.find(None), "no model None"),
        fault("catalog.find of a list", lambda: catalog.find(["phi3-instruct"]), "no model \\['phi3"),
        fault("export.run of an empty list", lambda: export.run([]), "names no model"),
        fault("export.run of a list without a model", lambda: export.run(["optimum-cli", "x"]), "names no model"),
        fault("require_disk_space of inf GiB", lambda: require_disk_space(ROOT, math.inf), "needs inf GiB"),
        fault("A settings form for an unknown model", lambda: SettingsForm(Settings(model="x")), "no model 'x'"),
        fault("A measurement of 0 rounds", lambda: timing.interleaved({}, 0), "rounds cannot be 0"),
        fault("A ratio of 0 rounds", lambda: timing.ratio([], []), "0 and 0 rounds"),
        fault("A ratio of 1 and 2 rounds", lambda: timing.ratio([1.0], [1.0, 2.0]), "1 and 2 rounds"),
        fault("The bandwidth of 0 bytes", lambda: timing.read_bandwidth(0), "size_bytes cannot be 0"),
        fault("The bandwidth of 0 threads", lambda: timing.read_bandwidth(9, 0), "threads cannot be 0"),
        fault(
            "Bytes per token without an export",
            lambda: timing.weight_bytes_per_token("no"),
            "no export in",
        ),
        fault(
            "KL divergence of different lengths",
            lambda: quality.kl(np.ones((2, 3)), np.ones((3, 3))),
            "be compared",
        ),
        fault("A table of no rows", lambda: show.table([]), "table of no rows"),
        fault("A file with a different hash", lambda: check_hash(ROOT / "LICENSE", "0"), "is not the published file"),
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
        fault("A property of OpenVINO with an invalid value", {"PERFORMANCE_HINT": "WARP"}),
        fault("A number of streams that is not a number", {"NUM_STREAMS": "many"}),
    ],
)
def test_an_ov_config_that_openvino_refuses(outcome, own, ov_config):
    with pytest.raises(TutorialError, match="cannot be loaded on CPU(?s:.*)ov_config") as caught:
        load_model(replace(own, ov_config=ov_config))
    load_model(own)
    outcome(str(caught.value), "the model is unchanged; with a valid ov_config it loads")


@pytest.mark.parametrize(
    "prompt, max_new_tokens, words",
    [
        fault("generate with text instead of ids", "Hello", 3, "not token ids"),
        fault("generate with None instead of ids", None, 3, "not token ids"),
        fault("generate with ids that are not integers", [1.5], 3, "not token ids"),
        fault("generate with a batch of prompts", [[1, 2]], 3, "not token ids"),
        fault("generate with max_new_tokens of text", [1], "many", "max_new_tokens cannot be 'many'"),
        fault("generate with max_new_tokens of 2.5", [1], 2.5, "max_new_tokens cannot be 2.5"),
        fault("generate with an empty prompt", [], 3, "prompt is empty"),
        fault("generate with an id outside the vocabulary", [10**9], 3, "vocabulary"),
        fault("generate with an id below 0", [-1], 3, "not token ids"),
        fault("generate with a prompt longer than the context", [1] * 600, 3, "leaves no room"),
        fault("generate with max_new_tokens of 0", [1], 0, "max_new_tokens cannot be 0"),
    ],
)
def test_generate_refuses_immediately(outcome, own, prompt, max_new_tokens, words):
    from helpers.generate import generate

    model, _, _ = load_model(own)
    with pytest.raises(TutorialError, match=words) as caught:
        generate(model, prompt, max_new_tokens)
    assert len(list(generate(model, [1], 2, stop_ids=()))) == 2
    outcome(str(caught.value), "the next call works")


@pytest.mark.parametrize(
    "messages, words",
    [
        fault("A prompt of no messages", [], "There are no messages"),
        fault("A message that is a string", ["Hello"], "has the role None"),
        fault("A message of an unknown role", [{"role": "robot", "content": "Hello"}], "has the role 'robot'"),
        fault("A message without content", [{"role": "user"}], "is not text: None"),
        fault("A message of bytes", [{"role": "user", "content": b"Hello"}], "is not text"),
        fault("A message with half of a surrogate pair", [{"role": "user", "content": "\ud83d"}], "is not text"),
    ],
)
def test_messages_that_cannot_become_a_prompt(outcome, own, messages, words):
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
        fault("generate with a number as sampling", {"sampling": 0.7}, "0.7 is not a Sampling"),
        fault("generate with a stop id that is not in a list", {"stop_ids": 2}, "not token ids"),
        fault("generate with stop ids of text", {"stop_ids": ["</s>"]}, "not token ids"),
        fault("generate with -1 alternatives", {"alternatives": -1}, "alternatives cannot be -1"),
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
        fault("Decoding of text", "abc", (), "not token ids"),
        fault("Decoding of None", None, (), "not token ids"),
        fault("Decoding of an id below 0", [5, -1], (), "not token ids"),
        fault("Decoding of an id of 1.5", [1.5], (), "not token ids"),
        fault("A stop string that is not in a list", [5], "ab", "stop cannot be"),
        fault("A stop string that is a number", [5], [3], "stop cannot be"),
        fault("An empty stop string", [5], [""], "stop cannot be"),
    ],
)
def test_ids_and_stop_strings_that_cannot_be_used(outcome, own, ids, stop, words):
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
        fault("A chat message of None", lambda c: c.say(None), "message is empty"),
        fault("A chat message of bytes", lambda c: c.say(b"Hello"), "message is empty"),
        fault("Edit of a message that does not exist", lambda c: c.edit(7, "x"), "does not have the role user"),
        fault("Edit of message None", lambda c: c.edit(None, "x"), "does not have the role user"),
        fault("Edit of an answer", lambda c: c.edit(1, "x"), "does not have the role user"),
        fault("A branch of a question", lambda c: c.branch(0, 0, 5), "does not have the role assistant"),
        fault("A branch at a position past the end", lambda c: c.branch(1, 99, 5), "not one of the alternatives"),
        fault("A branch at position None", lambda c: c.branch(1, None, 5), "not one of the alternatives"),
        fault(
            "A branch to an unknown token",
            lambda c: c.branch(1, 0, -3),
            "not one of the alternatives",
        ),
        fault("A conversation loaded from a folder", lambda c: c.load(ROOT), "cannot be read"),
        fault("A conversation saved to the name of a folder", lambda c: c.save(ROOT), "cannot be written"),
        fault("max_new_tokens set to 0 between answers", lambda c: vars(c).update(max_new_tokens=0), "cannot be 0"),
        fault("A system message that is a number", lambda c: vars(c).update(system=3), "is not text: 3"),
        fault("A number as sampling, in the chat", lambda c: vars(c).update(sampling=1), "not a Sampling"),
    ],
)
def test_the_chat_refuses_and_stays_usable(outcome, own, act, words):
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
    outcome(str(caught.value), "the messages are unchanged; the next one is answered")
