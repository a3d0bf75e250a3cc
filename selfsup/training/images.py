"""The images that are trained on: the loader of this process, and an account of those that could not be read."""

import torch
from accelerate import Accelerator

from selfsup import distributed
from selfsup.augment.views import Views
from selfsup.data.loader import Loader
from selfsup.data.opening import tell_cut_short
from selfsup.data.packed import Packed
from selfsup.data.sampling import SHUFFLED, Sampling
from selfsup.data.settings import Data
from selfsup.data.sources import ArraySource, Source
from selfsup.output import message
from selfsup.run_folder.folder import RunFolder
from selfsup.training.settings import Training


def make_loader(
    training: Training,
    data: Data,
    source: Source,
    views: Views,
    accelerator: Accelerator,
    sampling: Sampling = SHUFFLED,
) -> Loader:
    """The loader of a training stage, for this process."""
    canvas = source.pack.size if isinstance(source, Packed) else data.canvas
    if canvas is not None and (isinstance(source, Packed) or not isinstance(source, ArraySource)):
        largest = max(max(view.shape) for view in views.augment.views)
        if largest > canvas and distributed.rank() == 0:
            again = "pack them anew with" if isinstance(source, Packed) else "give"
            message(
                f"views of {largest} pixels are cut from images of {canvas} (data.canvas), and so are enlarged; "
                f"{again} --data.canvas {largest} or more, or smaller views"
            )
    return Loader(
        source,
        batch_size=training.batch_size,
        seed=training.seed,
        device=accelerator.device,
        rank=distributed.rank(),
        world=distributed.world_size(),
        workers=training.workers,
        canvas=data.canvas,
        crop=None if data.canvas is not None else views.crop,
        sampling=sampling,
    )


def report_unreadable(loader: Loader, folder: RunFolder, device: torch.device) -> None:
    """Say how many images could not be read, by any process, and add them to the list in the run folder.

    And how many were read in part.
    """
    met = loader.unreadable
    parts = distributed.gather_json({name: "" for name in loader.source.names_cut_short()}, device)
    if distributed.rank() == 0:
        tell_cut_short(sorted({name for part in parts for name in part}))
    unreadable = folder.read_json("unreadable.json")  # of earlier launches
    for part in distributed.gather_json(met, device):
        unreadable |= part
    if unreadable and distributed.rank() == 0:
        path = folder.write_json("unreadable.json", unreadable)
        message(f"{len(unreadable)} unreadable images were replaced by their neighbours; they are listed in {path}")
