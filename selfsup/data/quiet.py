"""What Pillow has one of for a whole process, whatever number of threads decode: its warnings, and its tolerance."""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ImageFile

_gate = threading.Condition()
_threads_inside = 0
_alone: int | None = None  # the thread that decodes, or waits to decode, when no other does
_catcher: warnings.catch_warnings | None = None


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings while any thread decodes.

    Pillow warns of odd metadata and large images, which are either harmless or reported as unreadable here.
    `warnings.catch_warnings` changes the whole process, so the threads that decode share one: the first to come in
    sets it, the last to go out takes it back.
    """
    global _threads_inside, _catcher
    with _gate:
        while _alone not in (None, threading.get_ident()):
            _gate.wait()
        if _threads_inside == 0:
            _catcher = warnings.catch_warnings()
            _catcher.__enter__()
            warnings.simplefilter("ignore")
        _threads_inside += 1
    try:
        yield
    finally:
        with _gate:
            _threads_inside -= 1
            if _threads_inside == 0 and _catcher is not None:
                _catcher.__exit__(None, None, None)
                _catcher = None
            _gate.notify_all()


@contextmanager
def tolerant() -> Iterator[None]:
    """Let Pillow read damaged files as far as they go, in this thread alone.

    Its switch is of the whole process, so every other thread finishes what it decodes before, and begins nothing until
    it is back where it was.
    """
    global _alone
    with _gate:
        while _alone is not None:
            _gate.wait()
        _alone = threading.get_ident()
        while _threads_inside:
            _gate.wait()
        before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, True
    try:
        yield
    finally:
        with _gate:
            ImageFile.LOAD_TRUNCATED_IMAGES, _alone = before, None
            _gate.notify_all()
