"""Settings of the command `data`: without torch, so that help answers at once."""

from dataclasses import dataclass, field
from pathlib import Path

from selfsup.config.checks import require
from selfsup.data.settings import Data

DATA_EXAMPLE = """examples: what is in a folder; the same with pictures, as a page; an archive with labels from a table
  selfsup data photos/
  selfsup data photos/ --out photos.html
  selfsup data photos.zip --data.labels labels.csv
PATH is what --data.root takes: folders, archives, arrays, tables, several of them; it stands before the flags."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """Settings of the command `data`."""

    data: Data = field(default_factory=Data)
    out: str = ""  # FILE.html, a page of it all with pictures; empty: none
    strict: bool = False  # end with 1 where an image cannot be read
    workers: int | None = None  # processes that decode; None: one on each core

    def __post_init__(self) -> None:
        require(
            not self.out or Path(self.out).suffix == ".html",
            f"out is {self.out!r}; give the name of a file that ends in .html",
        )
        require(self.workers is None or self.workers >= 0, f"workers is {self.workers}; it must be at least 0, or None")
        require(
            not self.data.labelled_root,
            "data.labelled_root is of a run; look at each of the roots on its own",
        )
