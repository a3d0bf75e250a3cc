"""Where images lie in the plane: PCA by torch; t-SNE and UMAP of a sample, where they are installed."""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsup.packages import optional
from selfsup.report.contents import EmbeddingMap, Layout, Protocol
from selfsup.report.encoding import Deadline, unit
from selfsup.report.pictures import Examples

THUMBS = 800  # pictures of points, at most
_FITTED = 10_000  # rows that the axes of PCA are found from
_WIDE = 1_024  # dimensions from which on so many rows must do: time grows with the cube of the smaller number
_REDUCED = 50  # directions that t-SNE and UMAP begin from, as is usual
_TRIED = 300  # rows by which the time that t-SNE takes is told
_PATIENCE = 1.5  # times as long as was foreseen it may take
_SHORT = 3.0  # seconds in which none is begun: its import alone takes one or two
_UNTOLD = 300.0  # seconds that must be left for UMAP, whose first use compiles for a minute
_LEAST = 50  # rows that are worth a t-SNE
_PERPLEXITY = 30.0
_ITERATIONS = 750
_FIRST_ITERATIONS = 250  # the fewest that scikit-learn does


def principal(rows: Tensor, count: int) -> tuple[Tensor, float]:
    """Rows along their first `count` principal axes, (N, count), and the share of the variance that these hold.

    The sign of an axis is such that its largest component is positive, so that equal rows give equal maps.
    """
    fitted = rows[: _WIDE if rows.shape[1] > _WIDE else _FITTED].double()
    mean = fitted.mean(dim=0)
    centred = fitted - mean
    if len(centred) < centred.shape[1]:  # the axes lie among the rows
        values, vectors = torch.linalg.eigh(centred @ centred.T)
        axes = torch.nn.functional.normalize(centred.T @ vectors.flip(1)[:, :count], dim=0)
    else:
        values, vectors = torch.linalg.eigh(centred.T @ centred)
        axes = vectors.flip(1)[:, :count]
    largest = axes.abs().argmax(dim=0)
    axes = axes * axes[largest, torch.arange(axes.shape[1])].sign()
    total = float(values.clamp(min=0).sum())
    share = float(values.flip(0)[:count].clamp(min=0).sum()) / total if total > 0 else 0.0
    return ((rows.double() - mean) @ axes).float(), share


def on_the_map(places: Tensor) -> Tensor:
    """Places in the square [0, 1] x [0, 1], in their proportions; what lies far out is moved to the edge: (N, 2)."""
    ranks = places.sort(dim=0).values
    last = len(places) - 1
    low, high = ranks[round(0.002 * last)], ranks[round(0.998 * last)]
    side = float((high - low).max()) or 1.0
    return ((places - (low + high) / 2) / side / 1.06 + 0.5).clamp(0, 1).float()


def t_sne(rows: Tensor, most: int, seconds: float) -> tuple[Tensor, str]:
    """t-SNE of the first rows, of as many as can be done in the given time: (M, 2), and what was done.

    Raises:
        ValueError: scikit-learn is not installed, or there is too little time.
    """
    if seconds < _SHORT:
        raise ValueError(f"t-SNE needs {_SHORT:g} seconds at least, and there are {seconds:.1f} left")
    manifold = optional("sklearn.manifold", "a map by t-SNE")
    asked = min(most, len(rows))
    reduced, _ = principal(rows[:asked], min(_REDUCED, rows.shape[1]))
    values = np.ascontiguousarray(reduced.numpy())

    def placed(count: int, iterations: int) -> np.ndarray:
        perplexity = min(_PERPLEXITY, (count - 1) / 4)
        fitted: Any = manifold.TSNE(perplexity=perplexity, init="pca", random_state=0, max_iter=iterations)
        found: np.ndarray = fitted.fit_transform(values[:count])
        return found

    count = asked
    if asked > _TRIED:
        begin = time.monotonic()
        placed(_TRIED, _FIRST_ITERATIONS)
        each = (time.monotonic() - begin) / _TRIED * (_ITERATIONS / _FIRST_ITERATIONS) * _PATIENCE
        count = min(asked, int(max(0.0, seconds - (time.monotonic() - begin)) / each))
    if count < _LEAST:
        raise ValueError(f"t-SNE needs {_LEAST} images and the time for them; there was time for {count}")
    note = f"scikit-learn, perplexity {_PERPLEXITY:g}, {_ITERATIONS} iterations, from {values.shape[1]} principal axes"
    return torch.from_numpy(placed(count, _ITERATIONS)), f"{note}; distances between far groups mean nothing"


def _umap(rows: Tensor, most: int) -> tuple[Tensor, str]:
    module: Any = importlib.import_module("umap")
    reduced, _ = principal(rows[:most], min(_REDUCED, rows.shape[1]))
    found = module.UMAP(n_components=2, random_state=0, n_jobs=1).fit_transform(reduced.numpy())
    return torch.from_numpy(np.asarray(found, dtype=np.float32)), "umap-learn, 15 neighbours, from principal axes"


def embedding_map(
    features: Tensor,
    labels: Tensor,
    names: list[str],
    most: int,
    seconds: float,
    deadline: Deadline,
    protocol: Protocol,
) -> tuple[EmbeddingMap, list[str]]:
    """A map of N images, without clusters and pictures yet; and what could not be had, in sentences.

    Args:
        features: (N, D), finite.
        labels: (N,) int64; -1 where there is none.
        names: of the classes.
        most: images that t-SNE and UMAP place; 0: neither.
        seconds: that t-SNE may take.
        deadline: of the report. UMAP, which tells no time ahead, is left out where less than five minutes are left.
        protocol: what the features are of.
    """
    rows = unit(features)
    places, share = principal(rows, 2)
    if places.shape[1] < 2:
        places = torch.nn.functional.pad(places, (0, 2 - places.shape[1]))
    layouts = [Layout("PCA", None, on_the_map(places), f"two axes that hold {share:.0%} of the variance")]
    left_out = []
    tries: list[tuple[str, Callable[[], tuple[Tensor, str]]]] = []
    if most:
        tries.append(("t-SNE", lambda: t_sne(rows, most, min(seconds, deadline.left))))
        if importlib.util.find_spec("umap") is not None and deadline.left > _UNTOLD:
            tries.append(("UMAP", lambda: _umap(rows, most)))
    for name, placed in tries:
        try:
            found, note = placed()
            note = f"{len(found):,} images; {note}" if len(found) < len(rows) else note
            which = torch.arange(len(found)) if len(found) < len(rows) else None
            layouts.append(Layout(name, which, on_the_map(found), note))
        except ValueError as error:
            left_out.append(f"No map by {name}: {error}.")
    return EmbeddingMap(layouts, labels, names, None, [], protocol), left_out


def with_pictures(found: EmbeddingMap, indices: Tensor, examples: Examples, deadline: Deadline) -> EmbeddingMap:
    """The map with pictures of its first points, as many as there is time for; the points are in random order."""
    thumbs = []
    for row, index in enumerate(indices[:THUMBS].tolist()):
        if deadline.passed:
            break
        thumbs.append((row, examples(index)))
    return found._replace(thumbs=thumbs)
