"""The checkout that a program of the tools lies in is the one it runs, installed or not.

Processes that it starts, in whatever folder, find the same checkout by PYTHONPATH. A package that is missing is said in
one sentence.
"""

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]


def begin() -> None:
    """Called before a program of the tools imports anything else."""
    inherited = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(ROOT), *map(os.path.abspath, inherited)]))
    sys.excepthook = _say_what_is_missing


def again_as_module(program: str) -> NoReturn:
    """Start a program that was started by its path as the module it is: its neighbours are found then."""
    path = Path(program).resolve()
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    inherited = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), inherited]))
    os.execv(sys.executable, [sys.executable, "-m", name, *sys.argv[1:]])


def _say_what_is_missing(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:  # what is not a missing package is shown as ever
    from selfsup.packages import missing

    program = sys.orig_argv[sys.orig_argv.index("-m") + 1]
    sentence = missing(error, program) if isinstance(error, ModuleNotFoundError) else None
    if sentence is None or os.environ.get("SELFSUP_TRACEBACK"):
        sys.__excepthook__(kind, error, trace)
    else:
        print(sentence, file=sys.stderr)
