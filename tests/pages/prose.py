"""What a reader of a page, a document or a module reads: prose, comments, strings and names, each with its place."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from textwrap import dedent

import nbformat

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^[ >]*```(\w*)[^\n]*\n(.*?)^[ >]*```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(`+)(?!`).+?\1|\]\([^)\s]*\)|<(?!\|)/?[a-z][^>]*>|https?://\S+", re.DOTALL)
PAGES = sorted((ROOT / "notebooks").glob("*.ipynb"))
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
MODULES = sorted((ROOT / "helpers").rglob("*.py"))

Piece = tuple[str, str, str]  # the place; "prose", "comment", "string" or "name"; the text


def markdown(text: str) -> Iterator[tuple[str, str]]:
    """Yield the prose without code, links' targets and tags, and what a reader reads in the Python code in it."""
    for language, code in FENCE.findall(text):
        if language in ("python", "py"):
            yield from python(dedent(code))
    yield "prose", INLINE.sub(lambda found: "]" if found[0].startswith("]") else " … ", FENCE.sub("", text))


def python(source: str) -> Iterator[tuple[str, str]]:
    """Yield the comments, the strings and the names that `source` gives; of incomplete code, the comments."""
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
        tree = ast.parse(source)
    except (SyntaxError, tokenize.TokenError):
        yield from (("comment", line) for line in re.findall(r"#.*", source))
        return
    comments = [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]
    if comments:
        yield "comment", "\n".join(comments)
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str() as text):
                yield "string", text
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                yield "name", name.replace("_", " ")
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                yield "name", name.replace("_", " ")


@cache
def pieces(path: Path) -> list[Piece]:
    """Return everything in a file that a reader reads; the place of a cell is its page and its index."""
    name = path.relative_to(ROOT).as_posix()
    if path.suffix == ".ipynb":
        cells = nbformat.read(path, as_version=4).cells
        return [
            (f"{name}[{at}]", kind, text)
            for at, cell in enumerate(cells)
            for kind, text in (markdown if cell.cell_type == "markdown" else python)(cell.source)
        ]
    read = markdown if path.suffix == ".md" else python
    return [(name, kind, text) for kind, text in read(path.read_text(encoding="utf-8"))]
