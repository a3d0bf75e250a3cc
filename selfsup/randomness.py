"""Counter-based random numbers: pure functions of (seed, stream, epoch, view, index), the same bits on every device.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", the generator of cuRAND and JAX) in
int64 tensor arithmetic. Nothing here has state: whoever knows the counters can draw a sample's numbers again, in any
process, in any order, after any restart.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from selfsup.devices.double import double_device

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10


class Stream(IntEnum):
    """What the numbers are for. Each use has its own stream, so that no two uses ever share a number."""

    ORDER = 0
    CROP = 1
    COLOR = 2
    BLUR = 3
    SHUFFLE = 4
    QUEUE = 5
    SHAPES = 6
    SUBSET = 7
    BANK = 8
    NOISE = 9
    MINING = 10
    MIXING = 11
    CLASSES = 12
    ERASE = 13
    CENTRES = 14
    SEARCHED = 15


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four words of 32 random bits from a counter of four words and a key of two.

    Args:
        counter: four int64 tensors that broadcast together, values in [0, 2**32).
        key: two integers in [0, 2**32).

    Returns:
        Four int64 tensors of the broadcast shape, values in [0, 2**32).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        # The 64-bit product wraps to a negative int64; masking after the shift recovers both halves exactly.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def random_bits(
    seed: int, stream: Stream, indices: Tensor, count: int, epoch: int | Tensor = 0, view: int = 0
) -> Tensor:
    """`count` words of 32 random bits for each index.

    Args:
        seed: of the run, in [0, 2**64).
        stream: what the numbers are for.
        indices: (B,) int64 in [0, 2**32): sample numbers or positions.
        count: words per index, at most 2**18.
        epoch: epoch or step number, an int or an int64 tensor, () or, one for each index, (B,); see `counter`.
        view: which view of the sample, in [0, 1024).

    Returns:
        (B, count) int64 on the device of `indices`, values in [0, 2**32).
    """
    return _words(seed, stream, indices, count, epoch, view).to(indices.device)


def _words(seed: int, stream: Stream, indices: Tensor, count: int, epoch: int | Tensor, view: int) -> Tensor:
    """`random_bits` where they are exact: on the device of `indices`, or on the CPU (`selfsup.devices.double`)."""
    indices = indices.to(double_device(indices.device))
    blocks = torch.arange(-(-count // 4), device=indices.device)
    where = (int(stream) << 10 | view) << 16
    epoch = torch.as_tensor(epoch, dtype=torch.int64, device=indices.device)
    epoch = epoch[..., None]  # (1,) or (B, 1)
    counters = (indices[:, None], epoch & _MASK, (epoch >> 32) & _MASK, blocks + where)
    words = philox(counters, (seed & _MASK, (seed >> 32) & _MASK))
    return torch.stack(torch.broadcast_tensors(*words), dim=-1).flatten(1)[:, :count]


def counter(epoch: int, draws: Tensor | None) -> int | Tensor:
    """The `epoch` of `random_bits` for images that may come several times in an epoch, with new numbers each time.

    Args:
        epoch: in [0, 2**32).
        draws: (B,) int64 in [0, 2**31), how often each image has come before; None where none comes twice.

    Returns:
        (B,) int64, equal to the epoch where an image comes first; the epoch itself without `draws`.
    """
    return epoch if draws is None else epoch + (draws << 32)


def uniform(seed: int, stream: Stream, indices: Tensor, count: int, epoch: int | Tensor = 0, view: int = 0) -> Tensor:
    """(B, count) float64 in [0, 1), multiples of 2**-32; arguments as for `random_bits`.

    Double precision, so that what is computed from them (a logarithm, say) rounds to the same float32 or the same
    pixel on every device. On the device of `indices`, or on the CPU where that has no double precision.
    """
    return _words(seed, stream, indices, count, epoch, view).double() * 2.0**-32


class Wanted(NamedTuple):
    """Numbers of a stream that are wanted of each index: those of `uniform` with these arguments."""

    stream: Stream
    words: int  # for each index
    view: int = 0


def uniforms(seed: int, wanted: Sequence[Wanted], indices: Tensor, epoch: int | Tensor = 0) -> list[Tensor]:
    """`uniform` of several streams and views at once, (B, count) float64 each: the same bits.

    On a CPU they are computed by NumPy, in a fiftieth of the operations.
    """
    if indices.device.type != "cpu":
        return [uniform(seed, stream, indices, count, epoch, view) for stream, count, view in wanted]
    blocks = [-(-each.words // 4) for each in wanted]
    places = [
        np.arange(length, dtype=np.uint64) + np.uint64((int(each.stream) << 10 | each.view) << 16)
        for each, length in zip(wanted, blocks, strict=True)
    ]
    epochs = torch.as_tensor(epoch, dtype=torch.int64)[..., None].numpy().astype(np.uint64)  # (1,) or (B, 1)
    counters = (
        indices[:, None].numpy().astype(np.uint64),
        epochs & _MASK,
        epochs >> 32 & _MASK,
        np.concatenate(places),
    )
    words = _philox_by_numpy(counters, (seed & _MASK, (seed >> 32) & _MASK))
    numbers = torch.from_numpy(words.astype(np.float64) * 2.0**-32).flatten(1)  # (B, 4 blocks)
    rows = numbers.split([4 * length for length in blocks], dim=1)
    return [row[:, : each.words] for each, row in zip(wanted, rows, strict=True)]


def _philox_by_numpy(counter: tuple[np.ndarray, ...], key: tuple[int, int]) -> np.ndarray:
    """`philox` of four uint64 arrays; (..., 4) uint32."""
    c0, c1, c2, c3 = (np.array(word, dtype=np.uint32) for word in np.broadcast_arrays(*counter))
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = (np.multiply(c, m, dtype=np.uint64) for c, m in zip((c0, c2), _MULTIPLIERS, strict=True))
        c1 ^= np.uint32(k0)
        c3 ^= np.uint32(k1)
        c1 ^= (p1 >> 32).astype(np.uint32)
        c3 ^= (p0 >> 32).astype(np.uint32)
        c0, c1, c2, c3 = c1, p1.astype(np.uint32), c3, p0.astype(np.uint32)
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return np.stack([c0, c1, c2, c3], axis=-1)


def permutation(seed: int, stream: Stream, length: int, epoch: int | Tensor = 0) -> Tensor:
    """A random order of `length` things: (length,) int64, a pure function of its arguments.

    The device is that of `epoch` where it is a tensor, else the CPU.
    """
    if not isinstance(epoch, Tensor):
        return _sorted_by_chance(random_bits(seed, stream, torch.arange(length), 2, epoch))
    things = torch.arange(length, device=double_device(epoch.device))
    return _sorted_by_chance(random_bits(seed, stream, things, 2, epoch)).to(epoch.device)


def permutations(seed: int, stream: Stream, length: int, epochs: Tensor) -> Tensor:
    """`permutation` for each of (P,) epochs, at once: (P, length) int64."""
    counted = epochs.to(double_device(epochs.device))
    things = torch.arange(length, device=counted.device).repeat(len(counted))
    words = random_bits(seed, stream, things, 2, counted.repeat_interleave(length))
    return _sorted_by_chance(words.view(len(counted), length, 2)).to(epochs.device)


def _sorted_by_chance(words: Tensor) -> Tensor:  # (..., n, 2) -> (..., n)
    # 63 bits: a collision among 2**24 things has probability 1.5e-5, and the stable sort decides it the same way.
    return torch.argsort((words[..., 0] << 31) ^ words[..., 1], dim=-1, stable=True)
