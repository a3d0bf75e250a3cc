"""The table of formats, found by looking, and whether a call fits one of them."""

import importlib
import pkgutil
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from selfsup.config.stored_names import nearest
from selfsup.export import formats as _formats
from selfsup.export.format import ANY_NETWORK, FOLDER, Format, NotWritten
from selfsup.export.outgoing import Part
from selfsup.packages import PACKAGES
from selfsup.storage.untrusted import plain_name


@cache
def table() -> dict[str, Format]:
    """Every format by its name: a new file in `selfsup.export.formats` is a new line here."""
    modules = [
        importlib.import_module(f"{_formats.__name__}.{m.name}") for m in pkgutil.iter_modules(_formats.__path__)
    ]
    return {module.FORMAT.name: module.FORMAT for module in modules}


def format_for(name: str, out: Path, part: Part, pixels: bool) -> Format:
    """The format of this name, if a part of an encoder can be written so to such a path.

    Args:
        name: of the format.
        out: where it is to be written.
        part: of the encoder.
        pixels: whether scaling and normalisation are to be inside.

    Raises:
        ValueError: there is no such format, or it has another ending, no such part or no place for preprocessing, or a
            package is missing that it needs.
    """
    known = table()
    if name not in known:
        meant = nearest(name, list(known))
        what = f"there is no format {plain_name(name, 80)}{meant}" if name else "--to is missing"
        raise ValueError(f"{what}{chr(10) if meant else '; '}give one of {', '.join(sorted(known))}")
    found = known[name]
    endings = {ending for one in known.values() for ending in one.endings}
    if (out.suffix if out.suffix in endings else FOLDER) not in found.endings:
        raise ValueError(f"--out is {plain_name(out)}; {name} wants {wanted(found)}")
    if part not in found.parts:
        raise NotWritten(f"{name} has no place for the {part}; give --part backbone, or {ANY_NETWORK}")
    if pixels and not found.takes_pixels:
        able = ", ".join(sorted(one.name for one in known.values() if one.takes_pixels))
        raise NotWritten(f"{name} holds weights, and no preprocessing; leave --preprocessing out, or give --to {able}")
    missing = [package for package in found.packages if find_spec(package) is None]
    if missing:
        packages = " and ".join(PACKAGES[package] for package in missing)
        verb = "which is not installed" if len(missing) == 1 else "which are not installed"
        raise ValueError(
            f"the format {name} needs {packages}, {verb}: pip install 'selfsup[{found.extra}]', or "
            f"pip install {' '.join(PACKAGES[package] for package in missing)}"
        )
    return found


def wanted(format: Format) -> str:
    """What the name of a file of this format may be, for people."""
    files = " or ".join(f"FILE{ending}" for ending in format.endings if ending != FOLDER)
    folder = "a folder, a name without an ending" if FOLDER in format.endings else ""
    return " or ".join(part for part in (f"a name such as {files}" if files else "", folder) if part)
