"""How alike positives and negatives are, of a part of a batch."""

from typing import NamedTuple

import torch
from torch import Tensor

ROWS = 256  # of a batch, which are compared with each other
EDGES = torch.linspace(-1, 1, 81)  # of the bins of cosines


class Similarities(NamedTuple):
    positive: Tensor  # (p,) cosines
    negative: Tensor  # (n,)


def similarities(rows: Tensor, partners: Tensor, images: int, labels: Tensor | None) -> Similarities:
    """Cosines of rows with the rows that they are pulled to, and with the others.

    Args:
        rows: (n, D) unit rows, view after view.
        partners: (n, D) unit rows: what each is pulled to, another view or its row in a memory.
        images: of which the views are; row i is of image i modulo this number.
        labels: (images,) where images of a class are pulled together, -1 where one has no label; else None.

    Returns:
        Without labels each row's partner is its positive, and the partners of rows of other images are its negatives.
        With labels the partners of its class are its positives, and those of other classes its negatives. Neither holds
        a row against itself, as it is where a method has no other positive for it. Partners that are equal are one row
        of a memory, a cluster's, which is a positive of all that are pulled to it.
    """
    scores = rows @ partners.T
    image = torch.arange(len(rows)) % images
    same_image = image[:, None] == image
    _, number = torch.cat([rows, partners]).unique(dim=0, return_inverse=True)  # equal rows have one number
    row, partner = number.chunk(2)
    if labels is None:
        positive = torch.eye(len(rows), dtype=torch.bool)
        negative = ~same_image & (partner[:, None] != partner)
    else:
        own = labels[image]
        positive = same_image | ((own[:, None] == own) & (own >= 0))
        negative = ~positive
    return Similarities(scores[positive & (row[:, None] != partner)], scores[negative])
