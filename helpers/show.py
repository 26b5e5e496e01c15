"""The one module that draws: tables, sources and figures, for JupyterLab and for the stored page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from functools import cache
from html import escape
from io import BytesIO
from itertools import accumulate, pairwise
from statistics import median
from textwrap import fill
from unicodedata import category

from IPython.display import HTML, Image, Markdown
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Patch

COLOURS = ["#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5"]


def table(rows: Iterable[Mapping[str, object]]) -> Markdown:
    """A table with a row per mapping; the first one's keys are the head."""
    rows = list(rows)
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([row[name] for name in head] for row in rows)]
    return Markdown("\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines))


def facts(values: Mapping[str, object]) -> Markdown:
    """A table of two columns, a row per name."""
    return table({"": name, " ": value} for name, value in values.items())


def _cell(value: object) -> str:
    text = f"{value:,.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def source(thing: object) -> Markdown:
    """The source of a function or class as it stands in the project: shown, not copied."""
    return Markdown(f"```python\n{inspect.getsource(thing).rstrip()}\n```")


def picture(figure: Figure, alt: str) -> Image:
    """A figure as a PNG with the words that a screen reader says.

    White in light and dark themes alike; an Image, since a Figure shows itself only after pyplot was imported.
    """
    png = BytesIO()
    figure.savefig(png, format="png", dpi=144, facecolor="white")
    return Image(png.getvalue(), width=round(figure.get_figwidth() * 96), alt=alt)


def timeline(seconds: Mapping[str, float]) -> Image:
    """One bar, cut into parts: where the time went.  `seconds` per part, in order."""
    figure = Figure(figsize=(8, 1.9), layout="constrained")
    axes = figure.subplots()
    left = 0.0
    for colour, (name, part) in zip(COLOURS, seconds.items(), strict=False):
        axes.barh(0, part, left=left, color=colour, label=f"{name}: {part:.2f} s")
        left += part
    axes.set(yticks=[], xlabel="seconds", xlim=(0, left))
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return picture(figure, "A bar of seconds per part: " + ", ".join(f"{n} {s:.2f}" for n, s in seconds.items()))


SIGNS = {" ": "␣", "\n": "⏎", "\t": "⇥"}
PASTELS = ["#cfe0fc", "#fde3b4", "#ffd3cc", "#cdeee6", "#dfd2f8"]  # the same dark ink is readable on each
CHIP = "display:inline-block;margin:2px;padding:1px 5px;border-radius:4px;text-align:center;white-space:nowrap;"
BELOW = "display:block;font-size:70%;line-height:1.3;vertical-align:baseline;"
ROW = "font-family:monospace;line-height:1.4;direction:ltr;"
CONTROL = "background-color:#24292f;color:#ffffff;border:1px solid #8c959f;"
PART = "background-color:#f6f8fa;color:#1f2328;border:1px dashed #57606a;"  # of a character
SIGNED = {"−": "#ffc1ba", "+": "#b4f1b4", "": "#eaeef2"}  # in a comparison: gone, new, the same


class Chips(HTML):
    """Coloured chips on a page; in a terminal or a diff, the same in plain text."""

    def __init__(self, html: str, text: str):
        super().__init__(html)
        self.text = text

    def __repr__(self) -> str:
        return self.text


def token_bytes(tok, token_id: int) -> bytes:
    """The bytes of text that a token stands for; of a control token those of its name, of a row without text none."""
    piece = tok.convert_ids_to_tokens(token_id) or ""
    if token_id in tok.added_tokens_decoder:
        return piece.encode()
    if type(tok.backend_tokenizer.decoder).__name__ == "ByteLevel":  # SmolLM2: one letter per byte, Ġ for a space
        return bytes(_byte_of_letter()[letter] for letter in piece)
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):  # Phi-3: letters, ▁ for a space, and 256 tokens of one byte each
        return bytes.fromhex(piece[3:5])
    return piece.replace("▁", " ").encode()


@cache
def _byte_of_letter() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode  # heavy, and only pages about tokens need it

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def chips(tok, ids: Iterable[int]) -> Chips:
    """One chip per token with its id below.

    ␣ is a space, ⏎ a newline.  White on black: a control token.  A dashed edge: the bytes, in hexadecimal, of a part
    of a character.
    """
    return _chips(tok, [("", token_id, PASTELS[n % len(PASTELS)]) for n, token_id in enumerate(ids)])


def changes(tok, before: Sequence[int], after: Sequence[int]) -> Chips:
    """What turns `before` into `after`: a red chip with − goes, a green one with + comes."""
    signed = []
    for kind, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        gone, new = ("", "") if kind == "equal" else ("−", "+")
        signed += [(gone, token_id, SIGNED[gone]) for token_id in before[i:j]]
        signed += [(new, token_id, SIGNED[new]) for token_id in after[k:m]] if new else []
    return _chips(tok, signed)


def _chips(tok, signed: Iterable[tuple[str, int, str]]) -> Chips:
    """Chips of (sign, id, colour); a newline in a text begins a new line of chips, so that a prompt keeps its shape."""
    html, words = [], []
    for sign, token_id, colour in signed:
        text, style = _face(tok, token_id, colour)
        words.append(f"{sign}{text} {token_id}")
        # <sub> and the space behind: a page that drops styles, such as GitHub's, still tells text, id and chips apart
        chip = f'<span style="{CHIP}{style}">{sign}{escape(text)}<sub style="{BELOW}">{token_id}</sub></span> '
        html.append("<br>" * ("⏎" in text[:-1]) + chip + "<br>" * text.endswith("⏎"))
    label = escape(f"{len(words)} tokens with their ids: " + ", ".join(words))
    return Chips(f'<div role="img" aria-label="{label}" style="{ROW}">{"".join(html)}</div>', " | ".join(words))


def _face(tok, token_id: int, colour: str) -> tuple[str, str]:
    """A token's text with its white space drawn, and its chip's style."""
    data = token_bytes(tok, token_id)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return data.hex(" ").upper(), PART
    text = "".join(SIGNS.get(c) or (c if c.isprintable() else f"U+{ord(c):04X}") for c in text)
    if text and category(text[0]).startswith("M"):
        text = "◌" + text  # an accent needs a letter to sit on
    if token_id not in tok.added_tokens_decoder:
        return text, f"background-color:{colour};color:#1f2328;border:1px solid transparent;"
    return text, CONTROL + (f"outline:3px solid {colour};" if colour in (SIGNED["−"], SIGNED["+"]) else "")


def merge_tree(rows: Sequence[Sequence[str]]) -> Image:
    """How letters grew into tokens: `rows` are the pieces of a word, each row after one more join."""
    figure = Figure(figsize=(8, 0.34 * len(rows) + 0.6), layout="constrained")
    axes = figure.subplots()
    x, y = {}, {}  # of each piece, by where it starts and ends in the word
    for level, row in enumerate(rows):
        for span, piece in zip(_spans(row), row, strict=True):
            if span in x:
                continue
            parts = [p for p in _spans(rows[level - 1]) if span[0] <= p[0] and p[1] <= span[1]] if level else []
            x[span], y[span] = sum(x[p] for p in parts) / len(parts) if parts else span[0], level
            for p in parts:
                axes.plot([x[p], x[p], x[span]], [y[p], level, level], color=COLOURS[0], zorder=1)
            edge = {"boxstyle": "round", "facecolor": "white", "edgecolor": COLOURS[0]}
            axes.text(x[span], level, piece, ha="center", va="center", family="monospace", bbox=edge)
    axes.set(xticks=[], yticks=range(len(rows)), ylabel="joins done", ylim=(-0.7, len(rows) - 0.3))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return picture(figure, "Letters joined step by step: " + "; ".join(" ".join(row) for row in rows))


def _spans(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Where each piece starts and ends, in letters."""
    return [*pairwise(accumulate(map(len, pieces), initial=0))]


def language_costs(tokens: Mapping[str, int], characters: Mapping[str, int]) -> Image:
    """The same sentence in several languages: tokens in all, and per character."""
    figure = Figure(figsize=(8, 0.27 * len(tokens) + 0.8), layout="constrained")
    per_character = {name: tokens[name] / characters[name] for name in tokens}
    panels = [("tokens for the sentence", tokens, "%d"), ("tokens per character", per_character, "%.2f")]
    for axes, (label, values, digits), colour in zip(figure.subplots(1, 2, sharey=True), panels, COLOURS, strict=False):
        bars = axes.barh(list(values), list(values.values()), color=colour)
        axes.bar_label(bars, fmt=digits, padding=3)
        axes.set(xlabel=label, xlim=(0, max(values.values()) * 1.15))
        axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()  # shared: the first language is on top
    said = ", ".join(f"{name} {tokens[name]} tokens, {per_character[name]:.2f} per character" for name in tokens)
    return picture(figure, f"Bars per language: {said}")


def budget(parts: Mapping[str, int], total: int) -> Image:
    """One bar of `total` tokens, cut into what each part takes and what remains."""
    figure = Figure(figsize=(8, 1.9), layout="constrained")
    axes = figure.subplots()
    left = 0
    for colour, (name, tokens) in zip(COLOURS, parts.items(), strict=False):
        axes.barh(0, tokens, left=left, color=colour, label=f"{name}: {tokens:,}")
        left += tokens
    rest = total - left
    axes.barh(0, rest, left=left, color="white", edgecolor="#888888", hatch="///", label=f"remaining: {rest:,}")
    axes.set(yticks=[], xlabel=f"tokens, of a context of {total:,}", xlim=(0, total))
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    said = ", ".join(f"{name} {tokens}" for name, tokens in parts.items())
    return picture(figure, f"A bar of {total} tokens: {said}, remaining {rest}")


def stacks(bars: Mapping[str, Mapping[str, float]], unit: str) -> Image:
    """A bar per name, cut into the same parts in the same colours, with its sum at the end."""
    figure = Figure(figsize=(8, 1 + 0.5 * len(bars)), layout="constrained")
    axes = figure.subplots()
    sums = [sum(bar.values()) for bar in bars.values()]
    left = [0.0] * len(bars)
    for colour, part in zip(COLOURS, dict.fromkeys(part for bar in bars.values() for part in bar), strict=False):
        widths = [bar.get(part, 0) for bar in bars.values()]
        axes.barh(range(len(bars)), widths, left=left, color=colour, label=part, height=0.6)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, total in enumerate(sums):
        axes.text(total, row, f" {total:,.0f}", va="center")
    axes.set(yticks=range(len(bars)), yticklabels=list(bars), xlabel=unit, xlim=(0, 1.1 * max(sums)))
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    words = ", ".join(f"{name} {total:,.0f}" for name, total in zip(bars, sums, strict=True))
    return picture(figure, f"Stacked bars of {unit}: {words}")


def on_grid(weights, codes, scale: float) -> Image:
    """One group: a dot per weight, a line per value that 4 bits can hold, a stroke from dot to line."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    n, places = len(weights), range(len(weights))
    for code in range(-8, 8):
        axes.axhline(code * scale, color="#dddddd", linewidth=0.8, zorder=0)
        axes.text(n + 0.5, code * scale, code, va="center", fontsize=8)
    axes.vlines(places, weights, codes * scale, color=COLOURS[2], linewidth=2, label="error")
    axes.scatter(places, codes * scale, s=40, marker="_", color=COLOURS[2], label="stored")
    axes.scatter(places, weights, s=10, color=COLOURS[0], zorder=3, label="weight")
    axes.set(xlabel="place in the group", ylabel="value", xlim=(-1, n + 3))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    return picture(figure, f"{n} weights, and for each the nearest of 16 evenly spaced values")


def before_and_after(before, after, codes) -> Image:
    """Left: the weights as published and as restored from 4 bits.  Right: how often each code is used."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    reach = 4 * float(before.std())
    options = {"bins": 161, "range": (-reach, reach)}
    counts, *_ = left.hist(before.ravel(), color=COLOURS[7], label="16 bits", **options)
    left.hist(after.ravel(), color=COLOURS[2], histtype="step", label="restored from 4", **options)
    left.set(xlabel="weight", ylabel="how many", ylim=(0, 1.5 * counts.max()))  # the peak at zero would hide the rest
    left.legend(frameon=False)
    shares = [float((codes == code).mean()) for code in range(-8, 8)]
    right.bar(range(-8, 8), shares, color=COLOURS[0])
    right.set(xlabel="code", ylabel="share", xticks=range(-8, 8, 2))
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return picture(figure, "Histograms: the weights before and after, and the share of each of the 16 codes")


def group_errors(errors, unit: str) -> Image:
    """A map of one matrix: a column per row of it, a cell per group, bright where the error is large."""
    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(errors.T, aspect="auto", interpolation="nearest", cmap="magma")
    axes.set(xlabel="row of the matrix", ylabel="group in the row")
    figure.colorbar(image, ax=axes, label=unit)
    return picture(figure, f"A map of {errors.shape[0]} rows by {errors.shape[1]} groups, coloured by {unit}")


def trade_off(series: Mapping[str, Iterable[tuple[float, float, str]]], x: str, y: str) -> Image:
    """A line per series through its (x, y, label) points, y in steps of ten."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    axes = figure.subplots()
    for colour, (name, points) in zip(COLOURS, series.items(), strict=False):
        xs, ys, labels = zip(*points, strict=True)
        axes.plot(xs, ys, "o-", color=colour, label=name)
        for label, *place in zip(labels, xs, ys, strict=True):
            axes.annotate(label, place, xytext=(5, 5), textcoords="offset points", fontsize=8)
    axes.set(xlabel=x, ylabel=y, yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    return picture(figure, f"{y} against {x}, a line each for {', '.join(series)}")


def precision_map(kinds: Mapping[tuple[int, str], str]) -> Image:
    """A square per (layer, matrix), coloured by the kind of number in it."""
    names, matrices = sorted(set(kinds.values())), list(dict.fromkeys(matrix for _, matrix in kinds))
    figure = Figure(figsize=(8, 0.9 + 0.28 * len(matrices)), layout="constrained")
    axes = figure.subplots()
    for colour, kind in zip(COLOURS, names, strict=False):
        places = [(layer, matrices.index(matrix)) for (layer, matrix), found in kinds.items() if found == kind]
        bars = {"height": 0.9, "color": colour, "label": f"{kind}: {len(places)}"}
        axes.barh([row for _, row in places], 0.9, left=[layer - 0.45 for layer, _ in places], **bars)
    axes.set(xlabel="layer", yticks=range(len(matrices)), yticklabels=matrices)
    axes.invert_yaxis()
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    counts = ", ".join(f"{kind} {list(kinds.values()).count(kind)}" for kind in names)
    return picture(figure, f"{len(matrices)} kinds of matrices by layer, coloured by precision: {counts}")


def ranking(values: Mapping[str, float], kinds: Mapping[str, str], y: str) -> Image:
    """A dot per name, from the largest value to the smallest in steps of ten, coloured by its kind."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    order = sorted(values, key=values.get, reverse=True)
    for colour, kind in zip(COLOURS, sorted(set(kinds.values())), strict=False):
        places = [place for place, name in enumerate(order) if kinds[name] == kind]
        axes.scatter(places, [values[order[place]] for place in places], s=14, color=colour, label=kind)
    axes.set(xlabel="rank", ylabel=y, yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=4, frameon=False)
    return picture(figure, f"{y}: {len(order)} dots in falling order, coloured by precision")


def number_formats(bits: Mapping[str, tuple[int, int, int]]) -> Image:
    """A square per bit of each format: sign, exponent, fraction."""
    figure = Figure(figsize=(8, 0.6 + 0.45 * len(bits)), layout="constrained")
    axes = figure.subplots()
    parts = {"sign": COLOURS[2], "exponent: how large": COLOURS[1], "fraction: how exact": COLOURS[7]}
    for row, widths in enumerate(bits.values()):
        for (part, colour), (start, end) in zip(parts.items(), pairwise(accumulate(widths, initial=0)), strict=True):
            label = part if row == 0 else None
            axes.barh([row] * (end - start), 0.92, left=range(start, end), height=0.8, color=colour, label=label)
    axes.set(yticks=range(len(bits)), yticklabels=list(bits), xticks=[])
    axes.invert_yaxis()
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    words = ", ".join(f"{name} 1 + {exponent} + {fraction}" for name, (_, exponent, fraction) in bits.items())
    return picture(figure, f"Bits for sign, exponent and fraction: {words}")


def rounds(values: Mapping[str, Sequence[float]], unit: str) -> Image:
    """A bar per name up to its median, and a dot for each round: how far the dots lie apart is the noise."""
    figure = Figure(figsize=(8, 0.7 + 0.4 * len(values)), layout="constrained")
    axes = figure.subplots()
    names, middles = list(values), [median(each) for each in values.values()]
    axes.barh(names, middles, color=COLOURS[7], height=0.6)
    for row, each in enumerate(values.values()):
        axes.plot(each, [row] * len(each), "o", color=COLOURS[0], markersize=5)
        axes.text(0, row, f"  {middles[row]:.3g}", va="center")
    axes.set(xlabel=f"{unit}: median, and a dot for each round", xlim=(0, None))
    axes.invert_yaxis()
    axes.spines[["top", "right", "left"]].set_visible(False)
    words = ", ".join(f"{name} {middle:.3g}" for name, middle in zip(names, middles, strict=True))
    return picture(figure, f"Bars of {unit}, medians: {words}")


def agreement(reference: Sequence[int], answers: Mapping[str, Sequence[int]]) -> Image:
    """A square per new token: does it agree with the reference, and has everything before it agreed too?"""
    figure = Figure(figsize=(8, 0.8 + 0.36 * len(answers)), layout="constrained")
    axes = figure.subplots()
    kinds = {"as the reference": COLOURS[3], "another token": COLOURS[2], "after another token": "#e4e4e4"}
    for row, ids in enumerate(answers.values()):
        same = next((n for n, (a, b) in enumerate(zip(ids, reference, strict=True)) if a != b), len(reference))
        spans = (range(same), range(same, min(same + 1, len(ids))), range(same + 1, len(ids)))
        for colour, places in zip(kinds.values(), spans, strict=True):
            axes.barh([row] * len(places), 0.9, left=places, height=0.8, color=colour)
    axes.set(xlabel="new token", yticks=range(len(answers)), yticklabels=list(answers), xlim=(0, len(reference)))
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)
    handles = [Patch(color=colour, label=kind) for kind, colour in kinds.items()]
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False)
    return picture(figure, "A row of squares per configuration: which new tokens agree with the reference")


def road(steps: Mapping[str, Sequence[object]]) -> Image:
    """Boxes from left to right, joined by arrows: a name, and below it the shape of what is there."""
    figure = Figure(figsize=(8, 1.1), layout="constrained")
    axes = figure.subplots()
    edge = {"boxstyle": "round,pad=0.5", "facecolor": "#f2f5fc", "edgecolor": COLOURS[0]}
    boxes = []
    for place, (name, shape) in enumerate(steps.items()):
        words = f"{name}\n[{', '.join(map(str, shape))}]"
        box = axes.text(place, 0, words, ha="center", va="center", bbox=edge, fontsize=9)
        if boxes:
            arrow = {"arrowstyle": "->", "patchA": boxes[-1].get_bbox_patch(), "patchB": box.get_bbox_patch()}
            axes.annotate("", (place, 0), (place - 1, 0), arrowprops=arrow)
        boxes.append(box)
    axes.set(xlim=(-0.6, len(steps) - 0.4), ylim=(-1, 1))
    axes.axis("off")
    return picture(figure, " → ".join(f"{name} {list(shape)}" for name, shape in steps.items()))


def likeliest(tok, ids: Sequence[int], scores: Sequence[float], probabilities: Sequence[float]) -> Image:
    """The same tokens twice: their scores, which may be any numbers, and their probabilities."""
    figure = Figure(figsize=(8, 0.8 + 0.34 * len(ids)), layout="constrained")
    names = [_drawable(_face(tok, int(token_id), "")[0]) for token_id in ids]
    panels = {"score (logit)": (scores, "%.2f"), "probability": (probabilities, "%.3g")}
    for axes, (label, (values, digits)), colour in zip(figure.subplots(1, 2), panels.items(), COLOURS, strict=False):
        bars = axes.barh(range(len(ids)), values, color=colour, height=0.6)
        axes.bar_label(bars, fmt=digits, padding=3)
        axes.set_yticks(range(len(ids)), names, family="monospace", parse_math=False)
        axes.set(xlabel=label, xlim=(1.8 * min(0, *values), 1.25 * max(0, *values) or 1))
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
    words = ", ".join(f"{name} {probability:.3g}" for name, probability in zip(names, probabilities, strict=True))
    return picture(figure, f"Bars of scores and probabilities of {len(ids)} tokens: {words}")


def rhythm(seconds: Sequence[float]) -> Image:
    """A dot per token at the second when it came: the wait for the first, then the beat of the others."""
    figure = Figure(figsize=(8, 1.6), layout="constrained")
    axes = figure.subplots()
    first, last = seconds[0], seconds[-1]
    axes.barh(0, first, height=0.5, color="#e4e4e4", label=f"wait for the first token: {first:.2f} s")
    axes.plot(seconds, [0] * len(seconds), "o", markersize=4, color=COLOURS[0], alpha=0.6, label="a token")
    axes.set(yticks=[], ylim=(-0.6, 0.6), xlim=(0, 1.02 * last), xlabel="seconds since the question")
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=2, frameon=False)
    return picture(figure, f"{len(seconds)} dots on a line of time, from {first:.2f} to {last:.2f} seconds")


def reading(moments: Mapping[str, Sequence[float]]) -> Image:
    """A line per name: the seconds at which the first, second, … word is written, or read."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    for colour, (name, seconds) in zip(COLOURS, moments.items(), strict=False):
        axes.step([0, *seconds], range(len(seconds) + 1), where="post", color=colour, label=name)
    axes.set(xlabel="seconds since the question", ylabel="words", xlim=(0, None), ylim=(0, None))
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    words = ", ".join(f"{name} from {seconds[0]:.2f} to {seconds[-1]:.2f} s" for name, seconds in moments.items())
    return picture(figure, f"Words over time: {words}")


def _drawable(text: str) -> str:
    """`text` with U+… for what the figures' font has no glyph for."""
    font = get_font(findfont("DejaVu Sans Mono"))
    return "".join(c if font.get_char_index(ord(c)) else f"U+{ord(c):04X}" for c in text)


def curves(panels: Mapping[str, Mapping[str, Sequence[float]]], x: str) -> Image:
    """Panels side by side, named by what they measure; in each a line per name through its values at 1, 2, 3, …"""
    figure = Figure(figsize=(8, 3.3), layout="constrained")
    for axes, (y, lines) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for colour, (name, values) in zip(COLOURS, lines.items(), strict=False):
            axes.plot(range(1, len(values) + 1), values, color=colour, label=name)
        axes.set(xlabel=x, ylabel=y, ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper left", ncols=4, frameon=False)
    last = "; ".join(f"{y}: " + ", ".join(f"{n} {v[-1]:,.4g}" for n, v in lines.items()) for y, lines in panels.items())
    return picture(figure, f"Curves against {x}, at their end {last}")


def reshaped(tok, ids: Sequence[int], before: Sequence[float], changes: Mapping[str, Sequence[float]]) -> Image:
    """The probabilities of the same tokens in a panel per change: in grey as they were, in colour as they become."""
    rows, places = -(-len(changes) // 3), range(len(ids))
    figure = Figure(figsize=(8, (0.6 + 0.19 * len(ids)) * rows), layout="constrained")
    names = [_drawable(_face(tok, int(token_id), "")[0]) for token_id in ids]
    grid = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, after) in zip(grid, changes.items(), strict=False):
        axes.barh(places, before, height=0.8, color="#d5d8de")
        axes.barh(places, after, height=0.4, color=COLOURS[0])
        axes.set_title(name, fontsize=10)
        axes.set_yticks(places, names, family="monospace", fontsize=8, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].invert_yaxis()  # shared: the likeliest is on top
    figure.supxlabel("probability: grey before, blue after", fontsize=10)
    firsts = ", ".join(f"{name} {after[0]:.2g}" for name, after in changes.items())
    return picture(figure, f"Bars of {len(ids)} tokens. {names[0]} has {before[0]:.2g}; after each change: {firsts}")


def steps(tok, steps: Iterable) -> Chips:
    """A row per step of helpers.generate: what was taken, and what was likeliest; the likelier, the bluer."""
    lines, words = [], []
    for number, step in enumerate(steps, 1):
        taken, *others = [_likely(tok, *pair) for pair in [(step.id, step.probability), *step.alternatives]]
        cells = "".join(f"<td>{html}</td>" for _, html in others)
        lines.append(f"<tr><td>{number}</td><td>{taken[1]}</td>{cells}</tr>")
        words.append(f"{number}: {taken[0]} | " + " | ".join(text for text, _ in others))
    head = "<tr><th>step</th><th>taken</th><th>likeliest</th></tr>"
    table = f'<table style="{ROW}"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>'
    return Chips(table, "\n".join(words))


def _likely(tok, token_id: int, probability: float) -> tuple[str, str]:
    """A token and its probability as text, and as a chip between white and blue."""
    text, share = _face(tok, token_id, "")[0], f"{probability:.1%}"
    colour = "#" + "".join(f"{round(255 + (end - 255) * probability):02x}" for end in bytes.fromhex(COLOURS[7][1:]))
    style = f"{CHIP}background-color:{colour};color:#1f2328;border:1px solid {COLOURS[7]};"
    return f"{text} {share}", f'<span style="{style}">{escape(text)}<sub style="{BELOW}">{share}</sub></span>'


def fork(stem: str, branches: Sequence[tuple[float, str]]) -> Image:
    """One text that goes on in several ways: a branch per (probability, text), the likelier, the thicker."""
    figure = Figure(figsize=(8, 0.5 + 0.5 * len(branches)), layout="constrained")
    axes = figure.subplots()
    axes.text(0, 0, _lines(stem, 115), va="bottom", fontsize=9, parse_math=False)
    for row, (probability, text) in enumerate(branches, 1):
        width = 1 + 9 * probability
        axes.plot([0.01, 0.01, 0.05], [row - 1 if row > 1 else 0, row, row], color=COLOURS[0], linewidth=width)
        axes.text(0.06, row, f"{probability:.0%}", va="center", fontsize=9, color=COLOURS[0])
        axes.text(0.12, row, _lines(text, 102), va="center", fontsize=9, parse_math=False)
    axes.set(xlim=(0, 1), ylim=(len(branches) + 0.5, -0.6))
    axes.axis("off")
    said = "; ".join(f"{probability:.0%} {text}" for probability, text in branches)
    return picture(figure, f"{stem}, which goes on in {len(branches)} ways: {said}")


def _lines(text: str, width: int) -> str:
    return fill(_drawable(" ".join(text.split())), width)
