"""Why a target is missed: what attention costs in the form that we use, and how fast the largest product reads.

`Paged` drives the same graph as GenAI's default back end does: each attention with its hidden state becomes one that
keeps keys and values in blocks.  The products and all else stay the same, so what differs from ours is attention.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count, pairwise

import numpy as np

from helpers import graph, measure, runtime, settings
from helpers.generate import Cache

BLOCK = 32  # tokens in a block of the CPU's plugin


class Paged:
    """As helpers.generate.Cache, for the bench: `logits(ids)` runs the model on what it has not read yet."""

    def __init__(self, choice: settings.Settings, longest: int) -> None:
        import openvino as ov
        from openvino._offline_transformations import paged_attention_transformation

        core = ov.Core()
        model = core.read_model(choice.model_dir / "openvino_model.xml")
        graph.join_products(model)
        paged_attention_transformation(model)
        graph.score_last(model, axis=0)  # the tokens are the first axis now
        self.request = core.compile_model(model, "CPU", choice.ov_config).create_infer_request()
        blocks = -(-longest // BLOCK)
        for port in self.request.model_inputs:
            if "cache" in port.any_name:  # [blocks, heads, …]; one of u8 has scales and zero points in it too
                shape = ov.Shape([blocks, *(size.get_length() for size in list(port.get_partial_shape())[1:])])
                memory = ov.Tensor(port.get_element_type(), shape)
                memory.data[...] = 0
                self.request.set_tensor(port, memory)
        self.inputs = {name: ov.Tensor(np.zeros(longest, np.int64)) for name in ("input_ids", "position_ids")}
        sizes = {"past_lens": 1, "subsequence_begins": 2, "block_indices_begins": 2, "block_indices": blocks}
        self.inputs |= {name: ov.Tensor(np.zeros(size, np.int32)) for name, size in sizes.items()}
        self.inputs |= {"max_context_len": ov.Tensor(np.array(0, np.int32))}
        self.inputs["block_indices"].data[:] = range(blocks)
        for name, tensor in self.inputs.items():
            self.request.set_tensor(name, tensor)
        self.ids: list[int] = []

    def logits(self, ids: list[int]) -> np.ndarray:
        past, new, blocks = len(self.ids), ids[len(self.ids) :], -(-len(ids) // BLOCK)
        for name, values in ("input_ids", new), ("position_ids", range(past, len(ids))):
            self.inputs[name].shape = [len(new)]
            self.inputs[name].data[:] = values
        self.inputs["block_indices"].shape = [blocks]
        self.inputs["past_lens"].data[0] = past
        self.inputs["subsequence_begins"].data[1] = len(new)
        self.inputs["block_indices_begins"].data[1] = blocks
        self.inputs["max_context_len"].data[...] = len(ids)
        self.request.start_async()
        self.request.wait()
        self.ids = list(ids)
        return self.request.get_tensor("logits").data[0, -1]


def attention(choice: settings.Settings, plan, ids: list[int]) -> dict:
    """Milliseconds to read a prompt, and per token after it, as we do and with paged attention, by turns."""
    longest = max(plan.prefill)
    sides = {"ours": Cache(runtime.load(choice)[0]), "paged": Paged(choice, longest + plan.tokens)}

    def play(cache, start: int) -> dict[str, float]:
        figures = {}
        for length in plan.prefill:
            cache.ids, text = [], ids[start : start + length + plan.tokens]
            moments = [time.perf_counter()]
            for n in range(length, len(text) + 1):
                cache.logits(text[:n])
                moments.append(time.perf_counter())
            first, *later = (1000 * (b - a) for a, b in pairwise(moments))
            figures |= {f"prefill {length}": first, f"decode {length}": sum(later) / len(later)}
        return figures

    rounds = {side: count() for side in sides}
    turns = {side: lambda side=side: play(sides[side], 7 * next(rounds[side])) for side in sides}
    played = measure.interleaved(turns, plan.rounds, plan.warm_up)
    return {side: {what: [one[what] for one in figures] for what in figures[0]} for side, figures in played.items()}


def products(choice: settings.Settings, plan, ids: list[int]) -> dict:
    """The share of products in the time of a token's operations, and how fast the largest of them, the head, reads."""
    counting = replace(choice, ov_config=choice.ov_config | {"PERF_COUNT": "YES"})
    cache = Cache(runtime.load(counting)[0])
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
