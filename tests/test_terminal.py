"""The chat in a terminal: answers on stdout and all else on stderr, its commands, Ctrl-C, and the line of figures."""

import io
import re
import signal
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from by_heart import WORDS, Scripted

from helpers import terminal
from helpers.plumbing import TutorialError
from helpers.terminal import figures_line
from helpers.turns import Figures

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

    def run(talk, *lines, at_terminal=False, encoding="utf-8"):
        typed = "".join(f"{line}\n" for line in lines)
        for name, text in {"stdin": typed, "stdout": "", "stderr": ""}.items():
            monkeypatch.setattr(sys, name, Stream(text, at_terminal, encoding))
        terminal.run(talk)
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
    out, errors = chat(Scripted(), "  Hello  ", "", "   ", "/clear", "/dance", "Again")
    assert out == 2 * f"{ANSWER}\n"
    assert errors.count("[prompt 20 tokens") == 2 and "forgotten" in errors and "no command /dance" in errors


def test_only_who_sits_at_a_terminal_gets_a_prompt_and_a_greeting(chat):
    out, errors = chat(Scripted(), "Hello", at_terminal=True)
    assert out == f"\n> {ANSWER}\n\n> \n", "the shell's prompt gets a line of its own"
    greeting, figures = errors.splitlines()
    assert {"Ctrl-C", "/help", "/bye"} <= set(greeting.split()) and figures.startswith("[prompt")
    assert chat(Scripted(), "Hello") == (f"{ANSWER}\n", f"{figures}\n")


@pytest.mark.parametrize("at_terminal", [True, False])
def test_bye_ends_it_and_nothing_after_it_is_read(chat, at_terminal):
    talk = Scripted()
    out, _ = chat(talk, "/bye ", "Hello", at_terminal=at_terminal)
    assert talk.messages == [] and out == ("\n> " if at_terminal else "")


def test_ctrl_c_at_the_prompt_ends_it_quietly(chat, interrupt, monkeypatch):
    monkeypatch.setattr(Stream, "readline", lambda self: interrupt())
    assert chat(Scripted(), at_terminal=True)[0] == "\n> \n"


def test_ctrl_c_stops_the_answer_and_not_the_chat(chat, interrupt):
    talk = Scripted(words=["One ", interrupt, "never"])
    out, errors = chat(talk, "Hello", "Again")
    assert out == "One \nOne \n" and errors.count("stopped]") == 2


def test_a_second_ctrl_c_ends_the_chat(chat, interrupt):
    talk = Scripted(words=["One ", interrupt, interrupt])
    talk.stop = lambda: None  # the model does not listen
    out, _ = chat(talk, "Hello", "Again", at_terminal=True)
    assert out == "\n> One \n\n" and len(talk.messages) == 2


@pytest.mark.parametrize("error", [RuntimeError("the device was lost"), TutorialError("the device was lost")])
def test_an_error_in_an_answer_is_a_sentence_and_the_chat_goes_on(chat, error):
    out, errors = chat(Scripted(words=["Half", error]), "Hello", "Again")
    assert out == "Half\nHalf\n" and errors.count("the device was lost\n") == 2


def test_each_piece_is_seen_before_the_model_goes_on(chat):
    seen = []
    chat(Scripted(words=["One ", lambda: seen.append(sys.stdout.seen), "two"]), "Hello")
    assert seen == ["One "]


def test_what_a_stream_cannot_carry_ends_no_chat(chat):
    talk = Scripted(words=["né"])
    out, errors = chat(talk, "ça", "/ça", encoding="ascii")
    assert out == "n?\n" and talk.messages[0].content.endswith("a") and "no command /??a" in errors


def test_each_command_of_the_help_is_one(chat):
    names = set(re.findall(r"/(\w+)", terminal.HELP))
    assert names == {"regenerate", "clear", "save", "load", "export", "bye"}
    assert "no command" not in chat(Scripted(), *(f"/{name}" for name in names - {"bye"}))[1]
    assert chat(Scripted(), "/help")[1].strip() == terminal.HELP
    for line in ("/dance now", "/Help", "/"):
        _, errors = chat(Scripted(), line)
        assert f"no command {line.split()[0]}." in errors and terminal.HELP in errors


def test_regenerate_and_clear(chat):
    talk = Scripted()
    out, _ = chat(talk, "Hello", "/regenerate")
    assert out == 2 * f"{ANSWER}\n" and [message.role for message in talk.messages] == ["user", "assistant"]
    _, errors = chat(talk, "/clear", "/regenerate")
    assert talk.messages == [] and "forgotten" in errors and "nothing to answer" in errors


@pytest.mark.parametrize("name", ["save", "load", "export"])
@pytest.mark.parametrize("argument", ["", "   "])
def test_a_command_that_needs_a_file_says_so(chat, monkeypatch, tmp_path, name, argument):
    monkeypatch.chdir(tmp_path)
    _, errors = chat(Scripted(tok=TOK), "Hello", f"/{name}{argument}")
    assert f"/{name} needs a file" in errors and list(tmp_path.iterdir()) == []


def test_what_is_saved_goes_on_and_what_is_exported_can_be_read(chat, monkeypatch, tmp_path):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    talk, other = Scripted(tok=TOK), Scripted(tok=TOK)
    _, errors = chat(talk, "Grüße", "/save  ~/our talk.json ", "/export ~/our talk.md")
    for name in ("our talk.json", "our talk.md"):
        assert f"to {tmp_path / name}." in errors
    assert (tmp_path / "our talk.md").read_text(encoding="utf-8") == talk.markdown()
    _, errors = chat(other, "/load ~/our talk.json", "More")
    assert "2 messages" in errors and other.messages[:2] == talk.messages and len(other.messages) == 4


def test_a_page_that_cannot_be_written_is_a_sentence_and_the_chat_goes_on(chat, tmp_path):
    out, errors = chat(Scripted(), f"/export {tmp_path}", "Hello")
    assert f"{tmp_path} cannot be written" in errors and out == f"{ANSWER}\n"


def test_it_says_when_messages_are_forgotten_and_only_then(chat):
    talk = Scripted()
    assert "context is full" not in chat(talk, "Hello")[1]
    talk.forget = 2
    assert "context is full: the first 2 messages" in chat(talk, "Hello")[1]
    talk.forget = 0
    assert "context is full" not in chat(talk, "Hello")[1]


def test_an_answer_in_circles_is_told(chat):
    assert "circles" in chat(Scripted(words=["la "] * 200), "Hello")[1]
    assert "circles" not in chat(Scripted(), "Hello")[1]


FIGURES = Figures(1234, 1000, 2012, 250.0, 20.0, 4096, "end token")


@pytest.mark.parametrize(
    ("change", "times"),
    [
        ({}, ["first token 0.25 s", "2,012 written", "50 tokens/s"]),
        ({"ttft_ms": 0.0, "tpot_ms": 0.0}, ["first token 0.00 s", "2,012 written"]),
        ({"ttft_ms": None, "tpot_ms": None}, ["2,012 written"]),
    ],
)
def test_the_line_of_figures_has_what_is_known(change, times):
    prompt, *others = figures_line(replace(FIGURES, **change)).split(" · ")
    assert prompt.startswith("prompt 1,234 tokens, 1,000 ")
    assert others == [*times, "context 3,246 of 4,096"]


def test_the_line_of_figures_says_why_an_answer_ended_too_early():
    ends = {"stopped": "stopped", "budget": "budget", "context": "end of the context"}
    for end in ends:
        assert figures_line(replace(FIGURES, end=end)).endswith(ends[end])
