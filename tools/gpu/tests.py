"""A part of `tools.gpu_check`: the tests that need a GPU, each failure told as soon as it is there."""

import os
from collections import Counter
from dataclasses import replace

import pytest
import torch

from tools.checkout import ROOT
from tools.gpu.asked import Asked

MARK = "mark.gpu"
ANYWHERE = "tests/augment/test_parameters.py"  # without a GPU, so that this part is tried too


class Teller:
    """A plugin of pytest that tells failures and counts the rest."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.passed = self.failed = 0
        self.skipped: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._failure(report.nodeid, report.when or "", report.longreprtext)
        elif report.skipped:
            self._skip(report.longrepr)
        elif report.when == "call":
            self.passed += 1

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._failure(report.nodeid, "collection", report.longreprtext)
        elif report.skipped:
            self._skip(report.longrepr)

    def _failure(self, name: str, when: str, trace: str) -> None:
        self.failed += 1
        said = [line[2:].strip() for line in trace.splitlines() if line.startswith("E ")]
        self.asked.tell(failed=name, when=when, error="\n".join(said or trace.splitlines())[-1500:])

    def _skip(self, reason: object) -> None:
        self.skipped[str(reason[2] if isinstance(reason, tuple) else reason).removeprefix("Skipped: ")] += 1


def files_with_gpu_tests() -> list[str]:
    """Only these are collected: to collect all the others takes longer than to run these."""
    found = sorted((ROOT / "tests").rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in found if MARK in path.read_text()]


def check_tests(asked: Asked) -> bool:
    """The tests marked `gpu`, all of them whatever fails; their traces are in <out>/tests.txt."""
    alone = not torch.cuda.is_available()
    teller = Teller(replace(asked, stream=os.dup(1), out=asked.out.resolve()))
    os.chdir(ROOT)
    # What else is installed for pytest is not ours, and its warnings would be errors here.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    with open(teller.asked.out / "tests.txt", "wb") as file:
        os.dup2(file.fileno(), 1)  # of what pytest and the tests say; this process does nothing else
    code = told(teller, [ANYWHERE] if alone else ["-m", "gpu", *files_with_gpu_tests()])
    well = code == pytest.ExitCode.OK and teller.passed > 0
    left_out = "no GPU: the tests marked gpu are left out" if alone else ""
    counts = {"passed": teller.passed, "failures": teller.failed, "skipped": dict(teller.skipped)}
    teller.asked.tell(ok=well, **counts, left_out=left_out)
    return well


def told(teller: Teller, words: list[str]) -> int:
    """The exit code of pytest with these words, which tells all that fails and stops at none of it."""
    ways = ["--continue-on-collection-errors", "--strict-markers", "-v", "-p", "no:cacheprovider", "-o", "addopts="]
    return int(pytest.main([*ways, *words], plugins=[teller]))
