"""Diagrams of boxes and arrows: every text is inside its box, and the words beside the diagram name each arrow."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Annotation
from test_show import Drawing

from helpers import show
from helpers.errors import TutorialError
from helpers.show.charts import INK

LAYER = [{"ids": "[1, 12]"}, {"norm": "RMSNorm", "attention": "9 heads", "add": "residual"}, {"logits": ""}]
ADDED = {"frames": {"Layer × 30": ("norm", "add")}, "adds": [("norm", "add")]}
FILES = [{"openvino_model.xml": "the graph", "tokenizer.json": ""}, {"OVModelForCausalLM": "", "AutoTokenizer": ""}]
READ = [("openvino_model.xml", "OVModelForCausalLM"), ("tokenizer.json", "AutoTokenizer")]
STEPS = {f"{n} Load the model": "OVModelForCausalLM" for n in range(1, 11)}
BPE = {"Text": "Don't stop", "Normalize": "Don't stop", "Pre-tokenize": "Don | 't | ␣stop", "BPE": "Don | 't | ␣stop"}
FLOWS = {"steps": (STEPS, {}), "tokenizer": (BPE, {}), "layer": (LAYER, ADDED), "files": (FILES, {"arrows": READ})}


def boxes(drawing) -> list:
    return [
        patch for patch in drawing.axes.patches if isinstance(patch, Rectangle) and patch.get_linestyle() == "solid"
    ]


@pytest.mark.parametrize("given, named", FLOWS.values(), ids=FLOWS)
def test_every_text_is_inside_its_box_or_above_a_frame(given, named):
    drawing = Drawing(show.flow, given, "Title", **named)
    outlines = [box.get_window_extent() for box in boxes(drawing)]
    texts = [text.get_window_extent() for text in drawing.axes.texts if text.get_text()]
    inside = [
        any(box.x0 <= t.x0 < t.x1 <= box.x1 and box.y0 <= t.y0 < t.y1 <= box.y1 for box in outlines) for t in texts
    ]
    assert inside.count(False) == len(named.get("frames", [])), drawing.shown
    page = drawing.figure.bbox
    for outline in (patch.get_window_extent() for patch in drawing.axes.patches if isinstance(patch, Rectangle)):
        assert page.x0 <= outline.x0 < outline.x1 <= page.x1 and page.y0 <= outline.y0 < outline.y1 <= page.y1
        assert drawing.axes.bbox.y1 >= outline.y1, "the drawing runs into its title"
    assert not any(one.overlaps(other) for at, one in enumerate(outlines) for other in outlines[:at])


def test_boxes_of_a_chain_stand_in_rows_of_five_and_columns_where_arrows_are_given():
    for given, named, rows in ((STEPS, {}, 2), (LAYER, ADDED, 3), (FILES, {"arrows": READ}, 2)):
        drawn = boxes(Drawing(show.flow, given, **named))
        assert len({round(box.get_y(), 3) for box in drawn}) == rows
    columns = {round(box.get_x(), 3) for box in drawn}
    assert len(columns) == 2


def test_an_arrow_ends_in_a_visible_head_at_its_last_point():
    drawing = Drawing(show.flow, FILES, arrows=READ)
    heads = [text for text in drawing.axes.texts if isinstance(text, Annotation)]
    assert len(heads) == len(READ)
    for line, head in zip(drawing.axes.lines, heads, strict=True):
        points = [tuple(point) for point in line.get_xydata()]
        assert (head.xyann, head.xy) == (points[-2], points[-1])
        assert line.get_color() == INK and to_hex(head.arrow_patch.get_facecolor()) == to_hex(INK)


def test_words_name_the_boxes_their_arrows_the_frame_and_what_is_added():
    words = show.flow(LAYER, "A layer", **ADDED).alt
    chain = "ids ([1, 12]) → norm (RMSNorm) → attention (9 heads) → add (residual) → logits"
    around = "Layer × 30: around norm to add; what enters norm is also added at add"
    assert words == f"A layer. Boxes and arrows: {chain}; {around}"
    assert "tokenizer.json → AutoTokenizer" in show.flow(FILES, "Files", READ).alt


@pytest.mark.parametrize(
    "given, named",
    [
        ({}, {}),
        ([{}], {}),
        (LAYER, {"adds": [("norm", "ad")]}),
        ([{"a": ""}, {"a": ""}], {}),
        (FILES, {"arrows": ["ab"]}),
    ],
)
def test_a_flow_of_nothing_or_of_unknown_boxes_is_an_error(given, named):
    with pytest.raises(TutorialError):
        show.flow(given, **named)
