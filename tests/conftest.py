"""What every test gets: one thread, and no GPU tests without a GPU."""

import pytest
import torch

torch.set_num_threads(1)  # the nets here are small, and processes share the machine's cores


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
