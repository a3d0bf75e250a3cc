"""Data sets by the names that torchvision gives them. Nothing is fetched here: classes stand in torchvision's place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from selfsup.data.base import ArraySource, NoTestPart
from selfsup.data.datasets import DatasetSource
from selfsup.data.sources import open_source

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)


class Divided:
    """As CIFAR: an array, `train`, `targets` and `classes`."""

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        assert download
        self.root = root
        self.data = PIXELS[:4] if train else PIXELS[4:]
        self.targets = [0, 1, 1, 0] if train else [1, 0]
        self.classes = ["cat", "ant"]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.data[index]), self.targets[index]


class Worded(Divided):
    """As OxfordIIITPet: words for the parts, labels under another name, no array."""

    def __init__(self, root: str, split: str = "trainval", download: bool = False) -> None:
        if split not in ("trainval", "val"):
            raise ValueError(f"Unknown value '{split}' for argument split. Valid values are {{'trainval', 'val'}}.")
        super().__init__(root, split == "trainval", download)
        self._labels, self.pixels = self.targets, self.data
        del self.data, self.targets

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), self._labels[index]


class Whole(Divided):
    """As SUN397: no parts."""

    def __init__(self, root: str, download: bool = False) -> None:
        super().__init__(root, True, download)


class Gone(Divided):
    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        raise RuntimeError("Error downloading gone.tar.gz")


@pytest.fixture(autouse=True)
def named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for kind in (Divided, Worded, Whole, Gone):
        monkeypatch.setattr(torchvision.datasets, kind.__name__, kind, raising=False)
    names: Any = (*torchvision.datasets.__all__, "Divided", "Worded", "Whole", "Gone")
    monkeypatch.setattr(torchvision.datasets, "__all__", names)


@pytest.mark.parametrize(("name", "kind"), [("Divided", ArraySource), ("Worded", DatasetSource)])
def test_the_parts_of_a_data_set(name: str, kind: type) -> None:
    train, test = open_source(f"torchvision:{name}"), open_source(f"torchvision:{name}", "test")
    assert isinstance(train, kind)
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 1, 0], [1, 0])
    assert train.classes == ("cat", "ant")
    np.testing.assert_array_equal(np.asarray(train.load(2)), PIXELS[2])
    np.testing.assert_array_equal(np.asarray(test.load(1)), PIXELS[5])
    np.testing.assert_array_equal(np.asarray(test.select(torch.tensor([1])).load(0)), PIXELS[5])


def test_what_is_not_divided_has_no_test_part() -> None:
    assert len(open_source("torchvision:Whole")) == 4
    with pytest.raises(NoTestPart, match=r"torchvision:Whole has no test part; .*--data.holdout"):
        open_source("torchvision:Whole", "test")


def test_where_it_lies(tmp_path: Path) -> None:
    open_source("torchvision:Divided")
    assert (tmp_path / "cache" / "selfsup" / "torchvision").is_dir()
    open_source(f"torchvision:Divided:{tmp_path / 'mine'}")
    assert (tmp_path / "mine").is_dir()


def test_what_cannot_be_had_is_named() -> None:
    with pytest.raises(ValueError, match=r"torchvision has no data set 'CIFAR1000'.*CIFAR100"):
        open_source("torchvision:CIFAR1000")
    with pytest.raises(ValueError, match=r"torchvision:Gone cannot be had in .*: RuntimeError: Error downloading"):
        open_source("torchvision:Gone")
    with pytest.raises(ValueError, match=r"torchvision:EMNIST cannot be had in .*wants a split"):
        open_source("torchvision:EMNIST")


class Gray(Divided):
    """As MNIST: gray images."""

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        super().__init__(root, train, download)
        self.data = self.data[..., 0]


class GrayFiles(Gray):
    """As one whose gray images are opened one by one."""

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        super().__init__(root, train, download)
        self.pixels = self.data
        del self.data

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pixels[index]), self.targets[index]


@pytest.mark.parametrize("kind", [Gray, GrayFiles])
def test_channels_are_kept_where_it_is_said(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision.datasets, "Worded", kind)
    spread, kept = (open_source("torchvision:Worded"), open_source("torchvision:Worded", channels=1))
    assert (spread.channels, kept.channels) == (3, 1)
    np.testing.assert_array_equal(np.asarray(spread.load(2)), np.repeat(PIXELS[2, ..., :1], 3, axis=2))
    np.testing.assert_array_equal(np.asarray(kept.load(2)), PIXELS[2, ..., :1])
    with pytest.raises(ValueError, match=r"data.channels is 5"):
        open_source("torchvision:Worded", channels=5).load(0)
