"""Heads by the names of other projects: linear layers with batch norm or without, and the neck of re-identification."""

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from selfsup.convert.layout import HeadFound, HeadNames, Tensors, holder_of
from selfsup.models.encoder import Encoder
from selfsup.models.heads import Head, HeadConfig, Neck


class Layer(NamedTuple):
    """One linear layer and the batch norm behind it: their tensors by torch's names."""

    linear: dict[str, Tensor]
    norm: dict[str, Tensor] | None


def head_of(layers: list[Layer], feature_dim: int) -> tuple[Head.Config | None, dict[str, Tensor], str]:
    """The settings and tensors of a head of these layers; without settings, why there are none.

    What a norm lacks does nothing there: no weight is a scale of 1, no bias a shift of 0.
    """
    config, why = _settings(layers, feature_dim)
    if config is None:
        return None, {}, why
    tensors: dict[str, Tensor] = {}
    for number, (linear, norm) in enumerate(layers):
        tensors |= {f"layers.{number}.0.{name}": value for name, value in linear.items()}
        if norm is not None:
            mean = norm["running_mean"]
            lacking = {"weight": torch.ones_like(mean), "bias": torch.zeros_like(mean)}
            lacking["num_batches_tracked"] = torch.tensor(0)
            tensors |= {f"layers.{number}.1.{name}": value for name, value in (lacking | norm).items()}
    return config, tensors, ""


def _settings(layers: list[Layer], feature_dim: int) -> tuple[Head.Config | None, str]:
    weights = [layer.linear["weight"] for layer in layers if "weight" in layer.linear]
    if len(weights) < len(layers) or any(weight.ndim != 2 for weight in weights):
        return None, "it has a layer that is not linear"
    widths = [weight.shape[0] for weight in weights]
    if [weight.shape[1] for weight in weights] != [feature_dim, *widths[:-1]]:
        return None, "its layers do not follow one another"
    if len(set(widths[:-1])) > 1:
        return None, "its hidden layers are of several widths"
    normed = [layer.norm is not None for layer in layers]
    if any(norm == ("bias" in layer.linear) for norm, layer in zip(normed, layers, strict=True)):
        return None, "heads here have a bias where there is no batch norm, and none where there is"
    kinds: dict[tuple[bool, ...], Literal["none", "hidden", "all"]] = {
        tuple(len(layers) * [True]): "all",
        (*((len(layers) - 1) * [True]), False): "hidden",
        tuple(len(layers) * [False]): "none",  # also of one layer without
    }
    if tuple(normed) not in kinds:
        return None, "it has batch norm behind some of its layers only"
    hidden = widths[0] if len(widths) > 1 and widths[0] != feature_dim else None
    kind = kinds[tuple(normed)]
    return Head.Config(hidden_layers=len(layers) - 1, hidden_dim=hidden, output_dim=widths[-1], batch_norm=kind), ""


def layers_of(config: Head.Config, tensors: Tensors) -> list[Layer]:
    """The layers of one of our heads, the opposite of `head_of`."""
    layers = []
    for number in range(config.hidden_layers + 1):
        parts = [_below(tensors, f"layers.{number}.{part}.") for part in (0, 1)]
        layers.append(Layer(parts[0], parts[1] or None))
    return layers


def _below(tensors: Tensors, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


@dataclass(frozen=True, kw_only=True)
class Projection(HeadNames):
    """A projection head whose tensors all lie below one prefix. Subclasses say how its layers are called."""

    prefix: str  # {encoder} and {holder} stand for flat prefixes

    def layers(self, own: Tensors) -> list[Layer]:
        """The layers, from the tensors below the prefix."""
        raise NotImplementedError

    def called(self, layers: list[Layer]) -> list[tuple[str, str]] | None:
        """The prefixes of each layer's linear part and norm, in a file that is written; None where there are none."""
        raise NotImplementedError

    def _prefix(self, encoder: str) -> str:
        return self.prefix.format(encoder=encoder, holder=holder_of(encoder))

    def find(self, tensors: Tensors, encoder: str, feature_dim: int) -> HeadFound | None:
        own = _below(tensors, self._prefix(encoder))
        layers = self.layers(own)
        if not layers:
            return None
        config, taken, why = head_of(layers, feature_dim)
        used = {id(value) for layer in layers for part in layer if part for value in part.values()}
        names = {f"{self._prefix(encoder)}{name}" for name, value in own.items() if config is None or id(value) in used}
        return HeadFound(config, taken, names, why)

    def write(
        self, config: HeadConfig, tensors: Tensors, encoder: str, network: Encoder.Config
    ) -> dict[str, Tensor] | None:
        if not isinstance(config, Head.Config):
            return None
        layers = layers_of(config, tensors)
        called = self.called(layers)
        if called is None:
            return None
        written: dict[str, Tensor] = {}
        for (linear, norm), (place, norm_place) in zip(layers, called, strict=True):
            for part, prefix in ((linear, place), (norm or {}, norm_place)):
                written |= {f"{self._prefix(encoder)}{prefix}{name}": value for name, value in part.items()}
        return written


@dataclass(frozen=True, kw_only=True)
class SequentialHead(Projection):
    """Layers of a `nn.Sequential`, by their numbers among norms and ReLUs."""

    linear_alone: bool = True  # whether a head of one layer is that layer itself, without a number
    behind: type[Encoder.Config] | None = None  # the kind of network that it stands behind; None: any
    last_affine: bool = True  # whether a batch norm behind the last layer has weight and bias

    def layers(self, own: Tensors) -> list[Layer]:
        if "weight" in own:
            return [Layer({name: own[name] for name in ("weight", "bias") if name in own}, None)]
        places = sorted({int(match[1]) for name in own if (match := re.match(r"(\d+)\.", name))})
        layers: list[Layer] = []
        for place in places:
            part = _below(own, f"{place}.")
            if "running_mean" not in part:
                layers.append(Layer(part, None))
            elif layers and layers[-1].norm is None:
                layers[-1] = Layer(layers[-1].linear, part)
            else:
                layers.append(Layer({}, part))  # a norm behind nothing: no head of ours
        return layers

    def write(
        self, config: HeadConfig, tensors: Tensors, encoder: str, network: Encoder.Config
    ) -> dict[str, Tensor] | None:
        last = f"layers.{getattr(config, 'hidden_layers', 0)}.1."
        if self.behind is not None and not isinstance(network, self.behind):
            return None
        if self.last_affine or f"{last}weight" not in tensors:
            return super().write(config, tensors, encoder, network)
        if not (tensors[f"{last}weight"].eq(1).all() and tensors[f"{last}bias"].eq(0).all()):
            return None
        fewer = {n: t for n, t in tensors.items() if n not in (f"{last}weight", f"{last}bias")}
        return super().write(config, fewer, encoder, network)

    def called(self, layers: list[Layer]) -> list[tuple[str, str]] | None:
        if len(layers) == 1 and layers[0].norm is None and self.linear_alone:
            return [("", "")]
        place, called = 0, []
        for layer in layers:
            called.append((f"{place}.", f"{place + 1}."))
            place += 2 if layer.norm is None else 3
        return called


@dataclass(frozen=True, kw_only=True)
class NumberedHead(Projection):
    """Layers that have numbers in their own names, such as fc0, bn0, fc1, bn1."""

    linear: str = "fc{}."
    norm: str = "bn{}."

    def layers(self, own: Tensors) -> list[Layer]:
        layers: list[Layer] = []
        while part := _below(own, self.linear.format(len(layers))):
            layers.append(Layer(part, _below(own, self.norm.format(len(layers))) or None))
        return layers

    def called(self, layers: list[Layer]) -> list[tuple[str, str]] | None:
        if all(layer.norm is None for layer in layers):
            return None
        return [(self.linear.format(number), self.norm.format(number)) for number in range(len(layers))]


@dataclass(frozen=True, kw_only=True)
class NeckNames(HeadNames):
    """The batch norm behind the features, of SpCL and OpenUnReID."""

    prefixes: tuple[str, ...]  # the first that there is; {encoder} and {holder} stand for flat prefixes

    def _prefixes(self, encoder: str) -> list[str]:
        return [prefix.format(encoder=encoder, holder=holder_of(encoder)) for prefix in self.prefixes]

    def find(self, tensors: Tensors, encoder: str, feature_dim: int) -> HeadFound | None:
        for prefix in self._prefixes(encoder):
            own = _below(tensors, prefix)
            mean = own.get("running_mean")
            if mean is None:
                continue
            names = {f"{prefix}{name}" for name in own}
            if mean.shape != (feature_dim,):
                return HeadFound(None, {}, names, f"it is not for features of {feature_dim} dimensions")
            lacking = {"num_batches_tracked": torch.tensor(0)}
            return HeadFound(Neck.Config(), {f"norm.{n}": value for n, value in (lacking | own).items()}, names)
        return None

    def write(
        self, config: HeadConfig, tensors: Tensors, encoder: str, network: Encoder.Config
    ) -> dict[str, Tensor] | None:
        if not isinstance(config, Neck.Config):
            return None
        prefix = self._prefixes(encoder)[0]
        return {f"{prefix}{name.removeprefix('norm.')}": value for name, value in tensors.items()}
