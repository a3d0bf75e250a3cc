"""Indexes of faiss, which look at a part of all rows: inverted lists, and a graph of small worlds.

What is stored of one are plain tensors, from which it is put together again: faiss's own files are not safe to read
when they come from anyone.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from selfsup.search.rows import CHUNK, faiss_gpus, inverse_lengths, sample, unit_rows

_TRAINED_ON = 64  # rows for each centre, from which k-means learns them
_GPU_MOST = 2048  # lists and candidates that faiss takes on a GPU
_LINKS = 32  # of a row in a layer of the graph, twice as many in the lowest: M of Malkov and Yashunin
_BREADTH = 80  # candidates while the graph is built: efConstruction


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
    exhausts: ClassVar[bool] = True  # whether more candidates cost no more looking: all rows looked at are compared
    index: Any  # faiss's

    @classmethod
    @abstractmethod
    def learned(cls, features: Tensor, inverse: Tensor, seed: int, held: Tensor) -> Self:
        """The index of rows that has not been built before.

        Where rows are found by way of themselves, the rows `held`, (H,) int64, are left for `complete` to add: an index
        is measured by them while they are as new to it as any query.
        """

    def complete(self) -> None:
        """Add what was held."""
        return None

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
        return torch.from_numpy(self.searcher(count).search(asked, count)[1])

    def searcher(self, count: int) -> Any:
        """Which of faiss's indexes finds so many candidates."""
        return self.index


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
        self.on_gpu: Any = None
        if features.is_cuda and faiss_gpus():
            self.resources = faiss.StandardGpuResources()  # must live as long as what stands on it
            self.on_gpu = faiss.index_cpu_to_gpu(self.resources, features.device.index or 0, self.index)

    @classmethod
    def learned(cls, features: Tensor, inverse: Tensor, seed: int, held: Tensor) -> Self:
        import faiss

        count, dimension = features.shape
        centres = max(1, min(round(4 * count**0.5), count // 39))  # faiss wants 39 rows for each at least
        some = sample(count, _TRAINED_ON * centres, seed)
        rows = unit_rows(features[some.to(features.device)], inverse[some.to(inverse.device)]).cpu().numpy()
        how = {"spherical": True, "niter": 10, "seed": seed + 1, "max_points_per_centroid": _TRAINED_ON}
        how |= {"min_points_per_centroid": 1}  # of few rows it would complain
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
        steps = {part << power for power in range(len(self.centres).bit_length()) for part in (2, 3)}
        return [1, *sorted(step for step in steps if step < len(self.centres)), len(self.centres)]

    def look(self, effort: int) -> None:
        self.index.nprobe = effort
        if self.on_gpu is not None:
            self.on_gpu.nprobe = min(effort, _GPU_MOST)

    def searcher(self, count: int) -> Any:
        small = max(count, self.index.nprobe) <= _GPU_MOST
        return self.on_gpu if small and self.on_gpu is not None else self.index


class Graph(Approximate):
    """A graph in which each row has links to near ones, and few rows in layers above (Malkov and Yashunin 2018)."""

    kind = "hnsw"
    exhausts = False

    def __init__(self, features: Tensor, inverse: Tensor, state: dict[str, Tensor]) -> None:
        import faiss

        count = len(features)
        self.features, self.inverse, self.order = features, inverse, state["order"].long()
        if self.order.shape != (count,) or not bool((self.order.sort().values == torch.arange(count)).all()):
            raise ValueError("its graph is of other rows")
        self.index = _empty_graph(features.shape[1])
        places = torch.from_numpy(faiss.vector_to_array(self.index.hnsw.cum_nneighbor_per_level)).long()
        offsets = _checked_offsets(count, state, places)
        for rows in self._units(0, count):
            self.index.storage.add(rows)
        self.index.ntotal = count
        graph, layers = self.index.hnsw, state["layers"].int()
        faiss.copy_array_to_vector(layers.numpy(), graph.levels)
        faiss.copy_array_to_vector(offsets.numpy().astype(np.uint64), graph.offsets)
        faiss.copy_array_to_vector(state["links"].int().numpy(), graph.neighbors)
        graph.entry_point, graph.max_level = int(state["entry"]), int(layers.max()) - 1

    @classmethod
    def learned(cls, features: Tensor, inverse: Tensor, seed: int, held: Tensor) -> Self:
        built = cls.__new__(cls)
        others = torch.ones(len(features), dtype=torch.bool)
        others[held] = False
        built.features, built.inverse = features, inverse
        built.order = torch.cat([others.nonzero()[:, 0], held])
        built.index = _empty_graph(features.shape[1])
        built.index.hnsw.efConstruction = _BREADTH
        for rows in built._units(0, len(features) - len(held)):
            built.index.add(rows)
        return built

    def complete(self) -> None:
        for rows in self._units(self.index.ntotal, len(self.order)):
            self.index.add(rows)

    def _units(self, begin: int, end: int) -> Iterator[np.ndarray]:
        """Unit rows in the order of the graph, a part at a time."""
        for start in range(begin, end, CHUNK):
            rows = self.order[start : min(start + CHUNK, end)]
            own = self.features[rows.to(self.features.device)]
            yield unit_rows(own, self.inverse[rows.to(self.inverse.device)]).cpu().numpy()

    def candidates(self, queries: Tensor, count: int) -> Tensor:
        found = super().candidates(queries, min(count, self.index.ntotal))
        return torch.where(found < 0, -1, self.order[found.clamp(min=0)])

    def state(self) -> dict[str, Tensor]:
        import faiss

        graph = self.index.hnsw
        return {
            "order": self.order,
            "layers": torch.from_numpy(faiss.vector_to_array(graph.levels)),
            "links": torch.from_numpy(faiss.vector_to_array(graph.neighbors)),
            "entry": torch.tensor(graph.entry_point),
        }

    def efforts(self) -> list[int]:
        return [2**power for power in range(4, 13)]

    def look(self, effort: int) -> None:
        self.index.hnsw.efSearch = effort


def _empty_graph(dimension: int) -> Any:
    import faiss

    return faiss.IndexHNSWFlat(dimension, _LINKS, faiss.METRIC_INNER_PRODUCT)


KINDS: dict[str, type[Approximate]] = {kind.kind: kind for kind in (InvertedLists, Graph)}


def _checked_offsets(count: int, state: dict[str, Tensor], places: Tensor) -> Tensor:
    """Where the links of each row begin, and where the last one's end: (N + 1,) int64.

    Args:
        count: N.
        state: of a graph: of each row the number of its layers, all links, -1 for none, and the row to begin with.
        places: (L + 1,) links of a row up to each of the L layers that there can be.

    Raises:
        ValueError: a walk along the links could leave the graph; faiss does not look.
    """
    layers, links, entry = state["layers"].long(), state["links"].long(), int(state["entry"])
    if layers.shape != (count,) or links.ndim != 1 or int(layers.min()) < 1 or int(layers.max()) >= len(places):
        raise ValueError("its graph is of other rows")
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), places[layers].cumsum(0)])
    if len(links) != int(offsets[-1]) or not 0 <= entry < count or layers[entry] != layers.max():
        raise ValueError("its graph is not whole")
    if int(links.min()) < -1 or int(links.max()) >= count:
        raise ValueError("its graph has links to rows that are not there")
    within = torch.arange(len(links)) - offsets[:-1].repeat_interleave(offsets.diff())
    layer = torch.searchsorted(places, within, right=True) - 1
    if bool((layers[links.clamp(min=0)] <= layer)[links >= 0].any()):
        raise ValueError("its graph has links to rows of lower layers")
    return offsets
