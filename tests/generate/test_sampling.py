"""Sampling without a model: which values can be used, and which processors each of them adds; log_softmax."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from helpers.errors import TutorialError
from helpers.generate.sampling import Sampling, log_softmax, single_thread


@pytest.mark.parametrize("seed", [None, 0, -1, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64])
def test_the_seeds_that_pytorch_takes_can_be_used(seed):
    try:
        seed is None or torch.Generator().manual_seed(seed)
    except (ValueError, RuntimeError):
        with pytest.raises(TutorialError, match="19 digits"):
            Sampling(seed=seed)
    else:
        assert Sampling(seed=seed).seed == seed


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-1, -1e-9, 9e-7, np.inf, np.nan, "1", None]),
        ("top_k", [-1, 1.5, None]),
        ("top_p", [0, 1.1, np.nan, None]),
        ("repetition_penalty", [0, -1e-9, 1e-320, 9e-7, 1.1e6, 1e300, np.inf, np.nan, None]),
        ("seed", [1.5, "1"]),
    ],
)
def test_a_value_outside_its_range_is_refused(name, values):
    for value in values:
        with pytest.raises(TutorialError, match="cannot be used"):
            Sampling(**{name: value})


@given(
    logits=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=40),
    penalty=st.floats(1e-6, 1e6).filter(lambda penalty: penalty != 1),
    data=st.data(),
)
def test_the_penalty_is_that_of_transformers(logits, penalty, data):
    logits = np.array(logits, dtype=np.float32)
    ids = data.draw(st.lists(st.integers(0, len(logits) - 1), min_size=1))
    before = logits.copy()
    (expected,) = Sampling(repetition_penalty=penalty).processors()(torch.tensor([ids]), torch.tensor(logits)[None])
    chosen, changed = Sampling(repetition_penalty=penalty).make_sampler()(ids, logits)
    assert changed.dtype == np.float32 and np.array_equal(changed, expected.numpy())
    assert chosen == int(changed.argmax()) and np.array_equal(logits, before), "they are the request's memory"


@pytest.mark.parametrize("penalty", [1e-6, 1, 1e6])
def test_extreme_values_give_finite_scores(penalty):
    choose = Sampling(temperature=1e-6, repetition_penalty=penalty, seed=1).make_sampler()
    chosen, scores = choose([0], np.array([-80, 80, 79], dtype=np.float32))
    assert chosen == 1 and np.isfinite(scores).all()


@given(
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 40]),
    top_p=st.sampled_from([0.1, 1.0]),
    penalty=st.sampled_from([0.9, 1.0, 2.0]),
)
def test_each_value_that_has_an_effect_adds_its_processor(temperature, top_k, top_p, penalty):
    found, hot = Sampling(temperature, top_k, top_p, penalty).processors(), temperature > 0
    expected = {"RepetitionPenaltyLogitsProcessor": penalty != 1, "TemperatureLogitsWarper": temperature not in (0, 1)}
    expected |= {"TopKLogitsWarper": hot and top_k, "TopPLogitsWarper": hot and top_p < 1}
    assert [type(processor).__name__ for processor in found] == [name for name, used in expected.items() if used]
    values = {name: value for processor in found for name, value in vars(processor).items()}
    assert values.get("penalty", penalty) == penalty and values.get("temperature", temperature) == temperature
    assert values.get("top_k", top_k) == top_k and values.get("top_p", top_p) == top_p


def test_greedy_takes_the_first_of_equal_logits_and_leaves_them_unchanged():
    logits = np.array([1, 3, 3, 2], dtype=np.float32)
    chosen, scores = Sampling().make_sampler()([0], logits)
    assert chosen == 1 and scores is logits


@given(arrays(np.float32, array_shapes(max_dims=3, max_side=6), elements=st.floats(-1e4, 1e4, width=32)))
def test_log_softmax_is_that_of_pytorch(logits):
    before = logits.copy()
    found = log_softmax(logits)
    assert found.dtype == np.float32 and np.array_equal(logits, before)
    np.testing.assert_allclose(found, torch.log_softmax(torch.from_numpy(logits), -1).numpy(), rtol=1e-6, atol=2e-6)


def test_pytorch_has_one_thread_in_the_block_and_all_after_an_error():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(KeyError), single_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
