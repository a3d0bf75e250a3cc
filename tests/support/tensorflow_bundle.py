"""A writer of TensorFlow checkpoints, for tests: one block of keys, one shard."""

import io
import struct
from pathlib import Path

import torch
from torch import Tensor


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    out, before = io.BytesIO(), b""
    for key, value in entries:
        shared = 0
        while shared < min(len(before), len(key)) and before[shared] == key[shared]:
            shared += 1
        out.write(_varint(shared) + _varint(len(key) - shared) + _varint(len(value)) + key[shared:] + value)
        before = key
    return out.getvalue() + struct.pack("<II", 0, 1)


def write_bundle(index: Path, tensors: dict[str, Tensor]) -> None:
    """MODEL.index and MODEL.data-00000-of-00001 as TensorFlow lays them out, without checksums."""
    data, entries = io.BytesIO(), [(b"", _field(1, 1) + _field(3, _field(1, 1)))]
    for name, tensor in sorted(tensors.items()):
        content = tensor.contiguous().numpy().tobytes()
        shape = b"".join(_field(2, _field(1, size)) for size in tensor.shape)
        kind = {torch.float32: 1, torch.int64: 9}[tensor.dtype]
        entry = _field(1, kind) + _field(2, shape) + _field(4, data.tell()) + _field(5, len(content))
        entries.append((name.encode(), entry))
        data.write(content)
    index.with_name(f"{index.stem}.data-00000-of-00001").write_bytes(data.getvalue())
    block = _block(entries)
    meta = _block([])
    handles = []
    file = io.BytesIO()
    for part in (block, meta):
        handles.append(_varint(file.tell()) + _varint(len(part)))
        file.write(part + bytes(5))
    top = _block([(b"\xff", handles[0])])
    handles.append(_varint(file.tell()) + _varint(len(top)))
    file.write(top + bytes(5))
    footer = handles[1] + handles[2]
    file.write(footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57))
    index.write_bytes(file.getvalue())
