"""Weights of another project in our terms, every tensor accounted for; and back."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from selfsup.augment.parameters import Interpolation
from selfsup.convert import table
from selfsup.convert.layout import (
    Asked,
    HeadFound,
    Layout,
    Network,
    Preprocessing,
    Refused,
    Tensors,
    holder_of,
    shown,
)
from selfsup.convert.reading import Contents
from selfsup.models.encoder import Encoder
from selfsup.models.heads import HeadConfig
from selfsup.models.resnet import ResNet
from selfsup.models.timm import Timm
from selfsup.storage.untrusted import plain_name

_COUNTER = "num_batches_tracked"  # older torch and other frameworks have none
# Tensors of training that any checkpoint may hold, by the beginning of their flat names.
_OF_TRAINING = {
    r"optimizers?(_states?)?::": "state of the optimizer",
    r"(lr_)?schedulers?::|lr_scheduler_states::": "state of the schedule",
    r"(grad_)?scaler::|fp16_scaler::|amp::": "state of the loss scaler",
    r"callbacks::|loops::": "state of the trainer",
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person says of a file of weights; all that is left out is read off the file, or is the layout's."""

    layout: str = ""  # whose file it is, by a name of docs/weights.md; empty: told by its names
    network: str = ""  # of several in the file, such as query, key, teacher; empty: the one the layout takes
    head: Literal["keep", "drop"] = "keep"  # whether the projection head comes along where one fits
    drop: tuple[str, ...] = ()  # beginnings of the names of further tensors that are to be left out
    architecture: str = ""  # the name of a network of timm, of files by timm's names
    heads: int | None = None  # of attention, where the file does not tell
    size: int | None = None  # pixels of a side at test time; a transformer's positions are resampled to it
    fraction: float | None = None  # side of the central box at test time over that of the largest one
    mean: tuple[float, float, float] | None = None  # of the channels, from 0 to 1
    std: tuple[float, float, float] | None = None  # standard deviations of the channels
    interpolation: Interpolation | None = None  # of the resize at test time

    def __post_init__(self) -> None:
        for name in ("heads", "size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class Converted:
    """An encoder in our terms."""

    layout: Layout
    which: str  # of the networks in the file
    network: Network
    config: Encoder.Config
    tensors: dict[str, Tensor]
    head: tuple[HeadConfig, dict[str, Tensor]] | None
    preprocessing: Preprocessing
    preprocessing_from: str  # who says it
    left_out: dict[str, int]  # what was left out -> how many tensors
    notes: list[str]


def convert(contents: Contents, options: Options) -> Converted:
    """The encoder in a file of any layout.

    Args:
        contents: of the file.
        options: what is said of it.

    Raises:
        Refused: the file is of no layout, a tensor is missing, of another shape, or belongs to no part of the layout.
    """
    architecture = options.architecture or _timm_name(contents)
    try:
        match = table.recognise(contents, options.layout, options.network, options.architecture)
    except Refused:
        if options.architecture or not architecture:
            raise
        match = table.recognise(contents, options.layout, options.network, architecture)
    layout = match.layout
    asked = Asked(
        architecture=architecture,
        heads=options.heads,
        size=options.size,
        attention_heads=layout.attention_heads,
        about=contents.config,
        prefix=match.prefix.removeprefix(holder_of(match.prefix)),
    )
    own = {n.removeprefix(match.prefix): t for n, t in contents.tensors.items() if n.startswith(match.prefix)}
    try:
        config = match.network.config(own, asked)
        tensors, used = _taken(own, config, lambda name: match.network.piece(name, config).names, match)
        head, head_note = _head(layout, contents.tensors, match.prefix, config, options)
        taken = {f"{match.prefix}{name}" for name in used}
        left_out = _left_out(contents.tensors, taken, head, match, options)
    except Refused as error:
        raise Refused(f"{plain_name(contents.path)}, of the layout {layout.name}: {error}") from error
    preprocessing, source = _preprocessing(layout, config, contents, options)
    notes = [*match.network.notes(config), *head_note]
    halves = sorted({str(own[name].dtype).removeprefix("torch.") for name in used if own[name].is_floating_point()})
    if halves and halves != ["float32"]:
        notes.append(f"the weights are {' and '.join(halves)} and become float32")
    return Converted(
        layout=layout,
        which=match.which,
        network=match.network,
        config=config,
        tensors=tensors,
        head=None if head is None or head.config is None or options.head == "drop" else (head.config, head.tensors),
        preprocessing=preprocessing,
        preprocessing_from=source,
        left_out=left_out,
        notes=notes,
    )


def described(config: Encoder.Config) -> str:
    """An encoder's settings as a person would say them."""
    if isinstance(config, ResNet.Config):
        selective = ", selective kernels" if config.sk_ratio else ""
        stride = ", last stage with stride 1" if config.last_stride == 1 else ""
        simclr = " of SimCLR" if config.variant == "simclr" else ""
        return f"a ResNet-{config.depth}{simclr} of width {config.width:g}, {config.stem} stem{selective}{stride}"
    if isinstance(config, Timm.Config):
        sizes = {n: getattr(config, n) for n in ("image_size", "patch_size", "embed_dim", "depth", "num_heads")}
        told = ", ".join(f"{name} {value}" for name, value in sizes.items() if value is not None)
        return f"timm's {config.name}" + (f" ({told})" if told else "")
    return config.label


class _Outline(NamedTuple):
    """What is known of a network without its weights."""

    shapes: Mapping[str, tuple[int, ...]]  # of its tensors, by name
    feature_dim: int


@lru_cache(maxsize=16)
def outline(config: Encoder.Config) -> _Outline:
    """Names and shapes of an encoder's tensors; nothing is allocated.

    Raises:
        Refused: there is no such network.
    """
    try:
        with torch.device("meta"):
            encoder = config.build()
    except (RuntimeError, OverflowError, MemoryError, TypeError) as error:
        raise Refused(f"{described(config)} cannot be built: {plain_name(error, 200)}") from error
    return _Outline({name: tuple(t.shape) for name, t in encoder.state_dict().items()}, int(encoder.feature_dim))


def _taken(
    own: Tensors, config: Encoder.Config, names_of: Callable[[str], tuple[str, ...]], match: table.Match
) -> tuple[dict[str, Tensor], set[str]]:
    """Our tensors, and which of the file they are made of."""
    tensors: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, shape in outline(config).shapes.items():
        piece = match.network.piece(name, config)
        missing = [there for there in piece.names if there not in own]
        if missing and name.endswith(_COUNTER):
            tensors[name] = torch.tensor(0)
            continue
        if missing:
            raise Refused(
                f"{_called(match, missing[0])} is missing; {described(config)} has it"
                + (f", of shape {shape}" if len(piece.names) == 1 else "")
            )
        parts = [own[there] for there in piece.names]
        try:
            value = piece.read(parts)
        except (RuntimeError, IndexError) as error:
            raise Refused(
                f"{_called(match, piece.names[0])} does not fit {described(config)}: its shape is "
                f"{tuple(parts[0].shape)}"
            ) from error
        if tuple(value.shape) != shape:
            found = " and ".join(str(tuple(part.shape)) for part in parts)
            raise Refused(
                f"{_called(match, piece.names[0])} has shape {found}; {described(config)} wants what makes {shape}"
            )
        tensors[name] = value.float() if value.is_floating_point() else value
        used.update(piece.names)
    return tensors, used


def _called(match: table.Match, name: str) -> str:
    return plain_name(shown(f"{match.prefix}{name}"), 200)


def _head(
    layout: Layout, tensors: Tensors, prefix: str, config: Encoder.Config, options: Options
) -> tuple[HeadFound | None, list[str]]:
    """The head in the file, and what is to be said of it."""
    width = outline(config).feature_dim
    for place in layout.heads:
        found = place.find(tensors, prefix, width)
        if found is not None:
            break
    else:
        return None, []
    if options.head == "drop":
        return found, []
    if found.config is None:
        return found, [f"its head is left out: {found.why}"]
    floats = {n: t.float() if t.is_floating_point() else t for n, t in found.tensors.items()}
    with torch.device("meta"):
        wanted = {n: tuple(t.shape) for n, t in found.config.build(width).state_dict().items()}
    for name in sorted(wanted.keys() | floats.keys()):
        if name not in floats or name not in wanted or tuple(floats[name].shape) != wanted[name]:
            shape = tuple(floats[name].shape) if name in floats else "missing"
            raise Refused(f"the head's tensor for {name} is {shape}; wanted {wanted.get(name, 'none')}")
    return found._replace(tensors=floats), []


def _left_out(
    tensors: Tensors, taken: set[str], head: HeadFound | None, match: table.Match, options: Options
) -> dict[str, int]:
    """What every tensor is that was not taken, counted. Raises Refused for one that belongs nowhere."""
    layout, counted = match.layout, Counter[str]()
    kept = set() if head is None else head.names
    if head is not None and (head.config is None or options.head == "drop"):
        counted["the head"] += len(kept)
    others = [
        (prefix, which)
        for which, prefixes in layout.encoders.items()
        for prefix in prefixes
        if which != match.which and not match.prefix.startswith(prefix)
    ]
    for name in tensors:
        if name in taken or name in kept:
            continue
        what = _what(name, layout, others, options)
        if what is None:
            raise Refused(
                f"{plain_name(shown(name), 200)} of shape {tuple(tensors[name].shape)} belongs to no part of these "
                f"files; where it is of no use, --drop {plain_name(name.removeprefix(holder_of(name)), 100)}"
            )
        counted[what] += 1
    return dict(counted)


def _what(name: str, layout: Layout, others: list[tuple[str, str]], options: Options) -> str | None:
    """What a tensor is that is not of the encoder, nor of its head; None where nothing is known of it."""
    inside = name.removeprefix(holder_of(name))
    for prefix, which in others:
        if name.startswith(prefix):
            return f"the {which} network"
    for patterns, where in ((layout.outside | _OF_TRAINING, name), (layout.dropped, inside)):  # type: ignore[operator]
        for pattern, what in patterns.items():
            if re.match(pattern, where):
                return str(what)
    if inside.startswith(options.drop) and options.drop:
        return "what was to be dropped"
    return None


def _timm_name(contents: Contents) -> str:
    """The architecture that a config.json of timm's names."""
    name = contents.config.get("architecture")
    return name if isinstance(name, str) and "model_type" not in contents.config else ""


def _preprocessing(
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
        said |= {"size": int(crop["height"]), "fraction": min(1.0, crop["height"] / whole)}
    elif isinstance(size, dict) and "shortest_edge" in size:  # of a ResNet: crop_pct of what is resized
        said |= {"size": int(size["shortest_edge"]), "fraction": float(about.get("crop_pct") or 1.0)}
    else:
        side = size["height"] if isinstance(size, dict) else size
        said |= {"size": int(side), "fraction": 1.0, "fit": "whole"}
    return said


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = map(float, values)
    return red, green, blue


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
        raise Refused(f"{described(config)} cannot be written in the layout {layout.name}, which has no such network")
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
