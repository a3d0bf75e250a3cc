"""The table of layouts, found by looking, and which of them a file is of."""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from selfsup.convert import layouts as _layouts
from selfsup.convert.layout import Layout, Network, Refused, Tensors, shown
from selfsup.convert.reading import Contents
from selfsup.convert.vits import Named
from selfsup.storage.untrusted import plain_name

_ENOUGH = 2  # of the three anchors of a network: one may be missing, which is then refused by name


@cache
def table() -> dict[str, Layout]:
    """Every layout by its name: a new file in `selfsup.convert.layouts` is a new line here."""
    modules = [
        importlib.import_module(f"{_layouts.__name__}.{m.name}") for m in pkgutil.iter_modules(_layouts.__path__)
    ]
    return {module.LAYOUT.name: module.LAYOUT for module in modules}


def inert() -> tuple[str, ...]:
    """All classes that are read as dictionaries, of any layout."""
    return tuple(dict.fromkeys(name for layout in table().values() for name in layout.inert))


class Match(NamedTuple):
    """Where an encoder lies in a file."""

    layout: Layout
    which: str  # of the networks in the file
    prefix: str  # flat
    network: Network
    anchors: int  # how many of the network's anchors are there


def recognise(contents: Contents, layout: str = "", which: str = "", architecture: str = "") -> Match:
    """The layout that a file is of.

    Args:
        contents: of the file.
        layout: its name where it is known.
        which: of several networks in the file; "" for the one that the layout takes.
        architecture: the name of a network of timm, where it is known.

    Raises:
        Refused: it is of none, of several, or not of the one that was named.
    """
    known = table()
    if layout and layout not in known:
        raise Refused(f"there is no layout {plain_name(layout, 80)}; choose one of {', '.join(sorted(known))}")
    asked = [known[layout]] if layout else list(known.values())
    for one in asked if layout and which else ():
        if which not in one.encoders:
            raise Refused(f"files of {layout} hold {_networks(one)}, and no network {plain_name(which, 80)}")
    fitting = [match for one in asked for match in _matches(one, contents.tensors, which, architecture, bool(layout))]
    if not fitting:
        raise Refused(_unknown(contents, asked, which))
    best: dict[str, Match] = {}
    for match in fitting:
        before = best.get(match.layout.name)
        if before is None or _rank(match) > _rank(before):
            best[match.layout.name] = match
    ranked = sorted(best.values(), key=_rank, reverse=True)
    if ranked[1:] and _rank(ranked[0]) == _rank(ranked[1]):
        names = [match.layout.name for match in ranked if _rank(match) == _rank(ranked[0])]
        raise Refused(f"{plain_name(contents.path)} may be of {' or '.join(names)}; say which by --layout")
    return ranked[0]


def _rank(match: Match) -> tuple[bool, int, int]:
    """The layout whose network is whole comes first, then the one that is told by more marks, or a longer prefix."""
    whole = match.anchors == len(match.network.anchors())
    return whole, len(match.layout.marks), len(match.prefix)


def _matches(layout: Layout, tensors: Tensors, which: str, architecture: str, named: bool) -> Iterator[Match]:
    """Where the layout's networks may lie; of the networks that a file may hold the first that is there."""
    if not named and not all(any(re.search(mark, name) for name in tensors) for mark in layout.marks):
        return
    for one, prefixes in layout.encoders.items():
        if which and one != which:
            continue
        found = []
        for prefix in prefixes:
            for network in layout.networks:
                if isinstance(network, Named) != bool(architecture):
                    continue
                anchors = sum(f"{prefix}{name}" in tensors for name in network.anchors())
                there = any(name.startswith(prefix) for name in tensors)
                if anchors >= _ENOUGH or (architecture and there):
                    found.append(Match(layout, one, prefix, network, anchors))
        if found:
            yield from found
            return


def _networks(layout: Layout) -> str:
    return ", ".join(name or "one network" for name in layout.encoders)


def _unknown(contents: Contents, asked: list[Layout], which: str) -> str:
    """What to say of a file of no layout: the nearest ones, and how its names begin."""
    names = contents.tensors

    def nearness(layout: Layout) -> int:
        marks = sum(any(re.search(mark, name) for name in names) for mark in layout.marks)
        anchors = max(
            sum(f"{prefix}{name}" in names for name in network.anchors())
            for prefixes in layout.encoders.values()
            for prefix in prefixes
            for network in layout.networks
        )
        ends = sum(any(n.endswith(a) for n in names) for network in layout.networks for a in network.anchors())
        return 100 * anchors + 10 * marks + ends

    first = ", ".join(plain_name(shown(name), 80) for name in sorted(names)[:5])
    what = f" with a network {plain_name(which, 80)}" if which else ""
    if len(asked) == 1:
        wanted = ", ".join(f"{p}{a}" for p in next(iter(asked[0].encoders.values())) for a in _anchors(asked[0]))
        return (
            f"{plain_name(contents.path)} is not of the layout {asked[0].name}{what}: none of its names is there, "
            f"such as {wanted[:300]}\nits first names are {first}"
        )
    near = sorted((one for one in asked if nearness(one)), key=nearness, reverse=True)[:3]
    listed = ", ".join(f"{one.name} ({one.title})" for one in near) or ", ".join(one.name for one in asked)
    return (
        f"{plain_name(contents.path)} is of no layout that is known{what}\nits first names are {first}\n"
        f"the nearest layouts: {listed}\n"
        "a network of timm by timm's names can be named: --architecture resnet50d"
    )


def _anchors(layout: Layout) -> tuple[str, ...]:
    return next((network.anchors() for network in layout.networks if network.anchors()), ())
