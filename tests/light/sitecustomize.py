"""Python as in the environment of a light kernel: with the group `client` of pyproject.toml and its requirements."""

import sys
import tomllib
from importlib.metadata import packages_distributions, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"


def installed() -> set[str]:
    """Return the distributions that `pip install --group client` installs."""
    waiting = [Requirement(line) for line in tomllib.loads(PYPROJECT.read_text("utf-8"))["dependency-groups"]["client"]]
    found = {"openvino-chat-tutorial"}  # by pip install --no-deps
    while waiting:
        if (name := canonicalize_name(waiting.pop().name)) not in found:
            found.add(name)
            needed = map(Requirement, requires(name) or ())
            waiting += [each for each in needed if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


class Absent:
    """Finds no module of a distribution that is not installed there."""

    def __init__(self, allowed: set[str]) -> None:
        owners = {name: {canonicalize_name(each) for each in owner} for name, owner in packages_distributions().items()}
        self.absent = {name for name, owner in owners.items() if owner.isdisjoint(allowed)}

    def find_spec(self, name: str, path=None, target=None) -> None:
        if name.partition(".")[0] in self.absent:
            raise ModuleNotFoundError(f"No module named {name!r} in a light kernel", name=name)


sys.meta_path.insert(0, Absent(installed()))
