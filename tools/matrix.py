"""The whole suite under settings that change how a processor rounds: which instructions, how many threads, which torch.

    python -m tools.matrix --python oldest=V/bin/python --python middle=W/bin/python --python newest=X/bin/python
    python -m tools.matrix --python newest=.venv/bin/python --rows 1,6 -- tests/contracts

Each name is that of a virtual environment with selfsup[dev] in it. A row takes as long as the suite. After each, the
table is written to docs/test_matrix.md and what it is made of to docs/test_matrix.json; rows that are not asked for
keep what was found before. What follows `--` goes to pytest, in place of all tests.
"""

import runpy
from pathlib import Path

if not __package__:  # started by its path
    runpy.run_path(str(Path(__file__).resolve().parent / "checkout.py"))["again_as_module"](__file__)

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from typing import Any, NamedTuple

from tools.checkout import ROOT

UNSET = "unset"


class Row(NamedTuple):
    ATEN_CPU_CAPABILITY: str
    ONEDNN_MAX_CPU_ISA: str
    MKL_CBWR: str
    threads: str
    environment: str  # which of the virtual environments


LEVELS: dict[str, tuple[str, ...]] = {
    "ATEN_CPU_CAPABILITY": (UNSET, "default", "avx2"),
    "ONEDNN_MAX_CPU_ISA": (UNSET, "SSE41", "AVX2"),
    "MKL_CBWR": (UNSET, "COMPATIBLE"),
    "threads": ("1", "2"),
    "environment": ("oldest", "middle", "newest"),
}
# Nothing forced, everything forced down, and four that cover as many more pairs as four can.
ROWS = (
    Row(UNSET, UNSET, UNSET, "1", "newest"),
    Row("default", "SSE41", "COMPATIBLE", "1", "oldest"),
    Row(UNSET, "AVX2", "COMPATIBLE", "2", "oldest"),
    Row("avx2", "AVX2", UNSET, "1", "middle"),
    Row("default", UNSET, "COMPATIBLE", "2", "middle"),
    Row("avx2", "SSE41", UNSET, "2", "newest"),
)
ABOUT = """# The tests under other instructions, threads and versions of torch

Written by `python -m tools.matrix`: the tests of one checkout, on one machine, as it rounds when it is told to use
fewer instructions. Failed tests are named in the JSON file beside this one.

| row | ATEN_CPU_CAPABILITY | ONEDNN_MAX_CPU_ISA | MKL_CBWR | threads | torch | Python | processor, as torch uses it \
| tests | passed | failed | skipped | seconds |
|---|---|---|---|---|---|---|---|---|---|---|---|---|
"""
VERSIONS = """
import json, platform, torch
names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
used = f"{(names or [platform.machine()])[0]}, {torch.backends.cpu.get_cpu_capability()}"
print(json.dumps({"torch": torch.__version__, "python": platform.python_version(), "processor": used}))
"""


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="a virtual environment's")
    parser.add_argument("--rows", default="1,2,3,4,5,6", help="which of the six, as 1,6")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "test_matrix", help="without .md and .json")
    parser.add_argument("tests", nargs="*", help="given to pytest")
    asked = parser.parse_args(words)
    try:
        numbers, pythons = wanted(asked.rows, asked.python)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    path = asked.out.with_suffix(".json")
    found: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.is_file() else {}
    for number in numbers:
        row = ROWS[number - 1]
        print(f"row {number}: {', '.join(row)}", file=sys.stderr, flush=True)
        found[str(number)] = measured(row, pythons[row.environment], asked.tests)
        path.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n")
        asked.out.with_suffix(".md").write_text(table(found))
    return int(any(found[str(number)]["failed"] or found[str(number)]["exit"] for number in numbers))


def wanted(rows: str, pythons: list[str]) -> tuple[list[int], dict[str, str]]:
    """The numbers of rows, and the interpreter of every environment that they name.

    Raises:
        ValueError: a row that there is not, or one whose environment is not given.
    """
    known = [str(number + 1) for number in range(len(ROWS))]
    for word in rows.split(","):
        if word not in known:
            raise ValueError(f"--rows has {word!r}; give some of {', '.join(known)}, as 1,6")
    given = dict(word.partition("=")[::2] for word in pythons)
    names = " or ".join(LEVELS["environment"])
    for name, path in given.items():
        if name not in LEVELS["environment"] or not os.access(path, os.X_OK):
            raise ValueError(f"--python {name}={path}: give {names}=PATH of an interpreter")
    numbers = [int(word) for word in rows.split(",")]
    for number in numbers:
        if (name := ROWS[number - 1].environment) not in given:
            raise ValueError(f"row {number} is for the {name} torch; give --python {name}=PATH, or other --rows")
    return numbers, given


def measured(row: Row, python: str, tests: list[str]) -> dict[str, Any]:
    """The suite under the settings of a row: counts, names of what failed, versions and seconds."""
    forced = {name: value for name, value in row._asdict().items() if name.isupper() and value != UNSET}
    environment = {name: value for name, value in os.environ.items() if name not in row._fields} | forced
    # Threads that wait for each other in a loop take hours where there are more of them than cores.
    environment |= {"TEST_THREADS": row.threads, "OMP_NUM_THREADS": row.threads, "OMP_WAIT_POLICY": "PASSIVE"}
    told = subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True, env=environment)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        flags = "-n 2 --dist loadfile --no-loadscope-reorder -p no:cacheprovider"
        command = [python, "-m", "pytest", *flags.split()]
        start = time.monotonic()
        done = subprocess.run([*command, f"--junit-xml={report}", *tests], cwd=ROOT, env=environment, check=False)
        seconds = time.monotonic() - start
        counts = counted(report)
    versions: dict[str, Any] = json.loads(told.stdout)
    return row._asdict() | versions | counts | {"seconds": round(seconds), "exit": done.returncode}


def counted(report: Path) -> dict[str, Any]:
    """From pytest's report in the format of JUnit; an error at the start of a test counts as a failure."""
    passed, skipped, failed = 0, 0, []
    for case in ElementTree.parse(report).iter("testcase"):  # our own file
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return {"passed": passed, "skipped": skipped, "failed": failed}


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown of the rows that were measured, and which pairs of settings none of them has."""
    text = ABOUT
    for number, row in sorted(found.items()):
        count = row["passed"] + row["skipped"] + len(row["failed"])
        cells = [number, *(row[name] for name in Row._fields[:4]), row["torch"], row["python"], row["processor"]]
        cells += [count, row["passed"], len(row["failed"]), row["skipped"], row["seconds"]]
        text += f"| {' | '.join(map(str, cells))} |\n"
    missing = uncovered([Row(*(row[name] for name in Row._fields)) for row in found.values()])
    versions = {row["environment"]: f"torch {row['torch']}" for row in found.values()}
    lines = [f"- {' with '.join(_said(name, level, versions) for name, level in pair)}" for pair in missing]
    if missing:
        text += "\nPairs of settings that no row has:\n\n" + "\n".join(lines) + "\n"
    return text


Setting = tuple[str, str]  # a field of a row, and what it is


def uncovered(rows: list[Row]) -> list[tuple[Setting, Setting]]:
    """Every pair of levels of two settings that no row has."""
    missing = []
    for one, other in itertools.combinations(Row._fields, 2):
        pairs = {(getattr(row, one), getattr(row, other)) for row in rows}
        for a, b in itertools.product(LEVELS[one], LEVELS[other]):
            if (a, b) not in pairs:
                missing.append(((one, a), (other, b)))
    return missing


def _said(name: str, level: str, versions: dict[str, str]) -> str:
    if name == "environment":
        return versions.get(level, f"the {level} torch")
    return f"{level} threads" if name == "threads" else f"{name} {level}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
