"""Figures that can be compared: the protocol, the bytes of a token as the model has them, the bandwidth's sums."""

import itertools
from statistics import mean
from types import SimpleNamespace

import numpy as np
import openvino
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded import load
from openvino import opset13 as ops

from helpers.errors import TutorialError
from helpers.generate import GeneratedToken, PromptCache, generate
from helpers.metrics import timing
from helpers.metrics.quality import REFERENCE
from helpers.metrics.timing import Spread, Timing, interleaved, kv_bytes_per_token, ratio, weight_bytes_per_token

times = st.lists(st.floats(0.01, 1e5), min_size=1, max_size=40)


@given(times)
def test_a_spread_is_numpys(values):
    spread = Spread.of(iter(values))
    assert spread.values == tuple(values)
    assert spread.median == pytest.approx(np.median(values))
    assert spread.p90 == pytest.approx(np.quantile(values, 0.9))


def test_nothing_has_no_spread_and_one_step_no_time_per_token():
    with pytest.raises(TutorialError, match="Nothing was measured"):
        Spread.of([])
    with pytest.raises(TutorialError, match="1 steps have no time per token"):
        Timing.of([GeneratedToken(1, 1.0, (), 5.0)])


@given(times.filter(lambda values: len(values) > 1), st.floats(0, 100))
def test_the_times_of_an_answer_add_up(values, before):
    timing = Timing.of([GeneratedToken(7, 1.0, (), value) for value in values], before)
    assert timing.ttft_ms + sum(timing.tpot_ms.values) == pytest.approx(before + sum(values))
    assert timing.new_tokens == 1 + len(timing.tpot_ms.values) == len(values)
    assert Timing.of([GeneratedToken(7, 1.0, (), value) for value in values]).ttft_ms == values[0]
    assert timing.decode_per_second * mean(timing.tpot_ms.values) == pytest.approx(1000)  # as GenAI's throughput


@given(st.integers(1, 5), st.integers(0, 3))
def test_sides_take_turns_and_the_warm_up_is_left_out(rounds, warm_up):
    count, order = itertools.count(), []
    sides = {name: lambda name=name: (order.append(name), next(count))[1] for name in "abc"}
    results = interleaved(sides, rounds, warm_up)
    assert "".join(order) == "abc" * (rounds + warm_up)
    assert list(results) == ["a", "b", "c"]
    first = 3 * warm_up
    assert results["b"] == [first + 1 + 3 * n for n in range(rounds)]
    assert interleaved(sides, 1)["a"] == [next(count) - 3], "unless told otherwise, one round warms up"


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=9), st.floats(0.1, 10))
def test_a_neighbour_who_slows_whole_rounds_moves_no_ratio(slow, factor):
    theirs = [5 * one for one in slow]
    ours = [factor * one for one in theirs]
    assert ratio(ours, theirs) == pytest.approx(factor)
    assert ratio(theirs, ours) == pytest.approx(1 / factor)


def test_nor_does_one_that_slows_a_side_in_one_round_of_three():
    assert ratio([2.0, 2.0, 9.0], [1.0, 1.0, 1.0]) == ratio([2.0, 0.1, 2.0], [1.0, 1.0, 1.0]) == 2


def test_rounds_that_do_not_match_are_refused():
    with pytest.raises(TutorialError, match="2 and 1 rounds"):
        ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize("size, threads", [(1_000_000, 1), (400_000_000, 2), (1_000_000_007, 3)])
def test_bandwidth_is_bytes_read_over_seconds_of_the_best_round(monkeypatch, size, threads):
    read = []
    monkeypatch.setattr(timing, "np", SimpleNamespace(ones=_counted(read), array_split=np.array_split, uint8=np.uint8))
    # Two readings of the clock per round: the warm-up's 0.1 s would be the best, then rounds of 4, 2 and 8 seconds.
    clock = itertools.chain.from_iterable((start, start + took) for start, took in ((0, 0.1), (1, 4), (6, 2), (9, 8)))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    found = timing.read_bandwidth(size, threads, rounds=3)
    assert len(read) % 4 == 0
    per_round = sum(read) / 4
    assert per_round >= 1e9 and per_round % size == 0, "each round reads all of it, as often as takes a gigabyte"
    assert found == pytest.approx(per_round / 2 / 1e9)


def _counted(read):
    """numpy.ones whose parts note how many bytes they were asked for and read nothing."""

    class Counted(np.ndarray):
        def max(self):
            read.append(self.nbytes)

    return lambda size, dtype: np.lib.stride_tricks.as_strided(np.ones(1, dtype), (size,), (0,)).view(Counted)


def graph(tied: bool) -> openvino.Model:
    """ids → embedding (8 bits with scales) → product with a matrix of 4 bits → product with the vocabulary's matrix."""
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
def test_the_embedding_counts_only_where_the_scores_use_it_too(tmp_path, tied):
    openvino.save_model(graph(tied), tmp_path / "openvino_model.xml", compress_to_fp16=False)
    matrix, one_table = 16 * 16 // 2 + 4 * 16, 100 * 16 + 4 * 100
    assert weight_bytes_per_token(tmp_path) == matrix + one_table  # one, of two tables too; no axis of a Gather


def test_the_weights_of_a_token_are_those_of_the_file(lm):
    """All of it where the matrix is tied, all but the embedding's 8-bit table where it is not."""
    config, on_disk = lm.model.config, (lm.folder / "openvino_model.bin").stat().st_size
    words = config.vocab_size
    table = 0 if config.tie_word_embeddings else words * config.hidden_size + words * (2 + 1)  # scales, zero points
    assert weight_bytes_per_token(lm.folder) == pytest.approx(on_disk - table, rel=1e-3)


def test_what_a_token_adds_to_the_context_is_what_the_state_grows_by(lm):
    cache = PromptCache(load(lm.folder, **REFERENCE))
    sizes = []
    for n in (3, 10):
        cache.logits(lm.prompts[0][:n])
        sizes.append(sum(state.state.byte_size for state in cache.request.query_state() if state.state.size))
    assert (sizes[1] - sizes[0]) / 7 == kv_bytes_per_token(lm.model, "f32")
    assert kv_bytes_per_token(lm.model.config, "u8") * 4 == kv_bytes_per_token(lm.model, "f32")
    assert kv_bytes_per_token(lm.model, "u4") * 2 == kv_bytes_per_token(lm.model)


def test_a_model_whose_heads_have_a_width_of_their_own_keeps_that():
    shape = SimpleNamespace(hidden_size=64, num_attention_heads=4, num_hidden_layers=3, num_key_value_heads=2)
    assert kv_bytes_per_token(shape, "i8") == 2 * 3 * 2 * (64 // 4)
    shape.head_dim = 96
    assert kv_bytes_per_token(shape, "i8") == 2 * 3 * 2 * 96


def test_a_precision_without_a_size_is_a_sentence():
    with pytest.raises(TutorialError, match="no precision 'fp8' here"):
        kv_bytes_per_token(None, "fp8")


def test_a_real_answer_is_timed(lm):
    timing = Timing.of(list(generate(lm.model, lm.prompts[0], 6, stop_ids=())))
    assert timing.new_tokens == 6 and timing.ttft_ms > 0 and timing.tpot_ms.p90 >= timing.tpot_ms.median > 0


def test_memory_is_read_for_real():
    assert 0.01 < timing.read_bandwidth(10_000_000, 2, rounds=1) < 10_000
