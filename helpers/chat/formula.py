"""LaTeX → MathML, which browsers show without a library.  Whatever the LaTeX, nothing in the MathML loads or runs."""

import html
import re
from functools import lru_cache
from xml.etree.ElementTree import Element

from latex2mathml.converter import Converter

# latex2mathml turns \href into a link and \style into a style, and it unescapes the argument of \text, so that "<img>"
# becomes an element.  We therefore serialize its tree ourselves, with only these elements and attributes.
ELEMENTS = {"math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mstyle", "mpadded", "mphantom", "menclose", "mfrac"}
ELEMENTS |= {"msqrt", "mroot", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mmultiscripts"}
ELEMENTS |= {"mprescripts", "none", "mtable", "mtr", "mtd"}
ATTRIBUTES = {"display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "largeop", "movablelimits"}
ATTRIBUTES |= {"accent", "accentunder", "linethickness", "columnalign", "notation", "form", "lspace", "rspace", "width"}
ATTRIBUTES |= {"height", "depth", "minsize", "maxsize", "separator", "symmetric"}
VALUE = re.compile(r"[\w .+-]{1,40}", re.ASCII)
DEFINES = re.compile(r"\\[a-z]*(?:def|newcommand|let|newenvironment)(?![a-z])|\\verb")  # a macro can grow without limit
BRACES = re.compile(r"(?<!\\)(?:\\\\)*([{}])")


@lru_cache(1024)  # an answer is rendered often while it grows
def to_mathml(tex: str, block: bool) -> str | None:
    """Return `tex` as MathML, inline or as a `block`; None if it is not valid LaTeX or defines macros."""
    braces = BRACES.findall(tex)
    if not tex.strip() or DEFINES.search(tex) or braces.count("{") != braces.count("}"):
        return None
    try:
        return _write(Converter(display="block" if block else "inline").convert_to_element(tex))
    except Exception:  # invalid LaTeX raises many kinds: the library's own, IndexError, RecursionError
        return None


def _write(element: Element) -> str:
    inside = _text(element.text) + "".join(_write(child) + _text(child.tail) for child in element)
    if element.tag not in ELEMENTS:
        return inside
    given = ((name, value) for name, value in element.attrib.items() if name in ATTRIBUTES and VALUE.fullmatch(value))
    attributes = "".join(f' {name}="{value}"' for name, value in given)
    return f"<{element.tag}{attributes}>{inside}</{element.tag}>"


def _text(text: str | None) -> str:
    return html.escape(html.unescape(text or ""))  # the library writes some symbols as character references
