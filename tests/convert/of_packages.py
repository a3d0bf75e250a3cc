"""Files that installed packages write: torchvision, timm, transformers, lightly and others."""

from pathlib import Path
from typing import Any

from torch import nn

from tests.convert.trial import Trial, package, saved
from tests.support.foreign_file import module
from tests.support.foreign_networks import randomised


def of_torchvision(folder: Path) -> Trial:
    net = randomised(package("torchvision.models").resnet50())
    path = saved(folder, net.state_dict())
    net.fc = nn.Identity()
    return Trial(path, net)


def timm_resnet(folder: Path) -> Trial:
    net = randomised(package("timm").create_model("resnet34", num_classes=5))
    path = saved(folder, net.state_dict())
    net.reset_classifier(0)
    return Trial(path, net)


def lightly_train(folder: Path) -> Trial:
    export, helpers = package("lightly_train._commands.common_helpers"), package("torchvision.models")
    net = randomised(helpers.resnet18())
    out = folder / "exported_last.pt"
    export.export_model(model=net, format=export.ModelFormat.TORCH_STATE_DICT, out=out)
    net.fc = nn.Identity()
    return Trial(out, net)


def timm_vit(folder: Path) -> Trial:
    timm, files = package("timm"), package("safetensors.torch")
    net = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=5))
    files.save_file({n: t.contiguous() for n, t in net.state_dict().items()}, folder / "model.safetensors")
    net.reset_classifier(0)
    return Trial(folder / "model.safetensors", net, 224)


def timm_convnext(folder: Path) -> Trial:
    net = randomised(package("timm").create_model("convnext_atto", num_classes=5))
    path = saved(folder, net.state_dict())
    net.reset_classifier(0)
    return Trial(path, net, options={"architecture": "convnext_atto"})


def _hugging_face(folder: Path, model: str, config: str, **settings: Any) -> Trial:
    transformers = package("transformers")
    net = randomised(getattr(transformers, model)(getattr(transformers, config)(**settings)))
    net.save_pretrained(folder)
    if model == "ResNetModel":
        return Trial(folder, lambda images: net(images).pooler_output.flatten(1))
    return Trial(folder, lambda images: net(images).last_hidden_state[:, 0], settings["image_size"])


_VIT = {"hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 3, "image_size": 112}


def hf_resnet(folder: Path) -> Trial:
    return _hugging_face(folder, "ResNetModel", "ResNetConfig")


def hf_vit(folder: Path) -> Trial:
    return _hugging_face(folder, "ViTModel", "ViTConfig", intermediate_size=768, patch_size=16, **_VIT)


def hf_dinov2(folder: Path) -> Trial:
    return _hugging_face(folder, "Dinov2Model", "Dinov2Config", patch_size=14, **_VIT)


def hf_dinov2_gated(folder: Path) -> Trial:
    wide = _VIT | {"hidden_size": 384, "num_attention_heads": 6}
    return _hugging_face(folder, "Dinov2Model", "Dinov2Config", patch_size=14, use_swiglu_ffn=True, **wide)


def hf_dinov2_registers(folder: Path) -> Trial:
    return _hugging_face(folder, "Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", patch_size=14, **_VIT)


def lightly(folder: Path) -> Trial:
    heads = package("lightly.models.modules.heads")
    from torchvision.models import resnet18

    net = nn.Sequential(*list(resnet18().children())[:-1])
    whole = randomised(module(backbone=net, projection_head=heads.MoCoProjectionHead(512, 512, 128)))
    path = saved(folder, {"state_dict": whole.state_dict(), "optimizer_states": []})
    return Trial(path, lambda images: net(images).flatten(1))


def stable_pretraining(folder: Path) -> Trial:
    backbones, methods = (package(f"stable_pretraining.{name}") for name in ("backbone.utils", "methods.simclr"))
    net = backbones.from_torchvision("resnet18", low_resolution=True)
    whole = randomised(module(backbone=net, projector=methods._build_projector(512, [64, 32])))
    return Trial(saved(folder, {"state_dict": whole.state_dict()}), net, 32)
