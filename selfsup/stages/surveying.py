"""`selfsup data`: what is in images, before anything is trained on them."""

import os
import time
from pathlib import Path
from typing import Any

from selfsup.data.base import NoTrainingPart
from selfsup.data.opening import open_part, open_test_part
from selfsup.data.settings import Data
from selfsup.data.squeezed import cores
from selfsup.output import image_progress, message
from selfsup.stages.survey_settings import Survey
from selfsup.storage import checkpoint
from selfsup.storage.untrusted import plain_name
from selfsup.survey.account import Account, Parts, account_of
from selfsup.survey.told import figures, lines
from selfsup.survey.webpage import survey_page


def run_survey(settings: Survey) -> dict[str, Any]:
    """Look at all images that `settings.data` names, say what was found, and write the page where one is asked for.

    Raises:
        ValueError: there is no image, or several processes are started.
        StorageError: the page cannot be written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("data are looked at by one process, which starts its own; call it without accelerate launch")
    begin = time.monotonic()
    out = Path(settings.out) if settings.out else None
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)  # now, and not after all images were looked at
    found = _account(settings)
    found.seconds = time.monotonic() - begin
    for line in lines(found):
        message(line)
    told = figures(found)
    if out is not None:
        page = survey_page(found)
        checkpoint.write_atomically(out, page)
        message(f"written to {plain_name(out)} ({len(page) / 1e6:.1f} MB)")
        told |= {"out": str(out)}
    return told


def _account(settings: Survey) -> Account:
    parts = _opened(settings.data)
    workers = cores() if settings.workers is None else settings.workers
    with image_progress("data") as progress:
        task = progress.add_task("data", total=sum(map(len, parts.values())))

        def advance(images: int) -> None:
            progress.advance(task, images)

        return account_of(settings.data.place, parts, workers, settings.data.verify == "full", advance)


def _opened(data: Data) -> Parts:
    """The parts that there are; of data that have no training part the test images alone."""
    parts: Parts = {}
    try:
        parts["train"] = open_part(data, "train")
    except NoTrainingPart:
        return {"test": open_part(data, "test")}
    if (test := open_test_part(data)) is not None:
        parts["test"] = test
    return parts
