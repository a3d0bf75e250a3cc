"""`selfsup recipes`, `methods` and `completion`: what there is."""

from shutil import get_terminal_size

from selfsup.config.flags import pop_flag
from selfsup.config.recipe_files import recipe_summary
from selfsup.config.recipe_record import matching, record
from selfsup.usage import first_word, only_help

_RECIPES = """selfsup recipes [NAME] [--for "WORDS"]

examples: all, each with its first line; those about something; the record of one
  selfsup recipes
  selfsup recipes --for "cifar cpu"
  selfsup recipes simclr_cifar10_cpu"""
_WIDEST = 100  # columns of a record


def list_recipes(arguments: list[str]) -> int:
    """All recipes in a line each, those that hold some words, or what is known of one.

    Raises:
        ValueError: there is no such recipe, or none about it.
    """
    wanted, words = pop_flag(arguments, "--for", "")
    if len(words) == 1 and not words[0].startswith("-") and words != ["help"] and not wanted:
        print("\n".join(record(words[0], min(_WIDEST, get_terminal_size((_WIDEST, 24)).columns))))
        return 0
    if wanted and words:
        raise ValueError(f"--for lists recipes, and {' '.join(words)} is something else; give one of them")
    if words[1:] or (words and words[0] not in ("-h", "--help", "help")):
        raise ValueError(f"selfsup recipes takes the name of one recipe, not {' '.join(words)}\nusage: {_RECIPES}")
    if not only_help(words, _RECIPES, "recipes"):
        names = matching(wanted)
        if not names:
            raise ValueError(f"no recipe is about {wanted}; all of them: selfsup recipes")
        for name in names:
            print(f"{name:24} {recipe_summary(name)}")
    return 0


def list_methods(arguments: list[str]) -> int:
    """The table of methods."""
    if only_help(arguments, "selfsup methods   (what each method remembers and minimises)", "methods"):
        return 0
    from selfsup.catalogue import table

    print(table(), end="")
    return 0


def print_completion(arguments: list[str]) -> int:
    """The script for a shell.

    Raises:
        ValueError: there is none for it, or none is named.
    """
    from selfsup.stages.completion import USED, completion

    shell, rest = first_word(arguments, "the shell", USED)
    if rest:
        raise ValueError(f"selfsup completion takes one shell, not {' '.join(arguments)}\nusage: {USED}")
    print(completion(shell), end="")
    return 0
