"""Are N machines one, and is nothing ever lost? Every claim of docs/reliability.md, measured on this machine.

    python -m tools.reliability                    all figures, at most an hour on two CPU cores
    python -m tools.reliability R3 equivalence     some of them
    python -m tools.reliability --quick            all with little effort, about ten minutes; writes into --runs only

Each figure is measured in a process of its own, two at a time; what is measured stays in --runs and is not measured
again, unless it is named. The figures, with the command, the versions and the date, go to docs/reliability.md and
docs/reliability.json. Ends with 1 where a goal is missed.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))["again_as_module"](__file__)

import argparse
import json
import os
import sys
from typing import Any

import torch

from selfsup.output import message, print_figures, program
from selfsup.run_folder.environment import environment
from tests.reliability.figure import Figure
from tests.reliability.record import figures
from tools.benchmarks.jobs import Job, work_off
from tools.checkout import ROOT


def read(figure: Figure, runs: Path, quick: bool) -> dict[str, Any] | None:
    path = runs / f"{figure.name}.json"
    found: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return found if found and (quick or not found["quick"]) else None


def verdict(found: dict[str, Any]) -> str:
    return {True: "yes", False: "NO", None: "not run"}[found["good"]]


def document(known: list[tuple[Figure, dict[str, Any]]], about: dict[str, Any]) -> str:
    """The record as Markdown."""
    packages = ", ".join(f"{name} {about['packages'][name]}" for name in ("torch", "accelerate", "safetensors"))
    lines = [
        "# Reliability, measured",
        "",
        f"Written by `python -m tools.reliability` (Python {about['python']}, {packages}; {about['device']}); "
        "`python -m tools.reliability NAME` measures one figure again. [Long runs](long_runs.md) tells how to use what "
        "is measured here.",
        "",
        "| figure | goal | measured | reached | seconds | date |",
        "|---|---|---|---|---|---|",
    ]
    for figure, found in known:
        shown = found["figure"] + (f" ({found['reason']})" if found["reason"] else "")
        row = (figure.name, figure.goal, shown, verdict(found), f"{found['seconds']:.0f}", found["date"])
        lines.append("| " + " | ".join(row) + " |")
    for figure, found in known:
        if found["table"]:
            lines += ["", f"## {figure.name}", "", found["table"].rstrip()]
    return "\n".join(lines) + "\n"


def recorded(out: Path) -> dict[str, dict[str, Any]]:
    """What the record of a folder holds of each figure, by its name."""
    path = out / "reliability.json"
    rows = json.loads(path.read_text())["figures"] if path.is_file() else []
    return {row["name"]: {key: value for key, value in row.items() if key not in ("name", "goal")} for row in rows}


def write(wanted: list[Figure], runs: Path, out: Path, quick: bool) -> list[tuple[Figure, dict[str, Any]]]:
    """Write the record: figures of `runs`, and those that it has already and that were not measured there."""
    before = {} if quick else recorded(out)
    known = [(figure, found) for figure in wanted if (found := read(figure, runs, quick) or before.get(figure.name))]
    facts = environment(torch.device("cpu"))
    about = {
        "command": "python -m tools.reliability",
        **{name: facts[name] for name in ("python", "packages", "device")},
    }
    rows = [{"name": figure.name, "goal": figure.goal, **found} for figure, found in known]
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(about | {"figures": rows}, indent=1) + "\n"
    (out / "reliability.json").write_text(text.replace(str(runs.resolve()), "RUNS"))  # wherever it was measured
    (out / "reliability.md").write_text(document(known, about))
    return known


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="figures to be measured again; none: all that are not measured yet")
    parser.add_argument("--runs", type=Path, default=Path("runs/reliability"), help="folder of the measurements")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the record")
    parser.add_argument("--jobs", type=int, default=2, help="measurements at a time")
    parser.add_argument("--quick", action="store_true", help="little effort; no record is written outside --runs")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    every = figures()
    by_name = {figure.name: figure for figure in every}
    unknown = [name for name in options.names if name not in by_name]
    if unknown:
        print(f"reliability: there is no figure {unknown[0]!r}; there are {', '.join(by_name)}", file=sys.stderr)
        return 2
    wanted = [by_name[name] for name in options.names] or every
    for name in options.names:
        (options.runs / f"{name}.json").unlink(missing_ok=True)
    out = options.runs if options.quick else options.out
    flags = ["--runs", str(options.runs), *(["--quick"] if options.quick else [])]

    def job(figure: Figure) -> Job:
        return Job(
            figure.name,
            [sys.executable, "-m", "tests.reliability", figure.name, *flags],
            options.runs / f"{figure.name}.log",
            lambda: read(figure, options.runs, options.quick) is not None,
        )

    def told() -> None:
        write(every, options.runs, out, options.quick)

    try:
        longest_first = sorted(wanted, key=lambda figure: -figure.minutes)
        work_off([job(figure) for figure in longest_first], options.jobs, told)
    except ValueError as error:
        print(f"reliability: {error}", file=sys.stderr)
        return 2
    known = write(every, options.runs, out, options.quick)
    missed = [figure.name for figure, found in known if found["good"] is False]
    message(f"{len(known)} figures, {len(missed)} goals missed{': ' + ', '.join(missed) if missed else ''}")
    print_figures({"figures": len(known), "missed": missed})
    return 1 if missed else 0


if __name__ == "__main__":
    with program():
        sys.exit(main())
