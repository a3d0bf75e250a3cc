import pickle

import numpy as np
import pytest
import torchvision

from selfsup.data import cifar
from selfsup.data.sources import open_source
from tests.support.hostile_place import Trap

RANDOM = np.random.default_rng(0)
PIXELS = {name: RANDOM.integers(0, 256, (10, 3072), dtype=np.uint8) for name in ["1", "2", "3", "4", "5", "test"]}
TEN = [f"class {number}" for number in range(10)]


def old_pickle(pixels: np.ndarray, labels: list[int], key: str = "labels") -> bytes:
    """A batch as Python 2 pickled it: strings are bytes, and the array is rebuilt through numpy's old module."""

    def text(value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode()

    rows, columns = pixels.shape
    shape = b"K" + bytes([rows]) + b"M" + columns.to_bytes(2, "little") + b"\x86"
    dtype = (
        b"cnumpy\ndtype\n("
        + text("u1")
        + b"K\x00K\x01tR(K\x03"
        + text("|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    raw = b"T" + (rows * columns).to_bytes(4, "little") + pixels.tobytes()
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85" + text("b") + b"tR"
    state = b"(K\x01" + shape + dtype + b"\x89" + raw + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + text("data") + array + state + text(key) + numbers + b"u."


def published(folder, write=old_pickle):
    """CIFAR-10 of 10 images a batch, in the layout of the archive."""
    place = folder / "cifar-10-batches-py"
    place.mkdir(parents=True)
    for name, pixels in PIXELS.items():
        file = "test_batch" if name == "test" else f"data_batch_{name}"
        (place / file).write_bytes(write(pixels, list(range(10))))
    (place / "batches.meta").write_bytes(pickle.dumps({"label_names": TEN}, protocol=2))
    return place


def new_pickle(pixels, labels):
    return pickle.dumps({"data": pixels, "labels": labels}, protocol=4)


@pytest.mark.parametrize("write", [old_pickle, new_pickle])
@pytest.mark.parametrize("inside", [False, True])
def test_pickled_batches_are_read_as_torchvision_reads_them(tmp_path, write, inside, monkeypatch):
    place = published(tmp_path, write)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda path, md5: True)
    for split in ("train", "test"):
        source = open_source(str(place if inside else tmp_path), split)
        wanted = torchvision.datasets.CIFAR10(str(tmp_path), train=split == "train")
        assert source.labels.tolist() == wanted.targets
        assert list(source.classes) == wanted.classes
        np.testing.assert_array_equal(source.images.permute(0, 2, 3, 1).numpy(), wanted.data)


def test_binary_batches_equal_pickled_ones(tmp_path):
    published(tmp_path / "pickled")
    place = tmp_path / "binary" / "cifar-10-batches-bin"
    place.mkdir(parents=True)
    for name, pixels in PIXELS.items():
        file = "test_batch.bin" if name == "test" else f"data_batch_{name}.bin"
        (place / file).write_bytes(np.insert(pixels, 0, np.arange(10), axis=1).tobytes())
    (place / "batches.meta.txt").write_text("\n".join(name.replace(" ", "_") for name in TEN) + "\n\n")
    ours, wanted = cifar.read_cifar(tmp_path / "binary"), cifar.read_cifar(tmp_path / "pickled")
    for key in ("x_train", "y_train", "x_test", "y_test"):
        np.testing.assert_array_equal(ours[key], wanted[key])
    assert len(ours["classes"]) == 10


def test_cifar_100_takes_the_fine_labels_of_both_layouts(tmp_path):
    python, binary = tmp_path / "cifar-100-python", tmp_path / "other" / "cifar-100-binary"
    python.mkdir()
    binary.mkdir(parents=True)
    fine = [90 - number for number in range(10)]
    for part, pixels in (("train", PIXELS["1"]), ("test", PIXELS["test"])):
        (python / part).write_bytes(old_pickle(pixels, fine, "fine_labels"))
        rows = np.concatenate([np.full((10, 1), 3), np.array(fine)[:, None], pixels], axis=1).astype(np.uint8)
        (binary / f"{part}.bin").write_bytes(rows.tobytes())
    names = [f"n{number}" for number in range(100)]
    (python / "meta").write_bytes(pickle.dumps({"fine_label_names": names, "coarse_label_names": ["c"] * 20}))
    (binary / "fine_label_names.txt").write_text("\n".join(names))
    for root in (tmp_path, tmp_path / "other"):
        source = open_source(str(root), "test")
        assert source.labels.tolist() == fine
        assert source.classes == tuple(names)
        np.testing.assert_array_equal(source.images.flatten(1).numpy(), PIXELS["test"])


@pytest.mark.parametrize("hostile", ["call", "builtin", "array"])
def test_a_hostile_pickle_runs_nothing(tmp_path, hostile):
    place = published(tmp_path)
    sprung = tmp_path / "sprung"
    content = {
        "call": pickle.dumps({b"data": Trap(sprung), b"labels": []}),
        "builtin": b"\x80\x02cbuiltins\nexec\nU\x0ex = 1; import os\x85R.",
        "array": pickle.dumps({b"data": np.array([Trap(sprung)], dtype=object), b"labels": [0]}),
    }[hostile]
    (place / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_1 is not a CIFAR batch: .*which a CIFAR batch does not need"):
        open_source(str(tmp_path))
    assert not sprung.exists()


@pytest.mark.parametrize("content", [b"", b"\x80\x02", b"text", old_pickle(PIXELS["1"], [0] * 9), pickle.dumps([1])])
def test_a_damaged_batch_is_refused_by_name(tmp_path, content):
    (published(tmp_path) / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match=r"data_batch_1 is not a CIFAR batch"):
        open_source(str(tmp_path))
