"""`selfsup dedup`: near duplicates in a folder, which of them to keep, and a diverse subset."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selfsup.data.files import FileSource
from selfsup.data.same_bytes import same_bytes
from selfsup.output import image_progress, message
from selfsup.runtime import arithmetic
from selfsup.search.diverse import diverse_subset
from selfsup.search.duplicates import Pairs, near_duplicates
from selfsup.search.groups import Groups, grouped
from selfsup.stages.base import Evaluated, Result, Stage, data_of, place_of
from selfsup.stages.kept_features import Kept, kept_features
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.search_settings import LISTS, Dedup
from selfsup.stages.settings import HELP
from selfsup.storage.untrusted import as_cell, plain_name
from selfsup.storage.whole_file import whole_file

MEMBERS = ("group", "path", "stays", "stands_for_it", "similarity", "same_bytes")  # columns of the groups
KEPT = ("path", "label", "split")  # of what stays
PAIRS = ("path", "other", "similarity", "same_bytes")  # and of the pairs


class _Found(NamedTuple):
    """What was found among the images of N rows."""

    pairs: Pairs
    groups: Groups
    first: Tensor  # (N,) int64: the first row of the same bytes
    subset: Tensor | None  # (n,) int64 rows in the order of the traversal
    covered: float | None  # least cosine of one that stays with the nearest of the subset


def run_dedup(path: Path, settings: Dedup) -> Evaluated:
    """Write the groups of near duplicates, and what else the settings name.

    Args:
        path: a run folder or an encoder file.
        settings: with `out` and `data.root` set.

    Raises:
        ValueError: no images, no `out`, too many pairs, or a subset larger than what stays.
    """
    require_data_of_run(path, settings.data)
    if not settings.out or any(Path(name).is_dir() for name in (settings.out, settings.pairs, settings.keep) if name):
        raise ValueError(f"--out is {settings.out!r}; give the name of a file that ends in {' or '.join(LISTS)}")
    kept = kept_features(path, settings)
    found = _found(kept, settings)
    _write_keep(found, kept, settings)  # first, as it may refuse
    _write_rows(settings.out, MEMBERS, _members(found, kept))
    if settings.pairs:
        _write_rows(settings.pairs, PAIRS, _pairs(found, kept))
    figures, told = _figures(found)
    message(told)
    protocol = {"metric": "cosine", "similarity": settings.similarity, **kept.protocol}
    about: dict[str, Any] = kept.exported.about | {"out": settings.out}
    if settings.keep:
        about |= {"keep": settings.keep}
    if found.subset is not None:
        protocol |= {"subset": len(found.subset)}
        about |= {"covered": found.covered}
    root = place_of(settings.data)
    return Evaluated([Result(stage="dedup", figures=figures, protocol=protocol, about=about, data_root=root)])


def _found(kept: Kept, settings: Dedup) -> _Found:
    count, features = len(kept.features), kept.features
    same = same_bytes(kept.images, settings.data.verify)
    row_of = torch.full((len(kept.images),), -1)
    row_of[kept.numbers] = torch.arange(count)
    first = row_of[torch.from_numpy(same.first)[kept.numbers]]
    first = torch.where(first < 0, torch.arange(count), first)  # of which the first was unreadable a moment ago
    again = (first != torch.arange(count)).nonzero()[:, 0]
    # The same bytes have the same features but for the last digits, which differ by the batch.
    features[again.to(features.device)] = features[first[again].to(features.device)]
    with image_progress("dedup") as progress, arithmetic.full_precision():
        task = progress.add_task("dedup", total=count)
        pairs = near_duplicates(features, settings.similarity, advance=lambda rows: progress.advance(task, rows))
    sizes = torch.from_numpy(same.sizes)[kept.numbers]
    groups = grouped(count, pairs, sizes)
    if settings.subset is None:
        return _Found(pairs, groups, first, None, None)
    stay = groups.stays.nonzero()[:, 0]
    if settings.subset > len(stay):
        raise ValueError(
            f"a subset of {settings.subset:,} is wanted, and {len(stay):,} images stay; give a smaller one, or a "
            "higher --similarity"
        )
    with image_progress("subset") as progress, arithmetic.full_precision():
        task = progress.add_task("subset", total=settings.subset)
        chosen = diverse_subset(
            features[stay.to(features.device)], settings.subset, advance=lambda rows: progress.advance(task, rows)
        )
    return _Found(pairs, groups, first, stay[chosen.rows], chosen.covered)


def _figures(found: _Found) -> tuple[dict[str, float], str]:
    """Numbers, and a line that says them."""
    groups, several = found.groups, int(found.groups.group.max()) + 1
    goes = ~groups.stays
    exact = int((goes & (found.first == found.first[groups.stands_for])).sum())
    figures = {
        "pairs": len(found.pairs.first),
        "groups": several,
        "duplicates": int(goes.sum()),
        "duplicates_same_bytes": exact,
        "stay": int(groups.stays.sum()),
    }
    told = (
        f"{several:,} groups of near duplicates; {figures['duplicates']:,} images are like one that stays, "
        f"{exact:,} of them the same bytes; {figures['stay']:,} stay"
    )
    if found.subset is not None:
        told += f"; of these {len(found.subset):,} are kept, and each is within a cosine of {found.covered:.4f} of one"
    return dict(figures), told


# Files


def _members(found: _Found, kept: Kept) -> Iterator[tuple[Any, ...]]:
    """A row for each image of a group, group by group, in the order of the data."""
    groups = found.groups
    members = (groups.group >= 0).nonzero()[:, 0]
    for row in members[groups.group[members].argsort(stable=True)].tolist():
        stands = int(groups.stands_for[row])
        stays, same = bool(groups.stays[row]), bool(found.first[row] == found.first[stands])
        similarity = round(float(groups.similarity[row]), 7)
        yield int(groups.group[row]), kept.name(row), stays, kept.name(stands), similarity, same


def _pairs(found: _Found, kept: Kept) -> Iterator[tuple[Any, ...]]:
    first, second, similarity, _ = found.pairs
    for one, two, cosine in zip(first.tolist(), second.tolist(), similarity.tolist(), strict=True):
        same = bool(found.first[one] == found.first[two])
        yield kept.name(one), kept.name(two), round(cosine, 7), same


def _write_rows(name: str, columns: Sequence[str], rows: Iterable[tuple[Any, ...]]) -> None:
    """As CSV or JSON Lines; there when it is whole."""
    with whole_file(Path(name)) as file:
        if name.endswith(".jsonl"):
            file.writelines(f"{json.dumps(dict(zip(columns, row, strict=True)))}\n".encode() for row in rows)
            return
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")  # names that are no UTF-8 stay
        table = csv.writer(text, lineterminator="\n")
        table.writerow(columns)
        table.writerows(map(_in_cell, row) for row in rows)
        text.detach()  # flushed, and the file left open


def _in_cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return as_cell(value) if isinstance(value, str) else value


def _write_keep(found: _Found, kept: Kept, settings: Dedup) -> None:
    """What stays, in the order of the data; of a subset in the order in which they were taken.

    Raises:
        ValueError: a name cannot stand in such a file; a table of what are no image files.
    """
    if not settings.keep:
        return
    rows = found.groups.stays.nonzero()[:, 0] if found.subset is None else found.subset
    if settings.keep.endswith(".csv"):
        _write_rows(settings.keep, KEPT, [_in_table(kept, row) for row in rows.tolist()])
        return
    names = [kept.name(row) for row in rows.tolist()]
    for name in names:
        _require(name, "\n" not in name and "\r" not in name, "a list of one a line")
    with whole_file(Path(settings.keep)) as file:
        file.writelines(f"{name}\n".encode("utf-8", "surrogateescape") for name in names)


def _in_table(kept: Kept, row: int) -> tuple[str, str, str]:
    """Path, label and part, as `--data.labels` reads them."""
    number, place = kept.images.place(int(kept.numbers[row]))
    source = kept.images.parts[number]
    if not isinstance(source, FileSource):
        raise ValueError("a table of what stays is of image files in one folder; give --keep a name that ends in .txt")
    path, label = os.path.abspath(source.name(place)), int(source.labels[place])
    named = "" if label < 0 else source.class_name(label)
    _require(path, path == as_cell(path) and path == path.strip(), "a table")
    return path, named, kept.parts[number]


def _require(name: str, fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(
            f"the end of a line or the like is in a name, and {what} cannot have it; rename {plain_name(name)}"
        )


STAGE = Stage(run=run_dedup, defaults=lambda path, protocol: Dedup(data=data_of(path)), help=HELP["dedup"])
