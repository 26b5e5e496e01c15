"""The tasks: `nox -s lab` opens the notebooks, `nox -s tests` runs what CI runs, `nox -l` lists the others.

All sessions but audit share the environment .venv.  The first session creates it.  Later ones need no network for it,
unless they use more extras, or pyproject.toml or constraints.txt has changed.  CONTRIBUTING.md describes each task.
"""

import ast
import hashlib
import json
import os
import re
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
NOTEBOOKS = sorted(str(path) for path in Path("notebooks").glob("*.ipynb"))
COMPRESS = "09_compress.ipynb"  # compresses for minutes: strict once a week; every push runs it on the tiny Phi-3
UNTIMED = ("00_quickstart.ipynb", "01_export.ipynb", "04_tokenize.ipynb", "06_decode.ipynb")  # may run in parallel
# Two workers, because more would compete for the same cores.  With worksteal, a worker without tests takes over some of
# the other's, so a fixture of a test file may be set up twice.  With loadfile, a file stays with one worker.
PARALLEL = ("--numprocesses=2", "--dist=worksteal")
BY_FILE = ("--numprocesses=2", "--dist=loadfile")
session = nox.session(venv_backend="none")  # nox would create an environment of 2 GB for each session
spent: list[tuple[str, float]] = []
started = time.perf_counter()


def timed(session: nox.Session, what: str, *argv: str, **options) -> None:
    """Run a command and record how long it took; report() prints the list."""
    start = time.perf_counter()
    try:
        session.run(*argv, **options)
    finally:
        spent.append((what, time.perf_counter() - start))


@contextmanager
def beside(session: nox.Session, *argv: str) -> Iterator[None]:
    """Run a command while the block runs; then wait for it and print its output.  If it fails, the session fails."""
    log = ROOT / ".nox" / "beside.txt"
    log.parent.mkdir(exist_ok=True)
    start = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(argv, env=os.environ | EMBEDDED, stdout=stream, stderr=subprocess.STDOUT)
    try:
        yield
    finally:  # wait even after an error: if killed, the command could not stop its servers
        code = process.wait()
        spent.append(("beside them, the chat box in a browser", time.perf_counter() - start))
        session.log(f"{' '.join(argv)}\n{log.read_text(encoding='utf-8', errors='replace')}")
    if code:
        session.error("The tests in a browser failed.")


def report(session: nox.Session) -> None:
    for what, seconds in spent:
        session.log(f"{seconds:7.1f} s  {what}")
    session.log(f"{time.perf_counter() - started:7.1f} s  in all")


def run_strict(session: nox.Session, what: str, notebooks: list[str], *options: str) -> None:
    """Run notebooks with nbval, comparing each output; every connection to a different machine is refused."""
    outward = ROOT / ".nox" / "outward.txt"
    outward.parent.mkdir(exist_ok=True)
    outward.unlink(missing_ok=True)
    offline = EMBEDDED | {"PYTHONPATH": str(ROOT / "tests" / "offline"), "HF_HUB_OFFLINE": "1"}
    offline |= {"OFFLINE_LOG": str(outward)}
    timed(session, what, PYTHON, "-m", "pytest", *NBVAL, *options, *notebooks, env=offline)
    if outward.exists():
        session.error(f"A notebook tried to connect to another machine:\n{outward.read_text()}")


def check_addresses(session: nox.Session, *settings: dict[str, str]) -> None:
    """Stop if pip or uv would print part of a password: in the address of an index or proxy in a variable or setting.

    The check is that of helpers, from its file: importing helpers would change variables of all sessions.
    """
    errors = runpy.run_path(str(ROOT / "helpers" / "errors.py"))
    try:
        for variables in (os.environ, *settings):
            errors["check_addresses"](variables)
    except errors["TutorialError"] as error:
        session.error(str(error))


def pip_settings(session: nox.Session) -> dict[str, str]:
    """Return pip's settings from variables and configuration files, after checking the addresses in them."""
    ran = subprocess.run([PYTHON, "-m", "pip", "config", "list"], capture_output=True, text=True, errors="replace")
    if ran.returncode:  # stderr may be a line with a password that pip cannot parse
        session.error(f"pip cannot list its settings. To see why: {PYTHON} -m pip config list")
    shown = re.findall(r"""^(\S+?)=(".*"|'.*')$""", ran.stdout, re.MULTILINE)
    settings = {name: ast.literal_eval(value) for name, value in shown}
    check_addresses(session, settings)
    return settings


def install(session: nox.Session, *extras: str) -> None:
    """Create or update .venv with this project and these extras, unless it is up to date."""
    if sys.version_info < (3, 11):  # noqa: UP036  nox itself may run on an older Python
        session.error(f"This is Python {sys.version.split()[0]}; the tutorial needs 3.11 or newer.")
    files = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files) + sys.version.encode()).hexdigest()
    stamp = VENV / "installed.json"
    there = json.loads(stamp.read_text()) if stamp.exists() else {"extras": []}
    if there.get("digest") == digest and set(extras) <= set(there["extras"]):
        return
    extras = sorted({*extras, *there["extras"]})
    check_addresses(session)
    session.log(f"Installing into {VENV.name}: about 2 GB, one to a few minutes.")
    start = time.perf_counter()
    if not Path(PYTHON).exists():
        session.run(sys.executable, "-m", "virtualenv", "--quiet", str(VENV))
    settings = pip_settings(session)
    pip = (PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", "constraints.txt")
    session.run(*pip, "pip>=24.1")
    if sys.platform == "linux" and not stamp.exists():
        # PyPI's PyTorch for Linux includes 3 GB of CUDA libraries that nothing here uses; PyTorch's own index has a
        # CPU build.
        light = ("--no-deps", "--index-url", CPU_TORCH, "--retries", "0", "--timeout", "10", "torch")
        if subprocess.run([*pip, *light], stderr=subprocess.DEVNULL).returncode:
            session.log("PyTorch's CPU index cannot be reached. Installing the larger build from PyPI.")
    # The build dependencies come from the index too, so they are pinned as well.
    wanted = ("--build-constraint", "constraints.txt", "--editable", f".[{','.join(extras)}]")
    # uv takes a quarter of pip's time.  It does not read pip's configuration, so it gets the indexes here.  Where uv
    # cannot be installed, or needs more than that, such as a proxy, pip does the work.
    found = [(name.rpartition(".")[2], " ".join(value.split())) for name, value in settings.items()]
    known = ("index-url", "extra-index-url", "find-links")
    env = {f"UV_{name.replace('-', '_').upper()}": value for name, value in found if name in known}
    uv = (PYTHON, "-m", "uv", "pip", "install", "--quiet", "--python", PYTHON, "--constraint", "constraints.txt")
    uv += ("--system-certs", "--index-strategy=unsafe-best-match")  # all indexes are equal, as for pip
    if subprocess.run([*pip, "uv"]).returncode or subprocess.run([*uv, *wanted], env=os.environ | env).returncode:
        session.log("uv could not install it. pip tries.")
        session.run(*pip, "--no-compile", *wanted)
    # Compile all but the tests and transformers' 400 architectures.  Files that are templates, not Python, fail: rc 1.
    libraries = str(VENV / ("Lib" if os.name == "nt" else "lib"))
    compileall = ("-W", "ignore", "-m", "compileall", "-qq", "-j", "0", "-x", r"[/\\](tests?|testing|models)[/\\]")
    session.run(PYTHON, *compileall, libraries, success_codes=[0, 1])
    stamp.write_text(json.dumps({"digest": digest, "extras": extras}))
    spent.append(("install", time.perf_counter() - start))


@session
def lab(session: nox.Session) -> None:
    """Open the first notebook in JupyterLab, with the embedded model fetched.  Arguments after -- go to JupyterLab."""
    install(session, "lab")
    # A failed download prints its reason; JupyterLab opens anyway, and page 00 tries again.
    timed(session, "fetch", *HELPERS, "fetch", success_codes=[0, 1])
    report(session)
    first = "--LabApp.default_url=/lab/tree/notebooks/00_quickstart.ipynb"  # with --no-browser too
    # JupyterLab would look for updates on PyPI and ask whether it may fetch news.  These options are from its
    # documentation, "Announcements".  demo/jupyter disables the extension that asks, and keeps pages unchanged that are
    # only opened.
    quiet = ("--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None")
    paths = filter(None, [str(ROOT / "demo" / "jupyter"), os.environ.get("JUPYTER_CONFIG_PATH")])
    options = (first, *quiet, "--ServerApp.root_dir=.", "--ip=127.0.0.1", *session.posargs)
    session.run(PYTHON, "-m", "jupyterlab", *options, env={"JUPYTER_CONFIG_PATH": os.pathsep.join(paths)})


@session
def demo(session: nox.Session) -> None:
    """Show the chat box of page 07 alone, for a projector.  Arguments after -- go to Voilà."""
    install(session, "lab", "demo")
    session.run(*HELPERS, "export")
    session.run(PYTHON, "-m", "voila", "notebooks/07_chat.ipynb", "--Voila.config_file_paths=demo", *session.posargs)


@session
def tests(session: nox.Session) -> None:
    """Run what CI runs: fetch, export and ask; the notebooks; the unit tests; the chat box in a browser.

    After --: --no-browser skips the browser tests; other arguments go to the unit tests' pytest.
    """
    install(session, "lab", "serve", "demo", "test")
    browser = "--no-browser" not in session.posargs
    posargs = [argument for argument in session.posargs if argument != "--no-browser"]
    timed(session, "fetch", *HELPERS, "fetch", env=EMBEDDED)
    timed(session, "export", *HELPERS, "export", env=EMBEDDED)
    timed(session, "load and answer", *HELPERS, "ask", "What is photosynthesis?", env=EMBEDDED)
    spent.append(("from a fresh clone to the first answer", sum(seconds for _, seconds in spent)))
    if browser:
        timed(session, "find or download a browser", PYTHON, "tests/browser/browsers.py")
    strict = [path for path in NOTEBOOKS if COMPRESS not in path]
    untimed = [path for path in strict if path.endswith(UNTIMED)]
    run_strict(session, "notebooks that measure no time, strict", untimed, *BY_FILE)
    run_strict(session, "other notebooks, strict", [path for path in strict if path not in untimed], "--durations=40")
    # Without nbval, which is for the notebooks and takes 3 s to import.
    pytest = (PYTHON, "-m", "pytest", "-q", "-m", "not weekly", "--durations=15", "-p", "no:nbval")
    unit = (*pytest, *PARALLEL, "--ignore=tests/browser", *posargs)
    # The browser tests spend half of their time waiting, so they run beside the unit tests.
    with beside(session, *pytest, "--maxfail=5", "tests/browser") if browser else nullcontext():
        timed(session, "unit tests", *unit, env=EMBEDDED | {"OMP_NUM_THREADS": "1"})
    report(session)
    if not browser:
        session.warn("--no-browser: the chat box was NOT tested in a browser.")


@session
def weekly(session: nox.Session) -> None:
    """Run what is slow and seldom breaks: page 09 strictly, all notebooks on the tiny Phi-3, solutions, slow faults."""
    install(session, "lab", "serve", "demo", "test")
    session.run(*HELPERS, "export", env=EMBEDDED)
    failed: list[str] = []

    @contextmanager
    def stage(what: str) -> Iterator[str]:
        """Record a failure and go on with the next stage, because all of them take an hour."""
        try:
            yield what
        except nox.command.CommandFailed:
            failed.append(what)

    with stage("page 09, strict, no network") as what:
        run_strict(session, what, [path for path in NOTEBOOKS if COMPRESS in path])
    pytest = (PYTHON, "-m", "pytest", "-q", "-m", "weekly", "--durations=15")
    with stage("notebooks on the tiny Phi-3, and solutions") as what:
        timed(session, what, *pytest, "tests/pages", env=EMBEDDED)
    with stage("other slow tests") as what:
        others = ("--ignore=tests/browser", "--ignore=tests/pages")
        timed(session, what, *pytest, *PARALLEL, *others, env=EMBEDDED | {"OMP_NUM_THREADS": "1"})
    with stage("slow tests in a browser") as what:
        session.run(PYTHON, "tests/browser/browsers.py")
        timed(session, what, *pytest, "tests/browser", env=EMBEDDED)
    report(session)
    if failed:
        session.error(f"Failed: {', '.join(failed)}.")


@session
def screenshots(session: nox.Session) -> None:
    """Take the README's pictures of the chat box, with answers of the embedded model."""
    install(session, "lab", "serve", "demo", "test")
    session.run(PYTHON, "tests/browser/browsers.py")
    session.run(*HELPERS, "export", env=EMBEDDED)
    session.run(PYTHON, "-m", "pytest", "-q", "tests/browser/screenshots.py", env=EMBEDDED)


@session
def lint(session: nox.Session) -> None:
    """Check the style of the Python files."""
    install(session, "lab", "serve", "demo", "test")  # as tests, which follows: one installation for both
    session.run(PYTHON, "-m", "ruff", "check", ".")
    session.run(PYTHON, "-m", "ruff", "format", "--check", ".")


@session
def faults(session: nox.Session) -> None:
    """Run all tests of faults and bad input, including slow ones.  After --: --write-table writes docs/faults.md."""
    install(session, "lab", "test")
    session.run(PYTHON, "-m", "pytest", "-q", *session.posargs, "tests/faults", env=EMBEDDED)


@session
def mutants(session: nox.Session) -> None:
    """Change helpers/ in small ways and count what the tests notice.  After --: all, or globs such as helpers.chat*"""
    install(session, "lab", "test", "mutants")
    session.run(*HELPERS, "export", env=EMBEDDED)
    there = ROOT / "mutants" / "model"  # mutmut's copy of the project has no model
    there.parent.mkdir(exist_ok=True)
    if not there.is_symlink():
        there.symlink_to(ROOT / "model")
    session.run(PYTHON, "tests/mutants.py", *session.posargs, env=EMBEDDED | {"OMP_NUM_THREADS": "1"})


@nox.session(venv_backend="virtualenv")
def audit(session: nox.Session) -> None:
    """List known vulnerabilities of the pinned versions, from PyPI; fail if not all of them could be looked up."""
    check_addresses(session)
    session.install("pip-audit")
    told = Path(session.create_tmp(), "audit.json")
    told.unlink(missing_ok=True)
    argv = ("pip-audit", "--strict", "--no-deps", "--disable-pip", "--requirement", "constraints.txt")
    # Its exit code is 1 for a vulnerability, and also for an index that does not answer.
    session.run(*argv, "--format", "json", "--output", str(told), success_codes=[0, 1])
    audited = json.loads(told.read_text(encoding="utf-8"))["dependencies"] if told.exists() else []
    found = [f"{each['name']} {each['version']}: {one['id']}" for each in audited for one in each.get("vulns", ())]
    pinned = Path("constraints.txt").read_text(encoding="utf-8").count("==")
    if len(audited) != pinned or any("skip_reason" in each for each in audited):
        session.error(f"NOT AUDITED: {sum('vulns' in each for each in audited)} of {pinned} versions were looked up.")
    session.log("\n".join([f"{pinned} versions were looked up, {len(found)} vulnerabilities are known.", *found]))


@session
def connections(session: nox.Session) -> None:
    """Run all notebooks and record each connection to a different machine, also with strace if it is installed."""
    install(session, "lab", "test")
    session.run(*HELPERS, "export", env=EMBEDDED)
    for notebook in NOTEBOOKS:
        session.run(PYTHON, "tests/connections.py", PYTHON, "-m", "pytest", *NBVAL, notebook, env=EMBEDDED)


@session
def outputs(session: nox.Session) -> None:
    """Write the stored outputs of all notebooks, or of those after --, from a clean kernel on the embedded model."""
    install(session, "lab", "test")
    session.run(*HELPERS, "export", env=EMBEDDED)
    session.run(PYTHON, "tests/pages/write_outputs.py", *session.posargs, env=EMBEDDED)


@session
def rehearsal(session: nox.Session) -> None:
    """Measure what Phi-3-mini's shape costs here, with random weights; update README and docs/benchmarks.md."""
    install(session, "lab")
    session.run(PYTHON, "bench/rehearsal.py", *session.posargs)


@session
def bench(session: nox.Session) -> None:
    """Compare the speed with other engines; write docs/benchmarks.md and the README's table.  After --: its options."""
    install(session, "lab")
    session.run(*HELPERS, "export", env=EMBEDDED)
    session.run(PYTHON, "bench/run.py", *session.posargs, env=EMBEDDED)


@session
def load(session: nox.Session) -> None:
    """Measure the server under load, and the bare pipeline; update docs/serving.md.  After --: its options."""
    install(session, "lab", "serve")
    session.run(*HELPERS, "export", env=EMBEDDED)
    session.run(PYTHON, "bench/load.py", *session.posargs, env=EMBEDDED)


@session
def defaults(session: nox.Session) -> None:
    """Measure weight formats and sampling settings; write docs/defaults.md.  After --: its options."""
    install(session, "lab")
    session.run(*HELPERS, "fetch", env=EMBEDDED)
    session.run(PYTHON, "bench/defaults.py", *session.posargs, env=EMBEDDED)


@session
def constraints(session: nox.Session) -> None:
    """Upgrade the dependencies as far as pyproject.toml and the arguments after -- allow; write constraints.txt."""
    extras = ("lab", "serve", "demo", "test", "mutants")
    install(session, *extras)
    wanted = f".[{','.join(extras)}]"
    pip_settings(session)  # to check them; install() does so only if it installs anything
    session.run(PYTHON, "-m", "pip", "install", "--upgrade", "--editable", wanted, *session.posargs)
    frozen = session.run(PYTHON, "-m", "pip", "freeze", "--all", "--exclude-editable", silent=True)
    # PyTorch's CPU build is named 2.x.y+cpu; as a constraint, every machine would need that build.
    lines = [line.split("+")[0] for line in frozen.splitlines() if "==" in line]
    head = "# All versions that CI runs, with transitive dependencies.  Written by: nox -s constraints\n"
    Path("constraints.txt").write_text(head + "\n".join(lines) + "\n", encoding="utf-8")
