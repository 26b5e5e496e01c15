"""The settings: the sample's by default, then the file, then the environment; what cannot be used is named."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.catalog import MODELS
from helpers.errors import TutorialError, printable
from helpers.settings import ROOT, Settings, check, display_path, load, on_disk, save

valid = st.builds(
    Settings,
    model=st.sampled_from(list(MODELS)),
    format=st.sampled_from(["int4", "int8", "fp16"]),
    device=st.text().map(printable),
    model_root=st.text().map(printable),
    ov_config=st.dictionaries(st.text(), st.text().map(printable)),
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "settings.toml"


def test_the_defaults_are_the_samples(file):
    assert load(file, {}) == Settings()
    assert Settings().ov_config == {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "CACHE_DIR": ""}
    assert display_path(replace(Settings(), model="phi3-instruct").model_dir) == "./model/phi3-instruct/int4"


@given(settings=valid)
def test_load_returns_what_save_wrote(tmp_path_factory, settings):
    file = tmp_path_factory.getbasetemp() / "round trip.toml"
    assert load(save(settings, file), {}) == settings


def test_defaults_are_not_written_so_that_a_later_version_may_change_them(file):
    assert save(Settings(), file).read_text() == ""
    assert save(Settings(format="int8"), file).read_text() == 'format = "int8"\n'


def test_the_file_beats_the_defaults_and_the_environment_beats_the_file(file):
    file.write_text('model = "phi3-instruct"\ndevice = "GPU"\n', encoding="utf-8")
    environ = {"TUTORIAL_DEVICE": "NPU", "TUTORIAL_MODEL_ROOT": "/shared", "TUTORIAL_MODEL": ""}
    assert load(file, environ) == Settings(model="phi3-instruct", device="NPU", model_root="/shared")
    assert load(file, {"TUTORIAL_MODEL": "phi3-rehearsal"}).model == "phi3-rehearsal"


@pytest.mark.parametrize("root", ["model", "~/models", "/shared/modèles à moi"])
def test_folders_are_below_the_model_root(root):
    settings = Settings(model_root=root)
    assert settings.model_dir == ROOT / Path(root).expanduser() / "smollm2-instruct" / "int4"
    assert settings.checkpoint_dir == settings.model_dir.parent / "checkpoint"


@pytest.mark.parametrize(
    "content, what, hint",
    [
        ("device = CPU", "settings.toml is damaged: .* line 1", "Fix that line"),
        (b"device = \xff", "settings.toml is damaged", "Fix that line"),
        ('devize = "CPU"', "unknown settings: devize", "Known settings: device, format, model"),
        ('model = "gpt-7"', "no model 'gpt-7'", "Choose one of: smollm2"),
        ('format = "int3"', "no weight format 'int3'", "Choose one of: int4, int8, fp16"),
        ("device = 0", "device is not text: 0", "Put it in quotes"),
        ("model = [1]", r"model is not text: \[1\]", "Put it in quotes"),
        ('ov_config = "fast"', "ov_config is not a table", r"Write \[ov_config\]"),
        ("[ov_config]\nNUM_STREAMS = 1", "ov_config is not text: 1", "Put it in quotes"),
        ("[device]", "device is not text: {}", "Put it in quotes"),
        ('device = "CPU"'.encode("utf-16"), "settings.toml is saved as UTF-16", "Save it as UTF-8"),
        (b"\xfe\xff" + 'device = "CPU"'.encode("utf-16-be"), "settings.toml is saved as UTF-16", "Save it as UTF-8"),
        ('device = "CPU"'.encode("utf-16-le"), "settings.toml is damaged", "Fix that line"),
        (r'device = "\u001b[2J"', "device contains control characters", "Delete them"),
        (r'model_root = "a\u202eb"', "model_root contains control characters", "Delete them"),
        ('[ov_config]\nX = "\\u009b"', "ov_config contains control characters", "Delete them"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_cure(file, content, what, hint):
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TutorialError) as caught:
        load(file, {})
    assert caught.match(what)
    assert caught.match(hint)


@pytest.mark.parametrize("begins", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b""])
def test_a_file_of_any_editor_is_read(file, begins, ends):
    file.write_bytes(begins + b'format = "int8"' + ends)
    assert load(file, {}).format == "int8"


def test_the_environment_is_checked_too(file):
    with pytest.raises(TutorialError, match="model_root contains control characters"):
        load(file, {"TUTORIAL_MODEL_ROOT": "\x1b[2J"})
    with pytest.raises(TutorialError, match="gpt-7"):
        load(file, {"TUTORIAL_MODEL": "gpt-7"})


def test_settings_that_cannot_be_used_are_not_saved(file):
    with pytest.raises(TutorialError, match="int3"):
        save(Settings(format="int3"), file)
    assert not file.exists()
    assert check(Settings()) == Settings()


@pytest.mark.parametrize("at", ["write_text", "replace"])
def test_a_save_that_fails_leaves_the_old_file_whole(file, monkeypatch, at):
    save(Settings(device="GPU"), file)

    def full(path, *_, **__):
        path.write_bytes(b"devi") if at == "write_text" else None
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, at, full)
    with pytest.raises(TutorialError, match="disk filled up"):
        save(Settings(device="NPU"), file)
    assert load(file, {}) == Settings(device="GPU")


def test_a_disk_that_really_fills_up_leaves_the_old_file_whole(small_disk):
    file = save(Settings(device="GPU"), small_disk / "settings.toml")
    with pytest.raises(TutorialError, match="disk filled up"):
        save(Settings(device="x" * 2**21), file)
    assert load(file, {}) == Settings(device="GPU")


def test_a_drive_that_is_not_connected_is_named(monkeypatch):
    """Windows: not even E:\\ exists then."""
    monkeypatch.setattr(Path, "exists", lambda _: False)
    monkeypatch.setattr(Path, "is_dir", lambda _: False)
    with pytest.raises(TutorialError, match="cannot be used as a folder: .* is not there(?s:.*)TUTORIAL_MODEL_ROOT"):
        _ = Settings(model_root="E:/models").home


def made(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "config.json").touch()


def test_only_folders_that_this_project_makes_are_listed(tmp_path, monkeypatch):
    """The model root may be a folder in which others keep theirs."""
    monkeypatch.setenv("TUTORIAL_MODEL_ROOT", str(tmp_path))
    ours = ["smollm2-instruct/int4", "Qwen--Qwen3-0.6B@v1/checkpoint", "my--own model-0123abcd/int8"]
    made(tmp_path, *ours, "smollm2-instruct/checkpoint")
    made(tmp_path, ".config/Code", "Qwen/Qwen3-0.6B", "thesis/checkpoint", "models--Qwen--Qwen3-0.6B/snapshots")
    (tmp_path / "a file").touch()
    found = {name: [folder.name for folder in folders] for name, folders in on_disk()}
    assert found == {
        "Qwen/Qwen3-0.6B@v1": ["checkpoint"],
        "my/own model-0123abcd": ["int8"],
        "smollm2-instruct": ["checkpoint", "int4"],
    }


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid(), reason="only root can be another user")
def test_a_folder_that_may_not_be_read_hides_no_model(tmp_path):
    """lost+found on a disk of its own; a shared root with a private model."""
    made(tmp_path, "smollm2-instruct/int4", "smollm2-instruct/int8")
    (tmp_path / "lost+found").mkdir(mode=0o700)
    (tmp_path / "smollm2-instruct" / "int8").chmod(0o700)
    for folder in [tmp_path, *tmp_path.parents][:-2]:
        folder.chmod(0o755)
    code = "import os; from helpers.settings import on_disk; os.seteuid(65534); print([*dict(on_disk())])"
    environ = os.environ | {"TUTORIAL_MODEL_ROOT": str(tmp_path)}
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)
    assert ran.stdout == "['smollm2-instruct']\n", ran.stderr


@pytest.mark.parametrize("model", ["/my models/a'b", "owner/name@v1"])
@pytest.mark.skipif(os.name == "nt", reason="a property of POSIX shells")
def test_an_advised_command_can_be_typed(model):
    import shlex

    command = Settings(model=model).command("export", "--format", "int4")
    assert shlex.split(command) == ["python", "-m", "helpers", "export", "--model", model, "--format", "int4"]
