"""What the loader hands to the augmentation and the method."""

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """One process's part of a global batch.

    `images` is one tensor of whole images, or, for photographs that workers decode and crop at full resolution, a
    tuple with one tensor of crops per view.
    """

    images: Tensor | tuple[Tensor, ...]  # (B, 3, H, W) uint8, or per view (B, 3, S, S) uint8
    labels: Tensor  # (B,) int64; -1 where there is none
    indices: Tensor  # (B,) int64, position in the data set, on the CPU as well as the epoch's order
    sizes: Tensor | None = None  # (B, 2) int64 original height and width, where images were squeezed to one shape
    draws: Tensor | None = None  # (B,) int64, on the CPU: see Key


class Key(NamedTuple):
    """What a batch is made from."""

    epoch: int
    rows: Tensor  # (B,) int64 positions in the data set
    # (B,) int64, how often each row has come before in the epoch; None where none comes twice. Only training has them,
    # which never leaves a row out.
    draws: Tensor | None = None
