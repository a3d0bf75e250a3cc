"""Hostile encoders, settings and results."""

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from selfsup.storage.sealed import seal
from tests.support.hostile_place import CODE, Hostile, Place, Trap, Written, judge
from tests.support.sealed_files import put, rewrite


def _pickled(trap: Trap) -> bytes:
    return pickle.dumps({"state_dict": trap})


def _saved_by_torch(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": trap}, buffer)
    return buffer.getvalue()


def _as_run(name: str, content: Callable[[Trap], bytes], place: Place) -> Written:
    return judge(place.file(name, content(Trap(place.marker))))


def _as_start(content: Callable[[Trap], bytes], place: Place) -> Written:
    path = place.file("model.pt", content(Trap(place.marker)))
    return ["pretrain", str(place.recipe), "--folder", str(place.inside / "new"), "--start", str(path)]


def _as_teacher(content: Callable[[Trap], bytes], place: Place) -> Written:
    path = place.file("model.ckpt", content(Trap(place.marker)))
    return ["distill", str(path), "--data.root", "shapes:20", "--folder", str(place.inside / "new")]


def _weights(name: str, content: Callable[[Path], bytes], place: Place) -> Written:
    """Other weights, and the right checksum of them in encoder.json."""
    data = content(place.marker)
    (place.run / name).write_bytes(data)

    def adapt(about: dict[str, Any]) -> None:
        (about if name == "encoder.safetensors" else about["head"])["sha256"] = hashlib.sha256(data).hexdigest()

    return _about(adapt, place)


def _about(change: Callable[[dict[str, Any]], None], place: Place) -> Written:
    """encoder.json with something else in it, and the right checksum."""
    rewrite(place.run / "encoder.json", change)
    return [*judge(place.run), "--layer", "embedding"]


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SAFETENSORS: dict[str, bytes] = {
    "a header of 2^60 bytes": safetensors({}, length=1 << 60),
    "a header of 2^64 - 1 bytes": safetensors({}, length=(1 << 64) - 1),
    "a header longer than the file": safetensors({}, length=99_999_999),
    "a deep header": safetensors(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "a header that is no text": safetensors(b"\xff\xfe" * 40),
    "tensors that overlap": safetensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12)),
    "a tensor beyond the end": safetensors({"a": entry([1 << 20], 0, 4 << 20)}, bytes(8)),
    "offsets that go backwards": safetensors({"a": entry([2], 8, 0)}, bytes(8)),
    "a shape that overflows": safetensors({"a": entry([1 << 32, 1 << 32, 1 << 32], 0, 8)}, bytes(8)),
    "negative sizes": safetensors({"a": entry([-1, -2], 0, 8)}, bytes(8)),
    "an unknown type": safetensors({"a": entry([1], 0, 8, "os.system")}, bytes(8)),
    "two tensors of one name": safetensors(
        b'{"a":%s,"a":%s}' % ((json.dumps(entry([1], 0, 4)).encode(),) * 2), bytes(4)
    ),
    "no byte": b"",
    "seven bytes": bytes(7),
    "a tensor named like a terminal's commands": safetensors({"\x1b]0;gone\x07": entry([1], 0, 4)}, bytes(4)),
}


def _class(kind: str, *keys: str) -> Callable[[dict[str, Any]], None]:
    return partial(put, kind, (*keys, "class"))


def deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


def _text(name: str, content: str, place: Place) -> Written:
    place.file(f"run/{name}", content.encode())
    return judge(place.run) if name != "results/knn.json" else ["compare", str(place.run)]


def _config(change: Callable[[dict[str, Any]], None], place: Place) -> Written:
    rewrite(place.run / "config.json", change)
    return ["knn", str(place.run), "--device", "cpu", "--workers", "0"]


def results_with(change: dict[str, Any], place: Place) -> Written:
    result = {"stage": "knn", "figures": {"knn_top1": 0.5}, "protocol": {"k": 1}, "about": {}} | change
    (place.run / "results").mkdir(exist_ok=True)
    (place.run / "results" / "knn.json").write_bytes(seal({"results": [result]}))
    return ["compare", str(place.run), "--out", str(place.inside / "table.html")]


ENCODER_SETTINGS: dict[str, Callable[[dict[str, Any]], None]] = {
    "os.system as the encoder's class": _class("os.system", "encoder"),
    "code as the encoder's class": _class(CODE.format("marker"), "encoder"),
    "a list as the encoder's class": partial(put, ["os.system"], ("encoder", "class")),
    "a class of selfsup in the wrong place": _class("pretrain", "encoder"),
    "the place of such a class": _class("selfsup.pretrain.Run", "encoder"),
    "a head that is none": _class("head_config", "head", "config"),
    "subprocess.Popen as the head's class": _class("subprocess.Popen", "head", "config"),
    "a billion hidden layers": partial(put, 10**9, ("head", "config", "hidden_layers")),
    "a head of 10^15 outputs": partial(put, 10**15, ("head", "config", "output_dim")),
    "an encoder of width 10^9": partial(put, 1e9, ("encoder", "width")),
    "an encoder of width 20": partial(put, 20.0, ("encoder", "width")),
    "an encoder of infinite width": partial(put, float("inf"), ("encoder", "width")),
    "an encoder of width 'os'": partial(put, "os", ("encoder", "width")),
    "images of 10^9 pixels a side": partial(put, 10**9, ("feed", "size")),
    "a feed that is a list": partial(put, [1, 2], ("feed",)),
    "a feed of another class": partial(put, {"class": "os.system", "size": 8}, ("feed",)),
    "settings 45 levels deep": partial(put, deep(45), ("encoder", "width")),
}


def _as_it_is(content: bytes, marker: Path) -> bytes:
    """What is written in the place of weights, wherever the marker is."""
    return content


ENCODERS = [
    Hostile("run: .pt", partial(_as_run, "model.pt", _saved_by_torch)),
    Hostile("run: .pth", partial(_as_run, "model.pth", _pickled)),
    Hostile("run: .ckpt", partial(_as_run, "model.ckpt", _pickled)),
    Hostile("start: .pt", partial(_as_start, _saved_by_torch)),
    Hostile("teacher: .ckpt", partial(_as_teacher, _pickled)),
    Hostile("encoder: a pickle", partial(_weights, "encoder.safetensors", lambda m: _pickled(Trap(m)))),
    Hostile("encoder: saved by torch", partial(_weights, "encoder.safetensors", lambda m: _saved_by_torch(Trap(m)))),
    Hostile("head: a pickle", partial(_weights, "head.safetensors", lambda m: _pickled(Trap(m)))),
    *(
        Hostile(f"encoder: {name}", partial(_weights, "encoder.safetensors", partial(_as_it_is, c)))
        for name, c in SAFETENSORS.items()
    ),
    *(Hostile(f"encoder.json: {name}", partial(_about, change)) for name, change in ENCODER_SETTINGS.items()),
    Hostile("encoder.json: 10^5 levels deep", partial(_text, "encoder.json", '{"encoder":' * 100_000)),
    Hostile(
        "encoder.json: a number of 10^5 digits", partial(_text, "encoder.json", '{"encoder": %s}' % ("9" * 100_000))
    ),
    Hostile("encoder.json: a pickle", lambda place: _text("encoder.json", pickle.dumps(1).decode("latin1"), place)),
    Hostile("config.json: 10^5 levels deep", partial(_text, "config.json", '{"run":' * 100_000)),
    Hostile("config.json: a list", partial(_text, "config.json", "[]")),
    Hostile("config.json: subprocess.Popen", partial(_config, _class("subprocess.Popen", "run", "data"))),
    Hostile(
        "config.json: os.system",
        partial(_config, partial(put, {"class": "os.system", "command": "x"}, ("run", "data"))),
    ),
    Hostile("config.json: a number as a path", partial(_config, partial(put, 5, ("run", "data", "root")))),
    Hostile("config.json: a word as a limit", partial(_config, partial(put, "5", ("run", "data", "limit")))),
    Hostile("config.json: a run that is a list", partial(_config, partial(put, [1], ("run",)))),
    Hostile("results: 10^5 levels deep", partial(_text, "results/knn.json", '{"results":' * 100_000)),
    Hostile("results: a word as a figure", partial(results_with, {"figures": {"knn_top1": "os.system"}})),
    Hostile("results: figures that are a list", partial(results_with, {"figures": [1]})),
    Hostile(
        "results: a terminal's commands, links and formulas",
        partial(results_with, {"protocol": {"k": "\x1b]0;owned\x07[link=file:///etc]x[/link]$\\frac{$<script>"}}),
        refused=False,
    ),
]
