"""What commands of this process show on a terminal: of a pseudo-terminal, as a person would see it in the end."""

import contextlib
import fcntl
import os
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from typing import NamedTuple
from unittest.mock import patch

from selfsup import cli, output


class Terminal(NamedTuple):
    """Where standard output and standard error go."""

    columns: int = 80
    kind: str = "xterm-256color"  # TERM
    piped: bool = False  # both into a pipe, no terminal


TERMINALS = {
    "80 columns": Terminal(80),
    "160 columns": Terminal(160),
    "dumb": Terminal(80, "dumb"),
    "piped": Terminal(piped=True),
}


_END = "\x00"  # which nothing else writes


def shown(terminal: Terminal, *words: object) -> list[str]:
    """The lines that are left on a terminal after `selfsup WORDS`, both streams as they came.

    Raises:
        AssertionError: the command did not end with 0.
    """
    with _streams(terminal) as said, patch.object(sys, "argv", ["selfsup", *map(str, words)]):
        try:
            cli.main()
            code: object = 0
        except SystemExit as end:
            code = end.code or 0
    lines = _screen(said[0])
    assert code == 0, lines
    return lines


def with_placeholders(lines: list[str]) -> list[str]:
    """Without what differs from machine to machine: numbers, and with them the widths of columns."""
    text = "\n".join(lines)
    text = re.sub(r"\b(?=\d*[a-f])[0-9a-f]{12,64}\b", "<hash>", text)
    text = re.sub(r"(?<![\w.])-?\d+(,\d{3})*(\.\d+)?(e[-+]?\d+)?\b", "<n>", text)
    return [re.sub(r"[ ━╸╺]{2,}", "  ", line).rstrip() for line in text.splitlines()]


@contextlib.contextmanager
def _streams(terminal: Terminal) -> Iterator[list[str]]:
    """Within, standard output and standard error are the terminal; afterwards the list holds all that came there."""
    said: list[str] = []
    reading, writing = os.pipe() if terminal.piped else os.openpty()
    if not terminal.piped:
        fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 50, terminal.columns, 0, 0))
    heard = threading.Thread(target=lambda: said.append(_all_of(reading)))
    heard.start()
    # rich asks the program's own streams for the width, which are those of the tests here; and these variables before.
    place = {"TERM": terminal.kind, "COLUMNS": str(terminal.columns), "LINES": "50"}
    try:
        with open(writing, "w", buffering=1, encoding="utf-8") as stream:
            output.console.cache_clear()
            with patch.dict(os.environ, place), patch.multiple(sys, stdout=stream, stderr=stream):
                yield said
            stream.write(_END)
            stream.flush()
            heard.join()  # before the terminal is closed, at which Linux may drop what has not been read
    finally:
        output.console.cache_clear()
        heard.join()
        os.close(reading)


def _all_of(reading: int) -> str:
    """All that comes before the end; where a test has failed, before the other side is closed."""
    found = b""
    with contextlib.suppress(OSError):  # a pseudo-terminal that nobody writes to any more is an error on Linux
        while not found.endswith(_END.encode()) and (part := os.read(reading, 65_536)):
            found += part
    return found.decode().removesuffix(_END)


def _screen(said: str) -> list[str]:
    """What can be read in the end: lines that were drawn over are gone. Lines are as long as they were printed."""
    lines: list[list[str]] = [[]]
    row = column = 0
    for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|[\s\S]", said):
        if token == "\r":
            column = 0
        elif token == "\n":
            row, column = row + 1, 0
            lines += [[]] if row == len(lines) else []
        elif token[0] != "\x1b":
            lines[row] += [" "] * (column - len(lines[row]))
            lines[row][column : column + 1] = [token]
            column += 1
        elif token[-1] == "A":
            row -= int(token[2:-1] or 1)
        elif token[-1] == "K":
            lines[row] = [] if token[2:-1] == "2" else lines[row][:column]
    return ["".join(line).rstrip() for line in lines][: len(lines) - (not lines[-1])]
