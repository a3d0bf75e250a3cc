"""Clusters of features: figures and density clusters as scikit-learn has them, k-means that finds what is there."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from selfsup.cluster.dbscan import cosine_graph, dbscan
from selfsup.cluster.kmeans import spherical_kmeans
from selfsup.data.settings import Data
from selfsup.evaluation.clustering import (
    adjusted_rand_index,
    cluster_figures,
    contingency,
    normalised_mutual_information,
    purity,
)
from selfsup.stages import cluster
from selfsup.stages.cluster import run_cluster
from selfsup.stages.settings import CLUSTERINGS, DBSCAN, KMeans, clustering_settings
from tests.stages.test_embed_command import exported


def drawn(count: int, numbers: int, seed: int) -> Tensor:
    """Random labels with gaps between their numbers: some classes are singletons, some are empty."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, numbers, (count,), generator=generator) ** 2


PAIRS = {
    "few of many": lambda: (drawn(500, 7, 0), drawn(500, 40, 1)),
    "mostly singletons": lambda: (drawn(300, 10, 0), drawn(300, 3000, 1)),
    "the same": lambda: (drawn(100, 5, 0), -drawn(100, 5, 0)),
    "every image alone": lambda: (torch.arange(50), torch.arange(50).flip(0)),
    "one cluster": lambda: (drawn(60, 3, 0), torch.zeros(60, dtype=torch.int64)),
    "one class and one cluster": lambda: (torch.full((9,), 4), torch.full((9,), 2)),
    "alone against one": lambda: (torch.arange(9), torch.full((9,), 2)),
    "many clusters": lambda: (drawn(40_000, 1000, 0), drawn(40_000, 30_000, 1)),
    "large products": lambda: (drawn(250_000, 3, 0), drawn(250_000, 3, 0) * (torch.arange(250_000) % 9 > 0)),
}


@pytest.mark.parametrize("case", PAIRS)
def test_figures_are_scikit_learns(case: str) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, clusters = PAIRS[case]()
    table = contingency(labels, clusters)
    assert normalised_mutual_information(table) == pytest.approx(
        metrics.normalized_mutual_info_score(labels, clusters), abs=1e-9
    )
    assert adjusted_rand_index(table) == pytest.approx(metrics.adjusted_rand_score(labels, clusters), abs=1e-12)


def test_purity_is_the_share_of_each_clusters_commonest_class() -> None:
    labels, clusters = drawn(200, 6, 2), drawn(200, 30, 3)
    hits = sum(int(labels[clusters == number].bincount().max()) for number in clusters.unique())
    assert purity(contingency(labels, clusters)) == hits / 200
    assert purity(contingency(labels, torch.arange(200))) == 1


def test_noise_images_are_clusters_of_their_own() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    labels, clusters = drawn(120, 4, 0), drawn(120, 5, 1)
    noise = torch.arange(120) % 3 == 0
    clusters[noise] = -1
    figures = cluster_figures(labels, clusters)
    alone = torch.where(noise, 1000 + torch.arange(120), clusters)
    assert figures["nmi"] == pytest.approx(metrics.normalized_mutual_info_score(labels, alone), abs=1e-9)
    assert figures["ari"] == pytest.approx(metrics.adjusted_rand_score(labels, alone), abs=1e-12)
    assert figures["purity"] == purity(contingency(labels[~noise], clusters[~noise]))
    assert figures["clusters"] == len(clusters[~noise].unique())
    assert "purity" not in cluster_figures(labels, torch.full((120,), -1))


def test_without_labels_sizes_are_told() -> None:
    clusters = torch.tensor([-1, 0, 0, 0, 0, 1, 2, 2, 5, 5, 5])
    assert cluster_figures(None, clusters) == {
        "clusters": 4,
        "smallest_cluster": 1,
        "median_cluster": 2,
        "largest_cluster": 4,
    }


def bunches(count: int, groups: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Unit features around random directions, and the direction of each."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(groups, 16, generator=generator))
    labels = torch.randint(0, groups, (count,), generator=generator)
    return F.normalize(centres[labels] + spread * torch.randn(count, 16, generator=generator)), labels


@pytest.mark.parametrize(("eps", "min_samples"), [(0.05, 3), (0.2, 5), (0.6, 8), (1.2, 4)])
def test_density_clusters_are_scikit_learns(eps: float, min_samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    others = pytest.importorskip("sklearn.cluster")
    monkeypatch.setattr("selfsup.cluster.dbscan._CELLS", 1000)  # several tiles
    features, _ = bunches(150, 6, 0.12)
    features = torch.cat([features, features[:5]])  # and equal images
    reference = others.DBSCAN(eps=eps, min_samples=min_samples, metric="cosine").fit(features.double().numpy())
    assert dbscan(cosine_graph(features, eps), eps, min_samples).tolist() == reference.labels_.tolist()


def test_too_many_close_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfsup.cluster.dbscan._PAIRS", 100)
    with pytest.raises(ValueError, match="more than 100 pairs"):
        cosine_graph(bunches(50, 1, 0.1)[0], 0.5)


def test_kmeans_finds_bunches_and_takes_the_best_restart() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    features, labels = bunches(400, 5, 0.05)
    clusters, cosines = spherical_kmeans(features, 5, repeats=10, iterations=20, seed=2)
    assert metrics.adjusted_rand_score(labels, clusters) == pytest.approx(1)
    assert cosines[0] < max(cosines)  # the first restart alone would not have done
    assert cosines[-1] < max(cosines)
    assert max(cosines) == pytest.approx(mean_cosine(features, clusters), abs=1e-5)
    again, same = spherical_kmeans(features, 5, repeats=10, iterations=20, seed=2)
    assert torch.equal(clusters, again)
    assert same == cosines
    assert spherical_kmeans(features, 5, repeats=10, iterations=20, seed=1)[1] != cosines


def mean_cosine(features: Tensor, clusters: Tensor) -> float:
    """Of images and the direction of their cluster's mean."""
    sums = torch.zeros(int(clusters.max()) + 1, features.shape[1]).index_add_(0, clusters, features)
    return float((features * F.normalize(sums)[clusters]).sum(1).mean())


def test_kmeans_with_as_many_clusters_as_images() -> None:
    features, _ = bunches(9, 9, 0.1)
    clusters, _ = spherical_kmeans(features, 9, repeats=1, iterations=2, seed=0)
    assert clusters.sort().values.tolist() == list(range(9))
    with pytest.raises(ValueError, match="k is 10, but there are 9 images"):
        spherical_kmeans(features, 10, repeats=1, iterations=2, seed=0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    exported(tmp_path)
    return tmp_path


@pytest.mark.parametrize("protocol", CLUSTERINGS)
def test_the_command_tells_figures_and_writes_clusters(protocol: str, run: Path) -> None:
    settings = clustering_settings(protocol, Data(root="shapes:60", canvas=16))
    result = run_cluster(run, settings).results[0]
    assert result.stage == f"cluster_{protocol}"
    assert (result.protocol["part"], result.protocol["images"], result.protocol["classes"]) == ("test", 60, 10)
    assert result.protocol["canvas"] == 16
    assert ("k" in result.protocol, "eps" in result.protocol) == (protocol == "kmeans", protocol == "dbscan")
    assert not any("seed" in name or "sha256" in name for name in result.protocol)
    with open(result.about["file"], newline="") as file:
        rows = list(csv.DictReader(file))
    labels, clusters = (torch.tensor([int(row[name]) for row in rows]) for name in ("label", "cluster"))
    assert len({row["path"] for row in rows}) == 60
    told = cluster_figures(labels, clusters) | ({"noise": 0} if protocol == "dbscan" else {})
    assert result.figures | ({"noise": 0} if protocol == "dbscan" else {}) == told
    if protocol == "dbscan":
        assert result.figures["noise"] == (clusters < 0).double().mean()


def test_clusters_of_other_data_get_a_file_of_their_own(run: Path) -> None:
    settings = [clustering_settings("dbscan", Data(root=f"shapes:{count}", canvas=16)) for count in (40, 50, 40)]
    first, second, again = (Path(run_cluster(run, one).results[0].about["file"]) for one in settings)
    assert first == again
    assert [len(path.read_text().splitlines()) for path in (first, second)] == [41, 51]


def npz(path: Path, labels: np.ndarray | None) -> str:
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    np.savez(path, x_train=images, **({} if labels is None else {"y_train": labels}))  # type: ignore[arg-type]
    return str(path)


def test_without_labels_k_is_needed(run: Path) -> None:
    data = Data(root=npz(run / "a.npz", None))
    with pytest.raises(ValueError, match="give --k"):
        run_cluster(run, KMeans(data=data))
    result = run_cluster(run, KMeans(data=data, k=3)).results[0]
    assert set(result.figures) == {"clusters", "smallest_cluster", "median_cluster", "largest_cluster"}
    assert result.protocol["classes"] is None


BAD: dict[str, tuple[str, Callable[[Path], KMeans | DBSCAN]]] = {
    "one class": ("only one class", lambda f: KMeans(data=Data(root=npz(f / "a.npz", np.ones(20, int))))),
    "large k": ("k is 21, but there are 20 images", lambda f: KMeans(data=Data(root=npz(f / "a.npz", None)), k=21)),
    "small k": ("k is 1;", lambda _: KMeans(k=1)),
    "no restart": ("repeats is 0", lambda _: KMeans(repeats=0)),
    "negative eps": ("eps is -1", lambda _: DBSCAN(eps=-1)),
    "no neighbours": ("min_samples is 0", lambda _: DBSCAN(min_samples=0)),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_before_any_work(case: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "features_of", lambda *_: pytest.fail("images were read"))
    message, settings = BAD[case]
    with pytest.raises(ValueError, match=message):
        run_cluster(run, settings(run))


def test_an_encoder_that_has_diverged_is_named(run: Path) -> None:
    exported(run, factor=float("nan"))
    with pytest.raises(ValueError, match="NaN or infinity"):
        run_cluster(run, DBSCAN(data=Data(root="shapes:20")))
