"""Compiled loops against torch, wherever they run: after a fork, with no place to keep them, or a damaged one."""

import ast
import importlib.util
import logging
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

import selfsup.augment.views as views_module
from selfsup.augment import compiled
from selfsup.augment.compiled import loops
from selfsup.augment.parameters import View
from selfsup.augment.presets import PRESETS, moco_v2, moco_v3, reid, simclr
from selfsup.augment.views import Augment, Views
from selfsup.batch import Batch

pytest.importorskip("numba")

from selfsup.augment import color_loops, crop_loops

CPU = torch.device("cpu")
AUGMENTS = {**{name: preset() for name, preset in PRESETS.items()}, "moco_v3": moco_v3()}


def batch_of(count: int, height: int = 53, width: int = 47) -> Batch:
    images = torch.randint(0, 256, (count, 3, height, width), generator=torch.Generator().manual_seed(8))
    return Batch(images.to(torch.uint8), torch.zeros(count, dtype=torch.int64), torch.arange(count))


def small(view: View) -> View:
    """Of odd and unequal sides; solarize is left out, as it makes a large gap of the last bit before it."""
    return replace(view, size=(41, 35) if min(view.shape) > 40 else (21, 15), solarize=0.0)


@pytest.mark.parametrize("name", AUGMENTS)
@pytest.mark.parametrize("count", [1, 9])
def test_every_preset_is_the_same_by_torch(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    augment, batch = Augment(views=tuple(small(view) for view in AUGMENTS[name].views)), batch_of(count)
    found = loops()
    assert found is not None
    used: list[int] = []
    counting = found._replace(crop=lambda *arguments: (used.append(1), found.crop(*arguments)))
    monkeypatch.setattr(compiled, "loops", lambda: counting)
    ours = Views(augment, 4)(batch, 1, CPU)
    assert used
    monkeypatch.setattr(views_module, "loops", lambda: None)
    for mine, other, view in zip(ours, Views(augment, 4)(batch, 1, CPU), augment.views, strict=True):
        assert mine.is_contiguous(memory_format=torch.channels_last)
        # Of a 40th of a level: torch's centres of pixels are in single precision, and the jitter multiplies.
        assert ((mine - other).abs() * torch.tensor(view.std).view(3, 1, 1)).max() < 1e-4


def test_values_of_another_type_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    augment, batch = moco_v2(24), batch_of(4)
    assert isinstance(batch.images, Tensor)
    monkeypatch.setattr(views_module, "views_by_loops", None)
    (view, _) = Views(augment, 0)(batch._replace(images=batch.images.double()), 0, CPU)
    assert view.shape == (4, 3, 24, 24)


def test_images_that_lie_otherwise_in_memory() -> None:
    batch = batch_of(5)
    assert isinstance(batch.images, Tensor)
    turned = batch.images.contiguous(memory_format=torch.channels_last)
    first, second = (Views(simclr(24), 0)(batch._replace(images=x), 0, CPU) for x in (batch.images, turned))
    assert torch.equal(first[0], second[0])


def _in_a_child(results: "multiprocessing.SimpleQueue[list[bytes]]") -> None:
    torch.set_num_threads(1)
    results.put([view.numpy().tobytes() for view in Views(reid((40, 24), shift=3), 2)(batch_of(6), 0, CPU)])


def test_a_forked_process_makes_the_same_bits() -> None:
    if "fork" not in multiprocessing.get_all_start_methods() or sys.platform == "darwin":
        pytest.skip("processes are not forked here")
    expected = [view.numpy().tobytes() for view in Views(reid((40, 24), shift=3), 2)(batch_of(6), 0, CPU)]
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_in_a_child, args=(results,))
    child.start()
    assert results.get() == expected
    child.join()
    assert child.exitcode == 0


def test_without_numba_torch_makes_the_views_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("crop_loops", "color_loops"):
        monkeypatch.setitem(sys.modules, f"selfsup.augment.{name}", None)
        monkeypatch.delattr(f"selfsup.augment.{name}", raising=False)
    monkeypatch.setattr(views_module, "loops", compiled.cache(loops.__wrapped__))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert Views(moco_v2(24), 0)(batch_of(2), 0, CPU)[0].shape == (2, 3, 24, 24)
    (record,) = caplog.records
    assert "numba cannot be imported" in record.getMessage()
    assert "torch makes views on the CPU" in record.getMessage()


DOUBLED = """
from selfsup.devices.kept import kept

@kept("float64(float64)")
def doubled(x):
    return 2 * x
"""


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("doubled_module", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_what_is_kept_on_disk_may_be_damaged(tmp_path: Path) -> None:
    path = tmp_path / "doubled_module.py"
    path.write_text(DOUBLED)
    first = _imported(path).doubled
    assert first(4.0) == 8.0
    assert not first.stats.cache_hits
    assert _imported(path).doubled.stats.cache_hits
    for ending in ("nbc", "nbi"):
        files = list(tmp_path.rglob(f"*.{ending}"))
        assert files
        for file in files:
            file.write_bytes(file.read_bytes()[:40])
        assert _imported(path).doubled(4.0) == 8.0, ending


SCALED = """
from numbers_of_doubled import CONSTANTS
from selfsup.augment.compiled import up_to_date
from selfsup.devices.kept import kept

@kept("float64(float64)")
def doubled(x):
    return CONSTANTS[0] * x

@kept("float64()")
def compiled_with():
    return CONSTANTS[0]

before = doubled(1.0)
up_to_date(compiled_with, [doubled])
"""


def test_what_is_kept_on_disk_follows_constants_of_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "doubled_module.py"
    path.write_text(SCALED)
    for constant, kept in ((2.0, 2.0), (3.0, 2.0), (3.0, 3.0)):
        numbers = ModuleType("numbers_of_doubled")
        monkeypatch.setattr(numbers, "CONSTANTS", (constant,), raising=False)
        monkeypatch.setitem(sys.modules, "numbers_of_doubled", numbers)
        module = _imported(path)
        assert (module.before, module.doubled(4.0)) == (kept, 4 * constant)


@pytest.mark.parametrize("module", [crop_loops, color_loops])
def test_every_constant_of_another_file_is_told(module: ModuleType) -> None:
    names = [
        name.name
        for node in ast.parse(Path(str(module.__file__)).read_text()).body
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("selfsup")
        for name in node.names
        if name.name.isupper()
    ]
    told = [float(value) for name in names for value in np.atleast_1d(getattr(module, name))]
    assert sorted(told) == sorted(map(float, module.CONSTANTS))


def test_nothing_need_be_kept_on_disk() -> None:
    """As where no folder can be written: numba finds none for what comes from no file."""
    namespace: dict[str, object] = {}
    exec(DOUBLED, namespace)
    assert namespace["doubled"](4.0) == 8.0  # type: ignore[operator]
