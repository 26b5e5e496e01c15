"""Thoughts: recognised however the text is split, shown apart, and in the history as the template has them."""

import json

import pytest
from fakes import WORDS, fake_conversation, thinking_conversation, tokenizer
from hypothesis import example, given
from hypothesis import strategies as st
from templates import LOOP, SHAPES, THOUGHT, chatml
from templates import tokenizer as of_shape

from helpers.chat.messages import Message, load_conversation, stats_line
from helpers.chat.terminal import print_answer
from helpers.chat.thinking import find_thought, split_thought, thought_tags
from helpers.errors import TutorialError
from helpers.tokenize import thinking_variable, thinks_by_default

TAGS = ("<think>", "</think>")
PIECES = ["<think>", "</think>", "<th", "</", "ink>", "a", " b", "\n", "\n\n", " ", "<", ">", "Grüße 👩"]
SILENT = "So  it is.\n\nYes: 1 < 2"


@given(st.lists(st.sampled_from(PIECES), max_size=12), st.data(), st.booleans())
@example(["<think>", "\n", "a", "</think>", "\n\n", "b"], None, False)
def test_any_split_of_the_stream_gives_the_same_thought_and_answer(pieces, data, inside):
    text = "".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8))) if data else range(len(text))
    chunks = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    found = list(split_thought(chunks, TAGS, inside))
    start, end, answer = find_thought(text, TAGS, inside)
    assert "".join(piece for piece, is_thought in found if is_thought) == text[start:end]
    assert "".join(piece for piece, is_thought in found if not is_thought) == text[answer:]
    assert 0 <= start <= end <= answer <= len(text)


@pytest.mark.parametrize(
    "text, inside, thought, answer",
    [
        ("Hello", False, "", "Hello"),
        ("  Hello <think>no</think>", False, "", "  Hello <think>no</think>"),
        ("<think>\nhm\n</think>\n\nYes", False, "hm", "Yes"),
        ("\n<think>hm</think>Yes </think>", False, "hm", "Yes </think>"),
        ("<think>\n\n</think>\n\n  code", False, "", "  code"),
        ("<think>hm", False, "hm", ""),
        ("hm\n</think>\nYes", True, "hm", "Yes"),
        ("hm", True, "hm", ""),
        ("<think>hm</think>Yes", True, "hm", "Yes"),
        ("<thin", False, "", "<thin"),
    ],
)
def test_what_is_thought_and_what_is_answer(text, inside, thought, answer):
    start, end, begin = find_thought(text, TAGS, inside)
    assert (text[start:end], text[begin:]) == (thought, answer)


def test_a_stream_shows_a_thought_before_it_ends():
    chunks = iter(["<think>", "one", " two"])
    assert next(split_thought(chunks, TAGS)) == ("one", True)


@pytest.mark.parametrize(
    "name, tags",
    [("qwen3", TAGS), ("phi-3", TAGS), ("deepseek-r1", TAGS), ("seed", ("<seed:think>", "</seed:think>"))],
)
def test_the_marks_are_those_of_the_template(name, tags):
    tok = of_shape(name)
    if name == "seed":
        tok.add_tokens(["</seed:think>"])
    assert thought_tags(tok) == tags


def test_only_templates_with_a_switch_can_be_switched():
    found = {name: thinking_variable(of_shape(name)) for name in SHAPES}
    assert {name: variable for name, variable in found.items() if variable} == {"qwen3": "enable_thinking"}
    tok = of_shape("chatml, bos")
    before = tok.chat_template
    granite = "{%- if thinking %}Think!{% endif %}" + before
    for template, variable, default in [(granite, "thinking", False), ("{% if m.thinking %}" + LOOP, None, None)]:
        tok.chat_template = template
        assert (thinking_variable(tok), thinks_by_default(tok)) == (variable, default)
    tok.chat_template = before
    assert fake_conversation().thinking is None
    with pytest.raises(TutorialError, match="cannot switch thinking"):
        fake_conversation(thinking=True)


def test_a_thought_is_kept_apart_from_the_answer_and_counted():
    conversation = thinking_conversation(SILENT)
    answer = conversation.say("Hello")
    chunks = [(chunk, answer.thinking) for chunk in answer]
    assert "".join(chunk for chunk, thinking in chunks if thinking) == SILENT
    assert "".join(chunk for chunk, thinking in chunks if not thinking) == WORDS
    message = conversation.messages[-1]
    assert (message.thought, message.answer) == (SILENT, WORDS) and SILENT not in conversation.markdown()
    ids = [token.id for token in message.tokens[: message.stats.thought_tokens]]
    assert tokenizer().decode(ids).rstrip().endswith("</think>") and tokenizer().decode(ids).count("</think>") == 1
    assert f"{message.stats.thought_tokens} of a thought" in stats_line(message.stats)


def history(conversation) -> list[dict]:
    """Return the messages as Qwen3's template takes them, with thoughts in a field of their own."""
    return [
        {"role": each.role, "content": each.answer, "reasoning_content": each.thought} for each in conversation.messages
    ]


@pytest.mark.parametrize("thinking", [True, False])
def test_the_history_is_that_of_the_template(thinking):
    conversation = thinking_conversation(SILENT, thinking=thinking)
    for text in ("Hello", "And now?"):
        list(conversation.say(text))
    assert bool(conversation.messages[1].thought) is thinking
    asked = Message("user", "Why?")
    conversation.messages = [*conversation.messages, asked]
    options = {"add_generation_prompt": True, "enable_thinking": thinking, "return_dict": True}
    assert conversation.prompt() == conversation.tok.apply_chat_template(history(conversation), **options)["input_ids"]
    assert SILENT not in conversation.tok.decode(conversation.prompt())


def test_a_stopped_thought_does_not_become_the_answer():
    conversation = thinking_conversation("la " * 50, max_new_tokens=30)
    list(conversation.say("Hello"))
    message = conversation.messages[-1]
    assert message.answer == "" and message.thought.startswith("la la")
    assert message.stats.thought_tokens == message.stats.new_tokens == 30
    conversation.messages = [*conversation.messages, Message("user", "Go on")]
    assert "la la" not in conversation.tok.decode(conversation.prompt())


def test_a_template_that_knows_no_thoughts_gets_the_answers_alone():
    conversation = thinking_conversation(SILENT, template=chatml())
    list(conversation.say("Hello"))
    conversation.messages = [*conversation.messages, Message("user", "Why?")]
    assert "think" not in conversation.tok.decode(conversation.prompt())


def test_a_prompt_that_opens_the_thought_needs_no_opening_mark():
    conversation = thinking_conversation(SILENT, template=chatml(THOUGHT, tail="<think>\n"))
    list(conversation.say("Hello"))
    message = conversation.messages[-1]
    assert (message.thought, message.answer) == (SILENT, WORDS) and not message.content.startswith("<think>")


def test_a_thought_survives_saving_and_a_damaged_one_is_refused(tmp_path):
    conversation = thinking_conversation(SILENT)
    list(conversation.say("Hello"))
    file = conversation.save(tmp_path / "chat.json")
    assert load_conversation(file, conversation.tok)[2] == conversation.messages
    text, parts = file.read_text(encoding="utf-8"), list(conversation.messages[-1].parts)
    assert str(parts) in text
    for wrong in ([9, 1, 2], [0, 0], [0, 0, 10**6], [-1, 0, 0], "abc", None, [0, 0, 0.5]):
        file.write_text(text.replace(str(parts), json.dumps(wrong)), encoding="utf-8")
        with pytest.raises(TutorialError, match="is damaged"):
            load_conversation(file, conversation.tok)


def test_a_terminal_shows_a_thought_beside_the_answer(capsys):
    print_answer(thinking_conversation(SILENT).say("Hello"))
    out, errors = capsys.readouterr()
    assert out == f"{WORDS}\n" and errors.startswith(f"{SILENT}\n")


NO_SYSTEM = {
    "refuses": "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + chatml(),
    "leaves out": chatml("{{ m.content if m.role != 'system' }}"),
}


@pytest.mark.parametrize("template", NO_SYSTEM.values(), ids=NO_SYSTEM)
def test_without_a_system_role_the_words_begin_the_first_message(template):
    conversation = thinking_conversation("", template=template, system="Be brief.")
    answer = conversation.say("Hello")
    list(answer)
    assert "<|im_start|>user\nBe brief.\n\nHello<|im_end|>" in conversation.tok.decode(answer._ids)
    assert any("has no system role" in sentence for sentence in answer.warnings())
    assert conversation.messages[0].content == "Hello", "the words are those of the settings, not of the user"
    with_role = fake_conversation(WORDS, system="Be brief.").say("Hello")
    list(with_role)
    assert with_role.warnings() == []
