"""Input that several test files generate, and the plainest form of what they compare with."""

import json
import re
from html.parser import HTMLParser

from hypothesis import strategies as st

# What stands at the edges of chat templates, the special tokens of both models, and white space that Python and the
# tokenizers treat differently.
FRAGMENTS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|user|>", "<|end|>", "<|assistant|>", "<|system|>"]
FRAGMENTS += ["</s>", "<|", "|>", "<", ">", "|", "end", "im_end", "user\n", "\n", "  ", " ", "\t", "\x1c", "\x85"]
FRAGMENTS += ["\u2003", "\0", "0", "Hello", "wor", "ld", "é", "e\u0301", "日本", "👩\u200d🚀", "\0" + "0\0"]
FRAGMENTS += ["{{ messages }}", "{% raw %}"]
# What means something in Markdown.
BITS = ["[", "](", ")", "<", ">", "`", "```", "\n", "\n\n", "|", "---", "*", "_", "~~", "#", "!", "&", ";", ":", '"']
BITS += ["'", "javascript:", "https://x.yz", "<img src=x onerror=y>", "<script>", "<!--", "-->", "    ", "\\"]
BITS += ["- ", "1. ", "> "]

PLAIN = {"p", "br", "hr", "em", "strong", "del", "code", "blockquote", "ul", "li", "h3", "h4", "h5", "h6"}
PLAIN |= {"table", "thead", "tbody", "tr"}
ALLOWED = {tag: {} for tag in PLAIN} | {
    "a": {"href": r"(?:https?://|mailto:)[!-~]+", "target": "_blank", "rel": "noopener noreferrer"},
    "ol": {"start": "[0-9]{1,9}"},
    "pre": {"class": "highlight"},
    "div": {"class": "code", "data-language": r"[\w+#.*/() -]*"},
    "button": {"type": "button", "class": "copy", "aria-label": "Copy code"},
    "details": {},
    "summary": {},
    "li": {"class": "task"},
    "span": {"class": "[a-z]{1,2}[a-z0-9]?"},  # Pygments' short names of kinds of tokens
    "th": {"style": "text-align:(?:left|center|right)"},
    "td": {"style": "text-align:(?:left|center|right)"},
}
# MathML: no element or attribute that loads, links, or sets a style.
MATHML = "math mrow mi mn mo mtext mspace mstyle mpadded mphantom menclose mfrac msqrt mroot msub msup msubsup munder"
MATHML += " mover munderover mmultiscripts mprescripts none mtable mtr mtd"
FORMAL = "display displaystyle scriptlevel mathvariant stretchy fence largeop movablelimits accent accentunder"
FORMAL += (
    " linethickness columnalign notation form lspace rspace width height depth minsize maxsize separator symmetric"
)
ALLOWED |= {tag: dict.fromkeys(FORMAL.split(), r"[\w .+-]{1,40}") for tag in MATHML.split()}

# JSON that no reader of ours may trust, as bytes: some of it is none, and the rest has an unexpected shape.
NOT_JSON = [
    b"",
    b"{",
    b'{"a"',
    b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}",
    b"<html>log in</html>",
    b'{"a": "\xff"}',
    b"{}{}",
]
NOT_JSON += [
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"a": NaN}',
    b'{"a": -Infinity}',
    b'{"a": 1e999}',
    b'{"a": 1' + b"0" * 300,
]
NOT_JSON += [b'{"a": 1%s}' % (b"0" * zeros) for zeros in (300, 5000)]
NOT_OBJECTS = [b"[]", b"null", b"5", b'"text"', b"true", b"[{}]"]
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=3), inside, max_size=3),
    max_leaves=6,
)


@st.composite
def reshaped(draw, sound):
    """Return a copy of `sound`, made of dicts and lists, with something unexpected in one place."""
    place = draw(st.integers(-1, len(sound) - 1)) if isinstance(sound, dict | list) and sound else -1
    if place < 0:
        return draw(ANY_JSON)
    copy, key = json.loads(json.dumps(sound)), [*sound][place] if isinstance(sound, dict) else place
    if draw(st.integers(0, 4)) == 0:
        del copy[key]
    else:
        copy[key] = draw(reshaped(sound[key]))
    return copy


class Found(HTMLParser):
    """What is in `html`: start tags with their attributes, the text, and what must not be there."""

    def __init__(self, html: str):
        super().__init__()
        self.tags, self.words, self.forbidden = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        rules = ALLOWED.get(tag)
        if rules is None or len(attrs) != len(dict(attrs)):
            self.forbidden.append((tag, attrs))
        else:
            self.forbidden += [
                (tag, name, value)
                for name, value in attrs
                if name not in rules or not re.fullmatch(rules[name], value or "", re.IGNORECASE)
            ]

    def handle_data(self, data):
        self.words.append(data)

    def handle_comment(self, data):
        self.forbidden.append(("comment", data))

    handle_decl = unknown_decl = handle_pi = handle_comment

    @property
    def text(self) -> str:
        return "".join(self.words).strip()


def cut(text: str, stop: list[str]) -> str:
    """Return `text` up to the stop string that is complete first, found character by character."""
    for end in range(len(text) + 1):
        if ended := [word for word in stop if text[:end].endswith(word)]:
            return text[: end - len(max(ended, key=len))]
    return text
