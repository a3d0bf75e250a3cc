"""What an evaluation leaves beside its record: the confusion matrix as a table and as a picture, the worst mistakes."""

import csv
import io
import warnings
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from selfsup.storage.untrusted import as_cell, plain_name

_NAMED = 60  # classes of a picture at most whose names stand at its sides
_COUNTED = 20  # classes at most whose numbers stand in the cells


def confusion_csv(matrix: Tensor, names: tuple[str, ...]) -> bytes:
    """A row for each class, with its images by the class that they were taken for; of (C, C) int64."""
    rows = [[name, *counts] for name, counts in zip(names, matrix.tolist(), strict=True)]
    return as_csv(["class", *names], rows)


def as_csv(heading: list[str], rows: list[list[Any]]) -> bytes:
    """A table whose texts no spreadsheet carries out."""
    text = io.StringIO()
    lines = [[as_cell(item) if isinstance(item, str) else item for item in row] for row in [heading, *rows]]
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode("utf-8", "surrogateescape")


def confusion_png(matrix: Tensor, names: tuple[str, ...], title: str) -> bytes:
    """The matrix (C, C) as a picture: each row divided by its images; a class without images is an empty row."""
    counts = matrix.numpy()
    images = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, images, out=np.full(counts.shape, np.nan), where=images > 0)
    named = len(names) <= _NAMED
    side = 3.0 + min(12.0, 0.28 * len(names))
    # A drawing of its own, without pyplot: needs no display and leaves no state behind.
    figure = Figure(figsize=(side + 1.5, side), layout="constrained")
    axes = figure.subplots()
    drawn = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(drawn, ax=axes, label="share of the class's images", shrink=0.8)
    axes.set_title(plain_name(title, 80), fontsize=9, parse_math=False)
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    if named:
        shown = [plain_name(name, 24) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=90, fontsize=7, parse_math=False)
        axes.set_yticks(range(len(names)), shown, fontsize=7, parse_math=False)
    if len(names) <= _COUNTED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", fontsize=6, color=colour)
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the table has the names in full
        figure.savefig(content, format="png", dpi=150)
    return content.getvalue()
