import functools
import multiprocessing
import os

import numpy as np
import pytest
import torch

from selfsup.data import resident, streaming
from selfsup.data.base import TooManyUnreadable
from selfsup.data.loader import Loader, evaluation_batches
from selfsup.data.resident import CanvasSource
from selfsup.data.sources import open_source
from tests.support.pictures import folder_of, picture

CPU = torch.device("cpu")


def crop(images, indices, epoch):
    """Two views that show which image, under which number, in which epoch."""
    small = torch.stack([torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1) for image in images])
    return small, small[:, :, :2, :2] ^ (indices + 31 * epoch)[:, None, None, None].to(torch.uint8)


def flat(batches):
    """All tensors of the batches in one list."""
    found = []
    for batch in batches:
        images = batch.images if isinstance(batch.images, tuple) else (batch.images,)
        found += [*images, batch.labels, batch.indices, *([] if batch.sizes is None else [batch.sizes])]
    return found


def assert_same(left, right):
    left, right = flat(left), flat(right)
    assert len(left) == len(right) > 0
    assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@pytest.fixture(params=["array", "canvas", "crop"])
def make(request, tmp_path):
    """A function that makes a loader of one of the three kinds, of 22 images in batches of 4."""
    if request.param == "array":
        return functools.partial(Loader, open_source("shapes:22"), batch_size=4, seed=5, device=CPU)
    source = open_source(str(folder_of(tmp_path, 22, ("a", "b"), broken=(6,))))
    way = {"canvas": 8} if request.param == "canvas" else {"crop": crop}
    return functools.partial(Loader, source, batch_size=4, seed=5, device=CPU, **way)


def test_a_start_in_mid_epoch_is_the_tail_of_the_epoch(make):
    whole = list(make().epoch(3))
    assert len(whole) == 5
    assert_same(make().epoch(3, start=2), whole[2:])
    assert list(make().epoch(3, start=5)) == []
    with pytest.raises(ValueError, match="cannot start at batch 6"):
        make().epoch(3, start=6)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_together_hold_the_batches_of_one_process(make, world):
    ranks = [list(make(rank=rank, world=world).epoch(1)) for rank in range(world)]
    for number, whole in enumerate(make().epoch(1)):
        parts = [flat([batches[number]]) for batches in ranks]
        for tensor, shares in zip(flat([whole]), zip(*parts, strict=True), strict=True):
            assert torch.equal(tensor, torch.cat(shares))


@pytest.mark.parametrize("through_pipe", [False, True])
def test_the_number_of_workers_changes_nothing(tmp_path, monkeypatch, through_pipe):
    monkeypatch.setattr(streaming, "_shared_memory", lambda: 1 << (20 if through_pipe else 40))
    source = open_source(str(folder_of(tmp_path, 22, ("a", "b"), broken=(6,))))
    loaders = [Loader(source, batch_size=4, seed=5, device=CPU, crop=crop, workers=workers) for workers in (0, 2)]
    for epoch in (0, 1):
        assert_same(loaders[0].epoch(epoch), loaders[1].epoch(epoch))
        assert loaders[0].unreadable == loaders[1].unreadable
    assert list(loaders[1].unreadable) == [str(tmp_path / "a" / "0006.png")]


def test_images_labels_and_indices_belong_together_in_the_samplers_order(make):
    loader = make()
    for number, batch in enumerate(loader.epoch(2)):
        rows = loader.sampler.batch(2, number)
        assert torch.equal(batch.indices, torch.where(rows == 6, 7, rows) if loader.unreadable else rows)
        assert torch.equal(batch.labels, loader.source.labels[batch.indices])
        if isinstance(batch.images, tuple):
            wanted = crop([loader.source.load(index) for index in batch.indices.tolist()], batch.indices, 2)
            assert all(torch.equal(view, same) for view, same in zip(batch.images, wanted, strict=True))
        else:
            assert torch.equal(batch.images, loader.source.images[batch.indices])


def test_nothing_touches_the_global_random_state(make):
    state = torch.get_rng_state()
    list(make().epoch(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("way", [{"canvas": 8}, {"crop": crop}, {"crop": crop, "workers": 2}])
def test_an_unreadable_image_gives_way_to_the_next_readable_one(tmp_path, way):
    # Two runs of two: 4 and 5, and one over the end, 399 and 0.
    broken = (0, 4, 5, 399)
    source = open_source(str(folder_of(tmp_path, 400, ("a", "b"), broken=broken)))
    loader = Loader(source, batch_size=400, seed=0, device=CPU, **way)
    (batch,) = loader.epoch(0)
    rows = loader.sampler.batch(0, 0)
    instead = {399: 1, 0: 1, 4: 6, 5: 6}
    assert batch.indices.tolist() == [instead.get(row, row) for row in rows.tolist()]
    assert torch.equal(batch.labels, source.labels[batch.indices])
    assert set(loader.unreadable) == {source.name(index) for index in broken}
    images = batch.images[0] if isinstance(batch.images, tuple) else batch.images
    place = {int(row): number for number, row in enumerate(rows)}
    assert torch.equal(images[place[4]], images[place[6]])
    assert torch.equal(images[place[399]], images[place[1]])


def test_a_canvas_holds_the_squeezed_image_and_its_size(tmp_path):
    source = open_source(str(folder_of(tmp_path, 6)))
    for batch in Loader(source, batch_size=3, seed=0, device=CPU, canvas=8).epoch(0):
        for image, index, size in zip(batch.images, batch.indices.tolist(), batch.sizes.tolist(), strict=True):
            original = picture(index, 16 + index % 5, 12 + index % 7)
            assert size == [original.height, original.width]
            wanted = torch.nn.functional.interpolate(
                torch.from_numpy(np.array(original)).permute(2, 0, 1)[None].double(),
                (8, 8),
                mode="bilinear",
                antialias=True,
            )[0]
            assert (image - wanted).abs().max() <= 1.001


@pytest.mark.parametrize("way", [{"canvas": 8}, {"crop": crop}, {"crop": crop, "workers": 2}])
@pytest.mark.parametrize("world", [1, 3])
def test_evaluation_reads_every_readable_image_once_in_order(tmp_path, way, world):
    source = open_source(str(folder_of(tmp_path, 23, ("a", "b"), broken=(9,))))
    unreadable = {}
    batches = [
        batch
        for rank in range(world)
        for batch in evaluation_batches(
            source, batch_size=5, device=CPU, rank=rank, world=world, unreadable=unreadable, **way
        )
    ]
    indices = torch.cat([batch.indices for batch in batches])
    assert indices.tolist() == [index for index in range(23) if index != 9]
    assert torch.equal(torch.cat([batch.labels for batch in batches]), source.labels[indices])
    assert list(unreadable) == [source.name(9)]
    if "canvas" in way:
        squeezed = CanvasSource(source, 8)
        assert torch.equal(torch.cat([batch.images for batch in batches]), squeezed.images[indices])
        assert_same(
            evaluation_batches(squeezed, batch_size=23, device=CPU),
            evaluation_batches(source, batch_size=23, device=CPU, canvas=8),
        )


def test_evaluation_takes_a_single_image_and_leaves_an_empty_share_empty():
    source = open_source("shapes:1")
    assert [len(batch.images) for batch in evaluation_batches(source, batch_size=8, device=CPU)] == [1]
    assert list(evaluation_batches(source, batch_size=8, device=CPU, rank=0, world=2)) == []


@pytest.mark.parametrize("way", [{"canvas": 8}, {"crop": crop}, {"crop": crop, "workers": 2}])
def test_more_than_one_percent_unreadable_stops_the_run_with_the_first_paths(tmp_path, way):
    source = open_source(str(folder_of(tmp_path, 30, broken=(3, 20))))

    def run():
        for epoch in range(2):
            list(Loader(source, batch_size=10, seed=0, device=CPU, **way).epoch(epoch))

    with pytest.raises(TooManyUnreadable, match=r"2 of 30 images cannot be read, more than 1%: .*0003\.png") as caught:
        run()
    assert "worker" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("way", [{"canvas": 8}, {"crop": crop}])
@pytest.mark.parametrize("count", [2, 5])
def test_a_folder_without_a_readable_image(tmp_path, way, count):
    source = open_source(str(folder_of(tmp_path, count, broken=tuple(range(count)))))
    with pytest.raises(TooManyUnreadable, match=f"no readable image among {count}"):
        list(Loader(source, batch_size=2, seed=0, device=CPU, **way).epoch(0))


def test_one_percent_is_still_accepted(tmp_path):
    source = open_source(str(folder_of(tmp_path, 200, broken=(3, 20))))
    loader = Loader(source, batch_size=50, seed=0, device=CPU, canvas=8)
    assert len(loader.unreadable) == 2
    (tmp_path / "0099.png").write_bytes(b"")
    with pytest.raises(TooManyUnreadable, match="3 of 200"):
        Loader(source, batch_size=50, seed=0, device=CPU, canvas=8)


def test_what_cannot_work_is_refused(tmp_path, monkeypatch):
    files, array = open_source(str(folder_of(tmp_path, 4))), open_source("shapes:4")
    for source, changed, message in (
        (array, {"batch_size": 5}, "batch size 5 is larger than the data set, 4 images"),
        (array, {"batch_size": 3, "world": 2}, "batch size 3 cannot be shared evenly by 2 processes; try 2"),
        (array, {"workers": -1}, "-1 workers"),
        (files, {}, "need a canvas .* or a crop"),
        (files, {"canvas": 8, "crop": crop}, "both a canvas and a crop"),
        (files, {"canvas": 0}, "canvas is 0 pixels"),
    ):
        with pytest.raises(ValueError, match=message):
            Loader(source, **{"batch_size": 4, "seed": 0, "device": CPU} | changed)
    monkeypatch.setattr(resident, "free_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"4 images of 16 x 16 pixels need .* GiB(.|\n)*choose a smaller canvas"):
        Loader(files, batch_size=2, seed=0, device=CPU, canvas=16)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="open files are counted in /proc")
def test_workers_that_stop_early_leave_no_process_and_no_open_file(tmp_path):
    source = open_source(str(folder_of(tmp_path, 40)))
    loader = Loader(source, batch_size=4, seed=0, device=CPU, crop=crop, workers=2)
    handles = []
    for epoch in range(6):
        batches = loader.epoch(epoch)
        next(batches)
        batches.close()
        handles.append(len(os.listdir("/proc/self/fd")))
    assert min(handles[3:]) <= max(handles[:3]) + 3  # a leak of an epoch's handles would go on growing
    assert multiprocessing.active_children() == []


def test_a_broken_file_does_not_change_the_other_batches(tmp_path):
    sound = open_source(str(folder_of(tmp_path / "sound", 20)))
    broken = open_source(str(folder_of(tmp_path / "broken", 20, broken=(7,))))
    pairs = zip(
        *(Loader(source, batch_size=2, seed=0, device=CPU, crop=crop).epoch(0) for source in (sound, broken)),
        strict=True,
    )
    differing = sum(not torch.equal(a.indices, b.indices) for a, b in pairs)
    assert differing == 1
