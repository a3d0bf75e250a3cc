"""Few labels from beginning to end: pretrain, fine-tune, distil (SimCLRv2, Chen et al. 2020), beside the baseline."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.table import Table

from selfsup import distributed
from selfsup.data.labelled import choice_digest
from selfsup.data.settings import Data
from selfsup.evaluation.newest import newest_encoder
from selfsup.output import console, message
from selfsup.pretraining import Run, pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import Evaluated, Result, keep, place_of, read
from selfsup.stages.distill import run_distill
from selfsup.stages.distill_settings import Distill
from selfsup.stages.finetune import run_finetune
from selfsup.stages.finetune_settings import Finetune
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.semi_settings import Semi, SemiFromRecipe, check
from selfsup.storage import checkpoint
from selfsup.training.accelerator import make_accelerator
from selfsup.training.precision import settled
from selfsup.training.settings import Training


def run_semi(name: str, settings: Semi) -> Evaluated:
    """Pretrain, fine-tune on few labels, train the baseline on the same, and distil on all images without labels.

    Each part has a folder of its own in that of the whole: pretrain (not where a run is taken), finetune, supervised,
    distill. One that is finished is passed over, and one that was interrupted goes on where it stopped.

    Args:
        name: a recipe, a run folder or an encoder.safetensors.
        settings: from `parse_semi` or `semi_settings`, with `data.root` and `labelled` set.

    Returns:
        One result of stage "semi": "finetune_top1", "supervised_top1", "distill_top1", the same for top5, and
        "gain_top1", what fine-tuning has over the baseline.

    Raises:
        ValueError: no labels are named, settings of the parts contradict each other, or the data or folders do not fit.
    """
    require_data_of_run(Path(name), settings.data)
    images = check(name, settings)
    folder = RunFolder(Path(settings.folder or _default_folder(name, settings)))
    settings = _settled(folder.as_begun(settings), folder)
    accelerator = make_accelerator(
        replace(settings.finetune, batch_size=min(settings.finetune.batch_size, len(images.labelled)))
    )
    facts: dict[str, Any] = {"labelled": choice_digest(images.labelled)}
    contents = images.contents(settings)
    recipe = isinstance(settings, SemiFromRecipe)
    origin = folder.path / "pretrain" if recipe else Path(name)
    if not recipe:
        facts["start"] = newest_encoder(origin, told=False).sha256
    limits, used = _Limits(settings, time.monotonic(), accelerator.device), 0
    with folder.claimed(settings, facts, accelerator.device, contents):
        for number, (part, training) in enumerate(settings.parts.items(), start=1):
            place = folder.path / part
            if not _finished(place):
                limited = limits.put_on(replace(training, folder=str(place)), used)
                if isinstance(limited, str):
                    return Evaluated([], limited, folder=folder.path)
                if distributed.rank() == 0:
                    message(f"part {number} of {len(settings.parts)}: {part}")
                ended = _carry_out(origin, limited)
                if ended.reason != "finished":
                    return Evaluated([], ended.reason, ended.signal, folder.path)
            used += max(checkpoint.steps(place / "checkpoints"), default=0)
        result = _summary(folder.path, settings.data)
    if distributed.rank() == 0:
        console().print(table(result))
    return Evaluated([result], folder=folder.path)


def _settled(settings: Semi, folder: RunFolder) -> Semi:
    """With the precision resolved, in all parts that do not name one."""
    settings = settled(settings, folder)
    parts: dict[str, Any] = {
        name: replace(part, precision=settings.precision)
        for name, part in settings.parts.items()
        if part.precision == "auto"
    }
    return replace(settings, **parts)


class _Limits(NamedTuple):
    """How long all parts together may take."""

    settings: Semi
    begin: float
    device: torch.device

    def put_on(self, training: Training, used: int) -> Training | str:
        """The part with what is left of steps and time after `used` steps, or the reason why it may not begin."""
        steps, minutes = self.settings.max_steps, self.settings.max_minutes
        if steps is not None and (steps := steps - used) <= 0:
            return "max-steps"
        if minutes is not None:
            minutes -= (time.monotonic() - self.begin) / 60
            minutes = distributed.gather_json(minutes, self.device)[0]  # so that all processes decide alike
            if minutes <= 0:
                return "max-minutes"
        return replace(training, max_steps=steps, max_minutes=minutes)


def _default_folder(name: str, settings: Semi) -> Path:
    if isinstance(settings, SemiFromRecipe):
        return Path("runs") / f"{settings.pretrain.name}_semi_{settings.labelled.name}"
    path = Path(name) if Path(name).is_dir() else Path(name).parent
    return path.parent / f"{path.resolve().name}_semi_{settings.labelled.name}"


def _finished(place: Path) -> bool:
    """Whether a part is done: pretraining has exported its encoder, the others have been judged, too."""
    return (place / "encoder.json").is_file() and (place.name == "pretrain" or bool(read(RunFolder(place), place.name)))


def _carry_out(origin: Path, training: Training) -> Evaluated:
    """Train a part in its folder, or go on there, and keep its results."""
    place = Path(training.folder)
    if isinstance(training, Run):
        ended = pretrain(training)
        return Evaluated([], ended["reason"], ended["signal"])
    if isinstance(training, Distill):
        evaluated = run_distill(place.parent / "finetune", training)
    else:
        assert isinstance(training, Finetune)
        evaluated = run_finetune(origin, training)
    if evaluated.results and distributed.rank() == 0:
        keep(RunFolder(place), evaluated.results)
    distributed.barrier()  # the next part is begun, or passed over, by all
    return evaluated


def _summary(folder: Path, data: Data) -> Result:
    """What the parts have come to."""
    results = {part: read(RunFolder(folder / part), part)[0] for part in ("finetune", "supervised", "distill")}
    figures = {
        f"{part}_{top}": value
        for part, result in results.items()
        for name, value in result.figures.items()
        if (top := name.rpartition("_")[2]) in ("top1", "top5") and not name.startswith("teacher")
    }
    figures["gain_top1"] = figures["finetune_top1"] - figures["supervised_top1"]
    tuned = results["finetune"].protocol
    about = {
        "encoder_sha256": results["distill"].about["encoder_sha256"],
        "finetuned_sha256": results["finetune"].about["encoder_sha256"],
        "supervised_sha256": results["supervised"].about["encoder_sha256"],
        **{name: results["finetune"].about[name] for name in ("pretrained_sha256", "seed", "labelled_seed")},
    }
    protocol = {name: tuned[name] for name in ("labels", "labelled_images", "data", "test_images", "transform")}
    protocol |= {part: result.protocol for part, result in results.items()}
    return Result(stage="semi", figures=figures, protocol=protocol, about=about, data_root=place_of(data))


def table(result: Result) -> Table:
    """The figures for a terminal, the baseline first."""
    protocol = result.protocol
    shown = Table(title=f"{protocol['labelled_images']} labelled images, {protocol['test_images']} test images")
    for column in ("", "top-1", "top-5", "epochs", "of"):
        shown.add_column(column, justify="right" if column in ("top-1", "top-5", "epochs") else "left")
    rows = {
        "supervised": ("from scratch", "the labelled images"),
        "finetune": ("pretrained, fine-tuned", "the labelled images"),
        "distill": ("distilled student", "all images"),
    }
    for part, (title, images) in rows.items():
        figures = (f"{100 * result.figures[f'{part}_{top}']:.2f}" for top in ("top1", "top5"))
        shown.add_row(title, *figures, str(protocol[part]["epochs"]), images)
    return shown
