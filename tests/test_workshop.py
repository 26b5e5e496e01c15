"""The class: the hub's configuration, the light kernel and what it installs, its notebook, and the organiser's page."""

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import nbformat
import pytest
from jupyter_client import KernelManager
from nbclient import NotebookClient
from openai_servers import KEY, LoopbackServer, vllm
from packaging.requirements import Requirement
from traitlets.config import Config, PyFileConfigLoader

from helpers.settings import ROOT

HERE = ROOT / "workshop"
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
HEAVY = ("torch", "transformers", "openvino", "nncf", "optimum", "accelerate", "matplotlib")


def load(name: str, monkeypatch, **environ: str) -> Config:
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    return PyFileConfigLoader(name, path=str(HERE)).load_config()


def test_the_hubs_configuration_gives_each_kernel_the_server_and_no_model(monkeypatch):
    c = load("jupyterhub_config.py", monkeypatch, TUTORIAL_SERVER="http://192.0.2.9:8000/v1", TUTORIAL_API_KEY=KEY)
    assert c.Spawner.environment["TUTORIAL_SERVER"] == "http://192.0.2.9:8000/v1"
    assert c.Spawner.environment["TUTORIAL_API_KEY"] == KEY
    assert "spawner_class" not in c.JupyterHub and "authenticator_class" not in c.JupyterHub, "TLJH has its own"
    assert KEY not in (HERE / "jupyterhub_config.py").read_text(encoding="utf-8")


def test_the_rehearsal_is_the_same_hub_on_loopback_only(monkeypatch, tmp_path):
    c = load("loopback_config.py", monkeypatch, CLASS_FOLDER=str(tmp_path), CLASS_PORT="1234")
    assert c.JupyterHub.bind_url == "http://127.0.0.1:1234" and c.JupyterHub.hub_ip == "127.0.0.1"
    assert c.ConfigurableHTTPProxy.api_url.startswith("http://127.0.0.1:")
    class_config = load("jupyterhub_config.py", monkeypatch)
    assert c.Spawner.environment.items() >= class_config.Spawner.environment.items()
    assert c.Spawner.cmd == [sys.executable, *class_config.Spawner.cmd[1:]]
    quiet = Path(c.Spawner.environment["JUPYTER_CONFIG_PATH"], "labconfig", "page_config.json")
    assert "announcements" in quiet.read_text(encoding="utf-8"), "JupyterLab would ask each learner about news"
    assert "services" not in c.JupyterHub, "only measure.py has a token"


def test_the_spawner_of_tljh_leaves_command_and_arguments_as_they_are(monkeypatch):
    """Its _expand_user_vars calls str.format on each of them, and systemd replaces $ and %."""
    c = load("jupyterhub_config.py", monkeypatch)
    for text in (*c.Spawner.cmd, *c.Spawner.args):
        assert text.format(USERNAME="ada", USERID=1) == text and not set("$%") & set(text)


def test_a_learners_server_starts_without_the_hubs_database(monkeypatch, tmp_path):
    """With a singleuser of ours that needs of the database what JupyterHub's does; measure.py runs the real one."""
    program = """
    import random
    import sys
    import sqlalchemy
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.orm import object_session

    from jupyterhub import orm

    def main():
        try:
            print(isinstance("learner", orm.User), hasattr(orm, "__all__"), sys.argv[1:])
        except SQLAlchemyError:
            pass
    """
    package = tmp_path / "jupyterhub"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "orm.py").write_text("raise ImportError('this needs the database')")
    (package / "singleuser.py").write_text(textwrap.dedent(program))
    home = tmp_path / "home"
    home.mkdir()
    (home / "random.py").write_text("raise ImportError('a file of the learner')")
    command = load("jupyterhub_config.py", monkeypatch).Spawner.cmd
    argv = [sys.executable, *command[1:], "--ServerApp.terminals_enabled=False"]
    paths = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    ran = subprocess.run(argv, env=os.environ | paths, cwd=home, capture_output=True, text=True)
    assert (ran.stdout, ran.stderr) == ("False False ['--ServerApp.terminals_enabled=False']\n", "")


LIGHT = {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "light"), str(ROOT)])}  # pip has only the group there


def in_light_python(code: str) -> subprocess.CompletedProcess:
    argv = [sys.executable, "-c", code]
    return subprocess.run(argv, cwd=ROOT, env=os.environ | LIGHT, capture_output=True, text=True)


def test_the_client_group_has_all_that_box_and_kernel_need_and_nothing_heavy():
    ran = in_light_python("import helpers.chat.box, helpers.chat.remote, ipykernel.ipkernel")
    assert ran.returncode == 0, ran.stderr
    look = f"from importlib.util import find_spec\nfrom contextlib import suppress\nfor name in {HEAVY}:\n"
    look += "    with suppress(ModuleNotFoundError): print(name, find_spec(name))"
    assert in_light_python(look).stdout == ""


def test_the_client_group_has_the_lower_bounds_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds = {Requirement(line).name: str(Requirement(line).specifier) for line in sum(lists, [])}
    asked = {Requirement(line).name: str(Requirement(line).specifier) for line in GROUPS["client"]}
    assert {name: bounds.get(name, bound) for name, bound in asked.items()} == asked


@pytest.fixture
def light_kernel(monkeypatch, tmp_path):
    """Return a function that runs chat.ipynb in a kernel with the environment that the hub gives, and its outputs."""
    for variable in ("TUTORIAL_SERVER", "TUTORIAL_API_KEY"):
        monkeypatch.delenv(variable, raising=False)

    def run(server) -> list[str]:
        c = load("jupyterhub_config.py", monkeypatch, TUTORIAL_SERVER=server.url, TUTORIAL_API_KEY=KEY)
        environ = os.environ | dict(c.Spawner.environment) | LIGHT | {"HOME": str(tmp_path)}
        notebook = nbformat.read(HERE / "chat.ipynb", as_version=4)
        client = NotebookClient(notebook, timeout=120, km=KernelManager(kernel_name="python3"))
        with client.setup_kernel(env=environ, cwd=str(tmp_path)):
            for number, cell in enumerate(notebook.cells):
                client.execute_cell(cell, number)
        return ["".join(out.get("text", "") for out in cell.get("outputs", ())) for cell in notebook.cells]

    return run


def test_the_notebook_runs_in_a_light_kernel_through_the_server(light_kernel, tmp_path):
    with LoopbackServer(lambda _: vllm()) as server:
        printed = "".join(light_kernel(server))
    assert "tiny on 127.0.0.1:" in printed and "One two **three** four five." in printed
    assert "5 tokens · first token" in printed and "Loaded of PyTorch and OpenVINO: neither" in printed
    assert float(re.search(r"Memory of this kernel: (\d+) MB", printed)[1]) < 130
    assert {headers["Authorization"] for _, headers in server.requests} == {f"Bearer {KEY}"}
    assert KEY not in printed


def test_the_notebook_has_the_outputs_of_one_run_and_checks_them():
    notebook = nbformat.read(HERE / "chat.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)) and all(c.outputs for c in code)
    assert [
        out for cell in code for out in cell.outputs if out.output_type == "error" or out.get("name") == "stderr"
    ] == []
    assert sum("assert " in cell.source for cell in code) == len(code) - 1, "all but the cell with the box"
    assert max(len(line) for cell in code for line in cell.source.splitlines()) <= 79


def test_the_page_of_the_organiser_names_files_and_links_that_exist():
    text = (HERE / "README.md").read_text(encoding="utf-8")
    named = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [name for name in named if not (HERE / name).exists()] == [] and named
    assert "/hub/user-redirect/git-pull?repo=" in text and "urlpath=lab%2Ftree%2F" in text
    assert {path.name for path in HERE.iterdir() if path.suffix in (".py", ".ipynb")} <= set(named)
    assert re.search(r"urlpath=(\S+)", text)[1].endswith("%2Fworkshop%2Fchat.ipynb")
