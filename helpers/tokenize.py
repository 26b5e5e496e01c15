"""Messages → prompt ids: only the chat template produces special tokens, never the content of a message."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from helpers.errors import TutorialError

ROLES = ("system", "user", "assistant")
Messages = list[dict[str, str]]  # each with "role" and "content"


def prompt_ids(tok, messages: Messages, add_generation_prompt: bool = True) -> list[int]:
    """Return the ids of `messages` in the format of the tokenizer's chat template.

    They are those of tok.apply_chat_template, except that special tokens in the content of a message become ordinary
    text.  Raises TutorialError for messages or a tokenizer that cannot be used.
    """
    return [index for index, _ in prompt_tokens(tok, messages, add_generation_prompt)]


def prompt_tokens(tok, messages: Messages, add_generation_prompt: bool = True) -> list[tuple[int, int | None]]:
    """Return each id of the prompt with its author: the number of a message, or None for the template.

    A token with characters of two authors belongs to that of its first character.
    """
    parts = template_parts(tok, messages, add_generation_prompt)
    text = "".join(part for part, _ in parts)
    authors = [author for part, author in parts for _ in part]  # of each character

    def ordinary(start: int, end: int) -> list[tuple[int, int | None]]:
        encoded = without_special_tokens(tok).encode(text[start:end], add_special_tokens=False)
        return [(index, authors[start + at]) for index, (at, _) in zip(encoded.ids, encoded.offsets, strict=True)]

    # First tokenize everything with special tokens, to find those of the template and the white space that some of
    # them absorb.  The text between two of those is then tokenized as ordinary text.
    encoded = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    special = {index for index, token in tok.added_tokens_decoder.items() if token.special}
    tokens, done = [], 0
    for index, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if index in special and authors[start] is None:
            tokens += [*ordinary(done, start), (index, None)]
            done = end
    return tokens + ordinary(done, len(text))


@lru_cache(maxsize=4)
def without_special_tokens(tok):
    """Return a tokenizers.Tokenizer that is a copy of `tok` without special tokens: it takes everything as text.

    split_special_tokens=True is not enough, because it ignores added tokens that are not special, as Phi-3's </s>.
    """
    from tokenizers import Tokenizer

    config = json.loads(tok.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(config | {"added_tokens": [], "truncation": None, "padding": None}))


def template_parts(tok, messages: Messages, add_generation_prompt: bool = True) -> list[tuple[str, int | None]]:
    """Return the rendered prompt in parts (text, author): the number of a message, or None for the template.

    The template is rendered with placeholders instead of the contents, so that no content can be taken for a part of
    it.  Raises TutorialError when the parts do not add up to the prompt that the template renders with the contents.
    """
    _check_messages(tok, messages)
    prompt = _render(tok, messages, [message["content"] for message in messages], add_generation_prompt)
    skeleton = _render(tok, messages, [f"\0{number}\0" for number in range(len(messages))], add_generation_prompt)
    pieces = re.split("\0(\\d+)\0", skeleton)  # in turns: text of the template, the number of a message
    if missing := set(range(len(messages))) - set(map(int, pieces[1::2])):
        number = min(missing)
        raise TutorialError(
            f"This model's chat template leaves out message {number}, with the role {messages[number]['role']}.",
            "Put its text into a message of the user.",
        )
    for change in (str, str.strip):  # most templates insert the content unchanged, some strip it
        contents = [change(message["content"]) for message in messages]
        parts = [(contents[int(piece)], int(piece)) if at % 2 else (piece, None) for at, piece in enumerate(pieces)]
        if "".join(text for text, _ in parts) == prompt:
            return parts
    raise TutorialError(
        "This model's chat template changes the content of a message, so that it cannot be told from the template.",
        "Use tok.apply_chat_template, and remove special tokens from the content yourself.",
    )


def _render(tok, messages: Messages, contents: list[str], add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError, TemplateSyntaxError

    changed = [{"role": message["role"], "content": text} for message, text in zip(messages, contents, strict=True)]
    try:
        return tok.apply_chat_template(changed, tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateError as error:
        if isinstance(error, TemplateSyntaxError):
            message, hint = "is damaged", "Delete the model's folder, then: python -m helpers export"
        else:
            message = "refuses these messages"
            hint = "Most require user and assistant in turns, and at most one system message, at the start."
        raise TutorialError(f"The model's chat template {message}: {error}", hint) from error


def _check_messages(tok, messages: Messages) -> None:
    if not tok.chat_template:
        raise TutorialError("This tokenizer has no chat template.", "Choose an instruct model; it is trained to chat.")
    if not messages:
        raise TutorialError("There are no messages.", 'Use at least [{"role": "user", "content": "Hello"}].')
    for number, message in enumerate(messages):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES:
            raise TutorialError(f"Message {number} has the role {role!r}.", f"Use {', '.join(ROLES)}.")
        if not isinstance(content, str) or re.search("[\ud800-\udfff]", content):  # halves of UTF-16 pairs
            raise TutorialError(f"The content of message {number} is not text: {content!r}.", "Use a string.")
