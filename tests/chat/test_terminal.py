"""The chat in a terminal: answers on stdout and all else on stderr, its commands, Ctrl-C, and the line of figures."""

import io
import re
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from fakes import WORDS, FakeConversation

from helpers.chat import terminal
from helpers.chat.messages import GenerationStats
from helpers.chat.terminal import stats_line
from helpers.errors import TutorialError

TOK = SimpleNamespace(get_vocab=lambda: {"a": 0})
ANSWER = "".join(WORDS)


class Stream(io.TextIOWrapper):
    """What is typed, or printed, at a terminal or through a pipe."""

    def __init__(self, text, at_terminal, encoding):
        super().__init__(io.BytesIO(text.encode()), encoding=encoding, newline="\n")
        self.at_terminal = at_terminal

    def isatty(self):
        return self.at_terminal

    @property
    def seen(self):
        """What was flushed."""
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture
def chat(monkeypatch):
    """chat(talk, "Hello", …) types these lines; gives stdout and stderr."""

    def run(conversation, *lines, at_terminal=False, encoding="utf-8"):
        typed = "".join(f"{line}\n" for line in lines)
        for name, text in {"stdin": typed, "stdout": "", "stderr": ""}.items():
            monkeypatch.setattr(sys, name, Stream(text, at_terminal, encoding))
        terminal.run(conversation)
        errors = sys.stderr.seen
        sys.stdout.flush()
        return sys.stdout.seen, errors

    return run


@pytest.fixture
def interrupt():
    """A function that does what Ctrl-C does, also where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler, "it is as it was"


def test_answers_go_to_stdout_and_all_else_to_stderr(chat):
    out, errors = chat(FakeConversation(), "  Hello  ", "", "   ", "/clear", "/dance", "Again")
    assert out == 2 * f"{ANSWER}\n"
    assert errors.count("[prompt 20 tokens") == 2 and "truncated_messages" in errors and "no command /dance" in errors


def test_only_who_sits_at_a_terminal_gets_a_prompt_and_a_greeting(chat):
    out, errors = chat(FakeConversation(), "Hello", at_terminal=True)
    assert out == f"\n> {ANSWER}\n\n> \n", "the shell's prompt gets a line of its own"
    greeting, figures = errors.splitlines()
    assert {"Ctrl-C", "/help", "/bye"} <= set(greeting.split()) and figures.startswith("[prompt")
    assert chat(FakeConversation(), "Hello") == (f"{ANSWER}\n", f"{figures}\n")


@pytest.mark.parametrize("at_terminal", [True, False])
def test_bye_ends_it_and_nothing_after_it_is_read(chat, at_terminal):
    conversation = FakeConversation()
    out, _ = chat(conversation, "/bye ", "Hello", at_terminal=at_terminal)
    assert conversation.messages == [] and out == ("\n> " if at_terminal else "")


def test_ctrl_c_at_the_prompt_ends_it_quietly(chat, interrupt, monkeypatch):
    monkeypatch.setattr(Stream, "readline", lambda self: interrupt())
    assert chat(FakeConversation(), at_terminal=True)[0] == "\n> \n"


def test_ctrl_c_stops_the_answer_and_not_the_chat(chat, interrupt):
    conversation = FakeConversation(words=["One ", interrupt, "never"])
    out, errors = chat(conversation, "Hello", "Again")
    assert out == "One \nOne \n" and errors.count("stopped]") == 2


def test_a_second_ctrl_c_ends_the_chat(chat, interrupt):
    conversation = FakeConversation(words=["One ", interrupt, interrupt])
    conversation.stop = lambda: None  # the model does not listen
    out, _ = chat(conversation, "Hello", "Again", at_terminal=True)
    assert out == "\n> One \n\n" and len(conversation.messages) == 2


@pytest.mark.parametrize("error", [RuntimeError("the device was lost"), TutorialError("the device was lost")])
def test_an_error_in_an_answer_is_a_sentence_and_the_chat_goes_on(chat, error):
    out, errors = chat(FakeConversation(words=["Half", error]), "Hello", "Again")
    assert out == "Half\nHalf\n" and errors.count("the device was lost\n") == 2


def test_each_piece_is_seen_before_the_model_goes_on(chat):
    seen = []
    chat(FakeConversation(words=["One ", lambda: seen.append(sys.stdout.seen), "two"]), "Hello")
    assert seen == ["One "]


def test_what_a_stream_cannot_carry_ends_no_chat(chat):
    conversation = FakeConversation(words=["né"])
    out, errors = chat(conversation, "ça", "/ça", encoding="ascii")
    assert out == "n?\n" and conversation.messages[0].content.endswith("a") and "no command /??a" in errors


def test_each_command_of_the_help_is_one(chat):
    names = set(re.findall(r"/(\w+)", terminal.HELP))
    assert names == {"regenerate", "clear", "save", "load", "export", "bye"}
    assert "no command" not in chat(FakeConversation(), *(f"/{name}" for name in names - {"bye"}))[1]
    assert chat(FakeConversation(), "/help")[1].strip() == terminal.HELP
    for line in ("/dance now", "/Help", "/"):
        _, errors = chat(FakeConversation(), line)
        assert f"no command {line.split()[0]}." in errors and terminal.HELP in errors


def test_regenerate_and_clear(chat):
    conversation = FakeConversation()
    out, _ = chat(conversation, "Hello", "/regenerate")
    assert out == 2 * f"{ANSWER}\n" and [message.role for message in conversation.messages] == ["user", "assistant"]
    _, errors = chat(conversation, "/clear", "/regenerate")
    assert conversation.messages == [] and "truncated_messages" in errors and "nothing to answer" in errors


@pytest.mark.parametrize("name", ["save", "load", "export"])
@pytest.mark.parametrize("argument", ["", "   "])
def test_a_command_that_needs_a_file_says_so(chat, monkeypatch, tmp_path, name, argument):
    monkeypatch.chdir(tmp_path)
    _, errors = chat(FakeConversation(tok=TOK), "Hello", f"/{name}{argument}")
    assert f"/{name} needs a file" in errors and list(tmp_path.iterdir()) == []


def test_what_is_saved_goes_on_and_what_is_exported_can_be_read(chat, monkeypatch, tmp_path):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    conversation, other = FakeConversation(tok=TOK), FakeConversation(tok=TOK)
    _, errors = chat(conversation, "Grüße", "/save  ~/our talk.json ", "/export ~/our talk.md")
    for name in ("our talk.json", "our talk.md"):
        assert f"to {tmp_path / name}." in errors
    assert (tmp_path / "our talk.md").read_text(encoding="utf-8") == conversation.markdown()
    _, errors = chat(other, "/load ~/our talk.json", "More")
    assert "2 messages" in errors and other.messages[:2] == conversation.messages and len(other.messages) == 4


def test_a_page_that_cannot_be_written_is_a_sentence_and_the_chat_goes_on(chat, tmp_path):
    out, errors = chat(FakeConversation(), f"/export {tmp_path}", "Hello")
    assert f"{tmp_path} cannot be written" in errors and out == f"{ANSWER}\n"


def test_it_says_when_messages_are_forgotten_and_only_then(chat):
    conversation = FakeConversation()
    assert "context is full" not in chat(conversation, "Hello")[1]
    conversation.forget = 2
    assert "context is full: the first 2 messages" in chat(conversation, "Hello")[1]
    conversation.forget = 0
    assert "context is full" not in chat(conversation, "Hello")[1]


def test_an_answer_in_circles_is_told(chat):
    assert "circles" in chat(FakeConversation(words=["la "] * 200), "Hello")[1]
    assert "circles" not in chat(FakeConversation(), "Hello")[1]


FIGURES = GenerationStats(1234, 1000, 2012, 250.0, 20.0, 4096, "end token")


@pytest.mark.parametrize(
    ("change", "times"),
    [
        ({}, ["first token 0.25 s", "2,012 written", "50 tokens/s"]),
        ({"ttft_ms": 0.0, "tpot_ms": 0.0}, ["first token 0.00 s", "2,012 written"]),
        ({"ttft_ms": None, "tpot_ms": None}, ["2,012 written"]),
    ],
)
def test_the_line_of_figures_has_what_is_known(change, times):
    prompt, *others = stats_line(replace(FIGURES, **change)).split(" · ")
    assert prompt.startswith("prompt 1,234 tokens, 1,000 ")
    assert others == [*times, "context 3,246 of 4,096"]


def test_the_line_of_figures_says_why_an_answer_ended_too_early():
    ends = {"stopped": "stopped", "budget": "budget", "context": "end of the context"}
    for end in ends:
        assert stats_line(replace(FIGURES, finish_reason=end)).endswith(ends[end])
