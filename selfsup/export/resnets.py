"""ResNets by the names that torchvision and timm build them by, and classifiers of one linear layer."""

from dataclasses import replace

from torch import Tensor, nn

from selfsup.export.format import ANY_NETWORK, NotWritten, no_such_network
from selfsup.export.outgoing import Outgoing, plain
from selfsup.models.resnet import Depth, ResNet


def resnet_name(format: str, outgoing: Outgoing, depths: tuple[Depth, ...], any_channels: bool = False) -> str:
    """The name of the function or network that builds this ResNet, such as resnet50.

    Args:
        format: its name, for messages.
        outgoing: what goes out.
        depths: that there are.
        any_channels: whether it builds them for images of any number of channels, not three alone.

    Raises:
        NotWritten: it is no ResNet, or one that has no such name.
    """
    config = outgoing.exported.config
    if isinstance(config, ResNet.Config) and config.depth in depths:
        usual = ResNet.Config(depth=config.depth, in_channels=config.in_channels if any_channels else 3)
        if (
            replace(config, zero_init_residual=usual.zero_init_residual) == usual
        ):  # how it was drawn makes no difference
            return f"resnet{config.depth}"
    listed = ", ".join(map(str, depths))
    raise no_such_network(
        format,
        outgoing,
        f"its ResNets have {listed} layers, width 1, the imagenet stem and neither SimCLR's padding nor selective "
        f"kernels{'' if any_channels else ', and take three channels'}",
    )


def with_linear(outgoing: Outgoing, format: str, name: str) -> dict[str, Tensor]:
    """The tensors of the encoder, and those of its classifier, a linear layer, where that goes out too.

    Args:
        outgoing: what goes out.
        format: its name, for messages.
        name: what the layer is called.

    Raises:
        NotWritten: the classifier has hidden layers.
    """
    tensors = plain(outgoing.encoder.state_dict())
    linear = linear_of(outgoing, format)
    if linear is not None:
        tensors |= {f"{name}.{part}": tensor for part, tensor in plain(linear.state_dict()).items()}
    return tensors


def linear_of(outgoing: Outgoing, format: str) -> nn.Linear | None:
    """The classifier's linear layer; None where no classifier goes out. Raises NotWritten for hidden layers."""
    classifier = outgoing.classifier
    if classifier is None:
        return None
    if count := len(classifier.hidden):
        raise NotWritten(
            f"{format} has one linear layer behind the backbone, and {count} of the projection head's layers stand "
            f"before this classifier\nfine-tune with --layer 0, or {ANY_NETWORK}"
        )
    return classifier.linear
