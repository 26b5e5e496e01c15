"""Where the time goes: what the paged KV cache saves, how fast the LM head reads, prefill beside GenAI alone."""

from __future__ import annotations

import time
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import count, pairwise

from engines import GENAI, OURS, Worker

from helpers import settings
from helpers.generate import PromptCache
from helpers.load import load_model
from helpers.metrics import timing


def attention(choice: settings.Settings, plan, ids: list[int]) -> dict:
    """Return the milliseconds of a prefill, of as long a prefill behind it, and per decode step, with either KV cache.

    All but attention is the same: the graph, its products, and the loop.
    """
    model = load_model(choice)[0]
    stateful = copy(model)
    stateful.paged = None  # so that its PromptCache uses what model.generate does
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


def prefill(plan, ids: list[int]) -> dict:
    """Return the milliseconds of prefill, ours and GenAI's: of one length, and of one that is new in each round.

    Only these two engines run, so no third one displaces what they hold in the processor's caches.
    """
    length, rounds = plan.prefill[1], 2 * plan.rounds + plan.warm_up
    lengths = {"same length": [length] * rounds, "new length": [length - 2 * n for n in range(rounds)]}
    with Worker(OURS, plan.threads) as ours, Worker(GENAI, plan.threads) as genai:

        def play(worker: Worker, turns) -> float:
            n = next(turns)
            return worker.play(ids[7 * n : 7 * n + lengths[what][n]], 1)["first_ms"]

        found = {}
        for what in lengths:
            sides = {worker.name: partial(play, worker, count()) for worker in (ours, genai)}
            found[what] = timing.interleaved(sides, 2 * plan.rounds, plan.warm_up)
        return found
