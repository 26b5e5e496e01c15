"""Every chart and diagram can be seen on white and on a dark page; the measure itself finds what cannot."""

from io import BytesIO

import numpy as np
import pytest
from legible import PAGES, TEXT, contrast, faults
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from test_flow import FLOWS
from test_show import CHARTS, Drawing

from helpers import show

DRAWN = {
    **{name: (chart, [["first", "second", "third"], [1, 2, 3]], {}) for name, chart in CHARTS.items()},
    **{name: (show.flow, [boxes], named) for name, (boxes, named) in FLOWS.items()},
}


@pytest.mark.parametrize("function, given, named", DRAWN.values(), ids=DRAWN)
def test_every_drawing_is_legible_on_white_and_dark(function, given, named):
    assert faults(function(*given, **named).data) == []
    for text in Drawing(function, *given, **named).texts:
        assert min(contrast(to_rgb(text.get_color()), page) for page in PAGES.values()) >= TEXT, text


def test_contrast_is_that_of_wcag():
    assert contrast([[0, 0, 0], [1, 1, 1]], "#ffffff").tolist() == pytest.approx([21, 1])
    assert contrast(np.array(to_rgb("#767676")), "#ffffff") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize(
    "ink, face, fault",
    [
        ("#000000", "none", "dark"),
        ("#ffffff", "none", "white"),
        ("#eeee33", "none", "white"),
        ("#767676", "white", "rim"),
    ],
)
def test_what_is_faint_or_opaque_is_found(ink, face, fault):
    figure, png = Figure(facecolor=face), BytesIO()
    axes = figure.subplots()
    axes.set_axis_off()
    axes.barh([0, 1], [1, 2], color=ink)
    figure.savefig(png)
    assert fault in " ".join(faults(png.getvalue()))
