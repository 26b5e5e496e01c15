"""The package's papers agree: pyproject.toml, constraints.txt, environment.yml, the tasks and what is installed."""

import ipaddress
import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT_TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PROJECT = tomllib.loads(PROJECT_TEXT)["project"]
EXTRAS = PROJECT["optional-dependencies"]
ALL = [Requirement(line) for line in sum(EXTRAS.values(), PROJECT["dependencies"])]
INSTALLED = (*PROJECT["dependencies"], *EXTRAS["lab"], *EXTRAS["demo"], *EXTRAS["test"])  # by nox -s tests
TESTED = [Requirement(line) for line in INSTALLED]


@pytest.fixture(scope="module")
def pins():
    """Name -> version of constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), "each line is name==version"
    found = {canonicalize_name(name): Version(version) for name, version in pairs}
    assert len(found) == len(pairs), "a name stands twice"
    return found


@pytest.mark.parametrize("needed", ALL, ids=lambda needed: needed.name)
def test_constraints_pin_what_pyproject_allows(needed, pins):
    assert needed.specifier.contains(pins[canonicalize_name(needed.name)]), needed


def test_no_pin_is_of_one_machine_only(pins):
    assert [name for name, version in pins.items() if version.local] == [], "2.13.0+cpu is not on PyPI"


@pytest.mark.parametrize("needed", TESTED, ids=lambda needed: needed.name)
def test_the_installed_versions_are_the_pinned_ones(needed, pins):
    installed = Version(metadata.version(needed.name))
    assert Version(installed.public) == pins[canonicalize_name(needed.name)]


def test_what_is_installed_along_is_pinned_too(pins):
    """The dependencies of our dependencies, as far as they apply here."""
    waiting, seen = [(needed.name, needed.extras) for needed in TESTED], set()
    while waiting:
        name, extras = waiting.pop()
        if (key := (canonicalize_name(name), *sorted(extras))) in seen:
            continue
        seen.add(key)
        for needed in map(Requirement, metadata.requires(name) or []):
            if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in (*extras, "")):
                waiting.append((needed.name, needed.extras))
    assert sorted({name for name, *_ in seen} - set(pins)) == []


def test_each_dependency_says_why_it_is_there():
    lines = [line.strip() for line in PROJECT_TEXT.splitlines() if re.match(r'\s+"[\w.\[\]-]+[><=~]', line)]
    assert len(lines) == len(ALL)
    assert [line for line in lines if not re.search(r'",\s+# \w{3}', line)] == []


def test_conda_brings_python_and_pip_and_repeats_no_version():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, by_pip = environment["dependencies"]
    name, version = python.split("=")
    assert (name, pip, list(by_pip)) == ("python", "pip", ["pip"])
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    constraint, project = by_pip["pip"]
    assert constraint.split() in (["--constraint", "constraints.txt"], ["-c", "constraints.txt"])
    assert re.fullmatch(r"(?:--editable|-e) \.\[([\w,]+)\]", project), "the project, with extras, and no version"
    assert set(project[project.index("[") + 1 : -1].split(",")) <= set(EXTRAS)


@pytest.mark.parametrize("file", [".ci/run", ".github/workflows/ci.yml", "README.md"])
def test_ci_and_readme_call_the_same_session(file):
    called = re.findall(r"nox -s ((?:\w+ ?)+)", (ROOT / file).read_text(encoding="utf-8"))
    assert any("tests" in sessions.split() for sessions in called), f"{file} does not run: nox -s tests"
    tasks = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert all(f"\ndef {name}(" in tasks for sessions in called for name in sessions.split())


def test_ci_covers_three_systems():
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    systems = {system.split("-")[0] for job in jobs.values() for system in job["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "windows", "macos"}


def published():
    """Path and text of each file that git has, or would take."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, encoding="utf-8")
    if listed.returncode:
        pytest.skip("this is not a clone")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [(path, path.read_bytes().decode("utf-8", errors="ignore")) for path in paths if path.is_file()]


def test_no_file_knows_somebodys_machine():
    nobody = r"(?!(?:me|x)\b)"  # the names that our examples use
    homes = rf"(?<![\w.])/(?:home|Users)/{nobody}\w+|[A-Z]:\\+Users\\+{nobody}\w+"
    machine = re.compile(rf"{homes}|(?<![\w.])/(?:root|tmp/w|opt|mnt)/|file:/{{3}}")
    assert [(path.name, match[0]) for path, text in published() for match in machine.finditer(text)] == []


def is_public(host: str) -> bool:
    """Whether any reader can use it: no address of a private network, no company's mirror, no name without a dot."""
    try:
        address = ipaddress.ip_address(host)
        return address.is_loopback or address in ipaddress.ip_network("192.0.2.0/24")
    except ValueError:
        private = re.search(r"mirror|artifactory|nexus|proxy|registry|\.(?:internal|local|lan|corp)$", host)
        return host in ("localhost", "host") or ("." in host and not private)  # "host": in our examples


def test_no_file_names_a_private_host_or_another_index():
    urls = [(path, url) for path, text in published() for url in re.findall(r"https?://[^\s\"'`)>\]\\{]+", text)]
    assert urls
    assert [(path.name, url) for path, url in urls if not is_public(urlsplit(url).hostname or "localhost")] == []
    indexes = [(path.name, url) for path, url in urls if re.search(r"/simple\b|/whl\b|pypi\.(?!org/project)", url)]
    assert {urlsplit(url).hostname for _, url in indexes} <= {"download.pytorch.org", "127.0.0.1"}


@pytest.mark.parametrize("host", ["10.0.0.7", "pypi", "mirror.example.org", "nexus.corp", "box.internal"])
def test_a_private_host_would_be_seen(host):
    assert not is_public(host)
