"""Figures of speed: one answer in time, what a call costs by its length, and what each setting moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from IPython.display import Image

from helpers.errors import TutorialError
from helpers.show.canvas import COLOURS, _drawable, blank, coloured, picture


def one_answer(before_ms: float, milliseconds: Sequence[float], pieces: Sequence[str]) -> Image:
    """An answer in time: tokenization, a bar for the first token and one for each later, with TTFT and TPOT marked.

    `milliseconds` and `pieces` are those of the new tokens, at least two.
    """
    if len(milliseconds) < 2:
        raise TutorialError("Between one token and the next there is no time yet.", "Let the answer have two tokens.")
    figure = blank(2.4)
    axes = figure.subplots()
    axes.barh(0, before_ms, height=0.5, color="#8a8f98", label=f"tokenization: {before_ms:.1f} ms")
    left = before_ms
    for number, (wide, piece) in enumerate(zip(milliseconds, pieces, strict=True)):
        colour, label = COLOURS[0] if number % 2 else COLOURS[7], "decode, a call for each token" if number == 1 else ""
        colour, label = (COLOURS[1], "prefill, one call for the prompt") if number == 0 else (colour, label)
        axes.barh(0, wide, left=left, height=0.5, color=colour, label=label or None)
        left += wide
        look = {"rotation": 55, "fontsize": 8, "family": "DejaVu Sans Mono", "parse_math": False}
        axes.text(left, 0.3, _drawable(piece), **look)
    first = before_ms + milliseconds[0]
    for start, end, name in ((0, first, "TTFT"), (first, first + milliseconds[1], "TPOT")):
        axes.annotate("", (start, -0.42), (end, -0.42), arrowprops={"arrowstyle": "<->", "shrinkA": 0, "shrinkB": 0})
        axes.text((start + end) / 2, -0.5, name, ha="center", va="top", fontsize=9)
    axes.set(yticks=[], ylim=(-0.85, 1.5), xlim=(0, 1.04 * left), xlabel="milliseconds since the question")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return picture(figure, f"{len(pieces)} tokens in time: the first at {first:.0f} ms, the last at {left:.0f}")


def scaling(
    measured: Mapping[str, Mapping[float, float]],
    x: str,
    y: str,
    limits: Mapping[str, Mapping[float, float]] | None = None,
) -> Image:
    """A line with dots per name through its x → y, both in steps of ten; a dashed line for each of `limits`."""
    figure = blank(3.6, measured, *measured.values())
    axes = figure.subplots()
    for colour, (name, points) in coloured(measured.items()):
        axes.plot(list(points), list(points.values()), "o-", color=colour, label=name)
        for place in points.items():
            number = f"{place[1]:,.0f}" if place[1] >= 100 else f"{place[1]:.3g}"
            axes.annotate(number, place, (0, -14), textcoords="offset points", ha="center", fontsize=8)
    for name, points in (limits or {}).items():
        axes.plot(list(points), list(points.values()), "--", color="#1f2328", linewidth=1, label=name)
    ticks = sorted({tick for points in measured.values() for tick in points})
    axes.set(xlabel=x, ylabel=y, xscale="log", yscale="log")
    axes.set_xticks(ticks, [f"{tick:,g}" for tick in ticks])
    axes.minorticks_off()
    axes.margins(y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    words = "; ".join(f"{n} " + ", ".join(f"{a:g}: {b:.3g}" for a, b in p.items()) for n, p in measured.items())
    return picture(figure, f"{y} against {x}: {words}")


def groups(bars: Mapping[str, Mapping[str, float]], unit: str, mark: float | None = None) -> Image:
    """For each name a group of bars, one per kind, the same kinds in all; a line at `mark`."""
    kinds = list(dict.fromkeys(kind for values in bars.values() for kind in values))
    figure = blank(0.9 + 0.26 * len(bars) * len(kinds), kinds)
    axes = figure.subplots()
    height = 0.8 / len(kinds)
    for number, (colour, kind) in enumerate(coloured(kinds)):
        rows = [row - 0.4 + (number + 0.5) * height for row in range(len(bars))]
        values = [each[kind] for each in bars.values()]
        axes.barh(rows, values, height=0.9 * height, color=colour, label=kind)
        for row, value in zip(rows, values, strict=True):
            axes.text(value, row, f" {value:.2f}", va="center", fontsize=8)
    if mark is not None:
        axes.axvline(mark, color="#1f2328", linewidth=1, linestyle=":")
    axes.set(xlabel=unit, yticks=range(len(bars)), yticklabels=list(bars), xlim=(0, None))
    axes.margins(x=0.08)
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    words = "; ".join(f"{n} " + ", ".join(f"{k} {v:.2f}" for k, v in each.items()) for n, each in bars.items())
    return picture(figure, f"Bars of {unit}: {words}")
