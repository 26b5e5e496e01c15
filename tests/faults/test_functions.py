"""Wrong types and absurd values, given to the functions that a notebook calls."""

import math
from dataclasses import replace

import pytest

from faults.table import fault
from helpers import catalog, export
from helpers.plumbing import TutorialError, check_hash, need_disk
from helpers.settings import ROOT, Settings, check


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
        fault("need_disk of more than any disk has", lambda: need_disk(ROOT, math.inf), "needs inf GiB"),
        fault("A hash of another kind than the file's", lambda: check_hash(ROOT / "LICENSE", "0"), "is not the file"),
    ],
)
def test_a_function_refuses_what_it_cannot_use(outcome, call, words):
    with pytest.raises(TutorialError, match=words) as caught:
        call()
    assert caught.value.cure
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
    from helpers import runtime

    with pytest.raises(TutorialError, match="cannot be loaded on CPU(?s:.*)ov_config") as caught:
        runtime.load(replace(own, ov_config=ov_config))
    runtime.load(own)
    outcome(str(caught.value), "the model is as it was; with a good ov_config it loads")


@pytest.mark.parametrize(
    "prompt, budget, words",
    [
        fault("generate with no prompt", [], 3, "prompt is empty"),
        fault("generate with an id that the model does not know", [10**9], 3, "does not know"),
        fault("generate with an id below 0", [-1], 3, "does not know"),
        fault("generate with a prompt longer than the context", [1] * 600, 3, "leaves no room"),
        fault("generate with a budget of 0", [1], 0, "budget of 0"),
    ],
)
def test_generate_refuses_at_once(outcome, own, prompt, budget, words):
    from helpers import runtime
    from helpers.generate import generate

    model, _, _ = runtime.load(own)
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

    from helpers.prompt import prompt_ids

    tok = AutoTokenizer.from_pretrained(own.model_dir)
    with pytest.raises(TutorialError, match=words) as caught:
        prompt_ids(tok, messages)
    assert prompt_ids(tok, [{"role": "user", "content": "Hello"}])
    outcome(str(caught.value), "the next call works")
