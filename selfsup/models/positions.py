"""Positions of patches that do not learn."""

import torch
from torch import Tensor


def sine_cosine_positions(grid: tuple[int, int], dim: int) -> Tensor:
    """(rows x columns, dim) positions of patches, row by row: sines and cosines of the row, then of the column.

    Frequencies fall from 1 to almost 1/10,000 (Vaswani et al. 2017, section 3.5; Chen et al. 2021, section 4.2).

    Raises:
        ValueError: `dim` is no multiple of 4.
    """
    if dim % 4:
        raise ValueError(f"{dim} features cannot hold sines and cosines of rows and columns; give a multiple of 4")
    rates = 10_000.0 ** -(torch.arange(dim // 4) / (dim // 4))
    rows, columns = torch.meshgrid(*(torch.arange(count, dtype=torch.float32) for count in grid), indexing="ij")
    parts = [place.flatten()[:, None] * rates for place in (rows, columns)]
    return torch.cat([waves for part in parts for waves in (part.sin(), part.cos())], dim=1)
