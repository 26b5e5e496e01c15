"""checkpoint → IR: the document's command, run by the real optimum-cli on a tiny model, whole or absent."""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace

import psutil
import pytest
from conftest import half_made
from hypothesis import given
from hypothesis import strategies as st

from helpers import export
from helpers.catalog import DOCUMENT_INT4, SMOLLM2_INT4
from helpers.export import as_typed, command, diagnose, run
from helpers.plumbing import TutorialError
from helpers.settings import Settings

FILES = {f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")}
FILES |= {"openvino_config.json", "config.json", "generation_config.json", export.RECORD}
FILES |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def test_the_command_is_the_document_s_with_our_folders():
    assert as_typed(command(Settings(model="phi3-instruct"))) == (
        "optimum-cli export openvino --model ./model/phi3-instruct/checkpoint --task text-generation-with-past "
        "--weight-format int4 --group-size 128 --ratio 0.6 --sym ./model/phi3-instruct/int4"
    )


def test_flags_that_are_given_replace_the_catalog_s():
    argv = command(Settings(), ("--weight-format", "int8"))
    assert argv[5:] == [
        "--task",
        "text-generation-with-past",
        "--weight-format",
        "int8",
        "./model/smollm2-instruct/int4",
    ]


@pytest.mark.skipif(os.name == "nt", reason="the law of POSIX shells")
@given(argv=st.lists(st.text(st.characters(exclude_characters="\0"))))
def test_what_is_typed_is_what_is_run(argv):
    assert shlex.split(as_typed(argv)) == argv


def test_windows_gets_its_own_quotes(monkeypatch):
    monkeypatch.setattr(export.os, "name", "nt")
    assert as_typed(["optimum-cli", "C:\\my models\\int4"]) == 'optimum-cli "C:\\my models\\int4"'


# What optimum-cli 2.1 really wrote, shortened.
GROUP_SIZE = """
nncf.errors.InvalidGroupSizeError: Failed to apply group-wise quantization with group size value 128.
Ensure that the group size is divisible by the channel size, or consider setting `group_size_fallback_mode` to IGNORE or ADJUST. Failed nodes:
	"__module.model.layers.0.self_attn.q_proj/ov_ext::linear/MatMul" (channel size: 576)
	"__module.model.layers.0.mlp.up_proj/ov_ext::linear/MatMul" (channel size: 576)
"""  # noqa: E501
OFFLINE = """
huggingface_hub.errors.OfflineModeIsEnabled: Cannot reach http://127.0.0.1:9/api/models/org/model/revision/main: offline mode is enabled.
huggingface_hub.errors.LocalEntryNotFoundError: Cannot find an appropriate cached snapshot folder for the specified revision
"""  # noqa: E501
NOT_ON_THE_HUB = """
huggingface_hub.errors.RepositoryNotFoundError: 404 Client Error. (Request ID: Root=1-65)
Repository Not Found for url: https://huggingface.co/api/models/org/model.
"""
NOT_A_NAME = """
huggingface_hub.errors.HFValidationError: Repo id must be in the form 'repo_name' or 'namespace/repo_name': './model/x'.
"""
COPYING = "OSError: [Errno 28] No space left on device: '/tmp/a/openvino_model.bin' -> '/models/openvino_model.bin'"
NO_MEMORY = "RuntimeError: [enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"
NO_MEMORY_WINDOWS = "RuntimeError: [enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: not enough memory:"


@pytest.mark.parametrize(
    "code, log, what, cure",
    [
        (
            1,
            GROUP_SIZE,
            r"group size of 128 does not divide .* \(576\)",
            "--group-size 64, .*--group-size-fallback adjust",
        ),
        (-9, "", "ran out of memory", "Close other programs"),
        (137, "", "ran out of memory", "Close other programs"),
        (1, NO_MEMORY, "ran out of memory", "Close other programs"),
        (1, NO_MEMORY_WINDOWS, "ran out of memory", "Close other programs"),
        (1, "MemoryError: bad allocation", "ran out of memory", "Close other programs"),
        (1, COPYING, "disk filled up while writing .*int4", "Free some space"),
        (1, "RuntimeError: basic_ios::clear: iostream error", "disk filled up while writing .*int4", "Free some space"),
        (1, "httpx.ConnectError: [Errno 111] Connection refused", "hub cannot be reached", "helpers fetch"),
        (1, "httpx.ProxyError: 403 Forbidden", "hub cannot be reached", "HTTPS_PROXY"),
        (1, OFFLINE, "hub cannot be reached", "HF_ENDPOINT"),
        (1, NOT_ON_THE_HUB, "no model org/model", "Check the spelling"),
        (1, NOT_A_NAME, "no model org/model", "helpers fetch"),
        (
            2,
            "one\ntwo\nthree\nValueError: four",
            "code 2:\ntwo\nthree\nValueError: four",
            "whole log: my models/int4.log",
        ),
        (0, "", "did not write all of .*openvino_tokenizer.xml", "disk full"),
    ],
)
def test_each_known_failure_gets_its_sentence_and_cure(code, log, what, cure):
    argv = ["optimum-cli", "export", "openvino", "--model", "org/model", *DOCUMENT_INT4, "my models/int4"]
    error = diagnose(code, log, argv)
    assert re.search(what, error.what)
    assert re.search(cure, error.cure)


@pytest.mark.parametrize("width, fits", [(576, "64"), (1536 + 32, "32"), (96, "32"), (100, None), (577, None)])
def test_a_suggested_group_size_divides_the_width_and_is_one_that_openvino_takes(width, fits):
    error = diagnose(1, f"InvalidGroupSizeError (channel size: {width})", ["x", *DOCUMENT_INT4, "y"])
    suggested = re.search(r"--group-size (\d+)", error.cure)
    assert (suggested and suggested[1]) == fits
    assert "--group-size-fallback adjust" in error.cure


def test_a_killed_export_leaves_nothing_that_looks_finished(exported):
    assert exported.folder not in exported.left
    assert any(path.name == "openvino_model.bin" and "part" in str(path) for path in exported.left), "killed too early"


def test_the_next_run_makes_it_whole_and_clears_up(exported, settings):
    assert {file.name for file in exported.folder.iterdir()} == FILES
    assert sorted(half_made(exported.folder.parent)) == ["checkpoint", "int4"]
    assert re.fullmatch(".*int4 is complete: 1 MB in [0-9]+ s[.]", exported.said[-1])
    record = json.loads((exported.folder / export.RECORD).read_text(encoding="utf-8"))
    assert record["command"] == command(settings) and record["seconds"] > 0
    contents = {file.name: file.read_bytes() for file in exported.folder.iterdir() if file.name != export.RECORD}
    assert record["files"] == {
        name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()
    }
    log = exported.folder.with_name("int4.log").read_text(encoding="utf-8")
    assert "int4_sym, group size 64" in log, "the whole log stands beside it"


def test_a_second_run_is_skipped(exported, settings):
    before, said = exported.folder.stat(), []
    assert run(command(settings), said.append) == exported.folder
    assert exported.folder.stat() == before
    assert said == [f"{exported.folder} is there and whole; nothing to do."]


def test_other_flags_are_not_passed_off_as_these(exported, settings):
    with pytest.raises(TutorialError, match="other flags made it: .*--group-size 64(?s:.*)Delete that folder"):
        run(command(settings, DOCUMENT_INT4))


def test_another_checkpoint_path_or_order_of_flags_is_the_same_export(exported, settings):
    argv = command(settings, (*SMOLLM2_INT4[2:], *SMOLLM2_INT4[:2]))
    argv[4] = "elsewhere"
    assert run(argv) == exported.folder


@pytest.mark.parametrize("record", [None, b"{}", b"[]"])
def test_a_folder_that_the_document_s_own_command_made_is_taken(exported, settings, tmp_path, record):
    shutil.copytree(exported.folder, tmp_path / "int4")
    if record is None:
        (tmp_path / "int4" / export.RECORD).unlink()
    else:
        (tmp_path / "int4" / export.RECORD).write_bytes(record)
    assert run([*command(settings)[:-1], str(tmp_path / "int4")]) == tmp_path / "int4"


def test_a_group_size_that_does_not_divide_is_refused_with_the_flags_that_work(exported, settings):
    settings = replace(settings, format="int4")
    target = exported.folder.with_name("int4-128")
    works = settings.spec.flags["int4"]  # and these with the document's group size do not
    flags = tuple("128" if flag == "64" else flag for flag in works)
    with pytest.raises(TutorialError, match=r"group size of 128 does not divide .*\(192\)") as caught:
        run([*command(settings, flags)[:-1], str(target)])
    assert not target.exists() and half_made(target.parent) == half_made(exported.folder.parent)
    assert target.with_name("int4-128.log").exists()
    suggested = re.search(r"--group-size (\d+)", caught.value.cure)[1]
    mended = tuple(suggested if flag == "128" else flag for flag in flags)
    made_by = json.loads((exported.folder / export.RECORD).read_text(encoding="utf-8"))["command"]
    assert made_by == command(settings, mended), "the flags of the export that stands there"


def test_an_interrupt_ends_optimum_cli_too(checkpoint, settings, tmp_path, monkeypatch):
    started, family = [], []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    def interrupt(line, text):
        family.extend(psutil.Process().children(recursive=True))
        raise KeyboardInterrupt

    monkeypatch.setattr(export.subprocess, "Popen", Noted)
    monkeypatch.setattr(export.LiveLine, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run([*command(settings)[:-1], str(tmp_path / "int4")])
    assert family and not any(process.is_running() for process in family)
    assert started[0].returncode != 0, "it was waited for, not ended"
    assert half_made(tmp_path) == []


def test_too_small_a_disk_is_named_before_anything_runs(checkpoint, settings, small_disk, monkeypatch):
    monkeypatch.setattr(export, "_run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(TutorialError, match="GiB of free disk"):
        run([*command(settings)[:-1], str(small_disk / "int4")])


def test_a_disk_that_fills_up_is_named_and_left_clean(checkpoint, settings, small_disk, monkeypatch):
    monkeypatch.setattr(export, "need_disk", lambda *_: None)  # somebody else fills it meanwhile
    with pytest.raises(TutorialError, match="disk filled up while writing .*small disk"):
        run([*command(settings)[:-1], str(small_disk / "int4")])
    assert half_made(small_disk) == []


def test_a_read_only_root_is_named(checkpoint, settings, read_only):
    with pytest.raises(TutorialError, match="cannot be written to(?s:.*)TUTORIAL_MODEL_ROOT"):
        run([*command(settings)[:-1], str(read_only / "model" / "int4")])


@pytest.mark.parametrize(
    "log, words", [("", "did not write all"), ("basic_ios::clear: iostream error", "disk filled up")]
)
def test_a_success_that_lacks_files_is_not_believed(tmp_path, monkeypatch, log, words):
    def without_tokenizers(argv, log_file, scratch):  # what optimum-cli does when the disk fills up near the end
        for name in export.EXPORTED[: 2 if not log else None]:
            (scratch.parent / name).touch()
        log_file.write_text(log, encoding="utf-8")
        return 0, 1.0

    monkeypatch.setattr(export, "_run", without_tokenizers)
    with pytest.raises(TutorialError, match=words):
        run(["optimum-cli", "export", "openvino", "--model", "x", str(tmp_path / "int4")])
    assert half_made(tmp_path) == []
