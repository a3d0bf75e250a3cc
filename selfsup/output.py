"""Everything that is said, to standard output and standard error, in one place: no run ends for want of a listener.

A terminal is closed, `| head` has seen enough, the disk behind a log is full. Then Python's `print` raises, rich ends
the program, and what is left in a buffer spoils the exit code. Through the streams of this module a writer never fails:
what cannot be written is noted, and at the end it becomes an exit code and a word on the other stream.
"""

import contextlib
import errno
import functools
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TextIO

from selfsup.storage.untrusted import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

UNWRITTEN = 74  # EX_IOERR of sysexits.h: the figures were not printed; where there is a run folder, they are in it
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET, errno.ESHUTDOWN)  # for good; a full disk may empty


class Steady(io.TextIOBase):
    """A text stream whose writer never fails.

    Args:
        stream: gives the stream to write to; None where the program was started without one.
        number: of its file, where this is a standard stream of the program: once it is gone for good, that becomes
            /dev/null, so that libraries and child processes that write to it themselves do not fail either.
    """

    def __init__(self, stream: Callable[[], TextIO | None], number: int | None = None) -> None:
        self._stream, self._number = stream, number
        self.problem = ""  # why something was not written
        self.carries_figures = False
        self._dead: TextIO | None = None  # the stream that is gone for good; another may have taken its place

    def write(self, text: str) -> int:
        self._attempt(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._attempt(lambda stream: stream.flush())

    def _attempt(self, act: Callable[[TextIO], object]) -> None:
        stream = self._stream()
        if stream is None or stream is self._dead:
            return
        try:
            act(stream)
        except OSError as error:
            self.problem = self.problem or error.strerror or str(error)
            if error.errno in _GONE:
                self.give_up()
        except ValueError as error:  # closed, by the program around this one
            self.problem = self.problem or str(error)
            self.give_up()

    def give_up(self) -> None:
        """Write to nowhere from now on; what is still in a buffer goes there too."""
        self._dead = self._stream()
        if self._number is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._number)
            os.close(nowhere)

    def isatty(self) -> bool:
        stream = self._stream()
        return stream is not None and stream is not self._dead and not stream.closed and stream.isatty()

    def fileno(self) -> int:
        stream = self._stream()
        if stream is None:
            raise io.UnsupportedOperation("the program was started without this stream")
        return stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream(), "encoding", None) or "utf-8"

    @property
    def buffer(self) -> Any:
        return self._stream().buffer  # type: ignore[union-attr]


def _errors() -> TextIO | None:
    """Standard error as it is now: under tests, and behind a progress bar of rich's, it is replaced."""
    found: TextIO | None = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    return found


errors = Steady(_errors)  # for messages and progress bars, also of a program that only imports selfsup


def complain(text: str) -> None:
    """One message on standard error that needs neither rich nor torch."""
    errors.write(f"{plain(text)}\n")
    errors.flush()


class _Wanted:
    json = False  # by --json: the JSON object on a terminal, too


def want_json(wanted: bool) -> None:
    """Whether results are printed as JSON on a terminal, too, from here on."""
    _Wanted.json = wanted


def read_by_people() -> bool:
    """Whether standard output is a terminal, and nobody has asked for JSON on it."""
    return not _Wanted.json and sys.stdout is not None and sys.stdout.isatty()


def print_figures(result: dict[str, Any], in_words: Callable[[dict[str, Any]], list[str]] | None = None) -> None:
    """Print the result of a command, flushed; it says too where messages were lost on the way.

    Args:
        result: is printed as one JSON line.
        in_words: makes lines for people of it, which are printed instead where they read.
    """
    err, out = sys.stderr, sys.stdout
    lost = {"messages_lost": err.problem} if isinstance(err, Steady) and err.problem else {}
    if in_words is not None and read_by_people():
        lines = [*in_words(result), *(f"messages were lost: {reason}" for reason in lost.values())]
        print("\n".join(plain(line) for line in lines), flush=True)
    else:
        print(json.dumps(result | lost), flush=True)
    if isinstance(out, Steady):
        out.carries_figures = True


@contextlib.contextmanager
def program() -> Iterator[None]:
    """Within, nothing that writes to the standard streams fails. For programs; a library leaves its user's alone.

    Figures that could not be printed make 74 of the exit code 0, and standard error says so. Where the reader of a help
    text or a list has left, as `| head` does, nothing is wrong. Lost messages change no code: what was asked was done.

    Raises:
        SystemExit: always, on leaving without another error.
    """
    _open_closed_ones()
    replaced = sys.stdout, sys.stderr
    out, err = _steady(sys.stdout, 1), _steady(sys.stderr, 2)
    sys.stdout, sys.stderr = out, err
    try:
        code = 0
        try:
            yield
        except SystemExit as ending:
            code = _number(ending.code)
        sys.exit(_settled(out, err, code))
    finally:
        sys.stdout, sys.stderr = replaced


def _number(code: object) -> int:
    """An exit code as `sys.exit` takes it: a text is a message, and means 1."""
    if code is None or isinstance(code, int):
        return code or 0
    complain(str(code))
    return 1


def _settled(out: Steady, err: Steady, code: int) -> int:
    """The exit code, once all that can be written is written."""
    out.flush()
    if out.problem and (out.carries_figures or out.problem != os.strerror(errno.EPIPE)):
        complain(f"selfsup: standard output cannot be written ({out.problem}); what belongs there is lost")
        code = code or UNWRITTEN
    err.flush()
    for stream in (out, err):
        if stream.problem:
            stream.give_up()  # Python flushes once more at its end
    return code


def _open_closed_ones() -> None:
    """Give the standard streams that this program was started without to /dev/null.

    Their numbers would go to the next files that are opened, a checkpoint perhaps, and what libraries in C have to say
    would be written into them.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one


def _steady(stream: TextIO | None, number: int) -> Steady:
    steady = Steady(lambda: stream, number)
    if stream is None:
        steady.problem = "closed"
    return steady


@functools.cache
def console() -> "Console":
    """rich's, on standard error; made where it is first used, so that help needs no rich."""
    from rich.console import Console

    return Console(file=errors, highlight=False)  # type: ignore[arg-type]


def image_progress(command: str) -> "Progress":
    """A bar on the terminal that counts images; nothing where there is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(command), BarColumn(), MofNCompleteColumn(), TextColumn("images, left"), TimeRemainingColumn()
    return Progress(*columns, console=console(), disable=not console().is_terminal)


LOGGER = logging.getLogger("selfsup")


class OnStandardError(logging.Handler):
    """Prints each message as it is, on standard error; a writer never fails."""

    def emit(self, record: logging.LogRecord) -> None:
        console().print(record.getMessage(), soft_wrap=True, markup=False)


def message(text: str, level: int = logging.INFO) -> None:
    """One message for the person in front of the terminal; standard output is left to results.

    It goes through the logger "selfsup", which prints on standard error until it is given a handler of one's own, and
    from `logging.INFO` on until it is given a level.
    """
    if not LOGGER.handlers:
        LOGGER.addHandler(OnStandardError())
        LOGGER.propagate = False
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    LOGGER.log(level, "%s", plain(text))


def meant_for_user(error: BaseException) -> bool:
    """Whether selfsup itself raised the error, rather than something below it that went wrong unexpectedly."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(("selfsup.", "__main__"))
