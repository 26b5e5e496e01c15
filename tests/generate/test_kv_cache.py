"""The paged and the stateful KV cache against each other, and what each of them must not depend on."""

import numpy as np
import pytest

from helpers.generate import PromptCache
from helpers.generate.kv_cache import INITIAL_CAPACITY, PagedKVCache, StatefulKVCache


@pytest.mark.parametrize("kind", ["exact", "copies"])
def test_both_give_the_same_logits_whatever_the_lengths_of_the_runs(lm, kind):
    """Over the ends of blocks and of the capacity, trimmed, and continued."""
    paged, stateful = PromptCache(getattr(lm, kind)), PromptCache(lm.state)
    assert isinstance(paged.kv, PagedKVCache) and isinstance(stateful.kv, StatefulKVCache)
    block, text = paged.kv.block, (lm.prompts[0] * 40)[: INITIAL_CAPACITY + 40]
    lengths = [1, block - 1, block, block + 1, 7, 3 * block, 3 * block + 1]
    grown = False
    for length in [*lengths, INITIAL_CAPACITY, INITIAL_CAPACITY + 1, INITIAL_CAPACITY + 40, block + 2]:
        ours, expected = paged.logits(text[:length]), stateful.logits(text[:length])
        assert np.abs(ours - expected).max() < 2e-3 * np.abs(expected).max(), length
        assert paged.cached_tokens == stateful.cached_tokens
        grown = grown or length > INITIAL_CAPACITY
        assert paged.kv.capacity == (INITIAL_CAPACITY // block) * (2 if grown else 1)


def test_what_a_block_holds_behind_the_cached_tokens_does_not_matter(lm):
    """Nothing is cleared when blocks are added or the cache is trimmed, so it can be anything, even NaN."""
    clean, dirty = PromptCache(lm.exact), PromptCache(lm.exact)
    dirty.logits([5])
    for memory in dirty.kv.memory.values():
        memory.data[:] = np.nan
    dirty.ids = []
    for length in (1, 2, dirty.kv.block - 1, dirty.kv.block + 1, 100):
        text = (lm.prompts[0] * 10)[:length]
        assert np.array_equal(clean.logits(text), dirty.logits(text))


def test_a_state_that_cannot_be_trimmed_is_reset(lm):
    cache, prompt = PromptCache(lm.model), lm.prompts[0]
    cache.logits(prompt + [5, 6, 7])
    cache.ids.append(8)  # now no tensor of the state has as many tokens
    logits = cache.logits(prompt + [9]).copy()
    assert cache.cached_tokens == 0 and cache.ids == prompt + [9]
    assert np.array_equal(logits, PromptCache(lm.model).logits(prompt + [9]))
