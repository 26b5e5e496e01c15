"""The pages' own cells that show a model's words, or names from a checkpoint, with hostile ones."""

import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from payloads import PAYLOADS

from helpers import show
from helpers.errors import printable
from helpers.settings import ROOT

HOSTILE = [
    *PAYLOADS,
    "$5 or $6",
    "![](https://xss.example/a.png)",
    "a | b\n|---|---|",
    "`code` **bold** [x](https://xss.example)",
]


def run_cell(page: str, words: str, names: dict) -> str:
    """Run the only cell of a page that contains `words`, with these names; return the HTML of its last expression."""
    cells = json.loads((ROOT / "notebooks" / page).read_text(encoding="utf-8"))["cells"]
    (source,) = [s for c in cells if c["cell_type"] == "code" and words in (s := "".join(c["source"]))]
    *statements, last = re.split(r"\n(?=\S)", source)
    while last.lstrip().startswith((")", "]", "}", "|")):  # a call that ends on a line of its own
        last = f"{statements.pop()}\n{last}"
    exec("\n".join(statements), names)
    return eval(last, names).data


class Tags(HTMLParser):
    def __init__(self, html: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, sorted(name for name, _ in attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def assert_inert(html: str, text: str) -> None:
    """Assert that `text` is shown and that there is nothing but a table, which is no formula either."""
    parsed = Tags(html)
    assert {tag for tag, _ in parsed.tags} <= {"table", "tr", "th", "td"}
    assert {name for _, names in parsed.tags for name in names} <= {"class", "style"}
    assert "mathjax_ignore" in html and printable(text) in parsed.texts


@pytest.mark.parametrize("text", HOSTILE)
def test_page_09_shows_answers_as_text(text):
    results = {name: {"answers": [[0]]} for name in ("fp16", "ours", "far")}
    names = {"kl": {"ours": 0.1, "far": 0.2}, "ours": "ours", "results": results, "QUESTIONS": [text], "show": show}
    names["tok"] = SimpleNamespace(decode=lambda ids, skip: text)
    assert_inert(run_cell("09_compress.ipynb", "farthest = max(kl", names), text)


@pytest.mark.parametrize("text", HOSTILE)
def test_page_01_shows_names_of_files_as_text(text):
    file = SimpleNamespace(name=text, suffix="", stat=lambda: SimpleNamespace(st_size=1))
    folder = SimpleNamespace(iterdir=lambda: [SortedFile(file)])
    names = {"show": show, "MANIFEST": "m", "checkpoint_dir": folder}
    assert_inert(run_cell("01_export.ipynb", "files_of(checkpoint_dir)", names), text)


class SortedFile:
    """A file that sorted() takes."""

    def __init__(self, file):
        self.__dict__ |= vars(file)

    def __lt__(self, other):
        return self.name < other.name
