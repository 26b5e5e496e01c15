"""What the faults' tests share: a fault has a name, what came of it is noted, and the table in docs/ is made of that.

    pytest tests/faults --write-table

writes docs/faults.md from what this run has seen.  With -m or -k, rows of faults that do not run stay as they are.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from faults.table import TABLE, Row, read_table, write_table
from helpers import settings as settings_module
from helpers.lesson import ABSOLUTE_PATH
from helpers.settings import Settings

FAULTS = pytest.StashKey[dict]()  # name -> title of its group, of all that were collected
SEEN = pytest.StashKey[dict]()  # name -> Row
WHOLE = pytest.StashKey[bool]()  # whether all files of this suite were collected


def pytest_addoption(parser):
    parser.addoption("--write-table", action="store_true", help="write docs/faults.md from what this run has seen")


def pytest_configure(config):
    config.stash[FAULTS], config.stash[SEEN] = {}, {}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Note all faults, before -m or -k leave some out."""
    for item in items:
        if marker := item.get_closest_marker("fault"):
            (name,) = marker.args
            assert name not in config.stash[FAULTS], f"two faults are called {name!r}"
            config.stash[FAULTS][name] = item.module.__doc__.split(":")[0]
    config.stash[WHOLE] = {item.path for item in items} >= set(Path(__file__).parent.glob("test_*.py"))
    if config.getoption("write_table", default=False) and not config.stash[WHOLE]:
        raise pytest.UsageError("--write-table takes the whole folder tests/faults; choose from it by -m or -k")


def pytest_sessionfinish(session):
    if session.config.getoption("write_table", default=False):
        stored = read_table() if TABLE.exists() else {}
        faults, seen = session.config.stash[FAULTS], session.config.stash[SEEN]
        write_table({name: seen.get(name) or stored[name] for name in faults if name in seen or name in stored}, faults)


@pytest.fixture
def outcome(request) -> Callable:
    """outcome(said, after, code=None) notes what the reader saw, what is left, and a program's exit code.

    It refuses an answer that is a bare traceback, or that has nothing to say.
    """
    (name,) = request.node.get_closest_marker("fault").args
    noted = []

    def note(said: str, after: str, code: int | None = None) -> None:
        assert said.strip(), "nothing was said"
        assert "Traceback" not in said and "Exception from src/" not in said, said
        noted.append(Row(name, in_a_line(said), "" if code is None else str(code), after))

    yield note
    if request.node.stash.get(PASSED, False):
        assert len(noted) == 1, "each fault has one outcome"
        request.config.stash[SEEN][name] = noted[0]


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


def in_a_line(said: str) -> str:
    """`said` on one line, without what is of one machine or one run: folders, ports, hashes, a frame's lines."""
    said = re.sub(r"[╭╮╰╯│─]+|Usage: .*|Try '.*' for help\.", " ", said)
    said = ABSOLUTE_PATH.sub("…/", said)
    said = re.sub(r"(127\.0\.0\.1:|port=)\d+", r"\1…", said)
    said = re.sub(r"(hash|expected) [0-9a-f]{12}…", r"\1 …", said)
    said = re.sub(r"\b(line|column|char) \d+", r"\1 …", said)
    said = re.sub(r"(free disk and has) [\d.]+ GiB", r"\1 … GiB", said)
    return " ".join(said.split())


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    said: str  # on stderr


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Callable[..., Ran]:
    """cli("ask", …) is `python -m helpers ask …`, in this process so that libraries load once; model root is empty."""
    from helpers.__main__ import main

    monkeypatch.setattr(settings_module, "load", partial(settings_module.load, tmp_path / "settings.toml"))
    monkeypatch.setenv("TUTORIAL_MODEL", "smollm2-instruct")
    monkeypatch.setenv("TUTORIAL_DEVICE", "CPU")
    monkeypatch.setenv("TUTORIAL_MODEL_ROOT", str(tmp_path / "model"))

    def run(*argv: str, typed: str = "", **environ: str) -> Ran:
        capsys.readouterr()
        with monkeypatch.context() as patch:
            for name, value in environ.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["helpers", *argv])
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8"))
            try:
                code = main()
            except SystemExit as end:
                code = end.code or 0
        out, said = capsys.readouterr()
        return Ran(code, out, said)

    return run


@pytest.fixture
def own(exported, settings, tmp_path) -> Settings:
    """Settings of a copy of the tiny model and its export, to be damaged."""
    root = tmp_path / "model"
    for folder in ("checkpoint", "int4"):
        shutil.copytree(exported.folder.with_name(folder), root / settings.model / folder)
    return replace(settings, model_root=str(root))


def kill_family(process: subprocess.Popen) -> None:
    """kill -9 for a process and its children."""
    family = psutil.Process(process.pid)
    for member in [family, *family.children(recursive=True)]:
        member.kill()
    psutil.wait_procs([family], timeout=30)


def state_of(folder: Path) -> dict[str, bytes]:
    """The files in a folder, byte for byte."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def room(checkpoint, tmp_path) -> Settings:
    """Settings of a model root that has the tiny checkpoint and no export."""
    choice = Settings(model_root=str(tmp_path / "model"))
    choice.checkpoint_dir.parent.mkdir(parents=True)
    choice.checkpoint_dir.symlink_to(checkpoint, target_is_directory=True)
    return choice
