"""Messages → prompt ids: only the chat template produces control tokens, never the content of a message."""

import ctypes
import json
import re
import secrets
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import lru_cache
from itertools import count
from threading import Lock, Thread

from helpers.errors import TutorialError

ROLES = ("system", "user", "assistant")
TEMPLATE_SECONDS = 10.0  # a template comes with the model, and may loop for hours
TEMPLATE_CHARACTERS = 1_000_000  # that a template may write, plus ten for each character in the messages
Messages = list[dict[str, str]]  # each with "role" and "content"


def prompt_ids(tok, messages: Messages, add_generation_prompt: bool = True, thinking: bool | None = None) -> list[int]:
    """Return the ids of `messages` in the format of the tokenizer's chat template.

    They are those of tok.apply_chat_template, except that control tokens in the content of a message become ordinary
    text.  `thinking` turns thinking on or off if the template supports it (thinking_variable); None: its default.
    Raises TutorialError for messages or a template that cannot be used.
    """
    masked, reveal = _render_masked(tok, messages, add_generation_prompt, thinking)
    twin, renamed = twin_tokenizer(tok)
    text = "".join(renamed.get(piece, piece) for piece in _split(masked, renamed))
    return _encode(twin, text.translate(reveal))


def text_ids(tok, text: str) -> list[int]:
    """Return the ids of `text` as part of a message: control tokens typed in it are ordinary text."""
    return _encode(twin_tokenizer(tok)[0], text)


def _encode(tokenizer, text: str) -> list[int]:
    """Return the ids of `text`, as a batch of one: encode() would hold Python's GIL and so block a server."""
    return tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids


def control_tokens(tok) -> frozenset[str]:
    """Return the added tokens that give a prompt its structure: special ones, and those that the chat template writes.

    Others, such as Gemma's <table>, are ordinary text that has an id of its own.
    """
    return _control_tokens(tok, _template_source(tok))


@lru_cache(maxsize=8)
def _control_tokens(tok, source: str) -> frozenset[str]:
    written = source
    for roles in (["user"], ["user", "assistant"], ["system", "user"]):
        with suppress(TutorialError):  # a template may refuse a role
            written += _render(tok, [{"role": role, "content": " "} for role in roles], True)
    added = [token for token in tok.added_tokens_decoder.values() if token.content.strip()]
    return frozenset(token.content for token in added if token.special or token.content in written)


def twin_tokenizer(tok):
    """Return a tokenizers.Tokenizer like `tok` whose control tokens have secret names, and {name: secret name}.

    A control token that somebody typed is then ordinary text; those of the template are renamed before encoding.
    """
    return _twin_tokenizer(tok, control_tokens(tok))


@lru_cache(maxsize=8)
def _twin_tokenizer(tok, control: frozenset[str]):
    from tokenizers import Tokenizer

    config, secret, renamed = json.loads(tok.backend_tokenizer.to_str()), secrets.token_hex(8), {}
    for token in config["added_tokens"]:
        if token["content"] in control:
            renamed[token["content"]] = token["content"] = f"\ue000{secret}{token['id']:x}\ue001"
    model = config["model"]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        model["vocab"] = {renamed.get(text, text): index for text, index in vocabulary.items()}
    elif vocabulary:  # unigram
        model["vocab"] = [[renamed.get(text, text), score] for text, score in vocabulary]
    if model.get("unk_token") in renamed:
        model["unk_token"] = renamed[model["unk_token"]]
    config |= {"truncation": None, "padding": None, "post_processor": None}
    return Tokenizer.from_str(json.dumps(config)), renamed


def _split(text: str, tokens: Collection[str]) -> list[str]:
    """Return `text` in pieces: `tokens`, and the text between them."""
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if tokens else [text]


def _render_masked(tok, messages: Messages, ask: bool, thinking: bool | None) -> tuple[str, dict[int, str]]:
    """Return the rendered prompt with typed control tokens masked, and the table that restores them.

    In the content of the messages, each character that can begin a control token is replaced with a private-use one, so
    that only the template's control tokens remain: masked.translate(reveal) is the prompt.  Some templates look for
    tags such as </think> in an answer; for those, the tags are not masked.
    """
    _check_messages(tok, messages)
    prompt, source = _render(tok, messages, ask, thinking), _template_source(tok)
    used = set(prompt + source)
    free = (chr(n) for n in count(0xF0000) if chr(n) not in used)
    hide = {ord(first): next(free) for first in sorted({token.lstrip()[0] for token in control_tokens(tok)})}
    reveal = {ord(private): chr(first) for first, private in hide.items()}
    special = {token.content for token in tok.added_tokens_decoder.values() if token.special}
    tags = sorted({*re.findall(r"</?\w+>|\[/?\w+\]", source)} - special)
    for kept in ([], [tag for tag in tags if "think" in tag.lower()], tags):
        contents = [
            _translate(message["content"], hide, kept if message["role"] == "assistant" else []) for message in messages
        ]
        masked = _render(tok, _with_contents(messages, contents), ask, thinking)
        if masked.translate(reveal) == prompt:
            return masked, reveal
    hint = f"Remove it from the message. Control tokens: {' '.join(sorted(control_tokens(tok))[:12])}"
    raise TutorialError("This model's chat template changes a message because of a control token in it.", hint)


def _translate(text: str, hide: dict[int, str], kept: list[str]) -> str:
    return "".join(piece if piece in kept else piece.translate(hide) for piece in _split(text, kept))


def _with_contents(messages: Messages, contents: list[str]) -> Messages:
    return [{"role": message["role"], "content": text} for message, text in zip(messages, contents, strict=True)]


def _template_source(tok) -> str:
    template = tok.chat_template or ""
    return template if isinstance(template, str) else "\n".join(template.values())


def thinking_variable(tok) -> str | None:
    """Return the name of the variable with which the chat template turns thinking on and off, or None."""
    found = re.search(
        r"\{%-?\s*(?:if|elif|set)\b[^%]*?(?<![.\w'\"])(enable_thinking|thinking)\b", _template_source(tok)
    )
    return found[1] if found else None


def thinks_by_default(tok) -> bool | None:
    """Return whether the chat template turns thinking on by default; None if it has no switch, or fails."""
    question = [{"role": "user", "content": "?"}]
    with suppress(TutorialError):  # if the template fails, prompt_ids() says so when a message is sent
        if thinking_variable(tok):
            return _render(tok, question, True) == _render(tok, question, True, True)
    return None


def omitted_messages(tok, messages: Messages) -> list[int]:
    """Return the indices of the messages that the chat template leaves out, as some do with the system message."""
    placeholders = _with_contents(messages, [f"\0{number}\0" for number in range(len(messages))])
    with suppress(TutorialError):  # if the template refuses them, prompt_ids() says so
        text = _render(tok, placeholders, add_generation_prompt=True)
        return [number for number in range(len(messages)) if f"\0{number}\0" not in text]
    return []


def has_system_role(tok) -> bool:
    """Return whether the chat template uses a system message; some refuse it, others leave it out."""
    with suppress(TutorialError):
        return "\0" in _render(tok, [{"role": "system", "content": "\0"}, {"role": "user", "content": "?"}], True)
    return False


def _render(tok, messages: Messages, add_generation_prompt: bool, thinking: bool | None = None) -> str:
    from jinja2 import TemplateError, TemplateSyntaxError

    variable = None if thinking is None else thinking_variable(tok)
    options = {"add_generation_prompt": add_generation_prompt} | ({variable: thinking} if variable else {})
    plain = _with_contents(messages, [message["content"] for message in messages])
    try:
        text = _with_time_limit(lambda: tok.apply_chat_template(plain, tokenize=False, **options))
    except TemplateSyntaxError as error:
        hint = "Get the model's files again. If python -m helpers made its folder: delete it, then export again."
        raise TutorialError(f"The model's chat template is damaged: {error}", hint) from error
    except TemplateError as error:
        hint = "Most templates require user and assistant to alternate, and allow a system message only at the start."
        raise TutorialError(f"The model's chat template refuses these messages: {error}", hint) from error
    except Exception as error:  # a template can raise anything
        problem = str(error) or type(error).__name__
        raise TutorialError(f"The model's chat template fails: {problem}", "Choose a different model.") from error
    if len(text) > TEMPLATE_CHARACTERS + 10 * sum(len(message["content"]) for message in messages):
        problem = f"The model's chat template produces {len(text):,} characters from these messages."
        raise TutorialError(problem, "Choose a different model.")
    return text


def _with_time_limit(render: Callable[[], str]) -> str:
    """Return what `render` returns.  Raises TimeoutError after TEMPLATE_SECONDS.

    The thread that calls `render` then ends at its next Python bytecode.
    """
    outcome, lock, running = Future[str](), Lock(), [True]

    def run() -> None:
        try:
            outcome.set_result(render())
        except BaseException as error:
            outcome.set_exception(error)
        finally:
            with lock:
                running.clear()

    thread = Thread(target=run, daemon=True)
    thread.start()
    if not wait([outcome], TEMPLATE_SECONDS).done:
        with lock:  # of a thread that has ended, a new one may have the ident
            if running:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        raise TimeoutError(f"it did not end within {TEMPLATE_SECONDS:.0f} s.")
    return outcome.result()


def _check_messages(tok, messages: Messages) -> None:
    if not tok.chat_template:
        raise TutorialError("This tokenizer has no chat template.", "Choose an instruct model; it is trained to chat.")
    if not messages:
        raise TutorialError("There are no messages.", 'Use at least [{"role": "user", "content": "Hello"}].')
    for number, message in enumerate(messages):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES:
            raise TutorialError(f"Message {number} has the role {role!r}.", f"Use {', '.join(ROLES)}.")
        if not isinstance(content, str) or re.search("[\ud800-\udfff]", content):  # lone surrogates
            raise TutorialError(f"The content of message {number} is not text: {content!r}.", "Use a string.")
