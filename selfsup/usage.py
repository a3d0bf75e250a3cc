"""What `selfsup --help` says, every command in a line; and how the first words of a command are taken."""

import sys
from collections.abc import Callable
from typing import Any

USAGE = """selfsup: self-supervised contrastive pretraining

  selfsup pretrain RECIPE [flags]     pretrain by a shipped recipe or by a .py file; run again to go on
  selfsup pretrain RECIPE --dry-run   what a run would take: time, memory, disk, the largest batch; nothing is kept
  selfsup knn RUN [flags]             judge an encoder by weighted nearest neighbours
  selfsup retrieval RUN [flags]       judge an encoder by retrieval: Recall@k, mAP, MAP@R
  selfsup linear RUN [flags]          judge by a linear probe (--protocol features, moco, simclr, supcon, sweep)
  selfsup finetune RUN [flags]        train a classifier on few labels (--protocol simclr_v2, simclr_v1, sgd)
  selfsup distill TEACHER [flags]     train a student on a classifier's answers (--protocol self, smaller, features)
  selfsup semi RECIPE|RUN [flags]     pretrain, fine-tune on few labels, distil: --label-fraction 0.1
  selfsup predict CLASSIFIER IMAGES   what is in images: --out FILE.csv; of any encoder by --bank LABELLED
  selfsup evaluate CLASSIFIER [flags] judge a classifier on a labelled folder, class by class (--data.root PATH)
  selfsup cluster RUN [flags]         cluster features and compare with the labels (--protocol kmeans, dbscan)
  selfsup embed RUN --out FILE        features to FILE.npy and FILE.csv, or to FILE.parquet; run again to go on
  selfsup search RUN IMAGES [flags]   images of a folder that are most like these: --data.root PATH, --out FILE.html
  selfsup dedup RUN --out FILE        near duplicates in a folder, which to keep, a diverse subset (--similarity 0.95)
  selfsup data PATH                   what is in images: classes, sizes, duplicates, broken files (--out FILE.html)
  selfsup pack OUT --data.root PATH   images decoded once: squares in one file, or smaller JPEG files (--jpeg SIZE)
  selfsup report RUN                  a page on how good it is: curves, map, neighbours, verdict (RUN/report.html)
  selfsup compare RUN RUN ...         the results of several runs in a table, and in a plot (--out FILE)
  selfsup import FILE --out DIR       another project's weights become an encoder (docs/weights.md says whose)
  selfsup export RUN --to FORMAT --out PATH
                                      for torchvision, timm, transformers, ONNX, ... (docs/export.md)
  selfsup replay CAPTURED [flags]     run a step that was left out again: RUN/captured/step_00000042
  selfsup doctor                      what is installed here, what works, and what is missing
  selfsup recipes [NAME]              list the shipped recipes (--for "cifar"), or the record of one
  selfsup methods                     what each method remembers and minimises, its papers and recipes
  selfsup completion SHELL            a script for bash or zsh, which then complete commands, recipes and flags

CLASSIFIER is a folder that finetune, distill or semi made (docs/predict.md).
RUN is a run folder, an encoder.safetensors, or a file of another project's weights (.pth, .safetensors).
Every command explains its flags with --help; of a recipe it shows the common ones, and --help-all all of them.
--lr X is --optimizer.learning-rate, --data PATH is --data.root.
--size N: pretraining with views of N pixels; commands on a RUN: the images that the encoder is fed with.
Of an encoder of your own, the commands on a RUN are told where it is defined: --recipe FILE.py.
On several GPUs: accelerate launch --num_processes N -m selfsup pretrain RECIPE [flags]
A terminal shows results in sentences and tables; elsewhere, and with --json, the last line on standard output is a
JSON object with the figures. Messages go to standard error.
"""


# What follows the command's name; of commands that say no examples themselves.
EXAMPLES = {
    "knn": ("runs/birds", "runs/birds --k 20 200 --temperature 0.07 0.1", "moco.pth --data photos/ --size 224"),
    "retrieval": ("runs/birds", "runs/birds --layer embedding --recall-at 1 10"),
    "linear": ("runs/birds", "runs/birds --labelled.fraction 0.01", "runs/birds --protocol moco --data photos/"),
    "finetune": ("runs/birds --labelled.fraction 0.1", "runs/birds --labelled.per-class 10 --epochs 30"),
    "distill": ("runs/birds/finetune_10pct", "runs/birds/finetune_10pct --protocol smaller"),
    "cluster": ("runs/birds --k 50", "runs/birds --protocol dbscan --eps 0.3"),
    "embed": ("runs/birds --out features.npy", "runs/birds --out features.parquet --data photos/"),
    "compare": ("runs/*", "runs/birds runs/cars --out table.html"),
    "replay": ("runs/birds/captured/step_00000042 --precision fp32",),
}


def first_word(arguments: list[str], what: str, usage: str) -> tuple[str, list[str]]:
    """The word that a command begins with, and the rest. Prints the usage and exits where help is asked for.

    Raises:
        ValueError: it is missing.
    """
    if arguments and arguments[0] in ("-h", "--help"):
        print(usage)
        sys.exit(0)
    if not arguments or arguments[0].startswith("-"):
        raise ValueError(f"{what} is missing\nusage: {usage}")
    return arguments[0], arguments[1:]


def leading_words(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The words before the first flag, of which `-` is one; and the flags."""
    flags = (number for number, word in enumerate(arguments) if word.startswith("-") and word != "-")
    count = next(flags, len(arguments))
    return arguments[:count], arguments[count:]


def only_help(arguments: list[str], usage: str, command: str) -> bool:
    """Whether help was asked for, which is then printed, of a command without arguments."""
    if arguments in (["-h"], ["--help"], ["help"]):
        print(usage)
        return True
    if arguments:
        raise ValueError(f"selfsup {command} takes no arguments, not {' '.join(arguments)}")
    return False


def flags_told(usage: str, settings: Callable[[], Any], command: str) -> None:
    """Print how a command is called, and all its flags; exits."""
    from selfsup.config.flags import parse

    name = command.split()[1]
    print("\n".join([usage, *(f"  selfsup {name} {words}" for words in EXAMPLES.get(name, ())), ""]))
    parse(settings(), ["--help"], command)


def named_images(arguments: list[str], what: str, usage: str) -> tuple[str, str, list[str], list[str]]:
    """The words of a command on images: its first one, which is `what`; the recipe; the images; and the flags."""
    from selfsup.config.flags import pop_flag

    name, rest = first_word(arguments, what, usage)
    recipe, rest = pop_flag(rest, "--recipe", "")
    images, flags = leading_words(rest)
    if not images:
        raise ValueError(f"the images are missing; name them before the flags\nusage: {usage}")
    return name, recipe, images, flags
