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


def test_of_other_channels_three_or_one_are_shown() -> None:
    for channels, shown in ((1, (0, 0, 0)), (2, (0, 0, 0)), (3, (0, 1, 2)), (5, (0, 1, 2))):
        mean, std = tuple(0.1 * c for c in range(channels)), (0.5,) * channels
        augment = Augment(views=(View(size=4, mean=mean, std=std),))
        pixels = torch.rand(2, channels, 4, 4, generator=torch.Generator().manual_seed(channels))
        view = (pixels - torch.tensor(mean)[:, None, None]) / 0.5
        wanted = torch.cat([pixels[0], pixels[1]], dim=2)[list(shown)]
        assert torch.allclose(view_grid([view], augment), wanted, atol=1e-6)
