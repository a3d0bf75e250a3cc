"""R3, R4, R5 and R15: kills, failing disks, damaged files, and the checkpoints of earlier releases."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from selfsup.pretraining import pretrain
from selfsup.run_folder.folder import RunFolder
from selfsup.stages.base import Result, keep
from selfsup.storage import checkpoint
from tests.reliability.crash_baselines import BASELINES, losses
from tests.reliability.figure import Figure, Measured
from tests.support.damaged import passed_over, try_all
from tests.support.kills import Kill, Seen, at_moments, at_points, chain, command, exit_code, forked, killed, recipe
from tests.support.releases import STORED, problems
from tests.support.tiny import tiny_run

EVERY = 8  # steps between saves


def _beyond(seen: Seen) -> int:
    """Steps lost, without those that were made while the newest checkpoint was being written."""
    lost = seen.reached - seen.saved
    return lost - (seen.reached - seen.begun) if seen.begun > seen.saved else lost


def _same(one: Path, other: Path) -> bool:
    if (one / "encoder.safetensors").read_bytes() != (other / "encoder.safetensors").read_bytes():
        return False
    states = [checkpoint.load_newest(path / "checkpoints") for path in (one, other)]
    (first, wrong), (second, also_wrong) = states
    if first is None or second is None or wrong or also_wrong:
        return False
    return all(
        torch.equal(value, second.tensors[group][name])
        for group, named in first.tensors.items()
        for name, value in named.items()
    )


def _killed_run(folder: Path, name: str, epochs: int, kills: list[Kill], flag: str) -> tuple[list[Seen], list[bool]]:
    """Kill one run after another until all kills are used up; whether each ended as the run in folder/whole did."""
    seen: list[Seen] = []
    same = []
    while len(seen) < len(kills):
        place = folder / f"{name}_{len(same)}"
        words: list[str | Path] = ["pretrain", recipe(place, epochs, EVERY), flag]
        seen += [one for one in chain(place, words, kills[len(seen) :]) if one.killed]
        program = [sys.executable, "-m", "selfsup", *map(str, words)]
        done = subprocess.run(program, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        same.append(_same(folder / "whole", place))
    return seen, same


def kills(folder: Path, quick: bool) -> Measured:
    epochs, count, between, others = (30, 6, 4, 2) if quick else (240, 100, 100, 40)
    # The moments are spread over twice the time from the start of a command to its second save.
    first, words = folder / "first", ["--max-steps", str(2 * EVERY)]
    begin = time.monotonic()
    killed(["pretrain", recipe(first, epochs, EVERY), *words], Kill(point="pruned", times=99), folder / "log")
    window = 2 * (time.monotonic() - begin)
    path = recipe(folder / "whole", epochs, EVERY)
    if exit_code(forked(lambda: command("pretrain", path), folder / "log")):
        raise RuntimeError((folder / "log").read_text())
    lines, details, good = [], {}, True
    for number, (name, flag) in enumerate((("beside", "--save-async"), ("between", "--no-save-async"))):
        half = (count, between)[number] // 2
        mixed = [
            kill
            for pair in zip(at_points(half, number), at_moments(half, window, number), strict=True)
            for kill in pair
        ]
        seen, same = _killed_run(folder, name, epochs, mixed, flag)
        unreadable = [line for one in seen for line in one.unreadable]
        lost, beyond = max(one.reached - one.saved for one in seen), max(map(_beyond, seen))
        good = good and not unreadable and beyond <= EVERY and all(same) and (not number or lost <= EVERY)
        lines.append(
            f"{len(seen)} kills with {flag}: {len(unreadable)} unreadable, at most {lost} steps lost of an interval of "
            f"{EVERY}"
            + ("" if number else f" and those made while a file was written ({beyond} without these)")
            + f", "
            f"{sum(same)} of {len(same)} runs bit-equal at their end"
        )
        details[name] = {"kills": [str(kill) for kill in mixed], "seen": seen, "equal": same}
    lost_all = {name: losses(name, folder / "baselines", others) for name in BASELINES}
    rows = [f"| {name} | {lost} of {others} |" for name, lost in lost_all.items()]
    good = good and lost_all[BASELINES[2]] == 0
    table = [
        f"8 MB of weights are saved after every step, and the process is killed at a random moment of {others}:",
        "",
        "| way of saving | nothing left to load |",
        "|---|---|",
        *rows,
    ]
    return Measured("; ".join(lines), good, details={**details, "baselines": lost_all}, table="\n".join(table))


def disks(folder: Path, quick: bool) -> Measured:
    program = [sys.executable, "-m", "tests.reliability.crash_disks", str(folder)]
    own = ["unshare", "--mount"]
    try:
        mounts = (
            subprocess.run([*own, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True).returncode == 0
        )
    except FileNotFoundError:
        mounts = False
    words = [*own, *program, "--disk"] if mounts and not quick else program
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    with_what = "a full and a read-only tmpfs, " if "--disk" in words else ""
    figure = (
        f"{len(told['wrong'])} failures in {len(told['cases'])} cases ({with_what}a limit on the size of files, EIO at "
        f"{len(checkpoint.POINTS)} points): exit code, words, the checkpoint before, what is left, the same bits after"
    )
    reason = "" if "--disk" in words else "no tmpfs here: a full disk is shown by the limit on the size of files alone"
    return Measured(figure, not told["wrong"], reason, told)


def damage(folder: Path, quick: bool) -> Measured:
    pretrain(tiny_run(folder / "run", save_steps=8))
    run = RunFolder(folder / "run")
    keep(run, [Result(stage="knn", figures={"top1": 0.5}, protocol={"k": 3}, about={"encoder_sha256": "ab"})])
    count, silent = try_all(run.path, 8 if quick else 64)
    missed = passed_over(run.path)
    figure = (
        f"{len(silent)} of {count} damages read silently (checkpoint, encoder, its head, config.json, results), each "
        f"named; {len(missed)} times not gone back to the checkpoint before"
    )
    return Measured(figure, not silent and not missed, details={"silent": silent, "missed": missed})


def releases(folder: Path, quick: bool) -> Measured:
    found = {f"{path.parent.name} {path.name}": problems(path, folder / str(n)) for n, path in enumerate(STORED)}
    good = sum(not lines for lines in found.values())
    return Measured(
        f"{good} of {len(found)} stored runs go on, and their encoders load ({', '.join(found)})",
        good == len(found) > 0,
        details=found,
    )


FIGURES: tuple[Figure, ...] = (
    Figure(
        "R3",
        "100 x kill -9: 0 unreadable checkpoints, at most one save interval lost, final weights bit-equal",
        10,
        kills,
    ),
    Figure(
        "R4",
        "disk full, I/O error, read-only folder: the checkpoint before loads, the error names path and bytes",
        1,
        disks,
    ),
    Figure("R5", "truncation or a flipped bit at 64 offsets of every file: 0 silent loads", 0.5, damage),
    Figure("R15", "checkpoints of every release load", 0.2, releases),
)
