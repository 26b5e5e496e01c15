"""Token chips: every byte of the text is on one of them, text never becomes HTML, and nobody needs the colours."""

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerFast

from helpers import show
from helpers.checkpoint.gguf import tokenizer_from_gguf
from helpers.checkpoint.random_weights import phi3_tokenizer
from helpers.decode import token_bytes
from helpers.generate import GeneratedToken
from helpers.show import tokens

PIECES = ("the", "▁<b>", "a\nb", "\n", "$$", "\u0301", "\x07", "<|end|>")


@pytest.fixture(scope="module", params=["byte-level", "phi3"])
def tok(request, tiny):
    return tokenizer_from_gguf(tiny.gguf) if request.param == "byte-level" else phi3_tokenizer()


@pytest.fixture(scope="module")
def pieces_tok():
    """A tokenizer with one token per piece, the last of them a control token."""
    rust = Tokenizer(models.WordLevel({piece: at for at, piece in enumerate(PIECES)}, unk_token=PIECES[0]))
    rust.add_special_tokens([AddedToken(PIECES[-1], special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=rust)


def ids_of(tok, text):
    return tok(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def parsed(chips) -> ElementTree.Element:
    return ElementTree.fromstring(chips.data.replace("<br>", "<br/>"))


def look(element) -> dict[str, str]:
    return dict(pair.split(":") for pair in element.get("style").split(";") if pair)


@given(st.text(st.characters(blacklist_characters="▁", blacklist_categories=["Cs"])))
def test_the_tokens_bytes_are_the_text(tok, text):
    joined = b"".join(token_bytes(tok, token_id) for token_id in ids_of(tok, text))
    assert joined in (text.encode(), b" " + text.encode())  # Phi-3's kind puts a space in front


def test_text_on_chips_is_never_html_and_never_a_formula(tok):
    html = show.chips(tok, ids_of(tok, "<script>alert('&')</script> $x$")).data
    assert set(re.findall(r"<(/?\w+)", html)) == {"div", "/div", "span", "/span", "sub", "/sub"}
    assert "&lt;" in html and "&#x27;" in html and "tex2jax_ignore" in html


def test_white_space_parts_of_characters_and_control_tokens_can_be_told_apart(tok):
    text = repr(show.chips(tok, ids_of(tok, "a b\nc\t語")))
    assert "␣" in text and "⏎" in text and "⇥" in text and "E8" in text
    eos = show.chips(tok, [tok.eos_token_id])
    assert repr(eos) == f"{tok.eos_token} {tok.eos_token_id}" and tokens.CONTROL in eos.data
    assert repr(show.chips(tok, [len(tok) + 40])) == f" {len(tok) + 40}", "a row without text is an empty chip"


def test_chips_are_an_image_to_a_screen_reader_and_text_without_styles(pieces_tok):
    row = parsed(show.chips(pieces_tok, iter([0, 1, 2, 3, 0, 5, 6, 7])))
    words = "the 0, ␣<b> 1, a⏎b 2, ⏎ 3, the 0, ◌\u0301 5, U+0007 6, <|end|> 7"
    assert row.get("role") == "img" and row.get("aria-label") == f"8 tokens with their ids: {words}"
    assert " ".join("".join(row.itertext()).split()) == "the0 ␣<b>1 a⏎b2 ⏎3 the0 ◌\u03015 U+00076 <|end|>7"
    assert [child.tag for child in row] == ["span"] * 2 + ["br", "span", "span", "br"] + ["span"] * 4


def test_neighbours_have_different_colours_and_a_control_token_its_own(pieces_tok):
    *plain, control = parsed(show.chips(pieces_tok, [0] * 7 + [7])).findall("span")
    colours = [look(chip)["background-color"] for chip in plain]
    assert all(one != other for one, other in pairwise(colours))
    assert look(control)["background-color"] not in colours


def test_changes_lead_from_one_row_of_ids_to_the_other(tok):
    before, after = ids_of(tok, "the old licence"), ids_of(tok, "the new licence is")
    pairs = re.findall(r"(?:^| \| )([−+]?)\S* (\d+)", repr(show.changes(tok, before, after)))
    assert [int(i) for sign, i in pairs if sign != "+"] == before
    assert [int(i) for sign, i in pairs if sign != "−"] == after
    assert not {"−", "+"} & set(repr(show.changes(tok, before, before)))


def test_changes_are_coloured_and_a_control_token_stays_dark(pieces_tok):
    gone, new, control, kept, _ = parsed(show.changes(pieces_tok, [0, 7, 1], [4, 7, 7, 1])).findall("span")
    assert [chip.text for chip in (gone, new, control, kept)] == ["−the", "+$$", "+<|end|>", "<|end|>"]
    assert look(gone)["background-color"] != look(new)["background-color"]
    assert look(new)["background-color"] in look(control)["outline"] and "outline" not in look(kept)


def test_steps_are_a_row_each_and_the_more_likely_the_bluer(pieces_tok):
    taken = [GeneratedToken(1, 0.25, ((0, 0.5), (1, 0.25)), 1.0), GeneratedToken(3, 1.0, ((3, 1.0), (7, 0.0)), 1.0)]
    chips = show.steps(pieces_tok, iter(taken))
    assert repr(chips) == "1: ␣<b> 25.0% | the 50.0% | ␣<b> 25.0%\n2: ⏎ 100.0% | ⏎ 100.0% | <|end|> 0.0%"
    _, *rows = parsed(chips).iter("tr")
    texts = [["".join(cell.itertext()) for cell in row] for row in rows]
    assert texts == [["1", "␣<b>25.0%", "the50.0%", "␣<b>25.0%"], ["2", "⏎100.0%", "⏎100.0%", "<|end|>0.0%"]]
    red = {cell.text: int(look(cell)["background-color"][1:3], 16) for cell in parsed(chips).iter("span")}
    assert red["<|end|>"] == 255 > red["␣<b>"] > red["the"] > red["⏎"]
