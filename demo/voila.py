"""Voilà's configuration for `nox -s demo`: of page 07 only its chat box, large enough for a projector."""

import ast

import nbformat

STYLE = "<style>body { zoom: 1.4 } #rendered_cells { max-width: 60rem; margin: auto }</style>"
# Voilà's template asks for icons from elsewhere, which nothing here uses.  With this header a browser does not.
ONLY_FROM_HERE = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


def only_the_chat_box(_handler, notebook, cwd):
    """Keep the cell that shows the box, and those before it that define what it uses.  Voilà calls it per visitor."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    while cells and "ChatBox(" not in cells[-1].source:
        cells.pop()
    kept, wanted = [], {"ChatBox"}
    for cell in reversed(cells):
        used, bound = names(cell.source)
        if not kept or wanted & bound:
            kept, wanted = [cell, *kept], wanted - bound | used
    notebook.cells = [nbformat.v4.new_markdown_cell(STYLE), *kept]
    return notebook


def names(code: str) -> tuple[set[str], set[str]]:
    """The names that Python code uses, and those that it defines."""
    used, bound = set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name)
        elif isinstance(node, ast.FunctionDef):
            bound.add(node.name)
    return used, bound


c = get_config()  # noqa: F821  traitlets defines it
c.VoilaConfiguration.prelaunch_hook = only_the_chat_box
c.Voila.tornado_settings = {"headers": {"Content-Security-Policy": ONLY_FROM_HERE}}
c.Voila.ip = "127.0.0.1"
