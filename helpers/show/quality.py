"""Figures of quality: what compression costs, against what it saves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from IPython.display import Image

from helpers.show.canvas import COLOURS, _drawable, blank, picture


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names, by growing x, to which no other point is at least equal in both values: less is better in each."""
    best, names = float("inf"), []
    for name, (_, y) in sorted(points.items(), key=lambda item: item[1]):
        if y < best:
            best, names = y, [*names, name]
    return names


def pareto(points: Mapping[str, tuple[float, float]], x: str, y: str) -> Image:
    """A dot per name, less is better in both; the Pareto line joins the frontier, what lies off it is grey.

    y is in steps of ten; a y of 0, which has no place there, is drawn on the ground.
    """
    figure = blank(4, points)
    axes = figure.subplots()
    ground = min((value for _, value in points.values() if value > 0), default=1) / 3
    drawn = {name: (size, value or ground) for name, (size, value) in points.items()}
    line = frontier(points)
    axes.plot(*zip(*(drawn[name] for name in line), strict=True), "--", color=COLOURS[0], label="Pareto line", zorder=1)
    for name, place in drawn.items():
        axes.plot(*place, "o", color=COLOURS[0] if name in line else "#8a8f98")
        label = f"{name} (0)" if points[name][1] == 0 else name
        axes.annotate(label, place, (6, 5), textcoords="offset points", fontsize=9)
    axes.set(xlabel=x, ylabel=y, yscale="log")
    axes.margins(x=0.12, y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", frameon=False)
    words = ", ".join(f"{name} {size:,.0f} and {value:.3g}" for name, (size, value) in points.items())
    return picture(figure, f"{y} against {x}: {words}. On the Pareto line: {', '.join(line)}")


def surprises(pieces: Sequence[str], values: Sequence[float]) -> Image:
    """A bar per token, as high as −log of the probability that the model gave it."""
    figure = blank(2.6, values)
    axes = figure.subplots()
    axes.bar(range(len(values)), values, color=COLOURS[7])
    axes.set(ylabel="surprise")
    labels = [_drawable(piece.replace("\n", "⏎")) for piece in pieces]
    look = {"rotation": 60, "ha": "right", "fontsize": 8, "family": "DejaVu Sans Mono", "parse_math": False}
    axes.set_xticks(range(len(pieces)), labels, **look)
    axes.spines[["top", "right"]].set_visible(False)
    return picture(
        figure, "Bars of surprise: " + ", ".join(f"{p!r} {v:.1f}" for p, v in zip(pieces, values, strict=True))
    )
