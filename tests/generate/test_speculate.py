"""Drafts never change the ids; what is drafted, verified, cached; when a draft pays."""

from itertools import islice, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from loaded import load_paged

from helpers.errors import TutorialError
from helpers.generate import GREEDY, GenerationStats, PromptCache, Sampling, generate
from helpers.generate.speculate import (
    CHANGE_COST,
    CHANGE_SHARE,
    LENGTHS,
    LONG_MATCH,
    PASS_COST,
    DraftModel,
    PassTimes,
    PromptLookup,
    Speculation,
)
from helpers.metrics.quality import REFERENCE, evaluation_text

SETTINGS = [
    GREEDY,
    Sampling(repetition_penalty=1.1),
    Sampling(temperature=0.8, top_p=0.95, seed=1),
    Sampling(temperature=1.2, top_k=40, repetition_penalty=1.2, seed=2),
]
# Stateful and paged KV cache, and the latter with a copy of the graph for drafts, all in f32.
KINDS = pytest.mark.parametrize("kind", ["state", "exact", "copies"])


def ids_of(tokens) -> list[int]:
    return [token.id for token in tokens]


class Eager(PassTimes):
    """Drafts cost nothing, so that every length is used wherever there is a match."""

    def cost(self, length, change_share=0.0):
        return 1.0


def eager(model) -> PromptCache:
    cache = PromptCache(model)
    cache.pass_times = Eager()
    return cache


class Fixed:
    """A source whose draft is given: parts of the true text, and tokens that are wrong."""

    is_free = False

    def __init__(self, true, lengths):
        self.true, self.lengths = true, lengths

    def find(self, ids):
        self.begin = len(ids)
        return LONG_MATCH

    def draft(self, ids, length):
        right = self.lengths[self.begin % len(self.lengths)]
        tokens = self.true[self.begin : self.begin + length]
        return [token if n < right else (token + 1) % 500 for n, token in enumerate(tokens)]


def same_ids(model, prompt, n, sampling, cache=None) -> list:
    """Assert that lookup gives the ids of plain decoding; return its tokens.  A `cache` saves both their prefill."""
    plain = list(generate(model, prompt, n, sampling, (), 3, cache))
    tokens = list(generate(model, prompt, n, sampling, (), 3, cache or eager(model), lookup=True))
    assert ids_of(tokens) == ids_of(plain)
    for ours, theirs in zip(tokens, plain, strict=True):
        assert ours.probability == pytest.approx(theirs.probability, rel=1e-2, abs=1e-5)
        assert [i for i, _ in ours.alternatives[:1]] == [i for i, _ in theirs.alternatives[:1]]
    return tokens


def repeated(ids: list[int]):
    return st.sampled_from([ids, [*ids, *ids], [*ids, 9, *ids]])


def repetitive(prompt: list[int]) -> list[int]:
    return prompt * 3


@KINDS
@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_lookup_gives_the_ids_of_plain_decoding(lm, kind, sampling):
    for prompt in lm.prompts:
        same_ids(getattr(lm, kind), repetitive(prompt), 24, sampling)


@KINDS
@effort(max_examples=12)
@given(data=st.data())
def test_right_and_wrong_drafts_of_any_length_give_the_same_ids(lm, kind, data):
    model, prompt = getattr(lm, kind), lm.prompts[1]
    sampling = data.draw(st.sampled_from(SETTINGS), "sampling")
    plain = ids_of(generate(model, prompt, 20, sampling, stop_ids=()))
    right = data.draw(st.lists(st.integers(0, 16), min_size=1, max_size=4), "right tokens of each draft")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.generate.speculate.PromptLookup", lambda: Fixed(prompt + plain, right))
        cache = eager(model)
        tokens = list(generate(model, prompt, 20, sampling, (), cache=cache, lookup=True))
        assert ids_of(tokens) == plain
        assert cache.ids == (prompt + plain)[: len(cache.ids)], "no token that was rejected is cached"
        eos = plain[11]
        stopped = ids_of(generate(model, prompt, 20, sampling, [eos], cache=eager(model), lookup=True))
    assert stopped == plain[: plain.index(eos) + 1], "a stop id inside a draft ends the answer"


@KINDS
def test_a_right_draft_needs_one_pass(lm, kind, monkeypatch):
    model, prompt = getattr(lm, kind), lm.prompts[1]
    plain = ids_of(generate(model, prompt, 33, SETTINGS[1], stop_ids=()))
    monkeypatch.setattr("helpers.generate.speculate.PromptLookup", lambda: Fixed(prompt + plain, [16]))
    cache = eager(model)
    run, runs = cache._run, []
    cache._run = lambda new_ids, *more: runs.append(len(new_ids)) or run(new_ids, *more)
    tokens = list(generate(model, prompt, 33, SETTINGS[1], (), cache=cache, lookup=True))
    assert runs == [len(prompt), 16, 16] and ids_of(tokens) == plain
    assert [token.drafted for token in tokens] == [False, *[True] * 15, False, *[True] * 15, False]
    assert GenerationStats.from_tokens(tokens).tokens_per_pass == pytest.approx(33 / 3)


@KINDS
def test_the_end_of_the_context_is_that_of_plain_decoding(lm, kind, monkeypatch):
    model, prompt = getattr(lm, kind), lm.prompts[0]
    monkeypatch.setattr(model.config, "max_position_embeddings", len(prompt) + 12)
    plain = ids_of(generate(model, prompt, 99, SETTINGS[1], stop_ids=()))
    monkeypatch.setattr("helpers.generate.speculate.PromptLookup", lambda: Fixed(prompt + plain + [1] * 17, [16]))
    assert len(plain) == 12
    assert ids_of(generate(model, prompt, 99, SETTINGS[1], (), cache=eager(model), lookup=True)) == plain


@KINDS
def test_two_answers_on_one_cache_and_a_closed_one_are_right(lm, kind):
    model, prompt = getattr(lm, kind), repetitive(lm.prompts[1])
    expected, cache = ids_of(generate(model, prompt, 20, stop_ids=())), eager(model)
    both = [generate(model, prompt, 20, stop_ids=(), cache=cache, lookup=True) for _ in range(2)]
    assert [(a.id, b.id) for a, b in zip(*both, strict=True)] == [(i, i) for i in expected]
    first = ids_of(islice(generate(model, prompt, 20, stop_ids=(), cache=cache, lookup=True), 5))
    rest = generate(model, prompt + first, 15, stop_ids=(), cache=cache, lookup=True)
    assert first + ids_of(rest) == expected


@KINDS
def test_the_last_logits_are_those_of_each_position(lm, kind):
    cache, text = PromptCache(getattr(lm, kind)), lm.prompts[0]
    expected = np.array([PromptCache(getattr(lm, kind)).logits(text[: len(text) - 7 + n]).copy() for n in range(8)])
    for cached in (0, 5, len(text) - 8, len(text) - 3, len(text)):
        cache.logits(text[: max(cached, 1)])
        assert np.allclose(cache.last_logits(text, 8), expected, rtol=1e-3, atol=2e-3)
        assert cache.ids == text


def test_at_default_settings_each_token_is_the_choice_of_the_pass_that_verified_it(lm):
    cache = eager(lm.model)
    last_logits, chosen = cache.last_logits, []

    def recorded(ids, n, *more):
        rows = last_logits(ids, n, *more)
        chosen.append((len(ids) - n + 1, rows.argmax(-1).tolist()))
        return rows

    cache.last_logits = recorded
    prompt = repetitive(lm.prompts[0])
    text = prompt + ids_of(generate(lm.model, prompt, 30, stop_ids=(), cache=cache, lookup=True))
    for (begin, row), (end, _) in zip(chosen, [*chosen[1:], (len(text), [])], strict=True):
        assert text[begin:end] == row[: end - begin]


@KINDS
def test_a_draft_model_gives_the_ids_of_plain_decoding(lm, exported, kind):
    """Of two random models with one vocabulary one drafts for the other; the model for itself is always right."""
    model = getattr(lm, kind)
    for draft in (load_paged(exported.folder, **REFERENCE), lm.exact):
        for sampling in SETTINGS:
            plain = ids_of(generate(model, lm.prompts[0], 16, sampling, stop_ids=()))
            small = PromptCache(draft)
            tokens = list(generate(model, lm.prompts[0], 16, sampling, (), cache=eager(model), draft_cache=small))
            assert ids_of(tokens) == plain
            if draft is lm.exact and sampling is GREEDY:
                assert sum(token.drafted for token in tokens) > 10


def test_a_draft_model_drafts_nothing_outside_a_vocabulary_or_its_context(lm):
    cache, prompt = PromptCache(lm.exact), lm.prompts[0]
    first = ids_of(generate(lm.exact, prompt, 1, stop_ids=()))
    assert DraftModel(cache, first[0]).draft(prompt, 3) == []
    source = DraftModel(cache, 10**6)
    assert source.draft(prompt + [10**5], 3) == []
    assert source.find([1] * (source.longest - max(LENGTHS))) and not source.find([1] * source.longest)


def test_arguments_that_exclude_each_other_are_refused(lm):
    cache = PromptCache(lm.exact)
    with pytest.raises(TutorialError, match="cannot be used together"):
        generate(lm.exact, [1, 2], 3, lookup=True, draft_cache=cache)
    with pytest.raises(TutorialError, match="the model itself"):
        generate(lm.exact, [1, 2], 3, cache=cache, draft_cache=cache)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20).flatmap(repeated), st.integers(1, 8))
def test_a_draft_follows_the_last_occurrence_of_the_longest_suffix(ids, length):
    source, text = PromptLookup(), []
    for token in ids:
        text.append(token)
        found = source.find(text)
    ends = {n: [end for end in range(n, len(ids)) if ids[end - n : end] == ids[-n:]] for n in (LONG_MATCH, 3, 2, 1)}
    n = next((n for n in (3, 2, 1) if ends[n]), 0)
    assert found == (LONG_MATCH if n == 3 and ends[3][-1] in ends[LONG_MATCH] else n)
    if n:
        copied = list(ids)
        for position in range(ends[n][-1], ends[n][-1] + length):
            copied.append(copied[position])
        assert source.draft(ids, length) == copied[len(ids) :]


def speculation(cost: dict[int, float], right: bool, passes: int = 60) -> list[int]:
    """Return the lengths of the drafts where passes cost so much, and all or none of the tokens are right."""
    times = PassTimes()
    subject, lengths = Speculation(Fixed(list(range(10**4)), [16 if right else 0]), times), []
    for n in range(passes):
        draft = subject.draft([0] * (n + 1), 99)
        subject.verified(list(range(n + 1, n + 17)))
        times.add(len(draft), 10 * ({0: 1} | cost)[len(draft)])
        lengths.append(len(draft))
    return lengths


def test_the_length_of_a_draft_follows_acceptance_and_cost():
    assert speculation(PASS_COST, right=True)[-1] == 15
    assert speculation({3: 1.3, 7: 4, 15: 8}, right=True)[-20:].count(3) > 15
    wrong = speculation(PASS_COST, right=False)
    assert sum(wrong[30:]) == 0 and sum(PASS_COST.get(length, 1) - 1 for length in wrong) < 3, "rejected drafts end"


def test_a_length_is_kept_where_a_change_costs_more():
    """Without a match a draft of 7 wastes 0.4 of a pass; half of what a change costs is more, or less."""
    for change, drafted in (9.0, 7), (5.0, 0):
        times = PassTimes()
        times.recent |= {0: [10.0] * 2, 3: [99.0] * 2, 7: [14.0] * 2}
        times.changes.extend([change] * 2)
        subject = Speculation(PromptLookup(), times)
        times.last = 7
        assert len(subject.draft([1, 2, 3, 4], 99)) == drafted


def test_only_a_pass_of_the_length_before_tells_what_its_length_costs():
    times = PassTimes()
    for milliseconds in (90, 10, 10):
        times.add(0, milliseconds)
    for length, milliseconds in (7, 30), (7, 14), (7, 14), (0, 17), (7, 21):
        times.add(length, milliseconds)
    times.add(2, 1), times.add(2, 1)  # no length that is ever chosen
    times.last = 7
    assert times.cost(7) == 1.4
    assert times.cost(0) == 1 + CHANGE_SHARE * 0.7


def test_with_a_copy_of_the_graph_for_drafts_only_drafts_change_their_length():
    times = PassTimes(separate=True)
    for length, milliseconds in (7, 30), (0, 10), (0, 10), (7, 14), (0, 10), (7, 14), (3, 18):
        times.add(length, milliseconds)
    assert times.cost(0) == 1
    assert times.cost(3) == PASS_COST[3]
    assert times.cost(7) == 1.4 + CHANGE_SHARE * CHANGE_COST


def test_a_pass_after_a_different_text_is_not_timed(lm):
    """It prefills again, and its length is not that of the pass before."""
    cache, timed = PromptCache(lm.model), []
    cache.pass_times.add = lambda length, milliseconds: timed.append(length)
    tokens = generate(lm.model, lm.prompts[0], 4, stop_ids=(), cache=cache, lookup=True)
    next(tokens), next(tokens)
    assert timed == [0]
    cache.pass_times.last = 0
    cache.logits([5, 6, 7])
    next(tokens)
    assert timed == [0] and cache.pass_times.last is None


def test_where_a_draft_never_pays_few_are_tried():
    times = PassTimes()
    for length in LENGTHS:
        for _ in range(4):
            times.add(length, 10 * (1 + length))
    subject = Speculation(PromptLookup(), times)
    times.last = 0
    assert not any(subject.draft([1, 2, 3, 4] * 9, longest) for longest in range(9))


def test_a_lookup_that_pays_again_is_used_again():
    """Without a draft the first token that it would have had is still compared."""
    times = PassTimes()
    times.add(0, 10), times.add(0, 10)
    subject = Speculation(PromptLookup(), times)
    text, drafted = [1, 2, 3, 4, 5, 6, 7, 8] * 3, []
    subject.accepted = dict.fromkeys(subject.accepted, 0.0)
    for _ in range(99):
        drafted.append(subject.draft(text, 8))
        subject.verified([text[-8]])
        text.append(text[-8])
    assert not drafted[0] and drafted[-1]


@pytest.mark.weekly
@KINDS
def test_the_embedded_models_ids_are_those_of_plain_decoding_on_400_prompts_and_settings(embedded_lm, kind):
    """Questions on parts of a text, at reference settings; each match is drafted, whatever a pass costs."""
    tok, model = embedded_lm.tok, getattr(embedded_lm, kind)
    words = evaluation_text().split()
    tasks = ["Repeat this text:", "Summarize this text:", "What is this about?", "Write a poem about:", "Correct:"]
    prompts = []
    for number, task in product(range(20), tasks):
        part = " ".join(words[40 * number : 40 * number + 40])
        chat = [{"role": "user", "content": f"{task}\n{part}"}]
        prompts.append(tok.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])
    cache, drafted = eager(model), 0
    for prompt, sampling in product(prompts, SETTINGS):
        tokens = same_ids(model, prompt, 16, sampling, cache)
        drafted += sum(token.drafted for token in tokens)
    assert drafted > len(prompts) * len(SETTINGS), "the drafts were used"
