"""TensorBoard's embedding projector finds what was written for it."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from selfsup.data.shapes import shapes
from selfsup.pretraining import pretrain
from selfsup.report import projector
from selfsup.report.at_end import Finished
from selfsup.report.projector import EDGE, Points, write_projector
from tests.support.tiny import tiny_run

plugin = pytest.importorskip("tensorboard.plugins.projector.projector_plugin")
config_pb2 = pytest.importorskip("tensorboard.plugins.projector.projector_config_pb2")


def config_of(board: Path) -> Any:
    from google.protobuf import text_format

    found = config_pb2.ProjectorConfig()
    text_format.Parse((board / "projector_config.pbtxt").read_text(), found)
    (info,) = found.embeddings
    return info


def test_each_row_has_its_class_its_name_and_its_picture(tmp_path: Path) -> None:
    pictures = [PIL.Image.new("RGB", (48, 24), (value, 0, 0)) for value in range(0, 250, 50)]
    features = torch.randn(5, 7)
    names = ["a.png", "b\tb.png", "c\n.png", "d.png", "e.png"]
    write_projector(tmp_path, Points(features, ["cat", "dog", "", "dog", "cat"], names, pictures))
    info = config_of(tmp_path)
    assert list(info.tensor_shape) == [5, 7]
    rows = plugin._read_tensor_tsv_file(str(tmp_path / info.tensor_path))
    np.testing.assert_allclose(rows, torch.nn.functional.normalize(features).numpy(), atol=1e-3)
    lines = (tmp_path / info.metadata_path).read_text().splitlines()
    assert lines == ["class\timage", "cat\ta.png", "dog\tb\\tb.png", "(none)\tc\\n.png", "dog\td.png", "cat\te.png"]
    assert list(info.sprite.single_image_dim) == [EDGE, EDGE]
    sprite = np.asarray(PIL.Image.open(tmp_path / info.sprite.image_path))
    assert sprite.shape == (3 * EDGE, 3 * EDGE, 3)  # three in a row, in a square
    for number in range(5):
        top, left = number // 3 * EDGE + EDGE // 2, number % 3 * EDGE + EDGE // 2
        assert sprite[top, left].tolist() == [50 * number, 0, 0]


def test_without_classes_there_is_no_title(tmp_path: Path) -> None:
    pictures = [PIL.Image.new("RGB", (8, 8))] * 2
    write_projector(tmp_path, Points(torch.ones(2, 3), ["", ""], ["a", "b"], pictures))
    assert (tmp_path / config_of(tmp_path).metadata_path).read_text() == "a\nb\n"


@pytest.mark.parametrize("log_to", [("tensorboard",), ()])
def test_a_finished_run_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log_to: tuple[Any, ...]) -> None:
    monkeypatch.setattr(projector, "SHARE", 1e6)
    monkeypatch.setattr(projector, "IMAGES", 40)
    run = tiny_run(tmp_path / "run", epochs=1, report=True, log_to=log_to)
    pretrain(run)
    board = tmp_path / "run" / "tensorboard"
    assert (board / "projector_config.pbtxt").exists() == bool(log_to)
    if not log_to:
        return
    info = config_of(board)
    assert list(info.tensor_shape) == [40, 32]
    lines = (board / info.metadata_path).read_text().splitlines()
    assert len(lines) == 41
    with PIL.Image.open(board / info.sprite.image_path) as sprite:
        assert sprite.size == (7 * 32, 7 * 32)  # as large as the images are
    assert [path.name for path in sorted(board.iterdir()) if "tfevents" not in path.name] == [
        "projector",
        "projector_config.pbtxt",
    ]


def test_what_goes_wrong_is_only_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seconds in (3600.0, 10.0):  # there is no run
        run = Finished(
            folder=tmp_path / "none",
            source=shapes(8),
            tested=lambda: None,
            device=torch.device("cpu"),
            canvas=None,
            trained=seconds,
        )
        projector.projector_at_end(tmp_path, run)
    failed, short = capsys.readouterr().err.splitlines()
    assert failed.startswith("no embedding projector was written: ")
    assert short == "no embedding projector was written: there is time for it in runs of a minute or more"
    assert not list(tmp_path.iterdir())
