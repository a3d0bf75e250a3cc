"""ResNets by torchvision's names, a .pth of a state dict that its own network loads strictly."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from selfsup.export.format import Format
from selfsup.export.outgoing import Outgoing
from selfsup.export.resnets import resnet_name, with_linear
from selfsup.models.resnet import Depth
from selfsup.packages import optional

_DEPTHS: tuple[Depth, ...] = (18, 34, 50, 101, 152)


def _write(outgoing: Outgoing, path: Path) -> None:
    resnet_name("torchvision", outgoing, _DEPTHS)
    torch.save(with_linear(outgoing, "torchvision", "fc"), path)


def _read(outgoing: Outgoing, path: Path) -> Callable[[Tensor], Tensor]:
    models = optional("torchvision", "the format torchvision").models
    classes = {"num_classes": len(outgoing.class_names)} if outgoing.classifier else {}
    network: nn.Module = getattr(models, resnet_name("torchvision", outgoing, _DEPTHS))(**classes)
    if not classes:
        network.fc = nn.Identity()
    network.load_state_dict(torch.load(path, weights_only=True))
    return network.eval()


def _usage(outgoing: Outgoing, path: Path) -> str:
    name = resnet_name("torchvision", outgoing, _DEPTHS)
    if outgoing.classifier:
        return (
            f"model = torchvision.models.{name}(num_classes={len(outgoing.class_names)}); "
            f'model.load_state_dict(torch.load("{path}"))'
        )
    return (
        f"model = torchvision.models.{name}(); model.fc = torch.nn.Identity(); "
        f'model.load_state_dict(torch.load("{path}"))'
    )


FORMAT = Format(
    name="torchvision",
    title="a state dict by torchvision's names, for torchvision.models.resnet18 to resnet152",
    endings=(".pth",),
    write=_write,
    read=_read,
    usage=_usage,
    packages=("torchvision",),
)
