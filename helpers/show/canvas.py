"""What every figure needs: a PNG with words for a screen reader, and text that can be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from io import BytesIO
from itertools import cycle

from IPython.display import Image
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

from helpers.errors import TutorialError

COLOURS = ["#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5"]


def blank(height: float, *things: Sized) -> Figure:
    """A figure for `things`, as wide as the page; where one of them is empty there is nothing to draw."""
    if not all(map(len, things)):
        raise TutorialError("There is nothing to draw.", "Give the drawing one value at least of each kind.")
    return Figure(figsize=(8, height), layout="constrained")


def coloured(things: Iterable) -> Iterator[tuple]:
    """Each of `things` behind its colour; behind the last colour comes the first again, so that none is left out."""
    return zip(cycle(COLOURS), things, strict=False)


def picture(figure: Figure, alt: str) -> Image:
    """A figure as a PNG with the words that a screen reader says.

    White in light and dark themes alike; an Image, since a Figure shows itself only after pyplot was imported.
    """
    png = BytesIO()
    figure.savefig(png, format="png", dpi=144, facecolor="white")
    return Image(png.getvalue(), width=round(figure.get_figwidth() * 96), alt=alt)


def _drawable(text: str) -> str:
    """`text` with U+… for what the figures' font has no glyph for."""
    font = get_font(findfont("DejaVu Sans Mono"))
    return "".join(c if font.get_char_index(ord(c)) else f"U+{ord(c):04X}" for c in text)
