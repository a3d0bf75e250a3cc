"""Configurations changed by flags: the only place that knows tyro."""

import contextlib
import io
import itertools
import re
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from selfsup.config.settings import require_finite
from selfsup.config.stored_names import nearest
from selfsup.packages import optional
from selfsup.storage.untrusted import plain_name

Config = TypeVar("Config")


def flag_names(config: Any, prefix: str = "") -> list[str]:
    """The flags that `parse` accepts for this configuration, as --a.b-c."""
    names = []
    for field in fields(config):
        name, value = f"{prefix}{field.name.replace('_', '-')}", getattr(config, field.name)
        if is_dataclass(value):
            names += flag_names(value, f"{name}.")
        elif isinstance(value, tuple) and value and all(is_dataclass(item) for item in value):
            for number, item in enumerate(value):
                names += flag_names(item, f"{name}.{number}.")
        else:
            names.append(f"--{name}")
            if isinstance(value, bool):
                head, _, last = name.rpartition(".")
                names.append(f"--{head}.no-{last}" if head else f"--no-{last}")
    return names


SIZE = "--size"  # of commands on an encoder; of pretraining it stands for several flags, and is taken off before them
DRY_RUN = "--dry-run"  # of pretraining
_VIEWS = "--augment.views.0.size"
# Short names, taken wherever there is the flag that they stand for.
SHORT = {"--lr": "--optimizer.learning-rate", "--data": "--data.root"}
# What people call some flags; of several the first that there is.
_SHORT = {
    **dict.fromkeys(("--learning-rate", "--rate"), ("--optimizer.learning-rate",)),
    **dict.fromkeys(("--wd", "--weight-decay"), ("--optimizer.weight-decay",)),
    **dict.fromkeys(("--bs", "--batch"), ("--batch-size",)),
    **dict.fromkeys(("--data-dir", "--dataset", "--root", "--path"), ("--data.root",)),
    **dict.fromkeys(("--out-dir", "--output", "--output-dir", "--run"), ("--folder", "--out")),
    **dict.fromkeys(("--image-size", "--img-size", "--resolution"), (SIZE,)),
    **dict.fromkeys(("--tau", "--temp", "--temperature", "-t"), ("--method.temperature", "--temperature")),
    **dict.fromkeys(("--epoch", "--num-epochs", "--max-epochs"), ("--epochs",)),
    **dict.fromkeys(("--num-workers", "--jobs"), ("--workers",)),
    **dict.fromkeys(("--amp", "--fp16", "--bf16"), ("--precision",)),
    **dict.fromkeys(("--warmup", "--warmup-epochs"), ("--schedule.warmup-epochs",)),
}
_PROCESSES = ("--gpus", "--gpu", "--ngpus", "--num-gpus", "--devices", "--nproc", "--num-processes", "--world-size")


def _meant(name: str, known: list[str]) -> str:
    """A sentence part that says which flag an unknown one stands for, or nothing."""
    if name in _PROCESSES:
        return "; several GPUs are named to the launcher: accelerate launch --num_processes N -m selfsup ..."
    known = [*known, SIZE] if _VIEWS in known else known
    meant = [flag for flag in _SHORT.get(name, ()) if flag in known]
    return f"; did you mean {meant[0]}?" if meant else nearest(name, known)


def pop_flag(flags: list[str], name: str, default: str) -> tuple[str, list[str]]:
    """The value of one flag that has to be known before the others, and the flags without it."""
    for position, flag in enumerate(flags):
        if flag == name and position + 1 < len(flags):
            return flags[position + 1], flags[:position] + flags[position + 2 :]
        if flag.startswith(f"{name}="):
            return flag.partition("=")[2], flags[:position] + flags[position + 1 :]
    return default, flags


def pop_switch(flags: list[str], name: str) -> tuple[bool, list[str]]:
    """Whether a flag without a value is given, and the flags without it."""
    others = [flag for flag in flags if flag.replace("_", "-") != name]
    return len(others) < len(flags), others


def pop_size(flags: list[str]) -> tuple[int | tuple[int, int] | None, list[str]]:
    """The size that `--size N` or `--size HEIGHT WIDTH` says, in pixels; None without it; and the flags without it.

    Raises:
        ValueError: it is given twice, or is not one whole number or two.
    """
    places = [place for place, flag in enumerate(flags) if flag.partition("=")[0] == SIZE]
    if not places:
        return None, flags
    if places[1:]:
        raise ValueError(f"{SIZE} is given twice; give it once")
    first, equals, value = flags[places[0]].partition("=")
    values = list(itertools.takewhile(lambda flag: not flag.startswith("--"), flags[places[0] + 1 :]))
    rest = flags[: places[0]] + flags[places[0] + 1 + len(values) :]
    values = [value, *values] if equals else values
    if len(values) not in (1, 2) or not all(re.fullmatch(r"[0-9]{1,9}", number) for number in values):
        raise ValueError(
            f"{first} is {plain_name(' '.join(values)) or 'empty'}; wanted a side in pixels, or height and width"
        )
    height, *width = map(int, values)
    return (height, width[0]) if width else height, rest


def flags_in(flags: list[str]) -> set[str]:
    """The names of the flags that are given, in full and with hyphens."""
    return {_full(flag) for flag in flags if flag.startswith("--")}


def _full(flag: str) -> str:
    name = flag.partition("=")[0].replace("_", "-")
    return SHORT.get(name, name)


def in_full(flags: list[str], known: list[str]) -> list[str]:
    """The flags, with those by their short names that stand for a known one by its own."""
    split = (flag.partition("=") for flag in flags)
    return [(SHORT[name] if SHORT.get(name) in known else name) + equals + value for name, equals, value in split]


def values_of(flags: list[str], name: str) -> list[str]:
    """The words that follow a flag, as --data.root A B or --data=A; none where it is not given."""
    places = [place for place, flag in enumerate(flags) if flag.startswith("--") and _full(flag) == name]
    if not places:
        return []
    _, equals, value = flags[places[-1]].partition("=")  # the last counts
    following = itertools.takewhile(lambda flag: not flag.startswith("--"), flags[places[-1] + 1 :])
    return [value] if equals else list(following)


def parse(default: Config, flags: list[str], command: str) -> Config:
    """The configuration `default` with the changes that the command line asks for.

    Args:
        default: a frozen dataclass instance; every field of it and of what it nests is a flag.
        flags: the command line after the command's own words. --help or --help-all prints all flags and exits.
        command: how the command is called, for messages.

    Raises:
        ValueError: an unknown flag (with the nearest known one), a missing or a wrong value; or tyro is missing.
    """
    if not flags:
        return default
    known = flag_names(default)
    flags = ["--help" if flag == "--help-all" else flag for flag in in_full(flags, known)]
    if flags and not flags[0].startswith("-"):
        hint = f"; to name the images give --data.root {flags[0]}" if "--data.root" in known else ""
        raise ValueError(f"{plain_name(flags[0])} is no flag{hint}\nall flags: {command} --help-all")
    for flag in flags:
        name = flag.split("=")[0]
        if name.startswith("--") and name.replace("_", "-") not in known and name != "--help":
            raise ValueError(
                f"unknown flag {name}{_meant(name.replace('_', '-'), known)}\nall flags: {command} --help-all"
            )
    tyro = optional("tyro", "a command line with flags")
    text = io.StringIO()
    try:
        with contextlib.redirect_stderr(text):
            parsed: Config = tyro.cli(
                type(default), default=default, args=flags, prog=command, config=(tyro.conf.AvoidSubcommands,)
            )
        require_finite(parsed)
        return parsed
    except SystemExit as stop:
        if not stop.code:
            raise
    # What a class refuses names its field; tyro puts the name of the class before it.
    told = re.sub(r"^Error parsing (?!-)[\w.]+: ", "", tyro_error_text(text.getvalue()))
    told = _wanted(told, flags) or told
    if "--device" in told:
        told += '; "auto" takes the GPU where there is one'
    raise ValueError(f"{told}\nall flags: {command} --help-all")


# How tyro says that a value is of another kind, and what is wanted instead.
_KINDS = {
    r"invalid literal for int\(\)": "a whole number",
    r"could not convert string to float|Tuple\[float\]": "a number",
    r"Tuple\[float, float\]": "two numbers",
    r"Tuple\[float, float, float\]": "three numbers",
    r"Tuple\[int, int\]": "two whole numbers",
    r"Tuple\[(int|float), \.\.\.\]|Could not find valid parse": "numbers, with spaces between them",
}


def _wanted(told: str, flags: list[str]) -> str:
    """A sentence on a value of the wrong kind, in place of Python's and tyro's own words; empty for all else."""
    if stray := re.match(r"Unrecognized options: (.*)", told):
        return f"{plain_name(stray[1])} belongs to no flag"
    if missing := re.match(r"Missing value for argument '(--[\w.-]+)'", told):
        return f"{missing[1]} has no value"
    if other := re.match(r"invalid choice '(.*)' for argument '(--[\w.-]+)'\. Expected one of \((.*?),?\)", told):
        among = other[3].replace("'", "")
        return f"{other[2]} is {plain_name(other[1])}; wanted {'one of ' if ',' in among else ''}{among}"
    wrong = re.match(r"Error parsing (--[\w.-]+): (.*)", told)
    kind = next((kind for words, kind in _KINDS.items() if wrong and re.search(words, wrong[2])), None)
    if wrong is None or kind is None:
        return ""
    words = ",".join(re.findall(r"\{([\w,]+)\}", wrong[2]))
    choice = f" or {words.replace(',', ' or ')}" if words else ""
    return f"{wrong[1]} is {plain_name(' '.join(values_of(flags, wrong[1])))}; wanted {kind}{choice}"


def tyro_error_text(box: str) -> str:
    """What tyro says inside its frame, on one line: the first section; in plain terminals that below the title."""
    sections: list[list[str]] = [[]]
    for line in box.splitlines():
        text = line.strip(" │")
        if text and set(text) <= {"-", "─"}:
            sections.append([])
        elif text and text[0] not in "╭╰":
            sections[-1].append(text)
    body = sections[0] if "╭" in box or len(sections) == 1 else sections[1]
    return " ".join(body) or "wrong arguments"
