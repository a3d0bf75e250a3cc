"""An encoder in the names of another project, as `conversion` reads it."""

from dataclasses import replace

from torch import Tensor

from selfsup.convert.layout import Asked, Layout, Network, Refused, Tensors
from selfsup.convert.outline import outline
from selfsup.models.encoder import Encoder
from selfsup.models.heads import HeadConfig
from selfsup.models.resnet import ResNet
from selfsup.models.timm import Timm


def written(
    layout: Layout,
    config: Encoder.Config,
    tensors: Tensors,
    head: tuple[HeadConfig, Tensors] | None,
    network: Network | None = None,
) -> dict[str, Tensor]:
    """The tensors of an encoder, and of its head, as a file of the layout has them, by flat names.

    Args:
        layout: of the file.
        config: of the encoder.
        tensors: of the encoder.
        head: its settings and tensors; None: it is left out.
        network: the names to take, of several that the layout knows; None: the first that fit.

    Raises:
        Refused: the layout has no names for such an encoder, or for such a head.
    """
    prefix = next(iter(layout.encoders.values()))[0]
    for names in [network] if network else layout.networks:
        try:
            found: dict[str, Tensor] = {}
            for name, tensor in tensors.items():
                piece = names.piece(name, config)
                found |= {n: t for n, t in zip(piece.names, piece.write(tensor), strict=True) if t is not None}
            asked = Asked(
                attention_heads=layout.attention_heads,
                architecture=getattr(config, "name", ""),
                heads=getattr(config, "num_heads", None),
            )
            again = names.config(found, asked)
        except (Refused, AssertionError, KeyError, AttributeError):
            continue
        if _same(again, config):
            break
    else:
        raise Refused(f"{config.title} cannot be written in the layout {layout.name}, which has no such network")
    flat = {f"{prefix}{name}": tensor for name, tensor in found.items()}
    if head is not None:
        for place in layout.heads:
            part = place.write(*head, prefix, config)
            if part is not None:
                return flat | part
        raise Refused(f"the layout {layout.name} has no place for this head; leave it out")
    return flat


def _same(one: Encoder.Config, other: Encoder.Config) -> bool:
    """Whether two settings are of the same network; how its first weights were drawn is no part of it."""
    if isinstance(one, ResNet.Config) and isinstance(other, ResNet.Config):
        return one == replace(other, zero_init_residual=one.zero_init_residual)
    if isinstance(one, Timm.Config) and isinstance(other, Timm.Config):
        return outline(one) == outline(other) and one.num_heads == other.num_heads
    return one == other
