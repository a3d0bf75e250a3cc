"""A picture of augmented views, so that a person can see what the network is asked to match."""

import torch
from torch import Tensor

from selfsup.augment.views import Augment


def view_grid(views: list[Tensor], augment: Augment, count: int = 8) -> Tensor:
    """The first `count` samples as columns and their views as rows: (3, V S, count T) in [0, 1].

    Views of a smaller size than the first are placed in a corner of a cell of the first's size.
    What is no number is black. Of more than three channels the first three are shown; of fewer the first one, as gray.
    """
    height, width = views[0].shape[-2:]
    rows = []
    for view, config in zip(views, augment.views, strict=True):
        images = view[:count].float().cpu()
        images = images * torch.tensor(config.std)[:, None, None] + torch.tensor(config.mean)[:, None, None]
        images = images[:, :3] if images.shape[1] >= 3 else images[:, :1].expand(-1, 3, -1, -1)
        cells = torch.zeros(len(images), 3, height, width)
        cells[:, :, : images.shape[-2], : images.shape[-1]] = images.nan_to_num(nan=0.0).clamp(0, 1)
        rows.append(torch.cat(list(cells), dim=2))
    return torch.cat(rows, dim=1)
