"""What `tools.gpu_check` needs beyond torch, accelerate and what these bring: wheels to carry to the machine."""

import configparser
import re
from collections.abc import Iterable
from functools import cache
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.checkout import ROOT

GIVEN = ("torch", "accelerate")
SERVED = ("faiss-gpu", "faiss-cpu", "numba")  # torch finds the same neighbours, and makes the same views
STYLE = ("ruff", "mypy", "pytest-xdist")  # extras for those who change the code


def declared() -> dict[str, Requirement]:
    """The requirements of setup.cfg that hold on this machine, with all extras, without what only checks style."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    extras = config["options.extras_require"].values()
    lines = "\n".join([config["options"]["install_requires"], *extras]).splitlines()
    found = [Requirement(line) for line in lines if line.strip()]
    return {
        canonicalize_name(one.name): one
        for one in found
        if (one.marker is None or one.marker.evaluate()) and one.name not in STYLE
    }


def brought(names: Iterable[str]) -> set[str]:
    """These packages and all that they require, as far as they are installed here."""
    reached: set[str] = set()
    waiting = [canonicalize_name(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        waiting += [canonicalize_name(one.name) for one in _requires(name)]
    return reached


@cache
def _requires(name: str) -> list[Requirement]:
    try:
        found = [Requirement(line) for line in metadata.requires(name) or []]
    except metadata.PackageNotFoundError:
        return []
    return [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]


def needed(there: Iterable[str] = ()) -> list[str]:
    """Names of the packages to bring, sorted.

    Args:
        there: packages that the machine has, beside torch, accelerate and what these bring.
    """
    given = brought(GIVEN) | {canonicalize_name(name) for name in there}
    return sorted(brought(name for name in declared() if name not in SERVED) - given)


def absent() -> list[str]:
    """What setup.cfg declares and is not installed here, sorted."""
    return sorted(name for name in declared() if _version(name) is None)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def table(there: str) -> str:
    """A line for each package: its name, the version here, and who asks for it.

    Args:
        there: text with names of packages between spaces or commas, such as the output of `pip list`.
    """
    asked = declared()
    bring = {other: brought([other]) for other in asked}
    lines = []
    for name in needed(re.findall(r"[A-Za-z0-9][A-Za-z0-9._-]*", there)):
        version = _version(name)
        users = sorted(other for other in asked if other != name and name in bring[other])
        why = str(asked[name]) if name in asked else f"for {', '.join(users)}"
        lines.append(f"{name:28} {version or 'not here, nor is known what it needs':38} {why}")
    return "\n".join(lines)
