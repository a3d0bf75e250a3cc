"""R6, R7, R13 and R17: hostile files, broken images, data of any size, machines that lack something."""

import io
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from selfsup.data.base import TooManyUnreadable, UnreadableImage
from selfsup.data.decode import decode
from selfsup.data.loader import Loader
from selfsup.data.sources import open_source
from tests.reliability.figure import Figure, Measured
from tests.support.corpus import HOSTILE, attempt
from tests.support.hostile_place import good_runs
from tests.support.pictures import broken_folder, broken_images, damaged, encoded, odd_images, picture, sound_images
from tests.support.poor import ALL, LACKS, carried_out, missing
from tests.support.processes import run_processes
from tests.support.uneven import Case, cases, encoder, images, outcomes

CPU = torch.device("cpu")


class Apart(NamedTuple):
    """What became of a function in a process of its own."""

    value: Any  # None where it did not end well
    signal: int  # that ended it: 11 for a segmentation fault, 9 where it took too long; 0: none
    output: str


def apart(function: Callable[[], Any], seconds: float, folder: Path) -> Apart:
    """Call it in a forked process, so that what would end this one is seen and counted."""
    result, output = folder / "result.json", folder / "output.txt"
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            result.write_text(json.dumps(function()))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    deadline = time.monotonic() + seconds
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.005)
    value = json.loads(result.read_text()) if ended[1] == 0 and result.is_file() else None
    return Apart(value, os.waitstatus_to_exitcode(ended[1]) if ended[1] else 0, output.read_text(errors="replace"))


# R6


def hostile_files(folder: Path, quick: bool) -> Measured:
    runs = good_runs(folder / "runs")
    problems: dict[str, list[str]] = {}
    executed = refused = 0
    chosen = HOSTILE[::4] if quick else HOSTILE
    for number, hostile in enumerate(chosen):
        place = folder / str(number)
        place.mkdir()
        ended = apart(partial(attempt, hostile, place, runs), 60, folder)
        found = ended.value if ended.value is not None else [f"the process ended with {ended.signal}: {ended.output}"]
        executed += any("was run" in problem for problem in found)
        refused += hostile.refused is True and not found
        if found:
            problems[hostile.name] = found
    harmless = sum(hostile.refused is not True and hostile.name not in problems for hostile in chosen)
    return Measured(
        f"{len(chosen)} hostile files: {executed} executed, {refused} refused with a message, {harmless} that do no "
        f"harm, {len(problems)} dealt with wrongly",
        not problems,
        "; ".join(problems)[:300],
        {"files": [hostile.name for hostile in chosen], "problems": problems},
    )


# R7


def flips(form: str, seeds: range) -> dict[str, Any]:
    """Decode a file of this form with other bits flipped for each seed, as a loader's worker would."""
    content, ends, longest = sound_images()[form], Counter[str](), 0.0
    for seed in seeds:
        begin = time.monotonic()
        try:
            image, size = decode(io.BytesIO(damaged(content, seed)), "name")
            ends["read" if image.mode == "RGB" and size == (image.height, image.width) else "wrong"] += 1
        except UnreadableImage as error:
            ends["reported" if error.reason else "wrong"] += 1
        longest = max(longest, time.monotonic() - begin)
    return {**ends, "longest": longest}


def first_pixels(pictures: list[Any], indices: torch.Tensor, epoch: Any) -> tuple[torch.Tensor, ...]:
    return (torch.stack([torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1) for image in pictures]),)


def loaded(folder: Path, way: dict[str, Any], spare: int) -> list[str]:
    """What is wrong with an epoch of batches from a folder where just 1 % of the images, of all kinds, are broken."""
    broken = broken_folder(folder)
    for number, content in enumerate(odd_images().values()):
        (folder / f"odd_{number:02}.jpg").write_bytes(content)
    (folder / "good.png").write_bytes(encoded(picture(0, 6, 5)))
    for number in range(101 * len(broken) - len(odd_images()) - len(broken)):
        os.link(folder / "good.png", folder / f"good_{number:05}.png")
    for number in range(spare):  # beyond 1 %
        (folder / f"worse_{number:02}.png").write_bytes(b"none")
    source = open_source(str(folder))
    loader = Loader(source, batch_size=32, seed=1, device=CPU, **way)
    bad = [Path(source.name(n)).name.startswith(("broken", "worse")) for n in range(len(source))]
    following = torch.arange(len(source))
    for row in reversed(range(len(source))):
        if bad[row]:
            following[row] = following[(row + 1) % len(source)]
    problems, seen = [], set()
    for number, batch in enumerate(loader.epoch(0)):
        rows = loader.sampler.batch(0, number)
        seen |= {row for row in rows.tolist() if bad[row]}
        pixels = batch.images if isinstance(batch.images, torch.Tensor) else batch.images[0]
        if not torch.equal(batch.indices, following[rows]) or len(pixels) != 32:
            problems.append(f"batch {number} is another one")
    unsaid = {source.name(row) for row in seen} - {name for name, reason in loader.unreadable.items() if reason}
    return problems + [f"{name} is not reported" for name in sorted(unsaid)]


def _stopped(folder: Path, way: dict[str, Any]) -> list[str]:
    try:
        loaded(folder, way, spare=3)
    except TooManyUnreadable as error:
        return [] if str(folder) in str(error) else ["the message names no image"]
    return ["more than 1 % did not stop it"]


WAYS: dict[str, dict[str, Any]] = {
    "decoded anew": {"crop": first_pixels},
    "by 2 workers": {"crop": first_pixels, "workers": 2},
    "decoded once": {"canvas": 8},
}


def broken_pictures(folder: Path, quick: bool) -> Measured:
    """Every chunk is decoded in a process of its own, by the function that the loaders call."""
    chunk, chunks = 100, 1 if quick else 10
    ends: dict[str, Counter[str]] = {}
    crashes: list[str] = []
    longest = 0.0
    for form in sound_images():
        ends[form] = Counter()
        for number in range(chunks):
            ended = apart(partial(flips, form, range(chunk * number, chunk * (number + 1))), 120, folder)
            if ended.value is None:
                crashes.append(f"{form}, chunk {number}: {ended.signal}")
                continue
            longest = max(longest, ended.value.pop("longest"))
            ends[form].update(ended.value)
    problems = [f"{form}: {count['wrong']} wrong" for form, count in ends.items() if count["wrong"]]
    for number, (name, way) in enumerate(WAYS.items()):
        for use, place in ((partial(loaded, spare=0), f"some{number}"), (_stopped, f"many{number}")):
            ended = apart(partial(use, folder / place, way), 300, folder)
            if ended.value is None:
                crashes.append(f"{name}: {ended.signal} {ended.output[-300:]}")
            problems += [f"{name}: {problem}" for problem in ended.value or []]
    total = sum(sum(count.values()) for count in ends.values())
    kinds = len(broken_images()) + 6
    return Measured(
        f"{kinds} kinds of broken and {len(odd_images())} of unusual images, {total:,} files with flipped bits in "
        f"{len(ends)} forms: {len(crashes)} crashes, {len(problems)} batches or reports wrong, "
        f"{longest:.1f} s for the slowest",
        not crashes and not problems,
        "; ".join(crashes + problems)[:300],
        {"flips": {form: dict(count) for form, count in ends.items()}, "crashes": crashes, "problems": problems},
    )


# R13


def uneven_data(folder: Path, quick: bool) -> Measured:
    chosen: list[Case] = cases()[::5] if quick else cases()
    encoder(folder / "encoder")
    for case in chosen:
        images(folder, case)
    found = {1: [outcomes(chosen, str(folder))]}
    for world in (2, 3):
        try:
            found[world] = run_processes(world, outcomes, chosen, str(folder))
        except Exception as error:  # one process failed, or all waited for each other until their time was up
            return Measured(f"{world} processes did not end well", False, str(error)[-300:])
    told = [text for ranks in found.values() for text in ranks[0]]
    problems = [
        f"{case} in {world} processes: {'; '.join(sorted(set(texts)))[:200]}"
        for world, ranks in found.items()
        for case, *texts in zip(chosen, *ranks, strict=True)
        if len(set(texts)) > 1
    ]
    shared = "cannot be shared|per process"  # refusals that depend on the number of processes, by design
    for world in (2, 3):
        for case, alone, text in zip(chosen, found[1][0], found[world][0], strict=True):
            by_design = any(part in text for part in shared.split("|"))
            if text != alone and not by_design:
                problems.append(f"{case}: {text[:100]} in {world} processes, {alone[:100]} in one")
    refused = sum(text.startswith("refused") for text in told)
    return Measured(
        f"{len(chosen)} cases of 0 to 2B - 1 images, in 1, 2 and 3 processes: {len(told) - refused} ran, {refused} "
        f"were refused with a message, 0 hung, {len(problems)} differ between processes or their numbers",
        not problems,
        "; ".join(problems)[:300],
        {"cases": [case._asdict() for case in chosen], "outcomes": {str(w): r[0] for w, r in found.items()}},
    )


# R17


def poor_machine(folder: Path, quick: bool) -> Measured:
    digests: dict[str, str] = {}
    untried: dict[str, str] = {}
    failed: dict[str, str] = {}
    for number, lack in enumerate((LACKS[0], ALL) if quick else (*LACKS, ALL)):
        if reason := missing(lack):
            untried[lack.name] = reason
            continue
        place = folder / str(number)
        place.mkdir()
        try:
            digests[lack.name] = carried_out(lack, place)
        except RuntimeError as error:
            failed[lack.name] = str(error)
    other = [name for name, digest in digests.items() if digest != digests.get("nothing")]
    told = f", {len(untried)} cannot be tried here" if untried else ""
    return Measured(
        f"pretraining, kNN and a comparison without {len(digests) + len(failed) - 1} things, alone and together: "
        f"{len(failed)} failed, {len(other)} trained another encoder{told}",
        None if len(untried) > 1 else not failed and not other,
        "; ".join([*failed, *(f"{name}: {reason}" for name, reason in untried.items())])[:300],
        {"encoders": digests, "failed": failed, "untried": untried},
    )


FIGURES: tuple[Figure, ...] = (
    Figure("R6", "0 hostile files executed, each one refused with a message or without effect", 1.5, hostile_files),
    Figure(
        "R7",
        "20 kinds of broken image: 0 crashes, same batch size and order, all reported",
        2,
        broken_pictures,
    ),
    Figure("R13", "data of any size in any number of processes: a refusal or a run, 0 hang", 2.5, uneven_data),
    Figure(
        "R17",
        "64 MB of shared memory, 256 handles, no network, no home: all runs end well",
        2,
        poor_machine,
    ),
)
