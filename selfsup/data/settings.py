"""Which images a run or a stage reads, and how."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from selfsup.config.checks import require
from selfsup.config.settings import execution
from selfsup.data.columns import Columns
from selfsup.data.levels import parse_levels

Verify = Literal["auto", "full"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images. Everything that reads images shares these fields."""

    stored_as: ClassVar[str] = "data"
    root: str = execution("", path=True)  # a folder, a .zip, .npz or .npy file, or "shapes" for the generated data set
    labelled_root: str = execution("", path=True)  # labelled images of another domain, trained on beside those of root
    labels: Literal["auto", "none"] = "auto"  # auto: from the folders or the file, where they are there
    image_column: str = ""  # which part of the samples in tar archives, or column, is the image; "": the only one
    label_column: str = ""  # which column, or field of the samples' .json, is the label; "": .cls, or that of classes
    limit: int | None = None  # this many images, drawn once; None: all
    canvas: int | None = None  # decode each image once, to this size; None: at full resolution for every view
    # What becomes black and white, of files of more than 8 bits a pixel. type: the ends of the pixels' type; file: each
    # file's lowest and highest pixel; p1: its 1st percentile and its 99th; 0:4095: these values.
    range: str = "type"
    # auto: files whose size, times and inode are those of the last look are taken as unchanged; full: all are read.
    verify: Verify = execution("auto")

    def __post_init__(self) -> None:
        for name in ("limit", "canvas"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"data.{name} is {value}; it must be at least 1, or None")
        parse_levels(self.range)

    @property
    def columns(self) -> Columns:
        """Which parts of a sample or a row are read."""
        return Columns(self.image_column, self.label_column)
