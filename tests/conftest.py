"""What every test gets: few threads, warnings as errors where they are ours, and no GPU tests without a GPU."""

import os

import pytest
import torch

from tests.support.places import ROOT

# The nets here are small, and processes share the machine's cores; TEST_THREADS tries another number.
torch.set_num_threads(int(os.environ.get("TEST_THREADS", "1")))
# Processes that tests start, and recipes that they read, find this checkout and its tests as pytest does (setup.cfg).
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
LONG = (
    "tests/training/test_resume.py",
    "tests/tools/test_journey.py",
    "tests/test_cli.py",
    "tests/contracts/test_contracts.py",
    "tests/models/test_encoders.py",
    "tests/training/test_sharding.py",
    "tests/tools/test_gpu_check.py",
    "tests/whole/test_adding_a_method.py",
    "tests/contracts/test_without_double.py",
    "tests/runtime/",
    "tests/training/",
    "tests/augment/",
)
OURS = ("selfsup", "tests", "tools", "recipes", "__main__", "<run_path>")  # a recipe is run by its path
AGEING = ("DeprecationWarning", "PendingDeprecationWarning", "FutureWarning")


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors (setup.cfg), save that another package uses something old: a newer version mends it.

    A warning belongs to the module that it is attributed to. What a library attributes to its caller, by `stacklevel`,
    is ours where the caller is, and so is what a library says of itself in any other category.
    """
    ours = "|".join(OURS)
    for kind in AGEING:
        config.addinivalue_line("filterwarnings", f"ignore::{kind}")
        config.addinivalue_line("filterwarnings", f"error::{kind}:({ours})(\\.|$)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, so that the processes of `tools/test`, which get file by file, end together."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
