"""What goes out: a part of an encoder as one network, and what its readers should know of it."""

import copy
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from selfsup.augment.size import height_and_width
from selfsup.evaluation.encoder import Exported
from selfsup.evaluation.feed import Preprocessing
from selfsup.models.heads import Classifier

Part = Literal["backbone", "head", "classifier"]
OUTPUTS: dict[Part, str] = {"backbone": "features", "head": "embeddings", "classifier": "logits"}


class FromPixels(nn.Module):
    """A network that takes pixels: (B, C, S, T) uint8, scaled to [0, 1] and normalised before it sees them."""

    def __init__(self, network: nn.Module, feed: Preprocessing) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(feed.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(feed.std)[:, None, None])

    mean: Tensor
    std: Tensor

    def forward(self, pixels: Tensor) -> Tensor:
        result: Tensor = self.network((pixels.to(self.mean.dtype) / 255 - self.mean) / self.std)
        return result


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A part of an encoder on its way out, on the CPU, in evaluation mode, its tensors contiguous."""

    exported: Exported
    part: Part
    pixels: bool  # whether the network is fed with pixels, and scales and normalises them itself
    encoder: nn.Module  # a copy
    head: nn.Module | None  # a copy of what stands behind it in this part
    results: tuple[dict[str, Any], ...] = ()  # stage, figures and protocol of each evaluation of this encoder

    @property
    def network(self) -> nn.Module:
        """Images (B, C, S, T), normalised float32 or uint8 pixels -> features, embeddings or logits (B, D)."""
        whole = self.encoder if self.head is None else nn.Sequential(self.encoder, self.head)
        return (FromPixels(whole, self.exported.feed) if self.pixels else whole).eval()

    @property
    def classifier(self) -> Classifier | None:
        return self.head if isinstance(self.head, Classifier) else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the logits, in their order; numbers where the data named none; () without a classifier."""
        if self.classifier is None:
            return ()
        config = self.classifier.config
        return config.class_names or tuple(map(str, range(config.num_classes)))

    @property
    def input(self) -> str:
        """What the input is called."""
        return "pixels" if self.pixels else "images"

    @property
    def output(self) -> str:
        """What the output is called."""
        return OUTPUTS[self.part]

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the images in pixels."""
        return height_and_width(self.exported.feed.size)

    def example(self, count: int) -> Tensor:
        """A batch of black images of the kind that the network takes, to trace it by."""
        kind = torch.uint8 if self.pixels else torch.float32
        return torch.zeros(count, self.exported.config.channels, *self.shape, dtype=kind)

    @property
    def about(self) -> dict[str, Any]:
        """What a file says of itself: plain values by name."""
        feed = asdict(self.exported.feed)
        return {
            "network": self.exported.config.title,
            "part": self.part,
            "output": self.output,
            "input": "pixels from 0 to 255, uint8" if self.pixels else "images, scaled to [0, 1] and normalised",
            "preprocessing": {**feed, "size": list(self.shape), "says": self.exported.feed.transform},
            "class_names": list(self.class_names),
            "encoder_sha256": self.exported.sha256,
            "made_by": self.exported.made_by,
        } | ({} if self.exported.step is None else {"pretraining_step": self.exported.step})


def outgoing(
    exported: Exported, part: Part = "backbone", pixels: bool = False, results: tuple[dict[str, Any], ...] = ()
) -> Outgoing:
    """A part of an encoder, copied, so that what writes it may take it apart.

    Args:
        exported: the encoder, with its head.
        part: backbone; head, backbone and projection head; classifier, backbone and classifier.
        pixels: whether scaling to [0, 1] and normalisation are to be inside the network.
        results: stage, figures and protocol of each evaluation of this encoder.

    Raises:
        ValueError: there is no such part.
    """
    head: nn.Module | None = None
    if part == "classifier":
        _, head = exported.classifier
    elif part == "head":
        if isinstance(exported.head, Classifier):
            raise ValueError("behind this encoder stands a classifier and no projection head; use --part classifier")
        if exported.head is None:
            raise ValueError("this encoder has no head beside it; use --part backbone")
        head = exported.head
    return Outgoing(
        exported=exported,
        part=part,
        pixels=pixels,
        encoder=_copy(exported.encoder),
        head=None if head is None else _copy(head),
        results=results,
    )


def _copy(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).cpu().eval().requires_grad_(False).to(memory_format=torch.contiguous_format)


def plain(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state whose tensors lie in memory of their own, in the order of their indices."""
    return {name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}
