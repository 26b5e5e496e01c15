"""The protocol of a comparison, the bytes that a token reads, and the arithmetic of the bandwidth."""

import itertools
from math import comb
from statistics import median
from types import SimpleNamespace

import numpy as np
import openvino
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded import load
from openvino import opset13 as ops

from helpers.errors import TutorialError
from helpers.generate import PromptCache
from helpers.metrics import timing
from helpers.metrics.quality import REFERENCE
from helpers.metrics.timing import (
    interleaved,
    kv_bytes_per_token,
    median_interval,
    ratio,
    verdict,
    weight_bytes_per_token,
)

times = st.lists(st.floats(0.01, 1e5), min_size=1, max_size=40)


@given(st.integers(1, 5), st.integers(0, 3))
def test_the_sides_take_turns_and_the_warm_up_is_left_out(rounds, warm_up):
    count, order = itertools.count(), []
    sides = {name: lambda name=name: (order.append(name), next(count))[1] for name in "abc"}
    results = interleaved(sides, rounds, warm_up)
    assert "".join(order) == "abc" * (rounds + warm_up)
    assert list(results) == ["a", "b", "c"]
    first = 3 * warm_up
    assert results["b"] == [first + 1 + 3 * n for n in range(rounds)]
    order.clear()
    interleaved(sides, 1)
    assert "".join(order) == "abcabc", "by default there is one round of warm-up"


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9), st.floats(0.1, 10))
def test_slow_rounds_do_not_change_the_ratio(slow, factor):
    theirs = [5 * one for one in slow]
    ours = [factor * one for one in theirs]
    assert ratio(ours, theirs) == pytest.approx(factor)
    assert ratio(theirs, ours) == pytest.approx(1 / factor)


def test_one_slow_side_in_one_of_three_rounds_does_not_change_the_ratio():
    assert ratio([2.0, 2.0, 9.0], [1.0, 1.0, 1.0]) == ratio([2.0, 0.1, 2.0], [1.0, 1.0, 1.0]) == 2


def test_different_numbers_of_rounds_are_refused():
    with pytest.raises(TutorialError, match="2 and 1 rounds"):
        ratio([1.0, 2.0], [1.0])


def measured(rng, rounds, factor=1.0, noise=0.15):
    """Return made-up times of baseline, control and a setting that takes `factor` times as long, all of them noisy.

    Each round has a load of its own that all three share, and each time a noise of its own with a long tail.
    """
    load = rng.lognormal(0, 0.3, rounds)
    times = rng.lognormal(0, noise, (3, rounds)) * (1 + (rng.random((3, rounds)) < 0.05)) * load
    return times[0].tolist(), times[1].tolist(), (factor * times[2]).tolist()


@pytest.mark.parametrize("noise", [0.01, 0.15, 0.5])
@pytest.mark.parametrize("rounds", [6, 7, 9, 15])
@pytest.mark.parametrize("predicted", ["slower", "faster", "same"])
def test_without_a_difference_at_least_95_percent_of_verdicts_are_within_noise(rounds, predicted, noise):
    rng = np.random.default_rng(15)
    trials = (measured(rng, rounds, noise=noise) for _ in range(2000))
    found = [verdict(ours, base, control, predicted).verdict for base, control, ours in trials]
    assert found.count("within noise") >= 0.95 * len(found)


def test_a_control_that_is_slower_by_its_place_in_the_round_raises_the_noise_floor():
    rng, found = np.random.default_rng(15), []
    for _ in range(2000):
        base, control, ours = measured(rng, 7, factor=1.1, noise=0.02)
        found.append(verdict(ours, base, [1.1 * one for one in control], "slower").verdict)
    assert found.count("within noise") >= 0.95 * len(found)


def test_a_large_difference_is_found():
    rng = np.random.default_rng(15)
    trials = [measured(rng, 9, factor=2.0, noise=0.05) for _ in range(500)]
    for predicted, expected in {"slower": "confirmed", "faster": "refuted", "same": "refuted"}.items():
        found = [verdict(ours, base, control, predicted).verdict for base, control, ours in trials]
        assert found.count(expected) >= 0.9 * len(found)
        assert set(found) <= {expected, "within noise"}


rounds_of_three = st.integers(6, 20).flatmap(
    lambda n: st.tuples(*3 * [st.lists(st.floats(0.5, 50), min_size=n, max_size=n)])
)


@given(rounds_of_three, st.sampled_from(["slower", "faster", "same"]))
def test_a_verdict_agrees_with_its_ratio_and_interval_and_not_with_the_unit(three, predicted):
    ours, base, control = three
    found = verdict(ours, base, control, predicted)
    assert found.low <= found.ratio <= found.high
    assert found.ratio == ratio(ours, base)
    if found.verdict != "within noise":
        slower = found.low > 1
        assert slower or found.high < 1
        assert (found.verdict == "confirmed") == (predicted == ("slower" if slower else "faster"))
    twice = verdict(base, base, control, predicted)
    assert twice.verdict == "within noise" and twice.ratio == 1
    assert verdict(control, base, control, predicted).verdict == "within noise", "the control is the noise"
    scaled = verdict(*([64 * one for one in times] for times in three), predicted)
    assert scaled == found


@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=40))
def test_the_interval_of_a_median_is_the_narrowest_that_covers_95_percent(values):
    low, high = median_interval(values)
    assert low <= median(values) <= high
    n, ordered = len(values), sorted(range(len(values)), key=values.__getitem__)
    ranks = [k for k in range(n // 2) if 2 * sum(comb(n, j) for j in range(k + 1)) / 2**n <= 0.05]
    assert (low, high) == (values[ordered[ranks[-1]]], values[ordered[n - 1 - ranks[-1]]])


def test_too_few_rounds_and_unknown_predictions_are_refused():
    with pytest.raises(TutorialError, match="5 rounds are too few"):
        verdict(5 * [1.0], 5 * [1.0], 5 * [1.0], "same")
    with pytest.raises(TutorialError, match="7 and 6 rounds"):
        verdict(7 * [1.0], 6 * [1.0], 6 * [1.0], "same")
    with pytest.raises(TutorialError, match="7 and 6 rounds"):
        verdict(7 * [1.0], 7 * [1.0], 6 * [1.0], "same")
    with pytest.raises(TutorialError, match="Unknown prediction 'equal'"):
        verdict(7 * [1.0], 7 * [1.0], 7 * [1.0], "equal")


@pytest.mark.parametrize("size, threads", [(1_000_000, 1), (400_000_000, 2), (1_000_000_007, 3)])
def test_bandwidth_is_the_bytes_read_over_the_seconds_of_the_best_round(monkeypatch, size, threads):
    read = []
    monkeypatch.setattr(
        timing,
        "np",
        SimpleNamespace(ndarray=np.ndarray, ones=_counted(read), array_split=np.array_split, uint8=np.uint8),
    )
    # The clock is read twice per round: 0.1 s for the warm-up, which does not count, then 4, 2 and 8 s.
    clock = itertools.chain.from_iterable((start, start + took) for start, took in ((0, 0.1), (1, 4), (6, 2), (9, 8)))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    found = timing.read_bandwidth(size, threads, rounds=3)
    assert len(read) % 4 == 0
    per_round = sum(read) / 4
    assert per_round >= 1e9 and per_round % size == 0, "each round reads the buffer until it has read a gigabyte"
    assert found == pytest.approx(per_round / 2 / 1e9)


def _counted(read):
    """Return numpy.ones for arrays whose max() records their size and reads nothing."""

    class Counted(np.ndarray):
        def max(self):
            read.append(self.nbytes)

    return lambda size, dtype: np.lib.stride_tricks.as_strided(np.ones(1, dtype), (size,), (0,)).view(Counted)


def graph(tied: bool) -> openvino.Model:
    """ids → embedding (8 bits with scales) → a matrix of 4 bits → LM head."""
    ids = ops.parameter([1, -1], np.int64, name="ids")
    table = _restored(np.ones((100, 16), np.int8), "table")
    hidden = ops.gather(table, ids, ops.constant(0, np.int64))
    packed = openvino.op.Constant(openvino.Type.i4, openvino.Shape([16, 16]), [1] * 256)
    matrix = ops.multiply(ops.convert(packed, np.float32), ops.constant(np.full((16, 1), 0.5, np.float32)))
    hidden = ops.matmul(hidden, matrix, False, True)
    head = table if tied else _restored(np.full((100, 16), 2, np.int8), "head")
    return openvino.Model([ops.matmul(hidden, head, False, True)], [ids], "counted")


def _restored(codes, name):
    scale = ops.constant(np.full((len(codes), 1), 0.1, np.float32))
    return ops.multiply(ops.convert(ops.constant(codes, name=name), np.float32), scale, name=f"{name}/restored")


@pytest.mark.parametrize("tied", [True, False])
def test_the_embedding_counts_only_where_the_lm_head_uses_it_too(tmp_path, tied):
    openvino.save_model(graph(tied), tmp_path / "openvino_model.xml", compress_to_fp16=False)
    matrix, one_table = 16 * 16 // 2 + 4 * 16, 100 * 16 + 4 * 100
    assert weight_bytes_per_token(tmp_path) == matrix + one_table  # one table, even if there are two


def test_the_bytes_of_a_token_are_those_of_the_file_without_an_untied_embedding(lm):
    config, on_disk = lm.model.config, (lm.folder / "openvino_model.bin").stat().st_size
    assert not config.tie_word_embeddings
    table = config.vocab_size * (config.hidden_size + 2 + 1)  # 8 bits per number, a scale and a zero point per row
    assert weight_bytes_per_token(lm.folder) == pytest.approx(on_disk - table, rel=1e-3)


def test_the_state_grows_by_kv_bytes_per_token(lm):
    cache = PromptCache(load(lm.folder, **REFERENCE))
    sizes = []
    for n in (3, 10):
        cache.logits(lm.prompts[0][:n])
        sizes.append(sum(state.state.byte_size for state in cache.request.query_state() if state.state.size))
    assert (sizes[1] - sizes[0]) / 7 == kv_bytes_per_token(lm.model, "f32")
    assert kv_bytes_per_token(lm.model.config, "u8") * 4 == kv_bytes_per_token(lm.model, "f32")
    assert kv_bytes_per_token(lm.model, "u4") * 2 == kv_bytes_per_token(lm.model)


def test_head_dim_is_used_where_the_model_has_one():
    shape = SimpleNamespace(hidden_size=64, num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=2)
    assert kv_bytes_per_token(shape, "i8") == 2 * 3 * 2 * (64 // 4)
    shape.head_dim = 96
    assert kv_bytes_per_token(shape, "i8") == 2 * 3 * 2 * 96


def test_an_unknown_precision_is_refused():
    with pytest.raises(TutorialError, match="Unknown precision 'fp8'"):
        kv_bytes_per_token(None, "fp8")


def test_the_bandwidth_of_this_machine_is_plausible():
    assert 0.01 < timing.read_bandwidth(10_000_000, 2, rounds=1) < 10_000
