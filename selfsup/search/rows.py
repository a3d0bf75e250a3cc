"""Rows of features, which may be mapped from a file: their lengths, directions and cosines, a part at a time."""

import torch
from torch import Tensor

from selfsup.cluster.backends import has_faiss
from selfsup.devices.double import to_double
from selfsup.randomness import Stream, permutation

_TOGETHER = 2**22  # values in double precision that are alive at a time
SHORTEST = 1e-12  # a row shorter than this has no direction; its cosines are 0
CHUNK = 65_536  # rows that are made unit rows at a time


def check_rows(features: Tensor, what: str = "features") -> None:
    """Raise ValueError where features are not (N, D) of float32, none at all, or not finite."""
    if features.ndim != 2 or features.dtype != torch.float32 or 0 in features.shape:
        raise ValueError(
            f"{what} are {features.dtype} {tuple(features.shape)}; give (N, D) float32, N and D at least 1"
        )
    if not all(bool(part.isfinite().all()) for part in features.split(CHUNK)):
        raise ValueError(f"{what} hold NaN or infinity")


def inverse_lengths(features: Tensor) -> Tensor:
    """1 / length of each row, (N,) float64 where double precision is computed; 0 for rows without a direction."""
    parts = [torch.linalg.vector_norm(to_double(part), dim=1) for part in features.split(_rows_together(features))]
    lengths = torch.cat(parts)
    return torch.where(lengths < SHORTEST, 0.0, 1 / lengths.clamp(min=SHORTEST))


def unit_rows(features: Tensor, inverse: Tensor) -> Tensor:
    """Rows times their inverse lengths: (n, D) float32, contiguous, on the device of the features."""
    return (features * inverse.to(features.device, torch.float32)[:, None]).contiguous()


def cosines(one: Tensor, first: Tensor, other: Tensor, second: Tensor) -> Tensor:
    """Cosines of pairs of rows in double precision, summed one pair like another, so that equal rows tie to the bit.

    Args:
        one, other: (N, D) and (M, D) float32.
        first, second: (P,) int64, the rows of `one` and of `other` that are compared.

    Returns:
        (P,) float64, on the CPU.
    """
    found = []
    first, second = first.cpu(), second.cpu()
    for begin in range(0, len(first), _rows_together(one)):
        pairs = slice(begin, begin + _rows_together(one))
        left, right = _doubles(one, first[pairs]), _doubles(other, second[pairs])
        lengths = [torch.einsum("pd,pd->p", side, side).sqrt() for side in (left, right)]
        product = torch.einsum("pd,pd->p", left, right)
        lengthy = (lengths[0] >= SHORTEST) & (lengths[1] >= SHORTEST)
        found.append(torch.where(lengthy, product / (lengths[0] * lengths[1]).clamp(min=SHORTEST**2), 0.0))
    return torch.cat(found) if found else torch.empty(0, dtype=torch.float64)


def sample(count: int, wanted: int, seed: int) -> Tensor:
    """(min(wanted, count),) numbers of rows, drawn without repetition, ascending."""
    return permutation(seed, Stream.SEARCHED, count)[:wanted].sort().values


def faiss_gpus() -> int:
    """GPUs that the installed faiss can use; 0 without faiss."""
    if not has_faiss():
        return 0
    import faiss

    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


def _rows_together(features: Tensor) -> int:
    return max(1, _TOGETHER // features.shape[1])


def _doubles(features: Tensor, numbers: Tensor) -> Tensor:
    return features[numbers.to(features.device)].cpu().double()
