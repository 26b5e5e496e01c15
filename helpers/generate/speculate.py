"""Speculative decoding: draft the next tokens, verify them in one pass of the model, and decide how many to draft.

A draft affects only the speed: a token is accepted only if the model and the sampler choose the same one without it.
"""

from collections import deque
from statistics import median

from helpers.errors import TutorialError
from helpers.load.config import context_length, vocabulary_size

LENGTHS = (0, 3, 7, 15)  # of drafts: few, so that passes often share one; with one more token, at most SLICED_ABOVE
PASS_COST = {3: 1.05, 7: 1.1, 15: 1.5}  # of a pass with a draft, relative to one without, until it is measured
CHANGE_COST = 0.5  # the extra cost of a pass of a new length, relative to one without a draft, until it is measured
CHANGE_SHARE = 0.5  # the share of that cost that counts, because the next pass often keeps the new length
NGRAMS = (3, 2, 1)  # tokens
LONG_MATCH = 6  # tokens
ACCEPTANCE = {LONG_MATCH: 0.9, 3: 0.7, 2: 0.4, 1: 0.2, 0: 0.02}  # of a draft token, by match, until it is measured
COMPARED = 4  # the weight of these initial rates, as a number of compared tokens
MEMORY = 0.9  # factor by which each pass decays the acceptance counts, and each rejected draft the change share


class PromptLookup:
    """Drafts what followed the last occurrence of the text's last 3 tokens, else 2, else 1.

    Source: Saxena, Prompt Lookup Decoding (github.com/apoorvumang/prompt-lookup-decoding); `prompt_lookup` in GenAI.
    """

    is_free = True

    def __init__(self) -> None:
        self.after: dict[tuple[int, ...], int] = {}  # n-gram → end of its last occurrence that another token follows
        self.indexed, self.start = 0, 0

    def find(self, ids: list[int]) -> int:
        """Return how many of the last tokens occurred before: LONG_MATCH (or more), 3 (or more), 2, 1, or 0."""
        for end in range(self.indexed, len(ids)):
            self.after.update((tuple(ids[end - n : end]), end) for n in NGRAMS if n <= end)
        self.indexed = len(ids)
        for n in NGRAMS:
            if start := self.after.get(tuple(ids[-n:])):
                self.start = start
                is_long = start >= LONG_MATCH and ids[start - LONG_MATCH : start] == ids[-LONG_MATCH:]
                return LONG_MATCH if is_long else n
        self.start = len(ids) - 1  # no match: repeat the last token, as good a guess as any
        return 0

    def draft(self, ids: list[int], length: int) -> list[int]:
        """Return a draft of `length` tokens; where it reaches the end of the text, it continues with its own tokens."""
        period = len(ids) - self.start
        return [ids[self.start + n % period] for n in range(length)]


class DraftModel:
    """Drafts what a small model with the same tokenizer finds most likely.  `cache` is a PromptCache of that model."""

    is_free = False  # each draft costs passes of the small model

    def __init__(self, cache, vocabulary: int) -> None:
        self.cache, self.vocabulary, self.longest = cache, vocabulary, context_length(cache.model.config)
        self.own_vocabulary = vocabulary_size(cache.model.config)

    def find(self, ids: list[int]) -> int:
        """Return 3 (rated like a match of 3 tokens), or 0 if the text does not fit into the draft model's context."""
        return 3 if len(ids) + max(LENGTHS) <= self.longest else 0

    def draft(self, ids: list[int], length: int) -> list[int]:
        """Return up to `length` tokens, greedily decoded; fewer where the vocabularies differ."""
        text = list(ids)
        while len(text) < len(ids) + length and max(text[len(self.cache.ids) :], default=0) < self.own_vocabulary:
            chosen = int(self.cache.logits(text).argmax())
            if chosen >= self.vocabulary:
                break
            text.append(chosen)
        return text[len(ids) :]


class PassTimes:
    """Recent times of a pass in milliseconds for each draft length, on this machine.  Each PromptCache has its own.

    A pass costs less if the previous one had the same length: for a different number of tokens, the CPU plugin prepares
    each operation of the graph again, which takes half as long as a pass of SmolLM2.  If drafts have a `separate` copy
    of the graph, passes without a draft never change their length.
    """

    def __init__(self, separate: bool = False) -> None:
        self.separate = separate
        self.recent = {length: deque[float](maxlen=8) for length in LENGTHS}
        self.changes = deque[float](maxlen=8)  # how much longer a pass of a new length took
        self.last: int | None = None  # the length of the last pass, on the copy for drafts if there is one
        self.passes = 0

    def add(self, length: int, milliseconds: float) -> None:
        """Record the time of a pass; every 32 passes, drop the oldest times."""
        is_new = self._is_new(length)
        self.last = length if is_new else self.last
        times = self.recent.get(length)
        if times is None:
            return  # a draft model ended its draft early
        if not is_new:
            times.append(milliseconds)
        elif times:
            self.changes.append(max(0.0, milliseconds - median(times)))
        self.passes += 1
        if self.passes % 32 == 0:
            for old in (*self.recent.values(), self.changes):
                if old:
                    old.popleft()

    def cost(self, length: int, change_share: float = CHANGE_SHARE) -> float:
        """Return the cost of the next pass relative to one without a draft.

        With a draft, it is infinite until a pass without one has been measured.  A change of length adds `change_share`
        of its cost.  If there are fewer than two measurements, default costs take the place of the missing ones.
        """
        if not self.recent[0]:
            return float("inf") if length else 1.0
        plain = median(self.recent[0])

        def usual(times: deque[float], cost: float) -> float:
            return median([*times, *[cost * plain] * (2 - len(times))]) / plain

        change = change_share * usual(self.changes, CHANGE_COST) if self._is_new(length) else 0.0
        return change + (usual(self.recent[length], PASS_COST[length]) if length else 1.0)

    def _is_new(self, length: int) -> bool:
        return length != self.last and bool(length or not self.separate)


class Speculation:
    """Drafts for one answer, whenever recent acceptance and the measured cost of a pass predict a speedup."""

    def __init__(self, source: PromptLookup | DraftModel, times: PassTimes) -> None:
        self.source, self.times, self.match = source, times, 0
        self.accepted = {match: COMPARED * rate for match, rate in ACCEPTANCE.items()}  # both weighted by MEMORY
        self.compared = dict.fromkeys(ACCEPTANCE, float(COMPARED))
        self.guess, self.drafted, self.change_share = list[int](), 0, CHANGE_SHARE
        times.last = None  # the previous run was the prefill of this answer's prompt, not a pass

    def draft(self, ids: list[int], longest: int) -> list[int]:
        """Return a draft of at most `longest` tokens to follow `ids`; it is empty if drafting would not pay off.

        Without a match, the draft keeps the last length if changing the length would cost more.
        """
        self.match = self.source.find(ids)
        self.drafted = self._length(longest) if self.match or self.source.is_free else 0
        # If guesses are free, make one even without a draft: it shows when drafting would pay off again.
        self.guess = self.source.draft(ids, max(self.drafted, 1 if self.source.is_free else 0))
        return self.guess[: self.drafted]

    def verified(self, chosen: list[int]) -> None:
        """Count how many tokens of the last draft were what the model chose."""
        pairs = [guess == token for guess, token in zip(self.guess, chosen, strict=False)]
        if pairs:
            self.accepted[self.match] = MEMORY * self.accepted[self.match] + sum(pairs)
            self.compared[self.match] = MEMORY * self.compared[self.match] + len(pairs)
            # Otherwise a useless draft could be kept forever, because one pass does not repay the change to no draft.
            self.change_share = MEMORY * self.change_share if self.drafted and not pairs[0] else CHANGE_SHARE

    def _length(self, longest: int) -> int:
        rate = self.accepted[self.match] / self.compared[self.match]

        def gain(length: int) -> float:
            """Return the expected tokens of a pass per unit of its cost; a draft token needs all before it accepted."""
            return sum(rate**n for n in range(length + 1)) / self.times.cost(length, self.change_share)

        return max((length for length in LENGTHS if length <= max(longest, 0)), key=gain)


def make_speculation(cache, lookup: bool, draft_cache) -> Speculation | None:
    """Return the Speculation for generate's arguments, or None.  Raises TutorialError if they cannot be combined."""
    if lookup and draft_cache:
        raise TutorialError("lookup and draft_cache cannot be used together.", "Choose one of them.")
    if draft_cache:
        if draft_cache is cache:
            raise TutorialError("draft_cache is the cache of the model itself.", "Pass a PromptCache of a small model.")
        return Speculation(DraftModel(draft_cache, vocabulary_size(cache.model.config)), cache.pass_times)
    return Speculation(PromptLookup(), cache.pass_times) if lookup else None
