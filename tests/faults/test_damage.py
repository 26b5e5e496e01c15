"""Damaged files: an export, a checkpoint or a page's model that is cut short, changed or incomplete."""

import json
import shutil
from contextlib import suppress
from pathlib import Path

import nbformat
import pytest

from faults.conftest import state_of
from faults.table import fault
from helpers import export
from helpers.checkpoint.fetch import fetch
from helpers.errors import TutorialError
from helpers.settings import ROOT


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def drain(file: Path) -> None:
    file.write_bytes(b"")


def gone(file: Path) -> None:
    file.unlink()


def flip(file: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 255
    file.write_bytes(data)


def write(text: str):
    return lambda file: file.write_text(text, encoding="utf-8")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("not a model", encoding="utf-8")


MODEL, CUT, MISSING = "openvino_model", " is cut short", " is missing"


@pytest.mark.parametrize(
    "harm, name, words",
    [
        fault("An export's weights are cut short", cut, f"{MODEL}.bin", f"{MODEL}.bin{CUT}"),
        fault("An export's weights are an empty file", drain, f"{MODEL}.bin", f"{MODEL}.bin{CUT}"),
        fault("An export's weights are missing", gone, f"{MODEL}.bin", f"{MODEL}.bin{MISSING}"),
        fault("An export's graph is cut short", cut, f"{MODEL}.xml", f"{MODEL}.xml{CUT}"),
        fault("An export's graph is an empty file", drain, f"{MODEL}.xml", f"{MODEL}.xml{CUT}"),
        fault("An export's graph is missing", gone, f"{MODEL}.xml", f"{MODEL}.xml{MISSING}"),
        fault("An export's graph is a web page", write("<html>log in</html>"), f"{MODEL}.xml", f"{MODEL}.xml{CUT}"),
        fault("An export's config.json is cut short", cut, "config.json", f"config.json{CUT}"),
        fault("An export's config.json is missing", gone, "config.json", f"config.json{MISSING}"),
        fault("An export's config.json says nothing", write("{}"), "config.json", "cannot be loaded on CPU"),
        fault("An export's config.json is of another kind", write("[]"), "config.json", "cannot be loaded on CPU"),
        fault(
            "An export's config.json names an unknown kind of model",
            write('{"model_type": "nonsense"}'),
            "config.json",
            "cannot be loaded on CPU",
        ),
        fault("An export's tokenizer is cut short", cut, "tokenizer.json", f"tokenizer.json{CUT}"),
        fault("An export's tokenizer is missing", gone, "tokenizer.json", f"tokenizer.json{MISSING}"),
        fault("An export's tokenizer says nothing", write("{}"), "tokenizer.json", "cannot be loaded on CPU"),
        fault("tokenizer_config.json is cut short", cut, "tokenizer_config.json", f"tokenizer_config.json{CUT}"),
        fault("tokenizer_config.json is missing", gone, "tokenizer_config.json", f"tokenizer_config.json{MISSING}"),
        fault("The chat template is missing", gone, "chat_template.jinja", "has no chat template"),
        fault("The chat template is cut short", cut, "chat_template.jinja", "chat template"),
        fault("An empty folder where an export should be", empty, "", f"{MODEL}.bin{MISSING}"),
        fault("A file where an export should be", a_file, "", f"{MODEL}.bin{MISSING}"),
    ],
)
def test_ask_names_what_is_wrong_with_an_export(cli, outcome, own, harm, name, words):
    harm(own.model_dir / name)
    before = state_of(own.checkpoint_dir.parent)
    ran = cli("ask", "Why?", "--max-new-tokens", "2", "--format", "int4", TUTORIAL_MODEL_ROOT=own.model_root)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.said
    if "chat template" not in words:
        assert "elete that folder, then: python -m helpers export --model smollm2-instruct --format int4" in ran.said
    assert state_of(own.checkpoint_dir.parent) == before, "nothing of the reader's is deleted unasked"
    outcome(ran.said, "the files are as they were", 1)


@pytest.mark.parametrize(
    "harm, name",
    [
        fault("generation_config.json is cut short", cut, "generation_config.json"),
        fault("generation_config.json is missing", gone, "generation_config.json"),
        fault("openvino_config.json is cut short", cut, "openvino_config.json"),
        fault("One byte of an export's weights is another", flip, f"{MODEL}.bin"),
        fault("One byte of an export's tokenizer model is another", flip, "openvino_tokenizer.bin"),
    ],
)
def test_what_does_not_keep_a_model_from_answering_the_doctor_finds(cli, outcome, own, harm, name):
    harm(own.model_dir / name)
    from helpers.checks import doctor

    ran = cli("ask", "Why?", "--max-new-tokens", "2", "--format", "int4", TUTORIAL_MODEL_ROOT=own.model_root)
    assert ran.code == 0
    found = [finding for finding in doctor.examine(own, thorough=True) if finding.state == "problem"]
    (find_damaged,) = [finding for finding in found if name in finding.message]
    assert "elete that folder" in find_damaged.hint
    outcome(f"doctor --thorough: {find_damaged.message} {find_damaged.hint}", "ask answers all the same", 0)


@pytest.mark.parametrize(
    "harm, name, words",
    [
        fault("Another run over an export without weights", gone, f"{MODEL}.bin", f"{MODEL}.bin{MISSING}"),
        fault("Another run over an empty export", empty, "", f"{MODEL}.xml{MISSING}"),
        fault("Another run over half an export's graph", cut, f"{MODEL}.xml", f"{MODEL}.xml{CUT}"),
        fault("The record of an export is cut short", cut, export.RECORD, f"{export.RECORD}{CUT}"),
    ],
)
def test_an_export_that_is_there_is_not_called_whole_when_it_is_not(cli, outcome, own, harm, name, words):
    harm(own.model_dir / name)
    before = state_of(own.checkpoint_dir.parent)
    ran = cli("export", "--format", "int4", TUTORIAL_MODEL_ROOT=own.model_root)
    assert ran.code == 1
    assert words in ran.said and "Delete that folder, then run this again." in ran.said
    assert state_of(own.checkpoint_dir.parent) == before
    outcome(ran.said, "the files are as they were", 1)


@pytest.mark.parametrize(
    "harm, name, words",
    [
        fault("A checkpoint's weights are cut short", cut, "model.safetensors", f"model.safetensors{CUT}"),
        fault("A checkpoint's weights are missing", gone, "model.safetensors", f"*.safetensors{MISSING}"),
        fault("A checkpoint's config.json is cut short", cut, "config.json", f"config.json{CUT}"),
        fault("A checkpoint's tokenizer is missing", gone, "tokenizer.json", f"tokenizer.json{MISSING}"),
        fault("An empty folder where a checkpoint should be", empty, "", f"config.json{MISSING}"),
        fault("A file where a checkpoint should be", a_file, "", f"config.json{MISSING}"),
    ],
)
def test_a_checkpoint_that_is_there_is_not_called_whole_when_it_is_not(
    cli, outcome, own, tiny, index, tmp_path, harm, name, words
):
    harm(own.checkpoint_dir / name)
    before = state_of(own.checkpoint_dir.parent)
    ran = cli("fetch", TUTORIAL_MODEL_ROOT=own.model_root)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.said and "Delete that folder, then run this again." in ran.said
    assert state_of(own.checkpoint_dir.parent) == before
    outcome(ran.said, "the files are as they were", 1)


@pytest.mark.slow
@pytest.mark.fault("A checkpoint whose weights are no safetensors is exported")
def test_the_export_of_a_damaged_checkpoint_names_it(outcome, own):
    (own.checkpoint_dir / "model.safetensors").write_bytes(b"\xff" * 1000)
    target = own.model_dir.with_name("int8")
    argv = [*export.command(own, ("--weight-format", "int8"))[:-1], str(target)]
    with pytest.raises(TutorialError, match="checkpoint .* is damaged(?s:.*)helpers fetch") as caught:
        export.run(argv)
    assert not target.exists() and not list(target.parent.glob("int8.part*"))
    outcome(str(caught.value), "no export appears")


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags, words",
    [
        fault("A weight format that optimum-cli does not know", ("--weight-format", "int3"), "invalid choice: 'int3'"),
        fault("A flag that optimum-cli does not know", ("--weight-format", "int4", "--faster"), "--faster"),
        fault("A ratio in words", ("--weight-format", "int4", "--ratio", "most"), "invalid float value: 'most'"),
    ],
)
def test_flags_that_optimum_cli_refuses(cli, outcome, own, flags, words):
    before = state_of(own.checkpoint_dir.parent)
    ran = cli("export", "--format", "int8", "--", *flags, TUTORIAL_MODEL_ROOT=own.model_root)
    assert ran.code == 1
    assert words in ran.said and "does not understand these flags" in ran.said
    log = own.model_dir.with_name("int8.log")
    assert log.exists() and {**before, log.name: log.read_bytes()} == {
        name: data for name, data in state_of(own.checkpoint_dir.parent).items() if not name.endswith(".lock")
    }
    outcome(ran.said, "no export appears, the log is kept", 1)


NEED_EXPORT = ["02_configure", "03_load", "04_tokenize", "05_generate", "06_decode", "07_chat"]


@pytest.mark.parametrize("page", [fault(f"Page {page} without an export", page) for page in NEED_EXPORT])
def test_a_page_without_an_export_says_so_in_its_first_cells(outcome, own, monkeypatch, page):
    """The sentence of the first cell that fails; only TutorialError may be its reason."""
    shutil.rmtree(own.model_dir)
    monkeypatch.chdir(ROOT / "notebooks")
    monkeypatch.setenv("TUTORIAL_MODEL", "smollm2-instruct")
    monkeypatch.setenv("TUTORIAL_MODEL_ROOT", own.model_root)
    cells = [cell for cell in nbformat.read(f"{page}.ipynb", as_version=4).cells if cell.cell_type == "code"]
    space = {"__name__": "__main__", "display": lambda *_: None}
    with pytest.raises(TutorialError, match="There is no export at .* yet") as caught, suppress(SystemExit):
        for cell in cells[:3]:
            exec(cell.source, space)
    assert "python -m helpers export" in caught.value.hint
    outcome(str(caught.value), "nothing was made")
    assert json.dumps(sorted(path.name for path in own.checkpoint_dir.parent.iterdir())) == '["checkpoint"]'


def test_the_copies_that_are_harmed_were_whole(own):
    """Without this, a sentence could come from something else than the harm."""
    export.run(export.command(own), report=lambda _: None)
    fetch(own.spec, own.checkpoint_dir, report=lambda _: None)
