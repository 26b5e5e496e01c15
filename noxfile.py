"""The only task runner.  `nox -s lab` to learn, `nox -s tests` to prove, `nox -l` for the rest.

Every session works in one environment, .venv, which the first of them makes; a later one without a network runs in it
as it is, as long as pyproject.toml and constraints.txt have not changed.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
nox.options.error_on_missing_interpreters = True
ROOT = Path(__file__).parent
EMBEDDED = {"TUTORIAL_MODEL": "smollm2-instruct", "TUTORIAL_DEVICE": "CPU"}
session = nox.session(venv_location=".venv", reuse_venv=True)
spent: list[tuple[str, float]] = []


def run(session: nox.Session, what: str, *argv: str, **options) -> None:
    """Run a command and remember how long it took; report() prints the list."""
    start = time.perf_counter()
    try:
        session.run(*argv, **options)
    finally:
        spent.append((what, time.perf_counter() - start))


def report(session: nox.Session) -> None:
    for what, seconds in spent:
        session.log(f"{seconds:7.1f} s  {what}")


def install(session: nox.Session, *extras: str) -> None:
    """Install this project with its extras, unless this environment has just that."""
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files) + sys.version.encode()).hexdigest()
    stamp = Path(session.virtualenv.location) / "installed.json"
    there = json.loads(stamp.read_text()) if stamp.exists() else {}
    if there.get("digest") == digest and set(extras) <= set(there["extras"]):
        return
    start = time.perf_counter()
    session.run("python", "-m", "pip", "install", "--quiet", "pip>=24.1", "--constraint", "constraints.txt")
    session.run(
        *("python", "-m", "pip", "install", "--progress-bar", "on" if sys.stdout.isatty() else "off", "--quiet"),
        *("--constraint", "constraints.txt", "--editable", f".[{','.join(extras)}]"),
    )
    stamp.write_text(json.dumps({"digest": digest, "extras": extras}))
    spent.append(("install", time.perf_counter() - start))


@session
def lab(session: nox.Session) -> None:
    """JupyterLab on the first page, with the embedded model ready.  Arguments after -- go to JupyterLab."""
    install(session, "lab")
    # A failed download has said why; the page opens all the same, and its first step tries again.
    run(session, "fetch", "python", "-m", "helpers", "fetch", success_codes=[0, 1])
    report(session)
    first = str(Path("notebooks", "00_quickstart.ipynb"))
    session.run("jupyter", "lab", first, "--ServerApp.root_dir=.", "--ip=127.0.0.1", *session.posargs)


@session
def tests(session: nox.Session) -> None:
    """Everything that CI proves, from nothing: fetch, export, answer, unit tests, the notebooks on both models."""
    install(session, "lab", "test")
    helpers = ("python", "-m", "helpers")
    run(session, "fetch", *helpers, "fetch", env=EMBEDDED)
    run(session, "export", *helpers, "export", env=EMBEDDED)
    run(session, "load and answer", *helpers, "ask", "What is the capital of France?", env=EMBEDDED)
    first = sum(seconds for _, seconds in spent)
    spent.append(("= from a fresh clone to the first answer", first))
    notebooks = [str(path) for path in sorted(Path("notebooks").glob("*.ipynb"))]
    offline = EMBEDDED | {"PYTHONPATH": str(ROOT / "tests" / "offline"), "HF_HUB_OFFLINE": "1"}
    nbval = ("--nbval", "--nbval-current-env", "--nbval-cell-timeout=600", "-p", "no:cacheprovider")
    run(session, "unit tests, phi-3 lane", "pytest", "-q", *session.posargs, env=EMBEDDED)
    run(session, "notebooks, strict, no network", "pytest", "-q", *nbval, *notebooks, env=offline)
    report(session)


@session
def lint(session: nox.Session) -> None:
    """Style of the Python files."""
    install(session, "lab", "test")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@session
def outputs(session: nox.Session) -> None:
    """Write the stored outputs of the notebooks (all, or those after --) from a clean kernel on the embedded model."""
    install(session, "lab", "test")
    session.run("python", "-m", "helpers", "export", env=EMBEDDED)
    session.run("python", "tests/write_outputs.py", *session.posargs, env=EMBEDDED)


@session
def rehearsal(session: nox.Session) -> None:
    """Phi-3-mini's true shape with random weights on this machine; writes the README's table of costs."""
    install(session, "lab")
    session.run("python", "bench/rehearsal.py", *session.posargs)


@session
def constraints(session: nox.Session) -> None:
    """Write constraints.txt from a new environment with the newest versions that pyproject.toml allows."""
    session.run("python", "-m", "pip", "install", "--upgrade", "--editable", ".[lab,test]", *session.posargs)
    frozen = session.run("python", "-m", "pip", "freeze", "--all", "--exclude-editable", silent=True)
    lines = [line for line in frozen.splitlines() if "==" in line and not line.startswith("setuptools")]
    head = "# Every version that CI has run, transitive ones too.  Written by: nox -s constraints\n"
    Path("constraints.txt").write_text(head + "\n".join(lines) + os.linesep, encoding="utf-8")
