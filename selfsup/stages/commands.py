"""What each command does with its words: parse them, carry it out, print its result. torch is imported inside only."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfsup.output import message, print_figures
from selfsup.stages.looking import look_at_data, look_at_installation
from selfsup.usage import first_word, flags_told, leading_words, named_images

if TYPE_CHECKING:
    from selfsup.stages.base import Evaluated

# Commands on a run: modules of selfsup.stages, each with a STAGE.
STAGES = ("knn", "retrieval", "linear", "finetune", "distill", "evaluate", "cluster", "embed", "dedup", "report")


def command_of(name: str) -> Callable[[list[str]], int]:
    commands: dict[str, Callable[[list[str]], int]] = {
        "pretrain": _pretrain,
        **{stage: partial(run_stage, stage) for stage in STAGES},
        "semi": _semi,
        "predict": _predict,
        "search": _search,
        "compare": _compare,
        "data": look_at_data,
        "doctor": look_at_installation,
        "pack": _pack,
        "import": partial(_weights, "import"),
        "export": partial(_weights, "export"),
        "replay": _replay,
        "recipes": _recipes,
        "methods": _methods,
        "completion": _completion,
    }
    if name not in commands:
        from selfsup.config.stored_names import nearest

        raise ValueError(f"unknown command {name!r}{nearest(name, list(commands))}\nsee: selfsup --help")
    return commands[name]


def _print_result(result: dict[str, Any], of: str = "", kept: str = "") -> int:
    """Print the JSON line, or what a person reads of it, in the main process only; returns the exit code.

    Args:
        result: the figures.
        of: the command or stage, where `selfsup.stages.in_words` has words of its own for it.
        kept: the file that holds all of the result.
    """
    from selfsup import distributed
    from selfsup.stages.in_words import in_words

    if distributed.rank() == 0:
        print_figures(result, partial(in_words, of, kept=kept))
    code = 0
    if result.get("signal"):
        from selfsup.runtime.signals import leave

        code = leave(result["signal"])
    distributed.shut_down()
    return code


def _pretrain(arguments: list[str]) -> int:
    usage = (
        "selfsup pretrain RECIPE --data PATH [flags]   (flags of a recipe: selfsup pretrain RECIPE --help)\n"
        "example: selfsup pretrain simclr_folder --data photos/"
    )
    name, flags = first_word(arguments, "the recipe", usage)
    from selfsup.config.flag_help import recipe_help
    from selfsup.config.flags import DRY_RUN, parse, pop_size, pop_switch
    from selfsup.config.recipe_files import load_recipe
    from selfsup.pretraining import Run, pretrain
    from selfsup.stages.dry_run import dry_run
    from selfsup.stages.view_size import resized, told

    recipe = load_recipe(name)
    if not isinstance(recipe, Run):
        raise ValueError(f"recipe {name} must be a selfsup.pretraining.Run, not a {type(recipe).__name__}")
    size, flags = pop_size(flags)
    only_tried, flags = pop_switch(flags, DRY_RUN)
    begun = recipe if size is None else resized(recipe, size)
    if {"-h", "--help"} & set(flags):
        print(recipe_help(begun, name))
        return 0
    run = parse(begun, flags, f"selfsup pretrain {name}")
    if size is not None and os.environ.get("RANK", "0") == "0":
        for line in told(recipe, begun, run):
            message(line)
    return _print_result(dry_run(run), "dry-run") if only_tried else _print_result(pretrain(run), "pretrain")


def run_stage(command: str, arguments: list[str]) -> int:
    """A stage on a run: parse, carry out, keep the results in its folder."""
    from selfsup.config.flags import flags_in, parse, pop_flag, values_of
    from selfsup.config.recipe_files import load_recipe
    from selfsup.stages.settings import help_of

    about = help_of(command)
    choices = f" [--protocol {'|'.join(about.protocols)}]" if about.protocols else ""
    usage = f"selfsup {command} RUN{choices} [--data.root PATH] [--recipe FILE.py] [flags]"
    if arguments[:1] in (["-h"], ["--help"]):
        protocol, _ = pop_flag(arguments[1:], "--protocol", about.protocols[0] if about.protocols else "")
        if not about.protocols or protocol in about.protocols:
            said = f"{usage}\n\n{about.example}" if about.example else usage
            flags_told(said, lambda: about.settings(protocol), f"selfsup {command} RUN")
    name, flags = first_word(arguments, "the run folder or encoder file", usage)
    from selfsup.stages.base import Stage
    from selfsup.stages.run_data import beside_named_data

    stage: Stage = import_module(f"selfsup.stages.{command}").STAGE
    recipe, flags = pop_flag(flags, "--recipe", "")
    # Held until the stage has ended: classes that nothing refers to are forgotten.
    defines_classes = load_recipe(recipe) if recipe else None
    path, called = Path(name), f"selfsup {command} {name}"
    protocol = ""
    if about.protocols:
        protocol, flags = pop_flag(flags, "--protocol", about.protocols[0])
        called += f" --protocol {protocol}"
        if any(flag.partition("=")[0] == "--protocol" for flag in flags):
            raise ValueError("--protocol is given twice; give it once")
        if protocol not in about.protocols:
            raise ValueError(f"there is no protocol {protocol!r}; choose one of {', '.join(about.protocols)}")
    defaults = stage.defaults(path, protocol)
    data = beside_named_data(defaults.data, values_of(flags, "--data.root"), flags_in(flags))
    settings = parse(replace(defaults, data=data), flags, called)
    with _named_data(flags):
        evaluated = stage.run(path, settings)
    del defines_classes
    return _kept(evaluated, path, command)


def _named_data(flags: list[str]) -> AbstractContextManager[None]:
    """Data that nobody named must still be the run's."""
    from selfsup.config.flags import flags_in
    from selfsup.stages.run_data import named_data

    return named_data() if "--data.root" in flags_in(flags) else nullcontext()


def _kept(evaluated: "Evaluated", path: Path, command: str) -> int:
    """Keep the results in the stage's own folder, or in that of the run; print them."""
    from selfsup import distributed
    from selfsup.run_folder.folder import RunFolder
    from selfsup.stages.base import keep

    where = evaluated.folder or path
    kept = evaluated.results and where.is_dir() and distributed.rank() == 0
    try:
        if kept:
            keep(RunFolder(where), evaluated.results)
    finally:  # after they are kept, for output may be lost; but an old file that cannot be read costs no figures
        stage = evaluated.results[0].stage if evaluated.results else command
        code = _print_result(evaluated.line(), stage, str(where / "results" / f"{stage}.json") if kept else "")
    return code


def _semi(arguments: list[str]) -> int:
    usage = "selfsup semi RECIPE|RUN --label-fraction 0.1 (or --labels-per-class 10) [--data.root PATH] [flags]"
    name, flags = first_word(arguments, "the recipe or run folder", usage)
    from selfsup.stages.semi import run_semi
    from selfsup.stages.semi_settings import parse_semi

    settings = parse_semi(name, flags)
    with _named_data(flags):
        evaluated = run_semi(name, settings)
    return _kept(evaluated, Path(name), "semi")


def _predict(arguments: list[str]) -> int:
    usage = (
        "selfsup predict CLASSIFIER IMAGES ... --out FILE.csv|.jsonl|.parquet [--bank PATH] [--recipe FILE.py] [flags]"
    )
    from selfsup.config.flags import parse
    from selfsup.config.recipe_files import load_recipe
    from selfsup.stages.settings import HELP, Predict

    if arguments[:1] in (["-h"], ["--help"]):
        flags_told(f"{usage}\n\n{HELP['predict'].example}", Predict, "selfsup predict CLASSIFIER IMAGES ...")
    name, recipe, images, flags = named_images(arguments, "the classifier", usage)
    from selfsup.stages.predict import run_predict

    defines_classes = load_recipe(recipe) if recipe else None
    result = run_predict(Path(name), images, parse(Predict(), flags, f"selfsup predict {name} IMAGES ..."))
    del defines_classes
    return _print_result(result, "predict")


def _search(arguments: list[str]) -> int:
    usage = "selfsup search RUN IMAGES ... [--data.root PATH] [--out FILE.html|.png|.jsonl] [--recipe FILE.py] [flags]"
    from selfsup.config.flags import flags_in, parse, values_of
    from selfsup.config.recipe_files import load_recipe
    from selfsup.stages.search_settings import Search
    from selfsup.stages.settings import HELP

    if arguments[:1] in (["-h"], ["--help"]):
        flags_told(f"{usage}\n\n{HELP['search'].example}", Search, "selfsup search RUN IMAGES ...")
    name, recipe, images, flags = named_images(arguments, "the run folder or encoder file", usage)
    from selfsup.stages.base import data_of
    from selfsup.stages.run_data import beside_named_data
    from selfsup.stages.search import run_search

    defines_classes = load_recipe(recipe) if recipe else None
    data = beside_named_data(data_of(Path(name)), values_of(flags, "--data.root"), flags_in(flags))
    settings = parse(Search(data=data), flags, f"selfsup search {name} IMAGES ...")
    with _named_data(flags):
        result = run_search(Path(name), images, settings)
    del defines_classes
    return _print_result(result)


def _compare(arguments: list[str]) -> int:
    usage = "selfsup compare RUN RUN ... [--out FILE.html|.md|.csv|.png|.svg]"
    from selfsup.config.flags import parse
    from selfsup.stages.settings import Compare

    if arguments[:1] in (["-h"], ["--help"]):
        flags_told(usage, Compare, "selfsup compare RUN ...")
    first, rest = first_word(arguments, "the run folder", usage)
    names, flags = leading_words(rest)
    from selfsup.stages.compare import run_compare

    runs = [Path(name) for name in (first, *names)]
    return _print_result(run_compare(runs, parse(Compare(), flags, "selfsup compare RUN ...")), "compare")


def _pack(arguments: list[str]) -> int:
    usage = "selfsup pack OUT --data.root PATH [--data.canvas 256 | --jpeg SIZE] [flags], or selfsup pack OUT --check"
    from selfsup.config.flags import parse
    from selfsup.stages.settings import HELP, Packing

    if arguments[:1] in (["-h"], ["--help"]):
        flags_told(f"{usage}\n\n{HELP['pack'].example}", Packing, "selfsup pack OUT")
    name, flags = first_word(arguments, "the folder that is to be written", usage)
    from selfsup.stages.packing import run_pack

    return _print_result(run_pack(Path(name), parse(Packing(), flags, f"selfsup pack {name}")))


def _weights(command: str, arguments: list[str]) -> int:
    """Weights that come in or go out: parse and carry out."""
    from selfsup.config.flags import parse, pop_flag
    from selfsup.config.recipe_files import load_recipe
    from selfsup.stages.base import Command

    known: Command = import_module(f"selfsup.stages.{command}ing").COMMAND
    if arguments[:1] in (["-h"], ["--help"]):
        flags_told(f"{known.usage}\n\n{known.explained()}", known.settings, f"selfsup {command} {known.word}")
    name, flags = first_word(arguments, known.what, known.usage)
    recipe, flags = pop_flag(flags, "--recipe", "")
    defines_classes = load_recipe(recipe) if recipe else None  # held until the end, as in _stage
    result = known.run(Path(name), parse(known.settings(), flags, f"selfsup {command} {name}"))
    del defines_classes
    return _print_result(result)


def _replay(arguments: list[str]) -> int:
    """Ends with 0 where the step goes wrong again, with 3 where all is finite this time."""
    usage = "selfsup replay RUN/captured/STEP [--precision as-captured|fp32|tf32|bf16|fp16] [--device auto|cpu]"
    from selfsup.config.flags import parse
    from selfsup.stages.settings import Replay

    if arguments[:1] in (["-h"], ["--help"]):
        flags_told(usage, Replay, "selfsup replay RUN/captured/STEP")
    name, flags = first_word(arguments, "the captured step", usage)
    from selfsup.stages.replay import run_replay

    result = run_replay(Path(name), parse(Replay(), flags, f"selfsup replay {name}"))
    code = _print_result(result)
    return code if result["reproduced"] else 3


def _recipes(arguments: list[str]) -> int:
    from selfsup.stages.listing import list_recipes

    return list_recipes(arguments)


def _methods(arguments: list[str]) -> int:
    from selfsup.stages.listing import list_methods

    return list_methods(arguments)


def _completion(arguments: list[str]) -> int:
    from selfsup.stages.listing import print_completion

    return print_completion(arguments)
