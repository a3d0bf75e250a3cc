"""The report at the end of a pretraining run: within a small share of its time, and never a reason to fail."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from selfsup.data.sources import Source
from selfsup.evaluation.newest import newest_encoder
from selfsup.output import message
from selfsup.report.collect import Effort, Images, collect
from selfsup.report.encoding import Feeding
from selfsup.report.subject import subject_of
from selfsup.report.writing import write_report

NAME = "report.html"  # in a run folder
SHARE = 0.05  # of the time that training took
MOST = 120.0  # seconds
_LEAST = 2.0  # seconds that are worth reading images for


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A pretraining that has just ended."""

    folder: Path  # of the run, with its encoder
    source: Source  # the training images
    tested: Callable[[], Source | None]  # gives those that online evaluations ask about
    device: torch.device
    canvas: int | None  # of the run's data
    trained: float  # seconds


def report_at_end(run: Finished) -> dict[str, Any]:
    """Write report.html into the folder of a run that has just been finished; whatever goes wrong is only said.

    For one process alone. Photographs are decoded by this process itself, so that no worker is started.

    It takes `SHARE` of the time that training took, `MOST` seconds at most.

    Returns:
        what the page says in figures, as far as there was time for it; nothing where there is no page.
    """
    try:
        exported = newest_encoder(run.folder, told=False)
        seconds = min(MOST, SHARE * run.trained)
        images = None
        if seconds >= _LEAST:
            feeding = Feeding(exported.feed.center(), run.device, run.canvas, workers=0)
            images = Images(source=run.source, test=run.tested(), feeding=feeding)
        effort = Effort(seconds=seconds, tsne_seconds=0.3 * seconds)
        contents = collect(subject_of(run.folder, exported), images, effort, [])
        if contents.left_out:
            contents.left_out.append(f"All of it: selfsup report {run.folder}")
        write_report(contents, run.folder / NAME)
        message(f"how good it is, on one page: {run.folder / NAME}")
        how = contents.compared.protocol if contents.compared is not None else {}
        asked = {"split": how["split"], "query_images": how["images that are judged"]} if how else {}
        return {"page": str(run.folder / NAME), **asked, **contents.figures}
    except Exception as error:  # a page is no reason to end with an error after hours of training
        message(f"no report was written: {str(error).partition(chr(10))[0] or type(error).__name__}")
        return {}
