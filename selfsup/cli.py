"""The program `selfsup`: which command is meant, and how it ends. torch is imported inside commands only."""

import os
import sys
import tempfile

import selfsup
from selfsup.output import complain, meant_for_user, program, want_json
from selfsup.packages import missing
from selfsup.runtime.parent_death import follow_launcher
from selfsup.stages.commands import command_of
from selfsup.usage import USAGE


def main() -> None:
    """Entry point of `selfsup` and `python -m selfsup`.

    Exits with 0; 1: `doctor`, or `data --strict`, has found something broken; 2: cannot be done as asked; 74: the
    figures could not be printed; 75: another process of the run is gone or stuck; 128 + signal.
    """
    arguments = sys.argv[1:]
    # Threads that wait by spinning take the core from the ones they wait for; must be set before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if sys.platform == "darwin":  # the CPU computes what MPS does not know; must be set before torch is imported
        os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    try:
        with program():
            if not arguments or arguments[0] in ("-h", "--help", "help"):
                print(USAGE, end="")
            elif arguments == ["--version"]:
                print(f"selfsup {selfsup.__version__}")
            else:
                sys.exit(_carried_out(arguments))
    except SystemExit as ending:
        if "torch.distributed" in sys.modules:
            from selfsup import distributed

            distributed.end_program(int(ending.code or 0))
        raise


def _carried_out(arguments: list[str]) -> int:
    """The exit code of a command."""
    try:
        if "ACCELERATE_MIXED_PRECISION" in os.environ:
            from selfsup.runtime.launch import start_missing_processes

            start_missing_processes(arguments)
        follow_launcher()  # before torch is imported, which takes seconds
        want_json("--json" in arguments)
        words = [word for word in arguments if word != "--json"]
        if not words:
            raise ValueError("the command is missing\nsee: selfsup --help")
        if words[0] != "pretrain":  # of the others, help is of all flags
            words = ["--help" if word == "--help-all" else word for word in words]
        command = command_of(words[0])
        _require_temporary_folder()
        return command(words[1:])
    except KeyboardInterrupt:
        complain("selfsup: interrupted")
        return 130
    except ModuleNotFoundError as error:
        sentence = missing(error, "this command")
        if sentence is None or os.environ.get("SELFSUP_TRACEBACK"):
            raise
        complain(f"selfsup: {sentence}")
        return 2
    except (ValueError, OSError) as error:
        named = isinstance(error, OSError) and error.filename is not None  # a full disk, a folder without permission
        if not (meant_for_user(error) or named) or os.environ.get("SELFSUP_TRACEBACK"):
            raise
        complain(f"selfsup: {error}")
        code: int = getattr(error, "exit_code", 2)
        if code != 2:  # an orderly end could wait for a process that is gone
            os._exit(code)
        return code


def _require_temporary_folder() -> None:
    """torch cannot even be imported without one."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        raise ValueError(
            "there is no folder for temporary files: neither /tmp nor the current folder can be written\n"
            "set the environment variable TMPDIR to one that can"
        ) from error
