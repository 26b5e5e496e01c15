"""Models that are not in the catalog: by a hub's name, as an IR that others have converted, and in a folder."""

import json
import os
import shutil
import subprocess
import sys

import loaded
import pytest
from architectures import ARCHITECTURES, write_checkpoint
from hub import Hub, tiny_phi3
from hypothesis import given
from hypothesis import strategies as st

from helpers import catalog, export, files
from helpers.catalog import MODELS, find
from helpers.checkpoint import hub as hub_module
from helpers.checkpoint.fetch import fetch
from helpers.errors import TutorialError
from helpers.generate import generate
from helpers.load import load_fast
from helpers.metrics.quality import REFERENCE
from helpers.settings import ROOT, Settings
from helpers.tokenize import prompt_ids

QWEN, QWEN_IR = "Qwen/Qwen3-0.6B", "OpenVINO/Qwen3-0.6B-int4-ov"
COMMIT = "c1899de289a04d12100db370d81485cdf75e47ca"


@pytest.fixture
def serve(monkeypatch):
    """serve(folder, origin) makes this process and its children take a hub on loopback for the real one."""
    from huggingface_hub import constants

    started = []

    def start(folder, origin, commit=COMMIT) -> Hub:
        hub = Hub(folder)
        hub.origin, hub.commit, hub.answers = origin, commit, commit
        started.append(hub)
        hub.__enter__()
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        return hub

    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    yield start
    for hub in started:
        hub.__exit__()


def helpers(*argv: str, **environ: str) -> subprocess.CompletedProcess:
    environ = os.environ | {"PYTHONUTF8": "1"} | environ
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    return subprocess.run([sys.executable, "-m", "helpers", *argv], cwd=ROOT, env=environ, **options)


@pytest.mark.weekly  # 50 s; every push takes three architectures from the hub to an answer
def test_a_model_answers_by_its_hub_name_then_offline_then_as_an_ir_and_from_a_folder(serve, tmp_path):
    root = tmp_path / "modèles à moi"
    common = {"TUTORIAL_MODEL_ROOT": str(root), "TUTORIAL_DEVICE": "CPU"}
    hub = serve(tiny_phi3(tmp_path), QWEN)
    ran = helpers("export", TUTORIAL_MODEL=QWEN, **common)
    assert ran.returncode == 0 and "--group-size-fallback adjust" in ran.stdout, ran.stdout
    home = root / "Qwen--Qwen3-0.6B"
    assert files.read_manifest(home / "checkpoint")["revision"] == COMMIT
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    ask = ("ask", "Hello", "--max-new-tokens", "4")
    asked = hub.asked.total()
    ran = helpers(*ask, TUTORIAL_MODEL=QWEN, **common | offline)
    assert ran.returncode == 0 and hub.asked.total() == asked, ran.stdout
    answer = ran.stdout.splitlines()[0]

    public = tmp_path / "public"
    shutil.copytree(home / "int4", public, ignore=shutil.ignore_patterns(files.MANIFEST))
    serve(public, QWEN_IR)
    ran = helpers("export", "--model", QWEN_IR, **common)
    assert ran.returncode == 0 and "is an OpenVINO IR already" in ran.stdout and "% int4" in ran.stdout, ran.stdout
    assert "this model was not exported here" in ran.stdout
    ran = helpers(*ask, "--model", QWEN_IR, **common | offline)
    assert ran.returncode == 0 and ran.stdout.splitlines()[0] == answer, ran.stdout
    assert not (root / "OpenVINO--Qwen3-0.6B-int4-ov" / "int4").exists(), "an IR needs no export"

    mine = tmp_path / "my own model"
    shutil.copytree(public, mine)
    before = sorted(mine.iterdir())
    ran = helpers("export", "--model", str(mine), **common | offline)
    assert ran.returncode == 0, ran.stdout
    ran = helpers(*ask, "--model", str(mine), **common | offline)
    assert ran.returncode == 0 and ran.stdout.splitlines()[0] == answer, ran.stdout
    assert sorted(mine.iterdir()) == before, "nothing is written into a reader's folder"

    ran = helpers("models", **common)
    assert f"on this disk: {QWEN}, checkpoint" in ran.stdout and f"on this disk: {QWEN_IR}" in ran.stdout, ran.stdout
    ran = helpers("remove", QWEN, **common)
    assert ran.returncode == 0 and not home.exists(), ran.stdout
    assert helpers("remove", "..", **common).returncode == 1 and root.exists()


@pytest.mark.weekly  # 20 s
def test_a_checkpoint_in_a_folder_is_exported_beside_the_other_models(tmp_path):
    mine = tmp_path / "my checkpoint"
    shutil.copytree(tiny_phi3(tmp_path), mine)
    before = {file.name: file.read_bytes() for file in mine.iterdir()}
    root = tmp_path / "root"
    ran = helpers("export", "--model", str(mine), "--no-check", TUTORIAL_MODEL_ROOT=str(root))
    assert ran.returncode == 0, ran.stdout
    (home,) = root.iterdir()
    assert home.name.startswith("my checkpoint-") and files.is_ir(home / "int4")
    assert {file.name: file.read_bytes() for file in mine.iterdir()} == before


def repository(folder, **content) -> None:
    folder.mkdir()
    for name, text in content.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")


CONFIG = json.dumps({"model_type": "llama"})


def of_kind(model_type: str, **config: object) -> dict[str, str]:
    return {"config__json": json.dumps({"model_type": model_type} | config), "model__safetensors": "x"}


@pytest.mark.parametrize(
    "content, words",
    [
        ({"config__json": CONFIG, "pytorch_model__bin": "x"}, "no weights as safetensors"),
        ({"config__json": CONFIG, "model-Q4_K_M__gguf": "x"}, "weights as GGUF"),
        ({"adapter_config__json": "{}", "adapter_model__safetensors": "x"}, "is an adapter"),
        ({"config__json": json.dumps({"vision_config": {}}), "model__safetensors": "x"}, "pictures or sound"),
        ({"config__json": "[]", "model__safetensors": "x"}, "config.json is not a JSON object"),
        ({"config__json": "{}", "model__safetensors": "x"}, "names no model_type"),
        (of_kind("gemma2"), "'gemma2', which optimum-intel .* exports only with transformers up to 5.0; 5"),
        (of_kind("exaone4"), "'exaone4', which optimum-intel .* exports only with transformers up to"),
        (of_kind("lfm2"), "'lfm2', which optimum-intel .* exports only with transformers up to"),
        (of_kind("bert"), "'bert', which optimum-intel .* does not export for text generation"),
        (of_kind("nonsense"), "'nonsense', which optimum-intel .* does not export for text generation"),
        (of_kind("llama", quantization_config={"quant_method": "gptq"}), "quantized already .'gptq'."),
        (of_kind("llama", quantization_config=[]), "quantized already"),
    ],
)
def test_what_cannot_be_used_is_a_sentence_and_leaves_no_checkpoint(serve, tmp_path, content, words):
    repository(tmp_path / "repository", **content)
    hub = serve(tmp_path / "repository", QWEN)
    choice = Settings(model=QWEN, model_root=str(tmp_path / "root"))
    with pytest.raises(TutorialError, match=words) as caught:
        fetch(choice.spec, choice.checkpoint_dir, report=lambda _: None)
    assert caught.value.hint, "a reader is told what to do"
    assert not (tmp_path / "root").exists(), "nothing is left behind"
    assert not [name for name in hub.sent if name.endswith((".bin", ".gguf", ".safetensors"))]


def optimum_cli_in_this_process(argv, log, scratch) -> tuple[int, float]:
    """What export._run returns, without the 9 s in which a program of its own imports what this one has imported."""
    from optimum.commands.optimum_cli import main

    log.touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", argv)
        main()
    return 0, 0.0


ROAD = ("Qwen3", "Granite", "GPT2")  # every push; the others once a week


@pytest.mark.parametrize(
    "name", [name if name in ROAD else pytest.param(name, marks=pytest.mark.weekly) for name in ARCHITECTURES]
)
def test_an_architecture_goes_from_its_hub_name_to_the_greedy_answer_of_transformers(
    serve, tmp_path, monkeypatch, name
):
    """With the flags that its shape gives; transformers runs the same export."""
    if name != "Granite":
        monkeypatch.setattr(export, "_run", optimum_cli_in_this_process)
    write_checkpoint(name, tmp_path / "repository")
    serve(tmp_path / "repository", f"somebody/{name}")
    choice = Settings(model=f"somebody/{name}", model_root=str(tmp_path / "root"), ov_config=dict(REFERENCE))
    fetch(choice.spec, choice.checkpoint_dir, report=lambda _: None)
    export.run(export.command(choice), report=lambda _: None)
    model, tok, _ = load_fast(choice)
    prompt = prompt_ids(tok, [{"role": "user", "content": "Hello"}]) if tok.chat_template else tok("Hello").input_ids
    ours = [token.id for token in generate(model, prompt, 24, stop_ids=())]
    reference = loaded.load(choice.model_dir, **REFERENCE)
    if "rope_scaling" in ARCHITECTURES[name]:  # optimum-intel's generate fails where longrope begins
        assert ours == loaded.recomputed(reference, prompt, 24)
    else:
        assert ours == loaded.theirs(reference, prompt, 24, do_sample=False, eos_token_id=None)


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_says_how_to_get_access(serve, tmp_path, status):
    repository(tmp_path / "repository", config__json=CONFIG, model__safetensors="x")
    hub = serve(tmp_path / "repository", QWEN)
    hub.status["/resolve/"] = status
    choice = Settings(model=QWEN, model_root=str(tmp_path / "root"))
    with pytest.raises(TutorialError, match="refuses access") as caught:
        fetch(choice.spec, choice.checkpoint_dir, report=lambda _: None)
    assert "accept its licence" in caught.value.hint and "hf auth login" in caught.value.hint
    assert not (tmp_path / "root").exists(), "nothing is left behind"


@pytest.mark.parametrize(
    "tags, licence",
    [(["license:apache-2.0"], "apache-2.0"), (["license:\x1b[2Ja" + 90 * "b"], "2Ja" + 37 * "b")]
    + [(tags, "see its model card") for tags in (None, [], "x", [{}], [None])],
)
def test_the_licence_is_that_of_the_hub(serve, tmp_path, tags, licence):
    repository(tmp_path / "repository", config__json=CONFIG, model__safetensors="x")
    serve(tmp_path / "repository", "somebody/model").tags = tags
    assert hub_module.listing(find("somebody/model"))[0].licence == licence


def test_a_branch_becomes_a_commit_and_a_commit_is_pinned(serve, tmp_path):
    repository(tmp_path / "repository", config__json=CONFIG, model__safetensors="x")
    serve(tmp_path / "repository", QWEN)
    assert hub_module.listing(find(QWEN))[0].revision == COMMIT
    assert hub_module.listing(find(f"{QWEN}@{COMMIT}"))[0].revision == COMMIT
    with pytest.raises(TutorialError):
        hub_module.listing(find(f"{QWEN}@{'0' * 40}"))


def test_an_ir_is_downloaded_without_other_weights(serve, tmp_path):
    names = ("openvino_model__xml", "openvino_model__bin", "model__safetensors", "consolidated__safetensors")
    repository(tmp_path / "repository", config__json=CONFIG, **dict.fromkeys(names, "x"))
    serve(tmp_path / "repository", QWEN_IR)
    entries = [entry.name for entry in hub_module.listing(find(QWEN_IR))[1]]
    assert sorted(entries) == ["config.json", "openvino_model.bin", "openvino_model.xml"]


@given(st.text(max_size=30) | st.sampled_from(["../x", "a/../b", "a//b", "/", "~x/y", "a/b@", "a/b@c/d", "", "a\0b"]))
def test_any_name_is_a_model_or_a_sentence(name):
    try:
        model = find(name)
    except TutorialError as error:
        assert "There is no model" in error.message
        return
    folder = model.folder_name
    assert folder and folder not in (".", "..") and not set("/\\\0") & set(folder)


@pytest.mark.parametrize("name", ["a--b/c", "a/b--c", "a/b..c"])
def test_a_name_that_the_hub_does_not_allow_is_refused(name):
    """Otherwise the first two would share a folder."""
    with pytest.raises(TutorialError, match="There is no model"):
        find(name)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(TutorialError, match="There is no model"):
        find(str(tmp_path))


def test_two_folders_of_one_name_do_not_share_an_export(tmp_path):
    for parent in ("one", "two"):
        (tmp_path / parent / "model").mkdir(parents=True)
        (tmp_path / parent / "model" / "config.json").touch()
    names = {find(str(tmp_path / parent / "model")).folder_name for parent in ("one", "two")}
    assert len(names) == 2


def test_names_of_the_catalog_are_not_those_of_the_hub():
    assert [name for name in MODELS if catalog.HUB_NAME.fullmatch(name)] == []
