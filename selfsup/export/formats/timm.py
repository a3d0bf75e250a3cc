"""Networks by timm's names: a state dict that timm's own network loads strictly, or a folder with its config.json."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from selfsup.export.format import ANY_NETWORK, FOLDER, Format, NotWritten, no_such_network
from selfsup.export.outgoing import Outgoing, plain
from selfsup.export.resnets import linear_of, resnet_name, with_linear
from selfsup.models.resnet import Depth
from selfsup.models.timm import Timm, create_options
from selfsup.packages import optional

_DEPTHS: tuple[Depth, ...] = (18, 34, 50, 101, 152, 200)
_WEIGHTS = "model.safetensors"  # in a folder


def _named(outgoing: Outgoing) -> tuple[str, dict[str, int]]:
    """What `timm.create_model` is told: the name and options."""
    config = outgoing.exported.config
    if not isinstance(config, Timm.Config):
        name = resnet_name("timm", outgoing, _DEPTHS, any_channels=True)
        return name, {} if config.channels == 3 else {"in_chans": config.channels}
    if config.norm_eps is not None:
        raise no_such_network(
            "timm", outgoing, f"its layer norms add no {config.norm_eps:g} to the variance; --to huggingface says so"
        )
    return config.name, create_options(config)


def _tensors(outgoing: Outgoing) -> dict[str, Tensor]:
    config, linear = outgoing.exported.config, linear_of(outgoing, "timm")
    if not isinstance(config, Timm.Config):
        return with_linear(outgoing, "timm", "fc")
    tensors = {n.removeprefix("network."): t for n, t in plain(outgoing.encoder.state_dict()).items()}
    if linear is not None:
        place = _classifier(outgoing)
        tensors |= {f"{place}.{name}": tensor for name, tensor in plain(linear.state_dict()).items()}
    return tensors


def _classifier(outgoing: Outgoing) -> str:
    """What timm calls the classifier of its network."""
    network: Any = outgoing.encoder.network
    place = network.pretrained_cfg.get("classifier")
    if not isinstance(place, str):
        raise NotWritten(f"timm's {_named(outgoing)[0]} has not one linear classifier; {ANY_NETWORK}")
    return place


def _write(outgoing: Outgoing, path: Path) -> None:
    name, options = _named(outgoing)
    tensors = _tensors(outgoing)
    if path.suffix == ".pth":
        torch.save(tensors, path)
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(tensors, path, {"format": "pt"})
    else:
        path.mkdir()
        safetensors.torch.save_file(tensors, path / _WEIGHTS, {"format": "pt"})
        (path / "config.json").write_text(json.dumps(_config(outgoing, name, options), indent=2) + "\n")


def _config(outgoing: Outgoing, name: str, options: dict[str, int]) -> dict[str, Any]:
    """config.json as timm has it: which network it is, and how images are made ready."""
    feed = outgoing.exported.feed
    classes = len(outgoing.class_names)
    config: dict[str, Any] = {"architecture": name, "num_classes": classes}
    if isinstance(outgoing.exported.config, Timm.Config):
        config["num_features"] = outgoing.encoder.feature_dim
    if outgoing.class_names:
        config["label_names"] = list(outgoing.class_names)
    if options:
        config["model_args"] = options
    config["pretrained_cfg"] = {
        "input_size": [outgoing.exported.config.channels, *outgoing.shape],
        "crop_pct": feed.fraction,
        "crop_mode": "squash" if feed.fit == "whole" else "center",
        "interpolation": feed.interpolation.removesuffix("_aliased"),
        "mean": list(feed.mean),
        "std": list(feed.std),
        "num_classes": classes,
    }
    return config


def _read(outgoing: Outgoing, path: Path) -> Callable[[Tensor], Tensor]:
    timm = optional("timm", "the format timm")
    network: nn.Module
    if path.is_dir():
        network = timm.create_model(f"local-dir:{path}", pretrained=True)
        return network.eval()
    name, options = _named(outgoing)
    network = timm.create_model(name, num_classes=len(outgoing.class_names), **options)
    load = safetensors.torch.load_file if path.suffix == ".safetensors" else partial(torch.load, weights_only=True)
    network.load_state_dict(load(path))
    return network.eval()


def _usage(outgoing: Outgoing, path: Path) -> str:
    name, options = _named(outgoing)
    if path.suffix not in (".pth", ".safetensors"):
        return f'model = timm.create_model("local-dir:{path}", pretrained=True)'
    told = "".join(f", {option}={value}" for option, value in options.items())
    weights = f'torch.load("{path}")' if path.suffix == ".pth" else f'safetensors.torch.load_file("{path}")'
    return (
        f'model = timm.create_model("{name}", num_classes={len(outgoing.class_names)}{told}); '
        f"model.load_state_dict({weights})"
    )


FORMAT = Format(
    name="timm",
    title="a state dict by timm's names, for timm.create_model; or a folder of timm's with config.json",
    endings=(".pth", ".safetensors", FOLDER),
    write=_write,
    read=_read,
    usage=_usage,
    packages=("timm",),
    extra="timm",
)
