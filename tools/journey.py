"""From another project's weights to a classifier that runs without selfsup, by the commands as a user types them.

    python -m tools.journey FOLDER [--images 400] [--epochs 4]

FOLDER, which must not be there yet, gets everything: photographs of shapes, drawn as JPEG and PNG files, with a table
of labels for one in twenty; a ResNet-18 of torchvision with random weights; and what six commands make of them. They
import the weights, pretrain from them, fine-tune on the labels of the table, evaluate on another folder, predict new
images and export the classifier as ONNX. The program that docs/export.md shows then classifies the new images in a
process that has neither selfsup nor torch. Ends with 1 where it decides otherwise than `selfsup predict` did.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))["again_as_module"](__file__)

import argparse
import csv
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from PIL import ExifTags, Image
from rich.table import Table

from selfsup.data.shapes import CLASSES, shapes
from selfsup.output import console, meant_for_user, message, print_figures, program
from selfsup.packages import optional
from tools.checkout import ROOT

_LABELLED = 20  # of so many photographs one has a label
_SIDE = 64  # of the views, in pixels
_CLOSE = 1e-4  # probabilities of one image, as graph and as network, on any processor
_ALONE = """
import runpy, sys
sys.modules["selfsup"] = sys.modules["torch"] = None  # so that no import can find them
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class Done(NamedTuple):
    """A step of the journey."""

    name: str
    seconds: float
    told: str  # what came of it


class Journey:
    """The steps, carried out in one folder.

    Args:
        folder: is there, and is empty.
        images: photographs to pretrain on.
        epochs: of pretraining.
    """

    def __init__(self, folder: Path, images: int, epochs: int) -> None:
        self.folder, self.images, self.epochs = folder, images, epochs
        self.done: list[Done] = []

    def prepare(self) -> None:
        """Draw the images, write the table of labels and torchvision's weights."""
        photos = draw(self.folder / "photos", "photo", 0, self.images, "train")
        lines = [
            f"{path.name},{name}\n" for at, (path, name) in enumerate(photos) if at // len(CLASSES) % _LABELLED == 0
        ]
        (self.folder / "labels.csv").write_text("".join(["path,label\n", *lines]))
        for folder, first, count in (("tested", 0, 40), ("judged", 40, 40)):
            for path, name in draw(self.folder / folder, folder, first, count, "test"):
                (path.parent / name).mkdir(exist_ok=True)
                path.rename(path.parent / name / path.name)
        draw(self.folder / "new", "new", 80, 24, "test")
        models = optional("torchvision", "tools.journey").models
        torch.manual_seed(0)
        torch.save(models.resnet18().state_dict(), self.folder / "resnet18.pth")

    def train(self) -> None:
        """Weights come in, are trained on, become a classifier, and are judged."""
        line = self.command("import", "resnet18.pth", "--out", "weights", "--size", _SIDE)
        self.note(f"{line['layout']}, {line['feature_dim']} features")
        flags: tuple[object, ...] = ("--size", _SIDE, "--schedule.warmup-epochs", 1, "--epochs", self.epochs)
        words = ("pretrain", "simclr_folder", "--data.root", "photos", "--start", "weights", "--folder", "run")
        line = self.command(*words, *flags, "--workers", 0)
        self.note(f"{line['step']} steps on {self.images} photographs")
        data = ("--data.labels", "labels.csv", "--data.test-root", "tested")
        flags = ("--optimizer.learning-rate", 0.04, "--epochs", 10, "--workers", 0, "--folder", "classifier")
        line = self.command("finetune", "run", *flags, *data)
        self.note(f"{line['labelled_images']} labels, {line['finetune_top1']:.3f} of {line['test_images']} right")
        line = self.command("evaluate", "classifier", "--data.root", "judged", "--workers", 0)
        self.note(f"{line['evaluate_top1']:.3f} of {line['images']} right, {line['classes_with_images']} classes")

    def use(self) -> dict[str, Any]:
        """The classifier is used: by selfsup, and by the exported graph alone."""
        every = ("--top", len(CLASSES), "--workers", 0)
        line = self.command("predict", "classifier", "new", "--out", "predicted.csv", *every)
        with open(self.folder / "predicted.csv", newline="") as file:
            predicted = [by_class(row) for row in csv.DictReader(file)]
        self.note(f"{line['images']} images, {len({first(row) for row in predicted})} different classes")
        words = ("export", "classifier", "--to", "onnx", "--part", "classifier", "--preprocessing")
        line = self.command(*words, "--out", "classifier.onnx")
        self.note(f"greatest difference of a logit {line['difference']:.1e}")
        alone = self.classified_alone()
        same = sum(first(one) == first(other) for one, other in zip(predicted, alone, strict=True))
        differences = [
            abs(one[name] - other[name]) for one, other in zip(predicted, alone, strict=True) for name in CLASSES
        ]
        self.note(f"{same} of {len(alone)} the same class, greatest difference of a probability {max(differences):.1e}")
        return {"images": len(alone), "same_class": same, "difference": max(differences)}

    def classified_alone(self) -> list[dict[str, float]]:
        """What the program of docs/export.md says of the new images: probabilities by the names of classes."""
        words = (ROOT / "docs" / "export.md").read_text().partition("```python\nimport json\n")[2].partition("```")[0]
        (self.folder / "classify.py").write_text(f"import json\n{words}")
        images = sorted(path.relative_to(self.folder) for path in (self.folder / "new").iterdir())
        said = self.run("classify.py", [sys.executable, "-I", "-c", _ALONE, "classify.py", "classifier.onnx", *images])
        return [json.loads(line) for line in said.splitlines()]

    def command(self, name: str, *words: object) -> dict[str, Any]:
        """`selfsup NAME WORDS`; its JSON line."""
        message(f"selfsup {name} {' '.join(map(str, words))}")
        line: dict[str, Any] = json.loads(
            self.run(name, [sys.executable, "-m", "selfsup", name, *words]).splitlines()[-1]
        )
        return line

    def run(self, name: str, command: Sequence[object]) -> str:
        """A process in the folder; its standard output. Raises ValueError with its messages where it fails."""
        begin = time.monotonic()
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=self.folder, check=False)
        if done.returncode:
            raise ValueError(f"{name} ended with {done.returncode}:\n{done.stderr}")
        self.done.append(Done(name, time.monotonic() - begin, ""))
        return done.stdout

    def note(self, told: str) -> None:
        """What came of the step that was the last."""
        self.done[-1] = self.done[-1]._replace(told=told)

    def show(self) -> None:
        """The table at the end."""
        table = Table(title=f"from weights of torchvision to a program without selfsup, in {self.folder}")
        for column in ("step", "seconds", "what came of it"):
            table.add_column(column)
        for step in self.done:
            table.add_row(step.name, f"{step.seconds:.1f}", step.told)
        console().print(table)


def draw(folder: Path, word: str, start: int, count: int, split: Literal["train", "test"]) -> list[tuple[Path, str]]:
    """Write shapes as files: JPEG and PNG of several sizes, some gray, some to be turned. Their paths and classes."""
    folder.mkdir()
    source = shapes(start + count, 64, split)
    files = []
    for number in range(start, start + count):
        path = folder / f"{word}_{number:04d}.{'png' if number % 3 else 'jpg'}"
        pixels = source.images[number].permute(1, 2, 0).contiguous().numpy()
        image, exif = Image.fromarray(pixels).resize((72 + number % 9, 64 + number % 7)), Image.Exif()
        if number % 5 == 0:
            image = image.convert("L")
        if number % 6 == 0:
            image, exif[ExifTags.Base.Orientation] = image.transpose(Image.Transpose.ROTATE_90), 6
        image.save(path, exif=exif)
        files.append((path, source.class_name(int(source.labels[number]))))
    return files


def by_class(row: dict[str, str]) -> dict[str, float]:
    """A row of predictions: probabilities by the names of classes."""
    ends = ("", *(f"_{rank + 1}" for rank in range(1, len(CLASSES))))
    return {row[f"class{end}"]: float(row[f"probability{end}"]) for end in ends}


def first(row: dict[str, Any]) -> str:
    return max(CLASSES, key=lambda name: float(row[name]))


def journey(folder: Path, images: int, epochs: int) -> dict[str, Any]:
    """All of it; returns the figures.

    Raises:
        ValueError: the folder is there already, there are too few images, a package is missing, or a command fails.
    """
    optional("onnxruntime", "tools.journey")
    if images < len(CLASSES):
        raise ValueError(f"--images is {images}; give at least {len(CLASSES)}, so that each class has one with a label")
    if folder.exists():
        raise ValueError(f"{folder} is there already; name a folder that is not, or remove it")
    folder.mkdir(parents=True)
    way = Journey(folder, images, epochs)
    way.prepare()
    way.train()
    figures = way.use()
    way.show()
    return figures | {"folder": str(folder)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="for everything that is made; must not be there yet")
    parser.add_argument("--images", type=int, default=400, help="photographs to pretrain on (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=4, help="of pretraining (default %(default)s)")
    asked = parser.parse_args()
    try:
        figures = journey(asked.folder, asked.images, asked.epochs)
    except (ValueError, OSError) as error:
        if not meant_for_user(error):
            raise
        print(f"tools.journey: {error}", file=sys.stderr)
        return 2
    print_figures(figures)
    return 0 if figures["same_class"] == figures["images"] and figures["difference"] < _CLOSE else 1


if __name__ == "__main__":
    with program():
        sys.exit(main())
