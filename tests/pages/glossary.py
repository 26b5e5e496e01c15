"""Write docs/glossary.md from the Glossary sections of the pages: `python tests/pages/glossary.py`."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import nbformat
from prose import PAGES, ROOT

TARGET = ROOT / "docs" / "glossary.md"
SECTION = re.compile(r"^## Glossary\n(.*?)(?=^#|\Z)", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"- (?P<head>\*\*.+?\*\*[^:]*): (?P<definition>.+)", re.DOTALL)
HEAD = """# Glossary

All terms of the pages, each with the page that introduces it. `python tests/pages/glossary.py` generates this list from
the pages' Glossary sections; to change a definition, edit its page.

"""


class Entry(NamedTuple):
    head: str  # as the page has it, as "**negative log-likelihood** (NLL)"
    definition: str
    page: str  # its stem

    @property
    def terms(self) -> list[str]:
        """The terms in bold, and an abbreviation in parentheses behind one."""
        head = self.head.replace("`", "")
        return re.findall(r"\*\*(.+?)\*\*", head) + re.findall(r"\((\w[\w-]*)\)", head)


def items(markdown: str) -> list[str]:
    """Return the list items of a page's Glossary section, each in one line."""
    sections = SECTION.findall(markdown)
    return [
        " ".join(item.split()) for item in re.split(r"^(?=\S)", "".join(sections), flags=re.MULTILINE) if item.strip()
    ]


def entries() -> Iterator[Entry]:
    """Yield the entries of all pages; raises ValueError for an item that is not `- **term**: definition.`"""
    for path in PAGES:
        cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
        for item in items("\n\n".join(cells)):
            if not (parts := ITEM.fullmatch(item)):
                raise ValueError(f"{path.stem}: not an entry of a glossary: {item}")
            yield Entry(parts["head"], parts["definition"], path.stem)


def text() -> str:
    """Return docs/glossary.md, in the order of the alphabet."""
    lines = []
    for entry in sorted(entries(), key=lambda entry: entry.terms[0].lower()):
        definition = re.sub(r"\]\((?=\d\d_\w+\.ipynb)", "](../notebooks/", entry.definition)
        lines.append(f"- {entry.head}: {definition} [{entry.page}](../notebooks/{entry.page}.ipynb)\n")
    return HEAD + "".join(lines)


def write() -> None:
    """Write docs/glossary.md."""
    TARGET.write_text(text(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
