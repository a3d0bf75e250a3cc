"""Batches by class: how many of each, in what order, and what is refused."""

import time
from functools import partial

import pytest
import torch

from selfsup.data.base import ArraySource
from selfsup.data.joined import two_domains
from selfsup.data.loader import Loader
from selfsup.data.sampling import ClassBalanced, Shuffled, TwoDomains
from selfsup.data.shapes import shapes

SIZES = [7, 1, 4, 2, 9, 5, 1, 4, 6, 3]
LABELS = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))[
    torch.randperm(42, generator=torch.manual_seed(1))
]


def batches(sampler, epoch):
    return [sampler.batch(epoch, number) for number in range(sampler.steps_per_epoch)]


def test_each_batch_holds_the_same_number_of_each_of_its_classes():
    sampler = ClassBalanced(per_class=4, steps_per_epoch=50).build(LABELS, 16, seed=3)
    seen = torch.zeros(len(SIZES))
    for rows in batches(sampler, 2):
        classes, counts = LABELS[rows].unique(return_counts=True)
        assert counts.tolist() == [4] * 4
        seen[classes] += 1
        for label in classes.tolist():  # no image twice as long as the class has enough
            assert rows[LABELS[rows] == label].unique().numel() == min(4, SIZES[label])
    assert seen[[1, 6]].eq(0).all()  # classes of one image cannot make a pair
    assert seen[[0, 2, 3, 4, 5, 7, 8, 9]].eq(25).all()  # 8 classes, two batches per pass


def test_every_image_of_a_class_gets_its_turn():
    sampler = ClassBalanced(per_class=2, steps_per_epoch=60).build(LABELS, 8, seed=0)
    counts = torch.cat(batches(sampler, 0)).bincount(minlength=42)
    assert counts[LABELS == 4].min() > 0
    assert counts[LABELS == 1].sum() == 0


@pytest.mark.parametrize("singletons", ["skip", "once"])
def test_no_image_comes_again_before_all_of_its_class_have_come(singletons):
    sampler = ClassBalanced(per_class=4, singletons=singletons, steps_per_epoch=30).build(LABELS, 16, seed=0)
    rows = torch.cat(batches(sampler, 1))
    for label, size in enumerate(SIZES):
        drawn = rows[LABELS[rows] == label]
        assert len(drawn) == 0 if (size == 1 and singletons == "skip") else len(drawn) > size
        for start in range(0, len(drawn), size):
            part = drawn[start : start + size]
            assert part.unique().numel() == len(part)


def test_each_pass_over_the_classes_has_an_order_of_its_own():
    sampler = ClassBalanced(per_class=2, steps_per_epoch=40).build(LABELS, 16, seed=0)  # a pass of 8 classes is a batch
    orders = {tuple(LABELS[rows][::2].tolist()) for epoch in range(2) for rows in batches(sampler, epoch)}
    assert len(orders) == 80
    assert {tuple(sorted(order)) for order in orders} == {(0, 2, 3, 4, 5, 7, 8, 9)}


def test_one_large_cluster_takes_no_time():
    labels = torch.zeros(12_936).long()
    sampler = ClassBalanced(per_class=4, singletons="once", steps_per_epoch=400).build(labels, 64, seed=0)
    begin = time.perf_counter()
    rows = torch.cat(batches(sampler, 0))
    assert time.perf_counter() - begin < 1  # a permutation of the images in each of 6,400 passes took a minute
    assert rows.bincount().unique().tolist() == [1, 2]  # 25,600 draws


def test_classes_of_one_image_are_not_counted_and_are_spoken_of_once(capsys):
    assert ClassBalanced(per_class=2).build(LABELS, 6, seed=0).steps_per_epoch == 6  # 40 of 42 images
    assert capsys.readouterr().err == ""
    labels = torch.cat([torch.zeros(7), torch.ones(1), torch.arange(2, 6)]).long()
    assert (
        ClassBalanced(per_class=8).build(labels, 8, seed=0).steps_per_epoch == 1
    )  # 7 images fill no batch, and repeat
    assert ClassBalanced(per_class=2, singletons="once").build(LABELS, 6, seed=0).steps_per_epoch == 7
    source = ArraySource(torch.zeros(42, 3, 2, 2).byte(), LABELS)
    for rank, wanted in enumerate(["2 of 10 classes have one image and are left out\n", ""]):
        make = partial(Loader, source, batch_size=8, seed=0, device=torch.device("cpu"), rank=rank, world=2)
        loader = make(sampling=ClassBalanced(per_class=2))
        list(loader.epoch(0))
        assert capsys.readouterr().err == wanted
        make(sampling=ClassBalanced(per_class=2, singletons="once"))
        make()
        assert capsys.readouterr().err == ""


def test_order_is_a_function_of_seed_and_epoch():
    first, again = (ClassBalanced(per_class=4).build(LABELS, 16, seed=3) for _ in range(2))
    assert torch.equal(torch.cat(batches(first, 0)), torch.cat(batches(again, 0)))
    assert not torch.equal(torch.cat(batches(first, 0)), torch.cat(batches(first, 1)))
    other = ClassBalanced(per_class=4).build(LABELS, 16, seed=4)
    assert not torch.equal(torch.cat(batches(first, 0)), torch.cat(batches(other, 0)))


def test_clusters_may_be_of_one_image_and_change():
    sampler = ClassBalanced(per_class=4, singletons="once", steps_per_epoch=20).build(torch.full((42,), -1), 8, seed=0)
    sampler.use(LABELS)
    rows = torch.cat(batches(sampler, 0))
    assert len(rows) == 160
    # One pass: 8 classes of 4 images, 2 of one image.
    one_pass = rows[:34]
    assert LABELS[one_pass].bincount().tolist() == [min(4, size) if size == 1 else 4 for size in SIZES]
    sampler.use(torch.arange(42))  # nothing clustered: every image once before any comes again
    assert torch.cat(batches(sampler, 0))[:42].sort().values.tolist() == list(range(42))
    sampler.use(torch.zeros(42).long())  # everything in one cluster
    assert len(torch.cat(batches(sampler, 0))) == 160


def test_two_domains_alternate_in_every_part_of_a_batch():
    labels = torch.cat([torch.arange(5).repeat(6), torch.full((20,), -1)])
    sampler = TwoDomains(per_class=2, steps_per_epoch=6).build(labels, 8, seed=0)
    pseudo = labels.clone()
    pseudo[30:] = 100 + torch.arange(20) // 2
    sampler.use(pseudo)
    for rows in batches(sampler, 1):
        assert (rows[0::2] < 30).all()
        assert (rows[1::2] >= 30).all()
        for half in (rows[0::2], rows[1::2]):
            assert (pseudo[half].unique(return_counts=True)[1] % 2 == 0).all()


def test_shuffled_takes_no_notice_of_labels():
    sampler = Shuffled().build(LABELS, 8, seed=0)
    before = torch.cat(batches(sampler, 0))
    sampler.use(LABELS * 0)
    assert torch.equal(before, torch.cat(batches(sampler, 0)))
    assert before.unique().numel() == 40


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassBalanced(per_class=1), "per_class is 1"),
        (lambda: ClassBalanced(steps_per_epoch=0), "steps_per_epoch is 0"),
        (lambda: ClassBalanced().build(LABELS, 18, 0), "divisible by 4"),
        (lambda: ClassBalanced().build(LABELS * 0 - 1, 16, 0), "needs? a label"),
        (lambda: ClassBalanced(per_class=2).build(LABELS, 40, 0), "needs 20 classes of at least 2 images.*have 8"),
        (lambda: TwoDomains().build(LABELS, 8, 0), "0 unlabelled images"),
        (lambda: TwoDomains(singletons="skip"), "once"),
        (lambda: TwoDomains().build(torch.full((40,), -1), 8, 0), "0 labelled images"),
    ],
)
def test_what_cannot_be_sampled_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_joined_images_keep_their_order_and_only_the_first_their_labels():
    first, second = shapes(20), shapes(10, split="test")
    joined = two_domains(first, second)
    assert torch.equal(joined.labels, torch.cat([first.labels, torch.full((10,), -1)]))
    assert joined.classes == first.classes
    for index, (source, row) in {3: (first, 3), 19: (first, 19), 20: (second, 0), 29: (second, 9)}.items():
        assert joined.load(index).tobytes() == source.load(row).tobytes()
        assert joined.name(index) == source.name(row)
    part = joined.select(torch.tensor([25, 4]))
    assert part.load(0).tobytes() == second.load(5).tobytes()
    assert part.labels.tolist() == [-1, int(first.labels[4])]
