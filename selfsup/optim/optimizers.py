"""SGD, AdamW and LARS with parameter groups built by name; the trainer sets lr = factor * peak_lr in every group.

A method may give some of its parameters a rate of their own: `rates`, the beginning of a name -> a factor on the peak
rate; the longest one that fits counts.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor, nn

from selfsup.config.checks import require
from selfsup.dtensor import is_part, local_tensors, norms
from selfsup.optim.schedules import scaled_rate

Scaling = Literal["none", "linear", "sqrt"]
NamedParameters = Iterable[tuple[str, nn.Parameter]]
Rates = Mapping[str, float]
_ONE_RATE: Rates = MappingProxyType({})


class _Group(NamedTuple):
    """Parameters that are treated alike."""

    plain: bool  # without weight decay and the like
    factor: float  # on the peak rate
    parameters: list[nn.Parameter]


def _groups(
    named_parameters: NamedParameters, rates: Rates, plain: Callable[[str, nn.Parameter, bool], bool]
) -> list[_Group]:
    """Trainable parameters by rate, those of the peak rate first, and by whether `plain` picks them; none is empty.

    `plain` gets a parameter's name, the parameter, and whether its rate is its own.
    """
    named = list(named_parameters)
    for prefix, factor in rates.items():
        if not any(name.startswith(prefix) for name, _ in named):
            raise ValueError(f"a rate is given for {prefix!r}, and no parameter's name begins with that")
        if not factor > 0:
            raise ValueError(f"the rate of {prefix!r} is {factor} times the others'; give a number above 0")
    if not any(parameter.requires_grad for _, parameter in named):
        raise ValueError("the optimizer got no trainable parameter; is everything frozen?")
    parts: dict[tuple[bool, float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            fitting = sorted((prefix for prefix in rates if name.startswith(prefix)), key=len)
            rated = bool(fitting)
            factor = rates[fitting[-1]] if rated else 1.0
            # Whole tensors and parts of sharded ones never go through one operation.
            key = rated, factor, plain(name, parameter, rated), is_part(parameter)
            parts.setdefault(key, []).append(parameter)
    return [_Group(key[2], key[1], parts[key]) for key in sorted(parts)]


def _decayed(
    named_parameters: NamedParameters, rates: Rates, peak: float, weight_decay: float, decay_norm_and_bias: bool
) -> list[dict[str, Any]]:
    # What has one dimension and a rate of its own is no bias but a number with a meaning, such as a boundary between
    # distances; decay would pull it to 0.
    groups = _groups(named_parameters, rates, lambda name, p, rated: p.ndim <= 1 and (rated or not decay_norm_and_bias))
    return [
        {
            "params": group.parameters,
            "lr": group.factor * peak,
            "peak_lr": group.factor * peak,
            "weight_decay": 0.0 if group.plain else weight_decay,
        }
        for group in groups
    ]


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """What every optimizer's configuration has."""

    learning_rate: float = 0.03  # per `scaling`
    scaling: Scaling = "linear"  # peak rate: none = rate, linear = rate B / 256, sqrt = rate sqrt(B)
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        require(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; give a number above 0")
        require(self.weight_decay >= 0, f"weight_decay is {self.weight_decay}; give 0 or more")

    def peak(self, batch_size: int) -> float:
        """The peak learning rate for this global batch."""
        return scaled_rate(self.learning_rate, batch_size, self.scaling)

    def build(
        self, named_parameters: NamedParameters, batch_size: int, rates: Rates = _ONE_RATE
    ) -> torch.optim.Optimizer:
        """The optimizer of the trainable ones; every group holds its peak rate as "lr" and as "peak_lr".

        The parameters without a rate of their own come first.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not build an optimizer")


def _check_momentum(momentum: float) -> None:
    require(0 <= momentum < 1, f"momentum is {momentum}; it must lie in [0, 1), such as 0.9")


class SGD(torch.optim.SGD):
    """Stochastic gradient descent with momentum."""

    entries = ("momentum_buffer",)  # what it keeps for each parameter

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        stored_as: ClassVar[str] = "sgd"
        momentum: float = 0.9
        nesterov: bool = False
        decay_norm_and_bias: bool = True  # MoCo and InstDisc decay every parameter

        def __post_init__(self) -> None:
            OptimizerConfig.__post_init__(self)
            _check_momentum(self.momentum)
            require(not self.nesterov or self.momentum > 0, "nesterov needs momentum above 0, such as 0.9")

        def build(
            self, named_parameters: NamedParameters, batch_size: int, rates: Rates = _ONE_RATE
        ) -> torch.optim.Optimizer:
            peak = self.peak(batch_size)
            groups = _decayed(named_parameters, rates, peak, self.weight_decay, self.decay_norm_and_bias)
            return SGD(groups, lr=peak, momentum=self.momentum, nesterov=self.nesterov, foreach=True)


class AdamW(torch.optim.AdamW):
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

    entries = ("step", "exp_avg", "exp_avg_sq")  # what it keeps for each parameter

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        stored_as: ClassVar[str] = "adamw"
        learning_rate: float = 1e-3  # per `scaling`
        scaling: Scaling = "none"
        betas: tuple[float, float] = (0.9, 0.999)
        weight_decay: float = 0.01
        decay_norm_and_bias: bool = False

        def __post_init__(self) -> None:
            OptimizerConfig.__post_init__(self)
            require(all(0 <= beta < 1 for beta in self.betas), f"betas are {self.betas}; both must lie in [0, 1)")

        def build(
            self, named_parameters: NamedParameters, batch_size: int, rates: Rates = _ONE_RATE
        ) -> torch.optim.Optimizer:
            peak = self.peak(batch_size)
            groups = _decayed(named_parameters, rates, peak, self.weight_decay, self.decay_norm_and_bias)
            return AdamW(groups, lr=peak, betas=self.betas, foreach=True)


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017) as SimCLR's published code computes it.

    For a parameter w with gradient g: g <- g + decay w; trust = eta |w| / |g|, or 1 where either norm is 0;
    v <- momentum v + lr trust g; w <- w - v. The learning rate stands inside the buffer: a change of rate does not act
    on past gradients. `rate_in_buffer=False` is MoCo v3's form, w <- w - lr v. Groups with `adapt=False` have neither
    decay nor trust ratio.
    """

    entries = ("momentum_buffer",)  # what it keeps for each parameter

    @dataclass(frozen=True, kw_only=True)
    class Config(OptimizerConfig):
        stored_as: ClassVar[str] = "lars"
        learning_rate: float = 0.3  # per `scaling`
        scaling: Scaling = "linear"
        momentum: float = 0.9
        eta: float = 0.001
        weight_decay: float = 1e-6
        exclude: tuple[str, ...] = ("bias", "head_supervised")  # regular expressions; one-dimensional ones are, always
        rate_in_buffer: bool = True

        def __post_init__(self) -> None:
            OptimizerConfig.__post_init__(self)
            _check_momentum(self.momentum)

        def build(
            self, named_parameters: NamedParameters, batch_size: int, rates: Rates = _ONE_RATE
        ) -> torch.optim.Optimizer:
            peak = self.peak(batch_size)

            def excluded(name: str, parameter: nn.Parameter, rated: bool) -> bool:
                # A rate by the norms would take the place of the parameter's own.
                return rated or parameter.ndim <= 1 or any(re.search(pattern, name) for pattern in self.exclude)

            groups = [
                {
                    "params": group.parameters,
                    "lr": group.factor * peak,
                    "peak_lr": group.factor * peak,
                    "adapt": not group.plain,
                    "weight_decay": 0.0 if group.plain else self.weight_decay,
                }
                for group in _groups(named_parameters, rates, excluded)
            ]
            return LARS(groups, peak, momentum=self.momentum, eta=self.eta, rate_in_buffer=self.rate_in_buffer)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        *,
        momentum: float = 0.9,
        eta: float = 0.001,
        weight_decay: float = 0.0,
        adapt: bool = True,
        rate_in_buffer: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "eta": eta,
            "weight_decay": weight_decay,
            "adapt": adapt,
            "rate_in_buffer": rate_in_buffer,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; multi-tensor, without a word from the device."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(group, parameters)
        return loss

    def _update(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        buffers = local_tensors(self.state[p]["momentum_buffer"] for p in parameters)
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        if group["weight_decay"]:
            gradients = list(torch._foreach_add(gradients, parameters, alpha=group["weight_decay"]))
        if group["adapt"]:
            trust = _trust(parameters, gradients, group["eta"])
            gradients = list(torch._foreach_mul(local_tensors(gradients), trust))
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, local_tensors(gradients), alpha=group["lr"] if group["rate_in_buffer"] else 1.0)
        torch._foreach_sub_(local_tensors(parameters), buffers, alpha=1.0 if group["rate_in_buffer"] else group["lr"])


def _trust(parameters: list[Tensor], gradients: list[Tensor], eta: float) -> list[Tensor]:
    """eta |w| / |g| of each parameter as a () tensor, 1 where either norm is 0."""
    weights, slopes = norms(parameters), norms(gradients)  # (P,)
    ratio = torch.where((weights > 0) & (slopes > 0), eta * weights / slopes, torch.ones_like(weights))
    return list(ratio.unbind())
