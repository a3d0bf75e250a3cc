"""Indexes of faiss, which look at a part of all rows: inverted lists, and a graph of small worlds.

What is stored of one are plain tensors, from which it is put together again: faiss's own files are not safe to read
when they come from anyone.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from selfsup.search.rows import CHUNK, faiss_gpus, inverse_lengths, sample, unit_rows

_TRAINED_ON = 64  # rows for each centre, from which k-means learns them
_LINKS = 32  # of a row in the graph's lowest layer half of its links: M of Malkov and Yashunin
_BREADTH = 80  # candidates while the graph is built: efConstruction
_TALLEST = 32  # layers of a graph


class Approximate(ABC):
    """Proposes rows that are near, by cosine, without looking at all of them.

    Args:
        features: (N, D) float32.
        inverse: (N,) of their inverse lengths.
        state: what `state` gave.

    Raises:
        ValueError: the state is of no such index over N rows.
    """

    kind: ClassVar[str]
    index: Any  # faiss's

    @classmethod
    @abstractmethod
    def learned(cls, features: Tensor, inverse: Tensor, seed: int) -> Self:
        """The index of rows that has not been built before."""

    @abstractmethod
    def __init__(self, features: Tensor, inverse: Tensor, state: dict[str, Tensor]) -> None: ...

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What is not in the features themselves."""

    @abstractmethod
    def efforts(self) -> list[int]:
        """How much can be looked at for a query, from little to all that makes sense."""

    @abstractmethod
    def look(self, effort: int) -> None:
        """Look at so much from now on."""

    def candidates(self, queries: Tensor, count: int) -> Tensor:
        """(Q, count) int64 numbers of near rows on the CPU, -1 where there are no more, of (Q, D) float32."""
        asked = unit_rows(queries, inverse_lengths(queries)).cpu().numpy()
        return torch.from_numpy(self.index.search(asked, count)[1])


class InvertedLists(Approximate):
    """Rows in lists by the nearest of about 4 sqrt(N) centres; a query looks at the lists of the centres nearest to it.

    (Sivic and Zisserman 2003; Jegou et al. 2011, without their quantisation: lists hold the rows as they are.)
    """

    kind = "ivf"

    def __init__(self, features: Tensor, inverse: Tensor, state: dict[str, Tensor]) -> None:
        import faiss

        self.centres, self.lists = state["centres"].float(), state["lists"].int()
        count, dimension = features.shape
        if self.centres.ndim != 2 or self.centres.shape[1] != dimension or self.lists.shape != (count,):
            raise ValueError("its lists are of other rows")
        if not (bool(self.centres.isfinite().all()) and self.lists.min() >= 0 and self.lists.max() < len(self.centres)):
            raise ValueError("its lists name centres that it has not")
        self.nearest = faiss.IndexFlatIP(dimension)
        self.nearest.add(self.centres.numpy())
        self.index = faiss.IndexIVFFlat(self.nearest, dimension, len(self.centres), faiss.METRIC_INNER_PRODUCT)
        self.index.is_trained = True
        for start in range(0, count, CHUNK):
            rows = unit_rows(features[start : start + CHUNK], inverse[start : start + CHUNK]).cpu().numpy()
            numbers = np.arange(start, start + len(rows))
            lists = self.lists[start : start + CHUNK].long().numpy()
            self.index.add_core(len(rows), faiss.swig_ptr(rows), faiss.swig_ptr(numbers), faiss.swig_ptr(lists))
        if features.is_cuda and faiss_gpus():
            self.resources = faiss.StandardGpuResources()
            self.index = faiss.index_cpu_to_gpu(self.resources, features.device.index or 0, self.index)

    @classmethod
    def learned(cls, features: Tensor, inverse: Tensor, seed: int) -> Self:
        import faiss

        count, dimension = features.shape
        centres = max(1, min(round(4 * count**0.5), count // 39))  # faiss wants 39 rows for each at least
        some = sample(count, _TRAINED_ON * centres, seed)
        rows = unit_rows(features[some.to(features.device)], inverse[some.to(inverse.device)]).cpu().numpy()
        how = {"spherical": True, "niter": 10, "seed": seed + 1, "max_points_per_centroid": _TRAINED_ON}
        clusters = faiss.Kmeans(dimension, centres, gpu=features.is_cuda and faiss_gpus() > 0, **how)
        clusters.train(rows)
        lists = []
        for start in range(0, count, CHUNK):
            rows = unit_rows(features[start : start + CHUNK], inverse[start : start + CHUNK]).cpu().numpy()
            lists.append(torch.from_numpy(clusters.index.search(rows, 1)[1][:, 0]))
        return cls(features, inverse, {"centres": torch.from_numpy(clusters.centroids), "lists": torch.cat(lists)})

    def state(self) -> dict[str, Tensor]:
        return {"centres": self.centres, "lists": self.lists}

    def efforts(self) -> list[int]:
        return [*(2**power for power in range(len(self.centres).bit_length() - 1)), len(self.centres)]

    def look(self, effort: int) -> None:
        self.index.nprobe = effort


class Graph(Approximate):
    """A graph in which each row has links to near ones, and few rows in layers above (Malkov and Yashunin 2018)."""

    kind = "hnsw"

    def __init__(self, features: Tensor, inverse: Tensor, state: dict[str, Tensor]) -> None:
        import faiss

        count, dimension = features.shape
        _check_graph(count, state)
        self.index = faiss.IndexHNSWFlat(dimension, _LINKS, faiss.METRIC_INNER_PRODUCT)
        for start in range(0, count, CHUNK):
            rows = slice(start, start + CHUNK)
            self.index.storage.add(unit_rows(features[rows], inverse[rows]).cpu().numpy())
        self.index.ntotal = count
        graph, layers = self.index.hnsw, state["layers"].int()
        faiss.copy_array_to_vector(layers.numpy(), graph.levels)
        faiss.copy_array_to_vector(_offsets(layers).numpy().astype(np.uint64), graph.offsets)
        faiss.copy_array_to_vector(state["links"].int().numpy(), graph.neighbors)
        graph.entry_point, graph.max_level = int(state["entry"]), int(layers.max()) - 1

    @classmethod
    def learned(cls, features: Tensor, inverse: Tensor, seed: int) -> Self:
        import faiss

        index = faiss.IndexHNSWFlat(features.shape[1], _LINKS, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = _BREADTH
        for start in range(0, len(features), CHUNK):
            rows = slice(start, start + CHUNK)
            index.add(unit_rows(features[rows], inverse[rows]).cpu().numpy())
        built = cls.__new__(cls)
        built.index = index
        return built

    def state(self) -> dict[str, Tensor]:
        import faiss

        graph = self.index.hnsw
        return {
            "layers": torch.from_numpy(faiss.vector_to_array(graph.levels)),
            "links": torch.from_numpy(faiss.vector_to_array(graph.neighbors)),
            "entry": torch.tensor(graph.entry_point),
        }

    def efforts(self) -> list[int]:
        return [2**power for power in range(4, 13)]

    def look(self, effort: int) -> None:
        self.index.hnsw.efSearch = effort


KINDS: dict[str, type[Approximate]] = {kind.kind: kind for kind in (InvertedLists, Graph)}


def _offsets(layers: Tensor) -> Tensor:
    """(N + 1,) int64: where the links of each row begin, of so many layers each."""
    places = torch.where(layers > 0, 2 * _LINKS + (layers.long() - 1) * _LINKS, 0)
    return torch.cat([torch.zeros(1, dtype=torch.int64), places.cumsum(0)])


def _check_graph(count: int, state: dict[str, Tensor]) -> None:
    """Raise ValueError where a walk along the links could leave the graph: faiss does not look."""
    layers, links, entry = state["layers"].long(), state["links"].long(), int(state["entry"])
    if layers.shape != (count,) or links.ndim != 1 or int(layers.min()) < 1 or int(layers.max()) > _TALLEST:
        raise ValueError("its graph is of other rows")
    offsets = _offsets(layers)
    if len(links) != int(offsets[-1]) or not 0 <= entry < count or layers[entry] != layers.max():
        raise ValueError("its graph is not whole")
    if int(links.min()) < -1 or int(links.max()) >= count:
        raise ValueError("its graph has links to rows that are not there")
    place = torch.arange(len(links)) - offsets[:-1].repeat_interleave(offsets.diff())
    layer = ((place - _LINKS) // _LINKS).clamp(min=0)  # the first 2 M places are of the lowest
    if bool((layers[links.clamp(min=0)] <= layer)[links >= 0].any()):
        raise ValueError("its graph has links to rows of lower layers")
