"""The Phi-3 lane: a tiny Phi-3 with random weights, served by a hub on loopback under the document's own name.

The document's command runs on it unchanged, its script as far as the decoded answer, and the published notebooks from
download to decode with the solutions of their exercises.  The generated text is meaningless; every call has to work.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub import PHI3, Hub, tiny_phi3
from test_exercises import PAGES, verdicts_on_solutions

ROOT = Path(__file__).parents[2]
PER_PUSH = {"09"}  # every push runs the others on the embedded model; on this one, weekly

# The document's step 1, unchanged.
COMMAND = (
    'optimum-cli export openvino --model "microsoft/Phi-3-mini-4k-instruct" --task text-generation-with-past '
    "--weight-format int4 --group-size 128 --ratio 0.6 --sym --trust-remote-code ./model/phi3-instruct/int4"
)
# The document's steps 2 to 10.  One change: the device is 'CPU' instead of 'GPU.0'.
SCRIPT = """
from transformers import AutoConfig, AutoTokenizer
from optimum.intel.openvino import OVModelForCausalLM

model_dir = './model/phi3-instruct/int4'
ov_config = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "CACHE_DIR": ""}
ov_model = OVModelForCausalLM.from_pretrained(
    model_dir,
    device='CPU',
    ov_config=ov_config,
    config=AutoConfig.from_pretrained(model_dir, trust_remote_code=True),
    trust_remote_code=True,
)
tok = AutoTokenizer.from_pretrained(model_dir, trust_remote_code=True)
tokenizer_kwargs = {"add_special_tokens": False}
prompt = "<|system|>You are a helpful AI assistant.<|end|><|user|>can you introduce yourself?<|end|><|assistant|>"
input_tokens = tok(prompt, return_tensors="pt", **tokenizer_kwargs)
answer = ov_model.generate(**input_tokens, max_new_tokens=1024)
decoded_answer = tok.batch_decode(answer, skip_special_tokens=True)[0]
"""


@pytest.fixture(scope="session")
def hub(tmp_path_factory):
    with Hub(tiny_phi3(tmp_path_factory.getbasetemp())) as hub:
        yield hub


def run(argv: list[str], cwd: Path, hub: Hub, home: Path, **environ: str) -> subprocess.CompletedProcess:
    """Run `argv` with the programs of this Python's environment, `hub`, and `home` as the hub's cache."""
    scripts = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environ = {
        "PATH": scripts,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "PYTHONUTF8": "1",
    } | environ
    argv = [shutil.which(argv[0], path=scripts) or argv[0], *argv[1:]]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "errors": "replace"}
    return subprocess.run(argv, cwd=cwd, env=os.environ | environ, timeout=900, **options)


def tail(ran: subprocess.CompletedProcess, lines: int = 60) -> str:
    return "\n".join(ran.stdout.splitlines()[-lines:])


@pytest.mark.weekly  # 30 s; every push runs both in pages 00 and 01, on the embedded model
def test_the_documents_command_and_script_run_unchanged(hub, tmp_path):
    exported = run(shlex.split(COMMAND), tmp_path, hub, tmp_path / "hf")
    assert exported.returncode == 0, tail(exported)
    assert (tmp_path / "model" / "phi3-instruct" / "int4" / "openvino_model.bin").exists()
    assert (tmp_path / "model" / "phi3-instruct" / "int4" / "tokenizer.json").exists(), "optimum-cli is silent about it"
    look = "import json; print(json.dumps([decoded_answer, answer.shape[1], input_tokens.input_ids.shape[1]]))"
    answered = run([sys.executable, "-c", SCRIPT + look], tmp_path, hub, tmp_path / "hf")
    assert answered.returncode == 0, tail(answered)
    decoded, n_all, n_prompt = json.loads(answered.stdout.splitlines()[-1])
    assert decoded.startswith("You are a helpful AI assistant."), "the document does not remove the prompt's echo"
    assert "can you introduce yourself?" in decoded
    assert n_prompt < n_all <= n_prompt + 1024


@pytest.fixture(scope="session")
def marker(tmp_path_factory):
    """The file that the repository's code would write."""
    return tmp_path_factory.mktemp("marker") / "written by remote code"


@pytest.fixture(scope="session")
def stranger(hub, marker, tmp_path_factory):
    """A hub whose repository has remote code, as Phi-3's has.  This one writes a file and stops the export."""
    folder = tmp_path_factory.mktemp("stranger") / "repository"
    shutil.copytree(hub.folder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {
        "AutoConfig": "configuration_phi3.Phi3Config",
        "AutoModelForCausalLM": "modeling_phi3.Phi3ForCausalLM",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nraise SystemExit('the export is in my hands')"
    for name in ("configuration_phi3.py", "modeling_phi3.py"):
        (folder / name).write_text(code, encoding="utf-8")
    with Hub(folder) as stranger:
        yield stranger


@pytest.mark.weekly
def test_trust_remote_code_runs_the_repositorys_code(stranger, marker, tmp_path):
    exported = run(shlex.split(COMMAND), tmp_path, stranger, tmp_path / "hf")
    assert marker.exists(), tail(exported)
    assert "the export is in my hands" in exported.stdout
    marker.unlink()


# The project asks for the disk space of the true Phi-3-mini, 17 GiB, which a CI machine may not have.
ROOMY = """
import shutil
from types import SimpleNamespace

shutil.disk_usage = lambda path: SimpleNamespace(free=10**12)
"""


@pytest.fixture(scope="session")
def lane(stranger, tmp_path_factory):
    """The environment of the notebooks.  They share the models: page 00 exports, and the later pages load."""
    folder, path = tmp_path_factory.mktemp("lane"), tmp_path_factory.mktemp("path")
    (path / "sitecustomize.py").write_text(ROOMY, encoding="utf-8")
    return {
        "PYTHONPATH": os.pathsep.join([str(path), str(ROOT)]),
        "HF_ENDPOINT": stranger.url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "0",
        "TUTORIAL_MODEL_ROOT": str(folder / "modèle de la leçon"),
        "TUTORIAL_MODEL": PHI3.name,
        "TUTORIAL_DEVICE": "CPU",
    }


@pytest.mark.parametrize(
    "page", [pytest.param(p, id=p.stem, marks=[] if p.stem[:2] in PER_PUSH else pytest.mark.weekly) for p in PAGES]
)
def test_the_published_notebook_runs_on_phi3_with_its_solutions(page, lane, stranger, marker):
    if page.stem > "02" and not Path(lane["TUTORIAL_MODEL_ROOT"], PHI3.name, "int4").exists():  # page 00 did not run
        exported = run([sys.executable, "-m", "helpers", "export"], ROOT, stranger, Path(lane["HF_HOME"]), **lane)
        assert exported.returncode == 0, tail(exported)
    assert verdicts_on_solutions(page, **lane) == ["solved"] * 3
    assert not marker.exists(), "a page ran code from the repository"
