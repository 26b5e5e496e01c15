"""Token chips: every byte of the text is on one of them, text never becomes HTML, and nobody needs the colours."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import show
from helpers.checkpoint.gguf import tokenizer_from_gguf
from helpers.checkpoint.random_weights import phi3_tokenizer
from helpers.decode import token_bytes


@pytest.fixture(scope="module", params=["byte-level", "phi3"])
def tok(request, tiny):
    return tokenizer_from_gguf(tiny.gguf) if request.param == "byte-level" else phi3_tokenizer()


def ids_of(tok, text):
    return tok(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


@given(st.text(st.characters(blacklist_characters="▁", blacklist_categories=["Cs"])))
def test_the_tokens_bytes_are_the_text(tok, text):
    glued = b"".join(token_bytes(tok, token_id) for token_id in ids_of(tok, text))
    assert glued in (text.encode(), b" " + text.encode())  # Phi-3's kind puts a space in front


def test_text_on_chips_is_never_html(tok):
    html = show.chips(tok, ids_of(tok, "<script>alert('&')</script>")).data
    assert set(re.findall(r"<(/?\w+)", html)) == {"div", "/div", "span", "/span", "sub", "/sub"}
    assert "&lt;" in html and "&#x27;" in html


def test_white_space_parts_of_characters_and_control_tokens_can_be_told_apart(tok):
    text = repr(show.chips(tok, ids_of(tok, "a b\nc\t語")))
    assert "␣" in text and "⏎" in text and "⇥" in text and "E8" in text
    eos = show.chips(tok, [tok.eos_token_id])
    assert repr(eos) == f"{tok.eos_token} {tok.eos_token_id}" and show.CONTROL in eos.data


def test_a_row_without_text_is_an_empty_chip(tok):
    assert repr(show.chips(tok, [len(tok) + 40])) == f" {len(tok) + 40}"


def test_changes_lead_from_one_row_of_ids_to_the_other(tok):
    before, after = ids_of(tok, "the old licence"), ids_of(tok, "the new licence is")
    pairs = re.findall(r"(?:^| \| )([−+]?)\S* (\d+)", repr(show.changes(tok, before, after)))
    assert [int(i) for sign, i in pairs if sign != "+"] == before
    assert [int(i) for sign, i in pairs if sign != "−"] == after
    assert "−" not in repr(show.changes(tok, before, before)) and "+" not in repr(show.changes(tok, before, before))
