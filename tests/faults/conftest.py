"""Shared by the tests of faults: each fault has a name and one outcome, and docs/faults.md lists them.

    pytest tests/faults --write-table

writes that table.  With -m or -k, the rows of faults that do not run stay as they are.
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
from helpers.files import MANIFEST
from helpers.lesson import ABSOLUTE_PATH
from helpers.settings import Settings

WEEKLY = pytest.StashKey[set]()  # names of those that only `nox -s weekly` runs
FAULTS = pytest.StashKey[dict]()  # name -> title of its group, for all that were collected
SEEN = pytest.StashKey[dict]()  # name -> Row
ALL_FILES = pytest.StashKey[bool]()  # whether all files of this suite were collected


def pytest_addoption(parser):
    parser.addoption("--write-table", action="store_true", help="write docs/faults.md from what this run has seen")


def pytest_configure(config):
    config.stash[FAULTS], config.stash[SEEN], config.stash[WEEKLY] = {}, {}, set()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Collect the faults before -m or -k leave some out."""
    for item in items:
        if marker := item.get_closest_marker("fault"):
            (name,) = marker.args
            assert name not in config.stash[FAULTS], f"two faults are called {name!r}"
            config.stash[FAULTS][name] = item.module.__doc__.split(":")[0]
            if item.get_closest_marker("weekly"):
                config.stash[WEEKLY].add(name)
    config.stash[ALL_FILES] = {item.path for item in items} >= set(Path(__file__).parent.glob("test_*.py"))
    if config.getoption("write_table", default=False) and not config.stash[ALL_FILES]:
        raise pytest.UsageError("--write-table needs the folder tests/faults; choose tests with -m or -k")


def pytest_sessionfinish(session):
    if session.config.getoption("write_table", default=False):
        stored = read_table() if TABLE.exists() else {}
        faults, seen = session.config.stash[FAULTS], session.config.stash[SEEN]
        write_table({name: seen.get(name) or stored[name] for name in faults if name in seen or name in stored}, faults)


@pytest.fixture
def outcome(request) -> Callable:
    """outcome(message, after, code=None) records what the reader saw, what is left, and a command's exit code.

    Fails for an empty message and for a traceback.
    """
    (name,) = request.node.get_closest_marker("fault").args
    noted = []

    def record(message: str, after: str, code: int | None = None) -> None:
        assert message.strip(), "no message"
        assert "Traceback" not in message and "Exception from src/" not in message, message
        noted.append(Row(name, in_a_line(message), "" if code is None else str(code), after))

    yield record
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
    """Return `said` on one line, without what differs between machines and runs: folders, ports, hashes, frames."""
    said = re.sub(r"[╭╮╰╯│─]+|Usage: .*|Try '.*' for help\.", " ", said)
    said = ABSOLUTE_PATH.sub("…/", said)
    said = re.sub(r"(127\.0\.0\.1:|port=)\d+", r"\1…", said)
    said = re.sub(r"(hash|expected) [0-9a-f]{12}…", r"\1 …", said)
    said = re.sub(r"\b(line|column|char) \d+", r"\1 …", said)
    said = re.sub(r"(free disk space;) [\d.]+ GiB", r"\1 … GiB", said)
    return " ".join(said.split())


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    errors: str  # stderr


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path) -> Callable[..., Ran]:
    """cli("ask", …) runs `python -m helpers ask …` with an empty model root; in this process, for speed."""
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
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def own(exported, settings, tmp_path) -> Settings:
    """Settings of a copy of the tiny model and its export, to be damaged."""
    root = tmp_path / "model"
    for folder in ("checkpoint", "int4"):
        shutil.copytree(exported.folder.with_name(folder), root / settings.model / folder)
    return replace(settings, model_root=str(root))


def kill_family(process: subprocess.Popen) -> None:
    """Kill a process and its children with SIGKILL."""
    family = psutil.Process(process.pid)
    for member in [family, *family.children(recursive=True)]:
        member.kill()
    psutil.wait_procs([family], timeout=30)


def state_of(folder: Path) -> dict[str, bytes]:
    """Return the content of each file in a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def downloaded(folder: Path) -> dict[str, bytes]:
    """Return the files of a repository or checkpoint that a download consists of."""
    return {name: data for name, data in state_of(folder).items() if name != MANIFEST and not name.endswith(".py")}


@pytest.fixture
def room(checkpoint, tmp_path) -> Settings:
    """Settings of a model root with the tiny checkpoint, and without an export."""
    choice = Settings(model_root=str(tmp_path / "model"))
    choice.checkpoint_dir.parent.mkdir(parents=True)
    choice.checkpoint_dir.symlink_to(checkpoint, target_is_directory=True)
    return choice
