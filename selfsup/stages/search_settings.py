"""Settings of the commands that look for images that are alike: without torch, so that help answers at once."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfsup.config.checks import require
from selfsup.evaluation.reading import Layer, Reading
from selfsup.search.kinds import Kind

ANSWERS = (".jsonl", ".html", ".png")  # ends of the files that search writes
LISTS = (".csv", ".jsonl")  # and that dedup does

SEARCH = """examples: the ten images of a folder that are most like each of two; a page to look at
  selfsup search runs/birds a.jpg b.jpg --data.root photos/
  selfsup search runs/birds queries/ --data.root photos/ --k 20 --out found.html
IMAGES are files, folders, .zip archives, or - for paths on standard input; they stand before the flags.
Features of the folder are made once and kept in RUN/index, or where --folder says."""

DEDUP = """examples: groups of near duplicates; which images to keep; 1000 of them that differ most
  selfsup dedup runs/birds --data.root photos/ --similarity 0.95 --out duplicates.csv
  selfsup dedup runs/birds --data.root photos/ --out duplicates.csv --keep keep.txt
  selfsup dedup runs/birds --data.root photos/ --out duplicates.csv --keep few.txt --subset 1000"""


@dataclass(frozen=True, kw_only=True)
class Kept(Reading):
    """How features are made that are kept for the next command."""

    layer: Layer = "backbone"  # embedding: what the loss was about
    part: Literal["train", "test", "all"] = "all"  # of the data; all: the training images, then the test images
    folder: str = ""  # where features are kept; "": index/ in the run folder or beside the encoder file


@dataclass(frozen=True, kw_only=True)
class Search(Kept):
    """Settings of the command `search`."""

    out: str = "-"  # -: JSON lines on standard output; FILE.jsonl; FILE.html or FILE.png to look at
    k: int = 10  # images that are found for each
    # flat: exact. ivf: lists, hnsw: a graph, both of faiss and approximate. auto: flat up to 2^27 numbers, else ivf.
    index: Kind = "auto"
    recall: float = 0.98  # an approximate index looks at as much as this recall@10 takes, measured on its own images

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.out == "-" or Path(self.out).suffix in ANSWERS,
            f"out is {self.out!r}; give - for standard output, or a name that ends in {', '.join(ANSWERS)}",
        )
        require(self.k >= 1, f"k is {self.k}; give a number of images of at least 1")
        require(0 < self.recall <= 1, f"recall is {self.recall}; it is a share, above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class Dedup(Kept):
    """Settings of the command `dedup`."""

    out: str = ""  # FILE.csv or FILE.jsonl: the images of each group of near duplicates
    similarity: float = 0.95  # least cosine of near duplicates
    pairs: str = ""  # FILE.csv or FILE.jsonl: also every pair
    # FILE.txt: also the images that stay, one a line. FILE.csv: the same as a table, of files, for --data.labels.
    keep: str = ""
    subset: int | None = None  # of those that stay, so many that lie farthest from each other are kept; None: all

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, ends in (("out", LISTS), ("pairs", LISTS), ("keep", (".txt", ".csv"))):
            value = getattr(self, name)
            require(
                not value or Path(value).suffix in ends,
                f"{name} is {value!r}; give the name of a file that ends in {' or '.join(ends)}",
            )
        require(
            0 < self.similarity <= 1,
            f"similarity is {self.similarity}; it is a cosine, above 0 and at most 1, such as 0.95",
        )
        require(
            self.subset is None or self.subset >= 1, f"subset is {self.subset}; give a number of images of at least 1"
        )
        require(self.subset is None or bool(self.keep), f"--subset {self.subset} belongs to --keep FILE; give it, too")
        written = [name for name in (self.out, self.pairs, self.keep) if name]
        require(len(set(written)) == len(written), f"two results have one name, of {', '.join(written)}")
