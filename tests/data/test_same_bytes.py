"""Images of equal content are those whose bytes are equal, all of them."""

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from selfsup.data.base import ArraySource
from selfsup.data.collected import Collected
from selfsup.data.identity import image_digests
from selfsup.data.same_bytes import same_bytes
from selfsup.data.sources import open_source


def bitmap(path: Path, side: int, seed: int, changed: int | None = None) -> bytes:
    """A file of random pixels, with one byte changed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    content = bytearray(path.read_bytes())
    if changed is not None:
        content[changed] ^= 1
    path.write_bytes(content)
    return bytes(content)


def test_files_are_equal_by_all_of_their_bytes(tmp_path: Path) -> None:
    """Large ones too, of which the digest knows the beginning, the middle and the end alone."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    names = {"a/1.bmp": (300, 0, None), "a/2.bmp": (300, 0, 60_000), "b/3.bmp": (300, 0, None),
             "b/4.bmp": (20, 1, None), "b/5.bmp": (20, 1, None), "b/6.bmp": (20, 1, 700),
             "b/7.bmp": (300, 0, 60_000)}  # fmt: skip
    contents = [bitmap(tmp_path / name, *how) for name, how in names.items()]
    (tmp_path / "b" / "8.bmp").write_bytes(b"")
    (tmp_path / "b" / "9.bmp").write_bytes(b"")
    source = open_source(str(tmp_path))
    assert [Path(source.name(number)).name for number in range(9)] == [f"{number}.bmp" for number in range(1, 10)]
    digests = image_digests(source)[1]
    assert (digests[0] == digests[1]).all(), "the digest tells these two apart, and the test says little"
    found = same_bytes(Collected([source]))
    assert found.first[:7].tolist() == [contents.index(content) for content in contents] == [0, 1, 0, 3, 3, 5, 1]
    assert found.sizes[:7].tolist() == [len(content) for content in contents]


def test_files_that_are_gone_are_equal_to_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large ones, whose digest is not of all bytes, after it was made."""
    for name in ("1.bmp", "2.bmp"):
        bitmap(tmp_path / name, 300, 0)
    source = open_source(str(tmp_path))
    assert same_bytes(Collected([source])).first.tolist() == [0, 0]
    monkeypatch.setattr("selfsup.data.same_bytes.image_content", lambda source, index: b"")
    assert same_bytes(Collected([source])).first.tolist() == [0, 1]


def test_images_of_two_parts_are_compared() -> None:
    pixels = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[3] = pixels[1]
    other = torch.stack([pixels[4], pixels[0] + 1, pixels[1]])
    found = same_bytes(Collected([ArraySource(pixels), ArraySource(other)]))
    assert found.first.tolist() == [0, 1, 2, 1, 4, 4, 6, 1]
    assert found.sizes.tolist() == [-1] * 8
