"""R24: data are told apart by content: no figure is ever taken for another data set's, and no place is content."""

import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfsup.data.settings import Data
from selfsup.data.shapes import CLASSES, shapes
from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import keep, read
from selfsup.stages.embed import run_embed
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import finetune_settings
from selfsup.stages.knn import run_knn
from selfsup.stages.result_table import compare
from selfsup.stages.resumable_file import Partial
from selfsup.stages.settings import KNN, Embed
from tests.reliability.figure import Figure, Measured
from tests.support.tiny import tiny_run

TRAIN, TEST, KINDS = 24, 8, 4  # images of each part, and their classes


def folder_of(place: Path) -> Path:
    """Files in train/ and test/, by class."""
    source = shapes(100)
    rows = [row for row in range(100) if int(source.labels[row]) < KINDS]
    for number, row in enumerate(rows[: TRAIN + TEST]):
        part, label = "train" if number < TRAIN else "test", int(source.labels[row])
        (place / part / CLASSES[label]).mkdir(parents=True, exist_ok=True)
        source.load(row).save(place / part / CLASSES[label] / f"{number // KINDS:02}.png")
    return place


def array_of(place: Path) -> Path:
    source = shapes(100)
    rows = [row for row in range(100) if int(source.labels[row]) < KINDS]
    cut = {"train": rows[:TRAIN], "test": rows[TRAIN : TRAIN + TEST]}
    place.mkdir()
    arrays: dict[str, Any] = {f"x_{part}": source.images[where].numpy() for part, where in cut.items()}
    arrays |= {f"y_{part}": source.labels[where].numpy() for part, where in cut.items()}
    np.savez(place / "data.npz", **arrays)
    return place / "data.npz"


class Change(NamedTuple):
    """What becomes of a copy of the data; the path where they are then."""

    world: str  # "folder" or "array"
    equal: bool  # whether the content stays
    change: Callable[[Path], Path]


def _exchange(root: Path) -> Path:
    for old, new in ((0, "x"), (1, CLASSES[0]), (2, CLASSES[1])):
        (root / "train" / CLASSES[old]).rename(root / "train" / new)
    (root / "train" / "x").rename(root / "train" / CLASSES[2])
    return root


def _some(root: Path) -> Path:
    return root / "train" / CLASSES[1] / "02.png"


def _other_pixels(root: Path, which: str = "*") -> Path:
    for number, path in enumerate(sorted(root.glob(f"{which}/*/*.png"))):
        shapes(200).load(150 + number).save(path)
    return root


def _overwrite(root: Path) -> Path:
    content = bytearray(_some(root).read_bytes())
    content[len(content) // 2] ^= 1  # as many bytes, one of them another
    _some(root).write_bytes(content)
    return root


def _rename(root: Path) -> Path:
    _some(root).rename(_some(root).with_name("77.png"))
    return root


def _add(root: Path) -> Path:
    shutil.copy(_some(root), _some(root).with_name("78.png"))
    return root


def _remove(root: Path) -> Path:
    _some(root).unlink()
    return root


def _zipped(root: Path) -> Path:
    with zipfile.ZipFile(root.parent / "some.zip", "w") as archive:
        for path in sorted(root.rglob("*.png")):
            archive.write(path, str(path.relative_to(root)))
    return root.parent / "some.zip"


def _array(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], Path]:
    def changed(path: Path) -> Path:
        with np.load(path) as file:
            arrays = dict(file)
        np.savez(path, **(arrays | change(arrays)))
        return path

    return changed


CHANGES = {
    "file overwritten": Change("folder", False, _overwrite),
    "file renamed": Change("folder", False, _rename),
    "class folders exchanged": Change("folder", False, _exchange),
    "file added": Change("folder", False, _add),
    "file removed": Change("folder", False, _remove),
    "other pixels, same names": Change("folder", False, _other_pixels),
    "moved": Change("folder", True, lambda root: root.rename(root.with_name("elsewhere"))),
    "zipped": Change("folder", True, _zipped),
    "array: other pixels": Change("array", False, _array(lambda old: {"x_train": 255 - old["x_train"]})),
    "array: other labels": Change("array", False, _array(lambda old: {"y_train": np.roll(old["y_train"], 1)})),
    "array: renamed": Change("array", True, lambda path: path.rename(path.with_name("other.npz"))),
    "array: labels of another type": Change(
        "array", True, _array(lambda old: {"y_train": old["y_train"].astype("u1")})
    ),
}
CONSUMERS = ("resume", "results", "compare", "embed", "fine-tuning")


class World(NamedTuple):
    """The data, and what was made of them."""

    data: Path
    run: Path  # finished
    begun: Path  # a run that was stopped
    tuned: Path  # a fine-tuning that was stopped


def _run(folder: Path, data: Path, **changes: Any) -> Any:
    return pretrain(tiny_run(folder, root=str(data), epochs=2, batch_size=8, **changes))["reason"]


def _tune(run: Path, data: Path, folder: Path, max_steps: int | None = None) -> str:
    settings = finetune_settings("sgd", Data(root=str(data)))
    settings = replace(settings, epochs=2, batch_size=8, workers=0, device="cpu", folder=str(folder))
    return run_finetune(run, replace(settings, max_steps=max_steps)).reason


def _judge(run: Path, data: Path) -> None:
    keep(RunFolder(run), run_knn(run, KNN(data=Data(root=str(data)), workers=0, device="cpu", k=(3,))).results)


def world(folder: Path, data: Path) -> World:
    made = World(data, folder / "run", folder / "begun", folder / "tuned")
    _run(made.run, data)
    _run(made.begun, data, max_steps=2)
    _tune(made.run, data, made.tuned, max_steps=2)
    return made


def _goes_on(act: Callable[[], object]) -> bool:
    try:
        act()
    except ValueError as error:
        if "belongs to other data" not in str(error):
            raise
        return False
    return True


def _embeds_on(folder: Path, run: Path, first: Path, second: Path) -> bool:
    """Whether features of `first` that were interrupted are gone on with for `second`."""
    settings = Embed(data=Data(root=str(first)), out=str(folder / "features.npy"), workers=0, device="cpu")
    settings = replace(settings, save_every=8, batch_size=8)
    append, found, begins = Partial.append, Partial._found, []

    def stopping(self: Partial, *given: Any) -> None:
        append(self, *given)
        raise KeyboardInterrupt

    def noted(self: Partial) -> Any:
        begins.append(found(self))
        return begins[-1]

    try:
        Partial.append = stopping  # type: ignore[method-assign]
        run_embed(run, settings)
    except KeyboardInterrupt:
        pass
    finally:
        Partial.append = append  # type: ignore[method-assign]
    try:
        Partial._found = noted  # type: ignore[method-assign]
        run_embed(run, replace(settings, data=Data(root=str(second))))
    finally:
        Partial._found = found  # type: ignore[method-assign]
    return begins[-1] is not None


def cell(folder: Path, made: World, change: Change) -> dict[str, bool]:
    """By consumer, whether it takes the changed data for the ones that it knows."""
    copy = (shutil.copytree if made.data.is_dir() else shutil.copy)(made.data, folder / made.data.name)
    changed = change.change(Path(copy))
    place = {name: shutil.copytree(getattr(made, name), folder / name) for name in ("run", "begun", "tuned")}
    _judge(place["run"], made.data)
    _judge(place["run"], changed)
    figures = [column for column in compare([place["run"]]).columns if column.figure == "knn_top1"]
    return {
        "resume": _goes_on(lambda: _run(place["begun"], changed)),
        "results": len(read(RunFolder(place["run"]), "knn")) == 1,
        "compare": len(figures) == 1,
        "embed": _embeds_on(folder, place["run"], made.data, changed),
        "fine-tuning": _goes_on(lambda: _tune(place["run"], changed, place["tuned"])),
    }


def measure(folder: Path, quick: bool) -> Measured:
    (folder / "of_folder").mkdir()
    (folder / "of_array").mkdir()
    worlds = {
        "folder": world(folder / "of_folder", folder_of(folder / "of_folder" / "data")),
        "array": world(folder / "of_array", array_of(folder / "of_array" / "data")),
    }
    chosen = list(CHANGES)[::4] if quick else list(CHANGES)
    found: dict[str, dict[str, bool]] = {}
    for number, name in enumerate(chosen):
        (folder / str(number)).mkdir()
        found[name] = cell(folder / str(number), worlds[CHANGES[name].world], CHANGES[name])
    return judged(found)


def judged(found: dict[str, dict[str, bool]]) -> Measured:
    cells = [(name, consumer, taken) for name, row in found.items() for consumer, taken in row.items()]
    mistaken = [f"{name}: {consumer}" for name, consumer, taken in cells if taken and not CHANGES[name].equal]
    refused = [f"{name}: {consumer}" for name, consumer, taken in cells if not taken and CHANGES[name].equal]
    other = sum(not CHANGES[name].equal for name, _, _ in cells)
    return Measured(
        figure=f"{len(mistaken)} of {other} taken for other data's, {len(refused)} of {len(cells) - other} of equal "
        "content refused",
        good=not mistaken and not refused,
        reason=", ".join([*mistaken, *refused]),
        details={"taken": found},
        table=table(found),
    )


def table(found: dict[str, dict[str, bool]]) -> str:
    lines = [
        "Whether data that were changed are taken for the ones that a consumer knows: an interrupted run, the file of "
        "results, a column of `compare`, interrupted features, an interrupted fine-tuning. Only the last rows of each "
        "world leave the content as it is.",
        "",
        "| change | content | " + " | ".join(CONSUMERS) + " |",
        "|---|---|" + "---|" * len(CONSUMERS),
    ]
    for name, row in found.items():
        cells = ["the same" if row[consumer] else "other" for consumer in CONSUMERS]
        lines.append(f"| {name} | {'the same' if CHANGES[name].equal else 'other'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


FIGURES = (
    Figure(
        name="R24",
        goal="content identity: no figure is ever taken for another data set's",
        minutes=2,
        measure=measure,
    ),
)
