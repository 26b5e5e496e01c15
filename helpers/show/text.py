"""Figures of text on its way through the model: merges, costs, budgets, likeliest tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from textwrap import fill

from IPython.display import Image

from helpers.decode import token_label
from helpers.errors import TutorialError
from helpers.show.canvas import COLOURS, _drawable, blank, coloured, picture


def merge_tree(rows: Sequence[Sequence[str]]) -> Image:
    """How letters grew into tokens: `rows` are the pieces of a word, each row after one more join."""
    figure = blank(0.34 * len(rows) + 0.6, rows, *rows)
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
            look = {"ha": "center", "va": "center", "family": "monospace", "parse_math": False, "bbox": edge}
            axes.text(x[span], level, _drawable(piece), **look)
    reach = 0.05 * max(x.values()) or 1  # on each side; letters that are not joined to others take part
    axes.set(xticks=[], xlim=(-reach, max(x.values()) + reach))
    axes.set(yticks=range(len(rows)), ylabel="joins done", ylim=(-0.7, len(rows) - 0.3))
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    return picture(figure, "Letters joined step by step: " + "; ".join(" ".join(row) for row in rows))


def _spans(pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Where each piece starts and ends, in letters."""
    return [*pairwise(accumulate(map(len, pieces), initial=0))]


def language_costs(tokens: Mapping[str, int], characters: Mapping[str, int]) -> Image:
    """The same sentence in several languages: tokens in all, and per character."""
    figure = blank(0.27 * len(tokens) + 0.8, tokens)
    if not all(characters.values()):
        raise TutorialError("A sentence without characters has no cost per character.", "Leave the empty ones out.")
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
    """One bar of `total` tokens, cut into what each part takes and what remains, or is too many."""
    figure = blank(1.9)
    axes = figure.subplots()
    left = 0
    for colour, (name, tokens) in coloured(parts.items()):
        axes.barh(0, tokens, left=left, color=colour, label=f"{name}: {tokens:,}")
        left += tokens
    kind, rest = ("remaining", total - left) if left <= total else ("too many", left - total)
    look = {"color": "white", "edgecolor": "#888888", "hatch": "///", "label": f"{kind}: {rest:,}"}
    axes.barh(0, rest, left=min(total, left), **look)
    axes.set(yticks=[], xlabel=f"tokens, of a context of {total:,}", xlim=(0, max(total, left)))
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside upper left", ncols=3, frameon=False)
    said = ", ".join(f"{name} {tokens}" for name, tokens in parts.items())
    return picture(figure, f"A bar of {total} tokens: {said}, {kind} {rest}")


def road(steps: Mapping[str, Sequence[object]]) -> Image:
    """Boxes from left to right, joined by arrows: a name, and below it the shape of what is there."""
    figure = blank(1.1, steps)
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


def top_tokens(tok, ids: Sequence[int], scores: Sequence[float], probabilities: Sequence[float]) -> Image:
    """The same tokens twice: their scores, which may be any numbers, and their probabilities."""
    figure = blank(0.8 + 0.34 * len(ids), ids)
    names = [_drawable(token_label(tok, int(token_id))[0]) for token_id in ids]
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


def reshaped(tok, ids: Sequence[int], before: Sequence[float], changes: Mapping[str, Sequence[float]]) -> Image:
    """The probabilities of the same tokens in a panel per change: in grey as they were, in colour as they become."""
    rows, places = -(-len(changes) // 3), range(len(ids))
    figure = blank((0.6 + 0.19 * len(ids)) * rows, ids, changes)
    names = [_drawable(token_label(tok, int(token_id))[0]) for token_id in ids]
    grid = figure.subplots(rows, 3, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (name, after) in zip(grid, changes.items(), strict=False):
        axes.barh(places, before, height=0.8, color="#d5d8de")
        axes.barh(places, after, height=0.4, color=COLOURS[0])
        axes.set_title(name, fontsize=10)
        axes.set_yticks(places, names, family="monospace", fontsize=8, parse_math=False)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(changes) :]:
        axes.axis("off")
    grid[0].invert_yaxis()  # shared: the likeliest is on top
    figure.supxlabel("probability: grey before, blue after", fontsize=10)
    firsts = ", ".join(f"{name} {after[0]:.2g}" for name, after in changes.items())
    return picture(figure, f"Bars of {len(ids)} tokens. {names[0]} has {before[0]:.2g}; after each change: {firsts}")


def fork(stem: str, branches: Sequence[tuple[float, str]]) -> Image:
    """One text that goes on in several ways: a branch per (probability, text), the likelier, the thicker."""
    figure = blank(0.5 + 0.5 * len(branches), branches)
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
