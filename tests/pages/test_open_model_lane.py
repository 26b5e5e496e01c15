"""A model by its hub id or its folder: from nothing to the published pages and an answer, then the same offline.

Tiny random models stand on a hub on loopback under the real names: a checkpoint, and the IR made of it.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hub import Hub, tiny_qwen3
from test_exercises import PAGES, verdicts_on_solutions

from helpers import files

ROOT = Path(__file__).parents[2]
FOLDER = "Mon modèle (copie)"
NAMES = ("Qwen/Qwen3-0.6B", "OpenVINO/Qwen3-0.6B-int4-ov", FOLDER)
SHOWN = [page for page in PAGES if page.stem[:2] in ("00", "07")]
COMMIT = "c1899de289a04d12100db370d81485cdf75e47ca"

pytestmark = pytest.mark.weekly  # takes minutes


@pytest.fixture(scope="module")
def environ(tmp_path_factory):
    """The environment of a reader whose folder of models is empty at first."""
    root = tmp_path_factory.mktemp("my models")
    offline = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    return {"TUTORIAL_MODEL_ROOT": str(root), "TUTORIAL_DEVICE": "CPU", "HF_HOME": str(root / "hf")} | offline


@pytest.fixture(scope="module")
def repositories(environ, tmp_path_factory):
    """The folder behind each name; that of the IR is made when it is first asked for, from what was exported."""

    def of(name: str) -> Path:
        if name != NAMES[1]:
            return tiny_qwen3(tmp_path_factory.getbasetemp())
        folder = tmp_path_factory.getbasetemp() / "qwen3-ir"
        if not folder.exists():
            made = Path(environ["TUTORIAL_MODEL_ROOT"], NAMES[0].replace("/", "--"), "int4")
            shutil.copytree(made, folder, ignore=shutil.ignore_patterns(files.MANIFEST))
        return folder

    return of


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """What a reader writes for each name: for the folder, with a checkpoint in it, its path."""
    folder = tmp_path_factory.mktemp("elsewhere") / FOLDER
    shutil.copytree(tiny_qwen3(tmp_path_factory.getbasetemp()), folder)
    return {name: name for name in NAMES} | {FOLDER: str(folder)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.stem)
def test_the_published_notebook_runs_on_a_model_of_the_reader(page, name, environ, repositories, chosen):
    with Hub(repositories(name)) as hub:
        hub.origin, hub.commit, hub.answers = name, COMMIT, COMMIT
        online = environ | {"TUTORIAL_MODEL": chosen[name], "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
        assert verdicts_on_solutions(page, **online) == ["solved"] * 3


@pytest.mark.parametrize("name", NAMES)
def test_the_model_answers_offline_afterwards(name, environ, chosen):
    argv = [sys.executable, "-m", "helpers", "ask", "Hello", "--max-new-tokens", "8"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "encoding": "utf-8", "cwd": ROOT}
    ran = subprocess.run(
        argv, env=os.environ | environ | {"TUTORIAL_MODEL": chosen[name], "PYTHONUTF8": "1"}, **options
    )
    assert ran.returncode == 0 and "8 tokens" in ran.stdout, ran.stdout
