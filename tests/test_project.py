"""pyproject.toml, constraints.txt, environment.yml, the tasks, the documents and the installed packages agree."""

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
GROUPS = [*map(Requirement, sum(tomllib.loads(PROJECT_TEXT)["dependency-groups"].values(), []))]
INSTALLED = (
    *PROJECT["dependencies"],
    *EXTRAS["lab"],
    *EXTRAS["serve"],
    *EXTRAS["demo"],
    *EXTRAS["test"],
)  # by nox -s tests
TESTED = [Requirement(line) for line in INSTALLED]


@pytest.fixture(scope="module")
def pins():
    """Name -> version of constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [line.split("==") for line in lines]
    assert all(len(pair) == 2 for pair in pairs), "each line is name==version"
    found = {canonicalize_name(name): Version(version) for name, version in pairs}
    assert len(found) == len(pairs), "a name is pinned twice"
    return found


def test_constraints_pin_what_pyproject_allows(pins):
    assert [str(needed) for needed in ALL if not needed.specifier.contains(pins[canonicalize_name(needed.name)])] == []


def test_no_pin_names_a_local_build(pins):
    assert [name for name, version in pins.items() if version.local] == [], "2.13.0+cpu is not on PyPI"


def test_the_installed_versions_are_the_pinned_ones(pins):
    installed = {needed.name: Version(Version(metadata.version(needed.name)).public) for needed in TESTED}
    assert installed == {name: pins[canonicalize_name(name)] for name in installed}


def test_transitive_dependencies_are_pinned_too(pins):
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


def test_each_dependency_has_its_reason():
    lines = [line.strip() for line in PROJECT_TEXT.splitlines() if re.match(r'\s+"[\w.\[\]-]+[><=~]', line)]
    assert len(lines) == len(ALL) + len(GROUPS)
    assert [line for line in lines if not re.search(r'",\s+# \w{3}', line)] == []


def test_conda_installs_python_and_pip_and_repeats_no_version():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, by_pip = environment["dependencies"]
    name, version = python.split("=")
    assert (name, pip, list(by_pip)) == ("python", "pip", ["pip"])
    assert SpecifierSet(PROJECT["requires-python"]).contains(version)
    constraint, project = by_pip["pip"]
    assert constraint.split() in (["--constraint", "constraints.txt"], ["-c", "constraints.txt"])
    assert re.fullmatch(r"(?:--editable|-e) \.\[([\w,]+)\]", project), "the project with extras, without a version"
    assert set(project[project.index("[") + 1 : -1].split(",")) <= set(EXTRAS)


def sessions_in(file: str) -> set[str]:
    """Return the names behind each `nox -s` of a file."""
    found = re.findall(r"nox -s ((?:[a-z]+\b[ ]?)+)", (ROOT / file).read_text(encoding="utf-8"))
    return {name for names in found for name in names.split()}


@pytest.mark.parametrize("file", [".ci/run", ".github/workflows/ci.yml", "README.md", "CONTRIBUTING.md"])
def test_the_documents_name_sessions_that_exist(file):
    tasks = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert "tests" in sessions_in(file), f"{file} does not run: nox -s tests"
    assert [name for name in sessions_in(file) if f"\ndef {name}(" not in tasks] == []


def test_contributing_lists_every_session_and_every_folder():
    tasks = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert set(re.findall(r"session\S*\ndef (\w+)\(", tasks)) == sessions_in("CONTRIBUTING.md")
    tree = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    entries = [path for path in (ROOT / "helpers").iterdir() if path.suffix != ".pyc" and "__" not in path.name[:2]]
    assert [path.name for path in entries if f"\n  {path.name}" not in tree] == []


def test_ci_covers_three_systems_and_a_schedule():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    systems = {system.split("-")[0] for system in workflow["jobs"]["tests"]["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "windows", "macos"}
    assert "schedule" in workflow[True] and "weekly" in sessions_in(".github/workflows/ci.yml")  # YAML's `on` is true


def published():
    """Return path and text of each file that git tracks, or would add."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, encoding="utf-8")
    if listed.returncode:
        pytest.skip("this is not a clone")
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    return [(path, path.read_bytes().decode("utf-8", errors="ignore")) for path in paths if path.is_file()]


def test_no_file_names_a_path_of_one_machine():
    nobody = r"(?!(?:me|x)\b)"  # the names that our examples use
    homes = rf"(?<![\w.])/(?:home|Users)/{nobody}\w+|[A-Z]:\\+Users\\+{nobody}\w+"
    machine = re.compile(rf"{homes}|(?<![\w.])/(?:root|tmp/w|mnt|opt/(?!tljh\b)[^/]*)/|file:/{{3}}")
    assert [(path.name, match[0]) for path, text in published() for match in machine.finditer(text)] == []


def is_public(host: str) -> bool:
    """Return whether any reader can reach it: no private address, no company's mirror, no name without a dot."""
    try:
        address = ipaddress.ip_address(host)
        return address.is_loopback or address in ipaddress.ip_network("192.0.2.0/24")
    except ValueError:
        private = re.search(r"mirror|artifactory|nexus|proxy|registry|\.(?:internal|local|lan|corp)$", host)
        return host in ("localhost", "host") or ("." in host and not private)  # "host": in our examples


def test_no_file_names_a_private_host_or_another_index():
    urls = [(path, url) for path, text in published() for url in re.findall(r"https?://[^\s\"'`)>\[\]\\{]+", text)]
    assert urls
    assert [(path.name, url) for path, url in urls if not is_public(urlsplit(url).hostname or "localhost")] == []
    indexes = [(path.name, url) for path, url in urls if re.search(r"/simple\b|/whl\b|pypi\.(?!org/project)", url)]
    assert {urlsplit(url).hostname for _, url in indexes} <= {"download.pytorch.org", "127.0.0.1"}


@pytest.mark.parametrize("host", ["10.0.0.7", "pypi", "mirror.example.org", "nexus.corp", "box.internal"])
def test_a_private_host_is_recognized(host):
    assert not is_public(host)
