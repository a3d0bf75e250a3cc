"""Results of several runs in one table: each column of one protocol, repetitions with other seeds in one row."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from selfsup.config.schema import in_present_names
from selfsup.run_folder.folder import RunFolder
from selfsup.run_folder.same_data import from_before_content
from selfsup.stages.base import Result, read
from selfsup.stages.comparison_data import TrainedOn, judging_notes, trained_on, training_notes


class Column(NamedTuple):
    """One figure under one protocol."""

    part: str  # folder inside the run, such as finetune_1pct; empty for the run itself
    stage: str
    figure: str
    protocol: dict[str, Any]
    differing: str  # what of the protocol tells this column from others of the same figure; empty where there are none

    @property
    def short(self) -> str:
        """The figure without the name of its stage."""
        return self.figure.removeprefix(f"{self.stage.partition('_')[0]}_")

    @property
    def name(self) -> str:
        """What is in the column, without what tells it from others."""
        return f"{self.part}: {self.stage} {self.short}" if self.part else f"{self.stage} {self.short}"

    @property
    def heading(self) -> str:
        return self.name + (f" ({self.differing})" if self.differing else "")


class Row(NamedTuple):
    """A run, or several that differ in their seed alone."""

    runs: list[Path]
    seeds: list[list[int]]  # of each run, all that its configuration names
    cells: list[list[float]]  # for each column, the values that there are

    @property
    def name(self) -> str:
        return f"{self.runs[0]} (n = {len(self.runs)})" if len(self.runs) > 1 else str(self.runs[0])


class Table(NamedTuple):
    """Runs by figures."""

    columns: list[Column]
    rows: list[Row]
    skipped: dict[str, str]  # folders that have nothing to compare, and why
    notes: tuple[str, ...] = ()  # in words, which data differ

    def line(self) -> dict[str, Any]:
        """The JSON object of the command."""
        columns = [column._asdict() | {"heading": column.heading} for column in self.columns]
        rows = [
            {
                "name": row.name,
                "runs": [str(run) for run in row.runs],
                "seeds": row.seeds,
                "cells": [_summary(values) for values in row.cells],
            }
            for row in self.rows
        ]
        return (
            {"columns": columns, "rows": rows}
            | ({"skipped": self.skipped} if self.skipped else {})
            | ({"notes": list(self.notes)} if self.notes else {})
        )


def mean_and_deviation(values: list[float]) -> tuple[float, float | None]:
    """Mean, and standard deviation with n - 1; None for a single value."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def _summary(values: list[float]) -> dict[str, Any] | None:
    if not values:
        return None
    mean, deviation = mean_and_deviation(values)
    return {"mean": mean, "sd": deviation, "values": values}


# What there is


class Found(NamedTuple):
    """One figure of one run."""

    key: str  # part, stage, figure and protocol as JSON: what tells columns apart
    value: float


def results_of(run: Path) -> list[tuple[str, Result]]:
    """All results of a run: its own, and those of the run folders in it with their path inside.

    A seed at the end of a folder's or a stage's name, as in finetune_1pct_seed1 and linear_features_1pct_seed1, is left
    out: such results are repetitions.

    Raises:
        ValueError: `run` is no run folder, or there are no results.
    """
    if not run.is_dir():
        raise ValueError(f"there is no run folder {run}")
    files = sorted(run.rglob("results/*.json"), key=lambda file: (len(file.parts), str(file)))
    if not ((run / "results").is_dir() or RunFolder(run).holds_run):
        raise ValueError(f"{run} is not a run folder: it has neither a config.json nor results")
    found = [
        (
            _seedless(folder.relative_to(run).as_posix()).removeprefix("."),
            replace(result, stage=_seedless(result.stage)),
        )
        for file in files
        for folder in [file.parent.parent]
        for result in read(RunFolder(folder), file.stem)
    ]
    if not any(result.figures for _, result in found):
        raise ValueError(f"{run} has no results yet; make some, for example with: selfsup knn {run}")
    return found


def _seedless(name: str) -> str:
    return re.sub(r"_seed\d+\b", "", name)


def _figures(results: list[tuple[str, Result]]) -> list[Found]:
    return [
        Found(json.dumps([part, result.stage, figure, result.protocol], sort_keys=True), value)
        for part, result in results
        for figure, value in result.figures.items()
    ]


class Identity(NamedTuple):
    """What a run is."""

    apart: Any  # from its seeds: configuration and facts, without what follows from a seed
    seeds: list[int]


def identity(run: Path) -> Identity:
    """What the run is by its config.json; by those of the runs in it where it has none, as a run of several parts.

    An encoder that training started from differs with every seed. Where its folder is known (the one that `run` lies
    in, one beside it, or the one given as `start`), what that run is takes the place of the encoder's hash.
    """
    config = in_present_names(RunFolder(run).read_json("config.json"), run / "config.json")
    if not config:
        parts = {part.name: identity(part) for part in sorted(run.iterdir()) if RunFolder(part).holds_run}
        apart = {name: part.apart for name, part in parts.items()} or str(run.resolve())
        return Identity(apart, [seed for part in parts.values() for seed in part.seeds])
    seeds: list[int] = []
    apart = _without_seeds(config["result"], seeds)
    facts = apart.get("facts", {})
    labelled = apart.get("labelled", {})
    if labelled.get("fraction") is not None or labelled.get("per_class") is not None:  # the seed has drawn the images
        facts.pop("labelled", None)
        if from_before_content(facts.get("images")):  # it was of the chosen images
            facts["images"] = facts["images"].get("count")
    for name, origin in _origins(run, config).items():
        facts[name] = origin.apart
        seeds += origin.seeds
    return Identity(apart, seeds)


def _origins(run: Path, config: dict[str, Any]) -> dict[str, Identity]:
    """The runs whose encoders and heads the facts name by their hash, as far as they are found."""
    hashes = _hashes(config)
    start = config["run"].get("start")
    parent = run.resolve().parent
    near = [parent, *sorted(parent.iterdir()), *([Path(start)] if start else [])]
    weights: dict[str, Path] = {}
    for folder in near:
        exported = _read_if_possible(folder, "encoder.json") if folder != run.resolve() else {}
        for digest in {part.get("sha256", "") for part in (exported, exported.get("head", {}))} & set(hashes.values()):
            # A run that kept its backbone frozen exports what it started from: one beside this run is its sibling.
            if folder == parent or digest not in _hashes(_read_if_possible(folder, "config.json")).values():
                weights.setdefault(digest, folder)
    return {name: identity(weights[value]) for name, value in hashes.items() if value in weights}


def _read_if_possible(folder: Path, name: str) -> dict[str, Any]:
    """What a neighbour of a run says; nothing where it is foreign or damaged, which is no fault of the run."""
    try:
        return RunFolder(folder).read_json(name)
    except (ValueError, OSError):
        return {}


def _hashes(config: dict[str, Any]) -> dict[str, str]:
    """The facts of a configuration that are texts, as hashes are."""
    facts = config.get("result", {}).get("facts", {})
    return {name: value for name, value in facts.items() if isinstance(value, str)}


def _without_seeds(value: Any, seeds: list[int]) -> Any:
    """A configuration without any `seed`; they are added to `seeds`."""
    if isinstance(value, dict):
        if value.get("seed") is not None:
            seeds.append(value["seed"])
        return {key: _without_seeds(item, seeds) for key, item in value.items() if key != "seed"}
    return [_without_seeds(item, seeds) for item in value] if isinstance(value, list) else value


# The table


def compare(runs: list[Path]) -> Table:
    """Put the results of runs into one table.

    Runs with equal configurations but for their seeds are one row. A column holds figures of one protocol: where
    protocols of a figure differ there are several columns, headed by what differs. What is no run folder, has no
    results, or cannot be read is skipped, as long as there is another: `runs/*` holds all sorts of things.

    Raises:
        ValueError: nothing is there under a name, one is named twice, or none of them has results.
    """
    twice = [str(run) for run, times in Counter(run.resolve() for run in runs).items() if times > 1]
    if twice:
        raise ValueError(f"{twice[0]} is named twice")
    absent = [run for run in runs if not run.exists()]
    if absent:
        raise ValueError(f"there is no run folder {absent[0]}")
    figures: dict[Path, list[Found]] = {}
    apart: dict[Path, Identity] = {}
    results: dict[Path, list[tuple[str, Result]]] = {}
    data: dict[Path, TrainedOn | None] = {}
    skipped: dict[Path, Exception] = {}
    for run in runs:
        try:
            found_here = results_of(run)
            apart[run], trained = identity(run), trained_on(run)
            results[run], data[run], figures[run] = found_here, trained, _figures(found_here)
        except (ValueError, OSError) as error:
            skipped[run] = error
    if not figures:
        raise next(iter(skipped.values()))
    keys = list(dict.fromkeys(found.key for found_in in figures.values() for found in found_in))
    rows = [
        Row(
            group, seeds, [[found.value for run in group for found in figures[run] if found.key == key] for key in keys]
        )
        for group, seeds in _groups({run: apart[run] for run in figures})
    ]
    reasons = {str(run): str(error).partition("\n")[0] for run, error in skipped.items()}
    return Table(_columns(keys), rows, reasons, (*training_notes(data), *judging_notes(results)))


def _groups(runs: dict[Path, Identity]) -> list[tuple[list[Path], list[list[int]]]]:
    """Runs that are one row, and their seeds; each only once, so that a copy of a run is a row of its own."""
    groups: dict[tuple[str, int], tuple[list[Path], list[list[int]]]] = {}
    copies: Counter[tuple[str, str]] = Counter()
    for run, (apart, seeds) in runs.items():
        text = json.dumps(apart, sort_keys=True)
        group = groups.setdefault((text, copies[text, str(seeds)]), ([], []))
        group[0].append(run)
        group[1].append(seeds)
        copies[text, str(seeds)] += 1
    return list(groups.values())


def _columns(keys: list[str]) -> list[Column]:
    """Of the keys, in their order."""
    plain = [Column(part, stage, figure, protocol, "") for part, stage, figure, protocol in map(json.loads, keys)]
    columns = []
    for column in plain:
        others = [other.protocol for other in plain if other[:3] == column[:3]]
        names = dict.fromkeys(name for protocol in others for name in protocol)
        differing = [
            name for name in names if len({json.dumps(p.get(name, "absent"), sort_keys=True) for p in others}) > 1
        ]
        columns.append(column._replace(differing=described(column.protocol, differing)))
    return columns


def described(protocol: dict[str, Any], names: list[str]) -> str:
    """Parts of a protocol, "k=20, temperature=0.1"; what it lacks is said to be absent."""
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in protocol.items()}
    return ", ".join(f"{name}={texts.get(name, 'absent')}" for name in names)
