"""The glossary is up to date, and each term has one definition, on the first page that uses it."""

import re
import tomllib
from functools import cache
from pathlib import Path

import glossary
import nbformat
import prose
import pytest

ROAD = tomllib.loads(Path(__file__).with_name("vocabulary.toml").read_text(encoding="utf-8"))["road"]
ORDINARY = {term.removesuffix("s") for term in ROAD["ordinary"]}
MENTIONED = {(term.lower(), one["page"]) for one in ROAD["mentioned"] for term in one["terms"] if one["reason"]}


@cache
def source(path: Path) -> str:
    """Return the Markdown of a page without its Glossary section."""
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    return glossary.SECTION.sub("", "\n\n".join(cells))


@cache
def read(path: Path) -> str:
    """Return the prose of a page without its Glossary section."""
    return "\n".join(piece for kind, piece in prose.markdown(source(path)) if kind == "prose")


def used(term: str, text: str) -> re.Match | None:
    """Find a term in a text, or its plural; an abbreviation only as it is written."""
    words = re.escape(term).replace(r"\ ", r"[\s-]+").replace(r"\-", r"[\s-]+")
    return re.search(rf"(?<![\w-]){words}(s|es)?(?![\w-])", text, 0 if term.isupper() else re.IGNORECASE)


def owners() -> dict[str, str]:
    """Return the page that defines each term."""
    return {term.lower(): entry.page for entry in glossary.entries() for term in entry.terms}


def test_the_glossary_is_up_to_date():
    assert glossary.TARGET.read_text(encoding="utf-8") == glossary.text(), "python tests/pages/glossary.py"


def test_no_term_is_defined_twice():
    pages = {}
    for entry in glossary.entries():
        for term in entry.terms:
            pages.setdefault(term.lower().removesuffix("s"), []).append(entry.page)
    assert not {term: on for term, on in pages.items() if len(on) > 1}


def test_every_definition_is_one_sentence():
    for entry in glossary.entries():
        assert entry.definition.endswith("."), f"{entry} has no full stop"
        assert not re.search(r"[.] [A-Z*]", entry.definition), f"{entry} has more than one sentence"


def test_the_fields_terms_are_defined():
    defined = owners()
    missing = [term for term in ROAD["defined"] if not {term.lower(), f"{term.lower()}s"} & defined.keys()]
    assert not missing, f"no page's Glossary defines {missing}"


def test_no_page_uses_a_term_before_the_page_that_defines_it():
    early = []
    for term, page in owners().items():
        earlier = [path for path in prose.PAGES if path.stem < page and term.removesuffix("s") not in ORDINARY]
        for path in earlier:
            if (found := used(term, read(path))) and (term, path.stem) not in MENTIONED:
                around = " ".join(read(path)[max(0, found.start() - 40) : found.end() + 40].split())
                early.append(f"{term!r} is defined on {page}, and {path.stem} says: …{around}…")
    assert not early, "\n".join(["", *early])


def test_a_page_shows_each_of_its_terms_in_bold():
    plain = []
    for term, page in owners().items():
        (path,) = [path for path in prose.PAGES if path.stem == page]
        text = re.sub(r"`(\w+)`", r"\1", source(path))  # a term may be a name
        bold = re.findall(r"\*\*(.+?)\*\*", "\n".join(piece for _, piece in prose.markdown(text)), re.DOTALL)
        plain += [f"{page}: {term}"] if not used(term, " | ".join(bold)) else []
    assert not plain, "\n".join(["not in bold at their first use:", *plain])


@pytest.mark.parametrize(
    "item, terms, definition",
    [
        ("- **token**: one unit.\n", ["token"], "one unit."),
        ("- **time to first token** (TTFT): the\n  wait.\n", ["time to first token", "TTFT"], "the wait."),
        ("- **f32**, **f16**: formats: two.\n", ["f32", "f16"], "formats: two."),
    ],
)
def test_entries_are_read_from_a_section(item, terms, definition):
    (line,) = glossary.items(f"## Recap\n\n- no **term**: no.\n\n## Glossary\n\n{item}\n## Exercises\n\n- none")
    entry = glossary.Entry(*glossary.ITEM.fullmatch(line).groups(), "00_quickstart")
    assert (entry.terms, entry.definition) == (terms, definition)


def test_a_use_is_found_in_the_plural_and_across_lines_but_not_within_a_word():
    assert used("special token", "Special\ntokens") and used("top-k", "Top k") and used("TTFT", "The TTFT.")
    assert not used("token", "tokenizer") and not used("BOS", "bos") and not used("key", "key-value")
