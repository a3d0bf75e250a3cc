"""Data that do not suit the batches or the processes in number: what becomes of a run or a stage, in every process."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from selfsup import distributed
from selfsup.data.sampling import ClassBalanced, Sampling, Shuffled, TwoDomains
from selfsup.data.settings import Data
from selfsup.evaluation.logistic import FeatureProbe
from selfsup.pretraining import pretrain
from selfsup.stages.cluster import run_cluster
from selfsup.stages.knn import run_knn
from selfsup.stages.linear import run_linear
from selfsup.stages.retrieval import run_retrieval
from selfsup.stages.settings import KNN, KMeans, Retrieval
from tests.support.encoders import export_untrained
from tests.support.pictures import encoded, picture
from tests.support.tiny import tiny_run

BATCH = 12  # B, which 1, 2 and 3 processes can share, also where two domains share it
SIZES = (0, 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH - 1)
SAMPLINGS: dict[str, tuple[str, Sampling]] = {  # name -> a method that takes its batches, and the sampling
    "shuffled": ("simclr", Shuffled()),
    "by class": ("xbm", ClassBalanced(per_class=4)),
    "by cluster": ("spcl", ClassBalanced(per_class=2, singletons="once")),
    "two domains": ("spcl_domains", TwoDomains(per_class=2)),
}


class Case(NamedTuple):
    """Something that is done with data of a given size."""

    what: str  # a sampling to train with, or a stage
    size: int  # images
    workers: int = 0
    canvas: int | None = None
    broken: bool = False  # whether the first image cannot be read


def cases() -> list[Case]:
    """Every sampling and stage with every size; the ways to feed them with one or two."""
    trained = [Case(what, size, workers) for what in SAMPLINGS for size in SIZES for workers in (0, 2)]
    few = [
        Case(what, size, workers, canvas, broken)
        for what in STAGES
        for size in (1, 2, 3, 5)
        for workers, canvas in ((0, None), (2, None), (0, 16))
        for broken in (False, True)
    ]
    return [case for case in trained if not case.workers or case.size in (BATCH - 1, BATCH + 1)] + [
        case for case in few if case.size == 3 or not (case.workers or case.canvas)
    ]


def images(folder: Path, case: Case) -> Path:
    """Files for training and as many for testing, in three classes, the last of one image where there are few."""
    place = place_of(folder, case)
    for number in range(case.size):
        content = encoded(picture(number, 16, 16))
        for part in ("train", "test"):
            kind = place / part / "abc"[min(number * 3 // max(2, case.size - 1), 2)]
            kind.mkdir(exist_ok=True, parents=True)
            (kind / f"{number:02}.png").write_bytes(content[:60] if case.broken and number == 0 else content)
    for part in ("train", "test"):
        (place / part).mkdir(exist_ok=True, parents=True)
    return place


def place_of(folder: Path, case: Case) -> Path:
    return folder / f"images_{case.size}{'_broken' if case.broken else ''}"


def encoder(folder: Path) -> Path:
    run = tiny_run(folder)
    return export_untrained(folder, run.encoder, run.feed)


def outcome(case: Case, folder: Path) -> str:
    """How it ended, in this process: "refused: ..." with the message, or what came out."""
    data = Data(root=str(place_of(folder, case)), canvas=case.canvas)
    try:
        if case.what in SAMPLINGS:
            return _trained(case, folder, data)
        return str(_STAGES[case.what](folder / "encoder" / "encoder.safetensors", data, case.workers))
    except ValueError as error:
        return f"refused: {error}"


def _trained(case: Case, folder: Path, data: Data) -> str:
    method, sampling = SAMPLINGS[case.what]
    name = f"{case.what}_{case.size}_{case.workers}_{case.canvas}_{distributed.world_size()}".replace(" ", "_")
    if case.what == "two domains":
        data = replace(data, labelled_root=data.place)
    run = tiny_run(folder / name, method, batch_size=BATCH, workers=case.workers, sampling=sampling)
    config: Any = run.method
    if hasattr(config, "memory_size"):
        config = replace(config, memory_size=24, drift_images=6)
    if hasattr(config, "k1"):
        config = replace(config, k1=2, k2=1)
    result = pretrain(replace(run, data=data, epochs=2, method=config))
    return f"{result['step']} of {result['total_steps']} steps, {result['reason']}"


def _knn(path: Path, data: Data, workers: int) -> object:
    settings = KNN(data=data, k=(3,), batch_size=2, workers=workers, device="cpu", mode="leave_one_out")
    return round(run_knn(path, settings).results[0].figures["knn_top1"], 5)


def _linear(path: Path, data: Data, workers: int) -> object:
    settings = FeatureProbe(data=data, l2=(0.1, 1.0), iterations=5, batch_size=2, workers=workers, device="cpu")
    return run_linear(path, settings).results[0].protocol["train_images"]


def _retrieval(path: Path, data: Data, workers: int) -> object:
    settings = Retrieval(data=data, batch_size=2, workers=workers, device="cpu", recall_at=(1,))
    return round(run_retrieval(path, settings).results[0].figures["recall_at_1"], 5)


def _cluster(path: Path, data: Data, workers: int) -> object:
    settings = KMeans(data=data, k=2, repeats=1, batch_size=2, workers=workers, device="cpu")
    return run_cluster(path, settings).results[0].protocol["images"]


_STAGES: dict[str, Callable[[Path, Data, int], object]] = {
    "knn": _knn,
    "linear": _linear,
    "retrieval": _retrieval,
    "cluster": _cluster,
}
STAGES = tuple(_STAGES)


def outcomes(cases: list[Case], folder: str) -> list[str]:
    """Of each case in turn. The files are there: processes that made them would get into each other's way."""
    return [outcome(case, Path(folder)) for case in cases]
