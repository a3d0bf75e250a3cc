"""What a layout of weights is: where another project keeps an encoder in its files, and by what names.

Names of tensors are flat here: "state_dict::encoder_q.conv1.weight" is the tensor encoder_q.conv1.weight of the
dictionary state_dict. What comes before the last "::" is the holder; "module." of DDP after it is left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor

from selfsup.augment.geometry import Fit
from selfsup.augment.parameters import Interpolation
from selfsup.models.encoder import Encoder
from selfsup.models.heads import HeadConfig

SEPARATOR = "::"
Tensors = Mapping[str, Tensor]


class Refused(ValueError):
    """A file is not of a layout, or not whole; the message names the tensor and what was expected."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How images are made into what an encoder was trained on, at test time."""

    size: int | tuple[int, int] = 224  # pixels of a side, or height and width
    fraction: float = 0.875  # side of the central box over that of the largest one
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bilinear"
    fit: Fit = "center"


IMAGENET = Preprocessing()
CIFAR10 = Preprocessing(size=32, fraction=1.0, mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010))


class Piece(NamedTuple):
    """Where one tensor of ours lies in a file."""

    names: tuple[str, ...]  # behind the prefix of the encoder
    read: Callable[[list[Tensor]], Tensor] = lambda found: found[0]
    # One tensor for each name; None: another piece has it.
    write: Callable[[Tensor], list[Tensor | None]] = lambda tensor: [tensor]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What cannot be read off names and shapes, and who says it."""

    architecture: str = ""  # a network of timm
    heads: int | None = None  # of attention
    size: int | None = None  # pixels of a side
    attention_heads: Mapping[int, int] = field(default_factory=dict)  # the layout's: width -> heads
    about: Mapping[str, Any] = field(default_factory=dict)  # config.json beside the weights
    prefix: str = ""  # of the encoder's names in their dictionary, for messages


class Network:
    """How a project names the tensors of one kind of network."""

    def anchors(self) -> tuple[str, ...]:
        """Names that all files have and that tell this network from others."""
        raise NotImplementedError

    def config(self, tensors: Tensors, asked: Asked) -> Encoder.Config:
        """The network's settings, by names and shapes.

        Args:
            tensors: of the encoder, by their names behind its prefix.
            asked: what else is known.

        Raises:
            Refused: there is no such network here.
        """
        raise NotImplementedError

    def piece(self, name: str, config: Encoder.Config) -> Piece:
        """Where the tensor lies that our encoder calls `name`."""
        raise NotImplementedError

    def notes(self, config: Encoder.Config) -> list[str]:
        """What was assumed about the network without being in the file."""
        return []


class HeadFound(NamedTuple):
    """A head in a file, in our terms; or, without settings, why it is dropped."""

    config: HeadConfig | None
    tensors: dict[str, Tensor]
    names: set[str]  # flat, of what belongs to it
    why: str = ""


class HeadNames:
    """How a project names what stands behind its encoder. `{encoder}` and `{holder}` stand for the flat prefixes."""

    def find(self, tensors: Tensors, encoder: str, feature_dim: int) -> HeadFound | None:
        """The head behind the encoder with this prefix; None where there is none.

        Args:
            tensors: of the file, by flat names.
            encoder: the flat prefix of the encoder.
            feature_dim: of the encoder.
        """
        raise NotImplementedError

    def write(
        self, config: HeadConfig, tensors: Tensors, encoder: str, network: Encoder.Config
    ) -> dict[str, Tensor] | None:
        """The head's tensors by their flat names in a file; None where these names have no such head."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One line of the table: another project's files."""

    name: str
    title: str  # whose files these are, for people
    # The networks in a file, the one that is taken first: name -> flat prefixes under which it may lie.
    encoders: Mapping[str, tuple[str, ...]]
    networks: tuple[Network, ...]  # how it names their tensors, the kinds that are tried, in this order
    marks: tuple[str, ...] = ()  # expressions, each of which some flat name must match: what tells these files apart
    heads: tuple[HeadNames, ...] = ()
    # What else may be in a file: an expression that the name begins with, behind its holder -> what it is.
    dropped: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)  # the same for flat names with their holder
    preprocessing: Callable[[Encoder.Config], Preprocessing] = lambda config: usual(config)
    attention_heads: Mapping[int, int] = field(default_factory=dict)  # of transformers: width -> heads
    # Classes that are only data, or of which nothing is wanted: read as dictionaries, by nothing of theirs.
    inert: tuple[str, ...] = ()
    wrapped: bool = False  # whether the project writes "module." of DDP before its names
    said: str = ""  # what a reader should know of these files


def usual(config: Encoder.Config) -> Preprocessing:
    """ImageNet's; CIFAR-10's for a network with the stem for it."""
    return CIFAR10 if str(getattr(config, "stem", "")).startswith("cifar") else IMAGENET


def holder_of(name: str) -> str:
    """The part of a flat name, or prefix, up to the last separator, with it; "" where there is none."""
    before, separator, _ = name.rpartition(SEPARATOR)
    return before + separator


def shown(name: str) -> str:
    """A flat name as people know it."""
    holder, _, last = name.rpartition(SEPARATOR)
    return f"{last} (in {holder.replace(SEPARATOR, ' of ')})" if holder else last
