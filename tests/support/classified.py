"""A small classifier, and images of its classes that it is as often wrong about as right."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from selfsup.data.sources import open_source
from tests.support.encoders import PLAIN, export_classifier
from tests.support.pictures import encoded

CLASSES = ("ant", "bee", "cat", "dog")


def painting(number: int) -> Image.Image:
    """Rough patches of a colour of its own, in a size of its own."""
    generator = np.random.default_rng(number)
    pixels = generator.integers(0, 256, 3) + generator.normal(0, 60, (5, 6, 3))
    size = (17 + number % 6, 14 + number % 5)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).resize(size)


def paintings(root: Path, count: int, classes: tuple[str, ...] = CLASSES, first: int = 0) -> Path:
    """`count` PNG files, class by class; sizes of classes differ, and none is empty."""
    for number in range(count):
        label = number if number < len(classes) else number**2 // 3 % len(classes)
        place = root / classes[label]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03}.png").write_bytes(encoded(painting(first + number)))
    return root


def fed(root: Path) -> Tensor:
    """All images below a folder, as the classifier is fed with them."""
    source = open_source(str(root))
    center = PLAIN.center()
    return center((center.crop([source.load(index) for index in range(len(source))]),), None, torch.device("cpu"))


def classifier(folder: Path, names: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """Exported into `folder`."""
    images = folder.with_name(f"{folder.name}_images")
    return export_classifier(folder, names, fed(paintings(images, 40)), seed)
