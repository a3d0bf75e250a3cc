"""The picture of the views shows every view where it belongs, in its own brightness."""

import torch

from selfsup.augment.parameters import View
from selfsup.augment.views import Augment
from selfsup.monitor.grid import view_grid


def test_views_are_rows_and_samples_columns() -> None:
    large = View(size=(6, 4), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    augment = Augment(views=(large, View(size=3)))
    views = [torch.rand(5, 3, 6, 4) * 2 - 1, torch.rand(5, 3, 3, 3)]
    grid = view_grid(views, augment, count=2)
    assert grid.shape == (3, 12, 8)
    torch.testing.assert_close(grid[:, :6, 4:], views[0][1] / 2 + 0.5)
    torch.testing.assert_close(grid[:, 6:9, :3], views[1][0])
    assert grid[:, 9:].abs().sum() == 0
