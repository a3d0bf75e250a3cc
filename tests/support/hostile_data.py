"""Hostile data: arrays, archives, pipes, names and lists."""

import io
import os
import pickle
import stat
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tests.support.hostile_place import CODE, Hostile, Place, Trap, Written, judge
from tests.support.pictures import encoded, folder_of, picture


def _root(path: Path) -> list[str]:
    """kNN of these images, by the run that lies beside them or beside their folder."""
    folder = next(above for above in path.parents if (above / "run").is_dir())
    return judge(folder / "run", path)


def npy(array: np.ndarray, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=pickled)
    return buffer.getvalue()


def npy_header(header: str, length: int | None = None) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text) if length is None else length) + text


def _shaped(shape: str) -> str:
    return f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}"


def _objects(trap: Trap) -> np.ndarray:
    array = np.empty(2, dtype=object)
    array[:] = [trap, trap]
    return array


def _array(content: Callable[[Path], bytes], place: Place) -> Written:
    return _root(place.file("a.npy", content(place.marker)))


def _arrays(members: Callable[[Path], dict[str, bytes]], place: Place) -> Written:
    path = place.inside / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members(place.marker).items():
            archive.writestr(name, content)
    return _root(path)


def _claiming(size: int, place: Place) -> Written:
    """An .npz whose directory says that its array has `size` bytes."""
    _arrays(lambda marker: {"images.npy": npy(IMAGES), "labels.npy": npy(np.arange(6) % 2)}, place)
    path = place.inside / "a.npz"
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(content)
    return _root(path)


IMAGES = np.zeros((6, 4, 4, 3), dtype=np.uint8)
ARRAYS: dict[str, Callable[[Path], bytes]] = {
    "an array of objects": lambda marker: npy(_objects(Trap(marker)), pickled=True),
    "an array's header with code": lambda marker: npy_header(
        f"{{'descr': {CODE.format(marker)}, 'fortran_order': False, 'shape': (1,)}}"
    ),
    "an array's header of 4 GB": lambda marker: npy_header("{}", length=(1 << 32) - 1),
    "an array of 2^60 images": lambda marker: npy_header(_shaped(f"({1 << 60}, 4, 4, 3)")),
    "an array's deep header": lambda marker: npy_header("(" * 9000),
    "an array of negative size": lambda marker: npy_header(_shaped("(-1, 4)")),
    "a pickle called .npy": lambda marker: pickle.dumps(Trap(marker)),
}
ARCHIVED: dict[str, Callable[[Path], dict[str, bytes]]] = {
    "images that are objects": lambda marker: {"images.npy": npy(_objects(Trap(marker)), pickled=True)},
    "labels that are objects": lambda marker: {
        "images.npy": npy(IMAGES),
        "labels.npy": npy(_objects(Trap(marker)), pickled=True),
    },
    "class names that are objects": lambda marker: {
        "images.npy": npy(IMAGES),
        "labels.npy": npy(np.arange(6)),
        "classes.npy": npy(_objects(Trap(marker)), pickled=True),
    },
    "a pickle as images.npy": lambda marker: {"images.npy": pickle.dumps(Trap(marker))},
    "2^40 images in an archive": lambda marker: {"images.npy": npy_header(_shaped(f"({1 << 40}, 4, 4, 3)"))},
}


def zipped(fill: Callable[[zipfile.ZipFile, Path], None], place: Place) -> Written:
    path = place.inside / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(4):
            archive.writestr(f"{'ab'[number % 2]}/{number}.png", encoded(picture(number)))
        fill(archive, place.marker)
    return _root(path)


def climbing(archive: zipfile.ZipFile, marker: Path) -> None:
    for name in (*("a/" + "../" * depth + "marker.png" for depth in range(1, 7)), str(marker) + ".png"):
        archive.writestr(name, encoded(picture(9)))


def linking(archive: zipfile.ZipFile, marker: Path) -> None:
    link = zipfile.ZipInfo("a/link.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    archive.writestr(link, "/etc/passwd")


def bombed(archive: zipfile.ZipFile, marker: Path) -> None:
    archive.writestr("b/bomb.png", bytes(20 << 20))


def _damaged(place: Place, at: bytes, offset: int, value: bytes) -> Written:
    """An archive in which a field of the first entry of the directory says something else."""
    written = zipped(lambda archive, marker: None, place)
    path = place.inside / "a.zip"
    content = bytearray(path.read_bytes())
    where = content.index(at) + offset
    content[where : where + len(value)] = value
    path.write_bytes(content)
    return written


def _pipe(name: str, place: Place) -> Written:
    path = place.inside / "data" / name
    path.parent.mkdir(exist_ok=True)
    os.mkfifo(path)
    return _root(path)


def _pipe_in_folder(name: str, place: Place) -> Written:
    folder_of(place.inside / "data", 8, ("a", "b"))
    os.mkfifo(place.inside / "data" / name)
    return _root(place.inside / "data")


def _device(place: Place) -> Written:
    path = place.inside / "a.npz"
    path.symlink_to("/dev/zero")
    return _root(path)


NAMES = (
    "\x1b]0;owned\x07\x1b[2J",
    "a\nselfsup: all is well",
    "-rf",
    "--data.root=x",
    "\udcff\udcfe",
    "\u202egnp.exe",
    "a" * 200,
)


def _named(place: Place) -> Written:
    """Broken files of such names: the message lists them."""
    for number, name in enumerate(NAMES):
        for kind in ("a", "b"):
            content = encoded(picture(number)) if kind == "a" else b"broken"
            place.file(os.path.join("data", kind + name, name + ".png"), content)
    return _root(place.inside / "data")


def _cifar(name: str, content: Callable[[Path], bytes], place: Place) -> Written:
    for file in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        batch = {b"data": np.zeros((2, 3072), dtype=np.uint8), b"labels": [0, 1]}
        place.file(f"data/{file}", pickle.dumps(batch, protocol=2))
    place.file("data/batches.meta", pickle.dumps({b"label_names": [b"a", b"b"]}, protocol=2))
    place.file(f"data/{name}", content(place.marker))
    return _root(place.inside / "data")


CIFAR: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "a batch that calls": ("data_batch_1", lambda marker: pickle.dumps({b"data": Trap(marker), b"labels": [0]})),
    "class names that call": ("batches.meta", lambda marker: pickle.dumps({b"label_names": [Trap(marker)]})),
    "a batch with an object's number of 2^31": ("data_batch_2", lambda marker: b"\x80\x02}r\xff\xff\xff\x7f."),
    "a batch with a text of 2^60 bytes": ("data_batch_3", lambda marker: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60)),
    "a batch by extension code": ("test_batch", lambda marker: b"\x80\x02\x82\x01."),
}


def _list(content: bytes, place: Place) -> Written:
    path = place.file("list.txt", content)
    root = str(folder_of(place.inside / "data", 8, ("a", "b")))
    flags = ["--data.root", root, "--labelled.file", str(path), "--folder", str(place.inside / "new")]
    return ["finetune", str(place.run), *flags, "--epochs", "1", "--device", "cpu"]


def _pipe_as_list(place: Place) -> Written:
    written = _list(b"", place)
    (place.inside / "list.txt").unlink()
    os.mkfifo(place.inside / "list.txt")
    return written


def _index(content: str, place: Place) -> Written:
    folder_of(place.inside / "data", 8, ("a", "b"))
    place.file("data/index.csv", content.encode())
    flags = ("--data.root", str(place.inside / "data"), "--device", "cpu", "--workers", "0", "--mode", "query_gallery")
    return ["retrieval", str(place.run), *flags]


DATA = [
    *(Hostile(f"array: {name}", partial(_array, content)) for name, content in ARRAYS.items()),
    *(Hostile(f"arrays: {name}", partial(_arrays, members)) for name, members in ARCHIVED.items()),
    Hostile("arrays: a directory that claims 4 GB", partial(_claiming, (1 << 32) - 2), refused=None),
    Hostile("zip: names that climb", partial(zipped, climbing), refused=None),
    Hostile("zip: a symbolic link", partial(zipped, linking), refused=False),
    Hostile("zip: zeros without end", partial(zipped, bombed), refused=False),
    Hostile(
        "zip: an entry of 4 GB",
        lambda p: _damaged(p, b"PK\x01\x02", 24, struct.pack("<I", (1 << 32) - 2)),
        refused=False,
    ),
    Hostile("zip: an encrypted entry", lambda p: _damaged(p, b"PK\x01\x02", 8, b"\x01\x00"), refused=False),
    Hostile("zip: an unknown compression", lambda p: _damaged(p, b"PK\x01\x02", 10, b"\x63\x00"), refused=False),
    Hostile("zip: a directory that lies elsewhere", lambda p: _damaged(p, b"PK\x05\x06", 16, b"\xff\xff\xff\x7f")),
    *(Hostile(f"pipe: {name}", partial(_pipe, name)) for name in ("a.npz", "a.npy", "a.zip")),
    *(
        Hostile(f"pipe in the folder: {name}", partial(_pipe_in_folder, name), refused=False)
        for name in ("cifar10.npz", "a.npz", "a.zip", "a/x.jpg", "data_batch_1")
    ),
    Hostile("device: .npz", _device),
    Hostile("names that drive a terminal", _named),
    *(Hostile(f"CIFAR: {name}", partial(_cifar, *entry)) for name, entry in CIFAR.items()),
    Hostile("list: 10^6 columns", partial(_list, b"=cmd()," * 1_000_000)),
    Hostile("list: a pickle", partial(_list, pickle.dumps({"a": 1}))),
    Hostile("list: a pipe", _pipe_as_list),
    Hostile("index.csv: 10^6 columns", partial(_index, "path,role," + "x," * 1_000_000 + "\na/0000.png,query\n")),
    Hostile("index.csv: a field of 10^6 bytes", partial(_index, "path,role\n" + "x" * 1_000_000 + ",query\n")),
    Hostile("index.csv: formulas", partial(_index, "path,role\na/0000.png,=cmd|'/C calc'!A0\n")),
]
