"""Settings of the commands on a finished encoder, and what their help says: without torch, so it answers at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, NamedTuple

from selfsup.augment.size import Size, check_size
from selfsup.cluster.backends import Backend
from selfsup.config.checks import require
from selfsup.config.settings import execution
from selfsup.data.settings import Data
from selfsup.devices.choice import Device
from selfsup.evaluation.reading import RECALL_AT, Layer, Reading, check_temperature
from selfsup.stages.search_settings import DEDUP, SEARCH, Dedup, Search

CLUSTERINGS = ("kmeans", "dbscan")  # protocols of cluster
TABLES = (".csv", ".jsonl", ".parquet")  # ends of the files that predict writes
_CANVAS = 256  # side of the squares of a pack
COMPARISONS = (".md", ".csv", ".html", ".png", ".svg")  # and that compare does

_PREDICT = """example: a row for each image below holiday/, with its five most probable classes
  selfsup predict runs/birds/finetune_10pct holiday/ --out birds.csv --top 5
IMAGES are files, folders, .zip archives, or - for paths on standard input; they stand before the flags.
Without a classifier, by the nearest images of a labelled folder, of any encoder:
  selfsup predict runs/birds holiday/ --out birds.csv --bank labelled/
"""

_EVALUATE = """example: class by class, on a folder whose folders are called as the classifier's classes
  selfsup evaluate runs/birds/finetune_10pct --data.root new_labels/
RUN is a folder that finetune, distill or semi made; without --data.root it is judged on the data it was made from."""

_REPORT = """examples: RUN/report.html, which any browser opens; imported weights on a folder; drawings as PNG files
  selfsup report runs/birds
  selfsup report imported/ --data.root photos/ --out birds.html
  selfsup report runs/birds --png drawings/
docs/report.md explains the page."""

_PACK = """examples: squares of 144 pixels in one file, or JPEG files whose shorter side is 320 pixels; then a check
  selfsup pack packed/ --data.root photos/ --data.canvas 144
  selfsup pretrain simclr_folder --data.root packed/
  selfsup pack smaller/ --data.root photos/ --jpeg 320
  selfsup pack packed/ --check
OUT is a folder, and names data as any other does; docs/data.md says which form is for what."""


@dataclass(frozen=True, kw_only=True)
class KNN(Reading):
    """Settings of the kNN evaluation: every k with every temperature, in one search."""

    # train_test: test images ask the training images. leave_one_out: each training image asks all others.
    # auto: train_test where there is a test part, else leave_one_out.
    mode: Literal["auto", "train_test", "leave_one_out"] = "auto"
    layer: Layer = "backbone"  # embedding: what the loss was about, as Wu et al. and MoCo's CIFAR demo do
    # Neighbours. None given: 200, but no more than the smallest class has or a tenth of the labelled training images.
    # Of more than there are, all of them.
    k: tuple[int, ...] = ()
    temperature: tuple[float, ...] = (0.1,)  # T: each neighbour votes exp(similarity / T)
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        for k in self.k:
            require(k >= 1, f"k is {k}; give numbers of neighbours of at least 1, such as 20")
        require(len(self.temperature) > 0, "there is no kNN temperature; give one or more (0.07 and 0.1 are usual)")
        for temperature in self.temperature:
            check_temperature(temperature)


@dataclass(frozen=True, kw_only=True)
class Retrieval(Reading):
    """Settings of the retrieval evaluation."""

    # leave_one_out: every image asks all others. query_gallery: queries ask the gallery, as index.csv beside the data
    # tells them apart by its column `role`, or without one a random image of each identity is its query.
    # auto: query_gallery where such an index.csv is, else leave_one_out.
    mode: Literal["auto", "leave_one_out", "query_gallery"] = "auto"
    layer: Layer = "backbone"  # embedding: what the loss was about, as metric learning reports it
    recall_at: tuple[int, ...] = RECALL_AT
    # What becomes of gallery images by the query's own camera and of its identity, where the column `camera` of
    # index.csv tells cameras: as re-identification excludes them from the query's ranking, or not.
    same_camera: Literal["exclude", "keep"] = "exclude"
    seed: int = 0  # of the random queries

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            min(self.recall_at, default=0) >= 1,
            f"recall_at is {min(self.recall_at, default='empty')}; give one rank or more, each at least 1",
        )


@dataclass(frozen=True, kw_only=True)
class Clustering(Reading):
    """Settings that both ways of clustering share."""

    layer: Layer = "backbone"
    part: Literal["auto", "train", "test"] = "auto"  # of the data; auto: the test images where there are any


@dataclass(frozen=True, kw_only=True)
class KMeans(Clustering):
    """Spherical k-means: centres are unit vectors, each image belongs to the one of the largest cosine."""

    k: int | None = None  # clusters; None: as many as there are classes
    repeats: int = 5  # restarts from other images; the best by the sum of cosines is taken
    iterations: int = 25
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("repeats", 1), ("iterations", 1), ("seed", 0)):
            require(getattr(self, name) >= least, f"{name} is {getattr(self, name)}; it must be at least {least}")
        require(
            self.k is None or self.k >= 2, f"k is {self.k}; it must be at least 2, or None for the number of classes"
        )


@dataclass(frozen=True, kw_only=True)
class DBSCAN(Clustering):
    """Clusters of density on cosine distances."""

    eps: float = 0.2  # largest cosine distance, 1 - cosine, of neighbours
    min_samples: int = 5  # neighbours of a core, itself included

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.eps < 2, f"eps is {self.eps}; it is a cosine distance, above 0 and below 2")
        require(self.min_samples >= 1, f"min_samples is {self.min_samples}; it must be at least 1")


def clustering_settings(protocol: str, data: Data) -> KMeans | DBSCAN:
    """The settings of a protocol; any of them can be overridden."""
    return KMeans(data=data) if protocol == "kmeans" else DBSCAN(data=data)


@dataclass(frozen=True, kw_only=True)
class Embed(Reading):
    """Settings of the command `embed`."""

    out: str = ""  # FILE.npy, with FILE.csv beside it, or FILE.parquet
    layer: Layer = "backbone"
    part: Literal["train", "test", "all"] = "all"  # of the data; all: the training images, then the test images
    save_every: int = 8192  # images after which an interrupted command can go on

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.save_every >= 1, f"save_every is {self.save_every}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Evaluate(Reading):
    """Settings of the command `evaluate`."""

    part: Literal["auto", "train", "test", "all"] = "auto"  # of the data; auto: the test images where there are any
    worst: int = 50  # of the mistakes, so many most confident ones are written down

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.worst >= 0, f"worst is {self.worst}; give a number of mistakes of at least 0")


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Settings of the command `predict`."""

    out: str = ""  # FILE.csv, FILE.jsonl or FILE.parquet
    top: int = 1  # classes of each image, the most probable first
    embedding: bool = False  # also the features, as selfsup embed has them
    bank: str = ""  # labelled images whose nearest neighbours decide, in place of a classifier
    k: int | None = None  # neighbours that vote; None: 200, or fewer where the bank is small
    temperature: float = 0.1  # T of the bank's vote: each neighbour votes exp(similarity / T)
    layer: Layer = "backbone"  # what is compared with the bank: the features, or what the loss was about
    batch_size: int = 64
    workers: int = 2  # processes that decode
    device: Device = "auto"  # a CUDA GPU, else an Apple GPU (mps), else the CPU
    size: Size | None = None  # of the images that the encoder is fed with, in pixels; None: as it was trained

    def __post_init__(self) -> None:
        require(
            not self.out or Path(self.out).suffix in TABLES,
            f"out is {self.out!r}; give the name of a file that ends in {', '.join(TABLES)}",
        )
        for name, least in (("top", 1), ("batch_size", 1), ("workers", 0)):
            require(getattr(self, name) >= least, f"{name} is {getattr(self, name)}; it must be at least {least}")
        require(self.k is None or self.k >= 1, f"k is {self.k}; give a number of neighbours of at least 1, or None")
        check_size(self.size)
        check_temperature(self.temperature)
        for name, usual in (("k", None), ("temperature", 0.1), ("layer", "backbone")):
            value = getattr(self, name)
            require(
                bool(self.bank) or value == usual, f"{name} is {value}, and belongs to --bank PATH, which is not given"
            )


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Settings of the command `compare`."""

    out: str = ""  # .md or .csv: the table; .png or .svg: the plot; .html: both. Empty: only on the terminal

    def __post_init__(self) -> None:
        require(
            not self.out or Path(self.out).suffix in COMPARISONS,
            f"out is {self.out!r}; give a name that ends in {', '.join(COMPARISONS)}",
        )


@dataclass(frozen=True, kw_only=True)
class Report(Reading):
    """Settings of the command `report`."""

    out: str = ""  # FILE.html; empty: report.html in the folder RUN
    png: str = ""  # a folder, into which every drawing is written as a PNG file, too; empty: none
    images: int = 5_000  # training images that are looked at, and are on the map; at most so many
    tsne: int = 2_000  # of them, those that t-SNE (and UMAP, where it is installed) places; 0: a map by PCA alone
    tsne_seconds: float = 60.0  # that t-SNE takes at most: it places fewer images where time is short
    minutes: float = 30.0  # for all of it; what there is no time for is left out, and the page says so

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            not self.out or Path(self.out).suffix == ".html",
            f"out is {self.out!r}; give the name of a file that ends in .html",
        )
        for name, least in (("images", 2), ("tsne", 0), ("batch_size", 1), ("workers", 0)):
            require(getattr(self, name) >= least, f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("tsne_seconds", "minutes"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be positive, such as 10")


@dataclass(frozen=True, kw_only=True)
class Replay:
    """How a captured step is run again."""

    # fp32 shows whether half precision is to blame.
    precision: Literal["as-captured", "fp32", "tf32", "bf16", "fp16"] = execution("as-captured")
    device: Device = execution("auto")  # a CUDA GPU, else an Apple GPU (mps), else the CPU


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Settings of the command `pack`."""

    data: Data = field(default_factory=Data)  # what is packed; canvas: the side of the squares, 256 if it is None
    # Instead of squares: JPEG files with the shorter side of so many pixels, in tar shards. Files that are no larger
    # are copied byte for byte.
    jpeg: int | None = None
    quality: int = 95  # of JPEG files that are encoded anew
    check: bool = False  # write nothing: read OUT whole, and compare it with its checksums

    def __post_init__(self) -> None:
        require(self.jpeg is None or self.jpeg >= 1, f"jpeg is {self.jpeg}; give the shorter side in pixels, as 320")
        require(1 <= self.quality <= 100, f"quality is {self.quality}; it must be from 1 to 100, such as 95")
        require(
            self.jpeg is None or self.data.canvas is None,
            f"both --jpeg {self.jpeg} and --data.canvas {self.data.canvas} are given; leave one out",
        )
        require(
            self.jpeg is None or self.data.channels == "rgb",
            f"JPEG files hold red, green and blue, and data.channels is {self.data.channels}; give --data.canvas",
        )
        require(
            not self.data.labelled_root,
            "data.labelled_root is of a run, not of a pack; pack each of the roots on its own",
        )

    @property
    def side(self) -> int:
        """Of the squares or, of JPEG files, the shorter one."""
        return self.jpeg or self.data.canvas or _CANVAS


class Help(NamedTuple):
    """What help says of a command on a run."""

    settings: Callable[[str], Any]  # of the protocol's name: the settings whose flags are explained
    protocols: tuple[str, ...] = ()  # the first one is taken where none is named
    example: str = ""


HELP = {
    "knn": Help(lambda _: KNN()),
    "retrieval": Help(lambda _: Retrieval()),
    "cluster": Help(lambda protocol: clustering_settings(protocol, Data()), CLUSTERINGS),
    "embed": Help(lambda _: Embed()),
    "evaluate": Help(lambda _: Evaluate(), example=_EVALUATE),
    "predict": Help(lambda _: Predict(), example=_PREDICT),
    "report": Help(lambda _: Report(), example=_REPORT),
    "pack": Help(lambda _: Packing(), example=_PACK),
    "search": Help(lambda _: Search(), example=SEARCH),
    "dedup": Help(lambda _: Dedup(), example=DEDUP),
}


def help_of(command: str) -> Help:
    """What a command on a run says of itself; one that trains says it in its own module."""
    stage: Help = HELP[command] if command in HELP else import_module(f"selfsup.stages.{command}").STAGE.help
    return stage
