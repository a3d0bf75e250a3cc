"""Files that the code of other projects writes, which is no package: a checkout each."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.convert.trial import Trial, code, package, saved
from tests.support.figures import recipe_weight
from tests.support.foreign_file import module, wrapped
from tests.support.foreign_networks import randomised
from tests.support.places import GOLDEN


def vicreg(folder: Path) -> Trial:
    (resnet,) = code("facebookresearch+vicreg/.", "resnet")
    net, _ = resnet.resnet50x2()
    return Trial(saved(folder, randomised(net).state_dict()), net)


def moco(folder: Path, mlp: bool = True) -> Trial:
    (builder,) = code("facebookresearch+moco", "moco.builder")
    from torchvision.models import resnet50

    net = randomised(builder.MoCo(resnet50, dim=128, K=64, mlp=mlp))
    path = saved(folder, {"epoch": 1, "arch": "resnet50", "state_dict": wrapped(net.state_dict()), "optimizer": {}})
    net.encoder_q.fc = nn.Identity()
    return Trial(path, net.encoder_q)


def moco_v1(folder: Path) -> Trial:
    return moco(folder, mlp=False)


def moco_v3_resnet(folder: Path) -> Trial:
    (builder,) = code("facebookresearch+moco-v3", "moco.builder")
    from torchvision.models import resnet50

    net = randomised(builder.MoCo_ResNet(resnet50, 256, 4096, 1.0))
    path = saved(folder, {"epoch": 1, "arch": "resnet50", "state_dict": wrapped(net.state_dict())})
    net.base_encoder.fc = nn.Identity()
    return Trial(path, net.base_encoder)


def moco_v3_vit(folder: Path) -> Trial:
    layers = package("timm.layers")  # which the code knows by an older name, as it does what follows
    package("timm.models.vision_transformer").VisionTransformer.num_tokens = 1
    sys.modules["timm.models.layers"] = sys.modules["timm.models.layers.helpers"] = layers
    builder, vits = code("facebookresearch+moco-v3", "moco.builder", "vits")
    net = randomised(builder.MoCo_ViT(vits.vit_small, 256, 512, 0.2))
    path = saved(folder, {"epoch": 1, "arch": "vit_small", "state_dict": wrapped(net.state_dict())})
    net.base_encoder.head = nn.Identity()
    return Trial(path, net.base_encoder, 224)


def pycontrast(folder: Path) -> Trial:
    networks = code("HobbitLong+PyContrast/pycontrast", "networks.build_backbone")[0]
    net = randomised(networks.RGBSingleHead("resnet50x2", "mlp", 128))
    content = {
        "model": wrapped(net.state_dict()),
        "contrast": {"memory": torch.ones(4, 128)},
        "optimizer": {},
        "epoch": 1,
    }
    return Trial(saved(folder, content), lambda images: net(images, mode=2))


def cmc(folder: Path) -> Trial:
    (resnet,) = code("HobbitLong+CMC", "models.resnet")
    net = randomised(resnet.InsResNet50())
    content = {"opt": argparse.Namespace(model="resnet50"), "model": net.state_dict(), "contrast": {}, "optimizer": {}}
    # Layer 6 is what is pooled before the linear layer; its pool is of 7 x 7 pixels.
    return Trial(saved(folder, content), lambda images: net(images, layer=6), 224)


def supcontrast(folder: Path) -> Trial:
    networks, util = code("HobbitLong+SupContrast", "networks.resnet_big", "util")
    net = randomised(networks.SupConResNet("resnet50"))
    path = folder / "weights.pth"
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    util.save_model(net, optimizer, argparse.Namespace(model="resnet50", epochs=1), 1, path)
    return Trial(path, net.encoder, 32)


def lemniscate(folder: Path) -> Trial:
    resnet, averages = code("zhirongw+lemniscate.pytorch", "models.resnet", "lib.LinearAverage")
    net = randomised(resnet.resnet18(low_dim=128))
    bank = averages.LinearAverage(128, 16, 0.07, 0.5)
    content = {"epoch": 1, "arch": "resnet18", "state_dict": wrapped(net.state_dict()), "lemniscate": bank}
    path = saved(folder, content)
    net.fc, net.l2norm = nn.Identity(), nn.Identity()
    return Trial(path, net, 224)


def lemniscate_cifar(folder: Path) -> Trial:
    resnet, averages = code("zhirongw+lemniscate.pytorch", "models.resnet_cifar", "lib.LinearAverage")
    net = randomised(resnet.ResNet18())
    path = saved(folder, {"net": net.state_dict(), "lemniscate": averages.LinearAverage(128, 16, 0.1, 0.5), "acc": 0.8})
    net.linear, net.l2norm = nn.Identity(), nn.Identity()
    return Trial(path, net, 32)


def spcl(folder: Path, two: bool = False) -> Trial:
    resnet, dsbn = code("yxgeee+SpCL", "spcl.models.resnet", "spcl.models.dsbn")
    net = resnet.resnet50(pretrained=False, norm=True, cut_at_pooling=False)
    if two:
        dsbn.convert_dsbn(net)
    randomised(net)
    path = saved(folder, {"state_dict": wrapped(net.state_dict()), "epoch": 1, "best_mAP": 0.5})
    return Trial(path, lambda images: net.gap(net.base(images)).flatten(1))


def spcl_two_domains(folder: Path) -> Trial:
    return spcl(folder, two=True)


def openunreid(folder: Path) -> Trial:
    (resnet,) = code("open-mmlab+OpenUnReID", "openunreid.models.backbones.resnet")
    (embedding,) = code("open-mmlab+OpenUnReID", "openunreid.models.layers.embedding")
    net = resnet.resnet50(pretrained=False)
    whole = randomised(module(backbone=net, head=embedding.Embedding(2048)))
    path = saved(folder, {"epoch": 1, "best_mAP": 0.5, "state_dict": wrapped(whole.state_dict())})
    return Trial(path, lambda images: net(images).mean((2, 3)))


def swav(folder: Path) -> Trial:
    (resnet,) = code("facebookresearch+swav/src", "resnet50")
    settings = {"normalize": True, "hidden_mlp": 512, "output_dim": 128, "nmb_prototypes": 16}
    net = randomised(resnet.resnet50w2(**settings))
    path = saved(folder, {"epoch": 1, "state_dict": wrapped(net.state_dict()), "optimizer": {}})
    return Trial(path, net.forward_backbone)


def barlow_twins(folder: Path) -> Trial:
    (main,) = code("facebookresearch+barlowtwins", "main")
    net = randomised(main.BarlowTwins(argparse.Namespace(projector="64-64-64", batch_size=8, lambd=0.01)))
    path = saved(folder, {"epoch": 1, "model": wrapped(net.state_dict()), "optimizer": {}})
    return Trial(path, net.backbone)


def dino(folder: Path) -> Trial:
    (vits,) = code("facebookresearch+dino", "vision_transformer")
    teacher, student = (module(backbone=vits.vit_tiny(patch_size=16), head=vits.DINOHead(192, 64)) for _ in range(2))
    randomised(teacher)
    content = {
        "student": wrapped(student.state_dict()),
        "teacher": teacher.state_dict(),
        "args": argparse.Namespace(arch="vit_tiny"),
        "dino_loss": {"center": torch.zeros(1, 64)},
        "epoch": 1,
    }
    return Trial(saved(folder, content), teacher.backbone, 224)


def dinov2(folder: Path, registers: int = 0) -> Trial:
    (vits,) = code("facebookresearch+dinov2", "dinov2.models.vision_transformer")
    settings = {"img_size": 112, "patch_size": 14, "init_values": 1.0, "block_chunks": 0}
    net = randomised(vits.vit_small(**settings, num_register_tokens=registers))
    return Trial(saved(folder, net.state_dict()), net, 112)


def dinov2_registers(folder: Path) -> Trial:
    return dinov2(folder, registers=4)


def simclr(folder: Path, case: str = "r18") -> Trial:
    """Weights of the recipe in tests/golden, saved by TensorFlow, and the features that the authors' code gave."""
    tensorflow = package("tensorflow")
    recipe = json.loads((GOLDEN / "simclr_resnet_weights.json").read_text())[case]
    names = _simclr_names(recipe["tensors"])
    graph = tensorflow.Graph()
    with graph.as_default():
        for name, tensor in zip(names, recipe["tensors"], strict=True):
            value = recipe_weight(tensor["index"], tensor["kind"], tensor["shape"], tensor["scale"]).numpy()
            tensorflow.compat.v1.get_variable(name, initializer=value)
        saver = tensorflow.compat.v1.train.Saver()
        with tensorflow.compat.v1.Session() as session:
            session.run(tensorflow.compat.v1.global_variables_initializer())
            saver.save(session, str(folder / "model.ckpt"), global_step=1)
    figures = np.load(GOLDEN / f"simclr_resnet_{case}_0.npz")
    images = torch.from_numpy(figures["image_uint8"]).float().div(255).permute(0, 3, 1, 2)
    return Trial(folder / "model.ckpt-1.index", lambda _: torch.from_numpy(figures["features"]), images=images)


def _simclr_names(tensors: list[dict[str, Any]]) -> list[str]:
    """TensorFlow's names, by counting the modules in the order in which they were made."""
    words = {"kernel": "conv2d", "gamma": "batch_normalization"}
    numbers: dict[str, int] = {}
    names, norm = [], ""
    for tensor in tensors:
        role, kind = tensor["role"], tensor["kind"]
        if role.startswith("head"):
            layer = int(role.split(".")[1].removeprefix("layer")) - 1
            part = "dense" if kind == "kernel" else "batch_normalization"
            names.append(f"head_contrastive/nl_{layer}/{part}/{kind}")
            continue
        if kind in words:
            number = numbers[kind] = numbers.get(kind, -1) + 1
            place = f"base_model/{words[kind]}" + (f"_{number}" if number else "")
            norm = place if kind == "gamma" else norm
        names.append(f"{place if kind in words else norm}/{kind}")
    return names


def simclr_50(folder: Path) -> Trial:
    return simclr(folder, "r50")


def simclr_50_selective(folder: Path) -> Trial:
    return simclr(folder, "r50sk")
