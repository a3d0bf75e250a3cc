"""Heads: what stands between the encoder and the loss. Projections are thrown away afterwards, classifiers kept."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

from torch import Tensor, nn

from selfsup.config.checks import require


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Settings of what stands behind an encoder."""

    def build(self, feature_dim: int) -> nn.Module:
        """The module for features (B, feature_dim)."""
        raise NotImplementedError(f"{type(self).__qualname__} does not say how to build its head")


class Head(nn.Module):
    """Hidden layers with ReLU, then a linear layer: (B, feature_dim) -> (B, output_dim), not normalised.

    MoCo v1 has no hidden layer, MoCo v2 one, neither with batch norm. SimCLR has one (paper) or two (published code and
    SimCLR v2) with batch norm after every layer, the last one without a shift; its linear layers have no bias and are
    drawn from N(0, 0.01^2).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadConfig):
        stored_as: ClassVar[str] = "head"
        hidden_layers: int = 1
        hidden_dim: int | None = None  # None: as wide as the encoder's features
        output_dim: int = 128
        batch_norm: Literal["none", "hidden", "all"] = "none"

        def __post_init__(self) -> None:
            require(
                0 <= self.hidden_layers <= 100,
                f"hidden_layers is {self.hidden_layers}; give 0 for a linear head, or up to 100",
            )
            require(self.output_dim >= 1, f"output_dim is {self.output_dim}; give 1 or more, such as 128")

        def build(self, feature_dim: int) -> "Head":
            return Head(self, feature_dim)

    def __init__(self, config: Config, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        hidden_dim = config.hidden_dim or feature_dim
        dims = [feature_dim] + [hidden_dim] * config.hidden_layers
        hidden = [_hidden_layer(a, b, config.batch_norm != "none") for a, b in pairwise(dims)]
        self.layers = nn.ModuleList([*hidden, _last_layer(dims[-1], config.output_dim, config.batch_norm == "all")])

    def hidden(self, features: Tensor, layer: int) -> Tensor:
        """Output of the first `layer` layers: 0 gives the features back, 1 the first hidden layer after its ReLU."""
        for module in self.layers[:layer]:
            features = module(features)
        return features

    def forward(self, features: Tensor) -> Tensor:
        return self.hidden(features, len(self.layers))


class PlainHead(Head):
    """The head and the predictor of MoCo v3: no linear layer has a bias, and each is drawn as torch draws it.

    Batch norm stands before each ReLU and, by "all", behind the last layer, there without scale or shift (Chen et al.
    2021, published code `builder.py`). (B, feature_dim) -> (B, output_dim), not normalised.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Head.Config):
        stored_as: ClassVar[str] = "plain_head"
        hidden_dim: int | None = 4096
        output_dim: int = 256
        batch_norm: Literal["none", "hidden", "all"] = "all"

        def build(self, feature_dim: int) -> "PlainHead":
            return PlainHead(self, feature_dim)

    def __init__(self, config: Config, feature_dim: int) -> None:
        super().__init__(config, feature_dim)
        for layer in self.layers:
            assert isinstance(layer, nn.Sequential)
            linear, *rest = layer
            assert isinstance(linear, nn.Linear)
            layer[0] = nn.Linear(linear.in_features, linear.out_features, bias=False)
            if layer is self.layers[-1]:
                for norm in rest:
                    norm.weight.requires_grad_(False)  # a frozen 1 keeps the layout, as the frozen shift does


class Neck(nn.Module):
    """Batch norm whose shift stays 0, between an encoder and the unit sphere (Luo et al. 2019, section 3.4)."""

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadConfig):
        stored_as: ClassVar[str] = "neck"

        def build(self, feature_dim: int) -> "Neck":
            return Neck(self, feature_dim)

    def __init__(self, config: Config, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        self.norm = nn.BatchNorm1d(feature_dim)
        self.norm.bias.requires_grad_(False)

    def forward(self, features: Tensor) -> Tensor:  # (B, feature_dim) -> the same
        normed: Tensor = self.norm(features)
        return normed


class Classifier(nn.Module):
    """The first layers of a projection head, then a linear classifier: (B, feature_dim) -> (B, num_classes) logits.

    SimCLRv2 fine-tunes from the first hidden layer of its head (Chen et al. 2020, section 2); layer 0 is a classifier
    on the features themselves.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(HeadConfig):
        stored_as: ClassVar[str] = "classifier"
        num_classes: int
        class_names: tuple[str, ...] = ()  # in the order of the logits
        hidden: Head.Config | None = None  # the head whose layers these are
        layer: int = 0  # how many of its hidden layers are kept

        def __post_init__(self) -> None:
            require(self.num_classes >= 2, f"num_classes is {self.num_classes}; a classifier needs at least 2")
            require(
                not self.class_names or len(self.class_names) == self.num_classes,
                f"there are {len(self.class_names)} class_names for {self.num_classes} classes",
            )
            available = self.hidden.hidden_layers if self.hidden else 0
            require(
                0 <= self.layer <= available,
                f"layer is {self.layer}, and the head has {available} hidden layers; give 0 or one",
            )

        def build(self, feature_dim: int) -> "Classifier":
            return Classifier(self, feature_dim)

    def __init__(self, config: Config, feature_dim: int) -> None:
        super().__init__()
        self.config = config
        width = feature_dim
        layers: list[nn.Module] = []
        if config.hidden is not None and config.layer:
            width = config.hidden.hidden_dim or feature_dim
            layers = list(config.hidden.build(feature_dim).layers[: config.layer])
        self.hidden = nn.Sequential(*layers)
        self.linear = nn.Linear(width, config.num_classes)

    def take(self, head: "Head | Classifier") -> None:
        """Start the hidden layers from the first ones of a trained head, or of another classifier."""
        layers = head.layers if isinstance(head, Head) else head.hidden
        self.hidden.load_state_dict(layers[: self.config.layer].state_dict())

    def forward(self, features: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.hidden(features))
        return logits


def _linear(in_dim: int, out_dim: int, normed: bool) -> nn.Linear:
    linear = nn.Linear(in_dim, out_dim, bias=not normed)  # batch norm takes the mean, and any bias with it, away
    if normed:
        nn.init.normal_(linear.weight, std=0.01)
    return linear


def _hidden_layer(in_dim: int, out_dim: int, normed: bool) -> nn.Module:
    norm = [nn.BatchNorm1d(out_dim)] if normed else []
    return nn.Sequential(_linear(in_dim, out_dim, normed), *norm, nn.ReLU(inplace=True))


def _last_layer(in_dim: int, out_dim: int, normed: bool) -> nn.Module:
    linear = _linear(in_dim, out_dim, normed)
    if not normed:
        return nn.Sequential(linear)
    norm = nn.BatchNorm1d(out_dim)
    # No shift, as published. A frozen 0 keeps the layout, and the kernels that want both parameters.
    norm.bias.requires_grad_(False)
    return nn.Sequential(linear, norm)
