"""helpers.sampling without a model: which values have a meaning, and what each of them adds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import TutorialError
from helpers.generate.sampling import Sampling, single_thread


@pytest.mark.parametrize("seed", [None, 0, -1, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64])
def test_the_seeds_that_are_taken_are_those_that_pytorch_takes(seed):
    try:
        seed is None or torch.Generator().manual_seed(seed)
    except (ValueError, RuntimeError):
        with pytest.raises(TutorialError, match="19 digits"):
            Sampling(seed=seed)
    else:
        assert Sampling(seed=seed).seed == seed


@pytest.mark.parametrize("name", ["temperature", "repetition_penalty"])
@pytest.mark.parametrize("value", [np.inf, np.nan, -1e-9])
def test_what_scores_cannot_be_divided_by_is_refused(name, value):
    with pytest.raises(TutorialError, match="cannot be used"):
        Sampling(**{name: value})


def test_the_least_temperature_still_gives_numbers():
    choose = Sampling(temperature=1e-6, seed=1).make_sampler()
    chosen, scores = choose([0], np.array([-80, 80, 79], dtype=np.float32))
    assert chosen == 1 and np.isfinite(scores).all()
    with pytest.raises(TutorialError, match="cannot be used"):
        Sampling(temperature=9e-7)


@given(
    temperature=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 40]),
    top_p=st.sampled_from([0.1, 1.0]),
    penalty=st.sampled_from([0.9, 1.0, 2.0]),
)
def test_each_value_that_changes_something_adds_its_processor_and_no_other_does(temperature, top_k, top_p, penalty):
    found = Sampling(temperature, top_k, top_p, penalty).processors()
    by_lot = temperature > 0
    wanted = {"RepetitionPenaltyLogitsProcessor": penalty != 1, "TemperatureLogitsWarper": temperature not in (0, 1)}
    wanted |= {"TopKLogitsWarper": by_lot and top_k, "TopPLogitsWarper": by_lot and top_p < 1}
    assert [type(processor).__name__ for processor in found] == [name for name, is_so in wanted.items() if is_so]
    values = {name: value for processor in found for name, value in vars(processor).items()}
    assert values.get("penalty", penalty) == penalty and values.get("temperature", temperature) == temperature
    assert values.get("top_k", top_k) == top_k and values.get("top_p", top_p) == top_p


def test_greedy_takes_the_first_of_equals_and_the_scores_as_they_are():
    scores = np.array([1, 3, 3, 2], dtype=np.float32)
    chosen, by = Sampling().make_sampler()([0], scores)
    assert chosen == 1 and by is scores


def test_one_thread_is_one_and_afterwards_all_are_back():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(KeyError), single_thread():
            assert torch.get_num_threads() == 1
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
