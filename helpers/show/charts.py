"""What every figure needs, and the charts that the pages share: bars, lines, a timeline, and squares.

All figures are transparent; their ink has a contrast of 4:1 or more on white and on JupyterLab's dark background, their
colours of 3.4:1.  Hatches, markers and dashes tell series apart without colour.
"""

from collections.abc import Mapping, Sequence, Sized
from functools import partial
from io import BytesIO
from itertools import chain, cycle, groupby
from math import isfinite
from statistics import median

import numpy as np
from cycler import cycler
from IPython.display import Image
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator

from helpers.errors import TutorialError

INK = "#767676"
COLOURS = ["#2f7fd6", "#cc6f00", "#9b51e0", "#0d9488", "#dc2626", "#8a7a00", "#db2777", "#2f9e44"]
HATCHES = ["", "///", "...", "\\\\\\", "xxx", "|||", "---"]  # 8 colours, 7 hatches: 56 series look different
MARKERS = ["o", "s", "^", "D", "v", "P", "X"]
DASHES = ["-", "--", ":", "-."]
STYLE = {
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "savefig.facecolor"), "none"),
    **dict.fromkeys(("axes.spines.right", "axes.spines.top", "legend.frameon", "text.parse_math"), False),
    "axes.prop_cycle": cycler(color=COLOURS),
    "axes.titlelocation": "left",
    "figure.constrained_layout.use": True,
    "figure.titlesize": 11,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "hatch.linewidth": 0.8,
    "legend.title_fontsize": 11,
    "savefig.dpi": 144,
}
style = partial(rc_context, STYLE)


def subplots(height: float = 3, *grid: int, **options):
    """Return a figure as wide as the page and its axes, as plt.subplots does; use it inside `with show.style():`."""
    figure = Figure(figsize=(8, height))
    return figure, figure.subplots(*grid, **options)


@style()
def picture(figure: Figure, alt: str) -> Image:
    """Return the figure as a transparent PNG with the alt text `alt`, for screen readers."""
    png = BytesIO()
    figure.savefig(png, format="png")
    return Image(png.getvalue(), width=round(figure.get_figwidth() * 96), alt=alt)


def drawable(text: object) -> str:
    """Return `text` in at most 60 characters, with U+… for each character that the font has no glyph for."""
    font = get_font(findfont("DejaVu Sans"))
    text = "".join(c if font.get_char_index(ord(c)) else f"U+{ord(c):04X}" for c in str(text))
    return text if len(text) <= 60 else text[:59] + "…"


def number(value: float) -> str:
    """Return a number as figures show it: with three significant digits, or as a whole number from 1,000 on."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def check_values(*things: Sized) -> None:
    """Raise TutorialError where one of `things` is empty or has a number that is not finite."""
    if not all(map(len, things)):
        raise TutorialError("There is nothing to draw.", "Pass at least one value of each kind.")
    if odd := [value for value in chain(*things) if isinstance(value, float) and not isfinite(value)]:
        raise TutorialError(f"{odd[0]} cannot be drawn.", "Leave out what is not a finite number.")


def filled(series: int, pale: bool = False) -> dict[str, object]:
    """Return how to fill the bars of a series: solid for the first, unless `pale`; tinted and hatched for others."""
    colour, hatch = COLOURS[series % len(COLOURS)], HATCHES[series % len(HATCHES)]
    return {"facecolor": (colour, 0.3) if hatch or pale else colour, "edgecolor": colour, "hatch": hatch}


def finish(figure: Figure, title: str, handles: Mapping[str, object], alt: str) -> Image:
    """Return the picture with its title and a legend of all named `handles`, for which the figure is made higher."""
    alt = f"{title}. {alt}" if title else alt
    title, entries = drawable(title), {name: handle for name, handle in handles.items() if name}
    if entries:
        names = list(map(drawable, entries))
        columns = max(1, 105 // (7 + max(map(len, names))))
        place = {"loc": "outside upper left", "ncols": columns, "alignment": "left"}
        figure.legend(list(entries.values()), names, title=title, **place)
        figure.set_figheight(figure.get_figheight() + 0.2 * -(-len(names) // columns))
    else:
        figure.suptitle(title, x=0.01, ha="left")
    return picture(figure, alt)


@style()
def bars(values: Mapping, unit: str, title: str = "", stacked: bool = False, marks: Mapping | None = None) -> Image:
    """Draw a horizontal bar per name.

    A value is a number, a list of rounds (drawn as their median, with a dot for each round), or a mapping of series to
    either.  Several series are drawn as bars below each other or, if `stacked`, end to end with their sum.  `marks`
    names vertical lines.  Raises TutorialError for an empty mapping or list.
    """
    rows = [value if isinstance(value, Mapping) else {"": value} for value in values.values()]
    rows = [{name: np.atleast_1d(value).tolist() for name, value in row.items()} for row in rows]
    series = list(dict.fromkeys(chain(*rows)))
    check_values(series, *(rounds for row in rows for rounds in row.values()))
    lanes, noisy = 1 if stacked else len(series), any(len(each) > 1 for row in rows for each in row.values())
    figure, axes = subplots(0.9 + (0.08 + 0.22 * lanes) * len(rows))
    handles, ends, words = {}, {}, []  # `ends`: where a bar ends, by its position on the y axis
    for lane, name in enumerate(series):
        rounds = {place: row[name] for place, row in enumerate(rows) if name in row}
        at = [place if stacked else place + 0.8 * ((lane + 0.5) / lanes - 0.5) for place in rounds]
        lefts, middles = [ends.get(y, 0) for y in at], list(map(median, rounds.values()))
        handles[name] = axes.barh(at, middles, 0.7 / lanes, lefts, **filled(lane, pale=noisy))
        for y, left, middle, each in zip(at, lefts, middles, rounds.values(), strict=True):
            ends[y] = left + middle
            if len(each) > 1:
                axes.plot(each, [y] * len(each), "o", color=INK, markersize=4)
    for y, end in ends.items():  # in a column at the right, where nothing crosses them
        axes.annotate(number(end), (1, y), (5, 0), ("axes fraction", "data"), "offset points", va="center")
    for dash, (name, x) in zip(cycle(DASHES[1:]), (marks or {}).items(), strict=False):
        handles[f"{name}: {number(x)}"] = axes.axvline(x, color=INK, linestyle=dash)
    axes.set_xlabel(drawable(unit) + noisy * " (bar: median, dot: one round)")
    axes.set_yticks(range(len(rows)), map(drawable, values))
    axes.invert_yaxis()
    for row, each in zip(values, rows, strict=True):
        told = [f"{name} {number(median(rounds))}".strip() + _spread(rounds) for name, rounds in each.items()]
        words.append(f"{row} {', '.join(told)}")
    words += [f"line at {number(x)}, {name}" for name, x in (marks or {}).items()]
    return finish(figure, title, handles, f"Bars of {unit}: {'; '.join(words)}")


def _spread(rounds: Sequence[float]) -> str:
    return f" (rounds: {', '.join(map(number, rounds))})" if len(rounds) > 1 else ""


@style()
def lines(panels: Mapping, x: str, title="", log="", steps=False, joined=True, limits: Mapping | None = None) -> Image:
    """Draw panels side by side, named by what their y axis measures; in each a line per series.

    A series is a list of values at 1, 2, 3, …, a mapping of x to y, or a list of (x, y) or (x, y, label).  `log` names
    the logarithmic axes, "x", "y" or "xy"; one with a value of 0 or less stays linear.  With `joined=False` points
    stand alone.  `limits` are series too, drawn in grey in every panel.  Raises TutorialError for an empty series.
    """
    shown = {y: {name: _points(points) for name, points in series.items()} for y, series in panels.items()}
    bounds = {name: _points(points) for name, points in (limits or {}).items()}
    check_values(shown, *shown.values(), *chain(*(series.values() for series in (*shown.values(), bounds))))
    figure, grid = subplots(3, 1, len(shown), squeeze=False)
    handles, words = {}, []
    for axes, (y, series) in zip(grid[0], shown.items(), strict=True):
        for place, (name, points) in enumerate([*series.items(), *bounds.items()]):
            xs, ys, _ = zip(*points, strict=True)
            check_values(xs, ys)
            look = {"color": INK, "linestyle": "--"}
            if place < len(series):
                look = {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[place % len(MARKERS)]}
                look |= {"linestyle": DASHES[place % len(DASHES)] if joined else "none", "markersize": 4}
            often = max(1, len(xs) // 20) if joined else 1  # not every marker of a long line
            (handles[name],) = axes.plot(xs, ys, drawstyle="steps-post" if steps else None, markevery=often, **look)
            for n, (*point, label) in enumerate(points):  # alternately above and below: neighbours may be close
                axes.annotate(drawable(label), point, (5, 5 - 14 * (n % 2)), textcoords="offset points", fontsize=8)
            words.append(f"{y}, {name}: {_spoken(points)}")
        points = [*chain(*series.values(), *bounds.values())]
        _scale(axes.xaxis, [point[0] for point in points], "x" in log, from_zero=steps and joined)
        _scale(axes.yaxis, [point[1] for point in points], "y" in log, from_zero=True)
        axes.set(xlabel=drawable(x), ylabel=drawable(y))
    return finish(figure, title, handles, f"Against {x}: {'; '.join(words)}")


def _points(points: Mapping | Sequence) -> list[tuple[float, float, str]]:
    points = points.items() if isinstance(points, Mapping) else points
    return [(*each, "")[:3] if isinstance(each, tuple) else (n, each, "") for n, each in enumerate(points, 1)]


def _spoken(points: Sequence[tuple[float, float, str]]) -> str:
    """Return all points in words; of more than 24, only the first, the lowest, the highest and the last."""
    order = sorted(points, key=lambda point: point[1])
    few = points if len(points) <= 24 else [points[0], order[0], order[-1], points[-1]]
    told = ", ".join(f"{label} {number(x)} → {number(y)}".strip() for x, y, label in few)
    return told if few is points else f"{len(points)} points; first, lowest, highest, last: {told}"


def _scale(axis, values: Sequence[float], log: bool, from_zero: bool) -> None:
    """Make an axis logarithmic, with plain numbers, or let it begin at 0, if its values allow that."""
    if log and min(values) > 0:
        axis.axes.set(**{f"{axis.axis_name}scale": "log"})
        few = len(set(values)) <= 8 and axis.axis_name == "x"
        decades = LogLocator(subs=(1, 2, 5) if max(values) < 300 * min(values) else (1,))
        axis.set_major_locator(FixedLocator(sorted(set(values))) if few else decades)
        axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
        axis.minorticks_off()
        return
    axis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10], integer=all(float(v).is_integer() for v in values)))
    if min(values) >= 0 and from_zero:
        axis.axes.set(**{f"{axis.axis_name}lim": (0, None)})


@style()
def timeline(parts: Mapping[str, float], unit: str, title: str = "", total: float | None = None) -> Image:
    """Draw one bar, cut into parts in their order; a part below 0 has no width.

    With `total` the bar shows what remains of it, or by how much the parts exceed it.  Raises TutorialError if
    there are no parts.
    """
    check_values(parts, list(parts.values()))
    figure, axes = subplots(1.5)
    handles, left = {}, 0.0
    for series, (name, value) in enumerate(parts.items()):
        handles[f"{name}: {number(value)}"] = axes.barh(0, max(0, value), 0.5, left, **filled(series))
        left += max(0, value)
    if total is not None:
        rest = f"{'remaining' if left <= total else 'too many'}: {number(abs(total - left))}"
        handles[rest] = axes.barh(0, abs(total - left), 0.5, min(total, left), facecolor="none", edgecolor=INK)
    axes.set(yticks=[], xlabel=drawable(unit), xlim=(0, max(left, total or 0) or 1))
    axes.spines.left.set_visible(False)
    return finish(figure, title, handles, f"One bar of {unit}: {', '.join(handles)}")


@style()
def squares(rows: Mapping[str, Sequence[str]], x: str, title: str = "") -> Image:
    """Draw a square for each position of each row, filled by its kind; positions are numbered from 0.

    Raises TutorialError if there are no rows, or only empty ones.
    """
    kinds = list(dict.fromkeys(chain(*rows.values())))
    check_values(kinds)
    figure, axes = subplots(0.9 + 0.3 * len(rows))
    handles = {}
    for series, kind in enumerate(kinds):
        spots = [(row, place) for row, each in enumerate(rows.values()) for place, k in enumerate(each) if k == kind]
        lefts = [place - 0.375 for _, place in spots]
        handles[f"{kind}: {len(spots)}"] = axes.barh([row for row, _ in spots], 0.75, 0.8, lefts, **filled(series))
    axes.set_yticks(range(len(rows)), map(drawable, rows))
    axes.set(xlabel=drawable(x), xlim=(-0.6, -0.4 + max(map(len, rows.values()))))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    runs = {name: [f"{len([*run])} {kind}" for kind, run in groupby(each)] for name, each in rows.items()}
    words = "; ".join(f"{name} {', '.join(run)}" for name, run in runs.items())
    return finish(figure, title, handles, f"Squares by {x}: {words}")
