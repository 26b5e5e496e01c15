"""Properties that hold for any input of people, models and disks: the same data again, or an error with a hint.

The examples are the same in each run.  Properties of a single module stand in its own test file.
"""

import json
from dataclasses import asdict, replace

import pytest
import tomli_w
from fakes import save_conversation
from hypothesis import assume, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from payloads import PAYLOADS
from strategies import BITS, FRAGMENTS, Found, cut

from helpers import settings
from helpers.chat import widget
from helpers.chat.markdown import render
from helpers.chat.messages import Message, load_conversation, stats_line, to_markdown
from helpers.checkpoint.random_weights import phi3_tokenizer
from helpers.decode import stream_decode
from helpers.errors import TutorialError
from helpers.generate import GeneratedToken, GenerationStats
from helpers.generate.loop import FINISH_REASONS
from helpers.tokenize import ROLES, prompt_ids, twin_tokenizer


def examples(number: int):
    return effort(max_examples=number, derandomize=True)


@pytest.fixture(scope="session", params=[pytest.param("embedded", marks=pytest.mark.model), "phi3"])
def tok(request):
    from transformers import AutoTokenizer

    if request.param == "phi3":
        return phi3_tokenizer()
    return AutoTokenizer.from_pretrained(settings.load().model_dir)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


# Prompts: the messages can be read back from the ids alone.

words = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=10).map("".join)
message = st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": words})


def read_back(tok, ids) -> list[tuple[str, str]]:
    """Return (role, content) of each message of a prompt, found by its special tokens alone."""
    found, role, inside = [], None, []
    names = {tok.convert_tokens_to_ids(f"<|{role}|>"): role for role in ROLES}  # Phi-3's
    start, end = (tok.convert_tokens_to_ids(name) for name in ("<|im_start|>", "<|im_end|>"))
    ends = {end, tok.convert_tokens_to_ids("<|end|>")}
    for index in ids:
        if index in names and names[index] in ROLES and tok.bos_token != "<|im_start|>" or index == start:
            role, inside = names.get(index, ""), []
        elif index in ends and role is not None:
            text = tok.decode(inside)
            found.append((role, text) if role else tuple(text.split("\n", 1)))
            role = None
        elif role is not None:
            inside.append(index)
    return found


@examples(60)
@given(messages=st.lists(message, min_size=1, max_size=4))
def test_messages_can_be_read_back_from_the_ids_of_their_prompt(tok, messages):
    found = read_back(tok, prompt_ids(tok, messages))
    given = [(m["role"], m["content"]) for m in messages]
    if tok.bos_token == "<|im_start|>":
        found = found[len(found) - len(given) :]  # this template puts a system message of its own first
        # What the vocabulary has no bytes for is lost, from ordinary text too.
        kept = [(role, tok.decode(twin_tokenizer(tok)[0].encode(f"{role}\n{text}").ids)) for role, text in given]
        assert [(role, f"{role}\n{text}") for role, text in found] == kept
    else:  # this tokenizer strips white space around special tokens

        def squeezed(pairs):
            return [(role, "".join(text.replace("\u2581", " ").split())) for role, text in pairs]

        assert squeezed(found) == squeezed(given)


# Decoding: stop strings anywhere, across tokens and halves of characters.


@examples(60)
@given(data=st.data(), skip=st.booleans())
def test_streamed_text_is_the_decoded_text_up_to_a_stop_string(tok, data, skip):
    # Low ids are bytes and special tokens in both vocabularies.
    some = st.integers(0, 300) | st.integers(0, len(tok) + 3) | st.sampled_from(sorted(tok.added_tokens_decoder))
    ids = data.draw(st.lists(some, max_size=20))
    text = tok.decode(ids, skip_special_tokens=skip)
    parts = st.tuples(st.integers(0, len(text)), st.integers(1, 6)).map(lambda at: text[at[0] : sum(at)])
    stop = data.draw(st.lists(parts.filter(bool) | st.text(min_size=1, max_size=3), max_size=3)) if text else []
    assert "".join(stream_decode(tok, iter(ids), skip, stop)) == cut(text, stop)


# Settings: any file, any variable.

plain_toml = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = ["model", "format", "device", "model_root", "ov_config", "speed"]
VALUES = ["smollm2-instruct", "phi3-instruct", "int4", "int8", "CPU", "~nobody-of-that-name/x", "\0", ""]
tables = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES) | plain_toml, max_size=4)
toml_bits = ["=", "[", "]", "[[", "\n", '"', "'''", '"""', ".", "{", "}", "#", ",", "\\u", "\ufeff", "\r", "0x", "1e"]
toml_bits += [*KEYS, *VALUES, "true", "nan", "1979-05-27", "25:61:00"]
files = st.one_of(
    st.binary(max_size=60),
    st.lists(st.sampled_from(toml_bits)).map(lambda bits: "".join(bits).encode()),
    tables.map(lambda table: tomli_w.dumps(table).encode("utf-8", "surrogatepass")),
)


@examples(300)
@given(content=files, environ=st.dictionaries(st.sampled_from(list(settings.OVERRIDES)), st.sampled_from(VALUES)))
@example(content=b"device = " + b"1" * 5000, environ={})  # more digits than Python reads
@example(content=b"device = " + b"[" * 5000, environ={})  # deeper than Python recurses
@example(content=b'model_root = "~nobody-of-that-name/x"', environ={})
def test_any_settings_file_gives_settings_or_an_error_with_a_hint(folder, content, environ):
    file = folder / "settings.toml"
    file.write_bytes(content)
    try:
        read = settings.load(file, environ)
        assert read.checkpoint_dir.name == "checkpoint" and read.model_dir.name == read.format
    except TutorialError as error:
        assert error.message and error.hint
        return
    assert settings.load(settings.save(read, file), {}) == read


# Saved conversations: what was saved comes back, and whatever is loaded can be shown and saved again.


@pytest.fixture(scope="module")
def bytes_tok():
    """A tokenizer of 256 tokens, one for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = Tokenizer(models.BPE(vocab={text: index for index, text in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=rust)


probabilities, counts, milliseconds = st.floats(0, 1), st.integers(0, 10**6), st.floats(0, 1e6)
token = st.builds(
    GeneratedToken,
    id=st.integers(0, 255),
    probability=probabilities,
    alternatives=st.lists(st.tuples(st.integers(0, 255), probabilities), max_size=2).map(tuple),
    milliseconds=milliseconds,
)
stats = st.builds(
    GenerationStats,
    prompt_tokens=counts,
    cached_tokens=counts,
    new_tokens=counts,
    ttft_ms=st.none() | milliseconds,
    tpot_ms=st.none() | milliseconds,
    context_length=st.integers(1, 10**6),
    finish_reason=st.sampled_from(FINISH_REASONS),
).map(lambda s: s if s.ttft_ms is not None else replace(s, tpot_ms=None))
answer = st.builds(
    Message,
    role=st.just("assistant"),
    content=st.text(),
    tokens=st.lists(token, max_size=3).map(tuple),
    stats=st.none() | stats,
)
pair = st.tuples(st.builds(Message, role=st.just("user"), content=st.text(min_size=1)), answer)
conversations = st.lists(pair, max_size=3).map(lambda pairs: [message for pair in pairs for message in pair])


@examples(100)
@given(system=st.text(), messages=conversations, truncated=st.integers(0, 3))
def test_a_saved_conversation_comes_back(folder, bytes_tok, system, messages, truncated):
    saved = (system, min(2 * truncated, len(messages)), messages)
    assert load_conversation(save_conversation(folder / "saved.json", bytes_tok, *saved), bytes_tok) == (*saved, [])


def use(tok, system: str, _truncated: int, messages: list[Message]) -> None:
    """Do all that the box and the terminal do with messages that were loaded."""
    to_markdown(system, messages)
    for message in messages:
        json.dumps(widget.message_card(message), allow_nan=False)
        json.dumps(widget.xray(tok, message), allow_nan=False)
        if message.stats:
            stats_line(message.stats)


TOKEN = GeneratedToken(7, 0.5, ((7, 0.5), (9, 0.25)), 1.0)
STATS = GenerationStats(9, 0, 1, 5.0, None, 99, "max_new_tokens")
PAIR = [Message("user", "Hello"), Message("assistant", "Hi", (TOKEN,), STATS)]
SAVED = {"version": 2, "system": "Be brief.", "truncated_messages": 0, "messages": [asdict(each) for each in PAIR]}
SAVED = json.loads(json.dumps(SAVED))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value, at=()):
    """Yield the path of each value inside a JSON value."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from paths(part, (*at, key))


def changed(value, at, new):
    """Return a copy of `value` with `new` at that path."""
    if not at:
        return new
    copy = value.copy()
    copy[at[0]] = changed(value[at[0]], at[1:], new)
    return copy


@examples(400)
@given(at=st.sampled_from(list(paths(SAVED))), new=json_values)
@example(at=("messages", 0, "content"), new="\ud800")
@example(at=("messages", 1, "tokens", 0, "id"), new=10**30)
@example(at=("messages", 1, "tokens", 0, "probability"), new=float("nan"))
@example(at=("messages", 1, "stats", "new_tokens"), new="x")
def test_a_file_with_one_wrong_value_gives_a_usable_conversation_or_an_error(folder, bytes_tok, at, new):
    file = save_conversation(folder / "changed.json", bytes_tok, "", 0, [])
    table = changed(SAVED, at, new)
    if isinstance(table, dict):
        table = {"tokenizer": json.loads(file.read_text(encoding="utf-8"))["tokenizer"]} | table
    file.write_text(json.dumps(table), encoding="utf-8")
    try:
        loaded = load_conversation(file, bytes_tok)
    except TutorialError as error:
        assert error.message and error.hint
        return
    use(bytes_tok, *loaded[:3])
    again = save_conversation(folder / "again.json", bytes_tok, *loaded)
    assert load_conversation(again, bytes_tok) == loaded


@examples(200)
@given(content=st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
@example(content=b'{"version": ' + b"1" * 5000 + b"}")
@example(content=b'{"version": 1, "tokenizer": "", "system": "", "forgotten": 0, "messages": ' + b"[" * 9999)
def test_any_other_file_is_refused_by_its_name(folder, bytes_tok, content):
    file = folder / "any.json"
    file.write_bytes(content)
    with pytest.raises(TutorialError, match="any.json"):
        load_conversation(file, bytes_tok)


# Markdown: hostile texts cut up, joined, and put into each other.

cuttings = st.tuples(st.sampled_from(PAYLOADS), st.integers(0, 80), st.integers(1, 80))
scraps = cuttings.map(lambda c: c[0][c[1] : c[1] + c[2]]) | st.sampled_from(PAYLOADS) | st.sampled_from(BITS)
BOXES = ["- {}", "1. {}", "> {}", "| a | {} |\n|---|---|\n| {} | b |", "[{}](https://x.yz)", "[x]({})", "![{}]({})"]
BOXES += ["```{}\n{}\n```", "`{}`", "**{}**", "~~{}~~", "# {}", "    {}", "<{}>", "<!--{}", "[{}]: {} '{}'"]
BOXES += ['<a href="{}">']


def boxed(inner):
    return st.tuples(st.sampled_from(BOXES), inner).map(lambda pair: pair[0].replace("{}", pair[1]))


hostile = st.recursive(
    scraps, lambda inner: boxed(inner) | st.lists(inner, min_size=2, max_size=4).map("".join), max_leaves=8
)


@examples(400)
@given(hostile)
def test_any_mixture_of_hostile_texts_is_rendered_without_harm(text):
    assume(len(text) < 5000)
    for markdown in (text, text.replace("\n", "\n> ")):
        html = render(markdown)
        assert Found(html).forbidden == [], f"{markdown!r} became {html!r}"
        html.encode()  # it can be sent
