"""helpers.generate: the ids of transformers' generate, whatever was read before; steps that tell the truth."""

import sys
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loaded import theirs

from helpers.errors import TutorialError
from helpers.generate.kv_cache import INITIAL_CAPACITY, PagedKVCache, StatefulKVCache
from helpers.generate.loop import GenerationCancelled, PromptCache, eos_token_ids, generate, probabilities
from helpers.generate.sampling import GREEDY, Sampling

VARIED = Sampling(repetition_penalty=1.3)  # greedy, but the random model does not say one word for ever
SAMPLINGS = [
    Sampling(temperature=1, seed=1),
    Sampling(temperature=0.7, top_p=0.9, seed=2),
    Sampling(temperature=1.5, top_k=40, seed=3),
    Sampling(temperature=0.9, top_k=50, top_p=0.8, repetition_penalty=1.2, seed=4),
]


def ours(*arguments, **options) -> list[int]:
    return [step.id for step in generate(*arguments, **options)]


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_is_generate_id_for_id(lm, penalty):
    for prompt in lm.prompts:
        ids = ours(lm.model, prompt, 30, replace(GREEDY, repetition_penalty=penalty))
        assert ids == theirs(lm.model, prompt, 30, do_sample=False, repetition_penalty=penalty)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_seed_draws_what_transformers_draws(lm, sampling):
    import torch

    torch.manual_seed(sampling.seed)
    options = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
    expected = theirs(
        lm.model, lm.prompts[1], 20, do_sample=True, repetition_penalty=sampling.repetition_penalty, **options
    )
    assert ours(lm.model, lm.prompts[1], 20, sampling) == expected
    assert ours(lm.model, lm.prompts[1], 20, replace(sampling, seed=99)) != expected


def test_without_a_seed_two_draws_differ(lm):
    hot = Sampling(temperature=2)
    assert ours(lm.model, lm.prompts[1], 8, hot) != ours(lm.model, lm.prompts[1], 8, hot)


KINDS = pytest.mark.parametrize("kind", ["state", "exact"])  # in full precision: a state, and blocks


@KINDS
def test_a_continued_text_is_the_text_read_at_once(lm, kind):
    """Each turn after an answer, and after going back into it, as a chat does."""
    model, text = getattr(lm, kind), list(lm.prompts[0])
    cache = PromptCache(model)
    for turn in range(3):
        answer = ours(model, text, 12, VARIED, stop_ids=(), cache=cache)
        assert answer == ours(model, text, 12, VARIED, stop_ids=())
        text += answer[: 12 - 5 * turn] + lm.prompts[1][turn:]
    warm, cold = cache.logits(text).copy(), PromptCache(model).logits(text)
    assert np.abs(warm - cold).max() < 1e-3


def test_blocks_and_state_score_alike_whatever_is_read_at_once(lm):
    """One token to more than there was room for; over the ends of blocks, back, and on."""
    blocks, state = PromptCache(lm.exact), PromptCache(lm.state)
    assert isinstance(blocks.kv, PagedKVCache) and isinstance(state.kv, StatefulKVCache)
    size, text = blocks.kv.block, (lm.prompts[0] * 40)[: INITIAL_CAPACITY + 40]
    for length in (
        1,
        size - 1,
        size,
        size + 1,
        7,
        3 * size,
        3 * size + 1,
        INITIAL_CAPACITY,
        INITIAL_CAPACITY + 1,
        INITIAL_CAPACITY + 40,
        size + 2,
    ):
        here, there = blocks.logits(text[:length]), state.logits(text[:length])
        assert np.abs(here - there).max() < 2e-3 * np.abs(there).max(), length
        assert blocks.cached_tokens == state.cached_tokens


def count(cache, ids) -> tuple[np.ndarray, list[int]]:
    """The logits after `ids`, and the ids that were run for them."""
    run, new = cache._run, []
    cache._run = lambda ids, *more: new.extend(ids) or run(ids, *more)
    logits = cache.logits(ids).copy()
    del cache._run
    return logits, new


@KINDS
def test_only_what_was_not_read_is_run(lm, kind):
    cache, (first, second) = PromptCache(getattr(lm, kind)), lm.prompts
    assert count(cache, first)[1] == first
    assert count(cache, first + [5, 6])[1] == [5, 6]
    assert count(cache, first + [5, 7, 8])[1] == [7, 8]
    assert count(cache, first + [5])[1] == [5]  # read before, but its logits are gone
    assert count(cache, first[:-1])[1] == first[-2:-1]
    shared = next(at for at, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    assert shared and count(cache, second)[1] == second[shared:]
    assert cache.ids == second


def test_what_stands_in_a_block_behind_the_past_does_not_matter(lm):
    """Nothing is cleared, when there is new room or when a text is cut: it may be anything, NaN too."""
    clean, dirty = PromptCache(lm.exact), PromptCache(lm.exact)
    dirty.logits([5])
    for memory in dirty.kv.memory.values():
        memory.data[:] = np.nan
    dirty.ids = []
    for length in (1, 2, dirty.kv.block - 1, dirty.kv.block + 1, 100):
        text = (lm.prompts[0] * 10)[:length]
        assert np.array_equal(clean.logits(text), dirty.logits(text))


@KINDS
def test_going_back_gives_the_same_bits_again(lm, kind):
    """In full precision; a KV cache of u8 is rounded again (next test)."""
    cache, prompt = PromptCache(getattr(lm, kind)), lm.prompts[0]
    cache.logits(prompt)
    before = [cache.logits(prompt + tail).copy() for tail in ([5], [5, 6], [5, 6, 7])]
    cache.logits(prompt + [9] * 20)
    after = [cache.logits(prompt + tail).copy() for tail in ([5], [5, 6], [5, 6, 7])]
    assert np.array_equal(before, after)


def test_going_back_at_default_precision_is_as_near_as_going_on(lm):
    prompt, tail = lm.prompts[0], lm.prompts[1]
    cold = softmax(PromptCache(lm.model).logits(prompt + tail))
    cache = PromptCache(lm.model)
    cache.logits(prompt)
    on = softmax(cache.logits(prompt + tail))
    cache.logits(prompt + [5] * 20)
    back = softmax(cache.logits(prompt + tail))
    assert np.abs(on - cold).max() < 0.15 and np.abs(back - cold).max() < 0.15


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def test_a_state_that_cannot_be_sliced_is_read_anew(lm):
    cache, prompt = PromptCache(lm.model), lm.prompts[0]
    cache.logits(prompt + [5, 6, 7])
    cache.ids.append(8)  # now no tensor has as many tokens as we believe
    logits, new = count(cache, prompt + [9])
    assert new == prompt + [9] == cache.ids
    assert np.array_equal(logits, PromptCache(lm.model).logits(prompt + [9]))


@KINDS
@pytest.mark.parametrize("end", [GenerationCancelled, KeyboardInterrupt])
def test_after_a_run_that_is_ended_blocks_hold_what_they_held_and_the_next_one_is_as_ever(lm, monkeypatch, end, kind):
    monkeypatch.setattr(sys.modules["helpers.generate.loop"], "POLL_MS", 0)

    def stopped():
        if end is KeyboardInterrupt:
            raise end  # where Python hears of it
        return True

    model, prompt = getattr(lm, kind), lm.prompts[0]
    cache, anew = PromptCache(model), PromptCache(model)
    cache.logits(prompt)
    with pytest.raises(end):
        cache.logits((prompt * 20)[:400], stopped)
    assert cache.ids == ([] if kind == "state" else prompt)
    if cache.ids:
        anew.logits(prompt)
    assert np.array_equal(cache.logits(prompt + [5]), anew.logits(prompt + [5])) and cache.ids == prompt + [5]


def test_who_stops_asking_leaves_a_cache_that_knows_what_it_read(lm):
    prompt, cache = lm.prompts[1], PromptCache(lm.exact)
    whole = ours(lm.exact, prompt, 12, VARIED, stop_ids=())
    steps = generate(lm.exact, prompt, 12, VARIED, stop_ids=(), cache=cache)
    some = [step.id for step in islice(steps, 5)]
    steps.close()
    assert some == whole[:5] and cache.ids == prompt + whole[:4]
    assert ours(lm.exact, prompt + some, 7, VARIED, stop_ids=(), cache=cache) == whole[5:]


@KINDS
@pytest.mark.parametrize("where", ["start_async", "wait_for"])
def test_after_an_interrupt_in_a_run_nothing_is_believed_that_may_be_false(lm, where, kind):
    model, prompt = getattr(lm, kind), lm.prompts[0]
    cache, whole = PromptCache(model), ours(model, prompt, 6, VARIED, stop_ids=())
    steps = generate(model, prompt, 6, VARIED, stop_ids=(), cache=cache)
    next(steps)
    cache.request, request = Interrupted(cache.request, where), cache.request
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    cache.request = request
    assert cache.ids == ([] if kind == "state" else prompt)
    assert ours(model, prompt, 6, VARIED, stop_ids=(), cache=cache) == whole


class Interrupted:
    """An infer request during which somebody presses Ctrl-C, when it has begun."""

    def __init__(self, request, where):
        self.request, self.where, self.begun = request, where, False

    def __getattr__(self, name):
        def call(*arguments):
            result = getattr(self.request, name)(*arguments)
            self.begun = self.begun or name == "start_async"
            if self.begun and name == self.where:
                raise KeyboardInterrupt
            return result

        return call


def test_two_texts_two_models_and_generate_in_between_do_not_disturb(lm):
    prompt, other = lm.prompts
    texts = (lm.model, prompt), (lm.model, other), (lm.exact, prompt)
    alone = [ours(model, ids, 8, VARIED, stop_ids=()) for model, ids in texts]
    turns = []
    for steps in zip(*(generate(model, ids, 8, VARIED, stop_ids=()) for model, ids in texts), strict=True):
        turns.append([step.id for step in steps])
        if len(turns) == 4:
            theirs(lm.model, other[:9], 3)
    assert [list(ids) for ids in zip(*turns, strict=True)] == alone


def test_two_streams_on_one_cache_cost_more_but_are_right(lm):
    prompt, cache = lm.prompts[1], PromptCache(lm.exact)
    whole = ours(lm.exact, prompt, 5, VARIED, stop_ids=())
    streams = [generate(lm.exact, prompt, 5, VARIED, stop_ids=(), cache=cache) for _ in range(2)]
    assert [(a.id, b.id) for a, b in zip(*streams, strict=True)] == [(i, i) for i in whole]


def test_it_stops_at_a_stop_id_and_at_the_models_own(lm, monkeypatch):
    prompt = lm.prompts[1]
    whole = ours(lm.model, prompt, 8, VARIED, stop_ids=())
    at = next(at for at in range(1, 8) if whole[at] not in whole[:at])
    assert ours(lm.model, prompt, 8, VARIED, stop_ids=[whole[at], 3]) == whole[: at + 1]
    for end in (whole[at], [3, whole[at]]):
        monkeypatch.setattr(lm.model.generation_config, "eos_token_id", end)
        assert ours(lm.model, prompt, 8, VARIED) == whole[: at + 1]
        assert theirs(lm.model, prompt, 8, do_sample=False, repetition_penalty=1.3) == whole[: at + 1]
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", None)
    assert ours(lm.model, prompt, 8, VARIED) == whole


@pytest.mark.parametrize("lm", [pytest.param("embedded", marks=pytest.mark.model)], indirect=True)
def test_the_embedded_model_answers_and_ends(lm):
    from transformers import AutoTokenizer

    ids = ours(lm.model, lm.prompts[0], 100)
    assert "Paris" in AutoTokenizer.from_pretrained(lm.folder).decode(ids)
    assert ids[-1] == lm.model.generation_config.eos_token_id and len(ids) < 100


def test_the_budget_and_the_contexts_end_hold(lm, monkeypatch):
    prompt = lm.prompts[0]
    assert len(ours(lm.model, prompt, 1, stop_ids=())) == 1
    assert len(ours(lm.model, prompt, 7, stop_ids=())) == 7
    monkeypatch.setattr(lm.model.config, "max_position_embeddings", len(prompt) + 4)
    assert len(ours(lm.model, prompt, 7, stop_ids=())) == 4


@pytest.mark.parametrize("sampling", [GREEDY, replace(GREEDY, repetition_penalty=1.2), *SAMPLINGS], ids=str)
def test_steps_tell_the_probabilities_of_their_distribution(lm, sampling):
    import torch

    cache, ids = PromptCache(lm.model), list(lm.prompts[1])
    for step in generate(lm.model, ids, 5, sampling, stop_ids=(), alternatives=5):
        scores = sampling.processors()(torch.tensor([ids]), torch.tensor(cache.logits(ids))[None])
        shares = torch.softmax(scores, dim=-1)[0].numpy()
        assert step.probability == pytest.approx(shares[step.id], rel=1e-3)
        others = [share for _, share in step.alternatives]
        assert others == sorted(others, reverse=True) and sum(others) <= 1 + 1e-6
        assert all(share == pytest.approx(shares[index], rel=1e-3) for index, share in step.alternatives)
        assert step.alternatives[0][0] == shares.argmax() or others[0] == pytest.approx(shares.max())
        if sampling.temperature == 0:
            assert (step.id, step.probability) == step.alternatives[0]
        assert step.milliseconds > 0
        ids.append(step.id)


@given(
    scores=st.lists(st.sampled_from([-np.inf, -3.0, 0.0, 1.0, 1.5, 80.0]), min_size=1, max_size=30),
    n=st.integers(0, 40),
)
def test_probabilities_are_softmaxs_and_their_order_is_argmaxs(scores, n):
    scores = np.array(scores, dtype=np.float32)
    if scores.max() == -np.inf:
        return
    chosen = int(scores.argmax())
    share, top_tokens = probabilities(scores, chosen, n)
    assert share == pytest.approx(softmax(scores)[chosen], rel=1e-5)
    whole = [i for i in np.argsort(-scores, kind="stable") if softmax(scores)[i] > 1e-38]
    assert [i for i, _ in top_tokens] == whole[:n]
    assert all(p == pytest.approx(softmax(scores)[i], rel=1e-5) for i, p in top_tokens)
    assert n == 0 or top_tokens[0] == (chosen, share)


def test_scores_that_are_not_numbers_are_said_and_forgotten(lm, monkeypatch):
    cache = PromptCache(lm.model)
    cache.logits(lm.prompts[0])
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_run", lambda *_: np.array([0, np.nan, 1]))
        with pytest.raises(TutorialError, match="not numbers"):
            list(generate(lm.model, lm.prompts[0] + [5], 3, cache=cache))
    assert cache.ids == []


@pytest.mark.parametrize(
    ("prompt", "n", "words"),
    [
        ([], 5, "is empty"),
        ([1] * 10_000, 5, "10000 tokens"),
        ([1, 10**6], 5, "does not know"),
        ([-1], 5, "not ids of tokens"),
        ([1, 2], 0, "budget of 0"),
    ],
)
def test_what_cannot_be_generated_is_said_at_once(lm, prompt, n, words):
    with pytest.raises(TutorialError, match=words):
        generate(lm.model, prompt, n)


def test_a_cache_of_another_model_is_refused(lm):
    with pytest.raises(TutorialError, match="another model"):
        generate(lm.model, [1, 2], 3, cache=PromptCache(lm.exact))


def test_an_export_without_state_is_refused(lm, monkeypatch):
    monkeypatch.setattr(lm.model, "stateful", False)
    with pytest.raises(TutorialError, match="text-generation-with-past"):
        PromptCache(lm.model)


@pytest.mark.parametrize(
    "values",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 0}, {"top_p": 1.1}, {"top_k": -1}]
    + [{"repetition_penalty": 0}, {"repetition_penalty": float("inf")}],
    ids=str,
)
def test_a_sampling_without_meaning_is_refused(values):
    with pytest.raises(TutorialError, match="cannot be used"):
        Sampling(**values)


@pytest.mark.parametrize(("named", "ids"), [(None, set()), (2, {2}), (0, {0}), ([2, 0], {2, 0}), ([], set())])
def test_the_end_tokens_are_those_that_the_model_names(lm, monkeypatch, named, ids):
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", named)
    assert eos_token_ids(lm.model) == ids
    assert len(list(generate(lm.model, lm.prompts[0], 2))) in (1, 2)
