"""Pages carried out in this process, as their reader would: what runs, runs from top to bottom in one folder."""

import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from selfsup import cli
from tools.documents import Block, blocks


def follow(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Carry out the blocks of a page that are of the shell or of Python; returns how many there were.

    Commands are those of selfsup, and programs that an earlier block has written; others fail.
    """
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {"__name__": "__main__"}
    carried = [block for block in blocks(page.read_text()) if block.language in ("sh", "python")]
    for block in carried:
        if block.language == "python":
            _python(block, names)
        else:
            for words in commands(block):
                _command(words, page, block, monkeypatch)
    return len(carried)


def commands(block: Block) -> list[list[str]]:
    """The words of each command; a line that ends in a backslash goes on in the next one."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _python(block: Block, names: dict[str, Any]) -> None:
    named = re.match(r"# (\S+\.py)\n", block.code)
    if named:
        Path(named[1]).write_text(block.code)
    else:
        exec(compile(block.code, f"block at line {block.line}", "exec"), names)


def _command(words: list[str], page: Path, block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"{page.name}:{block.line}: {shlex.join(words)}"
    monkeypatch.setattr(sys, "argv", words)
    if words[0] == "python":
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")
    elif words[0] == "selfsup":
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        assert not code, place
    else:
        raise AssertionError(f"{place}: only selfsup and python are carried out")
