"""helpers.decode: the pieces together are the batch's text, no half characters, nothing later than it must."""

import pytest
from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from helpers import settings
from helpers.checkpoint.random_weights import phi3_tokenizer
from helpers.decode import stream_decode
from helpers.errors import TutorialError

law = effort(max_examples=120)
REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
# Characters of one to four bytes, some joined to one picture, spaces at every edge, what bytes that fail look like.
texts = st.one_of(st.text(max_size=25), st.text(" aé€日😀\u200d🏽\n▁" + REPLACEMENT_CHARACTER, max_size=15))


@pytest.fixture(scope="session", params=[pytest.param("embedded", marks=pytest.mark.model), "phi3"])
def tok(request):
    from transformers import AutoTokenizer

    if request.param == "phi3":
        return phi3_tokenizer()
    return AutoTokenizer.from_pretrained(settings.load().model_dir)


@pytest.fixture(scope="session")
def odd_ids(tok):
    """Ids whose text is not whole by itself, control tokens, spaces, and some that stand for nothing."""
    names = {index: tok.convert_ids_to_tokens(index) for index in range(len(tok))}
    odd = [
        i
        for i, name in names.items()
        if REPLACEMENT_CHARACTER in tok.decode([i]) or name.startswith("<0x") or set(name) == {"▁"}
    ]
    return odd + sorted(tok.added_tokens_decoder) + [len(tok), len(tok) + 5]


@law
@given(data=st.data(), skip=st.booleans())
def test_any_ids_in_pieces_are_the_text_of_all(tok, odd_ids, data, skip):
    ids = data.draw(st.lists(st.one_of(st.sampled_from(odd_ids), st.integers(0, len(tok) - 1)), max_size=25))
    assert "".join(stream_decode(tok, ids, skip)) == tok.decode(ids, skip_special_tokens=skip)


@law
@given(text=texts)
@example("Zwei Gläser für 3 €, bitte 👩🏽‍🚀!")
def test_any_text_streamed_is_the_text_decoded(tok, text):
    ids = tok(text, add_special_tokens=False)["input_ids"]
    streamed = list(stream_decode(tok, ids))
    assert "".join(streamed) == tok.decode(ids, skip_special_tokens=True)
    assert all(streamed)
    if REPLACEMENT_CHARACTER not in "".join(streamed):
        assert not any(REPLACEMENT_CHARACTER in piece for piece in streamed)


def test_each_word_is_there_with_its_token(tok):
    ids = tok("The quick brown fox jumps.", add_special_tokens=False)["input_ids"]
    given = []

    def asked():
        for index in ids:
            given.append(index)
            yield index

    text = ""
    for piece in stream_decode(tok, asked()):
        text += piece
        assert text == tok.decode(given)


def test_a_character_in_parts_comes_whole(tok):
    ids = tok("a😀b", add_special_tokens=False)["input_ids"]
    assert len(ids) > 3, "this vocabulary has the emoji as one token; choose another"
    assert [piece for piece in stream_decode(tok, ids) if "😀" in piece] in (["😀"], ["😀b"])


def test_ids_that_stand_for_nothing_part_no_character(tok):
    nothing = [len(tok), tok.eos_token_id] * 4
    ids = [part for index in tok("a😀b", add_special_tokens=False)["input_ids"] for part in (index, *nothing)]
    assert "".join(stream_decode(tok, ids)) == tok.decode(ids, skip_special_tokens=True)
    assert "😀" in tok.decode(ids, skip_special_tokens=True)


def test_what_never_becomes_a_character_is_flushed(tok):
    ids = tok("a😀", add_special_tokens=False)["input_ids"][:-1]
    assert "".join(stream_decode(tok, ids)) == tok.decode(ids)
    assert REPLACEMENT_CHARACTER in tok.decode(ids)


class Counting:
    """A tokenizer that counts how many ids it has decoded."""

    def __init__(self, tok):
        self.tok, self.decoded = tok, 0
        self.added_tokens_decoder, self.convert_ids_to_tokens = tok.added_tokens_decoder, tok.convert_ids_to_tokens

    def decode(self, ids):
        self.decoded += len(ids)
        return self.tok.decode(ids)


@pytest.mark.parametrize("kind", ["words", "halves", "spaces"])
def test_the_thousandth_token_costs_what_the_first_did(tok, odd_ids, kind):
    words = tok("The quick brown fox jumps over the lazy dog.", add_special_tokens=False)["input_ids"]
    space = next(tok.convert_tokens_to_ids(name) for name in ("▁", "Ġ") if name in tok.get_vocab())
    ids = ({"words": words, "halves": odd_ids[:1], "spaces": [space]}[kind] * 1000)[:1000]
    counting = Counting(tok)
    assert "".join(stream_decode(counting, ids)) == tok.decode(ids)
    assert counting.decoded <= 10 * len(ids)


def cut(text, stop):
    """The law in its plainest form: the text before the stop string that is complete first, character by character."""
    for end in range(len(text) + 1):
        if ended := [word for word in stop if text[:end].endswith(word)]:
            return text[: end - len(max(ended, key=len))]
    return text


@law
@given(
    text=st.text("ab\n€", max_size=20),
    stop=st.lists(st.text("ab\n€", min_size=1, max_size=4), max_size=3),
)
@example(text="abab\n", stop=["bab", "ab\n"])
def test_the_text_ends_before_a_stop_string(tok, text, stop):
    ids = tok(text, add_special_tokens=False)["input_ids"]
    assert "".join(stream_decode(tok, ids, stop=stop)) == cut(tok.decode(ids), stop)


def test_no_id_is_asked_for_after_a_stop_string(tok):
    ids = tok("One. Two. Three. Four.", add_special_tokens=False)["input_ids"]
    stream = iter(ids)
    assert "".join(stream_decode(tok, stream, stop=["Two"])) == "One. "
    rest = tok.decode(list(stream))
    assert "Three" in rest and "Two" not in rest


def test_what_could_begin_a_stop_string_is_held_back_and_given_in_the_end(tok):
    ids = tok("wait for it: <stop", add_special_tokens=False)["input_ids"]
    streamed = list(stream_decode(tok, ids, stop=["<stop>"]))
    assert "".join(streamed) == tok.decode(ids)
    assert streamed[-1] == "<stop"


def test_what_begins_no_stop_string_is_not_held_back(tok):
    ids = tok("wait for it: <stop", add_special_tokens=False)["input_ids"]
    assert list(stream_decode(tok, ids, stop=["!", "??"])) == list(stream_decode(tok, ids))


def test_an_empty_stop_string_is_refused(tok):
    with pytest.raises(TutorialError, match="would stop at once"):
        stream_decode(tok, [], stop=["", "x"])
