"""Whether a figure is legible on a white and on JupyterLab's dark page: contrast as WCAG 2.2 defines it."""

from io import BytesIO

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.image import imread

PAGES = {"white": "#ffffff", "dark": "#111111"}
TEXT, SHAPE = 4, 3  # the least contrast


def contrast(colours, background) -> np.ndarray:
    """Return the contrast of colours [..., 3] between 0 and 1 with one background."""

    def luminance(colour):
        colour = np.asarray(colour, float)
        linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722] + 0.05

    one, other = luminance(colours), luminance(to_rgb(background))
    return np.maximum(one, other) / np.minimum(one, other)


def faults(png: bytes, least: float = SHAPE) -> list[str]:
    """Return what makes a picture hard to see: an opaque background, or ink that is faint on one of the pages."""
    image = imread(BytesIO(png), format="png")
    if image.shape[2] < 4:
        return ["the background is opaque"]
    rim = np.concatenate([image[0, :, 3], image[-1, :, 3], image[:, 0, 3], image[:, -1, 3]])
    found = [] if not rim.any() else ["the background is not transparent at the rim"]
    ink = image[image[:, :, 3] > 0.98][:, :3]  # not the smoothed edges, nor tints under a hatch
    if len(ink) < 100:
        return [*found, "nothing is drawn"]
    for name, page in PAGES.items():
        faint = ink[contrast(ink, page) < least]
        if len(faint) > 0.01 * len(ink):
            colour = "#" + "".join(f"{round(255 * part):02x}" for part in np.median(faint, axis=0))
            found.append(f"{len(faint) / len(ink):.0%} of the ink, as {colour}, is faint on the {name} page")
    return found
