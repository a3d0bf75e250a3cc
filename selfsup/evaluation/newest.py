"""The encoder of a run folder as it stands: the exported one, or that of the newest checkpoint of an unfinished run."""

import os
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from selfsup.augment.parameters import Interpolation
from selfsup.augment.size import Size, height_and_width
from selfsup.augment.views import Augment
from selfsup.catalogue import import_methods, restore_encoder
from selfsup.config.settings import dump, restore
from selfsup.data.sampling import SHUFFLED, Sampling, TwoDomains
from selfsup.evaluation.built import built
from selfsup.evaluation.encoder import Exported, load_encoder
from selfsup.evaluation.feed import Preprocessing, feed_of
from selfsup.evaluation.foreign import any_encoder, is_foreign
from selfsup.evaluation.sized import said, sized
from selfsup.evaluation.unfinished import Described, at_checkpoint, encoder_of_stage
from selfsup.methods.base import Method, RunContext
from selfsup.models.encoder import Encoder
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.storage import checkpoint

Network = TypeVar("Network", bound=nn.Module)
_PRETRAINING = "pretrain"  # what Run is stored as; its module stands above this one
_LARGEST_BATCH = 1 << 24
_SMALL = 1 << 14  # of a side of a tensor that may be allocated in any case
_CLASSES = 16  # of the labels that a method is shown to be built


def newest_encoder(path: Path, told: bool = True, size: Size | None = None) -> Exported:
    """Read the encoder that every stage judges. Nothing is written.

    What a finished run has exported comes first. Where there is nothing yet, because a run was stopped or is still
    going on, it is what an export at the newest checkpoint would hold, with its head, and `Exported.step` is the step.

    Args:
        path: a run folder, an encoder.safetensors, or a file of another project's weights (docs/weights.md).
        told: whether to say of which step the encoder is, where that is not the end of the run, and what was made of
            another project's file.
        size: of the images that it is fed with, see `selfsup.evaluation.sized.sized`; None: as it says itself.

    Raises:
        ValueError: there is neither an encoder nor a checkpoint of one that was trained, files are damaged, or it takes
            no images of this size.
    """
    found = _found(path, told)
    fed = sized(found, size, path)
    if told and fed is not found and int(os.environ.get("RANK", "0")) == 0:
        other, own = (said(height_and_width(of.feed.size)) for of in (fed, found))
        message(f"images are fed at {other} pixels; the encoder was trained at {own}")
    return fed


def _found(path: Path, told: bool) -> Exported:
    if not (path.is_dir() and RunFolder(path).holds_run) or is_foreign(path):
        return any_encoder(path, told)
    exported = os.path.lexists(RunFolder(path).encoder)  # whatever it is: what is no file is refused by name
    found = load_encoder(path) if exported else _of_checkpoint(path)
    if told and int(os.environ.get("RANK", "0")) == 0:
        later = [step for step in checkpoint.steps(path / "checkpoints") if step > found.made_by.get("steps", step)]
        if not exported:
            message(f"{path} is not finished: the encoder is that of step {found.step}, from the newest checkpoint")
        elif later:
            message(
                f"{path} goes on: the encoder is the exported one, of step {found.made_by['steps']}, and not that of "
                f"the newest checkpoint, of step {later[-1]}"
            )
    return found


class _Saved(NamedTuple):
    """What config.json says of a run that decides about its encoder."""

    method: Method.Config
    encoder: Encoder.Config
    augment: Augment
    sampling: Sampling
    feed: Preprocessing


def _of_checkpoint(path: Path) -> Exported:
    folder = RunFolder(path)
    saved = folder.saved_run()
    if saved.get("class") != _PRETRAINING:
        return encoder_of_stage(folder)
    run = _restored(saved, path)
    found, _ = checkpoint.load_newest(folder.checkpoints)
    if found is None:
        raise ValueError(f"{path} has neither an encoder nor a checkpoint yet; run the same pretrain command again")
    method = _method(run, saved, found)
    state, head = method.encoder_state(), method.head_state()
    encoder = _filled(run.encoder.build(), state)
    read_head = _filled(head[0].build(encoder.feature_dim), head[1]) if head else None
    made_by = {"method": type(method).__name__, "epochs": saved.get("epochs"), "seed": saved.get("seed")}
    return at_checkpoint(found.step, encoder, read_head, state, Described(run.encoder, run.feed, made_by))


def _restored(saved: dict[str, Any], path: Path) -> _Saved:
    import_methods()
    try:
        augment: Augment = restore(saved["augment"], Augment)
        return _Saved(
            restore(saved["method"], Method.Config),
            restore_encoder(saved["encoder"]),
            augment,
            restore(saved["sampling"], Sampling) if "sampling" in saved else SHUFFLED,
            feed_of(
                augment,
                restore(saved.get("test_fraction", 1.0), float),
                restore(saved.get("test_interpolation", "bilinear"), Interpolation),
                restore(saved.get("data", {}).get("range", "type"), str),
            ),
        )
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"the encoder of the unfinished run {path} cannot be built: {error}\nrun the same command again to finish "
            "it; what it exports needs none of this"
        ) from error


def _method(run: _Saved, saved: dict[str, Any], found: checkpoint.Checkpoint) -> Method:
    """The method with the checkpoint's encoder and head; what is remembered of the data set may be left out.

    Raises:
        ValueError: the settings describe no method, or the checkpoint lacks a tensor of the encoder or of its head.
    """
    tensors = found.tensors.get("method", {})
    _require_sizes(run, tensors, found.path)
    batch_size: int = restore(saved.get("batch_size"), int, "batch_size")
    if not 1 <= batch_size <= _LARGEST_BATCH:
        raise ValueError(f"{found.path.parents[1] / 'config.json'}: batch_size is {batch_size}; that is no batch")
    # The largest memory has a row for each image; where there is none the number decides about nothing.
    images = max(4 * _CLASSES, *(len(tensor) for tensor in tensors.values() if tensor.dim()))
    sizes = {"method": dump(run.method), "encoder": dump(run.encoder), "batch_size": batch_size}
    method = built(
        lambda: run.method.build(run.encoder.build(), _run_context(run, batch_size, max(images, 4 * batch_size))),
        sizes,
        f"in {found.path.parents[1] / 'config.json'}",
    )
    held = method.state_dict()
    fitting = {name: value for name, value in tensors.items() if name in held and held[name].shape == value.shape}
    method.load_state_dict(fitting, strict=False)
    head = method.head_state()
    wanted = {
        value.data_ptr() for state in (method.encoder_state(), head[1] if head else {}) for value in state.values()
    }
    missing = [name for name in held if name not in fitting and held[name].data_ptr() in wanted and held[name].numel()]
    if missing:
        raise ValueError(f"{found.path} does not hold the encoder that config.json describes: {missing[0]} is missing")
    return method


def _require_sizes(run: _Saved, tensors: dict[str, Tensor], place: Path) -> None:
    """Make sure that a network and memories of these settings would be as large as those of the checkpoint.

    config.json may come from anyone, and nothing should be allocated by its numbers alone.

    Raises:
        ValueError: the checkpoint has another encoder, or none of its tensors is so large as a size of the method.
    """
    settings = place.parents[1] / "config.json"
    with torch.device("meta"):
        wanted = built(run.encoder.build, {"encoder": dump(run.encoder)}, f"in {settings}").state_dict()
    for name, value in wanted.items():
        held = tensors.get(f"encoder.{name}")
        if held is None or held.shape != value.shape:
            what = "missing" if held is None else f"of shape {tuple(held.shape)} and not {tuple(value.shape)}"
            raise ValueError(f"{place} does not hold the encoder that config.json describes: encoder.{name} is {what}")
    largest = max(side for tensor in tensors.values() for side in (_SMALL, *tensor.shape))
    for field, size in _sizes(run.method):
        if size > largest:
            raise ValueError(f"{settings}: method.{field} is {size}, and nothing in {place} is larger than {largest}")


def _sizes(config: Any, prefix: str = "") -> Iterator[tuple[str, int]]:
    """The fields of a method's settings that say how large its tensors are, by name."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            yield from _sizes(value, f"{prefix}{field.name}.")
        elif isinstance(value, int) and field.name.endswith(("_size", "_dim")):
            yield prefix + field.name, value


def _run_context(run: _Saved, batch_size: int, images: int) -> RunContext:
    """Data of as many images as the method may remember, to build it with."""
    labels = torch.arange(images) % _CLASSES
    two = isinstance(run.sampling, TwoDomains)
    if two:
        labels[images // 2 :] = -1
    return RunContext(
        num_images=images,
        batch_size=batch_size,
        seed=0,
        num_classes=_CLASSES,
        num_views=len(run.augment.views),
        view_size=run.augment.views[0].shape,
        two_domains=two,
        channels=run.encoder.channels,
        per_class=run.sampling.images_per_class,
        labels=labels,
    )


def _filled(network: Network, state: dict[str, Tensor]) -> Network:
    network.load_state_dict(state)
    return network
