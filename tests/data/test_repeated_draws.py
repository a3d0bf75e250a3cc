"""An image that is drawn several times in an epoch shows another view each time, the same by every way of feeding."""

from dataclasses import replace

import pytest
import torch
from PIL.Image import Image
from torch import Tensor

from selfsup.augment.parameters import Jitter, View
from selfsup.augment.views import Augment, Views
from selfsup.data.base import ArraySource, Source
from selfsup.data.loader import Loader
from selfsup.data.sampler import occurrences
from selfsup.data.sampling import ClassBalanced, Sampling, Shuffled, TwoDomains
from selfsup.data.sources import open_source
from tests.support.pictures import folder_of

CPU = torch.device("cpu")
VIEW = View(size=8, jitter=Jitter(brightness=0.4, contrast=0.4), grayscale=0.2, crop_attempts=20)
MAKER = Views(Augment(views=(VIEW, replace(VIEW, flip=0.0))), seed=3)
FEW = ClassBalanced(per_class=4, steps_per_epoch=6)  # 20 images in classes of 7 and 13, 48 draws
DOMAINS = TwoDomains(per_class=2, steps_per_epoch=6)


def array(sampling: Sampling = FEW) -> ArraySource:
    labels = (torch.arange(20) >= 7).long()
    if isinstance(sampling, TwoDomains):
        labels[8:] = -1
    return ArraySource(torch.randint(0, 256, (20, 3, 12, 12), generator=torch.manual_seed(0)).byte(), labels)


def loader(sampling: Sampling = FEW, **settings) -> Loader:
    made = Loader(array(sampling), batch_size=8, seed=5, device=CPU, sampling=sampling, **settings)
    if isinstance(sampling, TwoDomains):
        made.sampler.use(torch.arange(20) // 2)
    return made


def numbers(batches) -> Tensor:
    return torch.cat([batch.draws for batch in batches])


def pixels(batches, epoch: int = 2) -> Tensor:
    """(views, all rows, 3, S, S) of an epoch's batches."""
    return torch.cat([torch.stack(MAKER(batch, epoch, CPU)) for batch in batches], dim=1)


class Pictures(Source):
    """The images of an array as if each were a file."""

    def __init__(self, array: ArraySource) -> None:
        self.array, self.labels, self.classes = array, array.labels, array.classes

    def name(self, index: int) -> str:
        return self.array.name(index)

    def load(self, index: int) -> Image:
        return self.array.load(index)


def stream(source, sampling: Sampling = FEW, **settings) -> Loader:
    return Loader(source, batch_size=8, seed=5, device=CPU, sampling=sampling, crop=MAKER.crop, **settings)


def test_occurrences_are_counted_along_the_row() -> None:
    values = torch.randint(0, 7, (60,), generator=torch.manual_seed(1))
    seen: dict[int, int] = {}
    for value, count in zip(values.tolist(), occurrences(values).tolist(), strict=True):
        assert count == seen.get(value, 0)
        seen[value] = count + 1


@pytest.mark.parametrize("sampling", [FEW, DOMAINS, ClassBalanced(per_class=4, singletons="once", steps_per_epoch=6)])
def test_draws_are_counted_over_the_epoch(sampling: Sampling) -> None:
    batches = list(loader(sampling).epoch(2))
    order = torch.cat([batch.indices for batch in batches])
    draws = numbers(batches)
    assert torch.equal(draws, occurrences(order))
    assert draws.max() >= 2


def test_every_occurrence_has_views_of_its_own_and_the_first_those_of_an_image_that_comes_once() -> None:
    tiny = ArraySource(array().images, torch.arange(20) // 3)  # classes of 3: an image comes twice in one batch
    for source in (array(), tiny):
        batches = list(Loader(source, batch_size=8, seed=5, device=CPU, sampling=FEW).epoch(2))
        views, indices = pixels(batches), torch.cat([batch.indices for batch in batches])
        draws = numbers(batches)
        (plain,) = Loader(source, batch_size=20, seed=5, device=CPU, sampling=Shuffled()).epoch(2)
        assert plain.draws is None
        shown = pixels([plain])[:, plain.indices.argsort()]  # by image
        assert draws.max() >= 2
        for image in range(20):
            rows = (indices == image).nonzero().flatten()
            for view in range(2):
                assert len(views[view, rows].flatten(1).unique(dim=0)) == len(rows)
            first = rows[draws[rows] == 0]
            torch.testing.assert_close(views[:, first], shown[:, [image]].expand(-1, len(first), -1, -1, -1))
    assert all(len(batch.indices.unique()) < 8 for batch in batches)  # in classes of 3


@pytest.mark.parametrize("sampling", [FEW, DOMAINS])
def test_a_start_in_mid_epoch_and_two_processes_see_the_same_pixels(sampling: Sampling) -> None:
    whole = pixels(loader(sampling).epoch(2))
    torch.testing.assert_close(pixels(loader(sampling).epoch(2, start=4)), whole[:, 32:], atol=1e-6, rtol=0)
    for rank in range(2):
        part = pixels(loader(sampling, rank=rank, world=2).epoch(2))
        own = whole.unflatten(1, (6, 2, 4))[:, :, rank].flatten(1, 2)
        torch.testing.assert_close(part, own, atol=1e-6, rtol=0)


def test_squeezed_and_streamed_files_draw_anew_and_workers_change_nothing(tmp_path) -> None:
    source = open_source(str(folder_of(tmp_path, 20, ("a", "b"), broken=(6,))))
    resident = list(Loader(source, batch_size=8, seed=5, device=CPU, sampling=FEW, canvas=16).epoch(2))
    streamed = [list(stream(source, workers=workers).epoch(2)) for workers in (0, 2)]
    tail = list(stream(source, workers=2).epoch(2, start=3))
    assert torch.equal(pixels(streamed[0]), pixels(streamed[1]))
    assert torch.equal(pixels(streamed[0])[:, 24:], pixels(tail))
    for one, other in zip(resident, streamed[0], strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(numbers([one]), numbers([other]))
    crops = torch.cat([batch.images[1] for batch in streamed[0]])  # before flip and colour: the worker's part alone
    indices = torch.cat([batch.indices for batch in streamed[0]])
    for image in (3, 15):
        assert len(crops[indices == image].flatten(1).unique(dim=0)) == int((indices == image).sum()) > 1


def test_streamed_crops_are_those_of_resident_images() -> None:
    """Flip and colour are drawn in the main process, the box in the worker: both count the same draws."""
    batch = list(loader().epoch(2))[5]
    assert numbers([batch]).min() > 0
    # PIL rounds its crops to whole values.
    gap = pixels([batch]) - pixels(list(stream(Pictures(array())).epoch(2))[5:])
    assert gap.abs().flatten(2).mean(dim=2).max() < 0.01
