"""Examples of what an encoder takes for alike: nearest neighbours, clusters, and the views it was trained on."""

import torch
from PIL import Image
from torch import Tensor

from selfsup.cluster.kmeans import spherical_kmeans
from selfsup.cluster.neighbours import nearest_neighbours
from selfsup.data.sources import Source
from selfsup.evaluation.clustering import cluster_figures
from selfsup.evaluation.features import Features
from selfsup.monitor.grid import view_grid
from selfsup.report.contents import (
    Clusters,
    ClusterSheet,
    Example,
    Neighbourhood,
    Neighbours,
    Protocol,
    ViewRows,
)
from selfsup.report.encoding import unit
from selfsup.report.figures import Seen
from selfsup.report.pictures import Examples, small

QUERIES = 8  # images whose neighbours are shown
NEAREST = 6
SHEETS = 12  # clusters that are shown
OF_A_CLUSTER = 12
WITHOUT_LABELS = 10  # clusters, where no classes tell how many
MOST = 200  # clusters
VIEWED = 8  # images whose views are shown
VIEWS = 6  # of each
_REPEATS, _ITERATIONS = 1, 15


def queries_of(labels: Tensor, count: int = QUERIES) -> list[int]:
    """Rows to show: the first of each class, as long as there are classes, then the first ones; of N labels."""
    seen, chosen = set[int](), list[int]()
    for row, label in enumerate(labels.tolist()):
        if label >= 0 and label not in seen:
            seen.add(label)
            chosen.append(row)
    rest = [row for row in range(len(labels)) if row not in set(chosen)]
    return [*chosen, *rest][:count]


def neighbours(features: Features, before: Tensor | None, examples: Examples, protocol: Protocol) -> Neighbours | None:
    """The nearest of all other images to some of them, after training and before.

    Args:
        features: of N images.
        before: (M, D) of the first M of them by the untrained encoder; None where there are none.
        examples: of the source that `features.indices` count in.
        protocol: what the features are of.
    """
    searched = len(features.labels) if before is None else min(len(before), len(features.labels))
    if searched < 2:
        return None
    rows = queries_of(features.labels[:searched])
    after = _nearest(features.features[:searched], rows)
    earlier = [] if before is None else _nearest(before[:searched], rows)

    def shown(found: list[tuple[int, float]]) -> list[tuple[Example, float]]:
        return [(examples(int(features.indices[row])), cosine) for row, cosine in found]

    return Neighbours(
        [
            Neighbourhood(
                examples(int(features.indices[row])), shown(earlier[place]) if earlier else [], shown(after[place])
            )
            for place, row in enumerate(rows)
        ],
        protocol | {"metric": "cosine", "searched images": searched},
    )


def _nearest(rows: Tensor, asked: list[int]) -> list[list[tuple[int, float]]]:
    places = torch.tensor(asked)
    k = min(NEAREST, len(rows) - 1)
    similarities, numbers = nearest_neighbours(rows[places], rows, k, exclude=places, cosine=True)
    return [list(zip(*pair, strict=True)) for pair in zip(numbers.tolist(), similarities.tolist(), strict=True)]


def clustered(features: Features, source: Source, examples: Examples, protocol: Protocol) -> tuple[Clusters, Tensor]:
    """Spherical k-means of N images into as many clusters as there are classes: sheets, and the clusters (N,) int64.

    They are numbered by their size, the largest first.
    """
    rows = unit(features.features)
    known = features.labels[features.labels >= 0]
    classes = len(known.unique())
    k = min(classes if classes >= 2 else WITHOUT_LABELS, MOST, len(rows))
    clusters, _ = spherical_kmeans(rows, k, _REPEATS, _ITERATIONS, seed=0)
    all_labelled = classes >= 2 and len(known) == len(features.labels)
    figures = cluster_figures(features.labels if all_labelled else None, clusters)
    order = clusters.bincount().argsort(descending=True, stable=True)
    clusters = order.argsort()[clusters]  # the largest one is the first
    sheets = []
    for cluster in range(min(SHEETS, len(order))):
        own = (clusters == cluster).nonzero()[:, 0]
        central = own[(rows[own] @ rows[own].mean(dim=0)).argsort(descending=True, stable=True)][:OF_A_CLUSTER]
        share, label = _most_frequent(features.labels[own], source)
        shown = [examples(int(features.indices[row])) for row in central.tolist()]
        sheets.append(ClusterSheet(len(own), shown, share, label))
    how = {"metric": "cosine", "k": k, "repeats": _REPEATS, "iterations": _ITERATIONS, "seed": 0, "images": len(rows)}
    return Clusters(sheets, figures, protocol | how), clusters


def _most_frequent(labels: Tensor, source: Source) -> tuple[float | None, str]:
    known = labels[labels >= 0]
    if not len(known):
        return None, ""
    counts = known.bincount()
    label = int(counts.argmax())
    return int(counts[label]) / len(known), source.class_name(label)


def views_shown(seen: Seen, rows: Tensor, examples: Examples) -> ViewRows:
    """The views of some images, beside the images themselves.

    Args:
        seen: makes the views.
        rows: (B,) int64, positions in the source of `seen`.
        examples: of that source.
    """
    views, own = seen(rows[:VIEWED])
    grid = view_grid(views, seen.augment, len(own))  # a row for each view, in cells of the first view's size
    height, width = views[0].shape[-2:]
    shown = []
    for place, row in enumerate(own.tolist()):
        pictures = []
        for number, view in enumerate(views[:VIEWS]):
            top, left = number * height, place * width
            cell = grid[:, top : top + view.shape[-2], left : left + view.shape[-1]]
            pixels = (cell * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
            pictures.append(small(Image.fromarray(pixels)))
        shown.append((examples(row), pictures))
    sizes = sorted({f"{view.shape[-2]} x {view.shape[-1]}" for view in views})
    protocol = {"epoch": 1, "seed": seen.seed, "views of an image": len(views), "views shown": min(VIEWS, len(views))}
    return ViewRows(shown, protocol | {"height x width": ", ".join(sizes)})
