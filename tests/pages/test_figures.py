"""Every figure that a page stores is legible on white and on a dark page, and its alt text begins with its title."""

import re
from base64 import b64decode

import pytest
import reading
from legible import faults
from prose import PAGES

# How the words of show.bars, lines, timeline, squares and flow go on behind the title.
UNTITLED = re.compile(r"(Bars of|Against|One bar of|Squares by|Boxes and arrows) ?")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_stored_figures_are_legible_and_titled(path):
    found = []
    for at, cell in enumerate(reading.read(path).cells):
        for output in cell.get("outputs", []):
            if png := output.get("data", {}).get("image/png"):
                alt = output.metadata.get("image/png", {}).get("alt", "")
                found += [f"[{at}] {fault}" for fault in faults(b64decode(png))]
                title, _, words = alt.partition(". ")
                if UNTITLED.match(alt) or not words or len(title) > 90:
                    found.append(f"[{at}] the alt text does not begin with a title: {alt[:90]!r}")
    assert not found, "\n".join(["", *found])
