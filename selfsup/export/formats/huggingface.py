"""A folder that `transformers` loads without more: config.json, weights, preprocessing and a model card."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
from torch import Tensor

from selfsup.convert.layout import Layout, Refused
from selfsup.convert.layouts import hf_resnet, hf_vit
from selfsup.convert.writing import written
from selfsup.export.card import card
from selfsup.export.format import FOLDER, Format, no_such_network
from selfsup.export.outgoing import Outgoing, plain
from selfsup.export.preprocessor import preprocessor
from selfsup.export.resnets import linear_of
from selfsup.models.blocks import Bottleneck
from selfsup.models.encoder import Encoder
from selfsup.models.resnet import LAYOUTS, ResNet
from selfsup.models.timm import Timm
from selfsup.packages import optional


class _Kind(NamedTuple):
    """How transformers has a kind of network."""

    name: str  # of its classes: NAMEModel, NAMEForImageClassification
    layout: Layout
    prefix: str  # of the backbone's tensors in a classifier
    classifier: str
    features: str  # the expression that gets them from the model's outputs
    options: str = ""  # of from_pretrained, for the backbone


_RESNET = _Kind("ResNet", hf_resnet.LAYOUT, "resnet.", "classifier.1", "outputs.pooler_output.flatten(1)")
_VIT = _Kind("ViT", hf_vit.LAYOUT, "vit.", "classifier", "outputs.last_hidden_state[:, 0]", ", add_pooling_layer=False")


def _resnet(outgoing: Outgoing, config: ResNet.Config) -> tuple[Encoder.Config, dict[str, Any]]:
    usual = replace(ResNet.Config(depth=config.depth), width=config.width)
    if config.depth == "small" or replace(config, zero_init_residual=False) != usual:
        reason = "its ResNets have 18 or more layers, the imagenet stem and neither SimCLR's padding nor "
        raise no_such_network("huggingface", outgoing, f"{reason}selective kernels")
    layout = LAYOUTS[config.depth]
    stem = round(layout.channels * config.width)
    return config, {
        "model_type": "resnet",
        "num_channels": 3,
        "embedding_size": stem,
        "hidden_sizes": [stem * 2**stage * layout.block.expansion for stage in range(len(layout.counts))],
        "depths": list(layout.counts),
        "layer_type": "bottleneck" if layout.block is Bottleneck else "basic",
        "hidden_act": "relu",
        "downsample_in_first_stage": False,
        "downsample_in_bottleneck": False,
    }


def _vit(outgoing: Outgoing, config: Timm.Config) -> tuple[Encoder.Config, dict[str, Any]]:
    network: Any = outgoing.encoder.network
    if type(network).__name__ != "VisionTransformer" or network.global_pool != "token":
        reason = "its ViTModel is a vision transformer whose features are the class token"
        raise no_such_network("huggingface", outgoing, reason)
    block = network.blocks[0]
    sizes = {
        "image_size": network.patch_embed.img_size[0],
        "patch_size": network.patch_embed.patch_size[0],
        "embed_dim": network.embed_dim,
        "depth": len(network.blocks),
        "num_heads": block.attn.num_heads,
    }
    return replace(config, **sizes), {
        "model_type": "vit",
        "num_channels": 3,
        "image_size": sizes["image_size"],
        "patch_size": sizes["patch_size"],
        "hidden_size": sizes["embed_dim"],
        "num_hidden_layers": sizes["depth"],
        "num_attention_heads": sizes["num_heads"],
        "intermediate_size": block.mlp.fc1.out_features,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": network.norm.eps,
        "qkv_bias": True,
    }


def _described(outgoing: Outgoing) -> tuple[_Kind, Encoder.Config, dict[str, Any]]:
    """The kind of network, its settings with every size, and config.json."""
    config = outgoing.exported.config
    if config.channels != 3:
        raise no_such_network("huggingface", outgoing, "its networks and processors are written for three channels")
    if isinstance(config, ResNet.Config):
        return _RESNET, *_resnet(outgoing, config)
    if isinstance(config, Timm.Config):
        return _VIT, *_vit(outgoing, config)
    raise no_such_network("huggingface", outgoing, "it has ResNets and vision transformers")


def _write(outgoing: Outgoing, path: Path) -> None:
    kind, config, about = _described(outgoing)
    linear = linear_of(outgoing, "huggingface")
    try:
        tensors = plain(written(kind.layout, config, plain(outgoing.encoder.state_dict()), None))
    except Refused as error:
        raise no_such_network("huggingface", outgoing, f"its {kind.name}Model has other tensors") from error
    about["architectures"] = [_class(kind, outgoing)]
    if linear is not None:
        tensors = {f"{kind.prefix}{name}": tensor for name, tensor in tensors.items()}
        tensors |= {f"{kind.classifier}.{name}": tensor for name, tensor in plain(linear.state_dict()).items()}
        about["id2label"] = {str(number): name for number, name in enumerate(outgoing.class_names)}
        about["label2id"] = {name: number for number, name in enumerate(outgoing.class_names)}
    images = preprocessor(outgoing)
    path.mkdir()
    safetensors.torch.save_file(tensors, path / "model.safetensors", {"format": "pt"})
    (path / "config.json").write_text(json.dumps(about, indent=2) + "\n")
    (path / "preprocessor_config.json").write_text(json.dumps(images.content, indent=2) + "\n")
    (path / "README.md").write_text(card(outgoing, _example(kind, outgoing), images.notes))


def _class(kind: _Kind, outgoing: Outgoing) -> str:
    return f"{kind.name}{'ForImageClassification' if outgoing.classifier else 'Model'}"


def _example(kind: _Kind, outgoing: Outgoing) -> str:
    name = _class(kind, outgoing)
    options = "" if outgoing.classifier else kind.options
    features = "outputs.logits.softmax(1)  # in the order of model.config.id2label" if outgoing.classifier else None
    return "\n".join(
        [
            f"from transformers import AutoImageProcessor, {name}",
            "",
            'processor = AutoImageProcessor.from_pretrained("FOLDER")',
            f'model = {name}.from_pretrained("FOLDER"{options}).eval()',
            'outputs = model(**processor(images, return_tensors="pt"))',
            f"{'probabilities' if outgoing.classifier else 'features'} = {features or kind.features}",
        ]
    )


def _read(outgoing: Outgoing, path: Path) -> Callable[[Tensor], Tensor]:
    kind, _, _ = _described(outgoing)
    load = getattr(optional("transformers", "the format huggingface"), _class(kind, outgoing)).from_pretrained
    options = {"add_pooling_layer": False} if kind.options and not outgoing.classifier else {}
    network, said = load(path, output_loading_info=True, local_files_only=True, **options)
    if any(said[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise ValueError(f"transformers reads other tensors than were written: {said}")
    network.eval()

    def forward(images: Tensor) -> Tensor:
        outputs = network(images)
        result: Tensor
        if outgoing.classifier:
            result = outputs.logits
        else:
            result = outputs.pooler_output.flatten(1) if kind is _RESNET else outputs.last_hidden_state[:, 0]
        return result

    return forward


def _usage(outgoing: Outgoing, path: Path) -> str:
    kind, _, _ = _described(outgoing)
    options = "" if outgoing.classifier else kind.options
    return f'model = transformers.{_class(kind, outgoing)}.from_pretrained("{path}"{options})'


FORMAT = Format(
    name="huggingface",
    title="a folder for transformers alone: ResNetModel, ViTModel, or one of them with a classifier; a model card",
    endings=(FOLDER,),
    write=_write,
    read=_read,
    usage=_usage,
    packages=("transformers",),
    extra="huggingface",
)
