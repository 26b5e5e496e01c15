"""Figures of a conversation: how its prompt fills the context, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence

from IPython.display import Image

from helpers.show.canvas import COLOURS, blank, picture


def filling(turns: Sequence, truncated_messages: Sequence[int]) -> Image:
    """A bar per turn: tokens from the cache, read and written, below the line where the context ends.

    `turns` are the Figures of the answers, `forgotten` how many messages had been forgotten at each of them; where
    that number grows the bar is marked.
    """
    figure = blank(3.3, turns)
    axes = figure.subplots()
    places, bottom = range(1, len(turns) + 1), [0] * len(turns)
    parts = {
        "from the cache": ([turn.cached_tokens for turn in turns], COLOURS[7]),
        "read": ([turn.new_tokens for turn in turns], COLOURS[2]),
        "written": ([turn.answer_tokens for turn in turns], COLOURS[3]),
    }
    for name, (tokens, colour) in parts.items():
        axes.bar(places, tokens, bottom=bottom, color=colour, label=name, width=0.7)
        bottom = [low + more for low, more in zip(bottom, tokens, strict=True)]
    length = turns[0].context_length
    axes.axhline(length, color="#1f2328", linewidth=1, label=f"the context ends: {length:,}")
    axes.axhline(length / 2, color="#1f2328", linewidth=1, linestyle=":", label="half of it")
    forgets = [
        at
        for at, (now, before) in enumerate(zip(truncated_messages, [0, *truncated_messages], strict=False))
        if now > before
    ]
    look = {"ha": "center", "fontsize": 9, "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1}}
    for at in forgets:
        axes.annotate("forgets", (at + 1, bottom[at]), (0, 4), textcoords="offset points", **look)
    axes.set(xlabel="turn", ylabel="tokens", xticks=places, ylim=(0, 1.08 * length))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=9)
    said = ", ".join(f"{turn} {tokens}" for turn, tokens in zip(places, bottom, strict=True))
    return picture(
        figure,
        f"Bars of tokens per turn in a context of {length}: {said}. Turns are forgotten at "
        f"{', '.join(str(at + 1) for at in forgets) or 'none'}",
    )
