"""Measure one figure of the record of reliability: `python -m tests.reliability R3` writes <runs>/R3.json."""

import argparse
import os
import sys
from pathlib import Path

from tests.reliability.record import figures, measure
from tools import checkout


def main() -> int:
    checkout.begin()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    by_name = {figure.name: figure for figure in figures()}
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("name", choices=list(by_name), help="the figure")
    parser.add_argument("--runs", type=Path, default=Path("runs/reliability"), help="folder of the measurements")
    parser.add_argument("--quick", action="store_true", help="little effort")
    options = parser.parse_args()
    measure(by_name[options.name], options.runs, options.quick)
    return 0


if __name__ == "__main__":
    sys.exit(main())
