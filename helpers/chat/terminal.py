"""The chat in a terminal: a Conversation, message by message."""

import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from select import select

from helpers.chat.answer import Answer
from helpers.chat.conversation import Conversation
from helpers.chat.history import Entry
from helpers.chat.messages import stats_line
from helpers.errors import TutorialError, printable
from helpers.files import atomic_write_text

try:
    from msvcrt import kbhit
except ImportError:  # not on Windows
    kbhit = None

HELP = """\
/regenerate    generate the last answer again; /save keeps all versions of it
/undo          restore what the last /regenerate or /clear replaced
/clear         remove all messages
/save FILE     save the conversation as JSON; /load FILE continues it
/export FILE   write the conversation as Markdown
/list          list the kept conversations; /open N continues one of them
/bye           quit; so do Ctrl-D and, at the prompt, Ctrl-C. While an answer is generated, Ctrl-C stops it.
Put a space before a message that begins with /."""
PASTE_SECONDS = 0.05  # the next line of a paste arrives within this time if the terminal does not mark pastes


def run(conversation: Conversation) -> None:
    """Answer each message from stdin until /bye or the end of input; errors are printed, and the chat continues.

    A message is a line, or, at a terminal, the lines that were pasted together.
    """
    with suppress(ImportError):
        import readline  # arrow keys and history at the prompt, where Python has it

        readline.parse_and_bind("set enable-bracketed-paste on")  # Python switches it off
    for stream in filter(None, (sys.stdin, sys.stdout, sys.stderr)):
        stream.reconfigure(errors="replace")  # a character that the console cannot encode should not end the chat
    if not (sys.stdin and sys.stdout):  # closed
        return
    interactive = sys.stdin.isatty() and sys.stderr is not None  # input() needs stderr
    if interactive:
        _note("Ctrl-C stops an answer, /help lists the commands, /bye quits.")
        if conversation.history and conversation.history.entries():
            _note("/open 1 continues the last conversation.")
    with suppress(EOFError, KeyboardInterrupt):
        while (message := _read(interactive)).strip() != "/bye":
            _handle(conversation, message)
        return
    if interactive:
        print()  # so that the shell's prompt starts on a new line


def _read(interactive: bool) -> str:
    """Return the next message.  Raises EOFError at the end of stdin."""
    try:
        if not interactive:  # input() would flush stdout, whose disk may be full
            if message := sys.stdin.readline():
                return message
            raise EOFError
        message = input("\n> ")
        with suppress(EOFError, OSError, ValueError):  # the end of stdin, or a stdin without a file descriptor
            while kbhit() if kbhit else select([sys.stdin], [], [], PASTE_SECONDS)[0]:
                message += "\n" + input()
        return message
    except OSError as error:
        raise TutorialError(f"Standard input cannot be read: {error.strerror}.") from error


def print_answer(answer: Answer) -> None:
    """Print an answer to stdout as it is generated; its thought, and then its statistics and warnings, to stderr."""
    try:
        try:
            thought = False
            for piece in answer:
                if thought and not answer.thinking:
                    _note("\n")
                thought = answer.thinking
                if thought:
                    _note(piece, end="", thought=True)
                else:
                    print(printable(piece), end="", flush=True)
        finally:
            print(end="\n" if answer.finish_reason else "", flush=True)
    except OSError as error:  # a full disk, or a pipe that nobody reads
        raise TutorialError(f"The answer cannot be printed: {error.strerror}.", "It is in the conversation.") from error
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
    except Exception as error:  # whatever it is, it ends this answer and not the chat
        _note(f"The answer ended with an error: {type(error).__name__}: {error}")


def _note(text: str, end: str = "\n", thought: bool = False) -> None:
    """Print text other than answers to stderr, so that answers can be piped; dim a thought on a terminal."""
    if sys.stderr:  # not closed
        dims = thought and sys.stderr.isatty() and (os.name != "nt" or "WT_SESSION" in os.environ)
        text = f"\x1b[2m{printable(text)}\x1b[22m" if dims else printable(text)
        with suppress(OSError):  # a full disk
            print(text, end=end, file=sys.stderr, flush=True)


def _command(conversation: Conversation, name: str = "", argument: str = "") -> None:
    file = Path(os.path.expanduser(argument.strip()))  # Path.expanduser would raise an error for an unknown user
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
        case "list":
            for number, entry in enumerate(_kept(conversation), 1):
                damaged = " (damaged)" if entry.damaged else ""
                _note(f"{number:4}  {entry.modified}  {' '.join(entry.name.split())}{damaged}")
        case "open":
            entries, number = _kept(conversation), argument.strip()
            if not re.fullmatch("[0-9]{1,6}", number) or not 1 <= int(number) <= len(entries):
                raise TutorialError("/open needs a number from the list.", "/list shows the kept conversations.")
            conversation.open(entries[int(number) - 1].name)
            _note(f"Opened {entries[int(number) - 1].name}: {len(conversation.messages)} messages.")
        case "export":
            atomic_write_text(file, conversation.markdown())
            _note(f"Exported to {file}.")
        case "help":
            _note(HELP)
        case _:
            raise TutorialError(f"There is no command /{name}.", HELP)


def _kept(conversation: Conversation) -> list[Entry]:
    if not (entries := conversation.history.entries() if conversation.history else []):
        raise TutorialError("No conversation is kept yet.", "Each is kept from its first message on.")
    return entries


def _answer(answer: Answer) -> None:
    """Print an answer.  Ctrl-C stops it after its next token; a second Ctrl-C ends the program."""

    def stop(*_) -> None:
        answer.stop()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, stop)
    try:
        print_answer(answer)
    finally:
        signal.signal(signal.SIGINT, before)
