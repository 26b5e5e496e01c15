"""Detect answers that repeat themselves or are not text."""

import re
from collections.abc import Sequence

import numpy as np

MAX_PERIOD, MIN_REPEATED = 200, 64  # tokens: the longest repeated passage to look for; how long repetition must last
BROKEN = re.compile("[\N{REPLACEMENT CHARACTER}ĠĊ▁]|<unk>")  # what a tokenizer writes when decoding fails
CHECK = "To check the export: python -m helpers check"


def describe_degeneration(text: str, ids: Sequence[int]) -> str | None:
    """Return what is wrong with an answer that repeats itself or is not text, and what to do; otherwise None.

    `ids` are the tokens of `text`.  Takes a few milliseconds per thousand tokens.
    """
    if len(broken := BROKEN.findall(text)) >= 8 and len(broken) > len(text) / 30:
        return f"Much of the answer is not text ({len(broken)} characters such as {broken[0]}): decoding fails. {CHECK}"
    tokens = np.asarray(ids)
    for period in range(1, min(MAX_PERIOD, len(tokens) // 3) + 1):
        same = np.concatenate([[False], tokens[period:] == tokens[:-period], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])  # where a stretch of repetition begins, and where it ends
        repeated = max(edges[1::2] - edges[::2], default=0)
        if repeated >= max(MIN_REPEATED, 2 * period):
            passage = "token" if period == 1 else f"{period} tokens"
            return (
                f"The answer repeats itself: the same {passage} {1 + repeated // period} times in a row. Try a "
                f"higher repetition penalty, a smaller max_new_tokens, or the weight format int8. {CHECK}"
            )
    return None
