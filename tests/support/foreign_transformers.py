"""Small checkpoints of DINO, DINOv2 and Hugging Face, by names of their own code, with their own forward pass."""

import argparse
import re

import torch
from torch import Tensor

from tests.support.foreign_file import OPTIMIZER, File, mlp, module, wrapped
from tests.support.foreign_networks import (
    PlainResNet,
    PlainViT,
    randomised,
    with_epsilon,
)


def dino() -> File:
    teacher, student = (module(backbone=PlainViT(), head=mlp(24, 16, 8)) for _ in range(2))
    randomised(teacher)
    content = {
        "student": wrapped(randomised(student, 1).state_dict()),
        "teacher": teacher.state_dict(),
        "optimizer": OPTIMIZER,
        "epoch": 1,
        "args": argparse.Namespace(arch="vit_small", output_dir="."),
        "dino_loss": {"center": torch.zeros(1, 8)},
    }
    return File("dino", content, teacher.backbone, options={"heads": 3}, prefix="teacher::backbone.")


def dinov2(registers: int = 0) -> File:
    net = randomised(PlainViT(scaled=True, registers=registers))
    return File("dinov2", net.state_dict(), net, options={"heads": 3})


_HF_TOP = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "mask_token": "embeddings.mask_token",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}


def _as_hugging_face(state: dict[str, Tensor], block: dict[str, str], gamma: str = "gamma") -> dict[str, Tensor]:
    named = {}
    for name, tensor in state.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.+)\.(\w+)", name)
        if match is None:
            part, _, kind = name.rpartition(".")
            named[f"{_HF_TOP[part]}.{kind}" if part in _HF_TOP else _HF_TOP[name]] = tensor
            continue
        number, part, kind = match.groups()
        place = f"encoder.layer.{number}"
        if part == "attn.qkv":
            for word, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                named[f"{place}.attention.attention.{word}.{kind}"] = piece
        else:
            named[f"{place}.{block.get(part, part)}.{gamma if kind == 'gamma' else kind}"] = tensor
    return named


def hf_vit() -> File:
    net = randomised(with_epsilon(PlainViT(), 1e-3))
    parts = {
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    state = _as_hugging_face(net.state_dict(), parts) | {"pooler.dense.weight": torch.ones(24, 24)}
    about = {"model_type": "vit", "num_attention_heads": 3, "layer_norm_eps": 1e-3}
    images = {
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.5, 0.6, 0.7],
        "resample": 3,
        "size": {"height": 32, "width": 32},
    }
    beside = {"config.json": about, "preprocessor_config.json": images}
    return File("hf_vit", state, net, beside=beside, kind="safetensors")


def hf_dinov2(registers: int = 0) -> File:
    net = randomised(PlainViT(scaled=True, registers=registers))
    parts = {"attn.proj": "attention.output.dense", "ls1": "layer_scale1", "ls2": "layer_scale2"}
    state = _as_hugging_face(net.state_dict(), parts, "lambda1")
    beside = {"config.json": {"model_type": "dinov2", "num_attention_heads": 3}}
    return File("hf_dinov2", state, net, beside=beside, kind="safetensors")


def hf_resnet() -> File:
    net = randomised(PlainResNet(18))
    state = {}
    kinds = {"conv": "convolution", "bn": "normalization"}
    for name, tensor in net.state_dict().items():
        if match := re.fullmatch(r"(conv|bn)1\.(\w+)", name):
            state[f"embedder.embedder.{kinds[match[1]]}.{match[2]}"] = tensor
            continue
        stage, block, rest = re.fullmatch(r"layer(\d)\.(\d)\.(.*)", name).groups()  # type: ignore[union-attr]
        place = f"encoder.stages.{int(stage) - 1}.layers.{block}"
        if match := re.fullmatch(r"(conv|bn)(\d)\.(\w+)", rest):
            state[f"{place}.layer.{int(match[2]) - 1}.{kinds[match[1]]}.{match[3]}"] = tensor
        else:
            _, number, kind = rest.split(".")
            state[f"{place}.shortcut.{list(kinds.values())[int(number)]}.{kind}"] = tensor
    return File("hf_resnet", state, net, kind="safetensors")
