"""messages → prompt ids: the template's markers become control tokens, people's words never do."""

from __future__ import annotations

import json
import re
from functools import lru_cache

from helpers.errors import TutorialError

ROLES = ("system", "user", "assistant")
Messages = list[dict[str, str]]  # each with "role" and "content"


def prompt_ids(tok, messages: Messages, add_generation_prompt: bool = True) -> list[int]:
    """The ids of `messages` in the form of the tokenizer's chat template.

    Where nobody typed a control token they are those of tok.apply_chat_template; a typed one becomes ordinary text.
    Raises TutorialError for messages or a tokenizer that cannot be used.
    """
    return [index for index, _ in prompt_tokens(tok, messages, add_generation_prompt)]


def prompt_tokens(tok, messages: Messages, add_generation_prompt: bool = True) -> list[tuple[int, int | None]]:
    """Each id of the prompt with its author: the number of a message, or None for the template.

    A token that has characters of both belongs to the author of its first.
    """
    parts = template_parts(tok, messages, add_generation_prompt)
    text = "".join(words for words, _ in parts)
    author = [number for words, number in parts for _ in words]  # of each character

    def ordinary(start: int, end: int) -> list[tuple[int, int | None]]:
        read = without_special_tokens(tok).encode(text[start:end], add_special_tokens=False)
        return [(index, author[start + at]) for index, (at, _) in zip(read.ids, read.offsets, strict=True)]

    # Everything is read with its control tokens first, but only to learn where the template's own stand, together
    # with the white space that some of them swallow.  What lies between two of those is read as ordinary text.
    read = tok(text, add_special_tokens=False, return_offsets_mapping=True)
    control = {index for index, token in tok.added_tokens_decoder.items() if token.special}
    tokens, done = [], 0
    for index, (start, end) in zip(read["input_ids"], read["offset_mapping"], strict=True):
        if index in control and author[start] is None:
            tokens += [*ordinary(done, start), (index, None)]
            done = end
    return tokens + ordinary(done, len(text))


@lru_cache(maxsize=4)
def without_special_tokens(tok):
    """A twin of the tokenizer (a tokenizers.Tokenizer) that knows no control tokens: it reads everything as text.

    split_special_tokens=True is not enough: it spares tokens that are added but not marked special, as Phi-3's </s>.
    """
    from tokenizers import Tokenizer

    recipe = json.loads(tok.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(recipe | {"added_tokens": [], "truncation": None, "padding": None}))


def template_parts(tok, messages: Messages, add_generation_prompt: bool = True) -> list[tuple[str, int | None]]:
    """The rendered prompt in pieces (text, author): the number of a message, or None for the template.

    The template is rendered with marks in place of the words, so that no words can be taken for a part of it.
    Raises TutorialError if the pieces do not add up to what the template makes of the words themselves.
    """
    _check(tok, messages)
    whole = _render(tok, messages, [message["content"] for message in messages], add_generation_prompt)
    blank = _render(tok, messages, [f"\0{number}\0" for number in range(len(messages))], add_generation_prompt)
    pieces = re.split("\0(\\d+)\0", blank)  # by turns the template's text and the number of a message
    if left_out := set(range(len(messages))) - set(map(int, pieces[1::2])):
        number = min(left_out)
        raise TutorialError(
            f"This model's chat template leaves out message {number}, of the role {messages[number]['role']}.",
            "Put its words into a message of the user's.",
        )
    for change in (str, str.strip):  # most templates insert the words as they are, some strip them
        words = [change(message["content"]) for message in messages]
        parts = [(words[int(piece)], int(piece)) if at % 2 else (piece, None) for at, piece in enumerate(pieces)]
        if "".join(text for text, _ in parts) == whole:
            return parts
    raise TutorialError(
        "This model's chat template changes the words of a message, so they cannot be told from its own.",
        "Use tok.apply_chat_template, and keep control tokens out of the words in another way.",
    )


def _render(tok, messages: Messages, contents: list[str], add_generation_prompt: bool) -> str:
    from jinja2 import TemplateError, TemplateSyntaxError

    turns = [{"role": message["role"], "content": words} for message, words in zip(messages, contents, strict=True)]
    try:
        return tok.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except TemplateSyntaxError as error:
        raise TutorialError(
            f"The model's chat template is damaged: {error}",
            "Make the model's folder again: python -m helpers export",
        ) from error
    except TemplateError as error:
        raise TutorialError(
            f"The model's chat template refuses these messages: {error}",
            "Most want user and assistant by turns, and at most one system message, the first.",
        ) from error


def _check(tok, messages: Messages) -> None:
    if not tok.chat_template:
        raise TutorialError(
            "This tokenizer has no chat template: its model was not trained to chat.", "Choose an instruct model."
        )
    if not messages:
        raise TutorialError("There are no messages.", 'The least is [{"role": "user", "content": "Hello"}].')
    for number, message in enumerate(messages):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, dict) else (None, None)
        if role not in ROLES:
            raise TutorialError(f"Message {number} has the role {role!r}.", f"Use {', '.join(ROLES)}.")
        if not isinstance(content, str) or re.search("[\ud800-\udfff]", content):  # halves of UTF-16 pairs
            raise TutorialError(f"The content of message {number} is not text: {content!r}.", "Give a whole string.")
