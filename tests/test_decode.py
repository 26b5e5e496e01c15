"""stream_decode: the pieces add up to tok.decode, without incomplete characters, each as early as possible."""

import pytest
from hypothesis import example, given
from hypothesis import settings as effort
from hypothesis import strategies as st

from helpers import settings
from helpers.checkpoint.random_weights import phi3_tokenizer
from helpers.decode import StreamDecoder, stream_decode, token_label
from helpers.errors import TutorialError

more = effort(max_examples=120)
REPLACEMENT_CHARACTER = "\N{REPLACEMENT CHARACTER}"
# Characters of one to four bytes, some of which combine, spaces at every edge, and what invalid bytes decode to.
texts = st.one_of(st.text(max_size=25), st.text(" aé€日😀\u200d🏽\n▁" + REPLACEMENT_CHARACTER, max_size=15))


@pytest.fixture(scope="session", params=[pytest.param("embedded", marks=pytest.mark.model), "phi3"])
def tok(request):
    from transformers import AutoTokenizer

    if request.param == "phi3":
        return phi3_tokenizer()
    return AutoTokenizer.from_pretrained(settings.load().model_dir)


@pytest.fixture(scope="session")
def odd_ids(tok):
    """Ids whose text is incomplete by itself, special tokens, spaces, and ids without a token."""
    names = {index: tok.convert_ids_to_tokens(index) for index in range(len(tok))}
    odd = [
        i
        for i, name in names.items()
        if REPLACEMENT_CHARACTER in tok.decode([i]) or name.startswith("<0x") or set(name) == {"▁"}
    ]
    return odd + sorted(tok.added_tokens_decoder) + [len(tok), len(tok) + 5]


@more
@given(data=st.data(), skip=st.booleans())
def test_the_pieces_of_any_ids_are_the_text_of_all(tok, odd_ids, data, skip):
    ids = data.draw(st.lists(st.one_of(st.sampled_from(odd_ids), st.integers(0, len(tok) - 1)), max_size=25))
    assert "".join(stream_decode(tok, ids, skip)) == tok.decode(ids, skip_special_tokens=skip)


@more
@given(text=texts)
@example("Zwei Gläser für 3 €, bitte 👩🏽‍🚀!")
def test_any_text_streamed_is_the_text_decoded(tok, text):
    ids = tok(text, add_special_tokens=False)["input_ids"]
    streamed = list(stream_decode(tok, ids))
    assert "".join(streamed) == tok.decode(ids, skip_special_tokens=True)
    assert all(streamed)
    if REPLACEMENT_CHARACTER not in "".join(streamed):
        assert not any(REPLACEMENT_CHARACTER in piece for piece in streamed)


def test_a_word_is_there_as_soon_as_its_token(tok):
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


def test_a_character_of_several_tokens_is_one_piece(tok):
    ids = tok("a😀b", add_special_tokens=False)["input_ids"]
    assert len(ids) > 3, "one token: choose a different emoji"
    assert [piece for piece in stream_decode(tok, ids) if "😀" in piece] in (["😀"], ["😀b"])


def test_ids_without_text_do_not_split_a_character(tok):
    nothing = [len(tok), tok.eos_token_id] * 4
    ids = [part for index in tok("a😀b", add_special_tokens=False)["input_ids"] for part in (index, *nothing)]
    assert "".join(stream_decode(tok, ids)) == tok.decode(ids, skip_special_tokens=True)
    assert "😀" in tok.decode(ids, skip_special_tokens=True)


def test_an_incomplete_character_at_the_end_is_flushed(tok):
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
def test_the_thousandth_token_takes_as_long_as_the_first(tok, odd_ids, kind):
    words = tok("The quick brown fox jumps over the lazy dog.", add_special_tokens=False)["input_ids"]
    space = next(tok.convert_tokens_to_ids(name) for name in ("▁", "Ġ") if name in tok.get_vocab())
    ids = ({"words": words, "halves": odd_ids[:1], "spaces": [space]}[kind] * 1000)[:1000]
    counting = Counting(tok)
    assert "".join(stream_decode(counting, ids)) == tok.decode(ids)
    assert counting.decoded <= 10 * len(ids)


def cut(text, stop):
    """The simplest form: character by character, the text before the stop string that is completed first."""
    for end in range(len(text) + 1):
        if ended := [word for word in stop if text[:end].endswith(word)]:
            return text[: end - len(max(ended, key=len))]
    return text


@more
@given(
    text=st.text("ab\n€", max_size=20),
    stop=st.lists(st.text("ab\n€", min_size=1, max_size=4), max_size=3),
)
@example(text="abab\n", stop=["bab", "ab\n"])
def test_the_text_ends_before_a_stop_string(tok, text, stop):
    ids = tok(text, add_special_tokens=False)["input_ids"]
    assert "".join(stream_decode(tok, ids, stop=stop)) == cut(tok.decode(ids), stop)


def test_no_id_is_requested_after_a_stop_string(tok):
    ids = tok("One. Two. Three. Four.", add_special_tokens=False)["input_ids"]
    stream = iter(ids)
    assert "".join(stream_decode(tok, stream, stop=["Two"])) == "One. "
    rest = tok.decode(list(stream))
    assert "Three" in rest and "Two" not in rest


@given(text=st.text(max_size=60), stop=st.text(max_size=3), sizes=st.lists(st.integers(0, 5)))
def test_ids_that_are_pushed_give_the_text_of_the_stream(tok, text, stop, sizes):
    ids, stop = tok(text)["input_ids"], [stop] if stop else []
    decoder, pushed, left = StreamDecoder(tok, stop), "", list(ids)
    for size in sizes:
        pushed += decoder.push(left[:size])
        del left[:size]
    assert decoder.taken == len(ids) - len(left) or decoder.ended
    assert pushed + decoder.push(left, last=True) == "".join(stream_decode(tok, ids, stop=stop)) and decoder.ended


def test_the_possible_start_of_a_stop_string_is_held_back_until_the_end(tok):
    ids = tok("wait for it: <stop", add_special_tokens=False)["input_ids"]
    streamed = list(stream_decode(tok, ids, stop=["<stop>"]))
    assert "".join(streamed) == tok.decode(ids)
    assert streamed[-1] == "<stop"


def test_other_text_is_not_held_back(tok):
    ids = tok("wait for it: <stop", add_special_tokens=False)["input_ids"]
    assert list(stream_decode(tok, ids, stop=["!", "??"])) == list(stream_decode(tok, ids))


@pytest.mark.parametrize("stop", ["ab", [3], ["", "x"]])
def test_stop_must_be_a_list_of_non_empty_strings(tok, stop):
    with pytest.raises(TutorialError, match="list of non-empty strings"):
        stream_decode(tok, [], stop=stop)


def test_a_label_shows_white_space_and_the_kind_of_the_token(tok):
    labels = [token_label(tok, index) for index in tok("a b\nc\t語", add_special_tokens=False)["input_ids"]]
    assert {"␣", "⏎", "⇥"} <= set("".join(text for text, _ in labels))
    assert any(kind == "part" and text.startswith("E8") for text, kind in labels), "the first byte of 語"
    assert token_label(tok, tok.eos_token_id) == (tok.eos_token, "control")
    assert token_label(tok, len(tok) + 40) == ("", "text")


@more
@given(text=st.text(" .?!,'nmstvreda", max_size=30), n=st.integers(1, 4))
@example("x != y", 1)
@example("it 's fine , isn 't it ?", 2)
@example("a  ' s b", 1)
def test_spaces_that_the_tokenizer_removes_are_removed_from_the_stream_too(tok, text, n):
    """Llama 3 has clean_up_tokenization_spaces=true: the text of the ids so far becomes shorter at its end."""
    kept, tok.clean_up_tokenization_spaces = tok.clean_up_tokenization_spaces, True
    try:
        ids = tok(text, add_special_tokens=False)["input_ids"] * n
        pieces = list(stream_decode(tok, ids))
        assert "".join(pieces) == tok.decode(ids, skip_special_tokens=True)
        assert len(pieces) > 1 or len(text) * n < 30, "nothing was streamed"
    finally:
        tok.clean_up_tokenization_spaces = kept
