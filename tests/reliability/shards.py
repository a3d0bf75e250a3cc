"""R25: images in tar shards and in tables, and runs on them that are killed."""

from pathlib import Path

from tests.reliability.figure import Figure, Measured
from tests.support.killed_shards import goes_on, hugging_face, webdataset


def measure(folder: Path, quick: bool) -> Measured:
    found = {}
    for write in (webdataset, hugging_face):
        for world in (1,) if quick else (1, 2):
            place = folder / f"{write.__name__}{world}"
            place.mkdir()
            for workers, wrong in goes_on(place, write, world, (0, 2)).items():
                found[f"{write.__name__}, {world} processes, {workers} workers"] = wrong
    wrong = {name: what for name, what in found.items() if what}
    figure = f"{len(wrong)} of {len(found)} end otherwise"
    return Measured(figure, not wrong, "; ".join(f"{name}: {what}" for name, what in wrong.items()), found)


FIGURES = [
    Figure("R25", "images in tar shards and in tables: killed in mid-epoch, the same bits at the end", 1.0, measure)
]
