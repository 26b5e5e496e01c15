"""The only task runner.  `nox -s lab` to learn, `nox -s tests` to prove, `nox -l` for the rest.

All sessions share one environment, .venv, which the first of them makes and which an editor can use too.  Once it is
made, no session needs the network for it, as long as pyproject.toml and constraints.txt stay as they are.
"""

import hashlib
import json
import os
import sys
import time
from pathlib import Path

import nox

nox.options.sessions = ["lint", "tests"]
ROOT = Path(__file__).parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
HELPERS = (PYTHON, "-m", "helpers")
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
EMBEDDED = {"TUTORIAL_MODEL": "smollm2-instruct", "TUTORIAL_DEVICE": "CPU"}
NBVAL = ("-q", "--nbval", "--nbval-current-env", "--nbval-cell-timeout=600", "-p", "no:cacheprovider")
session = nox.session(venv_backend="none")  # nox would make an environment of 2 GB for each session
spent: list[tuple[str, float]] = []


def timed(session: nox.Session, what: str, *argv: str, **options) -> None:
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
    """Make .venv with this project and its extras, unless it is there with just that."""
    if sys.version_info < (3, 11):  # noqa: UP036  nox itself may have been started by an older one
        session.error(f"This is Python {sys.version.split()[0]}; the tutorial needs 3.11 or newer.")
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files) + sys.version.encode()).hexdigest()
    stamp = VENV / "installed.json"
    there = json.loads(stamp.read_text()) if stamp.exists() else {"extras": []}
    if there.get("digest") == digest and set(extras) <= set(there["extras"]):
        return
    extras = sorted({*extras, *there["extras"]})
    session.log(f"Installing into {VENV.name}: about 2 GB, one to a few minutes.")
    start = time.perf_counter()
    if not Path(PYTHON).exists():
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(VENV))
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt")
    session.run(*pip, "pip>=24.1")
    if sys.platform == "linux" and not stamp.exists():
        # PyPI's PyTorch for Linux brings 3 GB of CUDA libraries that nothing here uses; its own index has it without.
        light = ("--no-deps", "--index-url", CPU_TORCH, "--retries", "0", "--timeout", "10", "torch")
        if session.run(*pip, *light, success_codes=[0, 1], silent=True):
            session.log("PyTorch's CPU index cannot be reached; taking the larger build from the usual one.")
    session.run(*pip, "--editable", f".[{','.join(extras)}]")
    stamp.write_text(json.dumps({"digest": digest, "extras": extras}))
    spent.append(("install", time.perf_counter() - start))


@session
def lab(session: nox.Session) -> None:
    """JupyterLab on the first page, with the embedded model ready.  Arguments after -- go to JupyterLab."""
    install(session, "lab")
    # A failed download has said why; the page opens all the same, and its first step tries again.
    timed(session, "fetch", *HELPERS, "fetch", success_codes=[0, 1])
    report(session)
    first = "--LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb"  # with --no-browser too
    session.run(PYTHON, "-m", "jupyterlab", first, "--ServerApp.root_dir=.", "--ip=127.0.0.1", *session.posargs)


@session
def demo(session: nox.Session) -> None:
    """The chat box of page 07 as a page of its own, for a projector.  Arguments after -- go to Voilà."""
    install(session, "lab", "demo")
    session.run(*HELPERS, "export")
    session.run(PYTHON, "-m", "voila", "notebooks/07_chat.ipynb", "--Voila.config_file_paths=demo", *session.posargs)


@session
def tests(session: nox.Session) -> None:
    """Everything that CI proves: fetch, export, answer, all notebooks, unit tests, the chat box in a browser.

    After --: --no-browser leaves the last out; other arguments go to the unit tests' pytest.
    """
    install(session, "lab", "demo", "test")
    browser = "--no-browser" not in session.posargs
    posargs = [argument for argument in session.posargs if argument != "--no-browser"]
    timed(session, "fetch", *HELPERS, "fetch", env=EMBEDDED)
    timed(session, "export", *HELPERS, "export", env=EMBEDDED)
    timed(session, "load and answer", *HELPERS, "ask", "What is the capital of France?", env=EMBEDDED)
    spent.append(("from a fresh clone to the first answer", sum(seconds for _, seconds in spent)))
    if browser:
        timed(session, "find a browser, or fetch one", PYTHON, "tests/browser/browsers.py")
    notebooks = [str(path) for path in sorted(Path("notebooks").glob("*.ipynb"))]
    outward = ROOT / ".nox" / "outward.txt"  # attempts to leave this machine, which the guard refuses
    outward.parent.mkdir(exist_ok=True)
    outward.unlink(missing_ok=True)
    offline = EMBEDDED | {"PYTHONPATH": str(ROOT / "tests" / "offline"), "HF_HUB_OFFLINE": "1"}
    offline |= {"OFFLINE_LOG": str(outward)}
    pytest = (PYTHON, "-m", "pytest", "-q")
    timed(session, "notebooks, strict, no network", PYTHON, "-m", "pytest", *NBVAL, *notebooks, env=offline)
    if outward.exists():
        session.error(f"A page tried to leave this machine:\n{outward.read_text()}")
    unit = (*pytest, "--ignore=tests/browser", "-m", "not slow", "--durations=20", *posargs)
    timed(session, "unit tests and the Phi-3 lane", *unit, env=EMBEDDED)
    if browser:
        timed(session, "the chat box in a browser", *pytest, "--maxfail=5", "tests/browser", env=EMBEDDED)
    report(session)
    if not browser:
        session.warn("--no-browser: the chat box was NOT tested in a browser.")


@session
def screenshots(session: nox.Session) -> None:
    """Take the README's pictures of the chat box, with the embedded model's own words."""
    install(session, "lab", "demo", "test")
    session.run(PYTHON, "tests/browser/browsers.py")
    session.run(*HELPERS, "export", env=EMBEDDED)
    session.run(PYTHON, "-m", "pytest", "-q", "tests/browser/screenshots.py", env=EMBEDDED)


@session
def lint(session: nox.Session) -> None:
    """Style of the Python files."""
    install(session, "lab", "test")
    session.run(PYTHON, "-m", "ruff", "check", ".")
    session.run(PYTHON, "-m", "ruff", "format", "--check", ".")


@session
def faults(session: nox.Session) -> None:
    """Faults and bad input, and every other test that is slow.  After --: --write-table writes docs/faults.md."""
    install(session, "lab", "test")
    session.run(PYTHON, "-m", "pytest", "-q", *session.posargs, "tests/faults", env=EMBEDDED)
    others = ("-m", "slow", "--ignore=tests/faults", "--ignore=tests/browser")
    session.run(PYTHON, "-m", "pytest", "-q", *others, env=EMBEDDED)


@session
def mutants(session: nox.Session) -> None:
    """Change helpers/ in small ways: does a quick test notice?  A sample; after --: all, or globs as helpers.chat*"""
    install(session, "lab", "test", "mutants")
    session.run(*HELPERS, "export", env=EMBEDDED)
    there = ROOT / "mutants" / "model"  # the copy that mutmut makes of the project has no model
    there.parent.mkdir(exist_ok=True)
    if not there.is_symlink():
        there.symlink_to(ROOT / "model")
    session.run(PYTHON, "tests/mutants.py", *session.posargs, env=EMBEDDED | {"OMP_NUM_THREADS": "1"})


@nox.session(venv_backend="virtualenv")
def audit(session: nox.Session) -> None:
    """Known vulnerabilities of the versions that CI runs, as PyPI tells them.  It reports, and blocks nothing."""
    session.install("pip-audit")
    argv = ("pip-audit", "--strict", "--no-deps", "--disable-pip", "--requirement", "constraints.txt")
    session.run(*argv, success_codes=[0, 1])


@session
def connections(session: nox.Session) -> None:
    """All pages, with every attempt to leave this machine recorded, by strace too where it is installed."""
    install(session, "lab", "test")
    session.run(*HELPERS, "export", env=EMBEDDED)
    for page in sorted(Path("notebooks").glob("*.ipynb")):
        session.run(PYTHON, "tests/connections.py", PYTHON, "-m", "pytest", *NBVAL, str(page), env=EMBEDDED)


@session
def outputs(session: nox.Session) -> None:
    """Write the stored outputs of the notebooks (all, or those after --) from a clean kernel on the embedded model."""
    install(session, "lab", "test")
    session.run(*HELPERS, "export", env=EMBEDDED)
    session.run(PYTHON, "tests/pages/write_outputs.py", *session.posargs, env=EMBEDDED)


@session
def rehearsal(session: nox.Session) -> None:
    """Phi-3-mini's true shape with random weights on this machine; writes the README's table of costs."""
    install(session, "lab")
    session.run(PYTHON, "bench/rehearsal.py", *session.posargs)


@session
def bench(session: nox.Session) -> None:
    """How fast it is here, beside others and the machine's limit; writes the README's part.  After --: its options."""
    install(session, "lab", "bench")
    session.run(*HELPERS, "export", env=EMBEDDED)
    session.run(PYTHON, "bench/run.py", *session.posargs, env=EMBEDDED)


@session
def constraints(session: nox.Session) -> None:
    """Write constraints.txt: this environment, upgraded to what pyproject.toml (and what follows --) allows."""
    extras = ("lab", "demo", "test", "bench", "mutants")
    install(session, *extras)
    wanted = f".[{','.join(extras)}]"
    session.run(PYTHON, "-m", "pip", "install", "--upgrade", "--editable", wanted, *session.posargs)
    frozen = session.run(PYTHON, "-m", "pip", "freeze", "--all", "--exclude-editable", silent=True)
    # PyTorch's CPU build calls itself 2.x.y+cpu, which a constraint would then demand of every machine.
    lines = [line.split("+")[0] for line in frozen.splitlines() if "==" in line]
    head = "# Every version that CI has run, transitive ones too.  Written by: nox -s constraints\n"
    Path("constraints.txt").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
