"""Labelled boxes joined by arrows."""

from collections.abc import Mapping, Sequence
from itertools import chain, pairwise
from textwrap import wrap

from IPython.display import Image
from matplotlib.patches import Rectangle

from helpers.errors import TutorialError
from helpers.show.charts import COLOURS, INK, check_values, drawable, finish, style, subplots

GAP, LINE, PAGE = 0.28, 0.15, 7.65  # inches: between boxes, per line of text, width of the page without a margin


@style()
def flow(boxes: Mapping | Sequence[Mapping], title="", arrows=None, frames: Mapping | None = None, adds=()) -> Image:
    """Draw boxes, {title: detail}, in rows of up to five, or in the rows given, each box with an arrow to the next.

    With `arrows`, pairs of titles, the given rows become columns.  `frames` names dashed frames, {name: (first, last)}.
    `adds` are residual connections, pairs too: the input of the first box also goes around it to the second, which adds
    it.  Raises TutorialError if there are no boxes, for a title used twice, and for one that is in no box.
    """
    every = list(boxes.items()) if isinstance(boxes, Mapping) else []
    rows = [dict(every[at : at + 5]) for at in range(0, len(every), 5)] or boxes
    check_values(rows, *rows)
    names, detail = list(chain(*rows)), {name: text for row in rows for name, text in row.items()}
    links, frames = list(pairwise(names) if arrows is None else arrows), frames or {}
    unknown = {*chain(*links, *frames.values(), *adds)} - {*names}
    if unknown or len(detail) < len(names):
        raise TutorialError(f"Each box needs its own title; without a box: {sorted(unknown)}.", f"Boxes: {names}.")
    across, longest = max(map(len, rows)) if arrows is None else len(rows), max(map(len, rows))
    gap = GAP if arrows is None else 3 * GAP
    width = min(2.8, PAGE / across - gap)
    lines = {name: (_lines(name, width / 0.086), _lines(detail[name], width / 0.066)) for name in names}
    height = 0.16 + LINE * max(len(bold) + len(plain) for bold, plain in lines.values())
    above, middle, y = {first for first, _ in [*frames.values(), *adds]}, {}, -height / 2  # inches from the upper left
    for at, row in enumerate(rows):
        y += height + (0.8 if above & {*row} else 0.4) if arrows is None else 0
        for place, name in enumerate(row):
            column, line = (place, y) if arrows is None else (at, place + (longest - len(row)) / 2)
            middle[name] = gap + column * (width + gap) + width / 2, line if arrows is None else line * (height + 0.12)
    bottom, top = max(y for _, y in middle.values()) + height / 2, min(y for _, y in middle.values()) - height / 2
    top -= 0.5 if above & {*rows[0]} else 0.05
    figure, axes = subplots(bottom - top + 0.5)
    for name, (x, y) in middle.items():
        axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, fill=False, ec=COLOURS[0], lw=1.3))
        split = y + LINE * (len(lines[name][0]) - len(lines[name][1])) / 2
        axes.text(x, split, "\n".join(lines[name][0]), ha="center", va="bottom", weight="bold")
        axes.text(x, split + 0.03, "\n".join(lines[name][1]), ha="center", va="top", size=8)
    for one, other in links:
        (x, y), (end, level) = middle[one], middle[other]
        sources = [source for source, target in links if target == other]  # their arrows end one below the other
        level += 0.6 * height * ((sources.index(one) + 0.5) / len(sources) - 0.5)
        x, end, below, left = x + width / 2, end - width / 2, y + height / 2, end - width / 2 - 0.6 * gap
        turn = [(x - width / 2, below), (x - width / 2, below + 0.2), (left, below + 0.2), (left, level), (end, level)]
        _arrow(axes, *([(x, y), (end, level)] if end > x else turn))
    for one, other in adds:
        (x, y), (end, _) = middle[one], middle[other]
        start, lid = x - width / 2 - 0.3 * gap, y - height / 2
        _arrow(axes, (start, y), (start, lid - 0.17), (end, lid - 0.17), (end, lid))
    for name, ends in frames.items():
        (x, y), (end, level) = (middle[each] for each in ends)
        x, y = x - width / 2 - (0.9 if arrows is None else 0.5) * gap, y - height / 2 - 0.27
        end, level = end + width / 2 + 0.1, level + height / 2 + (0.1 if arrows is None else 0.05)
        axes.add_patch(Rectangle((x, y), end - x, level - y, fill=False, ec=INK, ls="--"))
        axes.text(end, y - 0.03, drawable(name), ha="right", va="bottom", weight="bold")
    axes.set(xlim=(0, PAGE + 0.15), ylim=(bottom + 0.15, top))
    axes.set_axis_off()
    told = {name: f"{name} ({detail[name]})" if detail[name] else name for name in names}
    words = [" → ".join(told.values())] if arrows is None else [*told.values(), *(f"{a} → {b}" for a, b in links)]
    words += [f"{name}: around {first} to {last}" for name, (first, last) in frames.items()]
    words += [f"what enters {first} is also added at {last}" for first, last in adds]
    return finish(figure, title, {}, f"Boxes and arrows: {'; '.join(words)}")


def _lines(text: str, width: float) -> list[str]:
    return wrap(drawable(text), int(width))


def _arrow(axes, *points: tuple[float, float]) -> None:
    axes.plot(*zip(*points, strict=True), color=INK, lw=1)
    look = {"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", points[-1], points[-2], arrowprops=look)
