"""What every figure needs: a PNG with words for a screen reader, and text that can be drawn."""

from __future__ import annotations

from io import BytesIO

from IPython.display import Image
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font

COLOURS = ["#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5"]


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
