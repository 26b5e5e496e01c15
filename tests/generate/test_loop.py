"""generate against transformers' generate; what a PromptCache runs and what it keeps; prefill; the statistics."""

import sys
from dataclasses import replace
from itertools import islice
from statistics import mean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from loaded import theirs

from helpers.errors import TutorialError
from helpers.generate import GREEDY, GeneratedToken, GenerationStats, PromptCache, Sampling, eos_token_ids, generate
from helpers.generate.loop import MIN_PREFILL, GenerationCancelled, common_prefix_length, probabilities

VARIED = Sampling(repetition_penalty=1.3)  # greedy, but the random model does not repeat one token
SAMPLINGS = [
    Sampling(temperature=1, seed=1),
    Sampling(temperature=0.7, top_p=0.9, seed=2),
    Sampling(temperature=1.5, top_k=40, seed=3),
    Sampling(temperature=0.9, top_k=50, top_p=0.8, repetition_penalty=1.2, seed=4),
]
KINDS = pytest.mark.parametrize("kind", ["state", "exact"])  # stateful and paged KV cache, both in f32


def ours(*arguments, **options) -> list[int]:
    return [token.id for token in generate(*arguments, **options)]


def record_runs(cache) -> list[list[int]]:
    """Return a list that gets the new ids of each run of the model from now on."""
    run, runs = cache._run, []
    cache._run = lambda new_ids, *more: runs.append(list(new_ids)) or run(new_ids, *more)
    return runs


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_decoding_is_transformers_generate_id_for_id(lm, penalty):
    for prompt in lm.prompts:
        ids = ours(lm.model, prompt, 30, replace(GREEDY, repetition_penalty=penalty))
        assert ids == theirs(lm.model, prompt, 30, do_sample=False, repetition_penalty=penalty)


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_a_seed_draws_what_transformers_draws(lm, sampling):
    import torch

    torch.manual_seed(sampling.seed)
    options = {name: getattr(sampling, name) for name in ("temperature", "top_k", "top_p", "repetition_penalty")}
    expected = theirs(lm.model, lm.prompts[1], 20, do_sample=True, **options)
    assert ours(lm.model, lm.prompts[1], 20, sampling) == expected
    assert ours(lm.model, lm.prompts[1], 20, replace(sampling, seed=99)) != expected


def test_alternatives_are_given_only_where_they_are_wanted(lm):
    (token,) = generate(lm.exact, lm.prompts[0], 1)
    (wanted,) = generate(lm.exact, lm.prompts[0], 1, alternatives=2)
    assert token.alternatives == () and len(wanted.alternatives) == 2 and token.id == wanted.id


def test_without_a_seed_two_draws_differ(lm):
    hot = Sampling(temperature=2)
    assert ours(lm.model, lm.prompts[1], 8, hot) != ours(lm.model, lm.prompts[1], 8, hot)


@pytest.mark.weekly
def test_the_embedded_model_answers_and_ends_as_with_transformers(embedded_lm):
    model, prompt = embedded_lm.state, embedded_lm.prompts[0]  # elsewhere rounding decides about its first token
    ids = ours(model, prompt, 100)
    assert "Paris" in embedded_lm.tok.decode(ids)
    assert ids[-1] == model.generation_config.eos_token_id and len(ids) < 100
    assert ids == theirs(model, prompt, 100, do_sample=False)


@KINDS
def test_a_continued_text_gives_the_ids_of_an_empty_cache(lm, kind):
    """As in a chat: each message follows an answer, or a part of one."""
    model, text = getattr(lm, kind), list(lm.prompts[0])
    cache = PromptCache(model)
    for turn in range(3):
        answer = ours(model, text, 12, VARIED, stop_ids=(), cache=cache)
        assert answer == ours(model, text, 12, VARIED, stop_ids=())
        text += answer[: 12 - 5 * turn] + lm.prompts[1][turn:]
    assert np.abs(cache.logits(text).copy() - PromptCache(model).logits(text)).max() < 1e-3


@KINDS
def test_the_model_runs_only_on_what_is_not_cached(lm, kind):
    cache, (first, second) = PromptCache(getattr(lm, kind)), lm.prompts
    runs = record_runs(cache)
    shared = common_prefix_length(first[:-1], second)
    assert shared > 0
    for ids, new in [
        (first, first),
        (first + [5, 6], [5, 6]),
        (first + [5, 7, 8], [7, 8]),
        (first + [5], [5]),  # cached, but its logits are gone
        (first[:-1], first[-2:-1]),
        (second, second[shared:]),
    ]:
        cache.logits(ids)
        assert runs.pop() == new and not runs
        assert cache.cached_tokens == len(ids) - len(new) and cache.ids == ids


@KINDS
def test_trimming_the_cache_gives_the_same_bits_again(lm, kind):
    cache, prompt = PromptCache(getattr(lm, kind)), lm.prompts[0]
    cache.logits(prompt)
    before = [cache.logits(prompt + tail).copy() for tail in ([5], [5, 6], [5, 6, 7])]
    cache.logits(prompt + [9] * 20)
    after = [cache.logits(prompt + tail).copy() for tail in ([5], [5, 6], [5, 6, 7])]
    assert np.array_equal(before, after)


@pytest.mark.weekly
def test_at_default_precision_trimming_costs_no_more_than_continuing(embedded_lm):
    """A u8 cache is rounded again when it is trimmed."""
    model, (prompt, tail) = embedded_lm.model, embedded_lm.prompts
    expected = softmax(PromptCache(model).logits(prompt + tail))
    cache = PromptCache(model)
    cache.logits(prompt)
    continued = softmax(cache.logits(prompt + tail))
    cache.logits(prompt + [5] * 20)
    trimmed = softmax(cache.logits(prompt + tail))
    assert np.abs(continued - expected).max() < 0.15 and np.abs(trimmed - expected).max() < 0.15


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


@KINDS
@effort(max_examples=15)
@given(data=st.data())
def test_prefill_leaves_a_short_rest_and_runs_nothing_twice(lm, kind, data):
    model, text = getattr(lm, kind), (lm.prompts[0] * 50)[:600]
    ids = text[: data.draw(st.integers(1, 600), "tokens")]
    shared = data.draw(st.integers(0, len(ids)), "cached")
    cache = PromptCache(model)
    if shared:
        cache.logits(ids[:shared] + data.draw(st.sampled_from([[], [7] * 30]), "tail to trim"))
    shared = common_prefix_length(cache.ids, ids)
    runs, progress = record_runs(cache), []
    for done, total in cache.prefill(ids):
        assert (done, total) == (shared + sum(map(len, runs)), len(ids)), "yielded before the chunk"
        progress.append(done)
    lengths = [len(run) for run in runs]
    assert len(progress) == len(runs) and progress == sorted(set(progress))
    assert all(length <= (cache.kv.prefill_chunk_size or 600) for length in lengths)
    assert len(ids) - shared - sum(lengths) <= MIN_PREFILL
    cache.logits(ids)
    assert sum(runs, []) == ids[min(shared, len(ids) - 1) :]


@KINDS
def test_generate_continues_a_prefilled_cache_with_the_same_ids(lm, kind):
    model, prompt = getattr(lm, kind), (lm.prompts[0] * 50)[:600]
    cache = PromptCache(model)
    assert len(list(cache.prefill(prompt))) == (3 if kind == "exact" else 1)
    runs = record_runs(cache)
    assert ours(model, prompt, 8, VARIED, stop_ids=(), cache=cache) == ours(model, prompt, 8, VARIED, stop_ids=())
    assert len(runs[0]) <= MIN_PREFILL


@KINDS
@pytest.mark.parametrize("stage", ["between chunks", "in a chunk"])
def test_a_cancelled_prefill_ends_within_its_chunk_and_the_cache_is_usable(lm, monkeypatch, kind, stage):
    monkeypatch.setattr(sys.modules["helpers.generate.loop"], "POLL_MS", 0)
    model, prompt = getattr(lm, kind), (lm.prompts[0] * 50)[:600]
    cache, asked = PromptCache(model), []
    runs = record_runs(cache)
    for done, _ in cache.prefill(prompt, lambda: asked.append(1) or len(asked) > (stage == "in a chunk")):
        assert done == 0, "there is no second chunk"
    assert len(runs) == (stage == "in a chunk") and cache.ids == []
    assert ours(model, prompt, 8, VARIED, stop_ids=(), cache=cache) == ours(model, prompt, 8, VARIED, stop_ids=())


@KINDS
@pytest.mark.parametrize("error", [GenerationCancelled, KeyboardInterrupt])
def test_after_a_cancelled_run_the_next_one_is_right(lm, monkeypatch, error, kind):
    monkeypatch.setattr(sys.modules["helpers.generate.loop"], "POLL_MS", 0)

    def cancelled():
        if error is KeyboardInterrupt:
            raise error  # where Python handles it
        return True

    model, prompt = getattr(lm, kind), lm.prompts[0]
    cache, other = PromptCache(model), PromptCache(model)
    cache.logits(prompt)
    with pytest.raises(error):
        cache.logits((prompt * 20)[:400], cancelled)
    assert cache.ids == ([] if kind == "state" else prompt), "a paged cache survives"
    if cache.ids:
        other.logits(prompt)
    assert np.array_equal(cache.logits(prompt + [5]), other.logits(prompt + [5])) and cache.ids == prompt + [5]


@KINDS
@pytest.mark.parametrize("call", ["start_async", "wait_for"])
def test_after_an_interrupt_in_a_run_the_ids_are_the_same(lm, call, kind, monkeypatch):
    model, prompt = getattr(lm, kind), lm.prompts[0]
    cache, expected = PromptCache(model), ours(model, prompt, 6, VARIED, stop_ids=())
    tokens = generate(model, prompt, 6, VARIED, stop_ids=(), cache=cache)
    next(tokens)
    monkeypatch.setattr(PromptCache, "request", Interrupted(cache.request, call))
    with pytest.raises(KeyboardInterrupt):
        next(tokens)
    monkeypatch.undo()
    assert cache.ids == ([] if kind == "state" else prompt)
    assert ours(model, prompt, 6, VARIED, stop_ids=(), cache=cache) == expected


class Interrupted:
    """An infer request that raises KeyboardInterrupt after `call`, once it is started."""

    def __init__(self, request, call):
        self.request, self.call, self.started = request, call, False

    def __getattr__(self, name):
        def call(*arguments):
            result = getattr(self.request, name)(*arguments)
            self.started = self.started or name == "start_async"
            if self.started and name == self.call:
                raise KeyboardInterrupt
            return result

        return call


def test_a_closed_iterator_leaves_a_cache_that_continues(lm):
    prompt, cache = lm.prompts[1], PromptCache(lm.exact)
    expected = ours(lm.exact, prompt, 12, VARIED, stop_ids=())
    tokens = generate(lm.exact, prompt, 12, VARIED, stop_ids=(), cache=cache)
    first = [token.id for token in islice(tokens, 5)]
    tokens.close()
    assert first == expected[:5] and cache.ids == prompt + expected[:4]
    assert ours(lm.exact, prompt + first, 7, VARIED, stop_ids=(), cache=cache) == expected[5:]


def test_two_texts_two_models_and_model_generate_do_not_disturb_each_other(lm):
    prompt, other = lm.prompts
    texts = (lm.model, prompt), (lm.model, other), (lm.exact, prompt)
    alone = [ours(model, ids, 8, VARIED, stop_ids=()) for model, ids in texts]
    rows = []
    for tokens in zip(*(generate(model, ids, 8, VARIED, stop_ids=()) for model, ids in texts), strict=True):
        rows.append([token.id for token in tokens])
        if len(rows) == 4:
            theirs(lm.model, other[:9], 3)
    assert [list(ids) for ids in zip(*rows, strict=True)] == alone


def test_two_iterators_on_one_cache_are_right(lm):
    prompt, cache = lm.prompts[1], PromptCache(lm.exact)
    expected = ours(lm.exact, prompt, 5, VARIED, stop_ids=())
    both = [generate(lm.exact, prompt, 5, VARIED, stop_ids=(), cache=cache) for _ in range(2)]
    assert [(a.id, b.id) for a, b in zip(*both, strict=True)] == [(i, i) for i in expected]


def test_it_ends_after_a_stop_id_or_the_models_eos_token(lm, monkeypatch):
    prompt = lm.prompts[1]
    ids = ours(lm.model, prompt, 8, VARIED, stop_ids=())
    at = next(at for at in range(1, 8) if ids[at] not in ids[:at])
    assert ours(lm.model, prompt, 8, VARIED, stop_ids=[ids[at], 3]) == ids[: at + 1]
    for eos in (ids[at], [3, ids[at]]):
        monkeypatch.setattr(lm.model.generation_config, "eos_token_id", eos)
        assert ours(lm.model, prompt, 8, VARIED) == ids[: at + 1]
        assert theirs(lm.model, prompt, 8, do_sample=False, repetition_penalty=1.3) == ids[: at + 1]
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", [])
    assert ours(lm.model, prompt, 8, VARIED) == ids


@pytest.mark.parametrize(("eos", "ids"), [(None, {7}), (2, {2}), (0, {0}), ([2, 0], {2, 0}), ([], set())])
def test_eos_token_ids_are_those_of_the_generation_config_else_of_the_config(lm, monkeypatch, eos, ids):
    monkeypatch.setattr(lm.model.config, "eos_token_id", 7)
    monkeypatch.setattr(lm.model.generation_config, "eos_token_id", eos)
    assert eos_token_ids(lm.model) == ids


def test_max_new_tokens_and_the_context_limit_the_answer(lm, monkeypatch):
    prompt = lm.prompts[0]
    assert len(ours(lm.model, prompt, 1, stop_ids=())) == 1
    assert len(ours(lm.model, prompt, 7, stop_ids=())) == 7
    monkeypatch.setattr(lm.model.config, "max_position_embeddings", len(prompt) + 4)
    assert len(ours(lm.model, prompt, 7, stop_ids=())) == 4


@pytest.mark.parametrize("sampling", [GREEDY, replace(GREEDY, repetition_penalty=1.2), *SAMPLINGS], ids=str)
def test_tokens_have_the_probabilities_of_their_distribution(lm, sampling):
    import torch

    cache, ids = PromptCache(lm.model), list(lm.prompts[1])
    for token in generate(lm.model, ids, 5, sampling, stop_ids=(), alternatives=5):
        scores = sampling.processors()(torch.tensor([ids]), torch.tensor(cache.logits(ids))[None])
        expected = torch.softmax(scores, dim=-1)[0].numpy()
        assert token.probability == pytest.approx(expected[token.id], rel=1e-3)
        alternatives = [probability for _, probability in token.alternatives]
        assert alternatives == sorted(alternatives, reverse=True) and sum(alternatives) <= 1 + 1e-6
        assert all(probability == pytest.approx(expected[i], rel=1e-3) for i, probability in token.alternatives)
        assert token.alternatives[0][0] == expected.argmax() or alternatives[0] == pytest.approx(expected.max())
        if sampling.temperature == 0:
            assert (token.id, token.probability) == token.alternatives[0]
        assert token.milliseconds > 0
        ids.append(token.id)


@given(
    scores=st.lists(st.sampled_from([-np.inf, -3.0, 0.0, 1.0, 1.5, 80.0]), min_size=1, max_size=30),
    n=st.integers(0, 40),
)
def test_probabilities_are_those_of_softmax_in_the_order_of_argmax(scores, n):
    scores = np.array(scores, dtype=np.float32)
    if scores.max() == -np.inf:
        return
    chosen, expected = int(scores.argmax()), softmax(scores)
    probability, top_tokens = probabilities(scores, chosen, n)
    assert probability == pytest.approx(expected[chosen], rel=1e-5)
    order = [i for i in np.argsort(-scores, kind="stable") if expected[i] > 1e-38]
    assert [i for i, _ in top_tokens] == order[:n]
    assert all(p == pytest.approx(expected[i], rel=1e-5) for i, p in top_tokens)
    assert n == 0 or top_tokens[0] == (chosen, probability)


def test_logits_that_are_not_finite_are_an_error_and_not_cached(lm, monkeypatch):
    cache = PromptCache(lm.model)
    cache.logits(lm.prompts[0])
    monkeypatch.setattr(cache, "_run", lambda *_: np.array([[0, np.nan, 1]]))
    with pytest.raises(TutorialError, match="not finite"):
        list(generate(lm.model, lm.prompts[0] + [5], 3, cache=cache))
    assert cache.ids == []


@pytest.mark.parametrize(
    ("prompt", "n", "options", "words"),
    [
        ([], 5, {}, "is empty"),
        ([1] * 10_000, 5, {}, "10000 tokens"),
        ([1, 10**6], 5, {}, "outside this model's vocabulary"),
        ([-1], 5, {}, "not token ids"),
        ([1, 2], 0, {}, "max_new_tokens cannot be 0"),
        ([1, 2], 3, {"alternatives": -1}, "alternatives cannot be -1"),
        ([1, 2], 3, {"sampling": 0.7}, "0.7 is not a Sampling"),
        ([1, 2], 3, {"stop_ids": ["</s>"]}, "not token ids"),
    ],
)
def test_arguments_that_cannot_be_used_are_refused_immediately(lm, prompt, n, options, words):
    with pytest.raises(TutorialError, match=words):
        generate(lm.model, prompt, n, **options)


def test_a_cache_of_a_different_model_is_refused(lm):
    with pytest.raises(TutorialError, match="different model"):
        generate(lm.model, [1, 2], 3, cache=PromptCache(lm.exact))


def test_an_export_without_a_kv_cache_is_refused(lm, monkeypatch):
    monkeypatch.setattr(lm.model, "stateful", False)
    with pytest.raises(TutorialError, match="text-generation-with-past"):
        PromptCache(lm.model)


def tokens_of(times: list[float]) -> list[GeneratedToken]:
    return [GeneratedToken(7, 1.0, (), milliseconds) for milliseconds in times]


@given(st.lists(st.floats(0.01, 1e5), min_size=2, max_size=40), st.integers(0, 99))
def test_the_statistics_of_an_answer_add_up(times, cached):
    stats = replace(GenerationStats.from_tokens(tokens_of(times)), prompt_tokens=99, cached_tokens=cached)
    assert stats.ttft_ms == times[0] and stats.tpot_ms == pytest.approx(mean(times[1:]))
    assert stats.ttft_ms + stats.tpot_ms * (stats.new_tokens - 1) == pytest.approx(sum(times))
    assert stats.tokens_per_second * stats.tpot_ms == pytest.approx(1000)
    assert stats.prefilled_tokens + stats.cached_tokens == stats.prompt_tokens == 99
    assert stats.context_tokens == 99 + len(times)


@pytest.mark.parametrize("times", [[], [5.0]])
def test_with_too_few_tokens_a_time_is_none(times):
    stats = GenerationStats.from_tokens(tokens_of(times))
    assert stats.ttft_ms == (times[0] if times else None)
    assert stats.tpot_ms is stats.tokens_per_second is stats.context_length is stats.finish_reason is None
