"""Several processes of a machine hold decoded images once, with the pixels of one process."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from selfsup.data import sharing
from selfsup.data.base import TooManyUnreadable
from selfsup.data.loader import Loader
from selfsup.data.resident import CanvasSource
from selfsup.data.sources import open_source, subset
from tests.support.pictures import folder_of
from tests.support.processes import run_processes

CPU = torch.device("cpu")


def as_launched(world: int) -> None:
    os.environ["LOCAL_WORLD_SIZE"] = str(world)


def batches(loader: Loader) -> list[list[torch.Tensor]]:
    return [[b.images, b.labels, b.indices, b.sizes] for b in loader.epoch(1)]  # type: ignore[list-item]


def mapping(source: CanvasSource) -> str:
    """Device and inode of the file that holds the images, by the address of the first pixel."""
    address = source.images.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(place, 16) for place in line.split()[0].split("-"))
        if begin <= address < end:
            return " ".join(line.split()[3:5]) + (" (deleted)" if line.endswith("(deleted)") else "")
    raise AssertionError("the images are nowhere")


def in_each(folder: str, world: int, memory: str) -> dict[str, Any]:
    as_launched(world)
    sharing._MEMORY = Path(memory)
    loader = Loader(open_source(folder), batch_size=8, seed=3, device=CPU, canvas=9, rank=dist.get_rank(), world=world)
    source = loader.source
    assert isinstance(source, CanvasSource)
    part = subset(source, 20)
    assert part.images.data_ptr() == source.images.data_ptr()
    return {
        "batches": batches(loader),
        "chosen": torch.stack([part.pixels(row) for row in range(20)]),
        "mapping": mapping(source),
        "unreadable": list(loader.unreadable),
    }


@pytest.mark.parametrize("place", ["/dev/shm", "nowhere"])
def test_processes_share_one_copy_with_the_pixels_of_one_process(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    folder = folder_of(tmp_path / "files", 131, ("a", "b"), broken=(70,))
    before = set(Path("/dev/shm").iterdir())
    first, second = run_processes(2, in_each, str(folder), 2, place)
    assert first["mapping"] == second["mapping"]
    assert first["mapping"].endswith("(deleted)")
    assert not [path for path in set(Path("/dev/shm").iterdir()) - before if path.name.startswith("selfsup-")]
    assert not [path for path in temporary.iterdir() if path.name.startswith("selfsup-")]
    alone = Loader(open_source(str(folder)), batch_size=8, seed=3, device=CPU, canvas=9)
    assert first["unreadable"] == second["unreadable"] == list(alone.unreadable)
    for whole, *parts in zip(batches(alone), first["batches"], second["batches"], strict=True):
        for tensor, one, other in zip(whole, *parts, strict=True):
            assert torch.equal(tensor, torch.cat([one, other]))
    chosen = subset(alone.source, 20)
    assert torch.equal(first["chosen"], torch.stack([chosen.pixels(row) for row in range(20)]))  # type: ignore[attr-defined]


def refused(folder: str) -> bool:
    as_launched(2)
    with pytest.raises(TooManyUnreadable, match="2 of 30 images cannot be read"):
        CanvasSource(open_source(folder), 8)
    return True


def failed(folder: str) -> bool:
    """Where one process fails none waits for it."""
    as_launched(2)
    source = open_source(folder)
    if dist.get_rank() == 1:
        source.load_for_canvas = None  # type: ignore[assignment]
    with pytest.raises((ValueError, TypeError), match="'NoneType' object is not callable"):
        CanvasSource(source, 8)
    return True


def test_what_goes_wrong_in_one_process_is_raised_in_all(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 30, broken=(3, 20))
    assert run_processes(2, refused, str(folder)) == [True, True]
    assert run_processes(2, failed, str(folder)) == [True, True]


def counted(folder: str) -> bool:
    as_launched(2)
    import selfsup.data.resident as resident

    source = open_source(folder)
    resident.free_memory = lambda: 30 * 3 * 8 * 8  # type: ignore[assignment]
    CanvasSource(source, 8)
    with pytest.raises(ValueError, match="choose a smaller canvas"):
        CanvasSource(source, 9)
    return True


def test_the_memory_that_is_needed_is_counted_once(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, 30)
    assert run_processes(2, counted, str(folder)) == [True, True]
