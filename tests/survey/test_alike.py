"""Pictures that look alike are found, each pair once, and others are not."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from selfsup.survey import alike as module
from selfsup.survey.alike import ACROSS, DOWN, alike, candidates, difference_hash, look_alike, sketch
from tests.support.pictures import blobs

COUNT = 120


def again(picture: Image.Image, form: str, **options: object) -> Image.Image:
    content = io.BytesIO()
    picture.save(content, form, **options)
    return Image.open(content).convert("RGB")


COPIES = {
    "JPEG": lambda picture: again(picture, "JPEG", quality=40),
    "WebP": lambda picture: again(picture, "WEBP", quality=60),
    "half the size": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "twice the size": lambda picture: picture.resize((picture.width * 2, picture.height * 2)),
    "squeezed": lambda picture: picture.resize((picture.width, picture.height * 2 // 3)),
    "darker": lambda picture: ImageEnhance.Brightness(picture).enhance(0.7),
    "of less contrast": lambda picture: ImageEnhance.Contrast(picture).enhance(0.6),
    "gray": lambda picture: picture.convert("L").convert("RGB"),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_among_pictures_that_are_unlike(kind: str) -> None:
    pictures = [blobs(number) for number in range(COUNT)]
    copied = [*range(0, COUNT, 10)]
    copies = [COPIES[kind](pictures[number]) for number in copied]
    found = alike(np.stack([sketch(picture) for picture in [*pictures, *copies]]))
    head = {image: int(found.heads[image]) for image in range(COUNT + len(copies))}
    near = {tuple(sorted(pair)) for pair in found.pairs.tolist()}
    for place, number in enumerate(copied):
        copy = COUNT + place
        assert head[copy] == head[number] or tuple(sorted((head[copy], head[number]))) in near
    together = {pair for pair in near} | {(head[image], image) for image in head if head[image] != image}
    assert len(together) == len(copied)  # and nothing else is


def test_64_bits_alone_are_not_enough() -> None:
    """Two drawings whose fields are in the same order of brightness, and which are unlike."""
    ramp = np.tile(np.linspace(0, 250, ACROSS), (DOWN, 1)).astype(np.uint8)
    steps = np.arange(ACROSS)
    leap = np.tile(230 * (steps / (ACROSS - 1)) ** 8 + steps, (DOWN, 1)).astype(np.uint8)
    sketches = np.stack([ramp.ravel(), leap.ravel(), ramp.ravel() // 2])
    hashes = difference_hash(sketches)
    assert np.bitwise_count(hashes[0] ^ hashes[1]) <= module.RADIUS
    found = alike(sketches)
    assert found.heads[1] == 1
    assert 1 not in found.pairs
    assert found.heads[2] == 0 or [0, 2] in found.pairs.tolist()


def test_pictures_that_show_nothing_are_alike_where_they_are_of_one_shade() -> None:
    shades = [0, 1, 100, 101, 255]
    sketches = np.stack([sketch(Image.new("RGB", (40, 30), (shade,) * 3)) for shade in shades])
    found = alike(sketches)
    assert found.heads.tolist() == [0, 0, 2, 2, 4]
    assert not len(found.pairs)


def test_correlation_is_that_of_plain_double_precision() -> None:
    sketches = np.random.default_rng(0).integers(0, 256, (40, module.SKETCH), dtype=np.uint8)
    sketches[20:] = (sketches[:20] * 0.5 + np.arange(20)[:, None] / 20 * sketches[:20][::-1] * 0.5).astype(np.uint8)
    first, second = np.arange(20), np.arange(20, 40)
    pairs = zip(sketches[first].astype(float), sketches[second].astype(float), strict=True)
    plain = [np.corrcoef(one, other)[0, 1] for one, other in pairs]
    assert 3 < sum(value >= module.CORRELATION for value in plain) < 17, "the test shows both"
    assert look_alike(sketches, first, second).tolist() == [value >= module.CORRELATION for value in plain]


def test_all_pairs_of_few_different_bits_are_looked_at_once() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 1 << 64, 1500, dtype=np.uint64)
    for place in range(500):
        changed = hashes[place]
        for bit in random.choice(64, int(random.integers(0, 9)), replace=False):
            changed ^= np.uint64(1) << np.uint64(bit)
        hashes[1000 + place] = changed
    hashes[10:20] = hashes[30]  # and some are equal
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None, :])
    wanted = {(one, other) for one, other in np.argwhere(apart <= module.RADIUS).tolist() if one < other}
    seen: list[tuple[int, int]] = []
    for first, second, passed_over in candidates(hashes):
        assert not passed_over
        seen += [(min(pair), max(pair)) for pair in zip(first.tolist(), second.tolist(), strict=True)]
    assert len(seen) == len(set(seen))
    assert wanted <= set(seen)
    assert all(one != other for one, other in seen)
    assert len(seen) < len(hashes) ** 2 / 100, "far fewer than all pairs"


def test_what_would_take_too_long_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = np.arange(2000, dtype=np.uint64) << np.uint64(48)  # three of four parts are equal
    counts = [(len(first), passed_over) for first, _, passed_over in candidates(hashes, most=1000)]
    assert sum(found for found, _ in counts) <= 1000
    assert sum(passed_over for _, passed_over in counts) >= 2000 * 1999 // 2
    pair = 0x1234_5678_9ABC_000F, 0xEDCB_A987_6543_000F  # with one part in common, which is none of the others'
    both = candidates(np.array([*pair, *hashes], np.uint64), most=1000)
    found = [set(one) for first, second, _ in both for one in zip(first.tolist(), second.tolist(), strict=True)]
    assert {0, 1} in found, "many alike ones elsewhere do not hide a pair"
    monkeypatch.setattr(module, "_BLOCK", 100)  # blocks leave out nothing
    every = sum(len(first) for first, _, _ in candidates(hashes, most=1 << 40))
    assert every == 2000 * 1999 // 2
