"""How figures grow: exponents of known powers, and the lines of every benchmark that fits some."""

import argparse
import json
from typing import Any

import pytest

from tools.benchmarks import augment, cluster, knn, loss
from tools.benchmarks.growth import exponent, growth_line


def test_the_exponent_of_a_power_is_found() -> None:
    sizes = [10, 100, 1000]
    assert exponent(sizes, [3 * size**1.7 for size in sizes]) == pytest.approx(1.7)
    assert exponent(sizes, [5.0] * 3) == pytest.approx(0)
    assert exponent([1, 2, 4], [1, 2.2, 3.9]) == pytest.approx(0.982, abs=1e-3)  # between 1.14 and 0.83 of each step


@pytest.mark.parametrize("sizes", [[8], [8, 8], [0, 8]])
def test_without_two_sizes_there_is_none(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="give two different ones or more, all above 0"):
        exponent(sizes, [1.0] * len(sizes))


def test_a_line_has_the_figures_and_their_exponents() -> None:
    line = growth_line("work", "images", [2, 4], {"seconds": [1.0, 4.0], "bytes": [3.0, 6.0]})
    assert line == {
        "name": "work",
        "over": "images",
        "sizes": [2, 4],
        "seconds": [1.0, 4.0],
        "exponent_of_seconds": 2.0,
        "bytes": [3.0, 6.0],
        "exponent_of_bytes": 1.0,
    }


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_memory_of_the_loss_grows_as_it_must(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes are counted, so that they are the same everywhere: in tiles they grow as the embeddings do."""
    by_images = {n: loss.measure("nt_xent", {"tiles": loss.ours}, 2 * n, 8, 1, images=n) for n in (512, 1024)}
    loss.grown("nt_xent", "images", by_images, dim=8)
    loss.over_dims(256, argparse.Namespace(dims=[8, 16], runs=1))
    found = {(line["name"], line["over"]): line for line in lines(capsys) if "over" in line}
    names = [("tiles", "images"), ("tiles", "dim"), ("dense", "dim")]
    assert set(found) == {(f"nt_xent_growth/{one}", over) for one, over in names}
    assert found["nt_xent_growth/tiles", "images"]["exponent_of_bytes"] == pytest.approx(1, abs=0.05)
    assert found["nt_xent_growth/dense", "dim"]["exponent_of_bytes"] < 0.2  # of the scores, whatever their rows


def test_searches_views_and_clusters_are_measured_at_each_size(capsys: pytest.CaptureFixture[str]) -> None:
    knn.growth(4, 8, 1, banks=(64, 128), ks=(2, 4))
    augment.growth(1, batches=(2, 4), sizes=(64, 80))
    cluster.growth(16, 1, sizes=(100, 200))
    found = lines(capsys)
    expected = {
        "knn": (("images", "k"), ("faiss", "torch", "plain_faiss", "plain_torch")),
        "augment": (("batch", "size"), ("fused", "kornia_pipeline")),
        "kmeans": (("images",), ("faiss", "torch")),
        "dbscan": (("images",), ("approximate", "exact")),
    }
    names = [
        (f"{what}_growth/{one}", over) for what, (sizes, ones) in expected.items() for over in sizes for one in ones
    ]
    assert [(line["name"], line["over"]) for line in found] == names
    for line in found:
        assert len(line["seconds"]) == len(line["sizes"]) == 2
        assert line["exponent_of_seconds"] == pytest.approx(exponent(line["sizes"], line["seconds"]), abs=2e-3)
        assert line["versions"]["torch"]
