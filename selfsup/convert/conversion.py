"""Weights of another project in our terms, every tensor accounted for. The way back is `writing`."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from selfsup.convert import table
from selfsup.convert.beside import preprocessing_of, timm_name
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
from selfsup.convert.options import Options
from selfsup.convert.outline import outline
from selfsup.convert.reading import Contents
from selfsup.models.encoder import Encoder
from selfsup.models.heads import HeadConfig
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
    architecture = options.architecture or timm_name(contents)
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
        if options.heads is not None and getattr(config, "num_heads", None) != options.heads:
            raise Refused(f"heads is {options.heads}, which plays no part in {config.title}; leave --heads out")
        tensors, used = _taken(own, config, lambda name: match.network.piece(name, config).names, match)
        head, head_note = _head(layout, contents.tensors, match.prefix, config, options)
        taken = {f"{match.prefix}{name}" for name in used}
        left_out = _left_out(contents.tensors, taken, head, match, options)
    except Refused as error:
        raise Refused(f"{plain_name(contents.path)}, of the layout {layout.name}: {error}") from error
    preprocessing, source = preprocessing_of(layout, config, contents, options)
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
                f"{_called(match, missing[0])} is missing; {config.title} has it"
                + (f", of shape {shape}" if len(piece.names) == 1 else "")
            )
        parts = [own[there] for there in piece.names]
        try:
            value = piece.read(parts)
        except (RuntimeError, IndexError) as error:
            raise Refused(
                f"{_called(match, piece.names[0])} does not fit {config.title}: its shape is {tuple(parts[0].shape)}"
            ) from error
        if tuple(value.shape) != shape:
            found = " and ".join(str(tuple(part.shape)) for part in parts)
            raise Refused(
                f"{_called(match, piece.names[0])} has shape {found}; {config.title} wants what makes {shape}"
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
