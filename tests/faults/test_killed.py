"""Killed processes, and two at once: nothing that looks complete is left, and the next run works."""

import json
import os
import shutil
import subprocess
import time
from dataclasses import asdict

import psutil
import pytest
from hub import PHI3, Hub, tiny_phi3
from tiny import half_made

from faults.conftest import downloaded, kill_family, state_of
from faults.table import fault
from helpers import export
from helpers.checkpoint.fetch import fetch
from helpers.load import load_model
from helpers.settings import Settings

FETCH = """
import json, sys
from pathlib import Path
from helpers import catalog
from helpers.checkpoint.fetch import fetch
fetch(catalog.Model(**json.loads(sys.argv[1])), Path(sys.argv[2]))
"""
PHASES = ["starting", "reading the checkpoint", "tracing", "choosing each", "compressing"]


def only(folder, *names: str) -> bool:
    """Return whether these are the only folders; files beside them (locks, logs) are never taken for a model."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir()) == sorted(names)


def exporting(start, room: Settings) -> subprocess.Popen:
    return start("-m", "helpers", "export", "--format", "int4", TUTORIAL_MODEL_ROOT=room.model_root)


@pytest.mark.weekly
@pytest.mark.parametrize(
    "whom",
    [
        fault("kill -9 of an export and its children, in each phase", kill_family),
        fault("kill -9 of an export but not of its child", subprocess.Popen.kill),
    ],
)
def test_an_export_that_is_killed_in_any_phase(outcome, start, room, whom):
    """A phase is printed when it has ended."""
    orphans, before = [], state_of(room.checkpoint_dir)
    for phase in PHASES if whom is kill_family else PHASES[:3]:
        process = exporting(start, room)
        assert any(phase in line for line in process.stdout)
        orphans += psutil.Process(process.pid).children(recursive=True)
        whom(process)
        process.wait()
        assert phase == PHASES[-1] or not room.model_dir.exists(), "it looks complete"
    _, alive = psutil.wait_procs(orphans, timeout=120)
    assert not alive
    export.run(export.command(room), report=lambda _: None)
    assert only(room.model_dir.parent, "checkpoint", "int4"), "what the killed processes left is removed"
    assert {*export.EXPORT_FILES, "config.json", "tokenizer.json"} <= set(state_of(room.model_dir))
    assert state_of(room.checkpoint_dir) == before
    outcome("(none)", "no incomplete export; the next run works and removes what was left")


@pytest.mark.weekly
@pytest.mark.fault("kill -9 of a fetch from an index, at many moments")
def test_a_fetch_that_is_killed_at_any_moment(outcome, tiny, index, start, tmp_path):
    """Each time a quarter later, until one completes."""
    target, seconds, killed = tmp_path / "checkpoint", 0.3, 0
    while not target.exists():
        process = start("-c", FETCH, json.dumps(asdict(tiny.entry)), str(target))
        try:
            process.wait(seconds)
            assert process.returncode == 0, process.stderr.read()
        except subprocess.TimeoutExpired:
            kill_family(process)
            killed += 1
            assert target.exists() or len(half_made(tmp_path)) <= 1
        seconds *= 1.25
    assert killed > 5
    fetch(tiny.entry, target, report=lambda _: None)
    assert only(tmp_path, "checkpoint"), "what the killed processes left is removed"
    outcome("(none)", "no incomplete checkpoint; the next run works and removes what was left")


@pytest.mark.weekly
@pytest.mark.fault("kill -9 of a download from the hub, at many moments")
def test_a_download_from_the_hub_that_is_killed_at_any_moment(outcome, start, tmp_path, tmp_path_factory):
    repository = tiny_phi3(tmp_path_factory.getbasetemp())
    target, requests = tmp_path / PHI3.name / "checkpoint", 0
    with Hub(repository) as hub:
        environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "TUTORIAL_MODEL_ROOT": str(tmp_path)}
        while not target.exists():
            hub.asked.clear()
            process = start("-m", "helpers", "fetch", "--model", PHI3.name, **environ)
            while process.poll() is None and hub.asked.total() <= requests:
                time.sleep(0.002)
            ended = process.poll()
            process.kill()  # after one request more than the time before
            process.wait()
            assert ended in (None, 0), process.stderr.read()
            requests += 1
    assert requests > 3 and only(target.parent, "checkpoint")
    assert downloaded(target) == downloaded(repository), "assembled from many parts, byte for byte"
    outcome("(none)", "what has arrived is kept; the next run continues")


@pytest.mark.weekly
@pytest.mark.fault("Two exports of the same model at once")
def test_two_exports_at_once(outcome, start, room):
    first, second = exporting(start, room), exporting(start, room)
    said = [process.communicate(timeout=300) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    waited = [out for out, _ in said if "Another process is creating int4; waiting for it." in out]
    assert len(waited) == 1 and "skipping export" in waited[0]
    assert only(room.model_dir.parent, "checkpoint", "int4")
    lines = [line for line in waited[0].splitlines() if "int4" in line][1:]
    outcome(" ".join(lines), "one makes it, the other uses it", 0)


@pytest.mark.weekly
@pytest.mark.fault("Of two exports at once, the running one is killed")
def test_of_two_exports_the_waiting_one_takes_over(outcome, start, room):
    first = exporting(start, room)
    next(line for line in first.stdout if "reading" in line or "starting" in line)
    second = exporting(start, room)
    next(line for line in second.stdout if "waiting for it" in line)
    kill_family(first)
    out, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert "is complete" in out and only(room.model_dir.parent, "checkpoint", "int4")
    outcome("Another process is creating int4; waiting for it.", "the second makes it", 0)


@pytest.mark.weekly
@pytest.mark.fault("Two exports of different formats at once")
def test_two_formats_at_once(outcome, start, room):
    argv = [("-m", "helpers", "export", "--format", name) for name in ("int4", "int8")]
    both = [start(*words, TUTORIAL_MODEL_ROOT=room.model_root) for words in argv]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert only(room.model_dir.parent, "checkpoint", "int4", "int8")
    done = [line.partition(":")[0] for out, _ in said for line in out.splitlines() if "is complete:" in line]
    assert len(done) == 2
    outcome(". ".join(done) + ".", "both are complete", 0)


@pytest.mark.fault("The model is deleted while it answers")
def test_a_model_that_is_deleted_while_it_answers(outcome, own):
    """On POSIX an open file stays readable; on Windows it cannot be deleted."""
    from helpers.generate import generate

    model, tok, _ = load_model(own)
    steps = generate(model, tok("Why?")["input_ids"], 6, stop_ids=())
    next(steps)
    shutil.rmtree(own.model_dir, ignore_errors=os.name == "nt")
    assert len(list(steps)) == 5
    outcome("(none)", "the answer continues; the next load says that there is no export")
