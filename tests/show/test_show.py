"""helpers.show: a drawing keeps to the values that it is given, says them in words too, and has the look of all."""

import inspect
import re
import warnings
from io import BytesIO
from itertools import pairwise
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from helpers import show
from helpers.errors import TutorialError, check_int
from helpers.show.canvas import coloured
from helpers.show.quality import frontier

MANY = [f"row {number}" for number in range(12)]


class Drawing:
    """What a reader sees of a figure.  That it has the look of all is checked as it is drawn."""

    def __init__(self, function, *given, crowded=False, framed=False, **named):
        """`crowded`: marks may lie on each other, or be cut off.  `framed`: a map, which has edges on all sides."""
        figures = []
        with pytest.MonkeyPatch.context() as monkeypatch, warnings.catch_warnings():
            monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
            warnings.simplefilter("error")  # no room for the axes, a letter without a glyph, a legend of nothing
            self.image = function(*given, **named)
            (self.figure,) = figures
            self.figure.draw_without_rendering()
        self.words = self.image.alt
        self.panels = [axes for axes in self.figure.axes if axes.axison or axes.texts]
        self.axes = self.panels[0]
        self.texts = list(self._texts())
        self._look(crowded, framed)

    def _texts(self):
        """The texts that are there to be read: not those of ticks outside of their axis, nor of an axis that is off."""
        hidden = set()
        for axes in self.figure.axes:
            for axis in (axes.xaxis, axes.yaxis):
                low, high = sorted(axis.get_view_interval())
                for tick in axis.get_major_ticks() + axis.get_minor_ticks():
                    if not (axes.axison and low <= tick.get_loc() <= high):
                        hidden |= {tick.label1, tick.label2}
        for text in self.figure.findobj(Text):
            if text.get_text() and text.get_visible() and text not in hidden:
                yield text

    def _look(self, crowded, framed):
        edge = self.figure.bbox
        assert self.words and self.image.width == edge.width / self.figure.dpi * 96 == 768
        boxes = [(text, text.get_window_extent()) for text in self.texts]
        for text, box in boxes:
            assert box.x0 > edge.x0 - 1 and box.x1 < edge.x1 + 1, f"{text} is not in the picture"
            assert box.y0 > edge.y0 - 1 and box.y1 < edge.y1 + 1, f"{text} is not in the picture"
            assert 7 <= text.get_fontsize() <= 12, text
        assert not _overlap([box for text, box in boxes if text.get_rotation() in (0, 90)]), "a text is on another"
        for legend in self.figure.legends:
            box = legend.get_window_extent()
            assert not legend.get_frame_on() and box.x0 < edge.width / 4, (
                "the legend stands on the left, without a frame"
            )
            assert all(box.y0 > axes.bbox.y1 - 1 for axes in self.figure.axes), "the legend stands above the axes"
            middles = [box.y0 + box.y1 for box in map(Text.get_window_extent, legend.get_texts())]
            assert len(middles) > 3 or max(middles) - min(middles) < 12, "three entries stand in one row"
            looks = [look for _, look in self._legend()]
            assert len(set(looks)) == min(len(looks), len(show.COLOURS)), "two entries of the legend look the same"
        for axes in self.panels:
            if axes.axison and not framed:
                assert not axes.spines.top.get_visible() and not axes.spines.right.get_visible()
            for mark in [*axes.patches, *axes.lines, *axes.collections] if not framed else []:
                colour = _colour(mark)
                assert colour in show.COLOURS or _grey(colour), f"{mark} has a colour of its own"
            self._marks(axes, crowded)

    def _marks(self, axes, crowded):
        """Marks lie within their axes and make use of them."""
        boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, Rectangle)]
        points = [line.get_xydata() for line in axes.lines if line.get_transform() == axes.transData]
        points += [dots.get_offsets() for dots in axes.collections if len(dots.get_offsets()) > 1]
        points = np.concatenate([axes.transData.transform(each) for each in points] or [np.empty((0, 2))])
        corners = np.concatenate([points, *(box.corners() for box in boxes)])
        if len(corners) and not crowded:
            (left, low), (right, high) = corners.min(axis=0), corners.max(axis=0)
            assert left > axes.bbox.x0 - 1 and right < axes.bbox.x1 + 1, "a mark is cut off"
            assert low > axes.bbox.y0 - 1 and high < axes.bbox.y1 + 1, "a mark is cut off"
            assert not _overlap(boxes), "a bar is on another"
            if axes.axison:
                assert right - left > 0.3 * axes.bbox.width, "most of the axis is empty"

    def _legend(self):
        for legend in self.figure.legends:
            for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
                style = getattr(handle, "get_linestyle", str)()
                yield text.get_text(), (_colour(handle), style if isinstance(style, str) else "", type(handle))

    @property
    def legend(self) -> dict[str, str]:
        """The colour of each name."""
        return {name: look[0] for name, look in self._legend()}

    @property
    def shown(self) -> list[str]:
        return [text.get_text().strip() for text in self.texts]

    @property
    def labels(self) -> list[str]:
        """The names of the rows, from the top."""
        axis = self.axes.yaxis
        places = axis.get_majorticklocs()
        ticks = [tick.label1 for tick in axis.get_major_ticks()]
        tall = self.axes.transData.transform([(0, place) for place in places])[:, 1]
        return [ticks[at].get_text() for at in np.argsort(-tall)]

    def bars(self, colour=None, axes=None, upright=False) -> list[tuple[float, float, float]]:
        """(row, from, to) of the bars, or of those of a colour, by row; if `upright`, (column, from, to)."""
        found = []
        for bar in (axes or self.axes).patches:
            if isinstance(bar, Rectangle) and colour in (None, _colour(bar)):
                (x0, y0), (x1, y1) = bar.get_bbox().get_points()
                across, start, end = ((x0 + x1) / 2, y0, y1) if upright else ((y0 + y1) / 2, x0, x1)
                found.append(tuple(round(float(at), 6) + 0.0 for at in (across, *sorted((start, end)))))
        return sorted(found)

    def lengths(self, colour=None, axes=None) -> list[float]:
        return [end - start for _, start, end in self.bars(colour, axes)]

    def squares(self) -> dict[str, list[str]]:
        """What the legend calls the squares of each row, from left to right."""
        rows = {name: [] for name in self.labels}
        kinds = {colour: kind for kind, colour in self.legend.items()}
        for bar in sorted(self.axes.patches, key=lambda bar: bar.get_x()):
            rows[self.labels[round(bar.get_y() + bar.get_height() / 2)]].append(kinds[_colour(bar)])
        return rows

    def near(self, words: str) -> tuple[float, float]:
        """Where a text stands, in the units of the axes."""
        (place,) = [text for axes in self.panels for text in axes.texts if text.get_text().strip() == words]
        return getattr(place, "xy", place.get_position())

    def beside(self, words: str) -> tuple[float, float]:
        """The same of a text that stands on the right of that place, level with it."""
        place = self.near(words)
        for axes in self.panels:
            for text in axes.texts:
                if text.get_text().strip() == words:
                    box, (x, y) = text.get_window_extent(), axes.transData.transform(place)
                    assert x - 1 < box.x0 < x + 12 and abs((box.y0 + box.y1) / 2 - y) < 2, f"{text} is not beside"
        return place


def _overlap(boxes: list[Bbox]) -> bool:
    x0, y0, x1, y1 = np.array([box.extents for box in boxes]).reshape(-1, 4).T
    wide = np.minimum.outer(x1, x1) - np.maximum.outer(x0, x0)
    high = np.minimum.outer(y1, y1) - np.maximum.outer(y0, y0)
    return bool(np.triu((wide > 0.5) & (high > 0.5), k=1).any())


def _colour(mark) -> str:
    if isinstance(mark, Line2D):
        return to_hex(mark.get_color())
    return to_hex(np.vstack([*np.atleast_2d(mark.get_facecolor()), *np.atleast_2d(mark.get_edgecolor())])[0])


def _grey(colour: str) -> bool:
    channels = bytes.fromhex(colour[1:])
    return max(channels) - min(channels) < 16


def lines(axes, style="-"):
    """The points of each line by its colour."""
    return {_colour(line): line.get_xydata().tolist() for line in axes.lines if line.get_linestyle() == style}


def dots(axes, colour):
    found = [tuple(point) for each in axes.collections if _colour(each) == colour for point in each.get_offsets()]
    marked = [line for line in axes.lines if line.get_marker() == "o" and _colour(line) == colour]
    return found + [tuple(point) for line in marked for point in line.get_xydata()]


def in_tens(axis) -> bool:
    return axis.get_scale() == "log"


def tokenizer(*pieces: str):
    """One token per piece, the last of them a control token."""
    rust = Tokenizer(models.WordLevel({piece: at for at, piece in enumerate(pieces)}, unk_token=pieces[0]))
    rust.add_special_tokens([AddedToken(pieces[-1], special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=rust)


# ---- the paper ----


def test_a_picture_is_a_white_png_with_words():
    figure = Figure(figsize=(2, 1), facecolor="black")
    image = show.picture(figure, "two <by> one")
    data, about = image._repr_mimebundle_()
    assert about["image/png"]["alt"] == "two <by> one" and about["image/png"]["width"] == 192
    pixels = imread(BytesIO(image.data))
    assert pixels.shape == (144, 288, 4) and (pixels == 1).all()  # half a pixel of the page each, for sharp screens


@pytest.mark.parametrize("count", [1, 8, 9, 20])
def test_no_thing_is_left_out_for_want_of_a_colour(count):
    pairs = list(coloured(range(count)))
    assert [thing for _, thing in pairs] == list(range(count))
    assert len({colour for colour, _ in pairs}) == min(count, 8)


def test_a_ninth_part_is_drawn_too():
    drawing = Drawing(show.timeline, {f"part {number}": number for number in range(1, 10)})
    assert drawing.lengths() == list(range(1, 10)) and len(drawing.legend) == 9


EMPTY = {
    "agreement": [([], {}), ([], {"a": []})],
    "before_and_after": [(np.array([]), np.array([]), np.array([]))],
    "curves": [({}, "x"), ({"y": {}}, "x"), ({"y": {"a": [1], "b": []}}, "x")],
    "facts": [({},)],
    "filling": [([], [])],
    "fork": [("stem", [])],
    "group_errors": [(np.empty((0, 4)), "error")],
    "groups": [({}, "ms"), ({"a": {}}, "ms")],
    "language_costs": [({}, {}), ({"a": 1}, {"a": 0})],
    "likeliest": [(None, [], [], [])],
    "merge_tree": [([],), ([[]],)],
    "number_formats": [({},)],
    "on_grid": [(np.array([]), np.array([]), 1.0)],
    "one_answer": [(1, [], []), (1, [2], ["a"])],
    "pareto": [({}, "x", "y")],
    "precision_map": [({},)],
    "ranking": [({}, {}, "y")],
    "reading": [({},), ({"a": [1], "b": []},)],
    "reshaped": [(None, [], [], {}), (None, [1], [0.5], {})],
    "rhythm": [([],)],
    "road": [({},)],
    "rounds": [({}, "ms"), ({"a": [1], "b": []}, "ms")],
    "scaling": [({}, "x", "y"), ({"a": {}}, "x", "y")],
    "stacks": [({}, "MB")],
    "surprises": [([], [])],
    "table": [([],)],
    "timeline": [({},)],
    "trade_off": [({}, "x", "y"), ({"a": []}, "x", "y")],
}


@pytest.mark.parametrize(("name", "given"), [(name, given) for name, cases in EMPTY.items() for given in cases])
def test_of_nothing_there_is_no_drawing_but_a_sentence(name, given):
    with pytest.raises(TutorialError):
        getattr(show, name)(*given)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("agreement", ([1, 2], {"shorter": [1]})),
        ("agreement", ([1, 2], {"longer": [1, 2, 3]})),
        ("one_answer", (1, [2, 3, 4], ["a", "b"])),
        ("surprises", (["a", "b"], [1])),
        ("trade_off", ({"a": [(1, 2, "both"), (3, 4)]}, "x", "y")),
    ],
)
def test_values_that_do_not_belong_together_are_refused(name, given):
    with pytest.raises(ValueError):
        getattr(show, name)(*given)


# ---- times ----


def test_a_timeline_is_one_bar_in_parts_one_behind_the_other():
    parts = {"load": 1.5, "tokenize": 0.25, "write": 3.0}
    drawing = Drawing(show.timeline, parts)
    assert list(drawing.legend) == ["load: 1.50 s", "tokenize: 0.25 s", "write: 3.00 s"]
    spans = [drawing.bars(colour)[0][1:] for colour in drawing.legend.values()]
    assert spans == [(0, 1.5), (1.5, 1.75), (1.75, 4.75)] and drawing.axes.get_xlim() == (0, 4.75)
    assert not drawing.axes.get_yticks().size and "seconds" in drawing.shown
    assert "load 1.50, tokenize 0.25, write 3.00" in drawing.words


def test_stacks_have_the_same_colours_for_the_same_parts_and_their_sum_at_the_end():
    bars = {"first": {"x": 100, "y": 1300}, "second": {"y": 200, "z": 50}}
    drawing = Drawing(show.stacks, bars, "MB")
    assert drawing.labels == ["first", "second"] and list(drawing.legend) == ["x", "y", "z"]
    spans = {name: [bar for bar in drawing.bars(colour) if bar[1] != bar[2]] for name, colour in drawing.legend.items()}
    assert spans == {"x": [(0, 0, 100)], "y": [(0, 100, 1400), (1, 0, 200)], "z": [(1, 200, 250)]}
    assert drawing.beside("1,400") == (1400, 0) and drawing.beside("250") == (250, 1)
    assert "MB" in drawing.shown and "first 1,400, second 250" in drawing.words


def test_rounds_are_bars_to_the_median_and_all_dots():
    values = {"slow": [1, 5, 3], "fast": [0.5, 0.25]}
    drawing = Drawing(show.rounds, values, "milliseconds", crowded=True)
    assert drawing.labels == ["slow", "fast"] and drawing.bars() == [(0, 0, 3), (1, 0, 0.375)]
    (colour,) = {_colour(line) for line in drawing.axes.lines}
    assert dots(drawing.axes, colour) == [(1, 0), (5, 0), (3, 0), (0.5, 1), (0.25, 1)]
    assert colour != _colour(drawing.axes.patches[0]) and not lines(drawing.axes)
    assert drawing.beside("3") == (0, 0) and drawing.beside("0.375") == (0, 1) and drawing.axes.get_xlim()[0] == 0
    assert "milliseconds" in " ".join(drawing.shown) and "slow 3, fast 0.375" in drawing.words


def test_agreement_ends_at_the_first_other_token():
    answers = {"all": [1, 2, 3, 4], "third": [1, 2, 9, 4], "first": [7, 2, 3, 4], "last": [1, 2, 3, 9]}
    drawing = Drawing(show.agreement, [1, 2, 3, 4], answers)
    same, other, after = drawing.legend
    assert drawing.squares() == {
        "all": [same] * 4,
        "third": [same, same, other, after],
        "first": [other, after, after, after],
        "last": [same, same, same, other],
    }
    assert drawing.axes.get_xlim() == (0, 4) and "new token" in drawing.shown


def test_a_rhythm_has_a_dot_for_each_token_behind_the_wait():
    seconds = [0.5, 0.6, 0.75, 2.0]
    drawing = Drawing(show.rhythm, seconds)
    tokens, wait = sorted(drawing.legend.items())
    assert "0.50 s" in wait[0] and drawing.bars() == drawing.bars(wait[1]) == [(0, 0, 0.5)]
    assert dots(drawing.axes, tokens[1]) == [(second, 0) for second in seconds] and not lines(drawing.axes)
    assert drawing.axes.get_xlim()[0] == 0 and "seconds" in " ".join(drawing.shown)
    assert not drawing.axes.get_yticks().size
    assert all(word in drawing.words for word in ("4 dots", "0.50", "2.00"))


def test_reading_says_how_many_words_there_are_at_each_second():
    moments = {"written": [0.5, 0.6, 0.9], "read": [1.0, 2.0]}
    drawing = Drawing(show.prefill_progress, moments)
    assert list(drawing.legend) == ["written", "read"]
    for line, name in zip(drawing.axes.lines, moments, strict=True):
        assert _colour(line) == drawing.legend[name] and line.get_drawstyle() == "steps-post"
        assert line.get_xydata().tolist() == [[0, 0], *([at, n] for n, at in enumerate(moments[name], 1))]
    assert drawing.axes.get_xlim()[0] == drawing.axes.get_ylim()[0] == 0 and "words" in drawing.shown
    assert "seconds" in " ".join(drawing.shown)
    assert "written from 0.50 to 0.90 s, read from 1.00 to 2.00" in drawing.words


def test_curves_have_a_panel_per_quantity_and_a_line_per_name():
    panels = {
        "ms": {"again": [1, 2, 9], "once": [3, 3.5, 3]},
        "tokens": {"again": [10, 200, 3000], "once": [10, 11, 12]},
    }
    drawing = Drawing(show.curves, panels, "turn")
    assert list(drawing.legend) == ["again", "once"] and drawing.shown.count("turn") == 2
    assert [axes.get_ylabel() for axes in drawing.panels] == list(panels)
    for axes, values in zip(drawing.panels, panels.values(), strict=True):
        points = {name: [[at, value] for at, value in enumerate(each, 1)] for name, each in values.items()}
        assert lines(axes) == {drawing.legend[name]: each for name, each in points.items()}
        assert axes.get_ylim()[0] == 0
    left, right = (axes.get_position() for axes in drawing.panels)
    assert left.x1 < right.x0 and left.y0 == right.y0
    assert "ms: again 9, once 3; tokens: again 3,000, once 12" in drawing.words


# ---- turns ----


def test_filling_stacks_the_tokens_of_each_turn_below_the_context():
    numbers = [(0, 100, 200), (300, 110, 210), (0, 500, 300), (10, 20, 30)]
    turns = [
        SimpleNamespace(cached_tokens=reused, new_tokens=new, answer_tokens=answer, context_length=1000)
        for reused, new, answer in numbers
    ]
    drawing = Drawing(show.filling, turns, [0, 0, 2, 2])
    assert list(drawing.legend)[-3:] == ["from the cache", "read", "written"]
    for part, name in enumerate(["from the cache", "read", "written"]):
        spans = [(at, sum(turn[:part]), sum(turn[: part + 1])) for at, turn in enumerate(numbers, 1)]
        assert drawing.bars(drawing.legend[name], upright=True) == spans
    levels = {line.get_linestyle(): set(line.get_ydata()) for line in drawing.axes.lines}
    assert levels == {"-": {1000}, ":": {500}} and any("1,000" in name for name in drawing.legend)
    (forgets,) = (text.get_window_extent() for text in drawing.texts if text.get_text() == "forgets")
    x, y = drawing.axes.transData.transform((3, 800))
    assert abs((forgets.x0 + forgets.x1) / 2 - x) < 1 and y < forgets.y0 < y + 12, "it stands on its bar"
    assert drawing.near("forgets") == (3, 800) and drawing.axes.get_ylim()[1] > 1000
    assert [text for text in drawing.shown if text in "1234"] == ["1", "2", "3", "4"]
    assert {"turn", "tokens"} < set(drawing.shown)
    assert "1 300, 2 620, 3 800, 4 60" in drawing.words and drawing.words.endswith("at 3")
    ends, half, *parts = drawing.legend.values()
    assert ends == half and ends not in parts and {line.get_linewidth() for line in drawing.axes.lines} == {1}
    assert Drawing(show.filling, turns[1:2], [0]).words.endswith("none")
    assert Drawing(show.filling, turns[1:3], [2, 5]).words.endswith("at 1, 2")
    assert Drawing(show.filling, turns[:2], [0, 0]).words.endswith("none")


# ---- quality ----


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_the_frontier_is_what_no_other_point_beats(places):
    points = dict(enumerate(places))
    names = frontier(points)
    for name, (x, y) in points.items():
        as_good = [other for other in names if points[other][0] <= x and points[other][1] <= y]
        assert as_good == [name] if name in names else as_good
    assert [points[name][0] for name in names] == sorted({points[name][0] for name in names})


def test_pareto_joins_the_best_and_puts_a_zero_on_the_ground():
    points = {"big": (3000, 0), "small": (100, 0.9), "worse": (1500, 0.6), "middle": (1000, 0.3)}
    drawing = Drawing(show.pareto, points, "MB", "KL")
    (colour,) = drawing.legend.values()
    ground = drawing.near("big (0)")[1]
    assert 0 < ground < 0.3 and in_tens(drawing.axes.yaxis) and not in_tens(drawing.axes.xaxis)
    assert lines(drawing.axes, "--") == {colour: [[100, 0.9], [1000, 0.3], [3000, ground]]}
    assert sorted(dots(drawing.axes, colour)) == [(100, 0.9), (1000, 0.3), (3000, ground)]
    (grey,) = {_colour(line) for line in drawing.axes.lines} - {colour}
    assert dots(drawing.axes, grey) == [(1500, 0.6)] == [drawing.near("worse")]
    assert {"MB", "KL", "small", "middle"} < set(drawing.shown)
    assert "big 3,000 and 0, small 100 and 0.9, worse 1,500 and 0.6, middle" in drawing.words
    assert drawing.words.endswith("small, middle, big")


@pytest.mark.parametrize("value", [0, 0.5])
def test_pareto_of_one_point(value):
    drawing = Drawing(show.pareto, {"only": (10, value)}, "MB", "KL", crowded=True)
    assert drawing.shown.count("only" if value else "only (0)") == 1


def test_surprises_have_a_bar_over_each_piece():
    drawing = Drawing(show.surprises, ["the", " a\n", "א", "$$"], [1.25, 5, 3, 2])
    assert drawing.bars(upright=True) == [(0, 0, 1.25), (1, 0, 5), (2, 0, 3), (3, 0, 2)]
    assert [label.get_text() for label in drawing.axes.get_xticklabels()] == ["the", " a⏎", "U+05D0", "$$"]
    assert drawing.axes.get_xticks().tolist() == [0, 1, 2, 3] and "surprise" in drawing.shown
    assert r"'the' 1.2, ' a\n' 5.0, 'א' 3.0" in drawing.words


# ---- speed ----


def test_one_answer_has_a_bar_per_token_end_to_end():
    milliseconds, pieces = [120, 20, 25, 30], ["The", " $$", "\n", "語"]
    drawing = Drawing(show.one_answer, 5.0, milliseconds, pieces)
    assert drawing.bars() == [(0, 0, 5), (0, 5, 125), (0, 125, 145), (0, 145, 170), (0, 170, 200)]
    assert [drawing.near(piece)[0] for piece in ("The", "$$", "U+000A", "U+8A9E")] == [125, 145, 170, 200]
    before, prefill, decode = drawing.legend.items()
    assert "5.0 ms" in before[0] and "prefill" in prefill[0] and "decode" in decode[0]
    assert drawing.bars(before[1]) == [(0, 0, 5)] and drawing.bars(prefill[1]) == [(0, 5, 125)]
    assert drawing.bars(decode[1]) == [(0, 125, 145), (0, 170, 200)], "neighbours look different"
    arrows = [text for text in drawing.axes.texts if not text.get_text()]
    assert [sorted((arrow.xy[0], arrow.xyann[0])) for arrow in arrows if arrow.arrow_patch] == [[0, 125], [125, 145]]
    ((low, high),) = {tuple(bar.get_bbox().intervaly) for bar in drawing.axes.patches}
    assert all(arrow.xy[1] == arrow.xyann[1] < low for arrow in arrows), "level, below the bars"
    for name, middle in ("TTFT", 62.5), ("TPOT", 135):
        assert drawing.near(name)[0] == middle and drawing.near(name)[1] < arrows[0].xy[1]
    assert all(text.get_ha() == "center" for text in drawing.axes.texts if text.get_text() in ("TTFT", "TPOT"))
    assert all(drawing.near(name)[1] > high for name in ("The", "$$")), "above the bars"
    assert drawing.axes.get_xlim()[0] == 0 and not drawing.axes.get_yticks().size
    assert "4 tokens" in drawing.words and "125 ms" in drawing.words and drawing.words.endswith("200")


def test_scaling_is_in_steps_of_ten_with_a_number_at_each_dot():
    measured = {"read": {1: 20.0, 8: 5.25, 512: 1234.0}, "other": {1: 100.0, 8: 700.0}}
    limits = {"limit": {1: 10.0, 512: 1.0}}
    drawing = Drawing(show.scaling, measured, "length", "speed", limits)
    assert in_tens(drawing.axes.xaxis) and in_tens(drawing.axes.yaxis)
    assert list(drawing.legend) == ["read", "other", "limit"]
    assert lines(drawing.axes, "--") == {drawing.legend["limit"]: [[1, 10], [512, 1]]}
    for name, points in measured.items():
        assert dots(drawing.axes, drawing.legend[name]) == list(points.items())
        assert lines(drawing.axes)[drawing.legend[name]] == [list(place) for place in points.items()]
    places = {"20": (1, 20), "5.25": (8, 5.25), "1,234": (512, 1234), "100": (1, 100), "700": (8, 700)}
    assert {number: drawing.near(number) for number in places} == places
    assert [label.get_text() for label in drawing.axes.get_xticklabels()] == ["1", "8", "512"]
    assert not drawing.axes.get_xticks(minor=True).size and {"length", "speed"} < set(drawing.shown)
    assert (
        "speed against length" in drawing.words and "read 1: 20, 8: 5.25, 512: 1.23e+03; other 1: 100" in drawing.words
    )
    assert list(Drawing(show.scaling, {"read": {1: 2.0, 1000: 3.0}}, "x", "y").legend) == ["read"]


def test_numbers_stand_below_their_dots():
    drawing = Drawing(show.scaling, {"read": {1: 2.0, 1000: 99.5}}, "x", "y")
    for number, place in ("2", (1, 2)), ("99.5", (1000, 99.5)):
        (box,) = [text.get_window_extent() for text in drawing.axes.texts if text.get_text() == number]
        x, y = drawing.axes.transData.transform(place)
        assert box.y1 < y and abs((box.x0 + box.x1) / 2 - x) < 1


def test_groups_have_a_bar_per_kind_from_nought():
    bars = {"8 bits": {"reading": 1.2, "writing": 0.8}, "4 bits": {"reading": 2, "writing": 0.5}, "as it is": {}}
    bars["as it is"] = {"reading": 1, "writing": 1}
    drawing = Drawing(show.groups, bars, "speed", mark=1)
    assert drawing.labels == list(bars) and list(drawing.legend) == ["reading", "writing"]
    assert drawing.axes.get_yticks().tolist() == [0, 1, 2] and drawing.axes.get_xlim()[0] == 0
    for number, (kind, colour) in enumerate(drawing.legend.items()):
        rows = drawing.bars(colour)
        assert [(round(row), start, end) for row, start, end in rows] == [
            (at, 0, values[kind]) for at, values in enumerate(bars.values())
        ]
        assert all(row < round(row) if number == 0 else row > round(row) for row, *_ in rows), "reading is on top"
        assert all(abs(row - round(row)) < 0.5 for row, *_ in rows)
    assert drawing.beside("1.20") == (1.2, pytest.approx(drawing.bars(drawing.legend["reading"])[0][0]))
    (mark,) = drawing.axes.lines
    assert set(mark.get_xdata()) == {1} and "speed" in drawing.shown
    assert "8 bits reading 1.20, writing 0.80; 4 bits reading 2.00, writing 0.50" in drawing.words
    assert not Drawing(show.groups, bars, "speed").axes.lines


# ---- text ----


def test_a_merge_tree_joins_each_piece_to_its_parts():
    rows = [["b", "$", "$", "語"], ["b", "$$", "語"], ["b$$", "語"]]
    drawing = Drawing(show.merge_tree, rows)
    places = {text.get_text(): text.get_position() for text in drawing.axes.texts if text.get_text() != "$"}
    assert places == {"b": (0, 0), "U+8A9E": (3, 0), "$$": (1.5, 1), "b$$": (0.75, 2)}
    assert [text.get_position() for text in drawing.axes.texts if text.get_text() == "$"] == [(1, 0), (2, 0)]
    ends = [(*line.get_xydata()[0].tolist(), *line.get_xydata()[-1].tolist()) for line in drawing.axes.lines]
    assert sorted(ends) == [(0, 0, 0.75, 2), (1, 0, 1.5, 1), (1.5, 1, 0.75, 2), (2, 0, 1.5, 1)]
    for line in drawing.axes.lines:
        assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(line.get_xydata())), "along the axes only"
        assert {_colour(line)} == {to_hex(text.get_bbox_patch().get_edgecolor()) for text in drawing.axes.texts}
    assert drawing.axes.get_yticks().tolist() == [0, 1, 2] and not drawing.axes.get_xticks().size
    for text in drawing.axes.texts:
        box = text.get_bbox_patch().get_window_extent()
        assert drawing.axes.bbox.y0 < box.y0 and box.y1 < drawing.axes.bbox.y1 and text.get_zorder() > 2
    assert "joins done" in drawing.shown
    assert drawing.words.endswith("b $ $ 語; b $$ 語; b$$ 語")


def test_languages_are_compared_by_sentence_and_by_character():
    tokens, characters = {"English": 10, "Hindi": 50, "Polish": 20}, {"English": 40, "Hindi": 40, "Polish": 50}
    drawing = Drawing(show.language_costs, tokens, characters)
    left, right = drawing.panels
    assert drawing.labels == list(tokens) and drawing.shown.count("Hindi") == 1
    assert drawing.lengths(axes=left) == [10, 50, 20] and drawing.lengths(axes=right) == [0.25, 1.25, 0.4]
    assert drawing.beside("50") == (50, 1) and drawing.beside("0.25") == (0.25, 0)
    assert "per character" in right.get_xlabel() and "sentence" in left.get_xlabel()
    assert left.get_xlim()[0] == right.get_xlim()[0] == 0
    assert _colour(left.patches[0]) != _colour(right.patches[0])
    assert "Hindi 50 tokens, 1.25 per character" in drawing.words


def test_a_budget_is_the_whole_context():
    drawing = Drawing(show.budget, {"question": 1100, "page": 400}, 2000)
    assert list(drawing.legend) == ["question: 1,100", "page: 400", "remaining: 500"]
    spans = [drawing.bars(colour)[0][1:] for colour in drawing.legend.values()]
    assert spans == [(0, 1100), (1100, 1500), (1500, 2000)] and drawing.axes.get_xlim() == (0, 2000)
    assert any("2,000" in text for text in drawing.shown) and not drawing.axes.get_yticks().size
    assert all(word in drawing.words for word in ("2000", "question 1100, page 400", "remaining 500"))
    assert drawing.axes.patches[-1].get_hatch()


def test_a_budget_of_nothing_is_all_remaining():
    assert list(Drawing(show.budget, {}, 100).legend) == ["remaining: 100"]


def test_what_is_too_many_for_a_budget_is_marked_at_its_end():
    drawing = Drawing(show.budget, {"question": 1100, "page": 1400}, 2000, crowded=True)
    assert list(drawing.legend) == ["question: 1,100", "page: 1,400", "too many: 500"]
    assert drawing.axes.get_xlim() == (0, 2500) and drawing.axes.patches[-1].get_hatch()
    assert drawing.axes.patches[-1].get_bbox().intervalx.tolist() == [2000, 2500]


def test_a_road_leads_from_box_to_box():
    drawing = Drawing(show.road, {"ids": (1, 20), "after 30 layers": [1, 20, 576], "last row": (49152,)})
    boxes = [text for text in drawing.axes.texts if text.get_text()]
    assert [box.get_text().split("\n") for box in boxes] == [
        ["ids", "[1, 20]"],
        ["after 30 layers", "[1, 20, 576]"],
        ["last row", "[49152]"],
    ]
    edges = [box.get_bbox_patch().get_window_extent() for box in boxes]
    assert edges[0].x0 > 0 and edges[-1].x1 < drawing.figure.bbox.x1
    arrows = [text for text in drawing.axes.texts if not text.get_text()]
    assert [(arrow.xyann, arrow.xy) for arrow in arrows] == [((0, 0), (1, 0)), ((1, 0), (2, 0))]
    for arrow, (before, after) in zip(arrows, pairwise(boxes), strict=True):
        assert (
            arrow.arrow_patch.patchA is before.get_bbox_patch() and arrow.arrow_patch.patchB is after.get_bbox_patch()
        )
    assert all(before.x1 < after.x0 for before, after in pairwise(edges)), "there is room for an arrow"
    assert drawing.words == "ids [1, 20] → after 30 layers [1, 20, 576] → last row [49152]"


def test_the_likeliest_tokens_have_scores_and_probabilities():
    tok = tokenizer("the", "▁$$", "語", "</s>")
    drawing = Drawing(show.top_tokens, tok, [3, 1, 2], [5.5, -2.25, 1.0], [0.9, 0.0512, 0.01])
    left, right = drawing.panels
    assert drawing.labels == ["</s>", "␣$$", "U+8A9E"] and drawing.shown.count("␣$$") == 2
    assert drawing.bars(axes=left) == [(0, 0, 5.5), (1, -2.25, 0), (2, 0, 1)]
    assert drawing.lengths(axes=right) == [0.9, 0.0512, 0.01]
    assert {"5.50", "-2.25", "1.00", "0.9", "0.0512", "0.01"} < set(drawing.shown)
    assert "score" in left.get_xlabel() and right.get_xlabel() == "probability" and right.get_xlim()[0] == 0
    assert _colour(left.patches[0]) != _colour(right.patches[0])
    assert right.get_ylim() == left.get_ylim()
    assert "</s> 0.9, ␣$$ 0.0512, U+8A9E 0.01" in drawing.words and "3 tokens" in drawing.words


@pytest.mark.parametrize("scores", [[-1.0, -3.0], [2.0, 1.0], [0.0, 0.0]])
def test_scores_may_be_any_numbers(scores):
    drawing = Drawing(show.top_tokens, tokenizer("a", "b", "c"), [0, 1], scores, [0.5, 0.5], crowded=not any(scores))
    low, high = drawing.axes.get_xlim()
    assert low <= 0 <= high and low < high


@pytest.mark.parametrize("count", [1, 3, 4])
def test_each_change_of_the_probabilities_has_a_panel(count):
    tok = tokenizer("the", "$$", "語", "</s>")
    changes = {f"change {number}": [0.6 + number / 10, 0.3, 0.1 - number / 100] for number in range(count)}
    drawing = Drawing(show.reshaped, tok, [1, 0, 2], [0.5, 0.3, 0.2], changes, crowded=True)
    assert [axes.get_title() for axes in drawing.panels] == list(changes)
    assert drawing.labels == ["$$", "the", "U+8A9E"]
    for axes, after in zip(drawing.panels, changes.values(), strict=True):
        grey, blue = dict.fromkeys(map(_colour, axes.patches))
        assert drawing.lengths(grey, axes) == [0.5, 0.3, 0.2]
        assert drawing.lengths(blue, axes) == pytest.approx(after)
        thick = [bar.get_height() for bar in axes.patches if _colour(bar) == grey]
        thin = [bar.get_height() for bar in axes.patches if _colour(bar) == blue]
        assert max(thin) < min(thick) < 1, "the grey one is seen behind, and ends before the next row"
        assert axes.get_ylim() == drawing.axes.get_ylim() and axes.get_xlim() == drawing.axes.get_xlim()
    assert any("grey before" in text for text in drawing.shown)
    assert "$$ has 0.5" in drawing.words and "change 0 0.6" in drawing.words and "3 tokens" in drawing.words


def test_a_fork_is_thicker_where_it_is_likelier():
    branches = [(0.61, "went  on\nwith $$ " + "and on " * 20), (0.3, "語"), (0.09, "ended")]
    drawing = Drawing(show.fork, "Once $$ upon " + "a time " * 20, branches)
    likely, less, least = (line.get_linewidth() for line in drawing.axes.lines)
    assert likely > less > least >= 1
    for row, share in enumerate(["61%", "30%", "9%"], 1):
        assert drawing.beside(share)[1] == row == drawing.axes.lines[row - 1].get_ydata()[-1]
        assert drawing.near(share)[0] > drawing.axes.lines[row - 1].get_xdata().max()
    assert drawing.beside("ended") == (drawing.beside("U+8A9E")[0], 3)
    assert drawing.near("ended")[0] > drawing.near("9%")[0]
    tops = [text.get_window_extent().y0 for text in drawing.texts]
    assert tops[0] > tops[1] > tops[3] > tops[5], "it is read downwards"
    starts = [line.get_ydata()[0] for line in drawing.axes.lines]
    assert starts == [0, 1, 2], "each goes on from the one above"
    stem, first = drawing.shown[0], drawing.shown[2]
    assert " ".join(stem.split()).startswith("Once $$ upon a time") and "went on with $$ and on" in " ".join(
        first.split()
    )
    assert "3 ways" in drawing.words and "30% 語; 9% ended" in drawing.words and "61% went" in drawing.words


# ---- weights ----

WEIGHTS = np.random.default_rng(0).normal(size=64) * 0.1
SCALE = 0.04
CODES = np.clip(np.round(WEIGHTS / SCALE), -8, 7)


def test_a_group_lies_on_a_grid_of_sixteen_values():
    drawing = Drawing(show.on_grid, WEIGHTS, CODES, SCALE)
    levels = [line.get_ydata()[0] for line in drawing.axes.lines]
    assert levels == pytest.approx([code * SCALE for code in range(-8, 8)])
    for code in range(-8, 8):
        x, y = drawing.axes.texts[code + 8].get_position()
        assert drawing.axes.texts[code + 8].get_text() == str(code) and x > 63 and y == pytest.approx(code * SCALE)
    strokes, stored, weights = drawing.axes.collections
    ends = np.array(strokes.get_segments())
    assert (ends[:, :, 0] == np.arange(64)[:, None]).all()
    assert ends[:, 0, 1] == pytest.approx(WEIGHTS) and ends[:, 1, 1] == pytest.approx(CODES * SCALE)
    assert np.allclose(weights.get_offsets(), np.stack([np.arange(64), WEIGHTS], axis=1))
    assert np.allclose(stored.get_offsets(), np.stack([np.arange(64), CODES * SCALE], axis=1))
    assert weights.get_zorder() > strokes.get_zorder() > drawing.axes.lines[0].get_zorder()
    assert list(drawing.legend) == ["error", "stored", "weight"] and "64 weights" in drawing.words
    assert _colour(weights) == drawing.legend["weight"] != drawing.legend["error"] == drawing.legend["stored"]
    assert {"value", "place in the group"} < set(drawing.shown)


def test_before_and_after_counts_every_weight_and_every_code():
    weights, codes = WEIGHTS.reshape(8, 8), CODES.reshape(8, 8)
    drawing = Drawing(show.before_and_after, weights, codes * SCALE, codes, crowded=True)
    left, right = drawing.panels
    shares = drawing.bars(axes=right, upright=True)
    assert [place for place, *_ in shares] == list(range(-8, 8))
    assert [high for *_, high in shares] == pytest.approx([np.mean(codes == code) for code in range(-8, 8)])
    counts = [(place, high) for place, _, high in drawing.bars(axes=left, upright=True)]
    assert sum(high for _, high in counts) == 64
    assert sum(place * high for place, high in counts) / 64 == pytest.approx(WEIGHTS.mean(), abs=0.005)
    (outline,) = [patch for patch in left.patches if not isinstance(patch, Rectangle)]
    assert outline.get_xy()[:, 1].max() == pytest.approx(max(np.sum(code == CODES) for code in range(-8, 8)))
    assert left.get_ylim() == (0, 1.5 * max(high for _, high in counts)), "the peak may not hide the rest"
    names = [text.get_text() for text in left.get_legend().get_texts()]
    assert names == ["16 bits", "restored from 4"] and not left.get_legend().get_frame_on()
    bars, line = left.get_legend().legend_handles
    assert _colour(bars) == _colour(left.patches[0]) and line.get_edgecolor() == outline.get_edgecolor()
    assert {"weight", "how many", "code", "share", "-8", "6"} <= {text.replace("−", "-") for text in drawing.shown}
    assert set(right.get_xticks()) < set(range(-8, 8)) and left.get_position().width > right.get_position().width
    assert "before and after" in drawing.words


def test_group_errors_are_a_map_with_a_scale():
    errors = np.arange(40.0).reshape(10, 4)
    drawing = Drawing(show.group_errors, errors, "error", framed=True)
    (image,) = drawing.axes.images
    assert (image.get_array() == errors.T).all() and {"row of the matrix", "group in the row", "error"} < set(
        drawing.shown
    )
    dark, bright = (sum(image.to_rgba(value)[:3]) for value in (0.0, 39.0))
    assert bright > dark and len(drawing.figure.axes) == 2
    assert drawing.axes.bbox.width > 0.7 * drawing.figure.bbox.width and drawing.axes.bbox.height > 100, (
        "it fills the page"
    )
    assert image.get_interpolation() == "nearest", "a cell has one colour"
    assert "10 rows by 4 groups" in drawing.words and "error" in drawing.words


def test_a_trade_off_is_a_line_of_labelled_points_per_series():
    series = {"sym": [(4.1, 0.1, "g 128"), (4.5, 0.05, "g 32")], "asym": [(8, 0.001, "rows")]}
    drawing = Drawing(show.trade_off, series, "bits", "loss")
    assert in_tens(drawing.axes.yaxis) and not in_tens(drawing.axes.xaxis) and list(drawing.legend) == ["sym", "asym"]
    for name, points in series.items():
        places = [place for *place, _ in points]
        assert lines(drawing.axes)[drawing.legend[name]] == places
        assert dots(drawing.axes, drawing.legend[name]) == [tuple(place) for place in places]
        assert all(drawing.near(label) == (x, y) for x, y, label in points)
    assert {"bits", "loss"} < set(drawing.shown) and drawing.words.startswith("loss against bits")
    assert drawing.words.endswith("sym, asym")


def test_a_precision_map_has_a_square_per_layer_and_matrix():
    kinds = {(layer, matrix): "int4" if layer % 3 else "int8" for layer in range(5) for matrix in ("q", "down")}
    kinds[4, "down"] = "f16"
    drawing = Drawing(show.precision_map, kinds)
    assert list(drawing.legend) == ["f16: 1", "int4: 5", "int8: 4"] and drawing.labels == ["q", "down"]
    rows = {row: [kind.split(":")[0] for kind in each] for row, each in drawing.squares().items()}
    assert rows == {matrix: [kinds[layer, matrix] for layer in range(5)] for matrix in ("q", "down")}
    middles = {(start + end) / 2 for _, start, end in drawing.bars()}
    assert middles == {0, 1, 2, 3, 4} and "layer" in drawing.shown
    assert "2 kinds of matrices" in drawing.words and "f16 1, int4 5, int8 4" in drawing.words


def test_a_ranking_falls():
    values = {"b": 0.1, "a": 1.0, "c": 0.5, "d": 0.2}
    drawing = Drawing(show.ranking, values, {"a": "int4", "b": "int8", "c": "int4", "d": "int8", "x": "int8"}, "error")
    assert list(drawing.legend) == ["int4", "int8"] and in_tens(drawing.axes.yaxis)
    assert dots(drawing.axes, drawing.legend["int4"]) == [(0, 1.0), (1, 0.5)]
    assert dots(drawing.axes, drawing.legend["int8"]) == [(2, 0.2), (3, 0.1)]
    assert {"rank", "error"} < set(drawing.shown) and "error" in drawing.words and "4 dots" in drawing.words


def test_a_number_format_has_a_square_per_bit():
    drawing = Drawing(show.number_formats, {"f32": (1, 8, 23), "bf16": (1, 8, 7)})
    sign, exponent, fraction = drawing.legend
    assert "sign" in sign and "exponent" in exponent and "fraction" in fraction
    assert drawing.squares() == {
        "f32": [sign] + 8 * [exponent] + 23 * [fraction],
        "bf16": [sign] + 8 * [exponent] + 7 * [fraction],
    }
    assert sorted(start for row, start, _ in drawing.bars() if row == 0) == list(range(32))
    assert not drawing.axes.get_xticks().size and "f32 1 + 8 + 23, bf16 1 + 8 + 7" in drawing.words


# ---- from one row to many ----

ROWS = {
    "agreement": lambda names: ([1, 2, 3], {name: [1, 2, 4] for name in names}),
    "groups": lambda names: ({name: {"a": 1, "b": 2} for name in names}, "ms"),
    "language_costs": lambda names: (dict.fromkeys(names, 2), dict.fromkeys(names, 3)),
    "number_formats": lambda names: (dict.fromkeys(names, (1, 5, 10)),),
    "precision_map": lambda names: ({(layer, name): "int4" for name in names for layer in range(3)},),
    "rounds": lambda names: (dict.fromkeys(names, [1, 2]), "ms"),
    "stacks": lambda names: ({name: {"a": 1, "b": 2} for name in names}, "MB"),
}


@pytest.mark.parametrize("name", ROWS)
def test_the_picture_grows_with_its_rows(name):
    few, many = (Drawing(getattr(show, name), *ROWS[name](MANY[:n]), crowded=name == "rounds") for n in (1, 12))
    assert few.labels == MANY[:1] and many.labels == MANY
    heights = [each.axes.bbox.height / len(each.labels) for each in (few, many)]
    assert min(heights) > 12 and max(heights) < 2.5 * min(heights), (
        "a row is as high in a small picture as in a large one"
    )


@pytest.mark.parametrize("count", [1, 12])
def test_texts_keep_apart_however_many(count):
    tok = tokenizer(*MANY[:count], "</s>")
    ids, shares = list(range(count)), [1 / count] * count
    Drawing(show.top_tokens, tok, ids, shares, shares)
    Drawing(show.reshaped, tok, ids, shares, {"once": shares, "twice": shares}, crowded=True)
    Drawing(show.fork, "stem", [(share, "text") for share in shares])
    Drawing(show.merge_tree, [["ab"[n % 2] for n in range(8)]] * count)


# ---- tables ----


def cells(markdown) -> list[list[str]]:
    """The head and the rows, as a reader of Markdown sees them."""
    assert all(re.fullmatch(r"\| .* \|", line) for line in markdown.data.splitlines())
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in markdown.data.splitlines()]
    assert rows[1] == [" --- "] * len(rows[0]), "the second line makes it a table"
    return [[cell.strip().replace("\\|", "|") for cell in row] for at, row in enumerate(rows) if at != 1]


def test_a_table_has_a_row_per_mapping_in_the_order_of_the_first():
    rows = [{"name": "a|b", "size": 1234.5678}, {"size": 2, "name": "two\nlines", "more": "is left out"}]
    assert cells(show.table(iter(rows))) == [["name", "size"], ["a|b", "1,235"], ["two lines", "2"]]


def test_facts_are_names_and_values():
    assert cells(show.facts({"int": 1234567, "float": 0.000123456, "none": None})) == [
        ["", ""],
        ["int", "1234567"],
        ["float", "0.0001235"],
        ["none", "None"],
    ]


def test_a_source_is_the_source_itself():
    fence, *code, end = show.source(check_int).data.splitlines()
    assert fence == "```python" and end == "```" and "\n".join(code) == inspect.getsource(check_int).rstrip()


# ---- tokens ----


PIECES = ("the", "▁<b>", "a\nb", "\n", "$$", "\u0301", "\x07", "<|end|>")


def parsed(chips) -> ElementTree.Element:
    return ElementTree.fromstring(chips.data.replace("<br>", "<br/>"))


def look(element) -> dict[str, str]:
    return dict(pair.split(":") for pair in element.get("style").split(";") if pair)


def test_chips_are_a_picture_to_a_screen_reader_and_text_without_styles():
    row = parsed(show.chips(tokenizer(*PIECES), iter([0, 1, 2, 3, 0, 5, 6, 7])))
    assert row.get("role") == "img" and row.tag == "div"
    words = "the 0, ␣<b> 1, a⏎b 2, ⏎ 3, the 0, ◌\u0301 5, U+0007 6, <|end|> 7"
    assert row.get("aria-label").startswith("8 tokens") and row.get("aria-label").endswith(words)
    assert [(chip.text, *[below.text for below in chip]) for chip in row.findall("span")] == [
        tuple(word.rsplit(" ", 1)) for word in words.split(", ")
    ]
    assert {chip.tail for chip in row.findall("span")} == {" "}
    assert [child.tag for child in row] == ["span"] * 2 + ["br", "span", "span", "br"] + ["span"] * 4


def test_neighbours_have_other_colours_and_a_control_token_its_own():
    *plain, control = parsed(show.chips(tokenizer(*PIECES), [0] * 7 + [7])).findall("span")
    colours = [look(chip)["background-color"] for chip in plain]
    assert all(one != other for one, other in pairwise(colours)) and len(set(colours)) == 5
    assert look(control)["background-color"] not in colours and look(control)["color"] == "#ffffff"
    assert "outline" not in look(control) and {look(chip)["color"] for chip in plain} == {"#1f2328"}


def test_changes_are_red_and_green_and_signed():
    tok = tokenizer(*PIECES)
    *plain, same = parsed(show.changes(tok, [0, 7, 1], [4, 7, 7, 1])).findall("span")
    assert [chip.text for chip in plain] == ["−the", "+$$", "+<|end|>", "<|end|>"]
    gone, new, come, kept = (look(chip) for chip in plain)
    assert len({gone["background-color"], new["background-color"], look(same)["background-color"]}) == 3
    assert "outline" not in kept and new["background-color"] in come["outline"], "a control token stays dark"
    words = repr(show.changes(tok, [0], [4]))
    assert words == "−the 0 | +$$ 4"


def test_steps_are_a_row_each_the_likelier_the_bluer():
    tok = tokenizer(*PIECES)
    taken = [
        SimpleNamespace(id=1, probability=0.25, alternatives=[(0, 0.5), (1, 0.25)]),
        SimpleNamespace(id=3, probability=1.0, alternatives=[(3, 1.0), (7, 0.0)]),
    ]
    chips = show.steps(tok, iter(taken))
    table = parsed(chips)
    head, *rows = table.iter("tr")
    assert [cell.text for cell in head] == ["step", "taken", "likeliest"] and table.find("thead/tr") is head
    assert table.findall("tbody/tr") == rows
    texts = [["".join(cell.itertext()) for cell in row.findall("td")] for row in rows]
    assert texts == [["1", "␣<b>25.0%", "the50.0%", "␣<b>25.0%"], ["2", "⏎100.0%", "⏎100.0%", "<|end|>0.0%"]]
    assert "".join(table.itertext()) == "".join(cell.text for cell in head) + "".join(sum(texts, []))
    assert repr(chips) == "1: ␣<b> 25.0% | the 50.0% | ␣<b> 25.0%\n2: ⏎ 100.0% | ⏎ 100.0% | <|end|> 0.0%"
    red = {cell.text: int(look(cell)["background-color"][1:3], 16) for cell in table.iter("span")}
    assert red["<|end|>"] == 255 > red["␣<b>"] > red["the"] > red["⏎"]
    assert look(rows[1][1][0])["background-color"] == show.COLOURS[7] and {len(row) for row in rows} == {4}
