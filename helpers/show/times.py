"""Figures of time, memory and agreement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from IPython.display import Image
from matplotlib.patches import Patch

from helpers.show.canvas import COLOURS, blank, coloured, picture


def timeline(seconds: Mapping[str, float]) -> Image:
    """One bar, cut into parts: where the time went.  `seconds` per part, in order."""
    figure = blank(1.9, seconds)
    axes = figure.subplots()
    left = 0.0
    for colour, (name, part) in coloured(seconds.items()):
        axes.barh(0, part, left=left, color=colour, label=f"{name}: {part:.2f} s")
        left += part
    axes.set(yticks=[], xlabel="seconds", xlim=(0, left))
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return picture(figure, "A bar of seconds per part: " + ", ".join(f"{n} {s:.2f}" for n, s in seconds.items()))


def stacks(bars: Mapping[str, Mapping[str, float]], unit: str) -> Image:
    """A bar per name, cut into the same parts in the same colours, with its sum at the end."""
    figure = blank(1 + 0.5 * len(bars), bars)
    axes = figure.subplots()
    sums = [sum(bar.values()) for bar in bars.values()]
    left = [0.0] * len(bars)
    for colour, part in coloured(dict.fromkeys(part for bar in bars.values() for part in bar)):
        widths = [bar.get(part, 0) for bar in bars.values()]
        axes.barh(range(len(bars)), widths, left=left, color=colour, label=part, height=0.6)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, total in enumerate(sums):
        axes.text(total, row, f" {total:,.0f}", va="center")
    axes.set(yticks=range(len(bars)), yticklabels=list(bars), xlabel=unit, xlim=(0, 1.1 * max(sums)))
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    words = ", ".join(f"{name} {total:,.0f}" for name, total in zip(bars, sums, strict=True))
    return picture(figure, f"Stacked bars of {unit}: {words}")


def rounds(values: Mapping[str, Sequence[float]], unit: str) -> Image:
    """A bar per name up to its median, and a dot for each round: how far the dots lie apart is the noise."""
    figure = blank(0.7 + 0.4 * len(values), values, *values.values())
    axes = figure.subplots()
    names, middles = list(values), [median(each) for each in values.values()]
    axes.barh(names, middles, color=COLOURS[7], height=0.6)
    for row, each in enumerate(values.values()):
        axes.plot(each, [row] * len(each), "o", color=COLOURS[0], markersize=5)
        axes.text(0, row, f"  {middles[row]:.3g}", va="center")
    axes.set(xlabel=f"{unit}: median, and a dot for each round", xlim=(0, None))
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    words = ", ".join(f"{name} {middle:.3g}" for name, middle in zip(names, middles, strict=True))
    return picture(figure, f"Bars of {unit}, medians: {words}")


def agreement(reference: Sequence[int], answers: Mapping[str, Sequence[int]]) -> Image:
    """A square per new token: does it agree with the reference, and has everything before it agreed too?"""
    figure = blank(0.8 + 0.36 * len(answers), answers, reference)
    axes = figure.subplots()
    kinds = {"as the reference": COLOURS[3], "another token": COLOURS[2], "after another token": "#e4e4e4"}
    for row, ids in enumerate(answers.values()):
        same = next((n for n, (a, b) in enumerate(zip(ids, reference, strict=True)) if a != b), len(reference))
        spans = (range(same), range(same, min(same + 1, len(ids))), range(same + 1, len(ids)))
        for colour, places in zip(kinds.values(), spans, strict=True):
            axes.barh([row] * len(places), 0.9, left=places, height=0.8, color=colour)
    axes.set(xlabel="new token", yticks=range(len(answers)), yticklabels=list(answers), xlim=(0, len(reference)))
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    handles = [Patch(color=colour, label=kind) for kind, colour in kinds.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
    return picture(figure, "A row of squares per configuration: which new tokens agree with the reference")


def rhythm(seconds: Sequence[float]) -> Image:
    """A dot per token at the second when it came: the wait for the first, then the beat of the others."""
    figure = blank(1.6, seconds)
    axes = figure.subplots()
    first, last = seconds[0], seconds[-1]
    axes.barh(0, first, height=0.5, color="#e4e4e4", label=f"wait for the first token: {first:.2f} s")
    axes.plot(seconds, [0] * len(seconds), "o", markersize=4, color=COLOURS[0], alpha=0.6, label="a token")
    axes.set(yticks=[], ylim=(-0.6, 0.6), xlim=(0, 1.02 * last), xlabel="seconds since the question")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return picture(figure, f"{len(seconds)} dots on a line of time, from {first:.2f} to {last:.2f} seconds")


def reading(moments: Mapping[str, Sequence[float]]) -> Image:
    """A line per name: the seconds at which the first, second, … word is written, or read."""
    figure = blank(3, moments, *moments.values())
    axes = figure.subplots()
    for colour, (name, seconds) in coloured(moments.items()):
        axes.step([0, *seconds], range(len(seconds) + 1), where="post", color=colour, label=name)
    axes.set(xlabel="seconds since the question", ylabel="words", xlim=(0, None), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    words = ", ".join(f"{name} from {seconds[0]:.2f} to {seconds[-1]:.2f} s" for name, seconds in moments.items())
    return picture(figure, f"Words over time: {words}")


def curves(panels: Mapping[str, Mapping[str, Sequence[float]]], x: str) -> Image:
    """Panels side by side, named by what they measure; in each a line per name through its values at 1, 2, 3, …"""
    figure = blank(3.3, panels, *panels.values(), *(each for lines in panels.values() for each in lines.values()))
    for axes, (y, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for colour, (name, values) in coloured(lines.items()):
            axes.plot(range(1, len(values) + 1), values, color=colour, label=name)
        axes.set(xlabel=x, ylabel=y, ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False)
    last = "; ".join(f"{y}: " + ", ".join(f"{n} {v[-1]:,.4g}" for n, v in lines.items()) for y, lines in panels.items())
    return picture(figure, f"Curves against {x}, at their end {last}")
