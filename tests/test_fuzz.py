"""Whatever people, models and disks bring: the same turns, the same text, the same data, or a sentence; never a crash.

The same examples in each run; other laws on arbitrary input stand beside the examples of each room.
"""

import json
from dataclasses import asdict, replace

import pytest
import tomli_w
from hypothesis import assume, example, given
from hypothesis import settings as effort
from hypothesis import strategies as st
from payloads import PAYLOADS
from test_decode import cut
from test_markdown import BITS, check
from test_tokenize import FRAGMENTS

from helpers import settings
from helpers.chat import messages, terminal, widget
from helpers.chat.messages import GenerationStats, Message
from helpers.checkpoint.random_weights import phi3_tokenizer
from helpers.decode import stream_decode
from helpers.errors import TutorialError
from helpers.generate import GeneratedToken
from helpers.tokenize import ROLES, prompt_ids, without_special_tokens


def law(examples: int):
    return effort(max_examples=examples, derandomize=True)


@pytest.fixture(scope="session", params=[pytest.param("embedded", marks=pytest.mark.model), "phi3"])
def tok(request):
    from transformers import AutoTokenizer

    if request.param == "phi3":
        return phi3_tokenizer()
    return AutoTokenizer.from_pretrained(settings.load().model_dir)


# Prompts: who reads only the ids finds the very turns again.

words = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=10).map("".join)
message = st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": words})


def read_back(tok, ids) -> list[tuple[str, str]]:
    """(role, content) of each turn of a prompt, found by its control tokens alone."""
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


@law(150)
@given(messages=st.lists(message, min_size=1, max_size=4))
def test_the_turns_can_be_read_back_from_the_ids(tok, messages):
    found = read_back(tok, prompt_ids(tok, messages))
    spoken = [(m["role"], m["content"]) for m in messages]
    if tok.bos_token == "<|im_start|>":
        found = found[len(found) - len(spoken) :]  # this template puts a system message of its own first
        # What the vocabulary has no bytes for is lost, from ordinary text too.
        kept = [(role, tok.decode(without_special_tokens(tok).encode(f"{role}\n{text}").ids)) for role, text in spoken]
        assert [(role, f"{role}\n{text}") for role, text in found] == kept
    else:  # white space around control tokens is theirs

        def squeezed(pairs):
            return [(role, "".join(text.replace("\u2581", " ").split())) for role, text in pairs]

        assert squeezed(found) == squeezed(spoken)


# Decoding: stop strings anywhere, across tokens and halves of characters.


@law(150)
@given(data=st.data(), skip=st.booleans())
def test_any_ids_with_any_stop_strings_are_the_batch_s_text_cut(tok, data, skip):
    # Low ids are bytes and control tokens in both vocabularies.
    some = st.integers(0, 300) | st.integers(0, len(tok) + 3) | st.sampled_from(sorted(tok.added_tokens_decoder))
    ids = data.draw(st.lists(some, max_size=20))
    text = tok.decode(ids, skip_special_tokens=skip)
    places = st.tuples(st.integers(0, len(text)), st.integers(1, 6)).map(lambda at: text[at[0] : sum(at)])
    stop = data.draw(st.lists(places.filter(bool) | st.text(min_size=1, max_size=3), max_size=3)) if text else []
    assert "".join(stream_decode(tok, iter(ids), skip, stop)) == cut(text, stop)


# Settings: any file, any variable.

plain_toml = st.recursive(
    st.none().map(lambda _: 0)
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text()
    | st.dates(),
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@law(300)
@given(content=files, environ=st.dictionaries(st.sampled_from(list(settings.OVERRIDES)), st.sampled_from(VALUES)))
@example(content=b"device = " + b"1" * 5000, environ={})  # more digits than Python reads
@example(content=b"device = " + b"[" * 5000, environ={})  # deeper than Python goes
@example(content=b'model_root = "~nobody-of-that-name/x"', environ={})
def test_any_file_gives_settings_or_a_sentence(folder, content, environ):
    file = folder / "settings.toml"
    file.write_bytes(content)
    try:
        read = settings.load(file, environ)
        assert read.checkpoint_dir.name == "checkpoint" and read.model_dir.name == read.format
    except TutorialError as error:
        assert error.message and error.hint
        return
    assert settings.load(settings.save(read, file), {}) == read


# Transcripts: what was written comes back, and whatever comes back can be shown and written again.


@pytest.fixture(scope="module")
def bytes_tok():
    """A tokenizer of 256 tokens, one for each byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    rust = Tokenizer(models.BPE(vocab={text: index for index, text in enumerate(alphabet)}, merges=[]))
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=rust)


shares, counts = st.floats(0, 1), st.integers(0, 10**6)
step = st.builds(
    GeneratedToken,
    id=st.integers(0, 255),
    probability=shares,
    alternatives=st.lists(st.tuples(st.integers(0, 255), shares), max_size=2).map(tuple),
    milliseconds=st.floats(0, 1e6),
)
figures = st.builds(
    GenerationStats,
    prompt_tokens=counts,
    cached_tokens=counts,
    answer_tokens=counts,
    ttft_ms=st.none() | st.floats(0, 1e6),
    tpot_ms=st.none() | st.floats(0, 1e6),
    context_length=st.integers(1, 10**6),
    finish_reason=st.sampled_from(["end token", "budget", "context", "stopped", "error"]),
).map(lambda f: f if f.ttft_ms is not None else replace(f, tpot_ms=None))
answer = st.builds(
    Message,
    role=st.just("assistant"),
    content=st.text(),
    steps=st.lists(step, max_size=3).map(tuple),
    figures=st.none() | figures,
)
pair = st.tuples(st.builds(Message, role=st.just("user"), content=st.text(min_size=1)), answer)
talks = st.lists(pair, max_size=3).map(lambda pairs: [message for pair in pairs for message in pair])


@law(100)
@given(system=st.text(), messages=talks, lost=st.integers(0, 3))
def test_turns_that_are_written_come_back(folder, bytes_tok, system, messages, lost):
    truncated_messages = min(2 * lost, len(messages))
    file = messages.write(folder / "talk.json", bytes_tok, system, truncated_messages, messages)
    assert messages.read(file, bytes_tok) == (system, truncated_messages, messages)


def use(tok, system: str, truncated_messages: int, messages: list[Message]) -> None:
    """All that the chats do with turns which they have loaded."""
    messages.markdown(system, messages)
    for message in messages:
        json.dumps(widget.card(message), allow_nan=False)
        json.dumps(widget.xray(tok, message), allow_nan=False)
        if message.figures:
            widget.stats_sentence(message.figures)
            terminal.stats_line(message.figures)


COST = GenerationStats(9, 0, 1, 5.0, None, 99, "budget")
SAVED = {
    "version": 1,
    "system": "Be brief.",
    "forgotten": 0,
    "messages": [
        asdict(Message("user", "Hello")),
        asdict(
            Message(
                "assistant",
                "Hi",
                (GeneratedToken(7, 0.5, ((7, 0.5), (9, 0.25)), 1.0),),
                GenerationStats(9, 0, 1, 5.0, None, 99, "budget"),
            )
        ),
    ],
}
SAVED = json.loads(json.dumps(SAVED))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths(value, at=()):
    """Every place in a JSON value."""
    yield at
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inside:
        yield from paths(part, (*at, key))


def changed(value, at, new):
    """A copy of `value` with `new` at that place."""
    if not at:
        return new
    copy = value.copy()
    copy[at[0]] = changed(value[at[0]], at[1:], new)
    return copy


@law(400)
@given(at=st.sampled_from(list(paths(SAVED))), new=json_values)
@example(at=("messages", 0, "content"), new="\ud800")
@example(at=("messages", 1, "steps", 0, "id"), new=10**30)
@example(at=("messages", 1, "steps", 0, "probability"), new=float("nan"))
@example(at=("messages", 1, "figures", "answer_tokens"), new="x")
def test_one_wrong_value_gives_turns_that_can_be_used_or_a_sentence(folder, bytes_tok, at, new):
    file = folder / "changed.json"
    table = changed(SAVED, at, new)
    if isinstance(table, dict):
        table = {"tokenizer": messages.fingerprint(bytes_tok)} | table
    file.write_text(json.dumps(table), encoding="utf-8")
    try:
        read = messages.read(file, bytes_tok)
    except TutorialError as error:
        assert error.message and error.hint
        return
    use(bytes_tok, *read)
    again = messages.write(folder / "again.json", bytes_tok, *read)
    assert messages.read(again, bytes_tok) == read


@law(200)
@given(content=st.binary(max_size=40) | json_values.map(lambda value: json.dumps(value).encode()))
@example(content=b'{"version": ' + b"1" * 5000 + b"}")
@example(content=b'{"version": 1, "tokenizer": "", "system": "", "forgotten": 0, "messages": ' + b"[" * 9999)
def test_any_file_is_no_conversation_and_that_is_said(folder, bytes_tok, content):
    file = folder / "any.json"
    file.write_bytes(content)
    with pytest.raises(TutorialError, match="any.json"):
        messages.read(file, bytes_tok)


# Markdown: hostile texts cut up, joined, and put into each other.

cuttings = st.tuples(st.sampled_from(PAYLOADS), st.integers(0, 80), st.integers(1, 80))
scraps = cuttings.map(lambda c: c[0][c[1] : c[1] + c[2]]) | st.sampled_from(PAYLOADS) | st.sampled_from(BITS)
BOXES = ["- {}", "1. {}", "> {}", "| a | {} |\n|---|---|\n| {} | b |", "[{}](https://x.yz)", "[x]({})", "![{}]({})"]
BOXES += [
    "```{}\n{}\n```",
    "`{}`",
    "**{}**",
    "~~{}~~",
    "# {}",
    "    {}",
    "<{}>",
    "<!--{}",
    "[{}]: {} '{}'",
    '<a href="{}">',
]


def boxed(inner):
    return st.tuples(st.sampled_from(BOXES), inner).map(lambda pair: pair[0].replace("{}", pair[1]))


hostile = st.recursive(
    scraps, lambda inner: boxed(inner) | st.lists(inner, min_size=2, max_size=4).map("".join), max_leaves=8
)


@law(400)
@given(hostile)
def test_hostile_texts_in_any_mixture_do_nothing(text):
    assume(len(text) < 5000)
    check(text)
    check(text.replace("\n", "\n> "))
