"""What every method trains and every stage reads: a network from images to features, whatever is inside it."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn


class Encoder(nn.Module):
    """A network without a classifier: images (B, C, H, W) -> features (B, feature_dim), of colour images C is 3.

    One of your own needs three things: `feature_dim`, `forward`, and a `Config` whose `build` makes it. The rest has
    defaults, which fit a network of one piece.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Settings that an encoder is built from. They are stored with its weights, by the class's `stored_as`."""

        def build(self) -> "Encoder":
            """The encoder, on the CPU; first weights are drawn from torch's default generator."""
            raise NotImplementedError(f"{type(self).__qualname__} does not say how to build its encoder")

        def load_pretrained(self, encoder: "Encoder") -> None:
            """Fill a new run's encoder with the weights that the settings name; without any nothing happens.

            Raises:
                ValueError: there are none, or they are of another network.
            """

        @property
        def weights(self) -> str:
            """What `load_pretrained` loads: the path of a file, another word such as hub, or nothing."""
            return ""

        def freeze(self, encoder: "Encoder") -> None:
            """Freeze what stays as it was drawn throughout pretraining; fine-tuning trains it. Without any: nothing."""

        @property
        def channels(self) -> int:
            """C, how many channels images have; 3 but for classes whose settings say it."""
            return 3

        @property
        def stride(self) -> int:
            """By how much the last feature map is smaller than the image, each way; 1 where nothing is known of it."""
            return 1

        def for_size(self, size: tuple[int, int]) -> "Encoder.Config":
            """Of the same network for images of this height and width, where it is built for one size."""
            return self

        @property
        def label(self) -> str:
            """Names folders of what is made of this encoder: letters, digits, _ and -."""
            return type(self).__qualname__.split(".")[0].lower()

        @property
        def title(self) -> str:
            """What messages call a network of these settings."""
            return self.label

        def smaller(self) -> "Encoder.Config":
            """Of a network of the same kind with fewer weights, for a student.

            Raises:
                ValueError: nothing is known that would be smaller.
            """
            raise ValueError(f"of {self.label} no smaller network is known; name the student's settings")

    feature_dim: int
    # Mean and std of each channel that pretrained weights were trained with; None: none, or nothing is known of them.
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__qualname__} does not say what its features are")

    def unfit(self, size: tuple[int, int]) -> str:
        """Why the network takes no images of this height and width, in pixels; empty where nothing is known."""
        return ""

    def require_size(self, size: tuple[int, int]) -> None:
        """Raise ValueError for views, height and width in pixels, that the network is not built for."""
        if reason := self.unfit(size):
            raise ValueError(f"{reason}; give views of another size, or another encoder")

    @property
    def stages(self) -> tuple[tuple[str, ...], ...]:
        """The trainable parts above the stem, from the lowest: the names of the modules or parameters in each.

        What is in none of them is the stem. Layer-wise rates and freezing go by them. () for a network of one piece.
        """
        return ()

    def blocks(self) -> Iterator[nn.Module]:
        """The modules that are gathered one after another where an encoder is sharded, each called once a pass."""
        modules = dict(self.named_modules())
        for stage in self.stages:
            for name in stage:
                module = modules.get(name)
                parts = module if isinstance(module, nn.Sequential | nn.ModuleList) else filter(None, [module])
                yield from (part for part in parts if any(True for _ in part.parameters()))

    def frozen(self, below: int) -> Iterator[nn.Module | nn.Parameter]:
        """The modules and parameters of the stem and of the first `below` stages, none inside another.

        Args:
            below: 0 for the stem alone, up to the number of stages.
        """
        trained = tuple(name for stage in self.stages[below:] for name in stage)
        yield from _outside(self, "", trained)

    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Beginnings of the names of parameters, of the stem first and then of each stage."""
        within = [name for stage in self.stages for name in stage]
        stem = tuple(name for name, _ in self.named_parameters() if not any(_inside(name, part) for part in within))
        return (stem, *(tuple(self._beginnings(stage)) for stage in self.stages))

    def _beginnings(self, stage: tuple[str, ...]) -> Iterator[str]:
        parameters = dict(self.named_parameters())
        for name in stage:
            yield name if name in parameters else f"{name}."


def _inside(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _outside(module: nn.Module, prefix: str, parts: tuple[str, ...]) -> Iterator[nn.Module | nn.Parameter]:
    """The largest modules and parameters that hold none of the named parts and lie in none."""
    for name, parameter in module.named_parameters(recurse=False):
        if f"{prefix}{name}" not in parts:
            yield parameter
    for name, child in module.named_children():
        place = f"{prefix}{name}"
        if any(_inside(place, part) for part in parts):
            continue
        if any(_inside(part, place) for part in parts):
            yield from _outside(child, f"{place}.", parts)
        else:
            yield child


def pretrained_fact(weights: str, known: str | None) -> str:
    """The SHA-256 of a file of weights, or the word for others. A run that has begun needs the file no more."""
    path = Path(weights)
    if not path.is_file():
        return known or weights
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
