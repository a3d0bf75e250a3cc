"""What `selfsup pretrain RECIPE --help` says: the flags that most people need, in groups, with the recipe's values."""

import functools
import textwrap
from typing import Any, NamedTuple

from selfsup.config.flags import flag_names


class _Common(NamedTuple):
    """A flag that is explained."""

    flag: str
    value: str  # what stands for its value
    place: str  # of the field, from the recipe on
    told: str


_GROUPS: dict[str, tuple[_Common, ...]] = {
    "what is most often changed": (
        _Common("--lr", "X", "optimizer.learning_rate", "learning rate, before it is scaled"),
        _Common("--epochs", "N", "epochs", "times that all images are seen"),
        _Common("--batch-size", "N", "batch_size", "images of a step, over all processes"),
        _Common("--size", "N", "augment.views.0.size", "pixels of the views"),
        _Common("--data", "PATH ...", "data.root", "images: folder, archive, shapes, ..."),
    ),
    "the run": (
        _Common("--folder", "DIR", "folder", "run folder; empty: runs/NAME"),
        _Common("--seed", "N", "seed", "of all that is drawn"),
        _Common("--start", "PATH", "start", "encoder to start from"),
        _Common("--max-minutes", "X", "max_minutes", "stop then; the same command goes on"),
        _Common("--log-to", "NAME ...", "log_to", "tensorboard, wandb, mlflow"),
        _Common("--evaluate-every", "N", "evaluate_every", "epochs between evaluations; 0: never"),
    ),
    "the machine": (
        _Common("--device", "NAME", "device", "auto, cuda, mps or cpu"),
        _Common("--precision", "NAME", "precision", "auto, fp32, tf32, bf16 or fp16"),
        _Common("--workers", "N", "workers", "processes that decode image files"),
        _Common("--data.canvas", "N", "data.canvas", "decode once, to N pixels; None: always"),
        _Common("--grad-cache-chunk", "N", "grad_cache_chunk", "images at a time; auto: what fits"),
    ),
}
_WIDTH = 80
_TOP = "training"  # what flags without a dot are called together


def recipe_help(recipe: Any, name: str) -> str:
    """The help of a recipe: groups of common flags with what it sets, examples, and how many others there are."""
    called = f"selfsup pretrain {name}"
    shown = [each for group in _GROUPS.values() for each in group]
    words = max(len(f"{each.flag} {each.value}") for each in shown)
    told = max(len(each.told) for each in shown)
    lines = [f"usage: {called} --data PATH [flags]"]
    for title, group in _GROUPS.items():
        lines += ["", f"{title}:"]
        for each in group:
            left = f"{each.flag} {each.value}"
            lines.append(f"  {left:{words}}  {each.told:{told}}  now {_value(recipe, each.place)}")
    others = _others(recipe)
    listed = ", ".join(f"{part} ({count})" for part, count in others.items())
    more = f"{sum(others.values())} more flags, one for every field of the recipe: {listed}"
    return "\n".join(
        [
            *lines,
            "",
            "examples:",
            f"  {called} --data photos/ --dry-run",
            f"  {called} --data photos/ --epochs 100",
            f"  {called} --data photos/ --size 96 --lr 0.1",
            f"  accelerate launch --num_processes 2 -m {called} --data photos/",
            "",
            *textwrap.wrap(more, _WIDTH),
            f"all of them, each explained: {called} --help-all",
        ]
    )


def _value(recipe: Any, place: str) -> str:
    """The value of a field by its place, as it is written on a command line."""
    value = functools.reduce(
        lambda found, part: found[int(part)] if part.isdigit() else getattr(found, part), place.split("."), recipe
    )
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return '""' if value == "" else str(value)


def _others(recipe: Any) -> dict[str, int]:
    """Part -> how many flags it has that are not shown."""
    common = {f"--{each.place.replace('_', '-')}" for group in _GROUPS.values() for each in group}
    counts: dict[str, int] = {}
    for flag in flag_names(recipe):
        first, dot, _ = flag.removeprefix("--").partition(".")
        part = first if dot else _TOP
        if flag not in common:
            counts[part] = counts.get(part, 0) + 1
    return counts
