"""Hostile checkpoints, downloads and packs."""

import io
import os
import pickle
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import utils

from tests.support.hostile_data import bombed, climbing, linking, zipped
from tests.support.hostile_encoders import SAFETENSORS, entry, safetensors
from tests.support.hostile_place import Hostile, Place, Trap, Written
from tests.support.sealed_files import replace_in_checkpoint, rewrite
from tools import cifar10, prepare_data


def _checkpoint(change: Callable[[Path, Path], None], place: Place) -> Written:
    """The newest checkpoint with something else in it and the right checksums, in a run that has not ended."""
    change(sorted((place.begun / "checkpoints").glob("step_*"))[-1], place.marker)
    return ["pretrain", str(place.recipe)]


def _saved(name: str, content: bytes, folder: Path, marker: Path) -> None:
    replace_in_checkpoint(folder, name, content)


def _saved_trap(name: str, folder: Path, marker: Path) -> None:
    _saved(name, pickle.dumps(Trap(marker)), folder, marker)


def _manifest(change: Callable[[dict[str, Any]], None], folder: Path, marker: Path) -> None:
    rewrite(folder / "manifest.json", change)


def _manifest_pipe(folder: Path, marker: Path) -> None:
    (folder / "manifest.json").unlink()
    os.mkfifo(folder / "manifest.json")


def _climbing_manifest(manifest: dict[str, Any]) -> None:
    manifest["files"]["../../../../../../../../etc/passwd"] = {"size": 1, "sha256": "0"}


CHECKPOINTS: dict[str, Callable[[Path, Path], None]] = {
    "tensors that are a pickle": partial(_saved_trap, "method.safetensors"),
    "an optimiser that is a pickle": partial(_saved_trap, "optimizer.safetensors"),
    "a state that is a pickle": partial(_saved_trap, "state.json"),
    "a state nested 10^5 deep": partial(_saved, "state.json", b"[" * 100_000),
    "a state that is a list": partial(_saved, "state.json", b"[1]"),
    "a state without a step": partial(_saved, "state.json", b"{}"),
    "a state of step 1e999": partial(_saved, "state.json", b'{"step": 1e999, "scaler": null}'),
    "a header of 2^60 bytes": partial(_saved, "method.safetensors", SAFETENSORS["a header of 2^60 bytes"]),
    "tensors of other names": partial(
        _saved, "method.safetensors", safetensors({"os.system": entry([1], 0, 4)}, bytes(4))
    ),
    "a manifest of size 1e999": partial(_manifest, lambda m: m["files"]["state.json"].update(size=float("inf"))),
    "a manifest of names that climb": partial(_manifest, _climbing_manifest),
    "a manifest whose schema is a word": partial(_manifest, lambda m: m.update(schema="os.system")),
    "a manifest that is a pipe": _manifest_pipe,
}


def _tar(fill: Callable[[tarfile.TarFile, Path], None], place: Place) -> Written:
    """An archive in the place of the published one, as if its MD5 were right."""

    def use() -> object:
        told: list[str] = []

        def laid(address: str, folder: str, name: str, md5: str) -> None:
            with tarfile.open(Path(folder) / name, "w:gz") as archive:
                fill(archive, place.marker)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(utils, "download_url", laid)
            patch.setattr(shutil, "which", lambda name: None)
            found = cifar10.fetch_cifar10(place.inside / "cache", None, told.append)
        if found is None:
            raise ValueError("; ".join(told))
        return found

    return use


def _member(name: str, kind: bytes, link: str, archive: tarfile.TarFile, marker: Path) -> None:
    member = tarfile.TarInfo(name.format(marker=marker))
    member.type, member.linkname, member.mode = kind, link.format(marker=marker), 0o6777
    member.devmajor = member.devminor = 1
    content = b"owned" if kind == tarfile.REGTYPE else b""
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
    if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):  # and a file that would be written through the link
        through = tarfile.TarInfo(name)
        through.size = 5
        archive.addfile(through, io.BytesIO(b"owned"))


TARS: dict[str, tuple[str, bytes, str]] = {
    "a tar that climbs": ("../../../../../../../../../../{marker}", tarfile.REGTYPE, ""),
    "a tar of an absolute name": ("{marker}", tarfile.REGTYPE, ""),
    "a tar with a symbolic link": ("link", tarfile.SYMTYPE, "{marker}"),
    "a tar with a hard link": ("link", tarfile.LNKTYPE, "../../../{marker}"),
    "a tar with a device": ("data_batch_1", tarfile.CHRTYPE, ""),
    "a tar with a pipe": ("data_batch_1", tarfile.FIFOTYPE, ""),
}


def _pack(fill: Callable[[zipfile.ZipFile, Path], None], place: Place) -> Written:
    """A pack that tools/prepare_data.py unpacks."""
    zipped(fill, place)
    (place.inside / "packs").mkdir()
    (place.inside / "a.zip").rename(place.inside / "packs" / "tiny.zip")

    def use() -> object:
        code = prepare_data.main(["--from", str(place.inside / "packs"), "--to", str(place.inside / "made"), "tiny"])
        raise SystemExit(code)

    return use


CHECKPOINTS_AND_ARCHIVES = [
    *(Hostile(f"checkpoint: {name}", partial(_checkpoint, change)) for name, change in CHECKPOINTS.items()),
    *(Hostile(f"download: {name}", partial(_tar, partial(_member, *entry))) for name, entry in TARS.items()),
    *(Hostile(f"pack: {fill.__name__}", partial(_pack, fill)) for fill in (climbing, linking, bombed)),
]
