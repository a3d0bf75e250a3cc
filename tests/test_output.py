"""No run ends, and no figure is lost, because a standard stream cannot be written."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest

from selfsup import output
from selfsup.monitor import log

FULL = Path("/dev/full")  # always says that the disk is full


class Broken(io.StringIO):
    """A stream that fails as long as it has a reason."""

    def __init__(self, reason: int) -> None:
        super().__init__()
        self.reason = reason

    def write(self, text: str) -> int:
        if self.reason:
            raise OSError(self.reason, os.strerror(self.reason))
        return super().write(text)


def closed_pipe() -> int:
    """The end to write to of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def finished_as(script: str, *, out: int = subprocess.PIPE, err: int = subprocess.PIPE) -> tuple[int, str, str]:
    """How a program ends that runs the script with `program`: its code, and what it said."""
    source = f"import sys, os, logging, warnings\nfrom selfsup.output import *\nwith program():\n    {script}\n"
    done = subprocess.run([sys.executable, "-c", source], stdout=out, stderr=err, text=True, timeout=60)
    return done.returncode, done.stdout or "", done.stderr or ""


@pytest.mark.parametrize("reason", [errno.EPIPE, errno.EIO])
def test_a_message_to_nobody_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    """Rich would end the program where a pipe is closed."""
    monkeypatch.setattr(sys, "stderr", Broken(reason))
    log.message("nobody reads this")
    heard = io.StringIO()
    monkeypatch.setattr(sys, "stderr", heard)  # a stream of its own is not given up for another
    log.message("somebody reads this")
    assert heard.getvalue() == "somebody reads this\n"


def test_a_full_disk_may_have_room_again() -> None:
    stream = Broken(errno.ENOSPC)
    steady = output.Steady(lambda: stream)
    assert steady.write("lost") == 4
    stream.reason = 0
    steady.write("written")
    assert stream.getvalue() == "written"
    assert steady.problem == os.strerror(errno.ENOSPC)


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_figures_that_cannot_be_printed_are_told(tmp_path: Path) -> None:
    for make in (closed_pipe, lambda: os.open(FULL, os.O_WRONLY)):
        handle = make()
        code, _, said = finished_as("print_figures({'top1': 1})", out=handle)
        os.close(handle)
        assert code == output.UNWRITTEN
        assert "standard output cannot be written" in said
        assert "Traceback" not in said
        assert "Exception ignored" not in said


def test_the_reader_of_a_help_text_may_leave() -> None:
    handle = closed_pipe()
    assert finished_as("[print('word ' * 99) for _ in range(999)]", out=handle)[::2] == (0, "")
    os.close(handle)


def test_whoever_writes_to_a_lost_standard_error_goes_on() -> None:
    """Also C libraries, by the number of the stream; and the figures say that messages were lost."""
    handle = closed_pipe()
    script = (
        "print('a', file=sys.stderr, flush=True); os.write(2, b'b'); warnings.warn('c'); logging.error('d'); "
        "print_figures({'top1': 1})"
    )
    code, figures, _ = finished_as(script, err=handle)
    os.close(handle)
    assert code == 0
    assert json.loads(figures) == {"top1": 1, "messages_lost": "Broken pipe"}


def test_a_standard_stream_that_was_closed_lends_its_number_to_no_file(tmp_path: Path) -> None:
    """What C libraries say would be written into a checkpoint."""
    path = tmp_path / "file"
    script = f"from selfsup.output import *\nwith program():\n  f = open({str(path)!r}, 'w'); print(f.fileno(), file=f)"
    subprocess.run(["sh", "-c", f'exec {sys.executable} -c "{script}" <&- 2>&-'], check=True, timeout=60)
    assert int(path.read_text()) > 2


@pytest.mark.parametrize(("ending", "code"), [("sys.exit(3)", 3), ("sys.exit('no')", 1), ("pass", 0)])
def test_the_exit_code_stays(ending: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    streams: tuple[TextIO, TextIO] = (sys.stdout, sys.stderr)
    with pytest.raises(SystemExit) as caught, output.program():
        exec(ending)
    assert caught.value.code == code
    assert (sys.stdout, sys.stderr) == streams
