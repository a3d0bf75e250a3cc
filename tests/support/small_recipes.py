"""The shipped recipes, made small: fewer and smaller images, a narrow encoder, short memories, a few steps.

All else is as it is shipped: batch norm and its groups, the loss, augmentations, sampling, optimizer and schedule.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from selfsup.batch import Batch
from selfsup.config.recipe_files import load_recipe
from selfsup.data.sampling import TwoDomains
from selfsup.distributed import mean_over_processes
from selfsup.methods.base import Method, Step
from selfsup.models.encoder import Encoder
from selfsup.models.resnet import ResNet
from selfsup.models.timm import Timm
from selfsup.pretraining import Run, pretrain
from selfsup.storage import checkpoint
from tests.support.in_double import InDouble

IMAGES = 160
STEPS = 3  # of an epoch of 5, or of 2 where the sampling says how long an epoch is
# What memories, heads and the like shrink to; where a recipe has none it stays without.
_SIZES = {
    "queue_size": 72,  # for two views of a batch, and not a multiple of it
    "memory_size": 72,
    "memory_start": 1,
    "drift_every": 2,
    "num_negatives": 20,
    "hardest": 16,
    "pairs": 8,
    "with_query": 4,
    "warmup_epochs": 0.2,
    "k1": 10,
    "k2": 3,
    "hidden_dim": 24,
    "output_dim": 16,
}


def small(name: str, root: str, folder: Path) -> Run:
    """A shipped recipe in double precision, on the images of `root`, in the folder FOLDER/NAME."""
    recipe: Run = load_recipe(name)
    sampling: Any = recipe.sampling
    if getattr(sampling, "steps_per_epoch", None):
        sampling = replace(sampling, steps_per_epoch=2)
    encoder = _narrow(recipe.encoder)
    size = 32 if getattr(encoder, "stem", "") == "imagenet" else 16
    views = tuple(replace(view, size=size, shift=min(view.shift, 2)) for view in recipe.augment.views)
    return replace(
        recipe,
        folder=str(folder / name),
        method=InDouble(method=_shrunk(recipe.method)),
        encoder=encoder,
        augment=replace(recipe.augment, views=views),
        sampling=sampling,
        data=replace(
            recipe.data, root=root, labelled_root=root if isinstance(sampling, TwoDomains) else "", limit=None
        ),
        batch_size=40 if sampling.images_per_class == 5 else 32,
        max_steps=STEPS,
        evaluate_every=0,
        workers=0,
        device="cpu",
    )


def _narrow(encoder: Encoder.Config) -> Encoder.Config:
    if isinstance(encoder, Timm.Config):
        return replace(encoder, image_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2)
    assert isinstance(encoder, ResNet.Config)
    if encoder.sk_ratio:  # shallower ones have no selective kernels
        return replace(encoder, width=1 / 16)
    return replace(encoder, depth="small", width=1 / 8)


def _shrunk(config: Any) -> Any:
    changes: dict[str, Any] = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            changes[field.name] = _shrunk(value)
        elif field.name in _SIZES and value:
            changes[field.name] = _SIZES[field.name]
    return replace(config, **changes)


def trained(runs: list[Run]) -> dict[str, dict[str, Any]]:
    """By recipe: losses as means over processes, and the method's and the optimizer's state after the last step."""
    found = {}
    for run in runs:
        with _losses() as losses:
            pretrain(run)
        last, damage = checkpoint.load_newest(Path(run.folder) / "checkpoints")
        assert last is not None, damage
        found[run.name] = {
            "losses": torch.stack(losses),
            "state": dict(last.tensors["method"]),
            "optimizer": dict(last.tensors["optimizer"]),
        }
    return found


@contextlib.contextmanager
def _losses() -> Iterator[list[Tensor]]:
    """The loss of every step that is taken meanwhile."""
    losses: list[Tensor] = []
    original = Method.forward

    def noted(self: Method, views: list[Tensor], batch: Batch) -> Step:
        step = original(self, views, batch)
        losses.append(mean_over_processes(step.loss.detach()))
        return step

    Method.forward = noted  # type: ignore[method-assign]
    try:
        yield losses
    finally:
        Method.forward = original  # type: ignore[method-assign]
