"""Disks: full, limited, read-only, or not a place for a folder."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tiny import half_made

from faults.conftest import state_of
from faults.table import fault
from helpers import export
from helpers.checkpoint.fetch import fetch
from helpers.errors import TutorialError
from helpers.files import atomic_directory
from helpers.settings import ROOT, Settings, load, save

# A process that may write no file above argv[1] bytes: what a quota does, and a FAT32 disk with 4 GB.
LIMITED = """
import json, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), -1))
from pathlib import Path
from helpers import catalog, export
from helpers.checkpoint.fetch import fetch
from helpers.errors import TutorialError
try:
    {}
except TutorialError as error:
    sys.exit(str(error))
"""
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit for a process")


def limited(limit: int, work: str, *argv: str) -> subprocess.CompletedProcess:
    code = [sys.executable, "-c", LIMITED.format(work), str(limit), *argv]
    return subprocess.run(code, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=300)


@POSIX
@pytest.mark.slow
@pytest.mark.fault("A checkpoint larger than a file may be (FAT32, a quota)")
def test_a_checkpoint_with_a_file_that_is_too_large(outcome, tiny, index, tmp_path):
    target = tmp_path / "checkpoint"
    work = "fetch(catalog.Model(**json.loads(sys.argv[2])), Path(sys.argv[3]))"
    ran = limited(1_000_000, work, json.dumps(asdict(tiny.entry)), str(target))
    assert ran.returncode == 1 and "larger than one may be" in ran.stderr, ran.stderr
    assert half_made(tmp_path) == []
    fetch(tiny.entry, target, report=lambda _: None)
    outcome(ran.stderr, "nothing is left; the next run works", 1)


@POSIX
@pytest.mark.slow
@pytest.mark.fault("An export larger than a file may be (FAT32, a quota)")
def test_an_export_with_a_file_that_is_too_large(outcome, own, tmp_path):
    target = own.model_dir.with_name("int8")
    argv = [*export.command(own, ("--weight-format", "int8"))[:-1], str(target)]
    ran = limited(300_000, "export.run(json.loads(sys.argv[2]))", json.dumps(argv))
    assert ran.returncode == 1, "OpenVINO's stream has one word for both"
    assert "larger than one may be" in ran.stderr or "disk filled up" in ran.stderr, ran.stderr
    assert sorted(half_made(target.parent)) == ["checkpoint", "int4"]
    export.run(argv, report=lambda _: None)
    outcome(ran.stderr, "no export appears; the next run works", 1)


@pytest.mark.parametrize("code", [fault("A file that is larger than the disk's kind allows", errno.EFBIG)])
def test_each_limit_has_its_sentence(outcome, tmp_path, code):
    with pytest.raises(TutorialError) as caught, atomic_directory(tmp_path / "model"):
        raise OSError(code, os.strerror(code))
    assert half_made(tmp_path) == []
    outcome(str(caught.value), "nothing is left")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
@pytest.mark.fault("The settings' disk is full")
def test_settings_on_a_full_disk(outcome, tmp_path):
    file = save(Settings(device="GPU"), tmp_path / "settings.toml")
    part = file.with_name("settings.toml.part")
    part.symlink_to("/dev/full")
    with pytest.raises(TutorialError, match="disk filled up") as caught:
        save(Settings(device="NPU"), file)
    assert load(file, {}) == Settings(device="GPU")
    assert not part.is_symlink(), "what could not be written is gone, so the disk is no longer full"
    save(Settings(device="NPU"), file)
    outcome(str(caught.value), "the old settings are whole; the next run works")


@pytest.mark.parametrize(
    "name",
    [
        fault("A folder of the settings' name", "a folder"),
        fault("Settings into a folder that is not there", "nowhere/settings.toml"),
    ],
)
def test_settings_that_cannot_be_written(outcome, tmp_path, name):
    (tmp_path / "a folder").mkdir()
    with pytest.raises(TutorialError, match="cannot be written") as caught:
        save(Settings(device="NPU"), tmp_path / name)
    outcome(str(caught.value), "nothing was written")


@pytest.mark.parametrize("command", [fault("A read-only model root", "fetch"), fault("A read-only disk", "export")])
def test_a_read_only_root_is_named(cli, outcome, read_only, command):
    ran = cli(command, TUTORIAL_MODEL_ROOT=str(read_only))
    assert ran.code == 1
    assert "TUTORIAL_MODEL_ROOT" in ran.said
    assert list(read_only.iterdir()) == []
    outcome(ran.said, "nothing was written", 1)


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Let nobody write into the folder, for a while: by permissions, or for root, whom they do not hold, by a mount."""
    inside = [folder, *(path for path in folder.rglob("*") if path.is_dir())]
    if os.geteuid():
        for path in inside:
            path.chmod(0o555)
    else:
        subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    try:
        yield
    finally:
        if os.geteuid():
            for path in inside:
                path.chmod(0o755)
        else:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that even root cannot write to takes Linux")
@pytest.mark.fault("A prepared model in a folder that cannot be written to")
def test_a_prepared_model_answers_from_a_read_only_folder(cli, outcome, own):
    root = Path(own.model_root)
    before = state_of(root)
    with closed(root):
        options = "--max-new-tokens", "2", "--format", "int4"
        answered = cli("ask", "Why?", *options, TUTORIAL_MODEL_ROOT=own.model_root)
        there = cli("fetch", TUTORIAL_MODEL_ROOT=own.model_root)
        refused = cli("export", "--format", "int8", TUTORIAL_MODEL_ROOT=own.model_root)
    assert answered.code == 0, answered.said
    assert there.code == 0, "what is there is taken"
    assert refused.code == 1 and "cannot be written to" in refused.said
    assert state_of(root) == before
    outcome(refused.said, "ask answers; only what is not there yet is refused", 1)


@pytest.mark.fault("A checkpoint that needs more disk than there is")
def test_too_small_a_disk_is_named_before_any_byte_moves(outcome, tiny, tmp_path):
    with pytest.raises(TutorialError, match="GiB of free disk") as caught:
        fetch(replace(tiny.entry, checkpoint_gib=1e6), tmp_path / "checkpoint", report=lambda _: None)
    assert list(tmp_path.iterdir()) == []
    outcome(str(caught.value), "nothing was made")
