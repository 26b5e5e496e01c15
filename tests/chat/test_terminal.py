"""helpers.chat.terminal: answers on stdout and all else on stderr, the commands, and Ctrl-C."""

import io
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import WORDS, fake_conversation

from helpers.chat import conversation as conversation_module
from helpers.chat import terminal
from helpers.chat.answer import Answer
from helpers.chat.history import History
from helpers.errors import TutorialError
from helpers.settings import ROOT
from helpers.tokenize import prompt_ids

CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Stream(io.TextIOWrapper):
    """Standard input or output, at a terminal or through a pipe."""

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
    """chat(conversation, "Hello", …) types these lines; returns stdout and stderr."""

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
    """A function that does what Ctrl-C does, even where the tests run in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler, "the handler was not restored"


def test_answers_go_to_stdout_and_all_else_to_stderr(chat):
    out, errors = chat(fake_conversation(WORDS), "  Hello  ", "", "   ", "/clear", "/dance", "Again")
    assert out == 2 * f"{WORDS}\n"
    assert errors.count("[9 tokens") == 2 and "are removed" in errors and "no command /dance" in errors


def test_only_an_interactive_chat_has_a_prompt_and_a_greeting(chat):
    out, errors = chat(fake_conversation(WORDS), "Hello", at_terminal=True)
    assert out == f"\n> {WORDS}\n\n> \n", "the shell's prompt starts on a new line"
    greeting, stats = errors.splitlines()
    assert {"Ctrl-C", "/help", "/bye"} <= set(greeting.replace(",", "").split()) and stats.startswith("[9 tokens")
    out, errors = chat(fake_conversation(WORDS), "Hello")
    assert out == f"{WORDS}\n" and len(errors.splitlines()) == 1


@pytest.mark.parametrize("at_terminal", [True, False])
def test_bye_quits_and_nothing_after_it_is_read(chat, at_terminal):
    conversation = fake_conversation()
    out, _ = chat(conversation, "/bye ", "Hello", at_terminal=at_terminal)
    assert conversation.messages == [] and out == ("\n> " if at_terminal else "")


def test_ctrl_c_at_the_prompt_quits(chat, interrupt, monkeypatch):
    monkeypatch.setattr(Stream, "readline", lambda self: interrupt())
    assert chat(fake_conversation(), at_terminal=True)[0] == "\n> \n"


def test_ctrl_c_stops_the_answer_and_not_the_chat(chat, interrupt):
    out, errors = chat(fake_conversation("One", interrupt, " two three"), "Hello", "Again")
    assert out == "One two\nOne two\n" and errors.count("stopped]") == 2


def test_ctrl_c_while_the_prompt_is_made_stops_the_answer(chat, interrupt, monkeypatch):
    calls = []

    def make(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 1:
            interrupt()
        return prompt_ids(*arguments, **options)

    monkeypatch.setattr(conversation_module, "prompt_ids", make)
    conversation = fake_conversation(WORDS)
    out, errors = chat(conversation, "Hello", "Again")
    assert out == f"\n{WORDS}\n" and errors.count("stopped]") == 1 and len(conversation.messages) == 4


def test_a_second_ctrl_c_quits(chat, interrupt, monkeypatch):
    monkeypatch.setattr(Answer, "stop", lambda answer: None)  # the model does not react
    conversation = fake_conversation("One", interrupt, interrupt)
    out, _ = chat(conversation, "Hello", "Again", at_terminal=True)
    assert out == "\n> One\n\n" and len(conversation.messages) == 2


@pytest.mark.parametrize("error", [RuntimeError("the device was lost"), TutorialError("the device was lost")])
def test_an_error_in_an_answer_is_printed_and_the_chat_continues(chat, error):
    out, errors = chat(fake_conversation("Half", error), "Hello", "Again")
    assert out == "Half\nHalf\n" and errors.count("the device was lost\n") == 2


def test_each_piece_is_flushed_before_the_model_continues(chat):
    seen = []
    chat(fake_conversation("One", lambda: seen.append(sys.stdout.seen), " two"), "Hello")
    assert seen == ["One"]


def test_characters_that_a_stream_lacks_do_not_end_the_chat(chat):
    conversation = fake_conversation("né")
    out, errors = chat(conversation, "ça", "/ça", encoding="ascii")
    assert out == "n?\n" and conversation.messages[0].content.endswith("a") and "no command /??a" in errors


def test_control_characters_are_not_printed(chat):
    answer = ("\x1b[2Jone\n", "\ttwo\x07\r\x9b", "👩\u200d💻", "\x1b", "]0;title\x9c\u202eabc\u2066")
    out, errors = chat(fake_conversation(*answer), "Hello", "/\x1b[2J", "/load \x9b2J\u202e", "/save \x1b/x")
    assert out == "[2Jone\n\ttwo👩\u200d💻]0;titleabc\n" and not CONTROL.search(errors.replace("\n", ""))
    assert "2J cannot be read" in errors and "/x cannot be written" in errors


@pytest.mark.parametrize("error", [RuntimeError("\x1b[2J gone"), TutorialError("\x1b[2J gone", "\u202eabc")])
def test_control_characters_of_an_error_are_not_printed(chat, error):
    assert not CONTROL.search(chat(fake_conversation(error), "Hello")[1].replace("\n", ""))


def test_each_command_of_the_help_exists(chat):
    names = set(re.findall(r"(?<!\w)/(\w+)", terminal.HELP))
    assert names == {"regenerate", "undo", "clear", "save", "load", "export", "list", "open", "bye"}
    assert "no command" not in chat(fake_conversation(), *(f"/{name}" for name in names - {"bye"}))[1]
    assert chat(fake_conversation(), "/help")[1].strip() == terminal.HELP
    for line in ("/dance now", "/Help", "/"):
        _, errors = chat(fake_conversation(), line)
        assert f"no command {line.split()[0]}." in errors and terminal.HELP in errors


def test_regenerate_clear_and_undo(chat):
    conversation = fake_conversation(WORDS)
    out, errors = chat(conversation, "Hello", "/regenerate", "/clear", "/regenerate", "/undo", "/undo")
    assert out == 2 * f"{WORDS}\n" and [message.content for message in conversation.messages] == ["Hello", WORDS]
    assert "no answer to regenerate" in errors and "has 2 messages" in errors and "nothing to undo" in errors


@pytest.mark.parametrize("name", ["save", "load", "export"])
@pytest.mark.parametrize("argument", ["", "   "])
def test_a_command_that_needs_a_file_name_says_so(chat, monkeypatch, tmp_path, name, argument):
    monkeypatch.chdir(tmp_path)
    _, errors = chat(fake_conversation(), "Hello", f"/{name}{argument}")
    assert f"/{name} needs a file name" in errors and list(tmp_path.iterdir()) == []


def test_a_saved_conversation_continues_and_an_exported_one_can_be_read(chat, monkeypatch, tmp_path):
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    conversation, loaded = fake_conversation(), fake_conversation()
    _, errors = chat(conversation, "Grüße", "/save  ~/our chat.json ", "/export ~/our chat.md")
    for name in ("our chat.json", "our chat.md"):
        assert f"to {tmp_path / name}." in errors
    assert (tmp_path / "our chat.md").read_text(encoding="utf-8") == conversation.markdown()
    _, errors = chat(loaded, "/load ~/our chat.json", "More")
    assert "2 messages" in errors and loaded.messages[:2] == conversation.messages and len(loaded.messages) == 4


@pytest.mark.parametrize("closed", [["stdin"], ["stdout"], ["stderr"], ["stdin", "stdout", "stderr"]])
def test_closed_streams_end_the_chat_quietly(chat, monkeypatch, closed):
    run = terminal.run

    def with_closed(conversation):
        before = {name: getattr(sys, name) for name in closed}
        for name in closed:
            monkeypatch.setattr(sys, name, None)
        try:
            run(conversation)
        finally:
            for name, stream in before.items():
                monkeypatch.setattr(sys, name, stream)

    monkeypatch.setattr(terminal, "run", with_closed)
    out, errors = chat(fake_conversation(WORDS), "Hello", "/dance")
    assert out == (f"{WORDS}\n" if closed == ["stderr"] else "") and "Traceback" not in errors


CHAT = """
import sys
if "without readline" in sys.argv:
    sys.modules["readline"] = None
from fakes import fake_conversation
from helpers.chat import conversation as conversation_module
from helpers.chat import terminal
conversation = fake_conversation("Yes.", max_new_tokens=9)
try:
    terminal.run(conversation)
finally:
    print([message.content for message in conversation.messages if message.role == "user"], file=sys.stderr, flush=True)
"""


def run_chat(*arguments: str, **options) -> subprocess.Popen:
    """Start a chat with a fake model as a program."""
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])} | options.pop("env", {})
    return subprocess.Popen([sys.executable, "-c", CHAT, *arguments], cwd=ROOT, env=environ, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_an_answer_that_cannot_be_printed_is_in_the_conversation():
    with open("/dev/full", "w") as full:
        pipes = {"stdin": subprocess.PIPE, "stdout": full, "stderr": subprocess.PIPE, "encoding": "utf-8"}
        _, errors = run_chat(**pipes).communicate("Hello\nAgain\n", timeout=120)
    assert errors.count("The answer cannot be printed: No space left on device.") == 2 and "Traceback" not in errors
    assert "['Hello', 'Again']" in errors


PASTED = "Translate:\nline one\n\n/line two"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pseudo-terminals")
@pytest.mark.parametrize(
    "kind", ["xterm", *(pytest.param(kind, marks=pytest.mark.weekly) for kind in ("dumb", "without readline"))]
)
def test_several_lines_that_are_pasted_are_one_message(kind):
    import pty

    ours, theirs = pty.openpty()
    environ = {"TERM": "dumb" if kind == "dumb" else "xterm"}
    process = run_chat(kind, env=environ, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    seen = b""

    def read_until(words: bytes) -> None:
        nonlocal seen
        seen = b""
        while words not in seen:
            assert select.select([ours], [], [], 120)[0], seen
            seen += os.read(ours, 4096)

    try:
        for text in ("Hello", PASTED, "Go on.", "/bye"):
            read_until(b"> ")
            marked = b"[?2004h" in seen and kind != "dumb"  # a terminal that can is asked to mark a paste
            assert marked or kind != "xterm"
            data = text.encode()
            os.write(ours, b"\x1b[200~%s\x1b[201~\n" % data if marked and text == PASTED else data + b"\n")
        read_until(b"]\r\n")
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert repr(["Hello", PASTED, "Go on."]).encode() in seen


def test_warnings_are_printed_below_the_statistics(chat):
    stats, warning = chat(fake_conversation("la " * 200), "Hello")[1].splitlines()
    assert stats.startswith("[") and warning.startswith("[The answer repeats itself")


def test_kept_conversations_are_listed_and_opened(chat, tmp_path):
    first, second = fake_conversation(WORDS), fake_conversation(WORDS)
    first.history, second.history = History(tmp_path), History(tmp_path)
    chat(first, "Hello")
    _, errors = chat(second, "/list", "/open 2", "/open x", "/open", "/open 1")
    assert "  1  " in errors and "  Hello\n" in errors and errors.count("needs a number") == 3
    assert "Opened Hello: 2 messages." in errors and second.messages == first.messages


def test_a_list_of_nothing_says_so(chat, tmp_path):
    conversation = fake_conversation(WORDS)
    for conversation.history in (None, History(tmp_path)):
        assert chat(conversation, "/list")[1].startswith("No conversation is kept yet.")
