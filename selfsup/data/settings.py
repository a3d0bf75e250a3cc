"""Which images a run or a stage reads, and how."""

import os
from dataclasses import dataclass
from typing import ClassVar, Literal

from selfsup.config.checks import require
from selfsup.config.settings import execution, word_or_path
from selfsup.data.channels import Channels, check_channels
from selfsup.data.columns import Columns
from selfsup.data.levels import parse_levels

Verify = Literal["auto", "full"]


@dataclass(frozen=True, kw_only=True)
class Data:
    """Which images. Everything that reads images shares these fields."""

    stored_as: ClassVar[str] = "data"
    # A folder, a file (.zip, .tar, .npz, .npy, .parquet, .arrow) or its address (s3://...), hf:NAME, torchvision:NAME,
    # or "shapes" for the generated data set. Several are joined to one, their classes matched by name.
    root: str | tuple[str, ...] = execution("", path=True)
    test_root: str = execution("", path=True)  # the test images, in place of a test part of root; one like root
    labelled_root: str = execution("", path=True)  # labelled images of another domain, trained on beside those of root
    # auto: from the folders or the file, where they are there; none; or a table (.csv, .tsv, or lines `path label`) of
    # the images of root, which may also tell training from test images.
    labels: str = word_or_path("auto", "auto", "none")
    path_column: str = execution("path")  # of the table; paths are from root or from the table's own folder
    split_column: str = execution("split")  # of the table, where it has it: train, test, val, ...; "": not used
    image_column: str = ""  # which part of the samples in tar archives, or column, is the image; "": the only one
    # Which column, or field of the samples' .json, is the label; "": .cls, or that of classes; of labels: label.
    label_column: str = ""
    limit: int | None = None  # this many images, drawn once; None: all
    holdout: float | None = None  # this share of each class is kept from training, to test on; None: no image is
    holdout_seed: int = 0  # of that draw, which goes by the names of the images below root
    canvas: int | None = None  # decode each image once, to this size; None: at full resolution for every view
    # What becomes black and white, of images of more than 8 bits a pixel. type: the ends of the pixels' type; file:
    # each file's lowest and highest pixel; p1: its 1st percentile and its 99th; 0:4095: these values.
    range: str = "type"
    # rgb: images become red, green and blue: one channel is repeated, a fourth of files is laid over gray or converted.
    # A number: images have so many channels, which are kept as they are; see docs/data.md.
    channels: Channels = "rgb"
    truncated: Literal["refuse", "allow"] = "refuse"  # allow: files that are cut short are read as far as they go
    # auto: files whose size, times and inode are those of the last look are taken as unchanged; full: all are read.
    verify: Verify = execution("auto")

    def __post_init__(self) -> None:
        for name in ("limit", "canvas"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"data.{name} is {value}; it must be at least 1, or None")
        parse_levels(self.range)
        check_channels(self.channels)
        require(len(self.roots) > 0, "data.root names nothing; give one or more folders or files")
        twice = [root for at, root in enumerate(self.roots) if _alike(root) in map(_alike, self.roots[:at])]
        require(not twice, f"data.root names {' and '.join(twice)} twice; name each once")
        if self.table:
            require(
                len(self.roots) == 1 and not self.labelled_root,
                f"data.labels {self.labels} is of the images of one root; give one data.root and no "
                "data.labelled_root, or put the images of each class in a folder of its own",
            )
        require(
            self.holdout is None or 0 < self.holdout < 1,
            f"data.holdout is {self.holdout}; it must be above 0 and below 1, such as 0.2, or None",
        )
        require(self.holdout_seed >= 0, f"data.holdout_seed is {self.holdout_seed}; it must not be negative")
        require(
            self.holdout is None or not self.test_root,
            f"data.holdout {self.holdout} draws test images and data.test_root {self.test_root} names others; leave "
            "one out (--data.holdout None)",
        )

    @property
    def roots(self) -> tuple[str, ...]:
        """Where the images lie."""
        return (self.root,) if isinstance(self.root, str) else self.root

    @property
    def place(self) -> str:
        """Where the images lie, for messages."""
        return " and ".join(self.roots)

    @property
    def table(self) -> str:
        """The file of labels; "" where none is named."""
        return "" if self.labels in ("auto", "none") else self.labels

    @property
    def columns(self) -> Columns:
        """Which parts of a sample, of a row or of a table of labels are read."""
        return Columns(self.image_column, self.label_column, self.path_column, self.split_column)


def _alike(root: str) -> str:
    return os.path.normpath(root) if root else root
