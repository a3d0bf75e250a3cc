"""What a report shows, before it is drawn: figures, examples, and how each came about."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from selfsup.report.curves import Curve
from selfsup.report.verdict import Evidence, Share

Protocol = dict[str, Any]  # how figures came about, for the reader


class Example(NamedTuple):
    """A small picture of an image."""

    picture: Image.Image
    name: str  # of the file or its place
    label: str  # of its class; "" where it has none


class Scored(NamedTuple):
    """Figures of an evaluation that was carried out before."""

    stage: str
    figures: dict[str, float]
    protocol: Protocol


class Compared(NamedTuple):
    """kNN of the encoder, of itself before training and of raw pixels, on the same images."""

    shares: list[tuple[str, Share]]  # the encoder's last
    protocol: Protocol


class ViewRows(NamedTuple):
    """Augmented views: of each image the image itself and its views."""

    rows: list[tuple[Example, list[Image.Image]]]
    protocol: Protocol


class Layout(NamedTuple):
    """Places of points on a map."""

    name: str  # PCA, t-SNE, UMAP
    rows: Tensor | None  # (M,) int64, which points these are; None: all
    places: Tensor  # (M, 2) float32 in [0, 1], from left and from top
    note: str


class EmbeddingMap(NamedTuple):
    """A map of N images."""

    layouts: list[Layout]  # the first has all N
    labels: Tensor  # (N,) int64; -1 where there is none
    names: list[str]  # of the classes
    clusters: Tensor | None  # (N,) int64
    thumbs: list[tuple[int, Example]]  # the number of a point, and its picture
    protocol: Protocol

    @property
    def shown_first(self) -> Layout:
        """The one that keeps neighbours together, where there is one."""
        return self.layouts[min(1, len(self.layouts) - 1)]


class Neighbourhood(NamedTuple):
    """An image, and its nearest ones before and after training, with their cosines."""

    query: Example
    before: list[tuple[Example, float]]
    after: list[tuple[Example, float]]


class Neighbours(NamedTuple):
    """Of several images."""

    found: list[Neighbourhood]
    protocol: Protocol


class ClusterSheet(NamedTuple):
    """One cluster by its most central images."""

    size: int
    examples: list[Example]
    share: float | None  # of its labelled images that are of its most frequent class
    label: str  # that class


class Clusters(NamedTuple):
    """The largest clusters, and figures of all."""

    sheets: list[ClusterSheet]
    figures: dict[str, float]
    protocol: Protocol


class Mistake(NamedTuple):
    """An image that was taken for another class, by so large a share of the votes."""

    example: Example
    taken_for: str
    share: float


class Confusion(NamedTuple):
    """Which classes are taken for which, and the worst mistakes."""

    matrix: list[list[int]]
    names: list[str]
    mistakes: list[Mistake]
    per_class: list[tuple[str, float, int]]  # class, recall, images; the worst first
    protocol: Protocol


class Spectrum(NamedTuple):
    """Singular values of features about their mean, as shares of their sum; and figures of their spread."""

    shares: list[float]
    figures: dict[str, float]
    protocol: Protocol


class DataFacts(NamedTuple):
    """What is known of the images."""

    facts: list[tuple[str, str]]
    classes: list[tuple[str, int]]  # the largest first


@dataclass(kw_only=True)
class Contents:
    """All that a page on a run or an encoder shows; what is None could not be had, and `left_out` says why."""

    title: str
    facts: list[tuple[str, str]]  # what it is, in a few words each
    evidence: Evidence
    curves: dict[str, Curve] = field(default_factory=dict)
    results: list[Scored] = field(default_factory=list)
    compared: Compared | None = None
    views: ViewRows | None = None
    map: EmbeddingMap | None = None
    neighbours: Neighbours | None = None
    clusters: Clusters | None = None
    confusion: Confusion | None = None
    spectrum: Spectrum | None = None
    data: DataFacts | None = None
    settings: Any = None  # of the run, as it was dumped
    environment: Any = None  # of its last launch
    left_out: list[str] = field(default_factory=list)

    @property
    def figures(self) -> dict[str, float]:
        """kNN beside that of pixels and of the untrained encoder, and the spread of features, as far as known."""
        shares = self.compared.shares if self.compared is not None else []
        spread = self.spectrum.figures if self.spectrum is not None else {}
        figures = {_FIGURES[name]: share.value for name, share in shares} | spread
        return {name: round(value, 4) for name, value in figures.items()}


# How results call what is compared.
_FIGURES = {
    "raw pixels": "pixels_knn_top1",
    "untrained encoder": "untrained_knn_top1",
    "this encoder": "knn_top1",
    "its classifier": "classifier_top1",
}
