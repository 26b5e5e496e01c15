"""A device that is really there, and an export that is: or a sentence that says what to do."""

import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import TutorialError
from helpers.generate import PromptCache, generate
from helpers.generate.kv_cache import StatefulKVCache
from helpers.load.device import choose_device
from helpers.load.model import NEEDED, load_error, load_fast, load_model, require_export
from helpers.metrics.quality import REFERENCE
from helpers.settings import Settings

devices = st.lists(st.sampled_from(["GPU", "NPU", "GPU.0", "GPU.1"]), unique=True).map(lambda more: ("CPU", *more))


@given(available=devices, data=st.data())
def test_a_device_that_is_here_is_taken_however_it_is_written(available, data):
    device = data.draw(st.sampled_from(available))
    for wanted in (device, device.lower(), f" {device} "):
        choice = choose_device(wanted, strict=True, available=available)
        assert choice.device == device


@given(available=devices, wanted=st.sampled_from(["GPU", "GPU.0", "GPU.1", "NPU", "TPU", "", "GPU.9"]))
def test_what_is_chosen_is_here_and_a_fallback_says_what_is_and_why(available, wanted):
    choice = choose_device(wanted, available=available)
    assert choice.device in available and choice.available == available and choice.wanted == wanted
    if choice.device == "CPU":
        assert f"no device {wanted} here" in choice.why and choice.why.endswith("We use CPU.")
        assert f"OpenVINO sees: {', '.join(available)}." in choice.why
        with pytest.raises(TutorialError) as caught:
            choose_device(wanted, strict=True, available=available)
        assert caught.value.message in choice.why


@pytest.mark.parametrize("wanted, here", [("GPU", "GPU.0"), ("GPU.0", "GPU"), ("gpu.0", "GPU"), ("NPU.0", "NPU")])
def test_the_only_gpu_has_two_names(wanted, here):
    assert choose_device(wanted, strict=True, available=("CPU", here)).device == here


def test_the_second_gpu_is_never_the_first():
    for first in ("GPU", "GPU.0"):
        assert choose_device("GPU.1", available=("CPU", first)).device == "CPU"
    assert choose_device("GPU", available=("CPU", "GPU.0", "GPU.1")).device == "GPU.0"


@pytest.mark.parametrize("wanted", ["AUTO", "auto", "AUTO:GPU,CPU"])
def test_auto_is_always_here(wanted):
    assert choose_device(wanted, strict=True, available=("CPU",)).device == wanted.upper()


@pytest.mark.parametrize(
    "system, wanted, words",
    [
        ("linux", "GPU", "intel-opencl-icd"),
        ("win32", "GPU.0", "graphics driver"),
        ("darwin", "GPU", "no GPU support on macOS"),
        ("linux", "NPU", "/dev/accel"),
    ],
)
def test_the_reason_is_this_system_s(monkeypatch, system, wanted, words):
    monkeypatch.setattr(sys, "platform", system)
    assert words in choose_device(wanted, available=("CPU",)).why


def test_without_a_list_openvino_is_asked():
    import openvino

    choice = choose_device("GPU.9")
    assert choice.available == tuple(openvino.Core().available_devices)
    assert choice.device == "CPU" and "CPU" in choice.why
    assert choose_device("CPU", strict=True).device == "CPU"


def test_without_an_export_the_command_that_makes_it_is_named(tmp_path):
    with pytest.raises(TutorialError, match="helpers export --model smollm2-instruct --format int8"):
        load_model(Settings(model_root=str(tmp_path), format="int8"))


def test_an_export_is_loaded_on_the_device_that_is_here_and_answers(exported, settings):
    model, tok, choice = load_model(replace(settings, device="GPU.9"))
    assert choice.device == model._device == "CPU"
    assert model.ov_config["PERFORMANCE_HINT"] == "LATENCY"
    prompt = tok("You may not", return_tensors="pt")
    scores = PromptCache(model)
    scores.logits(prompt["input_ids"][0].tolist())
    assert scores.request.get_tensor("logits").shape == [1, 1, model.config.vocab_size], "the last position only"
    answer = model.generate(**prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert answer.shape[1] == prompt["input_ids"].shape[1] + 4


def test_the_graph_with_a_state_is_compiled_when_generate_first_needs_it(exported, settings):
    exact = replace(settings, ov_config=settings.ov_config | REFERENCE)
    (paged, tok, _), (plain, *_) = load_model(exact), load_model(exact, paged=False)
    assert paged.paged and paged.request is None and not plain.paged and plain.request
    prompt = tok("You may not", return_tensors="pt")
    ids = prompt["input_ids"][0].tolist()
    expected = [step.id for step in generate(paged, ids, 8, stop_ids=())]
    assert paged.request is None
    for model in (paged, plain):
        row = model.generate(**prompt, max_new_tokens=8, min_new_tokens=8, do_sample=False)[0].tolist()
        assert row[len(ids) :] == expected == [step.id for step in generate(model, ids, 8, stop_ids=())]


def test_what_a_cache_folder_is_good_for_goes_there_and_nothing_else(exported, settings, tmp_path):
    """OpenVINO writes the paged graph there and cannot load it: it would be written again each time."""
    choice = replace(settings, ov_config=settings.ov_config | {"CACHE_DIR": str(tmp_path)})
    assert load_model(choice)[0].paged and not list(tmp_path.rglob("*.blob"))
    found = [
        load_model(choice, paged=False)[0].request.get_compiled_model().get_property("LOADED_FROM_CACHE") for _ in "12"
    ]
    assert found == [False, True]


@pytest.mark.parametrize("wrong", [RuntimeError, ImportError])
def test_where_there_is_no_paged_attention_the_state_is_used(exported, settings, monkeypatch, wrong):
    from openvino import _offline_transformations as passes

    def refuse(_graph):
        raise wrong("not with this graph, or not in this version")

    exact = replace(settings, ov_config=settings.ov_config | REFERENCE)
    prompt = [5, 6, 7, 8]
    expected = PromptCache(load_model(exact)[0]).logits(prompt).copy()
    monkeypatch.setattr(passes, "paged_attention_transformation", refuse)
    for model, *_ in (load_model(exact), load_fast(exact)):
        cache = PromptCache(model)
        assert not model.paged and isinstance(cache.kv, StatefulKVCache)
        np.testing.assert_allclose(cache.logits(prompt), expected, atol=1e-4)


def test_a_strict_load_does_not_take_another_device(exported, settings):
    with pytest.raises(TutorialError, match="drop strict"):
        load_model(replace(settings, device="GPU.9"), strict=True)


def test_nobody_is_asked_whether_to_run_what_a_folder_brings(exported, settings, monkeypatch):
    """None of the libraries decides by itself: each is told what the catalog says."""
    told = []
    for name in ("optimum.intel.openvino.OVModelForCausalLM", "transformers.AutoTokenizer"):
        module, _, kind = name.rpartition(".")
        known = getattr(__import__(module, fromlist=[kind]), kind)
        make = known.from_pretrained
        monkeypatch.setattr(known, "from_pretrained", lambda *a, m=make, **more: told.append(more) or m(*a, **more))
    load_model(settings)
    assert [more["trust_remote_code"] for more in told][:2] == [settings.spec.trust_remote_code] * 2


@pytest.fixture
def copied(exported, settings, tmp_path):
    """Settings of a copy of the tiny model's export, to be damaged."""
    choice = replace(settings, model_root=str(tmp_path))
    shutil.copytree(exported.folder, choice.model_dir)
    return choice


@pytest.mark.parametrize("name", NEEDED)
def test_an_export_that_lacks_a_file_is_not_loaded(copied, name):
    assert require_export(copied) == copied.model_dir
    (copied.model_dir / name).unlink()
    with pytest.raises(TutorialError, match=f"{name} is missing") as caught:
        load_model(copied)
    assert "helpers export --model smollm2-instruct --format int4" in caught.value.hint
    assert caught.value.message.count(" is ") == 2, "and no other file"


def test_what_openvino_cannot_do_is_told_by_its_own_last_words(copied):
    words = "Exception from src/a.cpp:1:\n\nCheck 'false' failed at src/b.cpp:2:\nNo such property\nand more\n"
    error = load_error(copied, "GPU.1", ValueError(words))
    assert error.message.endswith("cannot be loaded on GPU.1. ValueError: No such property")
    assert "ov_config" in error.hint and "helpers export --model smollm2-instruct --format int4" in error.hint
    assert load_error(copied, "CPU", KeyError()).message.endswith("KeyError: ")
    with pytest.raises(TutorialError, match="NONSENSE"):
        load_model(replace(copied, ov_config={"NONSENSE": "1"}))
    (copied.model_dir / "openvino_model.bin").write_bytes(b"")
    assert "openvino_model.bin is cut short" in load_error(copied, "CPU", ValueError(words)).message
