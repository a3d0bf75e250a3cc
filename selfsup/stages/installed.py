"""Which packages are installed, and whether they can be used: without torch, and whatever is broken."""

import importlib
import importlib.util
import sys
from importlib import metadata

from selfsup.packages import NEEDED, PACKAGES

_COMPILED = (*NEEDED, "faiss", "numba", "simplejpeg", "torchvision")  # these may be there and broken


def problem_of(module: str) -> str:
    """Why a module cannot be used; "" where it can."""
    try:
        if importlib.util.find_spec(module) is None:
            return "is not installed"
        if module in _COMPILED:
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        return "is not installed" if error.name == module else f"lacks a part of its own ({error})"
    except Exception as error:  # libraries that do not fit together raise nearly every class there is
        return f"cannot be imported ({type(error).__name__}: {str(error).partition(chr(10))[0]})"
    return ""


def version_of(module: str) -> str:
    """Which one of a module is there."""
    loaded = getattr(sys.modules.get(module), "__version__", None)
    if isinstance(loaded, str):
        return loaded
    for package in (PACKAGES.get(module, module), f"{module}-gpu"):
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return "of an unknown version"


def too_old() -> list[str]:
    """Packages that are older than the installation of selfsup asks for; nothing is known of a bare checkout."""
    try:
        from packaging.requirements import Requirement

        wanted = [Requirement(line) for line in metadata.requires("selfsup") or ()]
    except (ImportError, metadata.PackageNotFoundError):
        return []
    told = []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            continue  # which is said where it is looked for
        if not requirement.specifier.contains(version, prereleases=True):
            needed = f"{requirement.name}{requirement.specifier}"
            told.append(f"{requirement.name} is {version}, and selfsup needs {needed}: pip install '{needed}'")
    return told
