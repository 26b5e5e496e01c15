"""What prompt lookup gains with Phi-3's shape: its passes at their true cost, with answers that a real model gave.

Random weights accept no draft.  So the embedded model answers the prompts of workloads.json first.  Then each pass runs
on the random weights, and its logits are replaced by those that choose the recorded answer.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from helpers import settings
from helpers.generate import PromptCache, generate
from helpers.generate.speculate import PassTimes
from helpers.load import load_model
from helpers.metrics import timing
from helpers.tokenize import prompt_ids

RECORDED = "smollm2-instruct"  # whose answers are replayed
PROMPTS, TOKENS, ROUNDS = 3, 64, 3  # prompts of each workload, tokens of an answer


class ReplayedCache(PromptCache):
    """A KV cache whose model chooses the tokens of `text` [prompt and answer], whatever its weights are."""

    def __init__(self, model, text: list[int], pass_times: PassTimes) -> None:
        super().__init__(model)
        self.text, self.pass_times = text, pass_times

    def last_logits(self, ids, n, cancelled=None):
        logits = np.zeros_like(super().last_logits(ids, n, cancelled))
        for row, following in zip(logits, self.text[len(ids) - n + 1 :], strict=False):
            row[following] = 1
        return logits


def record() -> dict[str, list[tuple[list[int], list[int]]]]:
    """Return for each workload the prompts and answers of the embedded model, with ids that any vocabulary contains.

    The ids of a text are renumbered from 1 in order of first occurrence.  Lookup only compares ids, so its drafts stay
    the same.
    """
    model, tok, _ = load_model(replace(settings.load(), model=RECORDED))
    file, recorded = Path(__file__).with_name("workloads.json"), {}
    for workload, texts in json.loads(file.read_text(encoding="utf-8")).items():
        recorded[workload] = []
        for text in texts[:PROMPTS]:
            prompt = prompt_ids(tok, [{"role": "user", "content": text}])
            ids = prompt + [token.id for token in generate(model, prompt, TOKENS)]
            numbers = {token: number for number, token in enumerate(dict.fromkeys(ids), 1)}
            renumbered = [numbers[token] for token in ids]
            recorded[workload].append((renumbered[: len(prompt)], renumbered[len(prompt) :]))
    return recorded


def replay(model) -> dict:
    """Return the milliseconds per token of each workload in each round, plain and with lookup, and tokens per pass."""
    pass_times, found = PassTimes(), {}
    for workload, texts in record().items():
        caches = [ReplayedCache(model, prompt + answer, pass_times) for prompt, answer in texts]

        def play(lookup: bool, texts=texts, caches=caches) -> tuple[float, float]:
            """Return the milliseconds per token after the first, and tokens per pass, of all texts together."""
            later = []
            for (prompt, answer), cache in zip(texts, caches, strict=True):
                generated = list(generate(model, prompt, len(answer), stop_ids=(), cache=cache, lookup=lookup))
                assert [token.id for token in generated] == answer, "not the recorded answer"
                later += generated[1:]
            undrafted = sum(not token.drafted for token in later)
            return sum(token.milliseconds for token in later) / len(later), len(later) / undrafted

        rounds = timing.interleaved({"plain": partial(play, False), "lookup": partial(play, True)}, ROUNDS, warm_up=0)
        found[workload] = {side: [milliseconds for milliseconds, _ in played] for side, played in rounds.items()}
        found[workload]["tokens_per_pass"] = median(per_pass for _, per_pass in rounds["lookup"])
    return found
