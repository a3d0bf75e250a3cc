"""What the earlier launches of a run settled: defaults as they were then, and facts that were not noted yet."""

from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

from selfsup.config.settings import result_relevant
from selfsup.config.stored_names import answers_to, name_of, without_gone

Config = TypeVar("Config")


def completed(saved: Any, config: Any) -> Any:
    """A saved configuration with the fields that its classes have got since: their first defaults do what was done."""
    if is_dataclass(config) and isinstance(saved, dict):
        parts = {f.name: getattr(config, f.name) for f in fields(config)}
        new = [f for f in fields(config) if f.name not in saved and not f.metadata.get("execution")]
        first = {f.name: f.metadata.get("before", f.default) for f in new}
        first |= {f.name: f.default_factory() for f in new if f.default_factory is not MISSING}
        added = {name: result_relevant(default) for name, default in first.items() if default is not MISSING}
        kept = without_gone(saved, type(config))
        known = {name: completed(value, parts.get(name)) for name, value in kept.items()} | added
        # A class of the user's own, in a file that says where it lay.
        return known | ({"class": name_of(type(config))} if answers_to(type(config), saved.get("class")) else {})
    if isinstance(config, tuple) and isinstance(saved, list) and len(config) == len(saved):
        return [completed(one, part) for one, part in zip(saved, config, strict=True)]
    return saved


def as_begun(config: Config, saved: Any, number: int, path: str = "") -> tuple[Config, list[str]]:
    """The configuration with the former default wherever a run relied on it and no other value is asked for now.

    Args:
        config: as it is asked for now.
        saved: the run's configuration as it was dumped.
        number: of the newest changed default (`config.settings.changed_default`) that the run was begun with; 0: none.
        path: of the configuration, for the second result.

    Returns:
        the configuration, and what was changed in it, as "method.batch_norm is plain".
    """
    if isinstance(config, tuple) and isinstance(saved, list) and len(config) == len(saved):
        numbered = enumerate(zip(config, saved, strict=True))
        pairs = [as_begun(part, one, number, f"{path}{n}.") for n, (part, one) in numbered]
        return cast(Config, tuple(part for part, _ in pairs)), [note for _, notes in pairs for note in notes]
    if not is_dataclass(config) or not isinstance(saved, dict) or not answers_to(type(config), saved.get("class")):
        return config, []
    changes: dict[str, Any] = {}
    notes: list[str] = []
    for field in fields(config):
        now, former = getattr(config, field.name), field.metadata.get("before")
        relied = number < field.metadata.get("in_number", 0) and saved.get(field.name, former) == former
        if relied and now == field.default:
            changes[field.name] = former
            notes.append(f"{path}{field.name} is {former}")
        elif field.name in saved:
            changes[field.name], more = as_begun(now, saved[field.name], number, f"{path}{field.name}.")
            notes += more
    return (cast(Config, replace(cast(Any, config), **changes)), notes) if notes else (config, [])


def with_processes(saved: dict[str, Any], facts: dict[str, Any], launches: list[dict[str, Any]]) -> dict[str, Any]:
    """The facts that a run was begun with, with its number of processes where the method depends on it.

    Args:
        saved: facts of the run folder; those of older runs say nothing of processes.
        facts: those of this launch.
        launches: of the run so far, as environment.json notes them.

    Raises:
        ValueError: batch norm is over each process's own images, and there are more or fewer processes than before.
    """
    method, now = saved.get("method"), facts.get("method", {}).get("processes")
    if now is None or not isinstance(method, dict):
        return saved
    before = method.get("processes", launches[-1].get("processes", now) if launches else now)
    if before != now:
        raise ValueError(
            f"batch norm of this run is over each process's own images, so their number is part of it: it was begun "
            f"with {before} and there are {now} now\n"
            f"go on with {before}, or give another --folder to a run with batch norm over all processes, which any "
            "number can go on with"
        )
    return saved | {"method": method | {"processes": before}}
