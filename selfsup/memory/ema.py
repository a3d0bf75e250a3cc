"""Exponential moving average of weights."""

import torch
from torch import nn

from selfsup.dtensor import local_tensors


@torch.no_grad()
def ema_update(target: nn.Module, source: nn.Module, momentum: float) -> None:
    """theta_target <- m theta_target + (1 - m) theta_source for parameters only (He et al. 2020, equation 2).

    Buffers stay: the momentum encoder keeps batch-norm statistics of its own. Both modules must have the same layout.
    """
    targets, sources = local_tensors(target.parameters()), local_tensors(source.parameters())
    assert [p.shape for p in targets] == [p.shape for p in sources]
    if targets:
        # As an interpolation: equal weights then stay equal to the last bit.
        torch._foreach_lerp_(targets, sources, 1 - momentum)
