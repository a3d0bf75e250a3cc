"""R20: a checkpoint whose files are not of one moment is refused, whichever file it is and wherever it comes from."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from selfsup.evaluation.encoder import load_encoder
from selfsup.pretraining import Run, pretrain
from selfsup.storage import checkpoint
from selfsup.storage.sealed import DamagedFile
from tests.reliability.figure import Figure, Measured
from tests.reliability.watched import differing
from tests.support.tiny import METHODS, QUICK, tiny_run

OLD, NEW, STEPS = 6, 11, 16  # in the first epoch, in the second, and the end of a tiny run


class Exchange(NamedTuple):
    """One file of a checkpoint, and the checkpoint whose file of that name takes its place."""

    name: str
    file: str
    of: Path
    by: Path


def at(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step_{step:08d}"


def exchanges(run: Path, other: Path) -> Iterator[Exchange]:
    """Each file of a checkpoint by that of an earlier one, of a later one and of another run's at the same step."""
    for of, by, whence in (
        (at(run, NEW), at(run, OLD), "an earlier one's"),
        (at(run, OLD), at(run, NEW), "a later one's"),
        (at(run, NEW), at(other, NEW), "another run's"),
    ):
        for path in sorted(of.iterdir()):
            if path.read_bytes() != (by / path.name).read_bytes():  # else it is the same checkpoint
                yield Exchange(f"{path.name} by {whence}", path.name, of, by)


def refused(exchange: Exchange, place: Path) -> bool:
    """Whether the checkpoint with the exchanged file is not read."""
    mixed = place / exchange.of.name
    shutil.copytree(exchange.of, mixed)
    shutil.copyfile(exchange.by / exchange.file, mixed / exchange.file)
    try:
        checkpoint.load(mixed)
    except DamagedFile as error:
        return str(mixed) in str(error)
    finally:
        shutil.rmtree(mixed)
    return False


def gone_on(run: Run, exchange: Exchange, place: Path) -> str:
    """What is wrong with a run that is resumed where its newest checkpoint has an exchanged file; empty: nothing."""
    whole = Path(run.folder)
    place.mkdir()
    shutil.copy(whole / "config.json", place)
    for step in (OLD, NEW):
        shutil.copytree(at(whole, step), at(place, step))
    shutil.copyfile(exchange.by / exchange.file, at(place, NEW) / exchange.file)
    begun = pretrain(replace(run, folder=str(place)))
    wrong = [name for names in differing(whole, place).values() for name in names]
    logged = (place / "metrics.jsonl").read_text().splitlines()
    if len(logged) != STEPS - OLD or begun["step"] != STEPS:
        wrong.append(f"{len(logged)} steps were done after it")
    return ", ".join(sorted(set(wrong)))


def encoder_refused(run: Path, other: Path, place: Path, name: str) -> bool:
    shutil.copytree(run, place, ignore=shutil.ignore_patterns("checkpoints"))
    shutil.copyfile(other / name, place / name)
    try:
        load_encoder(place)
    except ValueError as error:
        return str(place) in str(error)
    return False


def measure(folder: Path, quick: bool) -> Measured:
    tried, let_in = 0, []
    for method in QUICK[:2] if quick else METHODS:
        run = tiny_run(folder / method, method, log_every=1, keep_last=STEPS, save_steps=1)
        other = replace(run, folder=str(folder / f"{method}_other"), seed=1)
        for one in (run, other):
            pretrain(one)
        for exchange in exchanges(Path(run.folder), Path(other.folder)):
            tried += 1
            if not refused(exchange, folder / f"{method}_mixed"):
                let_in.append(f"{method}: {exchange.name}")
        for name in ("encoder.safetensors", "encoder.json"):
            tried += 1
            if not encoder_refused(Path(run.folder), Path(other.folder), folder / f"{method}_{name}", name):
                let_in.append(f"{method}: {name} by another run's")
    run = tiny_run(folder / "moco", "moco", log_every=1, keep_last=STEPS, save_steps=1)
    wrong = {}
    resumed = [e for e in exchanges(folder / "moco", folder / "moco_other") if e.of == at(folder / "moco", NEW)]
    for number, exchange in enumerate(resumed):
        if found := gone_on(run, exchange, folder / f"resumed_{number}"):
            wrong[exchange.name] = found
    share = 100 * (tried - len(let_in)) / tried
    return Measured(
        figure=f"{tried - len(let_in)} of {tried} exchanged files refused ({share:.0f} %); {len(resumed)} runs resumed "
        f"over one go on from the checkpoint before it, {len(wrong)} of them with other bits",
        good=not let_in and not wrong,
        reason="; ".join([*let_in, *(f"{name}: {found}" for name, found in wrong.items())])[:300],
        details={"let in": let_in, "resumed": [e.name for e in resumed], "wrong": wrong},
    )


FIGURES = (
    Figure("R20", "any one file of a checkpoint exchanged with another generation's: refused 100 %", 2, measure),
)
