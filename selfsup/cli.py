"""The commands. torch is imported inside them only, so that help answers at once."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

_USAGE = """selfsup: self-supervised contrastive pretraining

  selfsup pretrain RECIPE [flags]     pretrain by a shipped recipe or by a .py file; run again to go on
  selfsup knn RUN [flags]             judge an encoder by weighted nearest neighbours
  selfsup retrieval RUN [flags]       judge an encoder by retrieval: Recall@k, mAP, MAP@R
  selfsup linear RUN [flags]          judge an encoder by a linear probe (--protocol features, moco, simclr)
  selfsup recipes                     list the shipped recipes
  selfsup methods                     what each method remembers and minimises, its papers and recipes

RUN is a run folder or an encoder.safetensors. Every command explains its flags with --help.
On several GPUs: accelerate launch --num_processes N -m selfsup pretrain RECIPE [flags]
The last line on standard output is a JSON object with the figures; messages go to standard error.
"""


def main() -> None:
    """Entry point of `selfsup` and `python -m selfsup`: exits with 0, 2 (cannot be done as asked), or 128 + signal."""
    arguments = sys.argv[1:]
    # Threads that wait by spinning take the core from the ones they wait for; must be set before torch is imported.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_USAGE, end="")
        return
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        from selfsup.launch import start_missing_processes

        start_missing_processes(arguments)
    try:
        command = _command(arguments[0])
        sys.exit(command(arguments[1:]))
    except KeyboardInterrupt:
        print("selfsup: interrupted", file=sys.stderr)
        sys.exit(130)
    except (ValueError, OSError) as error:
        named = isinstance(error, OSError) and error.filename is not None  # a full disk, a folder without permission
        if not (meant_for_user(error) or named) or os.environ.get("SELFSUP_TRACEBACK"):
            raise
        print(f"selfsup: {error}", file=sys.stderr)
        sys.exit(2)


def _command(name: str) -> Callable[[list[str]], int]:
    commands = {
        "pretrain": _pretrain,
        "knn": _knn,
        "retrieval": _retrieval,
        "linear": _linear,
        "recipes": _recipes,
        "methods": _methods,
    }
    if name not in commands:
        from selfsup.config import nearest

        raise ValueError(f"unknown command {name!r}{nearest(name, list(commands))}\nsee: selfsup --help")
    return commands[name]


def meant_for_user(error: BaseException) -> bool:
    """Whether selfsup itself raised the error, rather than something below it that went wrong unexpectedly."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith(("selfsup.", "__main__"))


def _first(arguments: list[str], what: str, usage: str) -> tuple[str, list[str]]:
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage)
        sys.exit(0)
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"{what} is missing\nusage: {usage}")
    return arguments[0], arguments[1:]


def _print_result(result: dict[str, Any]) -> int:
    """Print the JSON line, in the main process only; returns the exit code."""
    from selfsup import distributed

    if distributed.rank() == 0:
        print(json.dumps(result), flush=True)
    distributed.shut_down()
    return 128 + result["signal"] if result.get("signal") else 0


def _pretrain(arguments: list[str]) -> int:
    usage = "selfsup pretrain RECIPE [flags]   (flags of a recipe: selfsup pretrain RECIPE --help)"
    name, flags = _first(arguments, "the recipe", usage)
    from selfsup.config import load_recipe, parse
    from selfsup.pretrain import Run, pretrain

    recipe = load_recipe(name)
    if not isinstance(recipe, Run):
        raise ValueError(f"recipe {name} must be a selfsup.pretrain.Run, not a {type(recipe).__name__}")
    return _print_result(pretrain(parse(recipe, flags, f"selfsup pretrain {name}")))


def _run_data(path: Path) -> Any:
    """The data that a run was trained on, if `path` is a run folder."""
    from selfsup.config import Data
    from selfsup.folder import RunFolder
    from selfsup.pretrain import data_of

    return data_of(RunFolder(path)) if (path / "config.json").is_file() else Data()


_Evaluation = Callable[[Path, Any, Any], dict[str, Any]]  # of an encoder's path, its settings, a device


def _knn(arguments: list[str]) -> int:
    def load() -> tuple[Any, _Evaluation]:
        from selfsup.stages.knn import KNN, run_knn

        return KNN, run_knn

    return _judge(arguments, "knn", load)


def _retrieval(arguments: list[str]) -> int:
    def load() -> tuple[Any, _Evaluation]:
        from selfsup.stages.retrieval import Retrieval, run_retrieval

        return Retrieval, run_retrieval

    return _judge(arguments, "retrieval", load)


def _judge(arguments: list[str], command: str, load: Callable[[], tuple[Any, _Evaluation]]) -> int:
    """An evaluation on features that needs no training: parse, carry out, write results/COMMAND.json."""
    usage = f"selfsup {command} RUN [--data.root PATH] [flags]"
    name, flags = _first(arguments, "the run folder or encoder file", usage)
    path = Path(name)
    from selfsup.config import parse
    from selfsup.folder import RunFolder
    from selfsup.trainer import device_for

    settings, run = load()
    chosen = parse(settings(data=_run_data(path)), flags, f"selfsup {command} {name}")
    result = run(path, chosen, device_for(chosen.device))
    if path.is_dir():
        RunFolder(path).write_json(f"results/{command}.json", result)
    return _print_result(result)


def _linear(arguments: list[str]) -> int:
    usage = "selfsup linear RUN [--protocol features|moco|simclr] [--data.root PATH] [flags]"
    name, flags = _first(arguments, "the run folder or encoder file", usage)
    path = Path(name)
    from selfsup import distributed
    from selfsup.config import parse
    from selfsup.folder import RunFolder
    from selfsup.stages.linear import FeatureProbe, probe_settings, run_linear
    from selfsup.trainer import device_for

    protocol, flags = _taken(flags, "--protocol", "features")
    defaults = probe_settings(protocol, _run_data(path))
    settings = parse(defaults, flags, f"selfsup linear {name} --protocol {protocol}")
    device = device_for(settings.device) if isinstance(settings, FeatureProbe) else None
    result = run_linear(path, settings, device)
    if path.is_dir() and "linear_top1" in result and distributed.rank() == 0:
        RunFolder(path).write_json(f"results/linear_{protocol}.json", result)
    return _print_result(result)


def _taken(flags: list[str], name: str, default: str) -> tuple[str, list[str]]:
    """The value of one flag that has to be known before the others, and the flags without it."""
    for position, flag in enumerate(flags):
        if flag == name and position + 1 < len(flags):
            return flags[position + 1], flags[:position] + flags[position + 2 :]
        if flag.startswith(f"{name}="):
            return flag.partition("=")[2], flags[:position] + flags[position + 1 :]
    return default, flags


def _recipes(arguments: list[str]) -> int:
    from selfsup.config import recipe_names, recipe_summary

    if arguments:
        raise ValueError(f"selfsup recipes takes no arguments, not {' '.join(arguments)}")
    for name in recipe_names():
        print(f"{name:24} {recipe_summary(name)}")
    return 0


def _methods(arguments: list[str]) -> int:
    if arguments:
        raise ValueError(f"selfsup methods takes no arguments, not {' '.join(arguments)}")
    from selfsup.catalogue import table

    print(table(), end="")
    return 0
