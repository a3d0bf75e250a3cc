"""Files of weights are read, whoever wrote them, and nothing in them is run."""

import argparse
import json
import os
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from selfsup.convert.layout import Refused
from selfsup.convert.reading import read
from selfsup.convert.table import inert
from tests.support.foreign_files import FILES
from tests.support.tensorflow_bundle import write_bundle


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_a_malicious_pickle_is_refused_and_not_run(kind: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "run"
    content = {"state_dict": {"conv1.weight": torch.ones(2)}, "args": Trap(marker)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(
        Refused, match=r"only tensors and plain values are read; nothing of it was run|no weights that can"
    ):
        read(path, inert())
    assert not marker.exists()
    with open(path, "rb") as file:  # the trap is one
        torch.load(file, weights_only=False) if kind != "pickle" else pickle.load(file)
    assert marker.exists()


class Gadget:
    """Stands in a file for a class that is read as a dictionary, and calls another where it is built."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return argparse.Namespace, (), {"command": Trap(self.marker)}


def test_what_is_read_as_a_dictionary_opens_no_way_for_others(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2), "args": Gadget(tmp_path / "run")}, tmp_path / "weights.pth")
    with pytest.raises(Refused, match=r"holds \w+\.mkdir"):
        read(tmp_path / "weights.pth", inert())
    assert not (tmp_path / "run").exists()


def test_harmless_classes_are_read_as_what_they_hold(tmp_path: Path) -> None:
    held = argparse.Namespace(lr=0.1, extra=torch.ones(3))
    torch.save({"opt": held, "model": {"w": torch.zeros(2)}}, tmp_path / "weights.pth")
    assert set(read(tmp_path / "weights.pth", inert()).tensors) == {"opt::extra", "model::w"}
    with pytest.raises(Refused, match=r"holds argparse\.Namespace, .*; nothing of it was run\n.*torch\.save\(model"):
        read(tmp_path / "weights.pth")
    bank = FILES["lemniscate"]().write(tmp_path / "bank")
    assert "lemniscate::_buffers::memory" in read(bank, inert()).tensors
    with pytest.raises(Refused, match=r"holds lib\.NCEAverage\.NCEAverage"):
        read(bank)


def test_files_of_before_zip_are_read(tmp_path: Path) -> None:
    content = {"state_dict": {"module.w": torch.arange(4.0)}}
    torch.save(content, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    found = read(tmp_path / "old.pth.tar")
    assert torch.equal(found.tensors["state_dict::w"], torch.arange(4.0))
    assert len(found.sha256) == 64


def test_a_tar_of_old_is_refused(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(pickle.dumps(1))
    with tarfile.open(tmp_path / "weights.pth", "w") as file:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            file.add(tmp_path / "part", name)
    with pytest.raises(Refused, match="holds no weights that can be read"):
        read(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "no weights that can be read"),
        (b"\x89PNG\r\n", "it is no file of torch.save, no .safetensors, none of TensorFlow's"),
        (b"path,label\n", "it is no file of torch.save, no .safetensors, none of TensorFlow's"),
        (b"PK\x03\x04 and nothing more", "no weights that can be read"),
        (b"\x80\x02}q\x00.", "holds no weights that can be read"),
        (pickle.dumps([1, 2, 3]), "holds no weights that can be read"),
    ],
)
def test_what_holds_no_weights_is_refused(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(Refused, match=told):
        read(tmp_path / "weights.pth")


def test_tensors_that_claim_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1).expand(1 << 40)}, tmp_path / "weights.pth")
    with pytest.raises(Refused, match="w claims more values than it holds"):
        read(tmp_path / "weights.pth")
    torch.save({"w": torch.ones(3, 3).to_sparse()}, tmp_path / "sparse.pth")
    with pytest.raises(Refused, match="w is a tensor of another kind"):
        read(tmp_path / "sparse.pth")


def test_a_folder_means_the_weights_in_it_with_what_is_said_beside(tmp_path: Path) -> None:
    safetensors.torch.save_file({"w": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    found = read(tmp_path)
    assert found.config == {"model_type": "vit"}
    assert found.path.name == "model.safetensors"
    with pytest.raises(Refused, match="there are no weights at"):
        read(tmp_path / "absent")


def test_a_tensorflow_checkpoint_goes_by_its_prefix_its_index_and_its_folder(tmp_path: Path) -> None:
    tensors = {f"base/conv_{n}/kernel": torch.randn(2, n + 1) for n in range(40)} | {"step": torch.tensor(3)}
    write_bundle(tmp_path / "model.ckpt-7.index", tensors)
    for name in ("model.ckpt-7.index", "model.ckpt-7", "model.ckpt-7.data-00000-of-00001", "."):
        found = read(tmp_path / name).tensors
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())
    index, data = tmp_path / "model.ckpt-7.index", tmp_path / "model.ckpt-7.data-00000-of-00001"
    whole = index.read_bytes()
    for damaged in (
        whole[:-1],
        whole[:60],
        whole[:200] + whole[230:],
        b"\xff" * 100 + struct.pack("<Q", 0xDB4775248B80FB57),
    ):
        index.write_bytes(damaged)
        with pytest.raises(Refused, match="cannot be read as a TensorFlow checkpoint"):
            read(index)
    index.write_bytes(whole)
    data.write_bytes(data.read_bytes()[:-8])
    with pytest.raises(Refused, match="does not fit into the data"):
        read(index)
