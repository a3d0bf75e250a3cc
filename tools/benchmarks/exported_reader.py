"""Reads an export by its own library and compares: started by verify_export, in a process that has no selfsup.

    python tools/benchmarks/exported_reader.py FORMAT PATH GIVEN [NETWORK]

GIVEN is a safetensors file of the images and of what the encoder makes of them. NETWORK is the name that torchvision
builds the network by. The last line of standard output is a JSON object: the greatest difference over a batch of 1 and
one of 7, and the versions of the libraries.
"""

import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

Forward = Callable[[Tensor], Any]


def torchvision(path: Path, network: str) -> Forward:
    model = getattr(import_module("torchvision.models"), network)()
    model.fc = torch.nn.Identity()
    model.load_state_dict(torch.load(path, weights_only=True))
    forward: Forward = model.eval()
    return forward


def timm(path: Path, network: str) -> Forward:
    forward: Forward = import_module("timm").create_model(f"local-dir:{path}", pretrained=True).eval()
    return forward


def huggingface(path: Path, network: str) -> Forward:
    transformers = import_module("transformers")
    if json.loads((path / "config.json").read_text())["model_type"] == "resnet":
        resnet = transformers.ResNetModel.from_pretrained(path).eval()
        return lambda images: resnet(images).pooler_output.flatten(1)
    vit = transformers.ViTModel.from_pretrained(path, add_pooling_layer=False).eval()
    return lambda images: vit(images).last_hidden_state[:, 0]


def torch_export(path: Path, network: str) -> Forward:
    return torch.export.load(path).module()


def onnx(path: Path, network: str) -> Forward:
    session = import_module("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def safetensors_file(path: Path, network: str) -> Forward:
    """The tensors alone make no network; torchvision's takes those of a ResNet as they are, timm's those of its own."""
    tensors = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, "pt") as file:
        told = json.loads(file.metadata()["selfsup"])["encoder"]
    if network:
        model = getattr(import_module("torchvision.models"), network)()
        model.fc = torch.nn.Identity()
    else:
        sizes = {"img_size": told["image_size"], "patch_size": told["patch_size"], "embed_dim": told["embed_dim"]}
        sizes |= {"depth": told["depth"], "num_heads": told["num_heads"]}
        model = import_module("timm").create_model(told["name"], num_classes=0, **sizes)
        tensors = {name.removeprefix("network."): tensor for name, tensor in tensors.items()}
    model.load_state_dict(tensors)
    forward: Forward = model.eval()
    return forward


READERS = {
    "torchvision": (torchvision, ("torchvision",)),
    "timm": (timm, ("timm",)),
    "huggingface": (huggingface, ("transformers",)),
    "torch.export": (torch_export, ("torch",)),
    "onnx": (onnx, ("onnxruntime",)),
    "safetensors": (safetensors_file, ("safetensors",)),
}


def main() -> None:
    sys.modules["selfsup"] = None  # type: ignore[assignment]  # so that no import can find it
    format, path, given, *network = sys.argv[1:]
    read, packages = READERS[format]
    known = safetensors.torch.load_file(given)
    images, expected = known["images"], known["expected"].double()
    with torch.no_grad():
        forward = read(Path(path), "".join(network))
        found = torch.cat([forward(images[:1]), forward(images[1:])]).double()
    assert found.shape == expected.shape, found.shape
    versions = {name: str(import_module(name).__version__) for name in packages}
    difference = float((found - expected).abs().max())
    print(json.dumps({"difference": difference, "greatest": float(expected.abs().max()), "versions": versions}))


if __name__ == "__main__":
    main()
