"""Batch norm of each domain for itself, for training on two domains at once."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from selfsup.models.norm import AnyBatchNorm, Network, over_processes


class DomainBatchNorm(AnyBatchNorm):
    """Batch norm with statistics, scale and shift of its own for each of two domains (Chang et al. 2019, section 3).

    In training rows of the batch alternate: the even ones (0, 2, ...) are of the labelled source domain, the odd ones
    of the target. Evaluation takes all rows for the target's, whose tensors have the ordinary names, so that without
    the `source_*` keys this is the state of an ordinary batch norm. Input (N, C) or (N, C, H, W); an odd number of
    rows in training is a ValueError.
    """

    source_weight: nn.Parameter
    source_bias: nn.Parameter
    source_running_mean: Tensor
    source_running_var: Tensor

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, synchronised: bool = False) -> None:
        super().__init__(num_features, eps=eps, momentum=momentum)
        self.synchronised = synchronised
        self._start_source_as_target()

    def _start_source_as_target(self) -> None:
        for name in ("weight", "bias"):
            target = getattr(self, name)
            source = nn.Parameter(target.detach().clone(), requires_grad=target.requires_grad)
            self.register_parameter(f"source_{name}", source)
        for name in ("running_mean", "running_var"):
            self.register_buffer(f"source_{name}", getattr(self, name).clone())

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        if len(input) % 2:
            raise ValueError(
                f"a batch of {len(input)} cannot alternate between source and target rows for batch norm; "
                "use an even batch size on every process"
            )
        mean, variance, momentum = self._count_batch()
        source_set = (self.source_running_mean, self.source_running_var, self.source_weight, self.source_bias)
        target_set = (mean, variance, self.weight, self.bias)
        output = torch.empty_like(input)  # also in its layout
        for first, tensors in enumerate((source_set, target_set)):
            rows = input[first::2]
            if self.synchronised:
                output[first::2] = over_processes(rows, *tensors, momentum, self.eps)
            else:
                output[first::2] = F.batch_norm(rows, *tensors, training=True, momentum=momentum, eps=self.eps)
        return output


def to_domains(module: Network, synchronised: bool = False) -> Network:
    """Replace every BatchNorm1d and BatchNorm2d in `module` by a `DomainBatchNorm` that starts both domains from it.

    The target's tensors are the old ones themselves; the source's are copies.

    Args:
        synchronised: whether each domain's statistics are over all processes.

    Returns:
        `module`, or its replacement where it is a batch norm itself.

    Raises:
        ValueError: for a batch norm of another class, or one without scale, shift and running statistics.
    """
    if isinstance(module, DomainBatchNorm):
        return module
    if isinstance(module, _BatchNorm):
        return _replacement(module, synchronised)  # type: ignore[return-value]  # a batch norm too
    for name, child in module.named_children():
        setattr(module, name, to_domains(child, synchronised))
    return module


def _replacement(old: _BatchNorm, synchronised: bool) -> DomainBatchNorm:
    complete = old.affine and old.track_running_stats and old.momentum is not None
    if type(old) not in (nn.BatchNorm1d, nn.BatchNorm2d) or not complete:
        raise ValueError(
            f"{old} cannot be kept per domain, only BatchNorm1d and BatchNorm2d with weights and running statistics "
            'can; use domains="one"'
        )
    assert old.momentum is not None
    new = DomainBatchNorm(old.num_features, eps=old.eps, momentum=old.momentum, synchronised=synchronised)
    new.weight, new.bias = old.weight, old.bias
    new.running_mean, new.running_var = old.running_mean, old.running_var
    new.num_batches_tracked = old.num_batches_tracked
    new._start_source_as_target()
    return new.train(old.training)


def target_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of `module` without what belongs to the source domain: that of a network with ordinary batch norms."""
    source = {
        f"{path}.source_{name}".removeprefix(".")
        for path, norm in module.named_modules()
        if isinstance(norm, DomainBatchNorm)
        for name in ("weight", "bias", "running_mean", "running_var")
    }
    return {key: tensor for key, tensor in module.state_dict().items() if key not in source}
