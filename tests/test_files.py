"""Folders that are whole or absent, whatever happens to whoever builds them; errors that speak to the reader."""

import errno
import hashlib
import io
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as ops
from safetensors.numpy import save_file
from tiny import half_made

from helpers import settings
from helpers.errors import TutorialError, check_int, check_token_ids
from helpers.files import (
    ProgressLine,
    _rename,
    atomic_directory,
    atomic_write_text,
    check_hash,
    find_damaged,
    os,
    require_disk_space,
    time,
)
from helpers.lesson import expect

# Builds the folder argv[1], but stops half-way and goes on when it is told to.
BUILD = """
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
def test_a_folder_is_absent_when_its_making_fails_and_the_next_run_makes_it(tmp_path, failure):
    with pytest.raises(failure), atomic_directory(tmp_path / "deep" / "model") as part:
        (part / "first").touch()
        assert not (tmp_path / "deep" / "model").exists()
        raise failure
    assert half_made(tmp_path / "deep") == []
    assert build(tmp_path / "deep" / "model")


def test_a_folder_is_absent_when_its_maker_is_killed_and_the_next_run_clears_up(tmp_path, start):
    maker = start("-c", BUILD, str(tmp_path / "model"))
    assert maker.stdout.readline() == "half-way\n"
    maker.kill()
    maker.wait()
    assert len(half_made(tmp_path)) == 1 and not (tmp_path / "model").exists()
    assert build(tmp_path / "model")


def test_of_two_makers_one_makes_it_and_the_other_waits(tmp_path, start):
    first = start("-c", BUILD, str(tmp_path / "model"))
    assert first.stdout.readline() == "half-way\n"
    second = start("-c", BUILD, str(tmp_path / "model"))
    assert second.stdout.readline() == "Another process is making model; waiting for it.\n"
    assert second.poll() is None
    first.stdin.write("\n")
    first.stdin.flush()
    assert first.wait() == 0
    assert second.communicate()[1] == "it was there\n"
    assert names(tmp_path / "model") == {"first", "second"}


def test_one_who_waits_takes_over_when_the_maker_is_killed(tmp_path, start):
    first = start("-c", BUILD, str(tmp_path / "model"))
    assert first.stdout.readline() == "half-way\n"
    second = start("-c", BUILD, str(tmp_path / "model"))
    second.stdout.readline()
    first.kill()
    assert second.communicate("\n")[0] == "half-way\n"
    assert half_made(tmp_path) == ["model"] and names(tmp_path / "model") == {"first", "second"}


def test_a_folder_that_exists_is_never_touched(read_only):
    with atomic_directory(read_only) as part:
        assert part is None
    assert names(read_only) == set()


def test_a_kept_half_is_handed_to_the_next_run(tmp_path):
    for round in (1, 2):
        with suppress(ValueError), atomic_directory(tmp_path / "model", keep=True) as part:
            assert (part / "first").exists() == (round == 2)
            (part / "first").touch()
            if round == 1:
                raise ValueError
    assert half_made(tmp_path) == ["model"]


def test_what_dead_makers_left_goes_and_what_cannot_go_stops_nobody(tmp_path):
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
def test_every_library_s_full_disk_becomes_the_sentence(tmp_path, error):
    sentence = pytest.raises(TutorialError, match="disk filled up.*\nFree some space")
    with sentence as caught, atomic_directory(tmp_path / "model"):
        raise error
    assert caught.value.__cause__ is error
    assert half_made(tmp_path) == []


def test_another_error_stays_as_it_is(tmp_path):
    with pytest.raises(OSError, match="too long"), atomic_directory(tmp_path / "model"):
        raise OSError(errno.ENAMETOOLONG, "too long")


def test_a_disk_that_really_fills_up_is_named_and_left_clean(small_disk):
    with pytest.raises(TutorialError, match="disk filled up"), atomic_directory(small_disk / "model") as part:
        (part / "weights").write_bytes(bytes(2**21))
    assert half_made(small_disk) == []
    assert build(small_disk / "model")


def test_a_read_only_folder_is_named_with_the_way_out(read_only):
    with pytest.raises(TutorialError, match="cannot be written to(?s:.*)TUTORIAL_MODEL_ROOT"):
        build(read_only / "model")


def test_a_file_is_the_one_that_was_published_or_it_is_told_apart(tmp_path):
    file = tmp_path / "weights"
    file.write_bytes(b"words")
    check_hash(file, hashlib.sha256(b"words").hexdigest())
    check_hash(file, hashlib.sha1(b"words").hexdigest(), "sha1")
    with pytest.raises(TutorialError, match="weights is not the file that was published: 5 bytes"):
        check_hash(file, hashlib.sha256(b"other").hexdigest())


def whole_files(folder):
    """A file of each kind that shows by itself whether its end is missing, and some that do not."""
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


def test_whole_files_are_whole_and_each_that_can_tell_says_where_its_end_is_missing(tmp_path):
    whole_files(tmp_path)
    assert find_damaged(tmp_path, ["config.json"]) == {}
    for name in ("graph.xml", "graph.bin", "w.safetensors", "none.safetensors", "config.json", "no constants.xml"):
        file = tmp_path / name
        content = file.read_bytes()
        end = len(content.rstrip())
        for left in {0, 5, 8, end // 2, end - 1} & set(range(end)):
            file.write_bytes(content[:left])
            assert find_damaged(tmp_path, ["config.json"]) == {name: "cut short"}, left
        file.write_bytes(content)
    (tmp_path / "w.safetensors").write_bytes(b"\xff" * 20)
    assert find_damaged(tmp_path, ["LICENSE", "gone"]) == {"w.safetensors": "cut short", "gone": "missing"}
    assert find_damaged(tmp_path / "nowhere", ["a", "b"]) == {"a": "missing", "b": "missing"}
    assert find_damaged(tmp_path / "LICENSE", ["a"]) == {"a": "missing"}


@pytest.mark.parametrize("number", [0, 1, 2, True, np.int64(7), 10**30])
@pytest.mark.parametrize("least", [0, 1, 2])
def test_a_count_is_a_whole_number_from_the_least_on(number, least):
    if number >= least:
        found = check_int(number, "A budget", least)
        assert found == number and isinstance(found, int)
    else:
        with pytest.raises(TutorialError, match=f"A budget of {number} cannot be(?s:.*){least} or more"):
            check_int(number, "A budget", least)
    assert check_int(1, "A budget") == 1
    for other in (0, -1, 1.0, "1", None, [1]):
        with pytest.raises(TutorialError, match="cannot be"):
            check_int(other, "A budget")


def test_ids_are_whole_numbers_from_0_on():
    for ids in ([], [0], (3, 2), iter([1, 2]), np.array([5, 0]), range(3)):
        again = list(ids) if not hasattr(ids, "__next__") else [1, 2]
        found = check_token_ids(ids)
        assert found == again and all(type(index) is int for index in found)
    for ids in ([-1], [3, -1], [1.0], ["1"], "12", [[1]], None, 7):
        with pytest.raises(TutorialError, match="not ids"):
            check_token_ids(ids)


def test_need_disk_speaks_before_anything_is_made(tmp_path):
    require_disk_space(tmp_path / "not" / "there", 0)
    with pytest.raises(TutorialError, match="needs 1000000.0 GiB of free disk and has"):
        require_disk_space(tmp_path / "not" / "there", 1e6)
    assert names(tmp_path) == set()


def test_expect_requires_the_very_failure(capsys):
    with expect(ValueError, "wide"):
        raise ValueError("too wide")
    assert capsys.readouterr().out == "ValueError: too wide\n"
    with pytest.raises(AssertionError, match="should have failed"), expect(ValueError, "wide"):
        pass
    with pytest.raises(AssertionError, match="too narrow"), expect(ValueError, "wide"):
        raise ValueError("too narrow")
    with pytest.raises(KeyError), expect(ValueError, "wide"):
        raise KeyError("wide")


@pytest.mark.parametrize(
    ("said", "printed"),
    [
        ('Cannot load "/home/me/lib/python/../libs/gpu.so": no', 'Cannot load "…/gpu.so": no'),
        ("C:\\Users\\me\\model is not there", "…/model is not there"),
        ("look at https://hf.co//tmp/tmpx1/stranger.", "look at https://hf.co…/stranger."),
        ("look at https://hf.co/microsoft/phi", "look at https://hf.co/microsoft/phi"),
        ("./model/phi3/int4, src/core/core.cpp:117 and 3/4", "./model/phi3/int4, src/core/core.cpp:117 and 3/4"),
    ],
)
def test_expect_prints_no_folder_of_this_machine(capsys, said, printed):
    with expect(ValueError, "o"):
        raise ValueError(said)
    assert capsys.readouterr().out == f"ValueError: {printed}\n"


def test_an_error_is_its_sentences():
    assert str(TutorialError("What happened.", "What to do.")) == "What happened.\nWhat to do."
    assert str(TutorialError("What happened.")) == "What happened."


def test_a_notebook_shows_the_sentence_instead_of_a_traceback(capsys):
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell()
    shell.run_cell("from helpers.errors import TutorialError; raise TutorialError('What happened.', 'What to do.')")
    assert capsys.readouterr().out.strip() == "TutorialError: What happened.\nWhat to do."


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
    for call, text in [(line.update, "1 of 20"), (line.update, "short"), (line.keep, "done"), (line.update, "more")]:
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
def test_a_file_that_is_never_let_go_of_is_an_error_after_tries_on_windows_and_at_once_elsewhere(monkeypatch, system):
    tries, waits = [], []

    def held(part, target):
        tries.append(part)
        raise PermissionError(errno.EACCES, "a scanner reads it")

    part, target = Mode(), object()
    with monkeypatch.context() as patch:  # ends before pytest sees the error: it asks for the system's name too
        patch.setattr(os, "name", system)
        patch.setattr(os, "replace", held)
        patch.setattr(time, "sleep", waits.append)
        with pytest.raises(PermissionError):
            _rename(part, target)
    assert len(tries) == len(waits) + 1 and (len(tries) > 2) == (system == "nt")
    assert all(wait > 0 for wait in waits) and part.mode == 0o755, "whoever shares the folder can read it"


class Mode:
    """A folder that notes its permissions."""

    def chmod(self, mode):
        self.mode = mode


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps freed memory to itself")
def test_freed_memory_goes_back_to_the_system():
    code = """
import ctypes, psutil
from helpers.chat.conversation import trim_malloc
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
blocks = [libc.malloc(60_000) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, 60_000)
for block in blocks[:-1]:  # the last one stands in the way of the heap's end
    libc.free(block)
before = psutil.Process().memory_info().rss
give_back_memory()
print((before - psutil.Process().memory_info().rss) // 2**20)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=settings.ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert int(ran.stdout) > 80


def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    for path in (Path("."), tmp_path / "taken", tmp_path / "nowhere" / "file"):
        with pytest.raises(TutorialError):
            atomic_write_text(path, "text")
    assert [path.name for path in tmp_path.rglob("*")] == ["taken"]
