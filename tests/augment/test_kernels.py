"""The kernels of a GPU without one: interpreted against plain loops, compiled, and counted."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from selfsup.augment import on_device
from selfsup.augment.parameters import View, draw_views
from selfsup.augment.presets import PRESETS, moco_v3
from selfsup.augment.views import Augment, Views
from selfsup.batch import Batch

AUGMENTS = {**{name: preset() for name, preset in PRESETS.items()}, "moco_v3": moco_v3()}


def test_the_kernels_equal_plain_loops() -> None:
    triton = pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.interpreted"], capture_output=True, text=True, timeout=600
    )
    old = tuple(map(int, triton.__version__.split(".")[:2])) < (3, 8)
    if old and "TypeError('only 0-dimensional arrays can be converted to Python scalars')" in done.stderr:
        pytest.skip(f"the interpreter of Triton {triton.__version__} reads no scalars with NumPy {np.__version__}")
    assert done.returncode == 0, done.stderr
    gaps = json.loads(done.stdout.splitlines()[-1])
    assert len(gaps) == 8
    assert max(gaps.values()) < 1e-5, gaps


def test_the_kernels_compile_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    compiled: dict[str, str] = {}
    types = {torch.uint8: "*u8", torch.float32: "*fp32"}

    def launch(kernel: Any, grid: tuple[int, int], *arguments: Any, **constants: Any) -> None:
        kinds = [types[value.dtype] if isinstance(value, Tensor) else "i32" for value in arguments]
        signature = dict(zip(kernel.arg_names, kinds, strict=False)) | dict.fromkeys(constants, "constexpr")
        assert sorted(signature) == sorted(kernel.arg_names)
        source = ASTSource(kernel, signature, constexprs=constants)
        compiled[kernel.__name__] = triton.compile(source, target=GPUTarget("cuda", 80, 32)).asm["ptx"]

    monkeypatch.setattr(on_device, "_launch", launch)
    view, indices = AUGMENTS["moco_v2"].views[0], torch.arange(2)
    (numbers,) = draw_views([view], 0, 0, indices, torch.full((2, 2), 250))
    images = torch.zeros(2, 3, 224, 224, dtype=torch.uint8)
    for cropped in (False, True):
        on_device.views_by_kernels([view], [images], [numbers], None, cropped)
    assert len(compiled) == 6
    assert all(".target sm_80" in text for text in compiled.values())


class Counted(TorchDispatchMode):
    """Counts what a device is asked to do; what only looks at memory or reserves it asks for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **kwargs or {})
        made = result[0] if isinstance(result, list | tuple) else result
        name = str(func)
        reserved = any(word in name for word in ("empty", "detach"))
        if isinstance(made, Tensor) and made.device.type == "cuda" and not func.is_view and not reserved:
            self.operations.append(name)
        return result


class OnItsWay:
    """Images that a device is about to get; torch itself would look for a driver."""

    def __init__(self, there: Tensor) -> None:
        self.there = there

    def to(self, device: torch.device, non_blocking: bool) -> Tensor:
        assert device.type == "cuda"
        assert non_blocking
        return self.there


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("cropped", [False, True])
def test_two_views_are_at_most_forty_operations_of_a_gpu(
    name: str, cropped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors that have no values: whatever would wait for them raises an error."""
    pytest.importorskip("triton")
    augment = AUGMENTS[name]
    augment = Augment(views=(augment.views * 2)[:2])
    mode, counted = FakeTensorMode(), Counted()
    uploads: list[Tensor] = []

    def send(values: Tensor, device: torch.device) -> Tensor:
        uploads.append(values)
        return fake(values.shape, values.dtype)

    def fake(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        with mode:
            return torch.empty(*shape, dtype=dtype, device="cuda")

    monkeypatch.setattr(on_device, "send", send)
    monkeypatch.setattr(on_device, "_launch", lambda kernel, *_, **__: counted.operations.append(kernel.__name__))
    monkeypatch.setattr(on_device, "usable", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_of", lambda tensor: torch.no_grad())
    shapes = [view.shape if cropped else (250, 240) for view in augment.views]
    images = tuple(OnItsWay(fake((512, 3, *shape), torch.uint8)) for shape in shapes)
    arriving: Any = images if cropped else images[0]
    batch = Batch(arriving, torch.zeros(512, dtype=torch.int64), torch.arange(512))
    with counted:
        made = Views(augment, 0)(batch, 0, torch.device("cuda"))
    assert [tuple(view.shape[-2:]) for view in made] == [view.shape for view in augment.views]
    assert {view.device.type for view in made} == {"cuda"}
    assert len(uploads) == 1
    print(name, len(counted.operations) + len(uploads))
    assert 2 <= len(counted.operations) + len(uploads) <= 40


def test_many_large_views_are_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    counts: list[int] = []
    monkeypatch.setattr(on_device, "_launch", lambda kernel, grid, *_, **__: counts.append(grid[0]))
    monkeypatch.setattr(on_device, "_TOGETHER", 3 * 8**2)
    view = View(size=8)
    (numbers,) = draw_views([view], 0, 0, torch.arange(7), torch.full((7, 2), 9))
    images = torch.zeros(7, 3, 9, 9, dtype=torch.uint8)
    (made,) = on_device.views_by_kernels([view], [images], [numbers], None, False)
    assert made.shape == (7, 3, 8, 8)
    assert counts == [3] * 3 + [3] * 3 + [1] * 3
