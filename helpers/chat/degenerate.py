"""Find answers that repeat themselves or are not text."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

LONGEST, CIRCLE = 200, 64  # tokens: the longest circle that is looked for, and how long it must go on
BROKEN = re.compile("[\N{REPLACEMENT CHARACTER}ĠĊ▁]|<unk>")  # what a tokenizer shows where it fails
LOOK = "python -m helpers check tells whether the export is sound."


def describe_degeneration(text: str, ids: Sequence[int]) -> str | None:
    """What is wrong with an answer that goes in circles or is no text, and what to do; None for any other.

    `ids` are the tokens of `text`.  Takes a few milliseconds per thousand.
    """
    if len(broken := BROKEN.findall(text)) >= 8 and len(broken) > len(text) / 30:
        return f"Much of this is no text ({len(broken)} marks such as {broken[0]}): the tokenizer fails. {LOOK}"
    tokens = np.asarray(ids)
    for length in range(1, min(LONGEST, len(tokens) // 3) + 1):
        same = np.concatenate([[False], tokens[length:] == tokens[:-length], [False]])
        edges = np.flatnonzero(same[1:] != same[:-1])  # where a stretch of repetition begins, and ends
        most = max(edges[1::2] - edges[::2], default=0)
        if most >= max(CIRCLE, 2 * length):
            circle = "token" if length == 1 else f"{length} tokens"
            return (
                f"This goes in circles: the same {circle} {1 + most // length} times in a row. A repetition penalty of "
                f"1.1, a smaller budget, or the format int8 may help. {LOOK}"
            )
    return None
