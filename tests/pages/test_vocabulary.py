"""The field's terms stand in the pages, documents and helpers, and none of the words of vocabulary.toml."""

import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import prose

TERMS = tomllib.loads(Path(__file__).with_name("vocabulary.toml").read_text(encoding="utf-8"))["term"]
PATHS = [*prose.PAGES, *prose.DOCUMENTS, *prose.MODULES]


def hits(place: str, text: str) -> Iterator[str]:
    """Yield each of our terms in the text that no exception covers, with its place and the words around it."""
    page = place.partition("[")[0]
    for term in TERMS:
        allowed = [one for one in term.get("except", []) if fnmatch(page, one.get("page", "*"))]
        spans = [found.span() for one in allowed for found in re.finditer(one.get("phrase", "(?s:.+)"), text, re.I)]
        for found in re.finditer(term["ours"], text, re.IGNORECASE | re.MULTILINE):
            if not any(start < found.end() and found.start() < end for start, end in spans):
                around = " ".join(text[max(0, found.start() - 40) : found.end() + 40].split())
                yield f"{place}: {found[0]!r}, write {term['field']!r}: …{around}…"


def all_hits() -> list[str]:
    """Return every hit in the pages, documents and helpers."""
    return [
        f"{hit}  ({kind})" for path in PATHS for place, kind, text in prose.pieces(path) for hit in hits(place, text)
    ]


def test_the_fields_terms_are_used():
    found = all_hits()
    assert not found, "\n".join([f"{len(found)} hits:", *found])


def test_a_word_counts_only_where_it_is_ours():
    assert list(hits("README.md", "The forms of weights.")) and list(
        hits("README.md", "The model reads the whole prompt.")
    )
    ordinary = [
        "Time to read: 5 minutes",
        "a form with two fields",
        "a product, step by step",
        "quotation marks",
        "as a whole",
    ]
    assert not [hit for text in ordinary for hit in hits("README.md", text)]


def test_each_exception_has_a_reason_and_is_needed_where_it_names_a_page():
    for term in TERMS:
        for one in term.get("except", []):
            assert one["reason"] and ("phrase" in one or "page" in one), one
            paths = [path for path in PATHS if fnmatch(path.relative_to(prose.ROOT).as_posix(), one.get("page", "*"))]
            texts = [text for path in paths for _, _, text in prose.pieces(path)]
            used = any(re.search(one.get("phrase", term["ours"]), text, re.IGNORECASE) for text in texts)
            assert used or "page" not in one, f"nothing needs this exception any more: {one}"
