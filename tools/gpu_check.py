"""Check on a machine with a GPU what only a GPU can show: `python -m tools.gpu_check --minutes 9 --data PATH`.

Parts, in this order, or those of --only in the order given; each one alone is enough:
  first         device and versions, one step of every method, one resume, a few rates: at most two minutes
  tests         the tests marked `gpu`, each failure by its name
  augmentation  views a second
  step          the whole training step against the bare forward, backward and optimizer
  learning      SimCLR, ResNet-18, CIFAR-10, batch 512: kNN after every epoch; the same command goes on later

One line of JSON for each figure as soon as it is known, on standard output and in <out>/report.jsonl. Each part is a
process of its own: one that fails, crashes or hangs costs no other. Ends with 0 where all was well. Nothing is
downloaded. With --small everything is tiny, so that a CPU shows that the script works.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))["again_as_module"](__file__)

import argparse
import multiprocessing
import os
import platform
import signal
import sys
import time
import traceback
from importlib import import_module, metadata

from tools.gpu.asked import Asked
from tools.gpu.images import ARRAY, PACKS, found_cifar10
from tools.gpu.needs import absent, table

# The function of each part and its seconds at most; what comes last takes all that is left.
PARTS = {
    "first": ("tests.reliability.on_device", "check_first", 120),
    "tests": ("tools.gpu.tests", "check_tests", 240),
    "augmentation": ("tools.gpu.rates", "check_augmentation", 45),
    "step": ("tools.gpu.rates", "check_step", 75),
    "learning": ("tools.gpu.learning", "check_learning", 24 * 3600),
}
LEAST = 10  # seconds that are kept for each part to come
GRACE = 15  # seconds that a part may be late


def main() -> None:
    options = parsed()
    if options.needs:
        print(table(options.has.read_text() if options.has else ""))
        return
    begin = time.monotonic()
    options.out.mkdir(parents=True, exist_ok=True)
    facts = {"small": options.small, "out": options.out, "data": tuple(options.data), "epochs": options.epochs}
    told = Asked(part="environment", end=begin, **facts)
    tell_environment(told)
    failed = []
    for number, part in enumerate(options.only):
        now, left = time.monotonic(), begin + 60 * options.minutes - time.monotonic()
        to_come = len(options.only) - number - 1
        seconds = min(left - LEAST * to_come, PARTS[part][2] if to_come else left)
        if not carried_out(Asked(part=part, end=now + seconds, **facts)):
            failed.append(part)
    seconds_taken = round(time.monotonic() - begin, 1)
    Asked(part="end", end=begin, **facts).tell(ok=not failed, failed=failed, seconds=seconds_taken)
    sys.exit(bool(failed))


def parsed() -> argparse.Namespace:
    kept = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tools.gpu_check", description=__doc__, formatter_class=kept)
    parser.add_argument("--only", type=_parts, default=list(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--minutes", type=_minutes, default=9.0, help="for all of it (default %(default)s)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, for a CPU")
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        help=f"{ARRAY}, or a folder with it or with {' and '.join(PACKS)}; may be given several times",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu_check"), help="folder (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=100, help="that learning plans for (default %(default)s)")
    parser.add_argument("--needs", action="store_true", help="list the packages to bring beyond torch and accelerate")
    parser.add_argument("--has", type=Path, help="with --needs: a file that names what the machine has (pip list)")
    options = parser.parse_args()
    for path in [*options.data, *([options.has] if options.has else [])]:
        if not path.exists():
            parser.error(f"there is no {path}; leave it out, or give a folder or file that is there")
    return options


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    unknown = [part for part in parts if part not in PARTS]
    if unknown or len(set(parts)) < len(parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not some of {','.join(PARTS)}, each once")
    return parts


def _minutes(text: str) -> float:
    minutes = float(text)
    if not 0 < minutes <= 24 * 60:
        raise argparse.ArgumentTypeError(f"{text} minutes; give more than 0 and at most {24 * 60}")
    return minutes


def tell_environment(told: Asked) -> None:
    """The first line: versions, which images there are, and what is left out."""
    files = found_cifar10(told.data)
    looked = ", ".join(map(str, told.data)) or "the cache (no --data given)"
    images = ", ".join(map(str, files)) or f"CIFAR-10 was not found in {looked}: learning takes generated images"
    missing = absent()
    versions = {name: metadata.version(name) for name in ("torch", "accelerate")}
    left_out = [f"{name} is not installed: tests and comparisons that need it are left out" for name in missing]
    told.tell(data=images, small=told.small, python=platform.python_version(), **versions, left_out=left_out)


def carried_out(asked: Asked) -> bool:
    """Whether a part went well, in a process of its own, which is ended where it does not end in time."""
    if asked.left < LEAST:
        asked.tell(ok=False, error="left out: no time is left for it")
        return False
    # A fork: torch is imported already, and the GPU is untouched until the part touches it.
    process = multiprocessing.get_context("fork").Process(target=_part, args=(asked,))
    process.start()
    begin = time.monotonic()
    try:
        process.join(asked.left + GRACE)
    finally:
        late = process.is_alive()
        if late:
            _end(process)
    if late:
        asked.tell(ok=False, error=f"ended after {time.monotonic() - begin:.0f} s: it did not come to its end in time")
    elif process.exitcode not in (0, 1):
        asked.tell(ok=False, error=f"its process ended with status {process.exitcode}")
    return process.exitcode == 0 and not late


def _part(asked: Asked) -> None:
    os.setpgid(0, 0)  # so that what it starts can be ended with it
    module, function, _ = PARTS[asked.part]
    try:
        well = getattr(import_module(module), function)(asked)
    except Exception as error:  # whatever it is, it is told, and the other parts go on
        traceback.print_exc()
        asked.tell(ok=False, error=f"{type(error).__name__}: {error}"[:2000])
        well = False
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(not well)  # nothing that still runs in this process may hold it up


def _end(process: multiprocessing.context.ForkProcess) -> None:
    """First politely, so that a run saves; then all that it has started."""
    process.terminate()
    process.join(GRACE)
    try:
        os.killpg(process.pid or 0, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.join(GRACE)


if __name__ == "__main__":
    main()
