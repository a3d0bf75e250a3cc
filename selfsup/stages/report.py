"""`selfsup report`: one page that tells how good a run or an encoder is."""

import time
from pathlib import Path
from typing import Any

from selfsup import distributed
from selfsup.data.base import NoTrainingPart, Source
from selfsup.data.opening import open_part, open_test_part, open_training
from selfsup.data.settings import Data
from selfsup.evaluation.newest import newest_encoder
from selfsup.output import message
from selfsup.report.at_end import NAME
from selfsup.report.collect import Effort, Images, collect
from selfsup.report.contents import Contents, Scored
from selfsup.report.encoding import Feeding
from selfsup.report.subject import subject_of
from selfsup.report.verdict import judged
from selfsup.report.writing import write_drawings, write_report
from selfsup.stages.base import Evaluated, Stage, data_of, place_of
from selfsup.stages.result_table import results_of
from selfsup.stages.run_data import require_data_of_run
from selfsup.stages.settings import HELP, Report
from selfsup.training.accelerator import stage_device


def run_report(path: Path, settings: Report) -> Evaluated:
    """Write the page on a run folder, an encoder.safetensors or another project's weights.

    Raises:
        ValueError: there is no encoder, no image, or no place to write to; or several processes are started.
        StorageError: the page cannot be written.
    """
    if distributed.launched() > 1:
        raise ValueError("a report is made by one process; start the command by itself")
    if not settings.out and not path.is_dir():
        raise ValueError(f"{path} is a file; say where the page is to be written, by --out FILE.html")
    begin = time.monotonic()
    require_data_of_run(path, settings.data)
    exported = newest_encoder(path, size=settings.size)
    subject = subject_of(path, exported)
    source, test = _opened(settings.data, subject.kind == "pretraining")
    feeding = Feeding(
        exported.feed.center(),
        stage_device(settings.device),
        settings.data.canvas,
        settings.workers,
        settings.batch_size,
    )
    images = Images(source=source, test=test, feeding=feeding, place=place_of(settings.data))
    effort = Effort(
        images=settings.images,
        seconds=60 * settings.minutes,
        tsne=settings.tsne,
        tsne_seconds=settings.tsne_seconds,
    )
    contents = collect(subject, images, effort, _evaluations(path))
    told = _written(contents, Path(settings.out) if settings.out else path / NAME, settings.png)
    return Evaluated([], told=told | {"seconds": round(time.monotonic() - begin, 1)})


def _opened(data: Data, pretraining: bool) -> tuple[Source, Source | None]:
    """The images that are looked at, and those that kNN asks about; test images alone where there are no others."""
    try:
        source = open_training(data) if pretraining else open_part(data, "train")
    except NoTrainingPart:
        return open_part(data, "test"), None
    return source, open_test_part(data)


def _evaluations(path: Path) -> list[Scored]:
    """The results that are kept in a run folder and in those within; none where there are none, or they are damaged."""
    if not path.is_dir():
        return []
    try:
        found = results_of(path)
    except (ValueError, OSError):
        return []
    return [
        Scored(f"{part}: {result.stage}" if part else result.stage, result.figures, result.protocol)
        for part, result in found
    ]


def _written(contents: Contents, out: Path, png: str) -> dict[str, Any]:
    """Write the page, and its drawings where a folder for them is given; say the verdict."""
    size = write_report(contents, out)
    verdict = judged(contents.evidence)
    for _, sentence in verdict.sentences:
        message(sentence)
    message(f"written to {out} ({size / 1e6:.1f} MB)")
    told: dict[str, Any] = {"report": str(out), "bytes": size, "verdict": [said for _, said in verdict.sentences]}
    told |= contents.figures
    if contents.left_out:
        told["left_out"] = contents.left_out
    if png:
        told["drawings"] = [str(place) for place in write_drawings(contents, Path(png))]
    return told


STAGE = Stage(run=run_report, defaults=lambda path, protocol: Report(data=data_of(path)), help=HELP["report"])
