"""Disks: full, limited or read-only."""

import errno
import json
import os
import secrets
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

# A process that may not write files larger than argv[1] bytes, as with a quota, or with 4 GB on a FAT32 disk.
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
@pytest.mark.weekly
@pytest.mark.fault("A checkpoint larger than a file may be (FAT32, a quota)")
def test_a_checkpoint_with_a_file_that_is_too_large(outcome, tiny, index, tmp_path):
    target = tmp_path / "checkpoint"
    work = "fetch(catalog.Model(**json.loads(sys.argv[2])), Path(sys.argv[3]))"
    ran = limited(1_000_000, work, json.dumps(asdict(tiny.entry)), str(target))
    assert ran.returncode == 1 and "exceeds the file size limit" in ran.stderr, ran.stderr
    assert half_made(tmp_path) == []
    fetch(tiny.entry, target, report=lambda _: None)
    outcome(ran.stderr, "no files are left; the next run works", 1)


@POSIX
@pytest.mark.weekly
@pytest.mark.fault("An export larger than a file may be (FAT32, a quota)")
def test_an_export_with_a_file_that_is_too_large(outcome, own, tmp_path):
    target = own.model_dir.with_name("int8")
    argv = [*export.command(own, ("--weight-format", "int8"))[:-1], str(target)]
    ran = limited(300_000, "export.run(json.loads(sys.argv[2]))", json.dumps(argv))
    assert ran.returncode == 1, "OpenVINO reports both in the same way"
    assert "exceeds the file size limit" in ran.stderr or "disk filled up" in ran.stderr, ran.stderr
    assert sorted(half_made(target.parent)) == ["checkpoint", "int4"]
    export.run(argv, report=lambda _: None)
    outcome(ran.stderr, "no export is left; the next run works", 1)


@pytest.mark.parametrize("code", [fault("A file that is larger than the file system allows", errno.EFBIG)])
def test_a_limit_on_the_size_of_a_file(outcome, tmp_path, code):
    with pytest.raises(TutorialError) as caught, atomic_directory(tmp_path / "model"):
        raise OSError(code, os.strerror(code))
    assert half_made(tmp_path) == []
    outcome(str(caught.value), "no files are left")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
@pytest.mark.fault("The disk of settings.toml is full")
def test_settings_on_a_full_disk(outcome, tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0")
    file = save(Settings(device="GPU"), tmp_path / "settings.toml")
    part = file.with_name("settings.toml.0.part")
    part.symlink_to("/dev/full")
    with pytest.raises(TutorialError, match="disk filled up") as caught:
        save(Settings(device="NPU"), file)
    assert load(file, {}) == Settings(device="GPU")
    assert not part.is_symlink(), "the unfinished file is removed"
    save(Settings(device="NPU"), file)
    outcome(str(caught.value), "the old settings are kept; the next run works")


@pytest.mark.parametrize(
    "name",
    [
        fault("A folder with the name of the settings file", "a folder"),
        fault("Settings in a folder that does not exist", "nowhere/settings.toml"),
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
    assert "TUTORIAL_MODEL_ROOT" in ran.errors
    assert list(read_only.iterdir()) == []
    outcome(ran.errors, "nothing was written", 1)


@contextmanager
def closed(folder: Path) -> Iterator[None]:
    """Make the folder read-only for the block: by permissions or, because root ignores those, by a mount."""
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


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that root cannot write to needs Linux")
@pytest.mark.fault("A prepared model in a read-only folder")
def test_a_prepared_model_answers_from_a_read_only_folder(cli, outcome, own):
    root = Path(own.model_root)
    before = state_of(root)
    with closed(root):
        options = "--max-new-tokens", "2", "--format", "int4"
        answered = cli("ask", "Why?", *options, TUTORIAL_MODEL_ROOT=own.model_root)
        fetched = cli("fetch", TUTORIAL_MODEL_ROOT=own.model_root)
        refused = cli("export", "--format", "int8", TUTORIAL_MODEL_ROOT=own.model_root)
    assert answered.code == 0, answered.errors
    assert fetched.code == 0, "what exists is used"
    assert refused.code == 1 and "cannot be written to" in refused.errors
    assert state_of(root) == before
    outcome(refused.errors, "ask and fetch work; only a new export is refused", 1)


@pytest.mark.fault("A checkpoint that needs more disk space than is free")
def test_too_little_disk_space_is_an_error_before_the_download(outcome, tiny, tmp_path):
    with pytest.raises(TutorialError, match="GiB of free disk") as caught:
        fetch(replace(tiny.entry, checkpoint_gib=1e6), tmp_path / "checkpoint", report=lambda _: None)
    assert list(tmp_path.iterdir()) == []
    outcome(str(caught.value), "nothing was created")
