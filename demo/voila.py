"""Voilà's configuration for `nox -s demo`: only the chat box of page 07, which fills a projector's screen."""

import ast
import os
from pathlib import Path

import nbformat
from voila.app import Voila

TITLE = "Chat with a model on this computer"
# The box takes its sizes from its width; page margins would cost a small screen several lines of the conversation.
STYLE = "<style>#rendered_cells > div { padding: 0 8px !important } .jp-OutputPrompt { display: none !important }"
STYLE += " .ovchat .frame, .ovchat-controls { margin: auto }"
STYLE += " .ovchat .view .log { height: max(8em, 100dvh - 21em) }</style>"
# Voilà's template loads icons from the internet, which nothing here uses; this header makes the browser skip them.
ONLY_FROM_HERE = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"


def only_the_chat_box(_handler, notebook, cwd):
    """Replace the cells by the statements that `box` needs, and show it.  Voilà calls this for each visitor."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    notebook.metadata["title"] = TITLE
    notebook.cells = [nbformat.v4.new_markdown_cell(STYLE), nbformat.v4.new_code_cell(needed_for("box", code))]
    return notebook


def needed_for(name: str, cells: list[str]) -> str:
    """Return the statements of `cells` that define what `name` needs, followed by `name`; found from last to first."""
    kept, wanted = [name], {name}
    for statement in reversed([statement for cell in cells for statement in ast.parse(cell).body]):
        used, bound = names(statement)
        if wanted & bound:
            kept, wanted = [ast.unparse(statement), *kept], wanted - bound | used
    return "\n".join(kept)


def names(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Return the names that a statement uses, and those that it defines."""
    used, bound = set(), set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else bound).add(node.id)
        elif isinstance(node, ast.alias):
            bound.add(node.asname or node.name)
    if isinstance(statement, ast.FunctionDef):  # names bound inside it stay there
        return used - bound, {statement.name}
    return used, bound


c = get_config()  # noqa: F821  traitlets defines it
# Our loading page takes precedence over Voilà's.
share = str(Path(__file__).parent / "share")
os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [share, os.environ.get("JUPYTER_PATH")]))
c.VoilaConfiguration.prelaunch_hook = only_the_chat_box
# Only from this machine, only with the token, and not from a web page whose host name resolves to this machine.
c.Voila.ip = "127.0.0.1"
c.Voila.auto_token = True
c.Voila.tornado_settings = {
    "headers": {"Content-Security-Policy": ONLY_FROM_HERE},
    "allow_remote_access": False,
}
# Each page has its own kernel with its own model.  Kernels share the files that are mapped into memory, the weights and
# the libraries: 244 of 779 MiB for the embedded model.  A kernel whose page is closed is shut down after this time.
c.MappingKernelManager.cull_idle_timeout = 120  # seconds
c.MappingKernelManager.cull_interval = 30
c.MappingKernelManager.cull_connected = False
# Voilà 0.5.13 opens its page without the token.  It appends a slash to this address; the & keeps it out of the token.
Voila.connection_url = property(lambda app: f"{app.display_url}&")
