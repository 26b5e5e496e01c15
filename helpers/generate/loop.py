"""Prompt ids → a stream of new tokens: the project's generation loop, on OpenVINO's infer request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from helpers.errors import TutorialError, check_int, check_token_ids
from helpers.generate.kv_cache import PagedKVCache, StatefulKVCache
from helpers.generate.sampling import GREEDY, Sampling
from helpers.generate.speculate import PassTimes, make_speculation
from helpers.load.config import context_length, eos_token_ids, long_rope_start, vocabulary_size
from helpers.load.graph import SLICED_ABOVE

POLL_MS = 50  # how long an interrupt or a stop waits at most during prefill
MIN_PREFILL = 16  # prefill leaves so many new tokens, or fewer, to generate
FINISH_REASONS = ("eos_token", "max_new_tokens", "context", "stopped", "error")


class GenerationCancelled(Exception):
    """The caller cancelled a run of the model.  The run continues to its end, but its tokens count as not cached."""


@dataclass(frozen=True)
class GeneratedToken:
    """One new token, its probability, the most likely alternatives, and how long it took.

    `probability` is that of `id` in the distribution from which it was chosen: the softmax of the logits after the
    processors of Sampling.  Greedy decoding without a repetition penalty has none, so there it is the model's own.
    `alternatives` are the most likely (id, probability) of that distribution in descending order, the chosen token
    included.  `milliseconds` runs from the request for the token to its arrival; that of the first includes prefill.
    `drafted` tells whether it was a draft's token, which needed no pass of its own.
    """

    id: int
    probability: float
    alternatives: tuple[tuple[int, float], ...]
    milliseconds: float
    drafted: bool = False


@dataclass(frozen=True)
class GenerationStats:
    """The statistics of one answer.

    `prompt_tokens` counts the whole prompt: `cached_tokens` of it were in the KV cache, `prefilled_tokens` were not.
    `ttft_ms` is the time to the first token, `tpot_ms` the mean time per token after the first, each None when there
    are too few tokens; `tokens_per_second` is the decode rate, 1000 / tpot_ms.  `context_tokens` of `context_length`
    are in use after the answer.  `finish_reason` is one of FINISH_REASONS, or None where it is unknown.  Of the new
    tokens, `thought_tokens` are a thought before the answer, and `drafted_tokens` were accepted from a draft.
    """

    prompt_tokens: int
    cached_tokens: int | None  # None: the server that generated the answer does not tell
    new_tokens: int
    ttft_ms: float | None
    tpot_ms: float | None
    context_length: int | None
    finish_reason: str | None
    thought_tokens: int = 0
    drafted_tokens: int = 0

    @classmethod
    def from_tokens(cls, tokens: Sequence[GeneratedToken]) -> GenerationStats:
        """Return the statistics of generate's `tokens`, without those of the prompt and the context."""
        times = [token.milliseconds for token in tokens]
        ttft_ms, tpot_ms = times[0] if times else None, mean(times[1:]) if times[1:] else None
        drafted = sum(token.drafted for token in tokens)
        return cls(0, 0, len(times), ttft_ms, tpot_ms, None, None, drafted_tokens=drafted)

    @property
    def prefilled_tokens(self) -> int:
        return self.prompt_tokens - (self.cached_tokens or 0)

    @property
    def context_tokens(self) -> int:
        return self.prompt_tokens + self.new_tokens

    @property
    def tokens_per_pass(self) -> float:
        """1 without drafts.  Each pass adds the accepted tokens of its draft and one that the model chose instead."""
        return self.new_tokens / max(1, self.new_tokens - self.drafted_tokens)

    @property
    def tokens_per_second(self) -> float | None:
        return 1000 / self.tpot_ms if self.tpot_ms else None


class PromptCache:
    """The KV cache of one text: keys and values of the tokens `ids`, from which the next call continues.

    Each PromptCache has its own infer request and KV cache, and all share the weights.  So several texts can be
    generated alternately, and model.generate does not affect them.  Raises TutorialError for an export without a cache.
    """

    def __init__(self, model) -> None:
        if not model.stateful:
            raise TutorialError("This export has no KV cache.", "Export with --task text-generation-with-past.")
        paged, longest = getattr(model, "paged", None), context_length(model.config)
        if paged:
            self.kv = PagedKVCache(paged, longest)
        else:
            model.compile()  # does nothing if it is compiled
            self.kv = StatefulKVCache(model.request.get_compiled_model(), longest)
        self.long_rope_start, self.is_long = long_rope_start(model.config) or longest, False
        self.model, self.request, self.ids = model, self.kv.request, list[int]()
        self.cached_tokens = 0  # how many tokens the last call of logits found in the cache
        self.pass_times = PassTimes()

    def logits(self, ids: list[int], cancelled: Callable[[], bool] | None = None) -> np.ndarray:
        """Return the logits [vocabulary] after `ids`; runs the model on those that are not in the cache.

        The array is the request's memory: valid until the next call.  Raises TutorialError for logits that are NaN or
        infinite, and GenerationCancelled when `cancelled`, called every POLL_MS, returns True.
        """
        return self.last_logits(ids, 1, cancelled)[0]

    def last_logits(self, ids: list[int], n: int, cancelled: Callable[[], bool] | None = None) -> np.ndarray:
        """Return the logits [n, vocabulary] after each of the last `n` of `ids`, at most SLICED_ABOVE; as logits()."""
        cached, self.ids = self.ids, []
        # A cancelled run may still be going on.  request.cancel() would be faster, but leaves the CPU plugin with nodes
        # of different lengths, and the next run may fail.
        self.request.wait()
        if not cached or len(cached) > len(ids) - n or cached != ids[: len(cached)]:
            shared = common_prefix_length(cached, ids[:-n])  # at least the last ones have to be run
            del cached[self.kv.trim(len(cached), shared) :]
        if self.is_long != (len(ids) > self.long_rope_start):
            self.is_long = not self.is_long
            del cached[self.kv.trim(len(cached), 0) :]  # their keys were rotated by different frequencies
        self.cached_tokens = len(cached)
        if self.kv.survives_cancel:  # so that an interrupt loses nothing of it
            self.ids = cached
        new_ids = ids[self.cached_tokens :]
        # Of a longer run the graph returns the last logits only.
        runs = [new_ids[:-n], new_ids[-n:]] if n > 1 and len(new_ids) > SLICED_ABOVE else [new_ids]
        for run in runs:
            logits = self._run(run, len(cached), cancelled)[-n:]
            if not np.isfinite(logits.max()):  # one NaN makes the maximum NaN
                self.ids = []
                hint = 'Try INFERENCE_PRECISION_HINT = "f32" in ov_config; if that does not help, export again.'
                raise TutorialError(f"The model's logits after {len(ids)} tokens are not finite numbers.", hint)
            cached.extend(run)
        self.ids = cached
        return logits

    def trim(self, ids: list[int]) -> None:
        """Remove the tokens of a draft that were not accepted, so that the cache holds all of `ids` but the last."""
        kept = len(ids) - 1
        if len(self.ids) > kept and self.ids[:kept] == ids[:kept]:
            del self.ids[self.kv.trim(len(self.ids), kept) :]

    def same_rope_until(self, n: int) -> float:
        """Return to how many tokens a text of `n` may grow in a pass: by one only where longrope changes all keys."""
        start = self.long_rope_start
        return max(start, n) + 1 if n <= start + 1 else float("inf")

    def _run(self, new_ids: list[int], n_cached: int, cancelled: Callable[[], bool] | None) -> np.ndarray:
        self.kv.set_inputs(new_ids, n_cached)
        self.request.start_async()
        while not self.request.wait_for(POLL_MS):  # Python handles an interrupt only between two calls
            if cancelled and cancelled():
                raise GenerationCancelled
        logits = self.request.get_tensor("logits").data  # of the last position; of all of a short run
        return logits.reshape(-1, logits.shape[-1])

    def prefill(self, ids: list[int], cancelled: Callable[[], bool] | None = None) -> Iterator[tuple[int, int]]:
        """Run the model on `ids` in chunks, all but a short rest that is left to generate.

        Yields (tokens in the cache, tokens in all) before each chunk.  Returns early when `cancelled` returns True.
        """
        done = common_prefix_length(self.ids, ids)
        short = self.long_rope_start if len(ids) > self.long_rope_start else 0
        done = 0 if self.is_long != bool(short) else done
        while (new := len(ids) - done - 1) >= MIN_PREFILL:
            yield done, len(ids)
            if cancelled and cancelled():
                return
            # With longrope, no chunk may end where the other set of frequencies applies.
            done = max(done + min(new, self.kv.prefill_chunk_size or new), short + 1)
            if done == len(ids):
                return
            try:
                self.logits(ids[:done], cancelled)
            except GenerationCancelled:
                return


def common_prefix_length(cached: Sequence[int], ids: Sequence[int]) -> int:
    """Return the number of tokens that are the same at the start of both."""
    return next((n for n, (a, b) in enumerate(zip(cached, ids, strict=False)) if a != b), min(len(cached), len(ids)))


def generate(
    model,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampling: Sampling = GREEDY,
    stop_ids: Iterable[int] | None = None,
    alternatives: int = 0,
    cache: PromptCache | None = None,
    lookup: bool = False,
    draft_cache: PromptCache | None = None,
) -> Iterator[GeneratedToken]:
    """Return an iterator over the new tokens that follow `prompt_ids`; each is computed when it is requested.

    It ends after the first of `stop_ids` (None: the model's EOS tokens), after `max_new_tokens`, or at the end of the
    context.  A `cache` of an earlier call saves the prefill of what it holds.  With `lookup`, tokens are drafted from
    the text so far and verified several in a pass; with `draft_cache`, a PromptCache of a small model with the same
    tokenizer, that model drafts them.  The tokens are the same, in f32; elsewhere a pass over several tokens may round
    differently.  Raises TutorialError immediately for arguments that cannot be used, such as a prompt that is empty,
    too long, or of a different model.
    """
    ids, limit = check_token_ids(prompt_ids), check_int(max_new_tokens, "max_new_tokens")
    context, vocabulary = context_length(model.config), vocabulary_size(model.config)
    if not ids or max(ids) >= vocabulary:
        what = f"The prompt is empty, or has ids outside this model's vocabulary (0 to {vocabulary - 1})."
        raise TutorialError(what, "Create it with the tokenizer in the model's folder.")
    if len(ids) >= context:
        what = f"The prompt has {len(ids)} tokens, which leaves no room for an answer in a context of {context}."
        raise TutorialError(what, "Shorten it, or leave out the oldest messages.")
    alternatives = check_int(alternatives, "alternatives", 0)
    if cache and cache.model is not model:
        raise TutorialError("This cache belongs to a different model.", "Create one: PromptCache(model).")
    if not isinstance(sampling, Sampling):
        raise TutorialError(f"{sampling!r} is not a Sampling.", "Pass a Sampling(…), or nothing for greedy decoding.")
    stop_ids = eos_token_ids(model) if stop_ids is None else frozenset(check_token_ids(stop_ids))
    cache, limit = cache or PromptCache(model), min(limit, context - len(ids))
    options = cache, ids, limit, sampling.make_sampler(), stop_ids, alternatives
    speculation = make_speculation(cache, lookup, draft_cache)
    return _speculate(*options, speculation) if speculation else _generate(*options)


def _generate(cache, ids, max_new_tokens, choose, stop_ids, alternatives) -> Iterator[GeneratedToken]:
    for _ in range(max_new_tokens):
        start = time.perf_counter()
        chosen, logits = choose(ids, cache.logits(ids))
        probability, top_tokens = probabilities(logits, chosen, alternatives)
        ids.append(chosen)
        yield GeneratedToken(chosen, probability, top_tokens, 1000 * (time.perf_counter() - start))
        if chosen in stop_ids:
            return


def _speculate(cache, ids, max_new_tokens, choose, stop_ids, alternatives, speculation) -> Iterator[GeneratedToken]:
    begin, end, context = len(ids), len(ids) + max_new_tokens, context_length(cache.model.config)
    while len(ids) < end:
        start, n, draft, tokens = time.perf_counter(), len(ids), [], []
        if n > begin:
            draft = speculation.draft(ids, min(context, cache.same_rope_until(n)) - n - 1)
        asked, rows = start, cache.last_logits(ids + draft, len(draft) + 1)
        ran, spent = n + len(draft) - cache.cached_tokens, time.perf_counter() - start
        # All tokens of a pass before the first of them is returned: then the caller may use the cache.
        for row, guess in zip(rows[: end - n], [*draft, None], strict=False):
            chosen, logits = choose(ids, row)
            probability, top_tokens = probabilities(logits, chosen, alternatives)
            ids.append(chosen)
            now = time.perf_counter()
            tokens.append(GeneratedToken(chosen, probability, top_tokens, 1000 * (now - asked), chosen == guess))
            asked = now
            if chosen in stop_ids or chosen != guess:
                break
        trimmed = time.perf_counter()
        cache.trim(ids)
        if n > begin:
            speculation.verified(ids[n:])
            if ran == len(draft) + 1:  # else the cache was used for a different text
                cache.pass_times.add(len(draft), 1000 * (spent + time.perf_counter() - trimmed))
            else:
                cache.pass_times.last = None
        yield from tokens
        if tokens[-1].id in stop_ids:
            return


def probabilities(logits: np.ndarray, chosen: int, n: int = 0) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Return the probability of `chosen` under softmax(logits [vocabulary]), and the `n` most likely (id, probability).

    Equal probabilities are in the order of their ids, as argmax has it; tokens of probability 0 are left out.
    """
    top = logits.max()
    weights = logits - top  # [vocabulary]
    np.exp(weights, out=weights)  # at most 1, so nothing overflows; in place, because new memory costs more than exp
    total, top_tokens = weights.sum(), ()
    if n > 0:
        # The n most likely nearly always lie within a factor of 3,000; finding those is four times faster than sorting.
        near = np.flatnonzero(logits >= top - 8)
        near = near if len(near) >= n else np.flatnonzero(weights > 0)
        order = np.argsort(-logits[near], kind="stable")[:n]
        top_tokens = tuple((int(i), float(weights[i] / total)) for i in near[order])
    return float(weights[chosen] / total), top_tokens
