"""The chat in a terminal: a Conversation, line by line."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers.chat.conversation import Answer, Conversation
from helpers.chat.messages import stats_line
from helpers.errors import TutorialError
from helpers.files import atomic_write_text

HELP = """\
/regenerate    generate the last answer again
/undo          restore what the last /regenerate or /clear removed
/clear         remove all messages
/save FILE     save the conversation as JSON; /load FILE continues it
/export FILE   write the conversation as Markdown
/bye           quit; so do Ctrl-D and, at the prompt, Ctrl-C. While an answer is generated, Ctrl-C stops it.
Put a space before a message that begins with /."""
# A model's text, or a file's, may contain control characters that a terminal obeys: colours, titles, a cleared screen.
CONTROL_CHARACTERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def run(conversation: Conversation) -> None:
    """Answer each line of stdin until /bye or its end; errors are printed, and the chat continues."""
    with suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history at the prompt, where Python has it
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a console that lacks a character should not end the chat
    interactive = sys.stdin.isatty()
    if interactive:
        _note("Ctrl-C stops an answer, /help lists the commands, /bye quits.")
    with suppress(EOFError, KeyboardInterrupt):
        while (line := input("\n> " if interactive else "")).strip() != "/bye":
            _handle(conversation, line)
        return
    print(end="\n" if interactive else "")  # so that the shell's prompt starts on a new line


def print_answer(answer: Answer) -> None:
    """Print an answer as it is generated, to stdout; then its statistics and warnings, to stderr."""
    try:
        for piece in answer:
            print(CONTROL_CHARACTERS.sub("", piece), end="", flush=True)
    finally:
        print(flush=True)
    for sentence in (stats_line(answer.stats), *answer.warnings()):
        _note(f"[{sentence}]")


def _handle(conversation: Conversation, line: str) -> None:
    try:
        if line.startswith("/"):
            _command(conversation, *line[1:].split(maxsplit=1))
        elif line.strip():
            _answer(conversation.say(line.strip()))
    except TutorialError as error:
        _note(str(error))
    except RuntimeError as error:  # OpenVINO's, while an answer is generated
        _note(f"The answer ended with an error: {error}")


def _note(text: str) -> None:
    """Print what is not an answer to stderr, so that answers can be piped."""
    print(CONTROL_CHARACTERS.sub("", text), file=sys.stderr, flush=True)


def _command(conversation: Conversation, name: str = "", argument: str = "") -> None:
    file = Path(argument.strip()).expanduser()
    if name in ("save", "load", "export") and not argument.strip():
        raise TutorialError(f"/{name} needs a file name.", f"For example: /{name} chat.json")
    match name:
        case "regenerate":
            _answer(conversation.regenerate())
        case "undo":
            conversation.undo()
            _note(f"Restored. The conversation has {len(conversation.messages)} messages.")
        case "clear":
            conversation.clear()
            _note("All messages are removed. /undo restores them.")
        case "save":
            conversation.save(file)
            _note(f"Saved to {file}.")
        case "load":
            conversation.load(file)
            _note(f"Loaded {len(conversation.messages)} messages.")
        case "export":
            atomic_write_text(file, conversation.markdown())
            _note(f"Exported to {file}.")
        case "help":
            _note(HELP)
        case _:
            raise TutorialError(f"There is no command /{name}.", HELP)


def _answer(answer: Answer) -> None:
    with _interrupt_stops(answer):
        print_answer(answer)


@contextmanager
def _interrupt_stops(answer: Answer) -> Iterator[None]:
    """While the block runs, Ctrl-C stops the answer after its next token; a second Ctrl-C ends the program."""

    def stop(*_) -> None:
        answer.stop()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
