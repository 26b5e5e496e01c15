"""Tokens as coloured chips."""

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from html import escape

from helpers.decode import token_label
from helpers.errors import check_token_ids
from helpers.generate import GeneratedToken
from helpers.show.tables import INERT, Marked

PASTELS = ["#cfe0fc", "#fde3b4", "#ffd3cc", "#cdeee6", "#dfd2f8"]  # the same dark ink is readable on each
CHIP = "display:inline-block;margin:2px;padding:1px 5px;border-radius:4px;text-align:center;white-space:nowrap;"
BELOW = "display:block;font-size:70%;line-height:1.3;vertical-align:baseline;"
ROW = "font-family:monospace;line-height:1.4;direction:ltr;"
CONTROL = "background-color:#24292f;color:#ffffff;border:1px solid #8c959f;"
PART = "background-color:#f6f8fa;color:#1f2328;border:1px dashed #57606a;"  # of a character
SIGNED = {"−": "#ffc1ba", "+": "#b4f1b4", "": "#eaeef2"}  # in a comparison: removed, added, the same
LIKELY = "#97bbf5"  # the blue of a probability of 1; that of 0 is white


def chips(tok, ids: Iterable[int]) -> Marked:
    """Return one chip per token with its id below.

    ␣ is a space, ⏎ a newline.  White on black: a control token.  A dashed edge: the bytes, in hexadecimal, of a part
    of a character.
    """
    return _chips(tok, [("", token_id, PASTELS[n % len(PASTELS)]) for n, token_id in enumerate(check_token_ids(ids))])


def changes(tok, before: Sequence[int], after: Sequence[int]) -> Marked:
    """Return what turns `before` into `after`: red chips with − are removed, green ones with + are added."""
    signed = []
    for kind, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        gone, new = ("", "") if kind == "equal" else ("−", "+")
        signed += [(gone, token_id, SIGNED[gone]) for token_id in before[i:j]]
        signed += [(new, token_id, SIGNED[new]) for token_id in after[k:m]] if new else []
    return _chips(tok, signed)


def _chips(tok, signed: Iterable[tuple[str, int, str]]) -> Marked:
    """Return chips of (sign, id, colour); a newline in a text starts a new line, so that a prompt keeps its shape."""
    html, words = [], []
    for sign, token_id, colour in signed:
        text, kind = token_label(tok, token_id)
        words.append(f"{sign}{text} {token_id}")
        # <sub> and the trailing space: a page that drops styles, such as GitHub's, still separates text, id and chips
        chip = f'<span style="{CHIP}{_style(kind, colour)}">{sign}{escape(text)}'
        chip += f'<sub style="{BELOW}">{token_id}</sub></span> '
        html.append("<br>" * ("⏎" in text[:-1]) + chip + "<br>" * text.endswith("⏎"))
    label = escape(f"{len(words)} tokens with their ids: " + ", ".join(words))
    row = f'<div {INERT} role="img" aria-label="{label}" style="{ROW}">{"".join(html)}</div>'
    return Marked(row, " | ".join(words))


def _style(kind: str, colour: str) -> str:
    if kind == "part":
        return PART
    if kind == "text":
        return f"background-color:{colour};color:#1f2328;border:1px solid transparent;"
    return CONTROL + (f"outline:3px solid {colour};" if colour in (SIGNED["−"], SIGNED["+"]) else "")


def steps(tok, tokens: Iterable[GeneratedToken]) -> Marked:
    """Return a row per generated token: the one taken, and its alternatives; the more likely, the bluer."""
    lines, words, most = [], [], 1
    for number, token in enumerate(tokens, 1):
        most = max(most, len(token.alternatives))
        taken, *others = [_likely(tok, *pair) for pair in [(token.id, token.probability), *token.alternatives]]
        cells = "".join(f"<td>{html}</td>" for _, html in others)
        lines.append(f"<tr><td>{number}</td><td>{taken[1]}</td>{cells}</tr>")
        words.append(f"{number}: {taken[0]} | " + " | ".join(text for text, _ in others))
    head = f'<tr><th>step</th><th>taken</th><th colspan="{most}" style="text-align:left">most likely</th></tr>'
    table = f'<table {INERT} style="{ROW}"><thead>{head}</thead><tbody>{"".join(lines)}</tbody></table>'
    return Marked(table, "\n".join(words))


def _likely(tok, token_id: int, probability: float) -> tuple[str, str]:
    """Return a token and its probability as text, and as a chip between white and blue."""
    text, share = token_label(tok, token_id)[0], f"{probability:.1%}"
    colour = "#" + "".join(f"{round(255 + (end - 255) * probability):02x}" for end in bytes.fromhex(LIKELY[1:]))
    look = f"{CHIP}background-color:{colour};color:#1f2328;border:1px solid {LIKELY};"
    return f"{text} {share}", f'<span style="{look}">{escape(text)}<sub style="{BELOW}">{share}</sub></span>'
