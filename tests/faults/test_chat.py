"""The chat: files, streams and requests that it cannot use."""

import io
import json
import os
import re
import sys

import pytest
from fakes import WORDS, fake_conversation

from faults.table import fault
from helpers.chat import terminal
from helpers.chat.box import ChatBox
from helpers.chat.messages import Message


@pytest.fixture
def chat(monkeypatch):
    """chat(conversation, "Hello", …) types these lines; returns stdout and stderr."""

    def run(conversation, *lines: str) -> tuple[str, str]:
        for name, text in {"stdin": "".join(f"{line}\n" for line in lines), "stdout": "", "stderr": ""}.items():
            stream = io.TextIOWrapper(io.BytesIO(text.encode("utf-8", "surrogatepass")), "utf-8", newline="\n")
            monkeypatch.setattr(sys, name, stream)
        terminal.run(conversation)
        return tuple(stream.buffer.getvalue().decode() for stream in (sys.stdout, sys.stderr))

    return run


NESTED = json.loads("[" * 900 + "]" * 900)
HEAD = '{"version": 2, "tokenizer": "", "system": "", "truncated_messages": 0, "messages": '
FILES = {
    "A saved conversation that is a list": b"[]",
    "A saved conversation of half a line": HEAD.encode(),
    "A saved conversation that is nested 100,000 times": b"[" * 100_000,
    "A saved conversation that is nested 900 times": f"{HEAD}{'[' * 900}{']' * 900}}}".encode(),
    "A saved conversation in UTF-16": f"{HEAD}[]}}".encode("utf-16"),
    "A saved conversation with a number of 300 digits": f"{HEAD}{'1' * 300}}}".encode(),
    "A saved conversation with NaN": (HEAD + '[{"role": "user", "content": NaN, "tokens": [], "stats": 0}]}').encode(),
}


@pytest.mark.parametrize("content", [fault(name, content) for name, content in FILES.items()])
def test_a_file_that_is_no_saved_conversation(chat, outcome, tmp_path, content):
    conversation, file = fake_conversation(), tmp_path / "chat.json"
    file.write_bytes(content)
    out, errors = chat(conversation, "Hello", f"/load {file}", "And now?")
    assert out == "Hello\nAnd now?\n" and len(conversation.messages) == 4 and file.read_bytes() == content
    (message,) = [line for line in errors.splitlines() if "chat.json" in line]
    assert "is not a saved conversation" in message or "is damaged" in message or "has version" in message
    outcome(message, "the conversation goes on")


@pytest.mark.parametrize(
    "name, words",
    [
        fault("A file name with NUL", "a\0b", "embedded null byte"),
        fault("A file name of 300 characters", "x" * 300, "File name too long|cannot be"),
        fault("A file name in an unknown home folder", "~nobody-of-this-name/x", "~nobody-of-this-name"),
        fault("A file name in a folder that does not exist", "no/such/folder", "cannot be"),
    ],
)
def test_a_name_that_cannot_be_a_file(chat, outcome, monkeypatch, tmp_path, name, words):
    monkeypatch.chdir(tmp_path)
    conversation = fake_conversation()
    for command in ("load", "export", "save"):
        out, errors = chat(conversation, "Hello", f"/{command} {name}", "And now?")
        assert out == "Hello\nAnd now?\n", "the next message is not answered"
        (message,) = [line for line in errors.splitlines() if line[0] != "[" and " different name" not in line][:1]
        assert re.search(words, message) and "ended with an error" not in message
    assert len(conversation.messages) == 12 and list(tmp_path.iterdir()) == []
    outcome(message, "the conversation goes on")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes among the files")
@pytest.mark.parametrize("_", [fault("A conversation saved to a pipe or a device, or loaded from it", None)])
def test_what_is_not_a_file(chat, outcome, tmp_path, _):
    """A file would take the place of /dev/null, and reading /dev/zero would never end."""
    os.mkfifo(pipe := tmp_path / "pipe")
    for command in ("load", "export", "save"):
        out, errors = chat(fake_conversation(), "Hello", f"/{command} {pipe}", "And now?")
        assert "it is not a file" in errors and out == "Hello\nAnd now?\n" and pipe.is_fifo()
    outcome(errors.splitlines()[1], "the conversation goes on")


@pytest.mark.parametrize("_", [fault("A conversation saved to a full disk", None)])
def test_a_full_disk(chat, outcome, small_disk, _):
    file = small_disk / "chat"
    file.write_text("mine", encoding="utf-8")
    (small_disk / "rest").write_bytes(bytes(2**20 - 2 * 4096))
    for command in ("export", "save"):
        out, errors = chat(conversation := fake_conversation(), "Hello " * 2000, f"/{command} {file}", "And now?")
        assert out.endswith("And now?\n") and len(conversation.messages) == 4
        assert file.read_text(encoding="utf-8") == "mine"
    outcome(
        next(line for line in errors.splitlines() if "filled up" in line), "the old file is there, the chat goes on"
    )


@pytest.mark.parametrize(
    "request_of_the_page",
    [
        fault("A request to the box that is a list", [[]]),
        fault("A request to the box without a type", {"id": "1"}),
        fault("A request to the box of an unknown type", {"type": "dance", "id": "1"}),
        fault("A request to the box that lacks a field", {"type": "edit", "id": "1", "number": 0}),
        fault("A request to the box for a message that does not exist", {"type": "xray", "id": "1", "number": 10**300}),
        fault("A request to the box that is nested 900 times", {"type": "xray", "id": "1", "number": NESTED}),
    ],
)
def test_a_request_that_cannot_be_carried_out(outcome, request_of_the_page):
    box, got = ChatBox(fake_conversation(WORDS)), []
    box.widget.send = got.append
    box.widget._handle_custom_msg(request_of_the_page, [])
    assert [reply["ok"] for reply in got] == [False] and not box.busy
    outcome(box.status, "the page gets a reply, and the next message is answered")
    box.submit("Hello")
    assert box.wait(20) and box.conversation.messages[-1].content == WORDS


@pytest.mark.parametrize("_", [fault("A history of 4,000 turns in a context of 200 tokens", None)])
def test_a_long_history(chat, outcome, _):
    conversation = fake_conversation(WORDS, max_new_tokens=10, context_length=200)
    conversation.messages = [Message(role, "Hello") for role in ("user", "assistant") * 4000]
    out, errors = chat(conversation, "Hello")
    assert out == f"{WORDS}\n" and len(conversation.messages) == 8002
    outcome(errors.splitlines()[1].strip("[]"), "the answer is generated, and all messages are there")


@pytest.mark.parametrize("_", [fault("An answer with a terminal's commands", None)])
def test_a_terminals_commands(chat, outcome, _):
    out, errors = chat(fake_conversation("\x1b", "]0;title\x07\x1b[2", "J\u202eabc\x9b"), "Hello", "/load \x1b[2J")
    assert out == "]0;title[2Jabc\n" and not re.search("[\x1b\x07\x9b\u202e]", errors)
    outcome(out, "the text is shown without control characters")
