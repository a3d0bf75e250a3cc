"""Training on a torch data set of one's own is training on the same images in a file."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import selfsup
from selfsup.data.base import ArraySource, TooManyUnreadable, UnreadableImage
from selfsup.data.datasets import DatasetSource
from selfsup.data.settings import Data
from selfsup.data.shapes import CLASSES, shapes
from selfsup.pretraining import pretrain
from tests.support.tiny import tiny_run
from tests.training.test_resume import final_state


class Listed(torch.utils.data.Dataset[Any]):
    """Items in a form of one's choice, with labels where torchvision has them."""

    def __init__(self, form: str = "pil", count: int = 64) -> None:
        source = shapes(count)
        self.images, self.targets, self.classes = source.images, source.labels.tolist(), list(CLASSES)
        self.form = form

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        pixels: Tensor = self.images[index]
        array = pixels.permute(1, 2, 0).contiguous().numpy()
        image = {
            "pil": lambda: Image.fromarray(array),
            "array": lambda: array,
            "tensor": lambda: pixels,
            "float": lambda: pixels / 255,
            "alone": lambda: pixels,
        }[self.form]()
        return image if self.form == "alone" else (image, self.targets[index])


@pytest.mark.parametrize("form", ["pil", "array", "tensor", "float", "alone"])
def test_every_form_of_an_image_is_the_same_image(form: str) -> None:
    source, known = DatasetSource(Listed(form)), shapes(64)
    assert torch.equal(source.labels, known.labels)
    assert source.classes == tuple(CLASSES)
    for index in (0, 5, 63):
        assert np.array_equal(np.asarray(source.load(index)), known.images[index].permute(1, 2, 0).numpy())
    part = source.select(torch.tensor([7, 3]))
    assert part.name(1) == "Listed[3]"
    assert np.array_equal(np.asarray(part.load(1)), known.images[3].permute(1, 2, 0).numpy())
    assert part.labels.tolist() == known.labels[[7, 3]].tolist()


def test_training_on_it_is_training_on_the_file(tmp_path: Path) -> None:
    changes = {"root": "", "data": Data(canvas=32), "evaluate_every": 1, "knn_bank": 40, "knn_queries": 20}
    run = tiny_run(tmp_path / "own", **changes)
    first = pretrain(run, source=Listed(), test=Listed(count=30))
    images = shapes(64)
    other = ArraySource(images.images, images.labels, images.classes)
    test = shapes(30)
    second = pretrain(
        tiny_run(tmp_path / "array", **changes), other, ArraySource(test.images, test.labels, test.classes)
    )
    assert first["knn_top1"] == second["knn_top1"]
    ours, theirs = (final_state(tmp_path / name)["method"] for name in ("own", "array"))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert pretrain(run, source=Listed())["reason"] == "finished"


def test_the_data_of_a_run_are_known_again(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", root="", data=Data(canvas=32), max_steps=2)
    pretrain(run, source=Listed())
    changed = Listed()
    changed.images = changed.images.clone()
    changed.images[20] = 0
    with pytest.raises(ValueError, match="belongs to other data"):
        pretrain(run, source=changed)
    with pytest.raises(ValueError, match=r"images are given and data.root names shapes:64; leave one out"):
        pretrain(tiny_run(tmp_path / "two", root="shapes:64"), source=Listed())
    part = torch.utils.data.Subset(Listed(), [4, 9, 2])
    assert DatasetSource(part).labels.tolist() == [Listed().targets[row] for row in (4, 9, 2)]
    assert DatasetSource(part).classes == tuple(CLASSES)


def test_labels_and_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "run", root="", data=Data(canvas=32, labels="none", limit=32), evaluate_every=1)
    assert "knn_top1" not in pretrain(run, source=Listed())
    assert DatasetSource(Listed()).without_labels().classes == ()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"labels": [0, 1]}, r"64 images, and labels of torch.int64 \(2,\); wanted a whole number for each"),
        ({"labels": np.zeros(64)}, r"labels of torch.float64 \(64,\)"),
        ({"labels": [-2] + [0] * 63}, "a label is -2; wanted numbers from 0, or -1"),
        ({"labels": [3] * 64, "classes": ["a"]}, "a label is 3, but there are 1 class names"),
    ],
)
def test_labels_that_do_not_fit_are_refused(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        DatasetSource(Listed(), **arguments)
    with pytest.raises(ValueError, match="list holds no images"):
        DatasetSource([])


@pytest.mark.parametrize(
    ("item", "told"),
    [
        ("a.jpg", "gives str; wanted a PIL image, an array or a tensor"),
        (np.zeros((4, 4, 5), np.uint8), r"gives uint8 \(4, 4, 5\); wanted uint8 with 1 or 3 channels"),
        (np.zeros((4, 4), np.int64), r"gives int64 \(4, 4\)"),
        (torch.full((3, 4, 4), -2.0), "floats from -2 to -2; wanted 0 to 1, so leave its normalisation to the views"),
        (torch.full((3, 4, 4), float("nan")), "floats from nan to nan"),
    ],
)
def test_what_is_no_image_is_told(item: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match=told):
        DatasetSource([item, item]).load(1)
    with pytest.raises(TooManyUnreadable, match="no readable image among 20"):
        pretrain(tiny_run(tmp_path / "run", root="", data=Data()), source=[item] * 20)


def test_gray_images_become_three_channels() -> None:
    for item in (np.full((4, 5), 7, np.uint8), np.full((4, 5, 1), 7, np.uint8), torch.full((1, 4, 5), 7).byte()):
        image = DatasetSource([item]).load(0)
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (5, 4), (7, 7, 7))


def test_messages_go_through_logging(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from selfsup import output

    logger = logging.getLogger("selfsup")
    output.message("as it is [bold]")
    assert capsys.readouterr().err == "as it is [bold]\n"
    try:
        logger.setLevel(logging.WARNING)
        output.message("unheard")
        output.message("heard", logging.WARNING)
    finally:
        logger.setLevel(logging.INFO)
    assert capsys.readouterr().err == "heard\n"
    kept: list[str] = []
    own = logging.Handler()
    own.emit = lambda record: kept.append(record.getMessage())  # type: ignore[method-assign]
    monkeypatch.setattr(logger, "handlers", [own])
    output.message("mine", logging.ERROR)
    assert (kept, capsys.readouterr().err) == (["mine"], "")
    assert selfsup.__version__
