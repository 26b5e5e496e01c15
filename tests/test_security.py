"""Files from elsewhere run no code here, and no secret of this machine is disclosed.

The steps fetch, export and ask run once, from a hub whose repository has remote code and a pickle.  Each would create a
file that the tests look for.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import connections
import pytest
from hub import PHI3, Hub, tiny_phi3
from packaging.requirements import Requirement
from remote_code import trap
from test_errors import ADDRESSES, MALFORMED, VARIABLES
from test_project import published

from helpers import __main__, catalog, export
from helpers.checkpoint.fetch import fetch
from helpers.checks import network
from helpers.errors import TutorialError
from helpers.settings import ROOT, Settings

CANARY = "hf_" + "Canary0" * 5  # looks like a token of the hub; in parts, so that the test below does not find it
PROXY = "http:" + f"//reader:{CANARY}@127.0.0.1:9"  # nobody listens there


@pytest.fixture(scope="module")
def mark(tmp_path_factory):
    """What the repository's code or pickle would create."""
    return tmp_path_factory.mktemp("mark") / "the stranger was here"


@pytest.fixture(scope="module")
def repository(tmp_path_factory, mark):
    """The tiny Phi-3 with remote code and a pickle."""
    folder = tmp_path_factory.mktemp("stranger") / "repository"
    shutil.copytree(tiny_phi3(tmp_path_factory.getbasetemp()), folder)
    return trap(folder, mark)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """walk(hub, root, "export", …) runs the command line with a token and a proxy's password in its environment."""

    def run(hub: Hub, root: Path, *argv: str, **environ: str) -> connections.Recording:
        environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(root / "hf")} | environ
        environ |= {"TUTORIAL_MODEL_ROOT": str(root / "model"), "HF_TOKEN": CANARY, "HTTPS_PROXY": PROXY}
        environ |= {
            "PYTORCH_API_USAGE_STDERR": "1",
            "PYTHONUTF8": "1",
        }  # PyTorch then reports its calls
        return connections.record([sys.executable, "-m", "helpers", *argv], cwd=ROOT, environ=os.environ | environ)

    return run


@pytest.fixture(scope="module")
def road(repository, walk, tmp_path_factory):
    """Run fetch, export and ask; return their output, what the hub was asked, and the folder."""
    root = tmp_path_factory.mktemp("road")
    model = ("--model", PHI3.name)
    with Hub(repository) as hub:
        steps = [walk(hub, root, *argv, *model) for argv in (["fetch"], ["export"])]
        steps.append(walk(hub, root, "ask", "hello", "--max-new-tokens", "4", *model))
        asked = dict(hub.asked)
    assert [step.code for step in steps] == [0, 0, 0], "\n".join(step.output for step in steps)
    return types.SimpleNamespace(root=root, steps=steps, asked=asked, output="\n".join(step.output for step in steps))


def python(code: str, **environ: str) -> subprocess.CompletedProcess:
    options = {"cwd": ROOT, "env": os.environ | environ, "capture_output": True, "encoding": "utf-8"}
    return subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, **options)


def left(road) -> str:
    """Return all text that the steps left on the disk: logs, manifests, configurations."""
    files = [file for file in road.root.rglob("*") if file.is_file() and file.stat().st_size < 10**6]
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


@pytest.mark.weekly
def test_no_code_of_the_repository_runs(road, mark):
    assert not mark.exists()
    assert not list(road.root.rglob("*.py")), "it is not downloaded"
    assert road.asked.get("GET stranger.py", 0) == 0


@pytest.mark.weekly
def test_nothing_is_unpickled(road, mark):
    assert road.asked.get("GET pytorch_model.bin", 0) == 0
    report = road.output + left(road)
    assert "PYTORCH_API_USAGE torch.python.import" in report, "PyTorch no longer reports"
    assert "PYTORCH_API_USAGE torch.load" not in report


@pytest.mark.weekly
def test_only_the_hub_is_contacted(road):
    assert [line for step in road.steps for line in step.tried] == []
    pinned = f"/api/models/{PHI3.origin}/revision/{PHI3.revision}"
    assert [asked for asked in road.asked if "/api/" in asked] == [f"GET {pinned}"], "only the pinned revision"


@pytest.mark.weekly
def test_no_secret_is_printed_or_written(road):
    assert CANARY not in road.output
    assert CANARY not in left(road)


@pytest.mark.weekly
@pytest.mark.parametrize("kind", ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"])
def test_the_code_runs_with_trust_remote_code(repository, mark, kind, tmp_path):
    load = f"from transformers import {kind}; {kind}.from_pretrained({str(repository)!r}, trust_remote_code="
    ran = python(f"{load}False)", HF_HOME=str(tmp_path))
    assert not mark.exists(), ran.stderr
    ran = python(f"{load}True)", HF_HOME=str(tmp_path))
    assert mark.is_file(), ran.stderr
    mark.unlink()


def test_the_pickle_runs_without_weights_only(repository, mark):
    load = f"import torch; torch.load({str(repository / 'pytorch_model.bin')!r}, weights_only="
    ran = python(f"{load}True)", PYTORCH_API_USAGE_STDERR="1")
    assert not mark.exists() and "PYTORCH_API_USAGE torch.load" in ran.stderr
    ran = python(f"{load}False)")
    assert mark.is_dir(), ran.stderr
    mark.rmdir()


@pytest.mark.parametrize("unknown", [(), ("config.json", "model_type"), ("tokenizer_config.json", "tokenizer_class")])
@pytest.mark.weekly
def test_a_copied_export_with_remote_code_runs_nothing(road, mark, tmp_path, unknown):
    """The library may know its type and tokenizer, or would need the code."""
    folder = tmp_path / PHI3.name / "int4"
    shutil.copytree(road.root / "model" / PHI3.name / "int4", folder)
    trap(folder, mark)
    if unknown:
        name, key = unknown
        table = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(table | {key: "Stranger"}), encoding="utf-8")
    load = "from helpers import settings; from helpers.load import load_model; load_model(settings.load())"
    ran = python(load, TUTORIAL_MODEL=PHI3.name, TUTORIAL_MODEL_ROOT=str(tmp_path), HF_HOME=str(tmp_path / "hf"))
    assert not mark.exists()
    assert "[y/N]" not in ran.stdout, "it asks whether to run the code"
    # Instead of an unknown tokenizer, transformers uses one of its own.
    assert (ran.returncode == 0) == ("config.json" not in unknown), ran.stderr


@pytest.fixture
def only_a_pickle(repository, tmp_path):
    folder = tmp_path / "only a pickle"
    shutil.copytree(repository, folder, ignore=shutil.ignore_patterns("*.safetensors*"))
    return folder


def test_a_repository_without_safetensors_is_refused(only_a_pickle, walk, mark, tmp_path):
    with Hub(only_a_pickle) as hub:
        ran = walk(hub, tmp_path, "export", "--model", PHI3.name)
        assert hub.asked["GET pytorch_model.bin"] == 0
    assert ran.code == 1 and "has no weights as safetensors" in ran.output, ran.output
    assert not (tmp_path / "model" / PHI3.name / "checkpoint").exists()


def test_a_pickle_in_the_checkpoint_is_not_loaded(only_a_pickle, walk, mark, tmp_path):
    shutil.copytree(only_a_pickle, tmp_path / "model" / PHI3.name / "checkpoint")
    with Hub(only_a_pickle) as hub:
        ran = walk(hub, tmp_path, "export", "--model", PHI3.name)
    assert ran.code == 1 and "Traceback" not in ran.output, ran.output
    assert not mark.exists()
    assert not (tmp_path / "model" / PHI3.name / "int4").exists()


PICKLED = {"metadata": {}, "weight_map": {"a": "pytorch_model.bin"}}
UNSAFE = {
    "a shard": {"model.safetensors.index.json": PICKLED},
    "an index": {"config.json": {"transformers_weights": "x.safetensors.index.json"}},
}


@pytest.fixture
def chooses_a_pickle(repository, tmp_path):
    """chooses_a_pickle(how) is a checkpoint with a pickle, which transformers would read."""

    def make(how: str) -> Path:
        folder = shutil.copytree(repository, tmp_path / "mine")
        for name, more in UNSAFE[how].items():
            known = json.loads((folder / name).read_text(encoding="utf-8")) if (folder / name).exists() else {}
            (folder / name).write_text(json.dumps(known | more), encoding="utf-8")
        (folder / "x.safetensors.index.json").write_text(json.dumps(PICKLED), encoding="utf-8")
        return folder

    return make


@pytest.mark.parametrize("how", UNSAFE)
def test_a_readers_own_folder_cannot_select_a_pickle(chooses_a_pickle, mark, how):
    folder = chooses_a_pickle(how)
    with pytest.raises(TutorialError, match="is damaged: .*(index.json is malformed|config.json is unsafe)"):
        fetch(catalog.find(str(folder)), folder, report=print)
    assert not mark.exists()


@pytest.mark.weekly
@pytest.mark.parametrize("how", UNSAFE)
def test_transformers_reads_a_pickle_that_is_selected(chooses_a_pickle, how):
    folder = chooses_a_pickle(how)
    load = f"from transformers import AutoModelForCausalLM; AutoModelForCausalLM.from_pretrained({str(folder)!r})"
    assert "PYTORCH_API_USAGE torch.load" in python(load, PYTORCH_API_USAGE_STDERR="1").stderr


PROGRAMS = [*ROOT.glob("helpers/**/*.py"), *ROOT.glob("bench/*.py"), *ROOT.glob("demo/*.py"), ROOT / "noxfile.py"]


def calls(path: Path) -> list[ast.Call]:
    """Return all calls in a module or notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]


def test_notebooks_trust_no_remote_code():
    """Except one cell of notebook 03, which shows what that does, with a repository that the notebook has made."""
    trusting = [
        ast.unparse(call)
        for page in ROOT.glob("notebooks/*.ipynb")
        for call in calls(page)
        for word in call.keywords
        if word.arg == "trust_remote_code" and ast.unparse(word.value) != "False"
    ]
    assert trusting == ["AutoConfig.from_pretrained(repository, trust_remote_code=trust)"]


def test_no_program_trusts_remote_code_or_unpickles():
    """The catalog's field is the only switch; every program passes it on, or keeps the libraries' False."""
    found = re.compile(r"trust_remote_code\W{1,3}True|\bpickle\.|import pickle|torch\.load|allow_pickle|joblib")
    texts = [(path.name, path.read_text(encoding="utf-8")) for path in PROGRAMS]
    assert [(name, line) for name, text in texts for line in text.splitlines() if found.search(line)] == []
    assert [model.name for model in catalog.MODELS.values() if model.trust_remote_code] == []


def test_each_from_pretrained_of_helpers_sets_trust_remote_code():
    """Without it, transformers asks the reader whether to run the code of a folder.  GGUF files have none."""
    unset = [
        f"{path.name}:{call.lineno}"
        for path in ROOT.glob("helpers/**/*.py")
        for call in calls(path)
        if getattr(call.func, "attr", "") == "from_pretrained"
        and not {word.arg for word in call.keywords} & {"trust_remote_code", "gguf_file", None}
    ]
    assert unset == []


@pytest.mark.weekly
def test_the_switch_of_the_catalog_downloads_and_runs_the_code(road, repository, mark, tmp_path, monkeypatch):
    trusted = dataclasses.replace(PHI3, trust_remote_code=True)
    monkeypatch.setitem(catalog.MODELS, PHI3.name, trusted)
    choice = Settings(model=PHI3.name, model_root=str(tmp_path))
    assert export.command(choice)[-2] == "--trust-remote-code"
    shutil.copytree(road.root / "model" / PHI3.name / "int4", choice.model_dir)
    trap(choice.model_dir, mark)
    entry = f"catalog.MODELS[{PHI3.name!r}]"
    code = "import dataclasses; from helpers import catalog, settings; "
    code += "from helpers.checkpoint.fetch import fetch; from helpers.load import load_model; "
    code += f"{entry} = dataclasses.replace({entry}, trust_remote_code=True); choice = settings.load(); "
    code += "fetch(choice.spec, choice.checkpoint_dir); load_model(choice)"
    with Hub(repository) as hub:
        environ = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
        ran = python(code, TUTORIAL_MODEL=PHI3.name, TUTORIAL_MODEL_ROOT=str(tmp_path), **environ)
        assert hub.asked["GET stranger.py"] == 1 and hub.asked["GET pytorch_model.bin"] == 0, ran.stderr
    assert mark.is_file(), ran.stderr
    mark.unlink()


# What no file may contain, with an example, in parts, so that this file has none.
SECRETS = {
    "a hub token": (r"\bhf_[A-Za-z0-9]{30,}", CANARY),
    "a cloud's key": (r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", "AKIA" + "Q7" * 8),
    "a GitHub token": (r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{22})", "ghp" + "_" + "a1" * 18),
    "an index's token": (r"\bpypi-[\w-]{50,}", "pypi" + "-" + "a1" * 25),
    "a private key": (r"-----BEGIN [A-Z ]*PRIVATE KEY", "-----BEGIN " + "PRIVATE KEY-----"),
    "a password in an address": (
        r"://[^\s/:@\"'{}\\]+:[^\s/:@\"'{}\\]+@[\w-]+\.",
        "https:" + "//me:secret@example.org",
    ),
    "a server's token": (r"\btoken=[0-9a-f]{32,}", "?token=" + "0123456789abcdef" * 3),
}
EXAMPLES = {"secret", "password", "pw"}  # the passwords in our tests


def test_no_file_of_the_project_has_a_secret():
    """The stored outputs of the notebooks are in these files too."""
    found = []
    for pattern, example in SECRETS.values():
        assert re.search(pattern, example), "this one would not be found"
        found += [(path.name, match[0]) for path, text in published() for match in re.finditer(pattern, text)]
    assert [(name, text) for name, text in found if not EXAMPLES & set(re.split(r"\W", text))] == []


@pytest.mark.parametrize(
    "argv, environ",
    [
        (["fetch", "--model", PHI3.name], {"HF_ENDPOINT": PROXY}),
        pytest.param(
            ["fetch", "--model", PHI3.name],
            {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": PROXY},
            marks=pytest.mark.weekly,
        ),
        (["fetch", "--model", "smollm2-instruct"], {"PIP_INDEX_URL": f"{PROXY}/simple"}),
        pytest.param(
            ["fetch", "--model", "smollm2-instruct"],
            {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_PROXY": PROXY},
            marks=pytest.mark.weekly,
        ),
        (["doctor", "--network", "--model", PHI3.name], {"HF_ENDPOINT": PROXY, "PIP_INDEX_URL": f"{PROXY}/simple"}),
    ],
)
def test_no_error_message_has_a_secret(walk, tmp_path, argv, environ):
    own = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": "", "PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "3"}
    ran = walk(types.SimpleNamespace(url=""), tmp_path, *argv, **own | environ)
    assert ran.code == 1 and "Traceback" not in ran.output, ran.output
    assert CANARY not in ran.output, ran.output


@pytest.fixture
def pip_conf(monkeypatch, tmp_path) -> Path:
    """The only place where pip finds settings, and there are no proxies."""
    for name in [name for name in os.environ if name.startswith("PIP_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    return tmp_path / "pip.conf"


@pytest.fixture
def told(monkeypatch, capsys, tmp_path, pip_conf):
    """told("fetch", …) is what `python -m helpers fetch …` prints, in this process."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    monkeypatch.setenv("TUTORIAL_MODEL_ROOT", str(tmp_path / "model"))
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "1")
    monkeypatch.setattr(network, "TIMEOUT", 1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 1)

    def run(*argv: str) -> tuple[int, str]:
        monkeypatch.setattr(constants, "ENDPOINT", os.environ.get("HF_ENDPOINT", "http://127.0.0.1:9"))
        close_session()  # which keeps the proxies that it began with
        monkeypatch.setattr(sys, "argv", ["helpers", *argv])
        code = __main__.run()
        return code, "".join(capsys.readouterr())

    yield run
    monkeypatch.undo()
    close_session()


def turned(addresses: list[str], by: int) -> dict[str, str]:
    """Return an address for each variable; over all `by`, each has been in each."""
    forms = [addresses[(by + n) % len(addresses)] for n in range(len(VARIABLES))]
    return {name: form.format(CANARY) for name, form in zip(VARIABLES, forms, strict=True)}


STEPS = [
    ["doctor", "--network"],
    ["doctor", "--network", "--json", "--model", PHI3.name],
    ["fetch", "--model", PHI3.name],
]
STEPS += [["fetch", "--model", "smollm2-instruct"]]
LATER = pytest.mark.weekly


@pytest.mark.parametrize(
    "environ",
    [
        *(
            pytest.param(turned(ADDRESSES, by), marks=[LATER] * (by > 0), id=f"all {by}")
            for by in range(len(ADDRESSES))
        ),
        *(
            pytest.param(turned(MALFORMED, by), marks=[LATER] * (by > 0), id=f"bad {by}")
            for by in range(len(MALFORMED))
        ),
    ],
)
def test_no_form_of_an_address_discloses_a_part_of_its_secret(told, monkeypatch, environ):
    for name, value in (environ | {"HF_TOKEN": CANARY}).items():
        monkeypatch.setenv(name, value)
    for argv in STEPS:
        code, said = told(*argv)
        assert code in (0, 1) if argv[0] == "doctor" else code == 1
        assert CANARY not in said and "Traceback" not in said and len(said) > 100, said


@pytest.mark.parametrize(
    "address",
    [
        ADDRESSES[0],
        MALFORMED[0],
        *(pytest.param(form, marks=LATER) for form in (ADDRESSES[1], ADDRESSES[5], MALFORMED[1])),
    ],
)
def test_a_secret_in_pips_configuration_is_not_disclosed(told, tmp_path, address):
    own = f"[global]\nproxy = {address}\nindex-url = {address}\nextra-index-url = http://127.0.0.1:9\n  {address}\n"
    (tmp_path / "pip.conf").write_text(own.format(CANARY), encoding="utf-8")
    for argv in (STEPS[0], STEPS[3]):
        code, said = told(*argv)
        assert code == 1 and CANARY not in said and "Traceback" not in said, said


def test_a_log_in_page_behind_a_password_is_named_without_it(repository, walk, tmp_path):
    with Hub(repository) as hub:
        hub.status["/api/"] = 200
        secret = hub.url.replace("//", f"//reader:{CANARY}@")
        ran = walk(hub, tmp_path, "fetch", "--model", PHI3.name, HF_ENDPOINT=secret)
    assert ran.code == 1 and "not a hub" in ran.output, ran.output
    assert CANARY not in ran.output, ran.output


class Session:
    """Stands in for nox's; pip-audit leaves `told`, {} for nothing, and exits with 0 or 1."""

    def __init__(self, folder: Path, told: dict):
        self.folder, self.told, self.logged = folder, told, []
        self.install, self.create_tmp, self.log = print, lambda: folder, self.logged.append

    def run(self, *argv, success_codes):
        assert success_codes == [0, 1]
        if self.told:
            Path(argv[argv.index("--output") + 1]).write_text(json.dumps(self.told), encoding="utf-8")

    def error(self, text):
        raise RuntimeError(text)


@pytest.fixture
def space(monkeypatch):
    """What noxfile.py defines, without nox."""

    def session(function=None, **_):
        return function or session

    nox = types.SimpleNamespace(session=session, Session=Session, options=types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "nox", nox)
    space = {"__file__": str(ROOT / "noxfile.py"), "__name__": "noxfile"}
    exec((ROOT / "noxfile.py").read_text(encoding="utf-8"), space)
    return space


PINS = [line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line]
AUDITED = [{"name": name, "version": version, "vulns": []} for name, version in PINS]
BAD = {"name": "x", "version": "1", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}


@pytest.mark.parametrize(
    "told, outcome",
    [
        ({"dependencies": AUDITED}, "0 vulnerabilities"),
        ({"dependencies": [BAD, *AUDITED[1:]]}, "2 vulnerabilities are known.\nx 1: CVE-1\nx 1: CVE-2"),
        ({}, "NOT AUDITED: 0 of"),
        ({"dependencies": []}, "NOT AUDITED: 0 of"),
        ({"dependencies": AUDITED[1:]}, "NOT AUDITED"),
        ({"dependencies": [{"name": "x", "skip_reason": "not found"}, *AUDITED[1:]]}, "NOT AUDITED"),
    ],
)
def test_an_audit_that_did_not_happen_fails(tmp_path, space, told, outcome):
    (tmp_path / "audit.json").write_text(json.dumps({"dependencies": AUDITED}), encoding="utf-8")  # of an earlier one
    run = Session(tmp_path, told)
    if "NOT" in outcome:
        with pytest.raises(RuntimeError, match=outcome):
            space["audit"](run)
    else:
        space["audit"](run)
        assert outcome in run.logged[0]


QUOTED = MALFORMED[1].replace("#b", "#'b")  # pip shows a value that contains ' in double quotes
REFUSED = {
    "a variable": ({"PIP_INDEX_URL": MALFORMED[1]}, "", "password in PIP_INDEX_URL has a character"),
    "uv's variable": ({"UV_INDEX": MALFORMED[0]}, "", "password in UV_INDEX has a character"),
    "pip's file": ({}, f"index-url = {MALFORMED[1]}", "password in global.index-url has a character"),
    "two lines": ({}, f"extra-index-url = http://a.example\n  {MALFORMED[1]}", "password in global.extra-index-url"),
    "a quote": ({}, f"index-url = {QUOTED}", "password in global.index-url has a character"),
    "a bad file": ({}, "no value, {0}", "cannot list its settings. To see why"),
}


@pytest.mark.parametrize("environ, own, said", REFUSED.values(), ids=REFUSED)
def test_an_installation_does_not_disclose_a_part_of_a_secret(
    space, pip_conf, tmp_path, monkeypatch, capfd, environ, own, said
):
    """pip and uv would print it to stderr, so neither may run: Session.run fails here."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value.format(CANARY))
    pip_conf.write_text(f"[global]\n{own}\n".format(CANARY), encoding="utf-8")
    space.update(VENV=tmp_path, PYTHON=sys.executable)
    for task in ("install", "constraints") if environ else ("install",):
        with pytest.raises(RuntimeError, match=said) as caught:
            space[task](Session(tmp_path, {}))
        assert CANARY not in str(caught.value) + "".join(capfd.readouterr())


def test_pips_settings_are_read_with_all_their_lines(space, pip_conf, tmp_path, monkeypatch):
    own = "[global]\nindex-url = http://127.0.0.1:9/simple\nextra-index-url = http://b.example\n  http://c.example\n"
    pip_conf.write_text(own, encoding="utf-8")
    monkeypatch.setitem(space, "PYTHON", sys.executable)
    found = space["pip_settings"](Session(tmp_path, {}))
    assert found["global.extra-index-url"].split() == ["http://b.example", "http://c.example"]
    assert found["global.index-url"] == "http://127.0.0.1:9/simple"


def test_the_check_of_addresses_needs_only_the_standard_library():
    """noxfile.py runs it in nox's own Python."""
    code = f"import runpy; runpy.run_path({str(ROOT / 'helpers' / 'errors.py')!r})['check_addresses']()"
    assert subprocess.run([sys.executable, "-I", "-S", "-c", code]).returncode == 0


def test_what_builds_the_project_is_pinned_too():
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    (version,) = [version for name, version in PINS if name == "setuptools"]
    assert len(requires) == 1 and version in Requirement(requires[0]).specifier
    assert "999" not in Requirement(requires[0]).specifier
    assert '"--build-constraint", "constraints.txt"' in (ROOT / "noxfile.py").read_text(encoding="utf-8")
