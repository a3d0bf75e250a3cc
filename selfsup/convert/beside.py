"""What the files beside the weights say: the network, and how images are made ready."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from selfsup.convert.layout import Layout, Preprocessing, Refused
from selfsup.convert.options import Options
from selfsup.convert.reading import Contents
from selfsup.models.encoder import Encoder
from selfsup.models.timm import Timm
from selfsup.storage.untrusted import plain_name


def timm_name(contents: Contents) -> str:
    """The architecture that a config.json of timm's names."""
    name = contents.config.get("architecture")
    return name if isinstance(name, str) and "model_type" not in contents.config else ""


def preprocessing_of(
    layout: Layout, config: Encoder.Config, contents: Contents, options: Options
) -> tuple[Preprocessing, str]:
    """How images are to be made ready, and who says so: the person, the files beside the weights, the layout."""
    found, source = layout.preprocessing(config), f"the layout {layout.name}"
    beside = _said(contents)
    if beside:
        found, source = replace(found, **beside), "the configuration beside the weights"
    size = config.image_size if isinstance(config, Timm.Config) else None
    if size is not None:
        found = replace(found, size=size)
    names = ("size", "fraction", "mean", "std", "interpolation")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if given:
        found, source = replace(found, **given), f"{source}, and --{', --'.join(given)}"
    return found, source


def _said(contents: Contents) -> dict[str, Any]:
    """What config.json of timm's, or preprocessor_config.json of Hugging Face's, says of images."""
    about = contents.config.get("pretrained_cfg")
    said: dict[str, Any] = {}
    try:
        if isinstance(about, dict):
            said = {"mean": _three(about["mean"]), "std": _three(about["std"]), "size": int(about["input_size"][1])}
            said["fraction"] = float(about.get("crop_pct", 1.0))
            said["interpolation"] = "bicubic" if about.get("interpolation") == "bicubic" else "bilinear"
            said["fit"] = "whole" if about.get("crop_mode") == "squash" else "center"
        elif contents.preprocessor:
            said = _of_hugging_face(contents.preprocessor)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise Refused(
            f"what is said of images beside {plain_name(contents.path)} cannot be read ({plain_name(error, 80)})"
        ) from error
    return said


def _of_hugging_face(about: Mapping[str, Any]) -> dict[str, Any]:
    said: dict[str, Any] = {"mean": _three(about["image_mean"]), "std": _three(about["image_std"])}
    if about.get("do_normalize") is False:
        said = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    said["interpolation"] = "bicubic" if about.get("resample") == 3 else "bilinear"
    size, crop = about.get("size", 224), about.get("crop_size")
    if about.get("do_center_crop") and isinstance(crop, dict):
        whole = size.get("shortest_edge", crop["height"]) if isinstance(size, dict) else size
        fraction = float(about.get("crop_pct") or crop["height"] / whole)
        said |= {"size": int(crop["height"]), "fraction": min(1.0, fraction), "fit": "center"}
    elif isinstance(size, dict) and "shortest_edge" in size:  # of a ResNet: crop_pct of what is resized
        said |= {"size": int(size["shortest_edge"]), "fraction": float(about.get("crop_pct") or 1.0), "fit": "center"}
    else:
        side = size["height"] if isinstance(size, dict) else size
        said |= {"size": int(side), "fraction": 1.0, "fit": "whole"}
    return said


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue
