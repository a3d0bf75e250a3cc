"""TensorFlow checkpoints (MODEL.index and MODEL.data-00000-of-00001) without TensorFlow.

The index is a sorted string table as LevelDB has it: blocks of entries whose keys share prefixes, a block of blocks,
and a footer with a magic number. Each entry is a protocol buffer: type, shape, shard, offset, size and checksum of one
tensor. The data are the tensors' bytes. See tensorflow/core/util/tensor_bundle and core/protobuf/tensor_bundle.proto.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from selfsup.storage.untrusted import read_bytes

_MAGIC = 0xDB4775248B80FB57
_FOOTER = 48  # bytes
# TensorFlow's numbers of types -> how they lie in a file; tensors of others, such as strings, are left out.
_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    9: np.dtype("<i8"),
    19: np.dtype("<f2"),
}


def read(index: Path) -> tuple[dict[str, Tensor], list[Path]]:
    """The tensors of a checkpoint by name, and its files.

    Args:
        index: MODEL.index.

    Raises:
        ValueError: the files are damaged, or of a form that is not read.
        OSError: one of them is missing.
    """
    entries = dict(_entries(read_bytes(index)))
    header = _fields(entries.pop(b"", b""))
    shards = _number(header, 1, 1)
    if _number(header, 2, 0):
        raise ValueError("it was written by a big-endian machine")
    files = [index.with_name(f"{index.stem}.data-{n:05}-of-{shards:05}") for n in range(min(shards, 10_000))]
    data = [read_bytes(file) for file in files]
    tensors = {}
    for key, value in entries.items():
        name, entry = key.decode("utf-8", "replace"), _fields(value)
        if 7 in entry:
            raise ValueError(f"{name} lies in slices; save it as one tensor")
        if (kind := _TYPES.get(_number(entry, 1, 0))) is not None:
            tensors[name] = _tensor(name, entry, kind, data)
    return tensors, [index, *files]


def _tensor(name: str, entry: dict[int, list[int | bytes]], kind: np.dtype[Any], data: list[bytes]) -> Tensor:
    shape = [_number(_fields(size), 1, 0) for size in _messages(_fields(_message(entry, 2)), 2)]
    shard, begin, size = (_number(entry, field, 0) for field in (3, 4, 5))
    count = int(np.prod(shape, dtype=object))
    if (
        shard >= len(data)
        or min(shape, default=1) < 0
        or size != count * kind.itemsize
        or begin + size > len(data[shard])
    ):
        raise ValueError(f"{name} of shape {tuple(shape)} does not fit into the data")
    values = np.frombuffer(data[shard], kind, count, begin).reshape(shape)
    return torch.from_numpy(values.copy())


def _entries(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a sorted string table."""
    if len(content) < _FOOTER or struct.unpack("<Q", content[-8:])[0] != _MAGIC:
        raise ValueError("its last bytes are not those of an index")
    footer = content[-_FOOTER:]
    place = 0
    for _ in range(2):  # of the meta index, which nothing is stored in
        _, place = _varint(footer, place)
    begin, place = _varint(footer, place)
    size, _ = _varint(footer, place)
    for _, handle in _block(content, begin, size):
        begin, place = _varint(handle, 0)
        size, _ = _varint(handle, place)
        yield from _block(content, begin, size)


def _block(content: bytes, begin: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of one block, each key with what it shares with the one before."""
    if begin + size + 5 > len(content) or size < 4:
        raise ValueError("a block lies beyond its end")
    if content[begin + size]:
        raise ValueError("its index is compressed")
    block = content[begin : begin + size]
    end = size - 4 * (struct.unpack("<I", block[-4:])[0] + 1)  # where the list of restarts begins
    place, key = 0, b""
    while place < end:
        shared, place = _varint(block, place)
        own, place = _varint(block, place)
        length, place = _varint(block, place)
        if shared > len(key) or place + own + length > end:
            raise ValueError("an entry lies beyond its block")
        key = key[:shared] + block[place : place + own]
        place += own
        yield key, block[place : place + length]
        place += length


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("a number is cut off")
        number |= (data[place] & 0x7F) << shift
        place += 1
        if not data[place - 1] & 0x80:
            return number, place
    raise ValueError("a number is too long")


def _fields(data: bytes) -> dict[int, list[int | bytes]]:
    """The fields of a protocol buffer by their numbers."""
    place, found = 0, dict[int, list[int | bytes]]()
    while place < len(data):
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == 0:
            value, place = _varint(data, place)
        else:
            if kind == 2:
                size, place = _varint(data, place)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise ValueError("an entry is no protocol buffer")
            if place + size > len(data):
                raise ValueError("an entry is cut off")
            value, place = data[place : place + size], place + size
        found.setdefault(number, []).append(value)
    return found


def _number(fields: dict[int, list[int | bytes]], number: int, default: int) -> int:
    value = fields.get(number, [default])[-1]
    if not isinstance(value, int):
        raise ValueError("an entry is of another form")
    return value


def _messages(fields: dict[int, list[int | bytes]], number: int) -> list[bytes]:
    return [value for value in fields.get(number, []) if isinstance(value, bytes)]


def _message(fields: dict[int, list[int | bytes]], number: int) -> bytes:
    return (_messages(fields, number) or [b""])[-1]
