"""The generator's published figures, and counters of each row's own."""

import pytest
import torch

from selfsup.randomness import (
    Stream,
    Wanted,
    counter,
    permutation,
    permutations,
    philox,
    random_bits,
    uniform,
    uniforms,
)


@pytest.mark.parametrize(
    ("words", "key", "wanted"),
    [
        ([0] * 4, (0, 0), "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, (0xFFFFFFFF, 0xFFFFFFFF), "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            (0xA4093822, 0x299F31D0),
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(words: list[int], key: tuple[int, int], wanted: str) -> None:
    first, second, third, fourth = (torch.tensor([word]) for word in words)
    found = philox((first, second, third, fourth), key)
    assert " ".join(f"{int(word):08x}" for word in found) == wanted


def test_each_row_may_have_an_epoch_of_its_own() -> None:
    indices, epochs = torch.tensor([7, 7, 7, 9]), torch.tensor([3, 3 + (1 << 32), 4, 3])
    rows = random_bits(5, Stream.CROP, indices, 6, epochs, view=1)
    for row, index, epoch in zip(rows, indices, epochs, strict=True):
        assert torch.equal(row, random_bits(5, Stream.CROP, index[None], 6, int(epoch), view=1)[0])
        assert torch.equal(row, random_bits(5, Stream.CROP, index[None], 6, epoch, view=1)[0])
    assert len(rows.unique(dim=0)) == 4


def test_only_an_image_that_comes_again_has_a_counter_of_its_own() -> None:
    assert counter(6, None) == 6
    own = torch.as_tensor(counter(6, torch.tensor([0, 2, 0])))
    assert own.tolist() == [6, 6 + (2 << 32), 6]


def test_permutations_at_once_are_those_one_by_one() -> None:
    numbers = torch.tensor([0, 1, (5 << 32) + 1])
    together = permutations(3, Stream.CLASSES, 11, numbers)
    for row, number in zip(together, numbers.tolist(), strict=True):
        assert torch.equal(row, permutation(3, Stream.CLASSES, 11, number))
        assert row.sort().values.tolist() == list(range(11))


@pytest.mark.parametrize("seed", [0, 2**64 - 1, 12345678901234567])
@pytest.mark.parametrize("epoch", [0, 9, 2**40 + 3, torch.tensor([3, 1, 3 + (5 << 32), 2**62 - 1])])
def test_numbers_of_several_streams_at_once_have_the_same_bits(seed: int, epoch: int | torch.Tensor) -> None:
    indices = torch.tensor([0, 5, 2**32 - 1, 77])
    wanted = [
        Wanted(Stream.CROP, 23, 0),
        Wanted(Stream.BLUR, 3, 1023),
        Wanted(Stream.ERASE, 0),
        Wanted(Stream.COLOR, 4, 1),
    ]
    together = uniforms(seed, wanted, indices, epoch)
    for (stream, words, view), numbers in zip(wanted, together, strict=True):
        assert numbers.dtype == torch.float64
        assert torch.equal(numbers, uniform(seed, stream, indices, words, epoch, view))
