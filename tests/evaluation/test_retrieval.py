"""Retrieval figures against loops over the definitions, and who asks whom."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.features import Features
from selfsup.evaluation.feed import Preprocessing
from selfsup.evaluation.retrieval import per_query, random_queries, retrieval_figures
from selfsup.models.resnet import ResNet
from selfsup.stages.retrieval import read_index, run_retrieval
from selfsup.stages.settings import Retrieval
from tests.support.encoders import export_untrained

CPU = torch.device("cpu")


def features(labels: list[int], seed: int) -> Features:
    """Noisy images of identities, the first two alike to the last bit."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    rows = centres[torch.tensor(labels)] + torch.randn(len(labels), 6, generator=generator)
    rows[1] = rows[0]
    return Features(rows, torch.tensor(labels), torch.arange(len(labels)))


def naive(query: torch.Tensor, label: int, gallery: list[tuple[int, torch.Tensor, int]]) -> dict[str, float] | None:
    """One query's figures by loops; gallery images are (number, row, label)."""

    def similarity(row: torch.Tensor) -> float:
        a, b = query.double().tolist(), row.double().tolist()
        dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))

    ranked = sorted(gallery, key=lambda image: (-similarity(image[1]), image[0]))
    hits = [image[2] == label for image in ranked]
    relevant = sum(hits)
    if relevant == 0:
        return None
    precisions = [sum(hits[:i]) / i for i in range(1, len(hits) + 1)]
    return {
        **{f"recall_at_{k}": float(any(hits[:k])) for k in (1, 3, 50)},
        "map": sum(p for p, hit in zip(precisions, hits, strict=True) if hit) / relevant,
        "r_precision": sum(hits[:relevant]) / relevant,
        "map_at_r": sum(precisions[i] for i in range(relevant) if hits[i]) / relevant,
    }


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("tile", [1, 100, 10_000])
def test_figures_equal_loops(leave_one_out: bool, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfsup.evaluation.retrieval._SIMILARITIES", tile)
    queries = features([0, 3, 1, 1, 4, 19, 0, 2, 2, 2, 0, 4], seed=0)
    gallery = features([2, 0, 1, 1, 0, 5, 6, 0, 2, 3, 3, 1, 0, 5, 9, 2, 2], seed=2)
    found = []
    for number, (row, label) in enumerate(zip(queries.features, queries.labels.tolist(), strict=True)):
        images = queries if leave_one_out else gallery
        others = list(zip(range(99), images.features, images.labels.tolist(), strict=False))
        found.append(naive(row, label, [other for other in others if not leave_one_out or other[0] != number]))
    kept = [figures for figures in found if figures is not None]
    ours = retrieval_figures(queries, None if leave_one_out else gallery, (1, 3, 50))
    assert ours["queries"] == len(kept)
    assert ours["queries_left_out"] == len(queries.labels) - len(kept) > 0
    for name in kept[0]:
        assert ours[name] == pytest.approx(sum(figures[name] for figures in kept) / len(kept), abs=1e-12), name
        assert 0 < ours[name] < 1 or name == "recall_at_50"


def test_rows_within_a_hundredth_of_a_radian_are_told_apart() -> None:
    """Their cosines differ by less than single precision resolves; the angles themselves give the right answer."""
    generator = torch.Generator().manual_seed(3)
    angles = 0.01 * torch.rand(200, generator=generator, dtype=torch.float64)
    rows = torch.stack([angles.cos(), angles.sin()], dim=1).float()
    labels = (angles * 100 * 20).long()  # 20 identities side by side
    exact = torch.atan2(rows[:, 1].double(), rows[:, 0].double())
    apart = (exact[:, None] - exact).abs().fill_diagonal_(torch.inf)
    asking = torch.tensor([(labels == label).sum() > 1 for label in labels])
    right = (labels[apart.argmin(dim=1)] == labels)[asking].double().mean().item()
    assert 0.8 < right < 1
    found = retrieval_figures(Features(rows, labels, torch.arange(200)), None, (1,))
    assert found["recall_at_1"] == pytest.approx(right, abs=1e-12)


def test_equal_similarities_stand_in_the_order_of_the_gallery() -> None:
    rows = F.normalize(torch.randn(1, 512, generator=torch.Generator().manual_seed(0))).expand(301, -1)
    labels = torch.zeros(301, dtype=torch.int64)
    gallery = Features(rows[1:], torch.arange(300) // 100, torch.arange(300))
    ours = per_query(Features(rows[:1], labels[:1] + 1, torch.arange(1)), gallery, (100, 101), CPU)
    assert (ours["recall_at_100"].item(), ours["recall_at_101"].item()) == (0, 1)
    expected = sum(i / (100 + i) for i in range(1, 101)) / 100
    assert ours["map"].item() == pytest.approx(expected, abs=1e-12)


def test_each_identity_has_one_random_query() -> None:
    labels = torch.tensor([4, 4, 0, 1, 1, 1, 0, 4, 2])
    chosen = random_queries(labels, seed=0)
    assert sorted(labels[chosen].tolist()) == [0, 1, 2, 4]
    assert torch.equal(chosen, random_queries(labels, seed=0))
    picked = torch.stack([random_queries(labels, seed) for seed in range(60)]).double().mean(dim=0)
    assert ((picked - torch.tensor([1 / 3, 1 / 3, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 1 / 2, 1 / 3, 1])).abs() < 0.25).all()


def write_images(folder: Path) -> list[str]:
    """4 identities of 3 images below test/, of one colour each; and a training part."""
    generator = np.random.default_rng(0)
    paths = [
        f"{part}/{name}/{n}.png" for part in ("train", "test") for name in ("ape", "bat", "cat", "dog") for n in "123"
    ]
    for number, path in enumerate(paths):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        colour = np.array([40, 90, 20]) * (number // 3 % 4) % 256
        PIL.Image.fromarray((colour + generator.integers(0, 30, (20, 14, 3))).clip(0, 255).astype(np.uint8)).save(
            folder / path
        )
    return paths[12:]


def write_index(place: Path, rows: list[tuple[str, ...]], *columns: str) -> None:
    with open(place / "index.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", *(columns or ("role",))), *rows])


def save_tiny_encoder(folder: Path) -> None:
    config = ResNet.Config(depth="small", width=0.25)
    feed = Preprocessing(size=(16, 8), fraction=1.0, mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), fit="whole")
    export_untrained(folder, config, feed)


def test_the_whole_evaluation(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "data" / "zoo")
    save_tiny_encoder(tmp_path)

    def run(**settings: object) -> dict[str, object]:
        data = Data(root=str(tmp_path / "data" / "zoo"), canvas=32)
        return run_retrieval(tmp_path, Retrieval(data=data, workers=0, **settings)).results[0].flat()

    plain = run()
    assert (plain["split"], plain["query_images"], plain["gallery_images"]) == ("leave one out", 12, 12)
    assert plain["canvas"] == 32
    assert plain["transform"] == "centre 1.0 of both sides, resized to (16, 8)"
    drawn = run(mode="query_gallery", recall_at=(1,))
    assert (drawn["query_images"], drawn["gallery_images"]) == (4, 8)
    assert "recall_at_2" not in drawn
    write_index(tmp_path / "data", [(f"zoo/{path}", "query" if "/1." in path else "gallery") for path in paths[:10]])
    with pytest.raises(ValueError, match=r"dog/2\.png the role ''; wanted query or gallery"):
        run()
    assert run(mode="leave_one_out") == plain
    # Apes have no image to find, and one that cannot be read; bats have one query, cats none, dogs two.
    words = ["query"] * 4 + ["gallery"] * 5 + ["query", "gallery", "query"]
    write_index(tmp_path / "data", [(f"zoo/{path}", word) for path, word in zip(paths, words, strict=True)])
    (tmp_path / "data" / "zoo" / paths[1]).write_bytes(b"no image")
    listed = run()
    assert (listed["query_images"], listed["queries_left_out"], listed["gallery_images"]) == (3, 2, 6)
    assert (listed["part"], listed["same_camera"], plain["same_camera"]) == ("test", "kept, cameras unknown", "kept")


def test_cameras_of_an_index(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "zoo")
    save_tiny_encoder(tmp_path)

    def run(**settings: Any) -> dict[str, Any]:
        data = Data(root=str(tmp_path / "zoo"), canvas=32)
        return run_retrieval(tmp_path, Retrieval(data=data, workers=0, **settings)).results[0].flat()

    # Each identity has one query. Apes by one camera only; bats' and cats' gallery images by two; dogs' query alone.
    roles = ["query", "gallery", "gallery"] * 4
    cameras = ["c1", "c1", "c1", "c1", "c1", "c2", "c2", "c1", "c2", "c3", "c1", "c2"]
    rows = [(path, *words) for path, *words in zip(paths, roles, cameras, strict=True)]
    write_index(tmp_path / "zoo", rows, "role", "camera")
    found, kept = run(), run(same_camera="keep")
    assert (found["same_camera"], found["query_images"], found["queries_left_out"]) == ("excluded", 3, 1)
    assert (kept["same_camera"], kept["query_images"], kept["queries_left_out"]) == ("kept", 4, 0)
    assert found["gallery_images"] == kept["gallery_images"] == 8
    assert run(mode="leave_one_out")["query_images"] == 12
    write_index(tmp_path / "zoo", [*rows[:-1], (*rows[-1][:-1], "")], "role", "camera")
    with pytest.raises(ValueError, match=r"dog/3\.png the camera ''.*\n.*--same-camera keep"):
        run()
    assert run(same_camera="keep") == kept
    turned = [(path, role, camera) for (path, *_, camera), role in zip(rows, roles[1:] + roles[:1], strict=True)]
    write_index(tmp_path / "zoo", turned, "role", "camera")
    assert run(same_camera="keep")["index"] != kept["index"]  # as many queries, other ones
    # Cameras without roles: one random query of each identity.
    write_index(tmp_path / "zoo", [(path, camera) for path, _, camera in rows], "camera")
    assert run(mode="query_gallery")["same_camera"] == "excluded"
    write_index(tmp_path / "zoo", [(path, "c1") for path, *_ in rows], "camera")
    with pytest.raises(ValueError, match="by another camera"):
        run(mode="query_gallery")


def test_unreadable_images_shift_no_camera(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "zoo")
    save_tiny_encoder(tmp_path)
    roles = ["query", "gallery", "gallery"] * 4
    cameras = ["c1", "c1", "c2", "c2", "c2", "c1"] * 2  # one image to find each; shifted by one, none
    write_index(tmp_path / "zoo", [(p, r, c) for p, r, c in zip(paths, roles, cameras, strict=True)], "role", "camera")
    (tmp_path / "zoo" / paths[0]).write_bytes(b"no image")
    settings = Retrieval(data=Data(root=str(tmp_path / "zoo"), canvas=32), workers=0)
    found = run_retrieval(tmp_path, settings).results[0].flat()
    assert (found["query_images"], found["queries_left_out"], found["gallery_images"]) == (3, 0, 8)


def test_an_index_without_roles_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_images(tmp_path)
    source = open_source(str(tmp_path), "test")
    assert read_index(str(tmp_path), source, "role") is None
    (tmp_path / "index.csv").write_text("path,class,split\n")
    assert read_index(str(tmp_path), source, "role") is None
    write_index(tmp_path, [(path, "gallery") for path in paths])
    assert read_index(str(tmp_path), source, "role") == ["gallery"] * 12
    assert read_index(str(tmp_path), source, "camera") is None
    monkeypatch.chdir(tmp_path)
    assert read_index(".", open_source(".", "test"), "role") == ["gallery"] * 12
    assert read_index("shapes:30", open_source("shapes:30", "test"), "role") is None


def test_rows_of_an_index_that_end_early_are_named(tmp_path: Path) -> None:
    paths = write_images(tmp_path)
    source = open_source(str(tmp_path), "test")
    rows = [("gallery", "c1", path) for path in paths]
    for row, column in ((("gallery", "c1"), "camera"), (("gallery",), "role")):
        with open(tmp_path / "index.csv", "w", newline="") as file:
            csv.writer(file).writerows([("role", "camera", "path"), *rows[:1], row, *rows[1:]])
        with pytest.raises(ValueError, match=rf"index\.csv, line 3: .* its {column}; wanted role, camera, path"):
            read_index(str(tmp_path), source, column)
    write_index(tmp_path, [*((path, "gallery") for path in paths[:-1]), (paths[-1],)])
    with pytest.raises(ValueError, match=r"index\.csv, line 13: "):
        read_index(str(tmp_path), source, "role")


def test_what_cannot_be_judged_is_refused_before_features_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write_images(tmp_path / "zoo")
    save_tiny_encoder(tmp_path)
    monkeypatch.setattr("selfsup.stages.retrieval.features_of", None)

    def refused(why: str, root: Path = tmp_path / "zoo", labels: Any = "auto", **settings: Any) -> None:
        with pytest.raises(ValueError, match=why):
            run_retrieval(tmp_path, Retrieval(data=Data(root=str(root), labels=labels), **settings))

    for mode in ("leave_one_out", "query_gallery"):
        refused("needs identities", labels="none", mode=mode)
    # Queries are of several identities, but nothing can be mistaken for an ape.
    write_index(tmp_path / "zoo", [(path, "gallery" if "ape" in path else "query") for path in paths])
    refused("only one identity")
    write_index(tmp_path / "zoo", [(path, "query") for path in paths])
    refused("there are no gallery")
    np.savez(tmp_path / "one.npz", x_train=np.zeros((6, 8, 8, 3), dtype=np.uint8), y_train=np.full(6, 4))
    for mode in ("leave_one_out", "query_gallery"):
        refused("only one identity", tmp_path / "one.npz", mode=mode)


def test_images_that_ask_all_others_are_normalised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    some, normalised = features([0, 0, 1, 1], 0), []
    normalize = F.normalize
    monkeypatch.setattr(F, "normalize", lambda rows: normalised.append(len(rows)) or normalize(rows))
    retrieval_figures(some, None)
    assert normalised == [4]


def test_bad_input() -> None:
    some = features([0, 0, 1, 2], 0)
    with pytest.raises(ValueError, match="needs identities"):
        retrieval_figures(some._replace(labels=torch.full((4,), -1)), None)
    with pytest.raises(ValueError, match="NaN"):
        retrieval_figures(some, some._replace(features=some.features * torch.nan))
    with pytest.raises(ValueError, match="no query has an image"):
        retrieval_figures(some._replace(labels=torch.arange(4)), None)
    with pytest.raises(ValueError, match="only one identity"):
        retrieval_figures(some, some._replace(labels=torch.zeros(4, dtype=torch.int64)))
    with pytest.raises(ValueError, match="there are no gallery"):
        retrieval_figures(some, Features(*(values[:0] for values in some)))
    with pytest.raises(ValueError, match="recall_at is"):
        Retrieval(recall_at=(0, 1))
