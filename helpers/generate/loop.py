"""prompt ids → a stream of steps: the one generation loop of the project, on OpenVINO's infer request itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from helpers.errors import TutorialError, check_int, check_token_ids
from helpers.generate.kv_cache import PagedKVCache, StatefulKVCache
from helpers.generate.sampling import GREEDY, Sampling

POLL_MS = 50  # how long an interrupt, or Stop, waits while a long prompt is read


class GenerationCancelled(Exception):
    """Nobody waits any more for a run of the model.  It goes on to its end; what it was to read counts as not read."""


@dataclass(frozen=True)
class GeneratedToken:
    """One new token, how likely it was, what else was likely, and what it cost.

    `probability` is that of `id` in the distribution it was chosen from: the softmax of the scores after all that
    Sampling does to the logits.  Greedy without a penalty does nothing to them, so there it is the model's own.
    `alternatives` are the likeliest (id, probability) of that distribution, likeliest first, the chosen one or not.
    `milliseconds` is from when the step was asked for until it was there; the first one's has the prompt in it.
    """

    id: int
    probability: float
    alternatives: tuple[tuple[int, float], ...]
    milliseconds: float


class PromptCache:
    """What the model has read: `ids`, and its KV cache after them, from which it goes on.

    Each Cache has an infer request, hence a KV cache, of its own, and all share the weights: several texts can go on
    by turns, and model.generate in between disturbs none.  Raises TutorialError for an export that keeps none.
    """

    def __init__(self, model) -> None:
        if not model.stateful:
            raise TutorialError("This export forgets each token.", "Export with --task text-generation-with-past.")
        longest, paged = model.config.max_position_embeddings, getattr(model, "paged", None)
        if not paged:
            model.compile()  # does nothing if it is
        self.kv = (
            PagedKVCache(paged, longest) if paged else StatefulKVCache(model.request.get_compiled_model(), longest)
        )
        self.model, self.request, self.ids = model, self.kv.request, list[int]()
        self.cached_tokens = 0  # how many tokens the last call of logits did not have to read again

    def logits(self, ids: list[int], stopped: Callable[[], bool] | None = None) -> np.ndarray:
        """The scores [vocabulary] of each token to follow `ids`; runs the model on what it has not read yet.

        The array is the request's memory: good until the next call.  Raises TutorialError if it holds no numbers, and
        Stopped when `stopped`, asked now and then, says so.
        """
        read, self.ids = self.ids, []
        # One that was interrupted may still run.  To cancel it would be quicker, but leaves the CPU's plugin with nodes
        # of different lengths, and the next run may fail.
        self.request.wait()
        if not read or len(read) >= len(ids) or read != ids[: len(read)]:
            del read[self.kv.trim(len(read), common_prefix_length(read, ids[:-1])) :]  # one at least is left to run
        self.cached_tokens = len(read)
        if self.kv.survives_cancel:  # so that an interrupt loses nothing of it
            self.ids = read
        logits = self._run(ids[self.cached_tokens :], self.cached_tokens, stopped)
        if not np.isfinite(logits.max()):  # one NaN, and the maximum is NaN
            raise TutorialError(
                f"The model's scores after {len(ids)} tokens are not numbers.",
                'Try INFERENCE_PRECISION_HINT = "f32" in ov_config; if that does not help, export again.',
            )
        read.extend(ids[self.cached_tokens :])
        self.ids = read
        return logits

    def _run(self, new: list[int], past: int, stopped: Callable[[], bool] | None) -> np.ndarray:
        self.kv.set_inputs(new, past)
        self.request.start_async()
        while not self.request.wait_for(POLL_MS):  # Python hears an interrupt only between two calls
            if stopped and stopped():
                raise GenerationCancelled
        return self.request.get_tensor("logits").data[0, -1]


def generate(
    model,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Iterable[int] | None = None,
    alternatives: int = 0,
    cache: PromptCache | None = None,
) -> Iterator[GeneratedToken]:
    """The steps that follow `prompt_ids`, each computed when it is asked for.

    They end with the first of `stop_ids` (None: the model's own end tokens), after `max_new_tokens`, or at the end
    of the context.  Whoever wants fewer asks no more.  A `cache` from an earlier call spares reading what it has
    read.  Raises TutorialError at once for a prompt that is empty, too long or of another model, or no budget.
    """
    ids, context, words = check_token_ids(prompt_ids), model.config.max_position_embeddings, model.config.vocab_size
    if not ids or max(ids) >= words:
        raise TutorialError(
            f"The prompt is empty, or has ids that this model does not know (it knows 0 to {words - 1}).",
            "Make it with the tokenizer from the model's own folder.",
        )
    if len(ids) >= context:
        raise TutorialError(
            f"The prompt has {len(ids)} tokens, which leaves no room for an answer in this model's {context}.",
            "Shorten it, or leave out the oldest turns.",
        )
    budget, alternatives = check_int(max_new_tokens, "A budget"), check_int(alternatives, "A choice", 0)
    if cache and cache.model is not model:
        raise TutorialError("This cache is another model's.", "Make one for this: Cache(model).")
    if not isinstance(sampling, Sampling):
        raise TutorialError(f"{sampling!r} is no way to choose.", "Give a Sampling(…), or nothing for the likeliest.")
    stop_ids = eos_token_ids(model) if stop_ids is None else frozenset(check_token_ids(stop_ids))
    cache, budget = cache or PromptCache(model), min(budget, context - len(ids))
    return _generate(cache, ids, budget, sampling.make_sampler(), stop_ids, alternatives)


def common_prefix_length(read: Sequence[int], ids: Sequence[int]) -> int:
    """With how many of the same tokens both begin."""
    return next((n for n, (a, b) in enumerate(zip(read, ids, strict=False)) if a != b), min(len(read), len(ids)))


def eos_token_ids(model) -> frozenset[int]:
    """The tokens with which this model ends an answer; none, if it names none."""
    end = model.generation_config.eos_token_id
    return frozenset(end if isinstance(end, list) else [] if end is None else [end])


def _generate(cache, ids, budget, choose, stop_ids, alternatives) -> Iterator[GeneratedToken]:
    for _ in range(budget):
        start = time.perf_counter()
        chosen, scores = choose(ids, cache.logits(ids))
        probability, top_tokens = probabilities(scores, chosen, alternatives)
        ids.append(chosen)
        yield GeneratedToken(chosen, probability, top_tokens, 1000 * (time.perf_counter() - start))
        if chosen in stop_ids:
            return


def probabilities(scores: np.ndarray, chosen: int, n: int = 0) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Under softmax(scores [vocabulary]), the probability of `chosen` and the `n` likeliest (id, probability).

    Of equals the lower id comes first, as argmax has it; those of probability 0 are left out.
    """
    top = scores.max()
    weights = scores - top  # [vocabulary]
    np.exp(weights, out=weights)  # at most 1, so nothing overflows; in place, as new memory costs more than exp does
    total, top_tokens = weights.sum(), ()
    if n > 0:
        # Nearly always the likeliest n lie within a factor of 3,000: finding those costs a quarter of sorting all.
        near = np.flatnonzero(scores >= top - 8)
        near = near if len(near) >= n else np.flatnonzero(weights > 0)
        order = np.argsort(-scores[near], kind="stable")[:n]
        top_tokens = tuple((int(i), float(weights[i] / total)) for i in near[order])
    return float(weights[chosen] / total), top_tokens
