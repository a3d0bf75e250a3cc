"""Clusters of features: spherical k-means or DBSCAN, and how well they agree with the labels."""

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from selfsup import distributed
from selfsup.cluster.backends import has_faiss
from selfsup.cluster.dbscan import cosine_graph, dbscan
from selfsup.cluster.kmeans import check_k, spherical_kmeans
from selfsup.data.identity import identity
from selfsup.data.layout import Split
from selfsup.data.opening import labelled_part, open_part, open_test_part
from selfsup.data.sources import Source
from selfsup.devices.double import to_double
from selfsup.evaluation.clustering import (
    cluster_figures,
)
from selfsup.evaluation.features import Features, features_of
from selfsup.evaluation.newest import newest_encoder
from selfsup.stages.base import Evaluated, Result, Stage, as_read, data_of, place_of
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.settings import DBSCAN, HELP, Clustering, KMeans, clustering_settings
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import as_cell
from selfsup.training.accelerator import stage_device


def run_cluster(path: Path, settings: KMeans | DBSCAN) -> Evaluated:
    """Cluster the images of one part of the data; in a run folder, also write the clusters to results/.

    Args:
        path: a run folder or an encoder.safetensors.
        settings: with `data.root` set.

    Raises:
        ValueError: no images, only one class, k cannot be known or is too large, or the features are not finite.
    """
    require_data_of_run(path, settings.data)
    exported = newest_encoder(path, size=settings.size)
    device = stage_device(settings.device)
    part, source = _open(settings)
    labelled = _has_labels(source)
    if labelled and len(source.labels.unique()) < 2:
        raise ValueError(
            f"the {part} images are of only one class, so clusters cannot agree with classes\n"
            "use other data, or --data.labels none for clusters alone"
        )
    if isinstance(settings, KMeans):
        check_k(_clusters_wanted(settings, source), len(source))
    images = features_of(settings, exported.network(settings.layer).to(device), source, exported.feed.center(), device)
    images.require_finite()
    clusters, how, about = _clustered(F.normalize(images.features.to(device)), source, settings)
    protocol = {
        "metric": "cosine",
        **how,
        "layer": settings.layer,
        **exported.protocol,
        **as_read(settings.data),
        "part": part,
        "data": identity(settings.data.verify, source),
        "images": len(images.labels),
        "classes": len(images.labels.unique()) if labelled else None,
    }
    name = "kmeans" if isinstance(settings, KMeans) else "dbscan"
    if path.is_dir() and distributed.rank() == 0:
        # One file for each protocol, as there is one entry in the results: of other data, another k, another step.
        said = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]
        about["file"] = str(_write(path / "results" / f"clusters_{name}_{said}.csv", source, images, clusters))
    figures = cluster_figures(images.labels if labelled else None, clusters)
    if name == "dbscan":
        figures["noise"] = to_double(clusters < 0).mean().item()
    about = exported.about | about
    root = place_of(settings.data)
    return Evaluated([Result(stage=f"cluster_{name}", figures=figures, protocol=protocol, about=about, data_root=root)])


def _clustered(
    unit: Tensor, source: Source, settings: KMeans | DBSCAN
) -> tuple[Tensor, dict[str, Any], dict[str, Any]]:
    """Clusters of unit features, -1 for noise; how they came about; and what another seed changes."""
    if isinstance(settings, DBSCAN):
        clusters = dbscan(cosine_graph(unit, settings.eps), settings.eps, settings.min_samples)
        return clusters, {"eps": settings.eps, "min_samples": settings.min_samples}, {}
    k = _clusters_wanted(settings, source)
    clusters, cosines = spherical_kmeans(unit, k, settings.repeats, settings.iterations, settings.seed)
    how = {"k": k, "repeats": settings.repeats, "iterations": settings.iterations}
    about = {"by": "faiss" if has_faiss() else "torch"}  # they begin from other images, as another seed does
    return clusters, how, about | {"seed": settings.seed, "mean_cosine": max(cosines), "mean_cosines": cosines}


def _open(settings: Clustering) -> tuple[str, Source]:
    """The part that is clustered: where only some images have a label these, so that figures are of all of them."""
    test = open_test_part(settings.data) if settings.part == "auto" else None
    part: Split = "train" if settings.part != "test" and test is None else "test"
    source = test or open_part(settings.data, part)
    return part, labelled_part(source, part)


def _has_labels(source: Source) -> bool:
    return int(source.labels.min()) >= 0


def _clusters_wanted(settings: KMeans, source: Source) -> int:
    if settings.k is not None:
        return settings.k
    if not _has_labels(source):
        raise ValueError(
            f"the images have no labels to take the number of clusters from; give --k ({source.found.no_labels})"
        )
    return len(source.labels.unique())


def _write(path: Path, source: Source, images: Features, clusters: Tensor) -> Path:
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(("path", "label", "cluster"))
    columns = (images.indices.tolist(), images.labels.tolist(), clusters.tolist())
    rows.writerows(
        (as_cell(source.name(index)), label, cluster) for index, label, cluster in zip(*columns, strict=True)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.write_atomically(path, text.getvalue().encode("utf-8", "surrogateescape"))
    return path


STAGE = Stage(
    run=run_cluster,
    defaults=lambda path, protocol: clustering_settings(protocol, data_of(path)),
    help=HELP["cluster"],
)
