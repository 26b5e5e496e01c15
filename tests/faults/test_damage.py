"""Damaged files: an export, a checkpoint or a notebook's model that is truncated, changed or incomplete."""

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
from helpers.files import MANIFEST
from helpers.settings import ROOT


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def remove(file: Path) -> None:
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


def without_manifest(harm):
    """Harm a file of a folder that has no manifest, as if it had been copied by hand."""

    def both(file: Path) -> None:
        (file.parent / MANIFEST).unlink()
        harm(file)

    return both


MODEL, SIZE, INCOMPLETE, MISSING = "openvino_model", " is of a different size", " is incomplete", " is missing"
NOT_JSON = " is not a JSON object"
FAILS, UNCHANGED = "cannot be loaded on CPU", "the files are unchanged"


@pytest.mark.parametrize(
    "harm, name, words",
    [
        fault("An export's weights are truncated", truncate, f"{MODEL}.bin", f"{MODEL}.bin{SIZE}"),
        fault("An export's weights are missing", remove, f"{MODEL}.bin", f"{MODEL}.bin{MISSING}"),
        fault("An export's graph is an empty file", write(""), f"{MODEL}.xml", f"{MODEL}.xml{SIZE}"),
        fault("An export's config.json is truncated", truncate, "config.json", f"config.json{SIZE}"),
        fault("An export's tokenizer is missing", remove, "tokenizer.json", f"tokenizer.json{MISSING}"),
        fault("tokenizer_config.json is missing", remove, "tokenizer_config.json", f"tokenizer_config.json{MISSING}"),
        *[
            fault(f"{what} (no manifest)", without_manifest(harm), name, f"{name}{words}" if words != FAILS else words)
            for what, harm, name, words in [
                ("An export's weights are truncated", truncate, f"{MODEL}.bin", INCOMPLETE),
                ("An export's graph is truncated", truncate, f"{MODEL}.xml", INCOMPLETE),
                ("An export's graph is a web page", write("<html>log in</html>"), f"{MODEL}.xml", INCOMPLETE),
                ("An export's config.json is truncated", truncate, "config.json", NOT_JSON),
                ("An export's config.json is {}", write("{}"), "config.json", FAILS),
                ("An export's config.json is a list", write("[]"), "config.json", NOT_JSON),
                ("An unknown model_type", write('{"model_type": "nonsense"}'), "config.json", FAILS),
                ("An export's tokenizer is truncated", truncate, "tokenizer.json", NOT_JSON),
                ("An export's tokenizer is {}", write("{}"), "tokenizer.json", FAILS),
            ]
        ],
        fault("The chat template is missing", remove, "chat_template.jinja", "has no chat template"),
        fault("The chat template is truncated", truncate, "chat_template.jinja", "chat template"),
        fault("An empty folder instead of an export", empty, "", f"{MODEL}.bin{MISSING}"),
        fault("A file instead of an export", a_file, "", f"{MODEL}.bin{MISSING}"),
    ],
)
def test_ask_names_what_is_wrong_with_an_export(cli, outcome, own, harm, name, words):
    harm(own.model_dir / name)
    before = state_of(own.checkpoint_dir.parent)
    ran = cli("ask", "Why?", "--max-new-tokens", "2", "--format", "int4", TUTORIAL_MODEL_ROOT=own.model_root)
    assert (ran.code, ran.out) == (1, "")
    assert words in ran.errors
    if "chat template" not in words:
        assert "elete that folder, then: python -m helpers export --model smollm2-instruct --format int4" in ran.errors
    assert state_of(own.checkpoint_dir.parent) == before, "nothing of the reader's is deleted"
    outcome(ran.errors, UNCHANGED, 1)


@pytest.mark.parametrize(
    "harm, name",
    [
        fault("generation_config.json is truncated", truncate, "generation_config.json"),
        fault("generation_config.json is missing", remove, "generation_config.json"),
        fault("One byte of an export's weights is changed", flip, f"{MODEL}.bin"),
        fault("One byte of an export's tokenizer model is changed", flip, "openvino_tokenizer.bin"),
    ],
)
def test_the_doctor_finds_damage_that_does_not_stop_a_model(cli, outcome, own, harm, name):
    from helpers.checks import doctor

    harm(own.model_dir / name)
    ran = cli("ask", "Why?", "--max-new-tokens", "2", "--format", "int4", TUTORIAL_MODEL_ROOT=own.model_root)
    assert ran.code == 0
    findings = [finding for finding in doctor.examine(own, thorough=True) if finding.state == "problem"]
    (finding,) = [finding for finding in findings if name in finding.message]
    assert "elete that folder" in finding.hint
    outcome(f"doctor --thorough: {finding.message} {finding.hint}", "ask still answers", 0)


@pytest.mark.parametrize(
    "command, harm, name, words",
    [
        fault("export over an export without weights", "export", remove, f"{MODEL}.bin", f"{MODEL}.bin{MISSING}"),
        fault("export over an empty folder", "export", empty, "", f"{MODEL}.xml{MISSING}"),
        fault("export over a truncated graph", "export", truncate, f"{MODEL}.xml", f"{MODEL}.xml{SIZE}"),
        fault("fetch over truncated weights", "fetch", truncate, "model.safetensors", f"model.safetensors{SIZE}"),
        fault("fetch over a checkpoint without weights", "fetch", remove, "model.safetensors", f"safetensors{MISSING}"),
        fault("fetch over a truncated config.json", "fetch", truncate, "config.json", f"config.json{SIZE}"),
        fault("fetch over an empty folder", "fetch", empty, "", f"config.json{MISSING}"),
        fault("fetch over a file", "fetch", a_file, "", f"config.json{MISSING}"),
    ],
)
def test_a_damaged_folder_is_not_called_complete(cli, outcome, own, command, harm, name, words):
    harm((own.model_dir if command == "export" else own.checkpoint_dir) / name)
    before = state_of(own.checkpoint_dir.parent)
    ran = cli(command, *["--format", "int4"] * (command == "export"), TUTORIAL_MODEL_ROOT=own.model_root)
    assert ran.code == 1
    assert words in ran.errors and "Delete that folder, then run this again." in ran.errors
    assert state_of(own.checkpoint_dir.parent) == before
    outcome(ran.errors, UNCHANGED, 1)


@pytest.mark.weekly
@pytest.mark.fault("An export of a checkpoint whose weights are not safetensors")
def test_the_export_of_a_damaged_checkpoint_names_it(outcome, own):
    (own.checkpoint_dir / "model.safetensors").write_bytes(b"\xff" * 1000)
    target = own.model_dir.with_name("int8")
    argv = [*export.command(own, ("--weight-format", "int8"))[:-1], str(target)]
    with pytest.raises(TutorialError, match="checkpoint .* is damaged(?s:.*)helpers fetch") as caught:
        export.run(argv)
    assert not target.exists() and not list(target.parent.glob("int8.part*"))
    outcome(str(caught.value), "no export is left")


@pytest.mark.weekly
@pytest.mark.parametrize(
    "flags, words",
    [
        fault("A weight format that optimum-cli does not know", ("--weight-format", "int3"), "invalid choice: 'int3'"),
        fault("A flag that optimum-cli does not know", ("--weight-format", "int4", "--faster"), "--faster"),
        fault("A ratio that is not a number", ("--weight-format", "int4", "--ratio", "most"), "float value: 'most'"),
    ],
)
def test_flags_that_optimum_cli_refuses(cli, outcome, own, flags, words):
    before = state_of(own.checkpoint_dir.parent)
    ran = cli("export", "--format", "int8", "--", *flags, TUTORIAL_MODEL_ROOT=own.model_root)
    assert ran.code == 1
    assert words in ran.errors and "does not accept these flags" in ran.errors
    log = own.model_dir.with_name("int8.log")
    assert log.exists() and {**before, log.name: log.read_bytes()} == {
        name: data for name, data in state_of(own.checkpoint_dir.parent).items() if not name.endswith(".lock")
    }
    outcome(ran.errors, "no export is left; the log is kept", 1)


NEED_EXPORT = ["02_configure", "03_load", "04_tokenize", "05_generate", "06_decode", "07_chat"]


@pytest.mark.parametrize("page", [fault(f"Notebook {page} without an export", page) for page in NEED_EXPORT])
def test_a_notebook_without_an_export_says_so_in_its_first_cells(outcome, own, monkeypatch, page):
    """The first cell that fails raises a TutorialError."""
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
    outcome(str(caught.value), "nothing was created")
    assert json.dumps(sorted(path.name for path in own.checkpoint_dir.parent.iterdir())) == '["checkpoint"]'


def test_the_copies_are_complete_before_they_are_harmed(own):
    """Otherwise a message could have a different cause than the harm."""
    export.run(export.command(own), report=lambda _: None)
    fetch(own.spec, own.checkpoint_dir, report=lambda _: None)
