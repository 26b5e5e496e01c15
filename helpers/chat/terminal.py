"""The chat in a terminal: a Conversation, line by line."""

from __future__ import annotations

import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers.chat.degenerate import describe_degeneration
from helpers.errors import TutorialError

HELP = """\
/regenerate    answer the last message once more
/clear         begin anew
/save FILE     write the conversation as JSON; /load FILE goes on with it
/export FILE   write it as Markdown, to read
/bye           end, as Ctrl-D does, and Ctrl-C at the prompt; while an answer is written, Ctrl-C stops it
A message that begins with / needs a space before it."""
# A model's words may have them, or a file's, and a terminal would obey: colours, titles, a cleared screen.
CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def run(conversation) -> None:
    """Read lines until /bye or the end of the input, and answer each; a problem is a sentence, and the chat goes on."""
    with suppress(ImportError):
        import readline  # noqa: F401  arrow keys and history at the prompt, where Python has it
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # an old console cannot write every character, and need not end the chat
    watched = sys.stdin.isatty()
    if watched:
        _note("Ctrl-C stops an answer, /help lists the commands, /bye ends.")
    with suppress(EOFError, KeyboardInterrupt):
        while (line := input("\n> " if watched else "")).strip() != "/bye":
            _do(conversation, line)
        return
    print(end="\n" if watched else "")  # the shell's prompt gets a line of its own


def _do(conversation, line: str) -> None:
    try:
        if line.startswith("/"):
            _command(conversation, *line[1:].split(maxsplit=1))
        elif line.strip():
            _answer(conversation, conversation.say(line.strip()))
    except TutorialError as error:
        _note(str(error))
    except RuntimeError as error:  # OpenVINO's, in the midst of an answer
        _note(f"The answer ended with an error: {error}")


def _note(text: str) -> None:
    """What is not the answer goes to stderr, so that the answers can be piped on."""
    print(CONTROLS.sub("", text), file=sys.stderr, flush=True)


def _command(conversation, name: str = "", argument: str = "") -> None:
    file = Path(argument.strip()).expanduser()
    if name in ("save", "load", "export") and not argument.strip():
        raise TutorialError(f"/{name} needs a file.", f"Type /{name} and a name, such as /{name} talk.json.")
    match name:
        case "regenerate":
            _answer(conversation, conversation.regenerate())
        case "clear":
            conversation.clear()
            _note("All is forgotten.")
        case "save":
            conversation.save(file)
            _note(f"Saved to {file}.")
        case "load":
            conversation.load(file)
            _note(f"{len(conversation.messages)} messages are loaded.")
        case "export":
            try:
                file.write_text(conversation.markdown(), encoding="utf-8")
            except OSError as error:  # a folder of that name, or none
                raise TutorialError(f"{file} cannot be written: {error.strerror}.", "Choose another name.") from error
            _note(f"Written to {file}.")
        case "help":
            _note(HELP)
        case _:
            raise TutorialError(f"There is no command /{name}.", HELP)


def _answer(conversation, coming: Iterator[str]) -> None:
    """Print the pieces of an answer as they come, then what it cost."""
    truncated_messages = conversation.truncated_messages
    with _interrupt_stops(conversation):
        try:
            for piece in coming:
                print(CONTROLS.sub("", piece), end="", flush=True)
        finally:
            print(flush=True)
    if conversation.truncated_messages > truncated_messages:
        _note(f"[The context is full: the first {conversation.truncated_messages} messages are no longer read.]")
    answer = conversation.messages[-1]
    _note(f"[{stats_line(answer.figures)}]")
    if warning := describe_degeneration(answer.content, [step.id for step in answer.steps]):
        _note(f"[{warning}]")


@contextmanager
def _interrupt_stops(conversation) -> Iterator[None]:
    """While the block runs, Ctrl-C stops the answer after its next token; a second Ctrl-C ends the program."""

    def stop(*_) -> None:
        conversation.stop()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def stats_line(figures) -> str:
    """What an answer cost, in one line."""
    parts = [f"prompt {figures.prompt_tokens:,} tokens, {figures.cached_tokens:,} of them from the cache"]
    if figures.ttft_ms is not None:
        parts.append(f"first token {figures.ttft_ms / 1000:.2f} s")
    parts.append(f"{figures.answer_tokens:,} written")
    if figures.tpot_ms:
        parts.append(f"{1000 / figures.tpot_ms:.0f} tokens/s")
    parts.append(f"context {figures.context_tokens:,} of {figures.context_length:,}")
    ends = {"stopped": "stopped", "budget": "cut by the budget", "context": "cut by the end of the context"}
    if figures.finish_reason in ends:
        parts.append(ends[figures.finish_reason])
    return " · ".join(parts)
