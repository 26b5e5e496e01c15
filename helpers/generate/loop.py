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

POLL_MS = 50  # the longest that an interrupt or a stop waits during a run of the model
MIN_PREFILL = 16  # prompt tokens: prefill() leaves at most this many to generate()
FINISH_REASONS = ("eos_token", "max_new_tokens", "context", "stopped", "error")


class GenerationCancelled(Exception):
    """The caller cancelled a run of the model.  It still runs to its end, but its tokens do not count as cached."""


@dataclass(frozen=True)
class GeneratedToken:
    """One new token, its probability, the most likely alternatives, and how long it took.

    `probability` is that of `id` in the distribution from which it was chosen: the softmax of the logits after the
    processors of Sampling.  Greedy decoding without a repetition penalty uses no processors, so the probability is the
    model's own.  `alternatives` are the most likely (id, probability) pairs of that distribution in descending order,
    including the chosen token.  `milliseconds` is the time to compute the token; for the first it includes prefill.  If
    a pass yields several tokens, the pass counts for the first of them.  `drafted` is true for a token accepted from a
    draft, which needed no pass of its own.
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
    are in use after the answer.  `finish_reason` is one of FINISH_REASONS, or None if it is unknown.  Of the new
    tokens, `thought_tokens` are thinking before the answer, and `drafted_tokens` were accepted from a draft.
    """

    prompt_tokens: int
    cached_tokens: int | None  # None: the server that generated the answer does not report it
    new_tokens: int
    ttft_ms: float | None
    tpot_ms: float | None
    context_length: int | None
    finish_reason: str | None
    thought_tokens: int = 0
    drafted_tokens: int = 0

    @classmethod
    def from_tokens(cls, tokens: Sequence[GeneratedToken]) -> GenerationStats:
        """Return the statistics of `tokens` from generate(); those of the prompt and the context are not set."""
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
        """Return the mean, 1 without drafts: a pass yields its accepted draft tokens and one that the model chose."""
        return self.new_tokens / max(1, self.new_tokens - self.drafted_tokens)

    @property
    def tokens_per_second(self) -> float | None:
        return 1000 / self.tpot_ms if self.tpot_ms else None


class PromptCache:
    """The KV cache of one text: keys and values of the tokens `ids`, from which the next call continues.

    Each PromptCache has its own infer request and KV cache; all share the weights.  Several texts can therefore be
    generated in turn, and model.generate does not affect them.  Raises TutorialError for an export without a cache.
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
        self.model, self.ids = model, list[int]()
        self.cached_tokens = 0  # how many tokens the last call of last_logits() found in the cache
        self.pass_times = PassTimes(len(paged or ()) > 1)

    @property
    def request(self):
        """The infer request of the last run, or of the next one if none has run."""
        return self.kv.request

    def logits(self, ids: list[int], cancelled: Callable[[], bool] | None = None) -> np.ndarray:
        """Return the logits [vocabulary] after `ids`; run the model on those that are not in the cache.

        The array is the request's memory, so it is valid only until the next call.  Raises TutorialError if the largest
        logit is NaN or infinite, and GenerationCancelled when `cancelled`, called every POLL_MS, returns True.
        """
        return self.last_logits(ids, 1, cancelled)[0]

    def last_logits(self, ids: list[int], n: int, cancelled: Callable[[], bool] | None = None) -> np.ndarray:
        """Return the logits [n, vocabulary] after each of the last `n` ≤ SLICED_ABOVE ids; otherwise like logits()."""
        cached, self.ids = self.ids, []
        # A cancelled run may still be in progress.  request.cancel() would be faster, but it leaves the nodes of the
        # CPU plugin with different sequence lengths, so the next run may fail.
        self.request.wait()
        if not cached or len(cached) > len(ids) - n or cached != ids[: len(cached)]:
            shared = common_prefix_length(cached, ids[:-n])  # the last n must be run in any case
            del cached[self.kv.trim(len(cached), shared) :]
        if self.is_long != (len(ids) > self.long_rope_start):
            self.is_long = not self.is_long
            del cached[self.kv.trim(len(cached), 0) :]  # their keys were rotated with the other set of frequencies
        self.cached_tokens = len(cached)
        if self.kv.survives_cancel:  # so that an interrupt does not lose it
            self.ids = cached
        new_ids = ids[self.cached_tokens :]
        # For a run longer than SLICED_ABOVE, the graph returns only the last logits.
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
        """Return the length to which one pass may extend `n` tokens: only one token may cross the start of longrope."""
        start = self.long_rope_start
        return max(start, n) + 1 if n <= start + 1 else float("inf")

    def _run(self, new_ids: list[int], n_cached: int, cancelled: Callable[[], bool] | None) -> np.ndarray:
        self.kv.set_inputs(new_ids, n_cached)
        self.request.start_async()
        while not self.request.wait_for(POLL_MS):  # Python handles an interrupt only between two calls
            if cancelled and cancelled():
                raise GenerationCancelled
        logits = self.request.get_tensor("logits").data  # of the last position, or of all positions after a short run
        return logits.reshape(-1, logits.shape[-1])

    def prefill(self, ids: list[int], cancelled: Callable[[], bool] | None = None) -> Iterator[tuple[int, int]]:
        """Run the model on `ids` in chunks, except for a short remainder that is left to generate().

        Yields (tokens in the cache, total tokens) before each chunk.  Returns early when `cancelled` returns True.
        """
        done = common_prefix_length(self.ids, ids)
        short = self.long_rope_start if len(ids) > self.long_rope_start else 0
        done = 0 if self.is_long != bool(short) else done
        while (new := len(ids) - done - 1) >= MIN_PREFILL:
            yield done, len(ids)
            if cancelled and cancelled():
                return
            # With longrope, no chunk may end at a length where the other set of frequencies applies.
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

    It ends after the first of `stop_ids` (None: the model's EOS tokens), after `max_new_tokens`, or when the context
    is full.  A `cache` from an earlier call saves the prefill of the tokens in it.  With `lookup`, tokens are
    drafted from the text so far, and each pass verifies several of them; with `draft_cache`, a PromptCache of a small
    model with the same tokenizer, that model drafts them.  In f32 the generated tokens are the same as without drafts;
    in other precisions, a pass over several tokens may round differently.  Raises TutorialError immediately for
    arguments that cannot be used, such as a prompt that is empty, too long, or from a different model.
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
        # Choose all tokens of a pass before yielding the first, because the caller may use the cache in between.
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
            if ran == len(draft) + 1:  # otherwise the cache was used for a different text meanwhile
                cache.pass_times.add(len(draft), 1000 * (spent + time.perf_counter() - trimmed))
            else:
                cache.pass_times.last = None
        yield from tokens
        if tokens[-1].id in stop_ids:
            return


def probabilities(logits: np.ndarray, chosen: int, n: int = 0) -> tuple[float, tuple[tuple[int, float], ...]]:
    """Return the probability of `chosen` under softmax(logits [vocabulary]), and the `n` most likely (id, probability).

    Equally likely tokens are in the order of their ids, as with argmax; tokens of probability 0 are left out.
    """
    top = logits.max()
    weights = logits - top  # [vocabulary]
    np.exp(weights, out=weights)  # at most 1: no overflow; in place, because allocating takes longer than exp
    total, top_tokens = weights.sum(), ()
    if n > 0:
        # The n most likely nearly always lie within a factor of 3,000; finding those is four times faster than sorting.
        near = np.flatnonzero(logits >= top - 8)
        near = near if len(near) >= n else np.flatnonzero(weights > 0)
        order = np.argsort(-logits[near], kind="stable")[:n]
        top_tokens = tuple((int(i), float(weights[i] / total)) for i in near[order])
    return float(weights[chosen] / total), top_tokens
