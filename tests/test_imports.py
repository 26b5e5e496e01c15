"""Imports between the folders of helpers/ run one way, and nothing heavy is loaded where it is not used."""

import ast
import subprocess
import sys

import pytest

from helpers.settings import ROOT

# Each may import those before it.
ROAD = [
    "errors",
    "files",
    "catalog",
    "shapes",
    "settings",
    "checkpoint",
    "export",
    "load",
    "tokenize",
    "generate",
    "decode",
    "chat",
]
ALLOWED = (
    {name: set(ROAD[:place]) for place, name in enumerate(ROAD)}
    | {
        "lesson": {"errors"},
        "settings_form": {*ROAD[: ROAD.index("export")], "load"},
        "metrics": {*ROAD[: ROAD.index("checkpoint")], "load", "generate"},
        "checks": {*ROAD[: ROAD.index("chat")], "metrics"},
        "show": {"errors", "decode", "generate"},  # data types
        "serve": {*ROAD[: ROAD.index("generate")], "decode"},
        "__main__": {*ROAD, "checks", "serve"},
        "__init__": set(),
    }
)


def room(module: str) -> str:
    """Return the folder or file right below helpers/ that a dotted name belongs to."""
    return [*module.split("."), "__init__"][1]


def imported(path) -> set[str]:
    """Return the names of all modules of helpers that a file imports, inside of functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {
                f"{node.module}.{alias.name}" if node.module == "helpers" else node.module for alias in node.names
            }
    return {name for name in found if name and name.startswith("helpers")}


def test_imports_run_one_way():
    wrong = []
    for path in sorted((ROOT / "helpers").rglob("*.py")):
        here = room(".".join(path.relative_to(ROOT).with_suffix("").parts))
        allowed = ALLOWED[here] | {here}
        wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in imported(path) if room(name) not in allowed]
    assert wrong == []


@pytest.mark.parametrize(
    "module, absent",
    [
        ("helpers.chat.box", ["matplotlib", "torch", "transformers", "optimum", "openvino"]),
        ("helpers.chat.remote", ["matplotlib", "torch", "transformers", "openvino", "ipywidgets"]),
        ("helpers.chat.terminal", ["matplotlib", "torch", "transformers", "ipywidgets", "mistune"]),
        ("helpers.__main__", ["matplotlib", "torch", "transformers", "openvino", "numpy", "ray", "fastapi"]),
    ],
)
def test_what_is_not_used_is_not_loaded(module, absent):
    absent = [*absent, "helpers.checks", "helpers.export", "helpers.show"]
    code = f"import sys, {module}; print([name for name in {absent!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr
