"""A small checkpoint of every layout, written by names of the other project's code, with its own forward pass."""

import argparse
import sys
import types
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import nn

from tests.support.foreign_file import OPTIMIZER, File, mlp, module, wrapped
from tests.support.foreign_networks import (
    ListedNorms,
    PlainResNet,
    PlainViT,
    SimCLRNet,
    TwoNorms,
    randomised,
)
from tests.support.foreign_transformers import dino, dinov2, hf_dinov2, hf_resnet, hf_vit


def torchvision() -> File:
    net = PlainResNet(50)
    net.fc = nn.Linear(net.out_channels, 10)
    randomised(net)
    return File("torchvision", net.state_dict(), net)


def timm() -> File:
    net = PlainViT()
    net.head = nn.Linear(24, 10)
    randomised(net)
    return File("timm", net.state_dict(), net, options={"heads": 3}, kind="safetensors")


def moco() -> File:
    query, key = PlainResNet(18), PlainResNet(18)
    for net in (query, key):
        net.fc = mlp(net.out_channels, net.out_channels, 8)
    both = randomised(module(encoder_q=query, encoder_k=key))
    state = both.state_dict() | {"queue": torch.ones(8, 16), "queue_ptr": torch.zeros(1)}
    content = {"epoch": 3, "arch": "resnet18", "state_dict": wrapped(state), "optimizer": OPTIMIZER}
    return File("moco", content, query, query.fc, prefix="state_dict::encoder_q.")


def moco_cifar() -> File:
    query, key = PlainResNet(18, "cifar"), PlainResNet(18, "cifar")
    nets = []
    for net in (query, key):
        chain = net.children_of(nn.ReLU())
        chain.append(nn.AdaptiveAvgPool2d(1)).append(nn.Flatten()).append(nn.Linear(net.out_channels, 8))
        nets.append(module(net=chain))
    both = randomised(module(encoder_q=nets[0], encoder_k=nets[1]))
    state = both.state_dict() | {"queue": torch.ones(8, 16), "queue_ptr": torch.zeros(1)}
    content = {"epoch": 1, "state_dict": state, "optimizer": OPTIMIZER}
    return File("moco_cifar", content, query, nets[0].net[9], prefix="state_dict::encoder_q.net.")


def moco_v3() -> File:
    nets = []
    for _ in range(2):
        net = PlainViT(width=24)
        net.head = mlp(24, 16, 16, 8, norm="all", affine=False)
        nets.append(net)
    whole = randomised(module(base_encoder=nets[0], momentum_encoder=nets[1], predictor=mlp(8, 16, 8, norm="all")))
    content = {"epoch": 1, "arch": "vit_small", "state_dict": wrapped(whole.state_dict()), "scaler": {"scale": 1.0}}
    return File("moco_v3", content, nets[0], nets[0].head, {"heads": 3}, prefix="state_dict::base_encoder.")


def moco_v3_resnet() -> File:
    net = PlainResNet(18)
    net.fc = mlp(net.out_channels, 16, 8, norm="all", affine=False)
    whole = randomised(module(base_encoder=net, predictor=mlp(8, 16, 8, norm="hidden")))
    return File(
        "moco_v3",
        {"state_dict": wrapped(whole.state_dict())},
        net,
        net.fc,
        prefix="state_dict::base_encoder.",
    )


def simclr(depth: int = 18, selective: bool = False) -> File:
    net = SimCLRNet(depth, selective)
    head: Any = mlp(net.out_channels, net.out_channels, 8, norm="all")
    randomised(net)
    randomised(head, 1)
    head[4].bias.data.zero_()
    named = net.by_tensorflows_names()
    for layer, (linear, norm) in enumerate(((0, 1), (3, 4))):
        place = f"head_contrastive/nl_{layer}"
        named[f"{place}/dense/kernel"] = head[linear].weight.detach().T.contiguous()
        inside = f"{place}/batch_normalization"
        named |= {f"{inside}/gamma": head[norm].weight.detach(), f"{inside}/moving_mean": head[norm].running_mean}
        named[f"{inside}/moving_variance"] = head[norm].running_var
        if layer == 0:
            named[f"{inside}/beta"] = head[norm].bias.detach()
    named |= {f"{name}/Momentum": torch.zeros_like(tensor) for name, tensor in list(named.items())[:2]}
    named |= {
        "head_supervised/linear_layer/dense/kernel": torch.ones(net.out_channels, 3),
        "global_step": torch.tensor(5),
    }
    return File("simclr", named, net, head, kind="tf", prefix="base_model/")


def pycontrast() -> File:
    networks = [module(encoder=PlainResNet(18)) for _ in range(2)]
    for net in networks:
        net.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    query = randomised(networks[0])
    content = {
        "model": wrapped(query.state_dict()),
        "contrast": {"memory": torch.ones(16, 8)},
        "optimizer": OPTIMIZER,
        "epoch": 1,
        "model_ema": networks[1].state_dict(),
    }
    return File("pycontrast", content, query.encoder, query.head, prefix="model::encoder.")


def cmc() -> File:
    net = PlainResNet(18)
    net.fc = nn.Linear(net.out_channels, 8)
    whole = randomised(module(encoder=module(module=net)))
    content = {
        "opt": argparse.Namespace(model="resnet50", nce_k=16),
        "model": whole.state_dict(),
        "contrast": {"memory": torch.ones(16, 8), "params": torch.ones(4)},
        "optimizer": OPTIMIZER,
        "epoch": 1,
    }
    return File("cmc", content, net, net.fc, prefix="model::encoder.module.")


def supcontrast() -> File:
    net = PlainResNet(18, "cifar", shortcut="shortcut")
    whole = randomised(module(encoder=net, head=mlp(net.out_channels, net.out_channels, 8)))
    content = {
        "opt": argparse.Namespace(model="resnet18"),
        "model": whole.state_dict(),
        "optimizer": OPTIMIZER,
        "epoch": 1,
    }
    return File("supcontrast", content, net, whole.head, prefix="model::encoder.")


@cache
def _bank() -> nn.Module:
    """The memory of lemniscate as it is pickled: a module of a class that nobody else has."""
    place = types.ModuleType("lib.NCEAverage")

    class NCEAverage(nn.Module):
        __module__, __qualname__ = "lib.NCEAverage", "NCEAverage"

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("memory", torch.ones(16, 8))

    place.NCEAverage = NCEAverage  # type: ignore[attr-defined]
    sys.modules["lib"] = types.ModuleType("lib")
    sys.modules["lib.NCEAverage"] = place
    return NCEAverage()


def lemniscate() -> File:
    net = PlainResNet(18)
    net.fc = nn.Linear(net.out_channels, 8)
    randomised(net)
    content = {"epoch": 1, "arch": "resnet18", "state_dict": wrapped(net.state_dict()), "lemniscate": _bank()}
    return File("lemniscate", content, net, net.fc, prefix="state_dict::")


def lemniscate_cifar() -> File:
    net = PlainResNet(18, "cifar", shortcut="shortcut")
    net.linear = nn.Linear(net.out_channels, 8)
    randomised(net)
    content = {"net": net.state_dict(), "lemniscate": _bank(), "acc": 0.8, "epoch": 1}
    return File("lemniscate_cifar", content, net, net.linear, prefix="net::")


def spcl(norm: type = nn.BatchNorm2d) -> File:
    net = PlainResNet(50, last_stride=1, norm=norm)
    neck: nn.Module = nn.BatchNorm1d(net.out_channels)
    if norm is TwoNorms:
        neck = TwoNorms(net.out_channels)
        neck.BN_S, neck.BN_T = nn.BatchNorm1d(net.out_channels), nn.BatchNorm1d(net.out_channels)
    whole = module(base=net.children_of(nn.ReLU(), nn.MaxPool2d(3, 2, 1)), feat_bn=neck)
    randomised(whole)
    content = {"state_dict": wrapped(whole.state_dict()), "epoch": 1, "best_mAP": 0.5}
    return File("spcl", content, net, neck, prefix="state_dict::base.")


def openunreid(norm: type = nn.BatchNorm2d) -> File:
    net = PlainResNet(50, last_stride=1, norm=norm)
    neck: nn.Module = nn.BatchNorm1d(net.out_channels)
    if norm is ListedNorms:
        neck = ListedNorms(net.out_channels)
        neck.dsbn = nn.ModuleList([nn.BatchNorm1d(net.out_channels), nn.BatchNorm1d(net.out_channels)])
    classifier = nn.Linear(net.out_channels, 3, bias=False)
    whole = randomised(module(backbone=net, head=module(feat_bn=neck), classifier=classifier))
    content = {"epoch": 1, "best_mAP": 0.5, "state_dict": wrapped(whole.state_dict())}
    return File("openunreid", content, net, neck, prefix="state_dict::backbone.")


def vissl() -> File:
    net = PlainResNet(18)
    trunk = randomised(module(_feature_blocks=net))
    head = randomised(mlp(net.out_channels, net.out_channels, 8), 1)
    heads = module(**{"0": module(clf=head)})
    model = {"trunk": trunk.state_dict(), "heads": heads.state_dict()}
    content = {
        "classy_state_dict": {"base_model": {"model": model, "meta": {}}, "optimizer": OPTIMIZER},
        "phase_idx": 3,
    }
    prefix = "classy_state_dict::base_model::model::trunk::_feature_blocks."
    return File("vissl", content, net, head, prefix=prefix)


def mmselfsup() -> File:
    net = PlainResNet(18)
    neck = module(mlp=mlp(net.out_channels, net.out_channels, 8))
    whole = randomised(module(backbone=net, neck=neck, encoder_k=module(module=nn.Sequential(PlainResNet(18)))))
    state = whole.state_dict() | {
        "queue": torch.ones(8, 16),
        "queue_ptr": torch.zeros(1),
        "encoder_k.steps": torch.ones(()),
    }
    content = {"meta": {"epoch": 1}, "state_dict": state, "message_hub": {}}
    return File("mmselfsup", content, net, neck.mlp, prefix="state_dict::backbone.")


def mmselfsup_simclr() -> File:
    net = PlainResNet(18)
    head = mlp(net.out_channels, 16, 8, norm="all")
    neck = module(fc0=head[0], bn0=head[1], fc1=head[3], bn1=head[4])
    whole = randomised(module(backbone=net, neck=neck))
    return File("mmselfsup", {"state_dict": whole.state_dict()}, net, head.eval(), prefix="state_dict::backbone.")


def lightly() -> File:
    net = PlainResNet(18)
    head = mlp(net.out_channels, 16, 8, norm="hidden")
    whole = randomised(
        module(
            backbone=net.children_of(nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
            projection_head=module(layers=head),
            projection_head_momentum=module(layers=mlp(net.out_channels, 16, 8)),
        )
    )
    content = {"epoch": 1, "state_dict": whole.state_dict(), "optimizer_states": [OPTIMIZER], "callbacks": {}}
    return File("lightly", content, net, head, prefix="state_dict::backbone.")


def solo_learn() -> File:
    net = PlainResNet(18, "cifar", padding=2)
    head = mlp(net.out_channels, 16, 8)
    whole = randomised(module(backbone=net, projector=head, classifier=nn.Linear(net.out_channels, 3)))
    content = {"epoch": 1, "state_dict": whole.state_dict(), "optimizer_states": [OPTIMIZER], "lr_schedulers": [{}]}
    return File("solo_learn", content, net, head, prefix="state_dict::backbone.")


def stable_pretraining() -> File:
    net = PlainResNet(18, "cifar")
    head = mlp(net.out_channels, 16, 8, norm="all")
    probes = module(probe=nn.Linear(net.out_channels, 3))
    whole = randomised(module(backbone=net, projector=head, callbacks_modules=probes))
    content = {"epoch": 1, "state_dict": whole.state_dict(), "optimizer_states": [OPTIMIZER]}
    return File("stable_pretraining", content, net, head, prefix="state_dict::backbone.")


def barlow_twins() -> File:
    net = PlainResNet(18)
    head = mlp(net.out_channels, 16, 16, 8, norm="hidden")
    head[6] = nn.Linear(16, 8, bias=False)  # which no head here has
    whole = randomised(module(backbone=net, projector=head, bn=nn.BatchNorm1d(8, affine=False)))
    content = {"epoch": 1, "model": wrapped(whole.state_dict()), "optimizer": OPTIMIZER}
    return File("barlow_twins", content, net, prefix="model::backbone.")


def swav() -> File:
    net = PlainResNet(18)
    net.projection_head = mlp(net.out_channels, 16, 8)
    net.prototypes = nn.Linear(8, 5, bias=False)
    randomised(net)
    content = {"epoch": 1, "state_dict": wrapped(net.state_dict()), "optimizer": OPTIMIZER}
    return File("swav", content, net, net.projection_head, prefix="state_dict::")


FILES: dict[str, Callable[[], File]] = {
    **{f.__name__: f for f in (torchvision, timm, moco, moco_cifar, moco_v3, moco_v3_resnet, simclr, pycontrast, cmc)},
    **{f.__name__: f for f in (supcontrast, lemniscate, lemniscate_cifar, spcl, openunreid, vissl, mmselfsup)},
    **{f.__name__: f for f in (mmselfsup_simclr, lightly, solo_learn, stable_pretraining)},
    **{f.__name__: f for f in (barlow_twins, swav, dino, dinov2, hf_vit, hf_dinov2, hf_resnet)},
    "simclr_50": lambda: simclr(50),
    "simclr_50_selective": lambda: simclr(50, selective=True),
    "spcl_two_domains": lambda: spcl(TwoNorms),
    "openunreid_two_domains": lambda: openunreid(ListedNorms),
    "dinov2_registers": lambda: dinov2(4),
    "hf_dinov2_registers": lambda: hf_dinov2(4),
}
