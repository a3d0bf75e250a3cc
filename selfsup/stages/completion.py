"""`selfsup completion`: a script by which the shell completes commands, recipes and flags.

tyro completes the flags of one program with one set of flags; here these follow from the command and the recipe, so the
script is made from what the commands themselves say of their settings.
"""

import re
from importlib import import_module
from typing import Any

from selfsup.config.flags import DRY_RUN, SHORT, SIZE, flag_names
from selfsup.config.recipe_files import load_recipe, recipe_names
from selfsup.stages.settings import HELP, Compare, Replay, help_of
from selfsup.usage import USAGE

USED = """selfsup completion bash|zsh

examples: for this shell, and for every one that is started
  source <(selfsup completion bash)
  selfsup completion bash > ~/.local/share/bash-completion/completions/selfsup"""
_TRAINING = ("linear", "finetune", "distill")  # commands on a run that say what their flags are in their own modules
_BEFORE = {"bash": "", "zsh": "autoload -U +X bashcompinit && bashcompinit\n"}
_SCRIPT = """{before}_selfsup() {{
  local current=${{COMP_WORDS[COMP_CWORD]}} words=""
  if [ "$COMP_CWORD" -eq 1 ]; then
    words="{commands}"
  elif [ "${{current#-}}" != "$current" ]; then
    case ${{COMP_WORDS[1]}} in
{cases}
    esac
  elif [ "$COMP_CWORD" -eq 2 ]; then
    case ${{COMP_WORDS[1]}} in
      pretrain|recipes|semi) words="{recipes}" ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -F _selfsup selfsup
"""


def completion(shell: str) -> str:
    """The script for a shell; of what it has no words for, the shell completes the names of files.

    Raises:
        ValueError: there is none for this shell.
    """
    if shell not in _BEFORE:
        raise ValueError(f"there is no completion for {shell!r}; there is for {' and '.join(_BEFORE)}\nusage: {USED}")
    commands = list(dict.fromkeys(re.findall(r"^  selfsup (\w+)", USAGE, re.MULTILINE)))
    cases = "\n".join(f'      {command}) words="{" ".join(flags_of(command))}" ;;' for command in commands)
    return _SCRIPT.format(
        before=_BEFORE[shell], commands=" ".join(commands), cases=cases, recipes=" ".join(recipe_names())
    )


def flags_of(command: str) -> list[str]:
    """All flags that a command takes with any recipe or protocol."""
    settings, more = _settings_of(command)
    names = [flag for found in settings for flag in flag_names(found)]
    short = [flag for flag, meant in SHORT.items() if meant in names]
    return sorted({*names, *short, *more, "--help", "--help-all", "--json"})


def _settings_of(command: str) -> tuple[list[Any], list[str]]:
    """Settings whose fields are flags, and the flags beside them."""
    if command == "pretrain":
        return [load_recipe(name) for name in recipe_names()], [SIZE, DRY_RUN]
    if command in HELP or command in _TRAINING:
        about = help_of(command)
        more = ["--recipe", *(["--protocol"] if about.protocols else [])]
        return [about.settings(protocol) for protocol in about.protocols or ("",)], more
    if command in ("import", "export"):
        return [import_module(f"selfsup.stages.{command}ing").COMMAND.settings()], ["--recipe"]
    if command in ("compare", "replay"):
        return [Compare() if command == "compare" else Replay()], []
    return [], ["--for"] if command == "recipes" else []
