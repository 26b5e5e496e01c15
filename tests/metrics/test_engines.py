"""What page 08 and the bench time: engines on a tiny model, the reasons of those that do not run, and the table."""

from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from types import SimpleNamespace

import pytest
from loaded import load
from openvino import Core

from helpers import settings
from helpers.errors import TutorialError
from helpers.metrics import engines, timing

PROMPT = [1, 2, 3, 4, 5]


def fake(milliseconds):
    """Return a Play whose ids repeat the prompt's first id, and whose tokens take `milliseconds` in turn."""

    def play(ids, n):
        moments = [7.0]
        for each in milliseconds[:n]:
            moments.append(moments[-1] + each / 1000)
        return [ids[0]] * n, moments

    return play


def test_a_round_takes_the_next_prompt_and_returns_milliseconds():
    side = engines.rounds_of(fake([50, 10, 20]), list(range(100)), prompt_tokens=8, new_tokens=3)
    first, second = side(), side()
    assert first["ids"] == [0, 0, 0] and second["ids"] == [1, 1, 1]
    assert first["first_ms"] == pytest.approx(50) and first["later_ms"] == pytest.approx([10, 20])


def test_the_table_compares_with_the_first_engine_and_says_why_one_did_not_run():
    played = {
        "ours": [
            {"ids": [1], "first_ms": 40.0, "later_ms": [10.0]},
            {"ids": [2], "first_ms": 60.0, "later_ms": [10.0]},
        ],
        "slow": [
            {"ids": [1], "first_ms": 50.0, "later_ms": [30.0]},
            {"ids": [3], "first_ms": 50.0, "later_ms": [50.0]},
        ],
    }
    ours, slow, gpu = engines.rows(played, {"GPU": "OpenVINO sees no GPU here."}, {"ours": 100, "slow": 250})
    assert ours == {
        "engine": "ours",
        "first token": "50 ms",
        "decode, tokens/s": "100.0",
        "time ÷ ours": "1.00",
        "bytes ÷ ours": "1.00",
        "our ids": "yes",
    }
    assert (slow["time ÷ ours"], slow["bytes ÷ ours"], slow["our ids"]) == ("4.00", "2.50", "no")
    assert gpu["first token"] == "not run: OpenVINO sees no GPU here." and gpu["our ids"] == ""


def test_an_engine_that_is_not_installed_or_refuses_is_left_out_with_the_reason():
    def refuses(settings, threads):
        raise TutorialError("No such device.", "Choose a different one.")

    loaders = {
        "fine": ("numpy", lambda settings, threads: f"play with {threads}"),
        "absent": ("surely_nobody_has_this", refuses),
        "refuses": ("numpy", refuses),
    }
    plays, not_run = engines.load_all(settings.Settings(), 3, loaders)
    assert plays == {"fine": "play with 3"}
    assert not_run == {"absent": "surely_nobody_has_this is not installed.", "refuses": "No such device."}


@pytest.mark.parametrize("device", ["GPU", "NPU"])
def test_a_device_that_openvino_does_not_see_is_named(device):
    if any(name.startswith(device) for name in Core().available_devices):
        pytest.skip(f"this machine has a {device}")
    with pytest.raises(TutorialError, match=f"no {device} here"):
        engines.on_device(device, settings.Settings(), 2)


def test_pytorch_needs_a_small_checkpoint_on_this_disk(tmp_path, monkeypatch):
    choice = settings.Settings(model_root=str(tmp_path))
    with pytest.raises(TutorialError, match="no checkpoint"):
        engines.small_pytorch(choice, 2)
    choice.checkpoint_dir.mkdir(parents=True)
    (choice.checkpoint_dir / "model.safetensors").write_bytes(bytes(9))
    monkeypatch.setattr(engines, "LARGEST_CHECKPOINT", 8)
    with pytest.raises(TutorialError, match="has 0.0 GB"):
        engines.small_pytorch(choice, 2)


@pytest.mark.model
@pytest.mark.weekly  # page 08 plays all of them at every push
def test_all_engines_generate_as_many_tokens_as_asked_on_a_rising_clock():
    plays, not_run = engines.load_all(replace(settings.load(), device="CPU"), 2)
    assert {"helpers.generate", "optimum-intel generate"} <= set(plays) and not set(plays) & set(not_run)
    for name, play in plays.items():
        ids, moments = play(PROMPT, 4)
        assert len(ids) == 4 and len(moments) == 5, name
        assert all(before < after for before, after in pairwise(moments)), name
        assert all(type(each) is int for each in ids), name


def test_transformers_generate_ignores_eos(phi3_folder):
    model = load(phi3_folder)
    ids, moments = engines.transformers_generate(model, 1)(PROMPT, 6)
    assert len(ids) == 6 and len(moments) == 7


def test_compute_throughput_is_operations_over_the_seconds_of_the_best_round(monkeypatch):
    clock = iter([0, 9, 10, 12, 20, 21, 30, 34])  # 9 s for the first run, which does not count; then 2, 1 and 4 s
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    found = timing.compute_throughput({}, width=64, rows=8, rounds=3)
    assert found == pytest.approx(2 * 8 * 64 * 64 / 1 / 1e9)


def test_weights_of_the_matrix_multiplications_are_those_of_the_model(pair_config):
    config, model = pair_config
    layers, head = timing.matmul_weights(config)
    linear = {name: each.weight.numel() for name, each in model.named_modules() if type(each).__name__ == "Linear"}
    assert head == linear.pop("lm_head")
    assert layers == sum(linear.values())


@pytest.fixture(params=["llama", "phi3"])
def pair_config(request, tmp_path_factory):
    from hub import tiny_phi3
    from transformers import AutoModelForCausalLM

    llama = request.param == "llama"
    folder = request.getfixturevalue("checkpoint") if llama else tiny_phi3(tmp_path_factory.getbasetemp())
    model = AutoModelForCausalLM.from_pretrained(folder)
    return model.config, model


def test_operation_times_come_by_type_the_longest_first():
    class Status(str):  # as in OpenVINO, a member of the enum knows the others: status.EXECUTED
        EXECUTED = "executed"

    def one(kind, seconds, status="executed"):
        return SimpleNamespace(node_type=kind, real_time=timedelta(seconds=seconds), status=Status(status))

    timed = [one("Add", 0.001), one("FC", 0.002), one("Add", 0.0005), one("Reshape", 9, status="not run")]
    found = timing.operation_ms(SimpleNamespace(get_profiling_info=lambda: timed))
    assert found == {"FC": [2.0], "Add": [1.0, 0.5]}
    assert list(found) == ["FC", "Add"]
