"""All hostile files, and what becomes of a command that is given one."""

import contextlib
import io
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from selfsup import cli
from tests.support.hostile_checkpoints import CHECKPOINTS_AND_ARCHIVES
from tests.support.hostile_data import DATA
from tests.support.hostile_encoders import ENCODERS
from tests.support.hostile_folders import FOLDERS
from tests.support.hostile_place import Hostile, Place, Written

SECONDS = 30  # a command that takes longer hangs
HOSTILE: list[Hostile] = [*ENCODERS, *DATA, *CHECKPOINTS_AND_ARCHIVES, *FOLDERS]


class Hanging(BaseException):
    """Nothing else catches it."""


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raises Hanging inside what takes longer."""

    def stop(number: int, frame: object) -> None:
        raise Hanging(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(hostile: Hostile, folder: Path, runs: Path) -> list[str]:
    """What is wrong with the way in which a hostile file is dealt with: nothing, if all is well.

    Args:
        hostile: the file.
        folder: empty; the file is laid out in it, and a command is carried out, in this process.
        runs: see `good_runs`; what is done is done to a copy.
    """
    place = Place(folder / "outer" / "inside", folder / "marker")
    shutil.copytree(runs, place.inside)
    written = hostile.write(place)
    code, told, problems = _carried_out(written)
    if place.marker.exists() or place.marker.with_suffix(".png").exists() or set(os.listdir(folder)) != {"outer"}:
        problems.append("something in it was run, or written outside")
    if os.listdir(folder / "outer") != ["inside"]:
        problems.append("something was written outside")
    if code not in (0, 2) or (hostile.refused is not None and hostile.refused != (code == 2)):
        problems.append(f"ended with {code}")
    if not all(character.isprintable() or character in "\n\t" for character in told):
        problems.append("control characters reach the terminal")
    if max(map(len, told.split("\n"))) > 3000:
        problems.append("a line of the message is longer than 3000 characters")
    if hostile.refused and not told.strip():
        problems.append("no message")
    return [f"{problem}: {told[-600:]}" for problem in problems]


def _carried_out(written: Written) -> tuple[object, str, list[str]]:
    """The exit code, what was written for the user, and exceptions that should not have come so far."""
    out, errors = io.StringIO(), io.StringIO()
    arguments, problems = sys.argv, list[str]()
    code: str | int = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors), within(SECONDS):
            if callable(written):
                written()
            else:
                sys.argv = ["selfsup", *written]
                cli.main()
    except SystemExit as end:
        code = end.code or 0
    except ValueError as error:
        code = 2
        errors.write(str(error))
        problems += [] if callable(written) else [f"a traceback ({type(error).__name__})"]
    except (Hanging, Exception) as error:
        problems.append(f"{type(error).__name__}: {error}")
    finally:
        sys.argv = arguments
    return code, out.getvalue() + errors.getvalue(), problems
