"""Where the time goes: what the paged KV cache saves, how fast the LM head reads, what fused projections change."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from itertools import count, pairwise
from unittest import mock

from engines import GENAI, Worker

from helpers import settings
from helpers.generate import PromptCache
from helpers.load import graph, load_model
from helpers.metrics import timing


def attention(choice: settings.Settings, plan, ids: list[int]) -> dict:
    """Return the milliseconds of a prefill, of an equally long one after it, and of a decode step, with each KV cache.

    Only attention differs: the rest of the graph, its matrix multiplications and the loop are the same.
    """
    model = load_model(choice)[0]
    stateful = copy(model)
    stateful.paged = None  # so that its PromptCache uses the stateful cache, as model.generate does
    sides = {"paged": PromptCache(model), "stateful": PromptCache(stateful)}

    def play(cache: PromptCache, start: int) -> dict[str, float]:
        figures = {}
        for length in plan.prefill[:2]:
            cache.ids, text = [], ids[start : start + 2 * length + plan.tokens]
            moments = [time.perf_counter()]
            for n in length, *range(2 * length, len(text) + 1):
                cache.logits(text[:n])
                moments.append(time.perf_counter())
            first, behind, *later = (1000 * (b - a) for a, b in pairwise(moments))
            figures |= {f"prefill {length}": first, f"behind {length}": behind}
            figures |= {f"decode {2 * length}": sum(later) / len(later)}
        return figures

    rounds = {side: count() for side in sides}
    turns = {side: lambda side=side: play(sides[side], 7 * next(rounds[side])) for side in sides}
    played = timing.interleaved(turns, plan.rounds, plan.warm_up)
    return {side: {what: [one[what] for one in figures] for what in figures[0]} for side, figures in played.items()}


def matmuls(choice: settings.Settings, plan, ids: list[int]) -> dict:
    """Return the share of matrix multiplications in the operation time, and the rate at which the LM head reads."""
    counting = replace(choice, ov_config=choice.ov_config | {"PERF_COUNT": "YES"})
    cache = PromptCache(load_model(counting)[0])
    for n in range(1, plan.tokens + 1):
        cache.logits(ids[:n])
    done = [one for one in cache.request.get_profiling_info() if one.status == one.Status.EXECUTED]
    took = {one.node_name: one.real_time.total_seconds() for one in done}  # averages of all calls
    kinds = [one.node_name for one in done if one.node_type.startswith("FullyConnected")]
    (head,) = (name for name in kinds if "lm_head" in name)
    config = cache.model.config
    size = config.vocab_size * config.hidden_size  # a byte each: the head is kept in 8 bits
    share = sum(took[name] for name in kinds) / sum(took.values())
    return {"share": share, "head_bytes": size, "head_gb_per_second": size / took[head] / 1e9}


def fusion(choice: settings.Settings, plan, ids: list[int]) -> dict:
    """Return the milliseconds of prefill and of a decode step, with and without fused projections; GenAI's prefill.

    No engine runs besides these, and GenAI only for the prefill, so that little displaces what they hold in the
    processor's caches.
    """
    length, caches = plan.prefill[1], {}
    for side, fuse in {"fused": graph.fuse_parallel_matmuls, "separate": lambda model: 0}.items():
        with mock.patch.object(graph, "fuse_parallel_matmuls", fuse):
            caches[side] = PromptCache(load_model(choice)[0])

    def prefill(cache: PromptCache, start: int) -> float:
        cache.ids, begun = [], time.perf_counter()
        cache.logits(ids[start : start + length])
        return 1000 * (time.perf_counter() - begun)

    def decode(cache: PromptCache, start: int) -> float:
        cache.logits(ids[start : start + 8])
        begun = time.perf_counter()
        for n in range(9, 9 + plan.tokens):
            cache.logits(ids[start : start + n])
        return 1000 * (time.perf_counter() - begun) / plan.tokens

    def turns(play, cache, rounds) -> Callable[[], float]:
        return lambda: play(cache, 7 * next(rounds))

    rounds = 2 * plan.rounds, plan.warm_up
    with Worker(GENAI, plan.threads) as genai:
        sides = {side: turns(prefill, cache, count()) for side, cache in caches.items()}
        sides["GenAI"] = turns(lambda worker, at: worker.play(ids[at : at + length], 1)["first_ms"], genai, count())
        found = {"prefill": timing.interleaved(sides, *rounds)}
    sides = {side: turns(decode, cache, count()) for side, cache in caches.items()}
    return found | {"decode": timing.interleaved(sides, *rounds)}
