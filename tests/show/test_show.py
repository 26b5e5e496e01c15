"""Charts and tables: the words beside a figure say its values, text stays text, and nothing depends on colour alone."""

import inspect
import warnings
from io import BytesIO
from itertools import combinations
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from payloads import PAYLOADS, TERMINAL
from strategies import Found

from helpers import show
from helpers.errors import TutorialError, check_int, printable
from helpers.show import charts
from helpers.show.charts import number

HOSTILE = ["$x^2$", "<b>&amp;", "a|b", "👩‍🚀 語", "שלום", "_hidden", "two\nlines", "\\frac{1}{2}$", "`code`", "x" * 200]
VALUES = [0, -3.5, 1e12, 0.00012345, 7, 1234567, 2, 3.25, np.float32(0.5), 1e-9]

# Each chart, drawn of names and as many values.
CHARTS = {
    "bars": lambda names, values: show.bars(dict(zip(names, values, strict=True)), "ms"),
    "bars of rounds": lambda names, values: show.bars({n: [v] * 3 for n, v in zip(names, values, strict=True)}, "ms"),
    "grouped bars": lambda names, values: show.bars({"row": dict(zip(names, values, strict=True))}, "ms"),
    "stacked bars": lambda names, values: show.bars({"row": dict(zip(names, values, strict=True))}, "ms", stacked=True),
    "lines": lambda names, values: show.lines({"y": {n: [1, v] for n, v in zip(names, values, strict=True)}}, "x"),
    "points": lambda names, values: show.lines(
        {"y": {"all": [(1, v, n) for n, v in zip(names, values, strict=True)]}}, "x", log="xy", joined=False
    ),
    "limits": lambda names, values: show.lines(
        {"y": {"measured": [1]}}, "x", limits={n: {0: v} for n, v in zip(names, values, strict=True)}
    ),
    "timeline": lambda names, values: show.timeline(dict(zip(names, values, strict=True)), "s", total=10),
    "squares": lambda names, values: show.squares({n: [number(v)] for n, v in zip(names, values, strict=True)}, "x"),
    "kinds of squares": lambda names, values: show.squares({number(v): names for v in values}, "x"),
}
every_chart = pytest.mark.parametrize("chart", CHARTS.values(), ids=CHARTS)


class Drawing:
    """A chart as it is drawn: its figure, and the words beside it.  A warning is an error, as for a missing glyph."""

    def __init__(self, function, *given, **named):
        figures = []
        with pytest.MonkeyPatch.context() as monkeypatch, warnings.catch_warnings():
            monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
            warnings.simplefilter("error")
            self.words = function(*given, **named).alt
            (self.figure,) = figures
            with charts.style():
                self.figure.draw_without_rendering()
        self.panels = self.figure.axes
        self.axes = self.panels[0]
        self.texts = [text for text in self.figure.findobj(Text) if text.get_text() and text.get_visible()]
        self.shown = [text.get_text().strip() for text in self.texts]

    @property
    def legend(self) -> dict[str, object]:
        """The handle of each name."""
        found = {}
        for legend in self.figure.legends:
            names = [text.get_text().strip() for text in legend.get_texts()]
            found |= dict(zip(names, legend.legend_handles, strict=True))
        return found

    def bars(self) -> list[tuple[float, float, float]]:
        """(row, from, to) of each bar, in the order in which they were drawn."""
        boxes = [bar.get_bbox() for bar in self.axes.patches]
        return [tuple(round(float(x), 4) for x in ((box.y0 + box.y1) / 2, box.x0, box.x1)) for box in boxes]


# ---- every chart ----


@every_chart
def test_words_say_and_texts_show_names_and_values(chart):
    drawing = Drawing(chart, HOSTILE, VALUES)
    for name, value in zip(HOSTILE, VALUES, strict=True):
        assert name in drawing.words and number(value) in drawing.words
        shown = show.drawable(name).strip()
        assert any(shown in text for text in drawing.shown), f"{name!r} is not drawn"
    edge = drawing.figure.bbox
    for text in drawing.texts:
        box = text.get_window_extent()
        assert not text.get_parse_math(), f"{text} would become a formula"
        assert text.get_color() == charts.INK and text.get_fontsize() >= 8
        if text.get_text() in map(show.drawable, HOSTILE):
            assert box.x0 > edge.x0 - 1 and box.x1 < edge.x1 + 1, f"{text} is cut off"


@pytest.mark.parametrize("chart", [chart for name, chart in CHARTS.items() if "squares" not in name])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_an_error(chart, value):
    with pytest.raises(TutorialError):
        chart(["name"], [value])


@pytest.mark.parametrize(
    "chart",
    [
        *(lambda chart=chart: chart([], []) for name, chart in CHARTS.items() if name != "limits"),
        lambda: show.bars({"a": [1], "b": []}, "ms"),
        lambda: show.bars({"a": {}}, "ms"),
        lambda: show.lines({}, "x"),
        lambda: show.lines({"y": {"a": [1], "b": []}}, "x"),
        lambda: show.lines({"y": {"a": [1]}}, "x", limits={"b": []}),
        lambda: show.squares({"a": []}, "x"),
        lambda: show.table([]),
        lambda: show.facts({}),
    ],
)
def test_nothing_to_draw_is_an_error(chart):
    with pytest.raises(TutorialError):
        chart()


@every_chart
@pytest.mark.parametrize("count", [1, 9, 40])
def test_any_number_of_series_is_drawn_and_no_two_look_the_same(chart, count):
    drawing = Drawing(chart, [f"name {n}." for n in range(count)], [n + 1 for n in range(count)])
    assert all(any(f"name {n}." in text for text in drawing.shown) for n in range(count))
    looks = [_look(handle) for name, handle in drawing.legend.items() if name.startswith("name")]
    assert chart is CHARTS["limits"] or len(set(looks)) == len(looks)
    colours = [look[0] for look in looks]
    assert len(looks) < 2 or chart is CHARTS["limits"] or len(set(colours)) > 1
    for one, other in combinations(looks[:7], 2):
        assert chart is CHARTS["limits"] or one[1:] != other[1:], "only the colour differs"


def _look(handle) -> tuple:
    if hasattr(handle, "get_marker"):
        return to_hex(handle.get_color()), handle.get_marker(), handle.get_linestyle()
    return to_hex(handle.get_edgecolor()), handle.get_hatch()


@every_chart
def test_the_style_ends_with_the_chart(chart):
    before = dict(matplotlib.rcParams)
    chart(["a"], [1])
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("colour, least", [(charts.INK, 4), *((colour, 3.4) for colour in charts.COLOURS)])
@pytest.mark.parametrize("background", ["#ffffff", "#111111"])
def test_ink_and_colours_are_legible_in_light_and_dark_themes(colour, least, background):
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return np.dot([0.2126, 0.7152, 0.0722], linear) + 0.05

    dark, light = sorted(map(luminance, (colour, background)))
    assert light / dark >= least


def test_a_picture_is_a_transparent_png_with_words():
    with show.style():
        figure, axes = show.subplots(1)
        axes.set_axis_off()
    image = show.picture(figure, "two <by> one")
    about = image._repr_mimebundle_()[1]["image/png"]
    assert about == {"alt": "two <by> one", "width": 768}
    assert not imread(BytesIO(image.data))[:, :, 3].any()


@pytest.mark.parametrize("value, text", [(0, "0"), (-2.5, "-2.5"), (0.123456, "0.123"), (12345.6, "12,346")])
def test_numbers_have_three_digits_or_all_before_the_point(value, text):
    assert number(value) == text


@given(st.text())
def test_drawable_text_is_short_and_has_a_glyph_for_each_character(text):
    drawn = show.drawable(text)
    font = charts.get_font(charts.findfont("DejaVu Sans"))
    assert len(drawn) <= 60 and all(font.get_char_index(ord(c)) for c in drawn)


# ---- bars, lines, timeline, squares ----


def test_bars_end_at_their_values_and_rounds_are_dots_around_their_median():
    drawing = Drawing(show.bars, {"slow": [1, 5, 3], "one": 2}, "ms", "Speed", marks={"limit": 4})
    assert drawing.bars() == [(0, 0, 3), (1, 0, 2)] and drawing.axes.yaxis_inverted()
    dots, mark = drawing.axes.lines
    assert dots.get_xydata().tolist() == [[1, 0], [5, 0], [3, 0]] and set(mark.get_xdata()) == {4}
    assert {"slow", "one", "3", "2", "Speed", "limit: 4"} <= set(drawing.shown)
    assert drawing.words == "Speed. Bars of ms: slow 3 (rounds: 1, 5, 3); one 2; line at 4, limit"


def test_bars_of_several_series_stand_beside_each_other_or_end_to_end():
    values = {"first": {"x": 100, "y": 1300}, "second": {"y": 200, "z": 50}}
    side_by_side, stacked = (Drawing(show.bars, values, "MB", stacked=end_to_end) for end_to_end in (False, True))
    assert [bar[1:] for bar in side_by_side.bars()] == [(0, 100), (0, 1300), (0, 200), (0, 50)]
    assert len({row for row, *_ in side_by_side.bars()}) == 4
    assert stacked.bars() == [(0, 0, 100), (0, 100, 1400), (1, 0, 200), (1, 200, 250)]
    assert {"1,400", "250"} <= set(stacked.shown) and list(stacked.legend) == ["x", "y", "z"]


def test_lines_take_values_mappings_and_points():
    panels = {"ms": {"values": [3, 1], "mapping": {10: 5}}, "tokens": {"points": [(2, 7, "here"), (4, 8)]}}
    drawing = Drawing(show.lines, panels, "turn", steps=True, limits={"limit": {0: 9, 5: 9}})
    drawn = [[line.get_xydata().tolist() for line in axes.lines] for axes in drawing.panels]
    limit = [[0, 9], [5, 9]]
    assert drawn == [[[[1, 3], [2, 1]], [[10, 5]], limit], [[[2, 7], [4, 8]], limit]]
    assert {line.get_drawstyle() for line in drawing.axes.lines} == {"steps-post"}
    assert to_hex(drawing.axes.lines[-1].get_color()) == charts.INK
    assert [axes.get_ylabel() for axes in drawing.panels] == list(panels) and "here" in drawing.shown


@pytest.mark.parametrize("lowest, scale", [(0.01, "log"), (0, "linear"), (-1, "linear")])
def test_an_axis_is_logarithmic_where_its_values_allow_it(lowest, scale):
    drawing = Drawing(show.lines, {"y": {"a": [(lowest, 1), (1, lowest), (2000, 5)]}}, "x", log="xy")
    assert drawing.axes.get_xscale() == drawing.axes.get_yscale() == scale
    assert not [text for text in drawing.shown if "mathdefault" in text]


@pytest.mark.parametrize("joined, style", [(True, "-"), (False, "None")])
def test_points_are_joined_or_stand_alone(joined, style):
    drawing = Drawing(show.lines, {"y": {"a": range(60)}}, "x", joined=joined)
    (line,) = drawing.axes.lines
    assert line.get_linestyle() == style and line.get_markevery() == (3 if joined else 1)


def test_words_about_a_long_line_give_its_ends_and_extremes():
    words = Drawing(show.lines, {"y": {"a": [5, *range(100, 160), -2, 4]}}, "x").words
    assert "63 points; first, lowest, highest, last: 1 → 5, 62 → -2, 61 → 159, 63 → 4" in words


@pytest.mark.parametrize("total, rest", [(10, "remaining: 5"), (4, "too many: 1"), (None, None)])
def test_a_timeline_is_one_bar_in_parts_and_the_rest_of_the_total(total, rest):
    drawing = Drawing(show.timeline, {"load": 1.5, "noise": -0.2, "decode": 3.5}, "seconds", total=total)
    parts = [(0, 0, 1.5), (0, 1.5, 1.5), (0, 1.5, 5)]
    assert drawing.bars() == parts + ([(0, min(5, total), max(5, total))] if total else [])
    assert list(drawing.legend) == ["load: 1.5", "noise: -0.2", "decode: 3.5", *([rest] if rest else [])]
    assert drawing.axes.get_xlim() == (0, max(5, total or 0))


def test_squares_stand_at_their_places_in_the_look_of_their_kind():
    drawing = Drawing(show.squares, {"a": ["same", "same", "other"], "b": ["other"]}, "token")
    assert sorted(drawing.bars()) == [(0, -0.375, 0.375), (0, 0.625, 1.375), (0, 1.625, 2.375), (1, -0.375, 0.375)]
    assert list(drawing.legend) == ["same: 2", "other: 2"]
    assert drawing.words == "Squares by token: a 2 same, 1 other; b 1 other"


# ---- tables ----


def cells(table) -> list[list[str]]:
    return [["".join(cell.itertext()) for cell in row] for row in ElementTree.fromstring(table.data).iter("tr")]


def test_a_table_has_a_row_per_mapping_in_the_order_of_the_first():
    table = show.table(iter([{"name": "a", "size": 1234.5678}, {"size": 2, "name": "b", "more": "is left out"}]))
    assert cells(table) == [["name", "size"], ["a", "1,235"], ["b", "2"]]
    assert repr(table) == "name | size\na | 1,235\nb | 2"


def test_what_stands_in_a_table_is_text():
    table = show.table({text: text} for text in HOSTILE[:1]), show.facts({text: text for text in HOSTILE})
    assert cells(table[0]) == [HOSTILE[:1], HOSTILE[:1]] and cells(table[1]) == [[text, text] for text in HOSTILE]
    assert all("tex2jax_ignore" in each.data for each in table), "JupyterLab would draw formulas"


CELL = ("style", "text-align:left;white-space:pre-wrap")
CELLS = {("table", ("class", "tex2jax_ignore mathjax_ignore")), ("tr",), ("th", CELL), ("td", CELL)}
SIGNS = [
    "& < > \" ' ` * _ [ ] ! $ | \\",
    "https://xss.example",
    "$x$ \\(y\\) $$z$$",
    "---",
    "a\n| b |\n\tc",
    "&lt;b&gt;",
]


@pytest.mark.parametrize("texts", [PAYLOADS, TERMINAL, SIGNS], ids=["HTML", "terminal", "Markdown"])
def test_names_heads_and_values_of_any_table_are_inert(texts):
    """Only cells and their fixed attributes, so that nothing runs or loads; no format but HTML and plain text."""
    tables = {text * 2: show.table([{text: text}]) for text in texts}
    tables[f"key{''.join(map(str, texts))}"] = show.facts({"key": "".join(texts)})
    for text, shown in tables.items():
        found = Found(shown.data)
        assert {(tag, *attributes.items()) for tag, attributes in found.tags} <= CELLS
        assert "".join(found.words) == printable(text)
        assert not set(repr(shown) + shown.data) & set("\x00\x07\x08\r\x1b\x7f\x9b\x9d\u202e\u2066")
        assert {*DisplayFormatter().format(shown)[0]} == {"text/html", "text/plain"}


def test_a_source_is_the_source_itself():
    fence, *code, end = show.source(check_int).data.splitlines()
    assert fence == "```python" and end == "```" and "\n".join(code) == inspect.getsource(check_int).rstrip()
