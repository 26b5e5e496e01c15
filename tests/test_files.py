"""Folders that are complete or absent, the manifest of their files, and errors of the operating system."""

import errno
import hashlib
import io
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import openvino
import pytest
from hypothesis import example, given
from openvino import opset13 as ops
from safetensors.numpy import save_file
from strategies import NOT_JSON, NOT_OBJECTS, reshaped
from tiny import half_made

from helpers.errors import TutorialError
from helpers.files import (
    MALFORMED,
    MANIFEST,
    ProgressLine,
    _rename,
    atomic_directory,
    atomic_write_text,
    check_hash,
    damaged_error,
    existing_parent,
    find_damaged,
    os,
    parse_json,
    read_json,
    read_manifest,
    read_shards,
    require_disk_space,
    reuse,
    time,
    write_manifest,
)
from helpers.settings import ROOT

# Builds the folder argv[1], but stops half-way and goes on when it is told to.
BUILD = """
import subprocess
import sys
from pathlib import Path
from helpers.files import atomic_directory
with atomic_directory(Path(sys.argv[1])) as part:
    if part is None:
        sys.exit("it was there")
    (part / "first").touch()
    print("half-way")
    sys.stdin.readline()
    (part / "second").touch()
"""


def names(folder):
    return {file.name for file in folder.iterdir()}


def build(target):
    with atomic_directory(target) as part:
        (part / "first").touch()
        (part / "second").touch()
    assert names(target) == {"first", "second"}
    assert half_made(target.parent) == [target.name]
    return True


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_folder_is_absent_after_a_failure_and_the_next_run_makes_it(tmp_path, failure):
    with pytest.raises(failure), atomic_directory(tmp_path / "deep" / "model") as part:
        (part / "first").touch()
        assert not (tmp_path / "deep" / "model").exists()
        raise failure
    assert half_made(tmp_path / "deep") == []
    assert build(tmp_path / "deep" / "model")


def test_a_folder_is_absent_after_a_kill_and_the_next_run_cleans_up(tmp_path, start):
    maker = start("-c", BUILD, str(tmp_path / "model"))
    assert maker.stdout.readline() == "half-way\n"
    maker.kill()
    maker.wait()
    assert len(half_made(tmp_path)) == 1 and not (tmp_path / "model").exists()
    assert build(tmp_path / "model")


def test_of_two_processes_one_makes_the_folder_and_the_other_waits(tmp_path, start):
    first = start("-c", BUILD, str(tmp_path / "model"))
    assert first.stdout.readline() == "half-way\n"
    second = start("-c", BUILD, str(tmp_path / "model"))
    assert second.stdout.readline() == "Another process is creating model; waiting for it.\n"
    assert second.poll() is None
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.wait() == 0
    assert second.communicate()[1] == "it was there\n"
    assert names(tmp_path / "model") == {"first", "second"}


def test_a_waiting_process_takes_over_after_a_kill(tmp_path, start):
    first = start("-c", BUILD, str(tmp_path / "model"))
    assert first.stdout.readline() == "half-way\n"
    second = start("-c", BUILD, str(tmp_path / "model"))
    second.stdout.readline()
    first.kill()
    assert second.communicate("\n")[0] == "half-way\n"
    assert half_made(tmp_path) == ["model"] and names(tmp_path / "model") == {"first", "second"}


SECOND_USER = """
import os, sys
from contextlib import suppress
from pathlib import Path
from helpers.files import atomic_directory
target = Path(sys.argv[1])
os.umask(0o077)
with suppress(KeyError), atomic_directory(target):
    raise KeyError
for folder in target.parents[:-2]:
    folder.chmod(0o755)
target.parent.chmod(int(sys.argv[2], 8))
os.seteuid(65534)
with atomic_directory(target) as part:
    (part / "of the second user").touch()
"""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid(), reason="only root can be two users")
@pytest.mark.parametrize("mode", ["777", "1777"])
def test_a_second_user_of_a_shared_root_can_take_the_lock(tmp_path, mode):
    argv = [sys.executable, "-c", SECOND_USER, str(tmp_path / "shared" / "model"), mode]
    ran = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert names(tmp_path / "shared" / "model") == {"of the second user"}


def test_a_folder_that_exists_is_never_touched(read_only):
    with atomic_directory(read_only) as part:
        assert part is None
    assert names(read_only) == set()


def test_an_unfinished_folder_is_as_readable_as_any_other(tmp_path):
    """A prepared folder may be shared.  mkdtemp makes private ones, and Windows keeps that through chmod and rename."""
    (tmp_path / "any").mkdir()
    for at in ("a", "b"):
        with atomic_directory(tmp_path / at) as part:
            assert part.stat().st_mode == (tmp_path / "any").stat().st_mode
            assert re.fullmatch(r"\w\.part-[0-9a-f]{8}", part.name)
        assert (tmp_path / at).stat().st_mode == (tmp_path / "any").stat().st_mode


def test_with_keep_the_next_run_gets_the_unfinished_folder(tmp_path):
    for round in (1, 2):
        with suppress(ValueError), atomic_directory(tmp_path / "model", keep=True) as part:
            assert (part / "first").exists() == (round == 2)
            (part / "first").touch()
            if round == 1:
                raise ValueError
    assert half_made(tmp_path) == ["model"]


def test_what_killed_processes_left_is_removed_where_possible(tmp_path):
    (tmp_path / "model.part-dead" / "deep").mkdir(parents=True)
    (tmp_path / "model.part-file").touch()  # no folder, so it cannot be removed as one
    with atomic_directory(tmp_path / "model") as part:
        assert names(tmp_path) == {part.name, "model.part-file", ".model.lock"}
        assert part.name.startswith("model.part-")
    assert (tmp_path / "model").is_dir()


FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors
    RuntimeError("basic_ios::clear: iostream error"),  # OpenVINO
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_is_recognized_from_every_library(tmp_path, error):
    sentence = pytest.raises(TutorialError, match="disk filled up.*\nFree some space")
    with sentence as caught, atomic_directory(tmp_path / "model"):
        raise error
    assert caught.value.__cause__ is error
    assert half_made(tmp_path) == []


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(OSError, match="too long"), atomic_directory(tmp_path / "model"):
        raise OSError(errno.ENAMETOOLONG, "too long")


def test_a_disk_that_really_fills_up_is_named_and_left_clean(small_disk):
    with pytest.raises(TutorialError, match="disk filled up"), atomic_directory(small_disk / "model") as part:
        (part / "weights").write_bytes(bytes(2**21))
    assert half_made(small_disk) == []
    assert build(small_disk / "model")


def test_a_read_only_folder_is_named_with_a_hint(read_only):
    with pytest.raises(TutorialError, match="cannot be written to(?s:.*)TUTORIAL_MODEL_ROOT"):
        build(read_only / "model")


def test_a_file_with_a_different_hash_is_refused(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"words")
    check_hash(file, hashlib.sha256(b"words").hexdigest())
    check_hash(file, hashlib.sha1(b"words").hexdigest(), "sha1")
    with pytest.raises(TutorialError, match="weights is not the published file: it has 5 bytes"):
        check_hash(file, hashlib.sha256(b"other").hexdigest())


@pytest.fixture
def folder(tmp_path):
    """A file of each format that shows whether it is complete, and some of formats that do not."""
    folder = tmp_path / "made"
    folder.mkdir()
    table = ops.constant(np.ones((8, 4), np.float32))
    ids = ops.parameter([1], np.int64)
    graph = openvino.Model([ops.gather(table, ids, ops.constant(0, np.int64))], [ids], "tiny")
    openvino.save_model(graph, folder / "graph.xml", compress_to_fp16=False)
    save_file({"a": np.ones(3, np.float32), "b": np.ones(5)}, folder / "w.safetensors", {"format": "np"})
    save_file({}, folder / "none.safetensors")
    (folder / "no constants.xml").write_text("<net></net>\n")
    (folder / "no constants.bin").touch()
    (folder / "config.json").write_text('{"é": 1}', encoding="utf-8")
    (folder / "alone.bin").touch()
    (folder / "LICENSE").touch()
    return folder


def change(file):
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])


def test_a_manifest_has_the_facts_and_the_size_and_hash_of_each_file(folder):
    files = {
        file.name: {"bytes": len(file.read_bytes()), "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        for file in folder.iterdir()
    }
    for seconds in (1.5, 2):
        write_manifest(folder, command=["é"], seconds=seconds)
        assert read_manifest(folder) == {"files": files, "command": ["é"], "seconds": seconds}


def test_a_folder_with_a_manifest_is_compared_with_it(folder):
    write_manifest(folder)
    assert find_damaged(folder, ["config.json"], hashes=True) == {}
    change(folder / "w.safetensors")
    assert find_damaged(folder, ["config.json"]) == {}
    (folder / "LICENSE").write_bytes(b"longer")
    (folder / "graph.xml").unlink()
    (folder / "graph.xml").mkdir()
    (folder / "of the reader.json").touch()
    wrong = {"LICENSE": "of a different size", "graph.xml": "missing", "gone": "missing"}
    assert find_damaged(folder, ["gone"]) == wrong
    assert find_damaged(folder, ["gone"], hashes=True) == wrong | {"w.safetensors": "changed"}
    assert find_damaged(folder, ["of the reader.json"])["of the reader.json"].startswith("not a JSON object")


@pytest.mark.parametrize("name", ["graph.xml", "graph.bin", "w.safetensors", "none.safetensors", "config.json"])
def test_without_a_manifest_each_format_shows_that_its_end_is_missing(folder, name):
    needed = ["graph.xml", "no constants.xml", "w.safetensors", "none.safetensors", "config.json", "alone.bin"]
    assert find_damaged(folder, needed) == {}
    content = (folder / name).read_bytes()
    end = len(content.rstrip())
    for left in {0, 5, 8, end // 2, end - 1} & set(range(end)):
        (folder / name).write_bytes(content[:left])
        wrong = "not a JSON object in plain UTF-8" if name == "config.json" else "incomplete"
        assert find_damaged(folder, needed) == {name: wrong}, left


@pytest.mark.parametrize(
    "name, data",
    [
        ("trainer_state.json", b'{"loss": NaN}'),
        ("modules.json", b"[1]"),
        ("pytorch_model.bin.index.json", b'{"weight_map": {"a": "pytorch_model.bin"}}'),
        ("scaler.bin", b""),
        ("optimizer.safetensors", b"?"),
        ("drawing.xml", b"<svg/>"),
    ],
)
def test_a_file_that_is_not_needed_may_have_any_content(folder, name, data):
    (folder / name).write_bytes(data)
    assert find_damaged(folder, ["config.json"]) == {}
    assert reuse(folder, "./made", ["config.json"], "export", lambda _: None) == folder
    assert find_damaged(folder, ["config.json"], hashes=True) == {}


@pytest.mark.parametrize("listed", [False, True])
def test_a_configuration_that_selects_other_weights_is_unsafe(folder, listed):
    """Also where a manifest came with the files."""
    (folder / "config.json").write_text('{"transformers_weights": "x.safetensors.index.json"}', encoding="utf-8")
    if listed:
        write_manifest(folder)
    unsafe = {"config.json": "unsafe: its transformers_weights can select a pickle"}
    assert find_damaged(folder, ["config.json"]) == find_damaged(folder, ["config.json"], hashes=True) == unsafe
    (folder / "config.json").write_text('{"transformers_weights": null}', encoding="utf-8")
    (folder / MANIFEST).unlink(missing_ok=True)
    assert find_damaged(folder, ["config.json"]) == {}


def weights(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


ENTRY = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}


@pytest.mark.parametrize("header", [*NOT_JSON, *NOT_OBJECTS, b'{"a": 1}', b'{"a": {"data_offsets": [0, null]}}'])
def test_weights_with_a_header_of_another_kind_are_malformed(folder, header):
    (folder / "w.safetensors").write_bytes(weights(header))
    assert find_damaged(folder, ["w.safetensors", "gone"]) == {"w.safetensors": "malformed", "gone": "missing"}


@given(header=reshaped(ENTRY))
def test_no_header_of_weights_is_too_strange(tmp_path_factory, header):
    folder = tmp_path_factory.getbasetemp() / "strange"
    folder.mkdir(exist_ok=True)
    (folder / "w.safetensors").write_bytes(weights(json.dumps(header).encode()) + bytes(4))
    wrong = find_damaged(folder, ["w.safetensors"])
    assert set(wrong.values()) <= {"malformed", "incomplete"}
    assert isinstance(header, dict) or wrong == {"w.safetensors": "malformed"}


@pytest.mark.parametrize("content", [*NOT_JSON, *NOT_OBJECTS])
def test_what_is_no_json_object_is_damaged_and_named(folder, content):
    (folder / "config.json").write_bytes(content)
    assert find_damaged(folder, ["config.json"]) == {"config.json": "not a JSON object in plain UTF-8"}
    with pytest.raises(TutorialError, match="made is damaged: config.json is not a JSON object in plain UTF-8"):
        read_json(folder / "config.json")
    with pytest.raises(ValueError):
        parse_json(content)


def test_a_json_file_of_any_size_is_refused_unread(folder, monkeypatch):
    with (folder / "config.json").open("ab") as file:
        file.truncate(2**40)  # without its bytes on the disk
    with pytest.raises(TutorialError, match="config.json is not a JSON object"):
        read_json(folder / "config.json")


def test_json_is_read_as_it_was_written():
    values = {"model_max_length": int(1e30), "eps": 1e-5, "é": [None, True, -1, "\ud83d", {"a": {}}]}
    assert parse_json(json.dumps(values).encode()) == values


SHARDS = {"metadata": {"total_size": 8}, "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}


@given(index=reshaped(SHARDS))
@example(index=SHARDS)
@example(index={"weight_map": {}})
@example(index={"weight_map": {"a": "../../one.safetensors"}})
@example(index={"weight_map": {"a": "C:/one.safetensors", "b": 5}})
@example(index={"weight_map": {"a": "one.safetensors", "b": "pytorch_model.bin"}})
@example(index={"weight_map": {"a": "..\\one.safetensors"}})
@example(index={"weight_map": {"a": "C:one.safetensors"}})
def test_an_index_lists_files_of_its_folder_or_is_malformed(tmp_path_factory, index):
    file = tmp_path_factory.getbasetemp() / "index" / "model.safetensors.index.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(index), encoding="utf-8")
    wrong = find_damaged(file.parent, [])
    try:
        names = read_shards(file)
    except (TutorialError, *MALFORMED):
        assert wrong[file.name] in ("malformed", "not a JSON object in plain UTF-8")
    else:
        assert wrong == {} and names
        assert all(name.endswith(".safetensors") and not {*name} & {*"/\\:"} for name in names)


NOTED = {
    "files": {"a.bin": {"bytes": 3, "sha256": "ff"}},
    "command": ["optimum-cli", "--model", "x", "y"],
    "seconds": 1.5,
}


@given(manifest=reshaped(NOTED))
def test_no_manifest_is_too_strange(tmp_path_factory, manifest):
    folder = tmp_path_factory.getbasetemp() / "noted"
    folder.mkdir(exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    assert read_manifest(folder) in (manifest, {})
    assert set(find_damaged(folder, ["a.bin"]).values()) == {"missing"}


def test_where_no_folder_is_everything_is_missing(folder):
    assert find_damaged(folder / "nowhere", ["a", "b"]) == {"a": "missing", "b": "missing"}
    assert find_damaged(folder / "LICENSE", ["a"]) == {"a": "missing"}


UNUSABLE = ["", "{", "[]", "null", '"x"', '{"files": []}', '{"files": {"a": 1}}', '{"files": {"a": {"bytes": "1"}}}']
UNUSABLE += ["[" * 100_000, '{"files": {"config.json": {"bytes": 8}}}', "{}"]


@pytest.mark.parametrize("text", [*UNUSABLE, b"\xff", None])
def test_a_manifest_that_cannot_be_used_is_replaced_if_the_files_are_complete(folder, text):
    if text is not None:
        (folder / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert read_manifest(folder) == {}
    said = []
    assert reuse(folder, "./made", ["config.json"], "export", said.append) == folder
    assert said == [
        f"./made had no valid {MANIFEST}. Its files are complete, so one was written.",
        "./made is complete; skipping export.",
    ]
    assert read_manifest(folder)["adopted"] is True
    assert reuse(folder, "./made", ["config.json"], "export", said.append) == folder and len(said) == 3
    change(folder / "w.safetensors")
    assert find_damaged(folder, [], hashes=True) == {"w.safetensors": "changed"}


def test_a_damaged_folder_is_an_error_and_stays_as_it_is(folder):
    (folder / "w.safetensors").write_bytes(b"\xff")
    before = names(folder)
    with pytest.raises(TutorialError) as caught:
        reuse(folder, "./made", ["gone", "w.safetensors"], "export", print)
    assert caught.value.message == "./made is damaged: gone is missing, w.safetensors is incomplete."
    assert caught.value.hint == "Delete that folder, then run this again." and names(folder) == before
    assert damaged_error("x", {}, "make it").hint == "Delete that folder, then: make it"


def test_a_read_only_folder_is_used_without_a_manifest(folder, monkeypatch):
    said = []
    monkeypatch.setattr(Path, "write_text", refuse)
    reuse(folder, "./made", ["config.json"], "export", said.append)
    assert said == ["./made is complete; skipping export."] and not (folder / MANIFEST).exists()


def refuse(*_, **__):
    raise OSError(errno.EROFS, "Read-only file system")


def test_too_small_a_disk_is_an_error_before_anything_is_made(tmp_path):
    require_disk_space(tmp_path / "not" / "there", 0)
    with pytest.raises(TutorialError, match="needs 1000000.0 GiB of free disk space; "):
        require_disk_space(tmp_path / "not" / "there", 1e6)
    assert names(tmp_path) == set()
    assert existing_parent(tmp_path / "not" / "there") == existing_parent(tmp_path) == tmp_path


class Log(io.StringIO):
    """A stream whose reader sees only what was flushed."""

    seen = ""

    def flush(self):
        self.seen = self.getvalue()


class Terminal(Log):
    def isatty(self):
        return True


def lines(monkeypatch, stream, *, notebook=False):
    """What a reader sees after each call."""
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    if notebook:
        monkeypatch.setitem(sys.modules, "ipykernel", None)
    monkeypatch.setattr(sys, "stdout", stream)
    line, seen = ProgressLine(), []
    for call, text in [(line.update, "1 of 20"), (line.update, "short"), (line.finish, "done"), (line.update, "more")]:
        call(text)
        seen.append(stream.seen)
        stream.seen = ""
        stream.truncate(0), stream.seek(0)
    return seen


def test_a_live_line_overwrites_itself_in_a_terminal_and_in_a_notebook(monkeypatch):
    moving = ["\r1 of 20", "\rshort  ", "\rdone \n", "\rmore"]
    assert lines(monkeypatch, Terminal()) == moving == lines(monkeypatch, Log(), notebook=True)


def test_a_live_line_is_silent_in_a_log_until_it_ends(monkeypatch):
    assert lines(monkeypatch, Log()) == ["", "", "done\n", ""]


def test_windows_is_given_time_to_let_go_of_a_file(tmp_path, monkeypatch):
    tries = []

    def held_at_first(part, target):
        tries.append(part)
        if len(tries) < 3:
            raise PermissionError(errno.EACCES, "a scanner reads it")
        part.rename(target)

    monkeypatch.setattr(os, "name", "nt")
    monkeypatch.setattr(os, "replace", held_at_first)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    part = tmp_path / "part"
    part.mkdir()
    _rename(part, tmp_path / "model")
    assert len(tries) == 3 and (tmp_path / "model").is_dir()


@pytest.mark.parametrize("system", ["nt", "posix"])
def test_a_file_that_stays_locked_is_an_error_after_retries_on_windows_and_at_once_elsewhere(monkeypatch, system):
    tries, waits = [], []

    def held(part, target):
        tries.append(part)
        raise PermissionError(errno.EACCES, "a scanner reads it")

    part, target = object(), object()
    with monkeypatch.context() as patch:  # ends before pytest sees the error: it asks for the system's name too
        patch.setattr(os, "name", system)
        patch.setattr(os, "replace", held)
        patch.setattr(time, "sleep", waits.append)
        with pytest.raises(PermissionError):
            _rename(part, target)
    assert len(tries) == len(waits) + 1 and (len(tries) > 2) == (system == "nt")
    assert all(wait > 0 for wait in waits)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    for path in (Path("."), tmp_path / "taken", tmp_path / "nowhere" / "file"):
        with pytest.raises(TutorialError):
            atomic_write_text(path, "text")
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]


def test_writers_of_the_same_file_at_the_same_time_each_write_it_whole(tmp_path):
    """A box and a terminal may keep the same conversation."""
    path, texts = tmp_path / "chat.json", [str(n) * 200_000 for n in range(8)]
    with ThreadPoolExecutor(len(texts)) as pool:
        list(pool.map(partial(atomic_write_text, path), texts * 4))
    assert path.read_text(encoding="utf-8") in texts
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory to itself")
def test_freed_memory_goes_back_to_the_system():
    code = """
import ctypes, psutil
from helpers.chat.answer import trim_malloc
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(60_000) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, 60_000)
for block in blocks[:-1]:  # the last one keeps the end of the heap in use
    libc.free(block)
before = psutil.Process().memory_info().rss
trim_malloc()
print((before - psutil.Process().memory_info().rss) // 2**20)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert int(ran.stdout) > 80


def test_hidden_files_are_not_of_the_model(folder):
    """The Finder writes .DS_Store whenever it likes, and ._* beside each file that it copies to an exFAT disk."""
    for name in ("._config.json", "._w.safetensors", ".DS_Store"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    assert find_damaged(folder, ["config.json"]) == {}
    write_manifest(folder)
    (folder / ".DS_Store").write_bytes(b"")
    assert find_damaged(folder, ["config.json"], hashes=True) == {}


def test_a_disk_without_permissions_takes_a_folder(tmp_path, monkeypatch):
    """FAT and many network drives refuse chmod."""

    def refused(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refused)
    assert build(tmp_path / "model")


def test_a_name_that_the_disk_does_not_allow_is_a_sentence(tmp_path):
    """Windows says so of quotes in a path: set TUTORIAL_MODEL_ROOT="D:\\models"."""
    with pytest.raises(TutorialError, match="TUTORIAL_MODEL_ROOT"), atomic_directory(tmp_path / "model"):
        raise OSError(errno.EINVAL, "Invalid argument")
