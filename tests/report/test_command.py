"""`selfsup report` on all that a RUN may be, and the page at the end of a pretraining."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selfsup import cli
from selfsup.data.base import ArraySource
from selfsup.data.labelled import Labelled
from selfsup.data.settings import Data
from selfsup.data.shapes import shapes
from selfsup.evaluation.encoder import save_encoder
from selfsup.evaluation.features import extract
from selfsup.evaluation.feed import Preprocessing
from selfsup.evaluation.knn import knn_accuracy
from selfsup.evaluation.newest import newest_encoder
from selfsup.pretraining import pretrain
from selfsup.report import at_end
from selfsup.report.encoding import Deadline, Feeding, drawn, features_within
from selfsup.report.page import LIMIT
from selfsup.stages.base import data_of
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.report import run_report
from selfsup.stages.settings import Report
from tests.support.encoders import PLAIN, SMALL, export_untrained
from tests.support.reported import Read
from tests.support.tiny import photographs, tiny_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    pretrain(tiny_run(folder, epochs=1, evaluate_every=1))
    return folder


def quick(**changes: Any) -> Report:
    small: dict[str, Any] = {"images": 100, "tsne": 0, "workers": 0, "device": "cpu", "batch_size": 32}
    return Report(**(small | changes))


def written(path: Path, settings: Report) -> tuple[dict[str, Any], Read, set[str]]:
    """The JSON object, the page, and the names of its sections."""
    told = run_report(path, settings).told
    assert told is not None
    content = Path(told["report"]).read_bytes()
    assert len(content) == told["bytes"] <= LIMIT
    read = Read(content.decode())
    return told, read, {section["id"] for section in read.of("section")}


ALL = {"verdict", "curves", "views", "map", "neighbours", "clusters", "confusion", "spread", "data", "run"}


def test_of_a_run_with_labels(run: Path) -> None:
    told, read, sections = written(run, quick(data=data_of(run), tsne=60))
    assert sections == ALL
    assert "left_out" not in told
    assert Path(told["report"]) == run / "report.html"
    assert [layout["name"] for layout in json.loads(read.scripts[0])["map"]["layouts"]] == ["PCA", "t-SNE"]
    # Its kNN is that of the evaluation, on the images that were drawn.
    exported, data = newest_encoder(run), data_of(run)
    parts = [shapes(128), shapes(128, split="test")]
    bank, queries = (
        extract(exported.encoder, drawn(part, count), exported.feed.center(), CPU)
        for part, count in zip(parts, (100, 2000), strict=True)
    )
    k = min(int(bank.labels.bincount().min()), len(bank.labels) // 10)
    assert told["knn_top1"] == pytest.approx(knn_accuracy(bank, queries, k, 0.1)["top1"], abs=1e-4)
    assert told["untrained_knn_top1"] != told["knn_top1"]
    assert data.root == "shapes:128"


def test_of_a_run_without_labels(run: Path) -> None:
    told, read, sections = written(run, quick(data=replace(data_of(run), labels="none"), out=str(run / "bare.html")))
    assert sections == ALL - {"confusion"}
    assert "knn_top1" not in told
    assert "data.labels is none" in " ".join(told["left_out"])
    assert {"rank_me", "feature_rank", "alignment"} <= told.keys()
    assert "no labels" in read.text


def test_of_a_fine_tuned_run(run: Path, tmp_path: Path) -> None:
    small: dict[str, Any] = {"epochs": 1, "batch_size": 20, "device": "cpu", "workers": 0}
    settings = replace(
        finetune_settings("sgd", Data(root="shapes:128")),
        labelled=Labelled(per_class=4),
        folder=str(tmp_path / "tuned"),
        **small,
    )
    run_finetune(run, settings)
    told, read, sections = written(tmp_path / "tuned", quick(data=Data(root="shapes:128")))
    assert sections == ALL - {"views"}
    assert "the classifier" in read.text, "whose confusions these are"
    assert "alignment" not in told
    assert f"Its classifier is right about {told['classifier_top1']:.1%}" in read.text
    assert "selfsup evaluate" in read.text


def test_of_imported_weights_on_photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "imported"
    place.mkdir()
    made_by = {"method": "import", "layout": "moco", "source": "<b>weights</b>.pth"}
    save_encoder(place / "encoder.safetensors", SMALL.build().state_dict(), SMALL, PLAIN, made_by)
    photographs(tmp_path / "photos", 40)
    words = ["report", place, "--data.root", tmp_path / "photos", "--device", "cpu", "--workers", "0", "--tsne", "0"]
    monkeypatch.setattr(sys, "argv", ["selfsup", *map(str, words), "--png", str(tmp_path / "drawings")])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    read = Read((place / "report.html").read_text())
    assert {section["id"] for section in read.of("section")} == ALL - {"views", "curves"}
    assert "imported from" in read.text
    assert "<b>weights</b>.pth" in read.text
    assert {"compared.png", "confusion.png", "map_pca.png", "spectrum.png"} == {
        place.name for place in (tmp_path / "drawings").iterdir()
    }
    with pytest.raises(ValueError, match=r"--out FILE\.html"):
        run_report(place / "encoder.safetensors", quick())


def test_of_images_of_one_channel(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 2
    images = draw.integers(0, 100, (60, 20, 20, 1)) + 100 * labels[:, None, None, None]
    np.savez(tmp_path / "gray.npz", images=images.astype(np.uint8), labels=labels)
    feed = Preprocessing(size=16, fraction=1.0, mean=(0.5,), std=(0.25,))
    place = export_untrained(tmp_path / "gray", replace(SMALL, in_channels=1), feed)
    _, read, sections = written(place.parent, quick(data=Data(root=str(tmp_path / "gray.npz"), channels=1), images=60))
    assert sections == ALL - {"views", "curves"}
    assert "20 x 20" in read.text


def test_features_are_read_as_far_as_there_is_time() -> None:
    source = drawn(shapes(300), 300)
    feeding = Feeding(PLAIN.center(), CPU, None, 0, batch_size=32)
    torch.manual_seed(0)
    encoder = SMALL.build()
    whole = extract(encoder, source, PLAIN.center(), CPU)
    read = features_within(encoder, source, feeding, Deadline(60))
    assert read is not None
    torch.testing.assert_close(read.features, whole.features, rtol=1e-4, atol=1e-5)
    assert read.indices.tolist() == list(range(300))
    assert torch.equal(read.labels, source.labels)
    assert features_within(encoder, source, feeding, Deadline(0)) is None
    assert encoder.training, "the mode is put back"


def test_every_pretraining_ends_with_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain(tiny_run(tmp_path / "run", epochs=1, report=True))
    read = Read((tmp_path / "run" / "report.html").read_text())
    assert "selfsup report" in read.text
    assert "report.html" in capsys.readouterr().err
    pretrain(tiny_run(tmp_path / "none", epochs=1, report=False))
    assert not (tmp_path / "none" / "report.html").exists()


def test_the_page_at_the_end_shows_images_where_there_is_time(run: Path) -> None:
    finished = at_end.Finished(
        folder=run, source=shapes(128), tested=lambda: None, device=CPU, canvas=None, trained=1e6
    )
    at_end.report_at_end(finished)
    read = Read((run / "report.html").read_text())
    assert {section["id"] for section in read.of("section")} == ALL
    assert "leave one out" in read.text


@pytest.mark.parametrize("fault", [KeyError, RuntimeError, OSError])
def test_a_page_that_cannot_be_made_costs_no_run(
    fault: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise fault("a fault of ours")

    monkeypatch.setattr(at_end, "collect", broken)
    figures = pretrain(tiny_run(tmp_path / "run", epochs=1, report=True))
    assert figures["reason"] == "finished"
    assert (tmp_path / "run" / "encoder.safetensors").is_file()
    assert re.search("no report was written: '?a fault of ours", capsys.readouterr().err)


def test_a_part_that_fails_costs_only_itself(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr("selfsup.report.collect.clustered", broken)
    told, _, sections = written(run, quick(data=data_of(run), out=str(run / "part.html")))
    assert sections == ALL - {"clusters"}
    assert told["left_out"] == ["Left out: clusters, because of an error: out of memory"]


def test_neighbours_and_worst_mistakes_are_those_of_a_plain_loop() -> None:
    """On images whose pixels are their class: what is shown is near, and what is wrong is wrong."""
    from selfsup.evaluation.features import Features
    from selfsup.report.examples import neighbours
    from selfsup.report.figures import Judging, confusion
    from selfsup.report.pictures import Examples

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 4
    source = ArraySource(torch.zeros(40, 3, 8, 8, dtype=torch.uint8), labels, origin="x")
    rows = torch.randn(40, 6, generator=generator) + 2 * torch.nn.functional.one_hot(labels, 6)
    features = Features(rows, labels, torch.arange(40))
    found = neighbours(features, None, Examples(source), {})
    assert found is not None
    unit = torch.nn.functional.normalize(rows.double())
    for query, _, after in found.found:
        own = int(query.name[2:-1])
        cosines = [(-float(unit[own] @ unit[other]), other) for other in range(40) if other != own]
        assert [int(example.name[2:-1]) for example, _ in after] == [other for _, other in sorted(cosines)[:6]]
    judging = Judging(labels, leave_one_out=True, device=CPU)
    chosen, shares = judging.choices(features, None)
    assert judging.share(features, None).right == int((chosen == labels).sum())
    told = confusion(features, chosen, shares, list("abcd"), Examples(source), {})
    assert sum(map(sum, told.matrix)) == 40
    assert [told.matrix[n][n] for n in range(4)] == [int(((chosen == labels) & (labels == n)).sum()) for n in range(4)]
    assert all(mistake.example.label != mistake.taken_for for mistake in told.mistakes) or not told.mistakes
    assert [mistake.share for mistake in told.mistakes] == sorted((m.share for m in told.mistakes), reverse=True)
    assert 0 < len(told.mistakes) == int((chosen != labels).sum())
