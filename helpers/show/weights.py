"""Figures of weights: what compression did to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise

from IPython.display import Image

from helpers.show.canvas import COLOURS, blank, coloured, picture


def on_grid(weights, codes, scale: float) -> Image:
    """One group: a dot per weight, a line per value that 4 bits can hold, a stroke from dot to line."""
    figure = blank(5, weights)
    axes = figure.subplots()
    n, places = len(weights), range(len(weights))
    for code in range(-8, 8):
        axes.axhline(code * scale, color="#dddddd", linewidth=0.8, zorder=0)
        axes.text(n + 0.5, code * scale, code, va="center", fontsize=8)
    axes.vlines(places, weights, codes * scale, color=COLOURS[2], linewidth=2, label="error")
    axes.scatter(places, codes * scale, s=40, marker="_", color=COLOURS[2], label="stored")
    axes.scatter(places, weights, s=10, color=COLOURS[0], zorder=3, label="weight")
    axes.set(xlabel="place in the group", ylabel="value", xlim=(-1, n + 3))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return picture(figure, f"{n} weights, and for each the nearest of 16 evenly spaced values")


def before_and_after(before, after, codes) -> Image:
    """Left: the weights as published and as restored from 4 bits.  Right: how often each code is used."""
    figure = blank(3, before)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    reach = 4 * float(before.std())
    options = {"bins": 161, "range": (-reach, reach)}
    counts, *_ = left.hist(before.ravel(), color=COLOURS[7], label="16 bits", **options)
    left.hist(after.ravel(), color=COLOURS[2], histtype="step", label="restored from 4", **options)
    left.set(xlabel="weight", ylabel="how many", ylim=(0, 1.5 * counts.max()))  # the peak at zero would hide the rest
    left.legend(frameon=False)
    shares = [float((codes == code).mean()) for code in range(-8, 8)]
    right.bar(range(-8, 8), shares, color=COLOURS[0])
    right.set(xlabel="code", ylabel="share", xticks=range(-8, 8, 2))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return picture(figure, "Histograms: the weights before and after, and the share of each of the 16 codes")


def group_errors(errors, unit: str) -> Image:
    """A map of one matrix: a column per row of it, a cell per group, bright where the error is large."""
    figure = blank(2.6, errors)
    axes = figure.subplots()
    image = axes.imshow(errors.T, aspect="auto", interpolation="nearest", cmap="magma")
    axes.set(xlabel="row of the matrix", ylabel="group in the row")
    figure.colorbar(image, ax=axes, label=unit)
    return picture(figure, f"A map of {errors.shape[0]} rows by {errors.shape[1]} groups, coloured by {unit}")


def trade_off(series: Mapping[str, Sequence[tuple[float, float, str]]], x: str, y: str) -> Image:
    """A line per series through its (x, y, label) points, y in steps of ten."""
    figure = blank(3.4, series, *series.values())
    axes = figure.subplots()
    for colour, (name, points) in coloured(series.items()):
        xs, ys, labels = zip(*points, strict=True)
        axes.plot(xs, ys, "o-", color=colour, label=name)
        for label, *place in zip(labels, xs, ys, strict=True):
            axes.annotate(label, place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set(xlabel=x, ylabel=y, yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    return picture(figure, f"{y} against {x}, a line each for {', '.join(series)}")


def precision_map(kinds: Mapping[tuple[int, str], str]) -> Image:
    """A square per (layer, matrix), coloured by the kind of number in it."""
    names, matrices = sorted(set(kinds.values())), list(dict.fromkeys(matrix for _, matrix in kinds))
    figure = blank(0.9 + 0.28 * len(matrices), kinds)
    axes = figure.subplots()
    for colour, kind in coloured(names):
        places = [(layer, matrices.index(matrix)) for (layer, matrix), found in kinds.items() if found == kind]
        bars = {"height": 0.9, "color": colour, "label": f"{kind}: {len(places)}"}
        axes.barh([row for _, row in places], 0.9, left=[layer - 0.45 for layer, _ in places], **bars)
    axes.set(xlabel="layer", yticks=range(len(matrices)), yticklabels=matrices)
    axes.invert_yaxis()
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    counts = ", ".join(f"{kind} {list(kinds.values()).count(kind)}" for kind in names)
    return picture(figure, f"{len(matrices)} kinds of matrices by layer, coloured by precision: {counts}")


def ranking(values: Mapping[str, float], kinds: Mapping[str, str], y: str) -> Image:
    """A dot per name, from the largest value to the smallest in steps of ten, coloured by its kind."""
    figure = blank(3, values)
    axes = figure.subplots()
    order = sorted(values, key=values.get, reverse=True)
    for colour, kind in coloured(sorted(set(kinds.values()))):
        places = [place for place, name in enumerate(order) if kinds[name] == kind]
        axes.scatter(places, [values[order[place]] for place in places], s=14, color=colour, label=kind)
    axes.set(xlabel="rank", ylabel=y, yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    return picture(figure, f"{y}: {len(order)} dots in falling order, coloured by precision")


def number_formats(bits: Mapping[str, tuple[int, int, int]]) -> Image:
    """A square per bit of each format: sign, exponent, fraction."""
    figure = blank(0.6 + 0.45 * len(bits), bits)
    axes = figure.subplots()
    parts = {"sign": COLOURS[2], "exponent: how large": COLOURS[1], "fraction: how exact": COLOURS[7]}
    for row, widths in enumerate(bits.values()):
        for (part, colour), (start, end) in zip(parts.items(), pairwise(accumulate(widths, initial=0)), strict=True):
            label = part if row == 0 else None
            axes.barh([row] * (end - start), 0.92, left=range(start, end), height=0.8, color=colour, label=label)
    axes.set(yticks=range(len(bits)), yticklabels=list(bits), xticks=[])
    axes.invert_yaxis()
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    words = ", ".join(f"{name} 1 + {exponent} + {fraction}" for name, (_, exponent, fraction) in bits.items())
    return picture(figure, f"Bits for sign, exponent and fraction: {words}")
