"""`selfsup search`: the images of a folder that are most like given ones."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from selfsup.cluster.backends import has_faiss
from selfsup.data.collected import Collected, collect
from selfsup.data.found import named
from selfsup.data.levels import parse_levels
from selfsup.evaluation.features import encoded
from selfsup.output import message
from selfsup.report.markup import protocol
from selfsup.runtime import arithmetic
from selfsup.search.approximate import KINDS
from selfsup.search.index import Index, Measured, kind_for
from selfsup.search.kinds import EXACT_VALUES
from selfsup.search.rows import inverse_lengths
from selfsup.stages.kept_features import Kept, kept_features
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.search_settings import ANSWERS, Search
from selfsup.stages.shown import MOST_CELLS, Cell, as_html, as_png, cell
from selfsup.storage import checkpoint
from selfsup.storage.sealed import seal, unseal
from selfsup.storage.tensor_file import lay_out
from selfsup.storage.whole_file import whole_file

_ABOUT = ("of", "recall_wanted", "effort", "recall", "sha256")


class _Answers(NamedTuple):
    """What was found for each image that was asked for."""

    queries: Collected
    similarities: Tensor  # (Q, k) float64, of those that can be read
    rows: Tensor  # (Q, k) int64
    place: dict[int, int]  # number of a query -> its row in both
    reasons: dict[str, str]  # of the others, by their names


def run_search(path: Path, images: Sequence[str], settings: Search) -> dict[str, Any]:
    """Find the nearest images of the data for each of `images`; returns the JSON object.

    Args:
        path: a run folder or an encoder file.
        images: files, folders and archives; `-` for a list on standard input.
        settings: with `data.root` set.

    Raises:
        ValueError: no images on one side, none that can be read, an index without faiss, several processes.
    """
    require_data_of_run(path, settings.data)
    _check_out(settings)
    kept = kept_features(path, settings)
    index = opened(kept, settings)
    feed = kept.exported.feed
    queries = collect(images, parse_levels(feed.range), feed.channels)
    k = min(settings.k, len(kept.features))
    if settings.out.endswith(".png") and len(queries) * (k + 1) > MOST_CELLS:
        raise ValueError(
            f"{len(queries):,} images with {k} found for each are too many for a picture, which has {MOST_CELLS:,} at "
            "most; give --out a name that ends in .html or .jsonl"
        )
    if k < settings.k:
        message(f"k is {settings.k}, and there are {k} images: all of them are found")
    answers = _answered(queries, index, k, kept, settings)
    _write(answers, kept, settings)
    if answers.reasons:
        message(f"unreadable: {named(list(answers.reasons), 'image')} of {len(queries):,} that were asked for")
    if settings.out != "-":
        message(f"written to {settings.out}")
    measured = {} if index.measured is None else {"recall_at_10": index.recall, "effort": index.measured.effort}
    return {
        "out": settings.out,
        "queries": len(queries),
        "unreadable_queries": len(answers.reasons),
        "k": k,
        "index": index.kind,
        **measured,
        **kept.protocol,
        **kept.exported.about,
        "folder": str(kept.folder),
    }


def _check_out(settings: Search) -> None:
    if settings.out != "-" and Path(settings.out).is_dir():
        raise ValueError(f"--out is {settings.out!r}, a folder; give a name that ends in {', '.join(ANSWERS)}")


def opened(kept: Kept, settings: Search) -> Index:
    """The index that was built before, or a new one, which is kept.

    Raises:
        ValueError: faiss is needed and is not installed.
    """
    kind = kind_for(kept.features, settings.index)
    if kind == "flat":
        if settings.index == "auto" and not has_faiss() and kept.features.numel() > EXACT_VALUES:
            message("faiss is not installed: all images are looked at, which is exact, and slow for many")
        return Index(kept.features)
    found = _found(kept, kind, settings.recall)
    if found is not None:
        return found
    with arithmetic.full_precision():
        index = Index.build(kept.features, settings.index, settings.recall)
    assert index.approximate is not None
    assert index.measured is not None
    tensors = lay_out(index.approximate.state())
    content = b"".join(tensors.pieces())
    about = {"of": _of(kept), "recall_wanted": settings.recall, **index.measured._asdict()}
    checkpoint.write_atomically(kept.folder / f"{kind}.safetensors", content)
    checkpoint.write_atomically(
        kept.folder / f"{kind}.json", seal(about | {"sha256": hashlib.sha256(content).hexdigest()})
    )
    message(
        f"{_told(kind)} built over {len(kept.features):,} images: recall@10 {index.recall:.4f} against exact search"
    )
    if index.recall < settings.recall:
        message(f"that is less than the {settings.recall:g} that was asked for; --index flat is exact")
    return index


def _found(kept: Kept, kind: str, recall: float) -> Index | None:
    """The stored index; None where there is none, with a word where it is of something else or damaged."""
    about, tensors = kept.folder / f"{kind}.json", kept.folder / f"{kind}.safetensors"
    if not (about.is_file() and tensors.is_file()):
        return None
    try:
        said = unseal(about, _ABOUT)
        if said["of"] != _of(kept) or said["recall_wanted"] != recall:
            message(f"{tensors} is of other features or another recall: built anew")
            return None
        if hashlib.sha256(tensors.read_bytes()).hexdigest() != said["sha256"]:
            raise ValueError("its checksum differs")
        state = checkpoint.read_tensors(tensors)
        approximate = KINDS[kind](kept.features, inverse_lengths(kept.features), state)
        measured = Measured(int(said["effort"]), float(said["recall"]))
        if not 1 <= measured.effort <= max(approximate.efforts()) or not 0 <= measured.recall <= 1:
            raise ValueError("its effort and recall make no sense")
    except (ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        message(f"{tensors} is damaged ({error}): built anew")
        return None
    message(f"{_told(kind)} found: recall@10 {measured.recall:.4f} against exact search")
    return Index(kept.features, approximate, measured)


def _told(kind: str) -> str:
    return {"ivf": "an index of lists", "hnsw": "an index that is a graph"}[kind]


def _of(kept: Kept) -> str:
    """What features an index is of."""
    content = [kept.content, list(kept.features.shape)]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _answered(queries: Collected, index: Index, k: int, kept: Kept, settings: Search) -> _Answers:
    reasons: dict[str, str] = {}
    network = kept.exported.network(settings.layer).to(kept.device)
    center = kept.exported.feed.center()
    how = (settings.batch_size, settings.data.canvas, settings.workers)
    features, numbers = [], []
    for read in encoded(network, queries, center, kept.device, (0, 1), reasons, *how):
        read.require_finite()
        features.append(read.features.cpu())
        numbers += read.indices.tolist()
    if not features:
        name, reason = next(iter(reasons.items()))
        raise ValueError(f"none of the images that were asked for can be read: {named([name], 'image')}; {reason}")
    with arithmetic.full_precision():
        similarities, rows = index.search(torch.cat(features), k)
    return _Answers(queries, similarities, rows, {number: row for row, number in enumerate(numbers)}, reasons)


def _write(answers: _Answers, kept: Kept, settings: Search) -> None:
    lines = (f"{line}\n".encode() for line in _lines(answers, kept))
    if settings.out == "-":
        for line in lines:
            print(line.decode(), end="")
        return
    out = Path(settings.out)
    with whole_file(out) as file:
        if out.suffix == ".png":
            file.write(as_png(list(_cells(answers, kept))))
        elif out.suffix == ".html":
            file.writelines(as_html(_cells(answers, kept), "Images that are alike", _lead(answers, kept)))
        else:
            file.writelines(lines)


def _lead(answers: _Answers, kept: Kept) -> str:
    """What a page tells above its answers: how many images were compared, and how."""
    asked, found = len(answers.queries), answers.rows.shape[1]
    told = (
        f"For each of {asked:,} image{'s' * (asked != 1)} the {found:,} most alike of {len(kept.features):,}, by the "
        "cosine of their features: 1 is equal, 0 unrelated."
    )
    return f"<p class='lead'>{told}</p>{protocol(kept.protocol)}"


def _lines(answers: _Answers, kept: Kept) -> Iterator[str]:
    """A JSON object for each image that was asked for."""
    for number in range(len(answers.queries)):
        name, row = answers.queries.name(number), answers.place.get(number)
        if row is None:
            yield json.dumps({"query": name, "neighbours": None, "error": answers.reasons[name]})
            continue
        near = zip(answers.rows[row].tolist(), answers.similarities[row].tolist(), strict=True)
        found = [{"path": kept.name(found), "similarity": round(similarity, 7)} for found, similarity in near]
        yield json.dumps({"query": name, "neighbours": found, "error": None})


def _cells(answers: _Answers, kept: Kept) -> Iterator[list[Cell]]:
    for number in range(len(answers.queries)):
        row = answers.place.get(number)
        cells = [cell(answers.queries, number, "query" if row is not None else "query, unreadable")]
        if row is not None:
            near = zip(answers.rows[row].tolist(), answers.similarities[row].tolist(), strict=True)
            cells += [
                cell(kept.images, int(kept.numbers[found]), f"{rank}: {similarity:.4f}")
                for rank, (found, similarity) in enumerate(near, start=1)
            ]
        yield cells
