"""Run folders from strangers: links out of them, files that never end, senseless content, words for a spreadsheet."""

import csv
import hashlib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from selfsup.stages import commands
from selfsup.stages.compare import run_compare
from selfsup.stages.settings import Compare
from selfsup.storage.sealed import seal
from tests.support.hostile_encoders import results_with
from tests.support.hostile_place import Hostile, Place, Written, judge
from tests.support.pictures import encoded, picture
from tests.support.sealed_files import put, rewrite

# Links


def _linked(name: str, folder: bool, place: Place) -> Written:
    """What a run writes to is a link to what lies outside of it: an existing folder, or a file that there is not."""
    path = place.begun / name
    if folder and path.exists():
        path.rename(place.inside / "aside")
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(place.inside.parent if folder else place.marker)
    return ["pretrain", str(place.recipe)]


def _linked_results(place: Place) -> Written:
    (place.run / "results").symlink_to(place.inside.parent)
    return judge(place.run)


# Files that never end


def sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(300 << 30)


KINDS: dict[str, Callable[[Path], object]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "300 GB of nothing": sparse,
}


def _endless_tensors(kind: str, place: Place) -> Written:
    """And the manifest says that they are so long."""
    newest = max((place.begun / "checkpoints").glob("step_*"))
    (newest / "method.safetensors").unlink()
    KINDS[kind](newest / "method.safetensors")
    rewrite(newest / "manifest.json", partial(put, 300 << 30, ("files", "method.safetensors", "size")))
    return ["pretrain", str(place.recipe)]


def _endless_encoder(name: str, kind: str, place: Place) -> Written:
    (place.run / name).unlink()
    KINDS[kind](place.run / name)
    return judge(place.run)


# Well sealed, and senseless


def _tensors(name: str, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], place: Place) -> Written:
    newest = max((place.begun / "checkpoints").glob("step_*"))
    path = newest / f"{name}.safetensors"
    tensors = load_file(path)
    save_file(tensors | change(tensors), path)
    content = path.read_bytes()
    listed = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewrite(newest / "manifest.json", partial(put, listed, ("files", path.name)))
    return ["pretrain", str(place.recipe)]


def _first(tensors: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    name = next(name for name, value in tensors.items() if value.numel() > 1 and value.is_floating_point())
    return {name: change(tensors[name]).contiguous()}


TENSORS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "an optimizer of another shape": ("optimizer", lambda value: value.flatten()[1:].clone()),
    "an optimizer in double precision": ("optimizer", lambda value: value.double()),
    "an optimizer that is not finite": ("optimizer", lambda value: value * torch.inf),
    "weights that are not finite": ("method", lambda value: value * torch.nan),
    "weights of another shape": ("method", lambda value: value[None]),
}


def _unfinished(value: Any, keys: tuple[str, ...], place: Place) -> Written:
    """Settings of a run that is not finished, from which its encoder is built."""
    rewrite(place.begun / "config.json", partial(put, value, ("run", *keys)))
    return judge(place.begun)


def _outputs(place: Place) -> Written:
    rewrite(place.run / "encoder.json", partial(put, 2**63, ("head", "config", "output_dim")))
    return [*judge(place.run), "--layer", "embedding"]


def _skipped(text: str, place: Place) -> Written:
    place.file("begun/skipped.jsonl", text.encode())
    return ["pretrain", str(place.recipe)]


FIGURES = {"Infinity": float("inf"), "NaN": float("nan"), "10^400": 10**400}

# Words that a spreadsheet, a browser or a terminal would carry out

WORDS = ("=cmd|'C calc'!A0", "@SUM(1+1)", "+1+cmd", "-1+cmd", "<script>alert(1)<script>", "a\x1b[31mred")


def _harmless(path: Path) -> None:
    """Raise ValueError for a file in which a word of WORDS stands as it is."""
    content = path.read_bytes()
    if path.suffix == ".csv":
        cells = [cell for line in csv.reader(content.decode().splitlines()) for cell in line]
        begun = [cell for cell in cells if cell[:1] in ("=", "@", "+", "-")]
        if found := [cell for cell in begun if not cell[1:].replace(".", "").isdigit()]:  # a number may be
            raise RuntimeError(f"{path.name} holds {found[0]!r}")
    elif b"<script>" in content:
        raise RuntimeError(f"{path.name} holds HTML")
    if b"\x1b" in content:
        raise RuntimeError(f"{path.name} holds ESC")


def _table(form: str, place: Place) -> Written:
    """Figures and protocols of such names, in every kind of file that `compare` makes."""
    result = {"stage": "knn", "protocol": {word: word for word in WORDS}, "about": {}}
    figures = {f"knn_{number}{word}": 0.5 for number, word in enumerate(WORDS)} | dict.fromkeys(WORDS, 0.25)
    runs = [place.inside / word for word in ("=cmd", "<script>run")]
    for run in runs:
        (run / "results").mkdir(parents=True)
        (run / "results" / "knn.json").write_bytes(seal({"results": [result | {"figures": figures}]}))

    def use() -> object:
        out = place.inside / f"table{form}"
        run_compare(runs, Compare(out=str(out)))
        _harmless(out)
        return out

    return use


def _images(place: Place) -> Written:
    """Files of such names, whose features are read out."""
    for number, word in enumerate(WORDS):
        place.file(f"data/{word}.png", encoded(picture(number)))

    def use() -> object:
        out = place.inside / "features.npy"
        words = ["--data.root", str(place.inside / "data"), "--out", str(out), "--device", "cpu", "--workers", "0"]
        commands.run_stage("embed", [str(place.run), *words])
        _harmless(out.with_suffix(".csv"))
        return out

    return use


FOLDERS = [
    *(Hostile(f"link: {name}", partial(_linked, name, True)) for name in ("checkpoints", "tensorboard", "captured")),
    Hostile("link: .lock", partial(_linked, ".lock", False)),
    Hostile("link: metrics.jsonl", partial(_linked, "metrics.jsonl", False), refused=None),
    Hostile("link: skipped.jsonl", partial(_linked, "skipped.jsonl", False), refused=None),
    Hostile("link: results", _linked_results),
    *(Hostile(f"checkpoint: tensors that are {kind}", partial(_endless_tensors, kind)) for kind in KINDS),
    *(
        Hostile(f"{name}: {kind}", partial(_endless_encoder, name, kind))
        for name in ("encoder.safetensors", "encoder.json", "head.safetensors")
        for kind in KINDS
    ),
    *(
        Hostile(f"checkpoint: {name}", partial(_tensors, file, partial(_first, change=change)))
        for name, (file, change) in TENSORS.items()
    ),
    Hostile("unfinished: 2^63 outputs", partial(_unfinished, 2**63, ("method", "head", "output_dim"))),
    Hostile("unfinished: a width of 10^9", partial(_unfinished, 1e9, ("encoder", "width"))),
    Hostile("unfinished: 10^18 images in a batch", partial(_unfinished, 10**18, ("batch_size",)), None),
    Hostile("encoder.json: a head of 2^63 outputs", _outputs),
    Hostile("skipped.jsonl: a word as a step", partial(_skipped, '{"step": "os.system"}\n')),
    Hostile("skipped.jsonl: 10^5 levels deep", partial(_skipped, "[" * 100_000 + "\n")),
    *(
        Hostile(f"results: {name} as a figure", partial(results_with, {"figures": {"knn_top1": value}}))
        for name, value in FIGURES.items()
    ),
    *(
        Hostile(f"names in a table: {form}", partial(_table, form), refused=False)
        for form in (".csv", ".md", ".html", ".svg")
    ),
    Hostile("names in features", _images, refused=False),
]
