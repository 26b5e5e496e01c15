"""checkpoint → IR: the sample's command, run by the real optimum-cli on a tiny model, complete or absent."""

import json
import os
import re
import shlex
import signal
import subprocess
import time
from dataclasses import replace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import half_made

from helpers import catalog, export
from helpers.catalog import PHICOOKBOOK_INT4, SMOLLM2_INT4
from helpers.errors import TutorialError
from helpers.export import command, diagnose, run, shell_command
from helpers.files import EXPORT_FILES, LOAD_FILES, MANIFEST, find_damaged, read_manifest
from helpers.settings import Settings

FILES = {f"openvino_{part}.{kind}" for part in ("model", "tokenizer", "detokenizer") for kind in ("xml", "bin")}
FILES |= {"openvino_config.json", "config.json", "generation_config.json", MANIFEST}
FILES |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def test_the_command_is_the_samples_with_our_folders():
    assert shell_command(command(Settings(model="phi3-instruct"))) == (
        "optimum-cli export openvino --model ./model/phi3-instruct/checkpoint --task text-generation-with-past "
        "--weight-format int4 --group-size 128 --ratio 0.6 --sym ./model/phi3-instruct/int4"
    )


def test_given_flags_replace_the_catalogs():
    argv = command(Settings(), ("--weight-format", "int8"))
    assert argv[5:] == [*catalog.TASK, "--weight-format", "int8", "./model/smollm2-instruct/int4"]


@pytest.mark.skipif(os.name == "nt", reason="a property of POSIX shells")
@given(argv=st.lists(st.text(st.characters(exclude_characters="\0"))))
def test_what_is_typed_is_what_is_run(argv):
    assert shlex.split(shell_command(argv)) == argv


def test_windows_gets_its_own_quotes(monkeypatch):
    monkeypatch.setattr(export.os, "name", "nt")
    assert shell_command(["optimum-cli", "C:\\my models\\int4"]) == 'optimum-cli "C:\\my models\\int4"'


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
    "code, log, message, hint",
    [
        (1, GROUP_SIZE, r"size of 128 does not divide .* \(576\)", "--group-size 64, .*--group-size-fallback adjust"),
        (-9, "SafetensorError", "ran out of memory", "Close other programs"),
        (137, "", "ran out of memory", "Close other programs"),
        (1, NO_MEMORY, "ran out of memory", "Close other programs"),
        (1, NO_MEMORY_WINDOWS, "ran out of memory", "Close other programs"),
        (1, "MemoryError: bad allocation", "ran out of memory", "Close other programs"),
        (1, "std::bad_alloc", "ran out of memory", "helpers models"),
        (1, COPYING, "disk filled up while writing .*int4", "Free some space"),
        (1, "RuntimeError: basic_ios::clear: iostream error", "disk filled up while writing .*int4", "Free some space"),
        (1, "httpx.ConnectError: [Errno 111] Connection refused", "org/model is not a folder", "helpers fetch"),
        (1, "requests.exceptions.ConnectionError: no route", "the hub did not provide", "HF_ENDPOINT"),
        (1, "httpx.ProxyError: 403 Forbidden", "the hub did not provide", "HTTPS_PROXY"),
        (1, "httpx.ConnectTimeout", "the hub did not provide", "network"),
        (1, "httpx.ReadTimeout", "the hub did not provide", "network"),
        (1, OFFLINE, "the hub did not provide", "HF_ENDPOINT"),
        (1, NOT_ON_THE_HUB, "the hub did not provide", "Check the spelling"),
        (1, NOT_A_NAME, "org/model is not a folder", "helpers fetch"),
        (1, "OSError: x is not a valid model identifier listed on the hub", "org/model is not a folder", "spelling"),
        (1, "SafetensorError: Error while deserializing header", "org/model is damaged", "helpers fetch made it"),
        (1, "OSError: It looks like the config file is not a valid JSON file.", "org/model is damaged", "Get its"),
        (2, "cli: error: unrecognized arguments: --symm\nmore", "flags: unrecognized arguments: --symm[.]$", "--help"),
        (2, "one\ntwo\nthree\nValueError: four", "code 2:\ntwo\nthree\nValueError: four", "log: my models/int4.log"),
        (3, "\n\n", "ended with code 3:", "log: my models/int4.log"),
        (0, "", "reported success, but config.json is missing, openvino_tokenizer.xml is incomplete", "full, or is"),
    ],
)
def test_each_known_failure_gets_its_message_and_hint(code, log, message, hint):
    argv = ["optimum-cli", "export", "openvino", "--model", "org/model", *PHICOOKBOOK_INT4, "my models/int4"]
    error = diagnose(code, log, argv, {"openvino_tokenizer.xml": "incomplete", "config.json": "missing"})
    assert re.search(message, error.message)
    assert re.search(hint, error.hint)


@pytest.mark.parametrize("width, fits", [(576, "64"), (1536 + 32, "32"), (96, "32"), (100, None), (577, None)])
def test_a_suggested_group_size_divides_the_width_and_is_one_that_openvino_takes(width, fits):
    error = diagnose(1, f"InvalidGroupSizeError (channel size: {width})", ["x", *PHICOOKBOOK_INT4, "y"])
    suggested = re.search(r"--group-size (\d+)", error.hint)
    assert (suggested and suggested[1]) == fits
    assert "--group-size-fallback adjust" in error.hint


def test_a_killed_export_leaves_nothing_that_looks_finished(exported):
    assert exported.folder not in exported.left
    assert any(path.name == "openvino_model.bin" and "part" in str(path) for path in exported.left), "killed too early"


def test_the_next_run_makes_it_whole_and_clears_up(exported, settings):
    assert {file.name for file in exported.folder.iterdir()} == FILES
    assert sorted(half_made(exported.folder.parent)) == ["checkpoint", "int4"]
    assert re.fullmatch(".*int4 is complete: 1 MB in [0-9]+ s[.]", exported.said[-1])
    manifest = read_manifest(exported.folder)
    assert manifest["command"] == command(settings) and manifest["seconds"] > 0
    assert {*manifest["files"]} == FILES - {MANIFEST} and find_damaged(exported.folder, (), hashes=True) == {}
    log = exported.folder.with_name("int4.log").read_text(encoding="utf-8")
    assert "int4_sym, group size 64" in log, "the complete log is beside it"


def test_a_second_run_is_skipped(exported, settings):
    before, said = exported.folder.stat(), []
    assert run(command(settings), said.append) == exported.folder
    assert exported.folder.stat() == before
    assert said == [f"{exported.folder} is complete; skipping export."]


def test_other_flags_are_not_passed_off_as_these(exported, settings):
    argv = command(settings)
    other_task = [word.replace("text-generation-with-past", "text-generation") for word in argv]
    for changed in (command(settings, PHICOOKBOOK_INT4), other_task):
        with pytest.raises(
            TutorialError, match="made with different flags: .*--group-size 64(?s:.*)Delete that folder"
        ):
            run(changed)


def test_the_flags_of_a_command_are_all_but_the_model_and_the_folder():
    argv = ["optimum-cli", "export", "openvino", "-m", "here", "--task", "t", "out"]
    assert export._parse(argv) == (export.ROOT / "here", ["--task", "t"])
    assert export._parse(["optimum-cli", "export", "openvino", "out"]) is export._parse(None) is None


def test_a_different_checkpoint_path_or_order_of_flags_is_the_same_export(exported, settings):
    argv = command(settings, (*SMOLLM2_INT4[2:], *SMOLLM2_INT4[:2]))
    argv[4] = "elsewhere"
    assert run(argv) == exported.folder


@pytest.mark.weekly
def test_a_group_size_that_does_not_divide_is_refused_with_the_flags_that_work(exported, settings):
    settings = replace(settings, format="int4")
    target = exported.folder.with_name("int4-128")
    works = settings.spec.flags["int4"]  # and these with the document's group size do not
    flags = tuple("128" if flag == "64" else flag for flag in works)
    with pytest.raises(TutorialError, match=r"group size of 128 does not divide .*\(192\)") as caught:
        run([*command(settings, flags)[:-1], str(target)])
    assert not target.exists() and half_made(target.parent) == half_made(exported.folder.parent)
    assert target.with_name("int4-128.log").exists()
    suggested = re.search(r"--group-size (\d+)", caught.value.hint)[1]
    mended = tuple(suggested if flag == "128" else flag for flag in flags)
    assert read_manifest(exported.folder)["command"] == command(settings, mended), "the flags of the existing export"


def test_an_interrupt_ends_optimum_cli_too(checkpoint, settings, tmp_path, monkeypatch):
    started, family = [], []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    def interrupt(line, text):
        process = psutil.Process(started[0].pid)  # this one may have children of other tests
        family.extend([process, *process.children(recursive=True)])
        raise KeyboardInterrupt

    monkeypatch.setattr(export.subprocess, "Popen", Noted)
    monkeypatch.setattr(export.ProgressLine, "update", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run([*command(settings)[:-1], str(tmp_path / "int4")])
    assert family and not any(process.is_running() for process in family)
    assert started[0].returncode != 0, "it was not killed"
    assert half_made(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_optimum_cli_and_its_children_too(stands_in, argv, target, start, tmp_path, name):
    stands_in("import subprocess; subprocess.Popen(['sleep', '60'])\nPath(folder, 'half').touch()\ntime.sleep(60)\n")
    code = f"from helpers import __main__, export; __main__.app = lambda **_: export.run({argv!r}); "
    process = start("-c", code + "raise SystemExit(__main__.main())", PYTHONPATH=str(tmp_path / "other"))
    while not list(target.parent.glob("int4.part-*/half")):
        assert process.poll() is None
        time.sleep(0.05)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 2
    process.send_signal(getattr(signal, name))
    assert process.wait(20) == 128 + getattr(signal, name) and "Traceback" not in process.stderr.read()
    assert not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in family)
    assert half_made(target.parent) == []


def test_what_lies_in_the_current_folder_is_not_run(stands_in, argv, target, tmp_path, monkeypatch):
    (tmp_path / "optimum.py").write_text("raise SystemExit('a stranger')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export, "ROOT", tmp_path)
    stands_in(COMPLETE)
    assert run(argv, lambda _: None) == target


def test_too_small_a_disk_is_named_before_anything_runs(checkpoint, settings, small_disk, monkeypatch):
    monkeypatch.setattr(export, "_run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(TutorialError, match="GiB of free disk"):
        run([*command(settings)[:-1], str(small_disk / "int4")])


@pytest.mark.weekly
def test_a_disk_that_fills_up_is_named_and_left_clean(checkpoint, settings, small_disk, monkeypatch):
    monkeypatch.setattr(export.files, "require_disk_space", lambda *_: None)  # another program fills it meanwhile
    with pytest.raises(TutorialError, match="disk filled up while writing .*small disk"):
        run([*command(settings)[:-1], str(small_disk / "int4")])
    assert half_made(small_disk) == []


def test_a_read_only_root_is_named(checkpoint, settings, read_only):
    with pytest.raises(TutorialError, match="cannot be written to(?s:.*)TUTORIAL_MODEL_ROOT"):
        run([*command(settings)[:-1], str(read_only / "model" / "int4")])


@pytest.mark.parametrize(
    "log, words", [("", "openvino_tokenizer.xml is missing"), ("basic_ios::clear: iostream error", "disk filled up")]
)
def test_a_success_that_lacks_files_is_not_believed(tmp_path, monkeypatch, log, words):
    def without_tokenizers(argv, log_file, scratch):  # what optimum-cli does when the disk fills up near the end
        for name in LOAD_FILES if not log else EXPORT_FILES:
            (scratch.parent / name).touch()
        log_file.write_text(log, encoding="utf-8")
        return 0, 1.0

    monkeypatch.setattr(export, "_run", without_tokenizers)
    with pytest.raises(TutorialError, match=words):
        run(["optimum-cli", "export", "openvino", "--model", "x", str(tmp_path / "int4")])
    assert half_made(tmp_path) == []


# Around optimum-cli: here it is a program of a few lines, which notes what it was told.

STANDS_IN = """
import json, os, sys, time
from pathlib import Path
folder, out = Path(sys.argv[-1]), sys.stdout.buffer
scratch = Path(os.environ["TMPDIR"])
asked = {"argv": sys.argv[1:], "cwd": os.getcwd(), "stdin": sys.stdin.read(), "utf8": sys.flags.utf8_mode}
asked["temporary"] = [os.environ[name] for name in ("TMPDIR", "TEMP", "TMP")]
asked["there"] = scratch.is_dir() and folder.is_dir()
Path(%r).write_text(json.dumps(asked), "utf-8")
(scratch / "graph.bin").write_bytes(bytes(1000))
"""
PHASES = rb"""
out.write(b"Fetching 2 files\nLoading weights:  40%|x|\rLoading weights: 100%|x|\nTracerWarning: \xff\n")
out.write(b"INFO:nncf:Statistics of the bitwidth distribution\nApplying Weight Compression\n")
out.flush()
"""
FILES_OF_IT = """
for name in %r:
    (folder / name).write_bytes({".xml": b"</net>", ".bin": bytes(3_000_000)}.get(Path(name).suffix, b"{}"))
"""
COMPLETE = FILES_OF_IT % (EXPORT_FILES,)


@pytest.fixture
def stands_in(tmp_path, monkeypatch):
    """stands_in(code) is what optimum-cli does from now on; stands_in.asked() is what it was told."""
    package = tmp_path / "other" / "optimum" / "commands"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    notes = tmp_path / "asked.json"

    def write(does: str) -> None:
        (package / "optimum_cli.py").write_text(STANDS_IN % str(notes) + does, encoding="utf-8")

    write.asked = lambda: json.loads(notes.read_text(encoding="utf-8"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "other"))
    return write


@pytest.fixture
def target(tmp_path):
    return tmp_path / "models" / "int4"


@pytest.fixture
def argv(target):
    return ["optimum-cli", "export", "openvino", "--model", "org/model", *PHICOOKBOOK_INT4, str(target)]


def test_optimum_cli_gets_the_same_flags_and_writes_beside_the_target(stands_in, argv, target):
    stands_in(COMPLETE)
    assert run(argv, lambda _: None) == target
    asked = stands_in.asked()
    *flags, folder = asked["argv"]
    assert flags == argv[1:-1] and folder != str(target) and os.path.dirname(folder) == str(target.parent)
    assert set(asked["temporary"]) == {asked["temporary"][0]} and asked["temporary"][0].startswith(folder)
    assert (asked["cwd"], asked["stdin"], asked["utf8"], asked["there"]) == (str(export.ROOT), "", 1, True)
    assert {file.name for file in target.iterdir()} == {*EXPORT_FILES, MANIFEST}
    assert half_made(target.parent) == ["int4"]


def test_the_manifest_has_the_command_and_the_files(stands_in, argv, target):
    stands_in(COMPLETE)
    said = []
    run(argv, said.append)
    manifest = read_manifest(target)
    assert manifest["command"] == argv and manifest["seconds"] == round(manifest["seconds"], 1) >= 0
    assert {*manifest["files"]} == {*EXPORT_FILES} and find_damaged(target, EXPORT_FILES, hashes=True) == {}
    assert said[-1].startswith(f"{target} is complete: 3 MB in ")
    assert run([*argv[:3], "-m", *argv[4:]], said.append) == target and "skipping export" in said[-1]


@pytest.mark.parametrize("made_by", [None, "optimum-cli --model x", 5, [1, "--model", 2, 3], ["--sym"], {"-m": 1}])
def test_an_export_without_a_usable_command_is_taken_if_it_is_complete(stands_in, argv, target, made_by):
    """As the sample's own command leaves it, or an earlier version of this project."""
    stands_in(COMPLETE)
    run(argv, lambda _: None)
    (target / MANIFEST).unlink()
    if made_by:
        (target / MANIFEST).write_text(json.dumps({"command": made_by}), encoding="utf-8")
    assert run([*argv[:-1], "--sym", argv[-1]], lambda _: None) == target
    assert read_manifest(target)["adopted"] is True
    (target / MANIFEST).unlink()
    (target / "openvino_model.xml").write_text("<net>", encoding="utf-8")
    with pytest.raises(TutorialError, match="openvino_model.xml is incomplete"):
        run(argv)


def test_an_incomplete_graph_is_never_called_complete(stands_in, argv, target):
    stands_in(COMPLETE + "(folder / 'openvino_tokenizer.xml').write_text('<net>')")
    with pytest.raises(TutorialError, match="success, but openvino_tokenizer.xml is incomplete"):
        run(argv, lambda _: None)
    assert half_made(target.parent) == []


def test_each_phase_leaves_a_line_and_a_live_line_moves(stands_in, argv, target, monkeypatch, capsys):
    stands_in(PHASES.decode("latin-1") + COMPLETE)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    run(argv, lambda _: None)
    out = capsys.readouterr().out
    assert re.findall("  (.+): [0-9]+ s *\n", out.replace("\r", "\n\n")) == ["starting", *dict(export.PHASES).values()]
    assert "reading the checkpoint … 40% 0 s" in out and "100%" in out
    assert b"TracerWarning: \xff\n" in target.with_name("int4.log").read_bytes(), "the log has each byte"


def test_a_failure_has_the_end_of_the_log_as_its_cause_and_leaves_only_the_log(stands_in, argv, target):
    stands_in("print('x' * 3000); sys.exit('ValueError: the end')")
    with pytest.raises(TutorialError, match="code 1:(?s:.*)ValueError: the end") as caught:
        run(argv, lambda _: None)
    cause = str(caught.value.__cause__)
    assert cause.rstrip().endswith("the end") and 1000 < len(cause) < 3000
    assert half_made(target.parent) == [] and target.with_name("int4.log").stat().st_size > 3000
    stands_in(COMPLETE)
    assert run(argv, lambda _: None) == target


def test_a_command_without_a_model_is_refused(argv, target):
    with pytest.raises(TutorialError, match="names no model"):
        run([*argv[:3], *argv[5:]])
    assert not target.parent.exists()


def test_the_disk_must_have_space_for_an_uncompressed_graph_too(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(export.files, "require_disk_space", lambda folder, gib: asked.append(gib) or 1 / 0)
    for name, size in {"a.safetensors": 2**30, "b.safetensors": 2**29, "config.json": 2**28}.items():
        with (tmp_path / name).open("wb") as stream:
            stream.truncate(size)  # takes no room itself
    for option, model in (("--model", str(tmp_path)), ("-m", str(tmp_path)), ("-m", "org/model")):
        with pytest.raises(ZeroDivisionError):
            run(["optimum-cli", "export", "openvino", option, model, str(tmp_path / "x")])
    assert asked == pytest.approx([1.5 * export.SCRATCH_FACTOR, 1.5 * export.SCRATCH_FACTOR, 0])


@pytest.mark.parametrize(
    "log, size, widths",
    [
        ("", "A group size of 128", "()"),
        ("(channel size: 576) (channel size: 96) (channel size: 576)", "128", "(96, 576)"),
    ],
)
def test_widths_are_listed_once_and_in_order(argv, log, size, widths):
    error = diagnose(1, "InvalidGroupSizeError " + log, argv)
    assert size in error.message and widths in error.message
    assert ("--group-size 32," in error.hint) == bool(log)
    assert "The group size does not" in diagnose(1, "InvalidGroupSizeError", ["x", "--model", "y", "z"]).message


def test_remote_code_is_trusted_only_where_the_catalog_says_so(monkeypatch):
    choice = Settings(model="phi3-instruct")
    assert "--trust-remote-code" not in command(choice)
    monkeypatch.setitem(catalog.MODELS, choice.model, replace(choice.spec, trust_remote_code=True))
    assert command(choice)[-2] == "--trust-remote-code"


def test_nobody_is_told_to_delete_an_ir_of_their_own(tmp_path):
    for name in set(EXPORT_FILES) - {"openvino_detokenizer.xml"}:
        (tmp_path / name).write_text("{}" if name.endswith("json") else "<net></net>", encoding="utf-8")
    with pytest.raises(TutorialError, match="openvino_detokenizer.xml is missing") as caught:
        run(command(Settings(model=str(tmp_path))))
    assert "elete" not in caught.value.hint and caught.value.hint


def test_before_a_checkpoint_is_there_no_number_of_parameters_is_claimed(tmp_path):
    unknown = Settings(model="somebody/model", model_root=str(tmp_path))
    assert "not known" in export.reason(unknown) and "parameters" not in export.reason(unknown)
    qwen = replace(unknown, model="Qwen/Qwen3-4B")
    assert "optimum-intel's own recipe" in export.reason(qwen)
