"""Broken and unusual image files on their way into batches: none ends a run, goes unsaid or changes an order."""

import io
import os
import socket
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image, ImageOps

from selfsup.data import decode as decode_module
from selfsup.data.base import TooManyUnreadable, UnreadableImage
from selfsup.data.decode import decode
from selfsup.data.listing import list_folder
from selfsup.data.loader import Loader, evaluation_batches
from selfsup.data.sources import open_source
from tests.support.corpus import within
from tests.support.pictures import broken_folder, damaged, encoded, odd_images, picture, sound_images

CPU = torch.device("cpu")


def crop(images, indices, epoch):
    return (torch.stack([torch.from_numpy(np.array(image.resize((4, 4)))).permute(2, 0, 1) for image in images]),)


def as_pillow_has_it(content: bytes) -> np.ndarray:
    """The upright picture over middle gray by plain numbers; 16 bits are divided by 257."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.mode.startswith("I;16"):
        return np.repeat((np.asarray(image) / 257).round()[..., None], 3, axis=2)
    layers = np.asarray(image.convert("RGBA")).astype(float)
    opacity = layers[..., 3:] / 255
    return layers[..., :3] * opacity + 128 * (1 - opacity)


@pytest.mark.parametrize("oddity", odd_images())
def test_what_is_unusual_comes_out_as_pillow_has_it(oddity: str) -> None:
    content = odd_images()[oddity]
    image, size = decode(io.BytesIO(content), oddity)
    wanted = as_pillow_has_it(content)
    assert np.abs(np.asarray(image) - wanted).max() <= 0.51
    assert size == wanted.shape[:2] == (image.height, image.width)


@pytest.mark.parametrize("form", sound_images())
def test_bits_that_flip_end_in_an_image_or_in_a_reason(form: str) -> None:
    content, unreadable = sound_images()[form], 0
    for seed in range(28):
        with within(10):
            try:
                image, _ = decode(io.BytesIO(damaged(content, seed)), "name")
                assert image.mode == "RGB"
            except UnreadableImage as error:
                unreadable += bool(error.reason)
    assert unreadable


@pytest.mark.parametrize("form", ["webp", "lossless webp", "animated webp"])
def test_a_vast_webp_is_refused_before_pillow_makes_room_for_it(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(sound_images()[form])
    assert decode_module._webp_size(bytes(content[:30])) == (64, 48)
    kind = bytes(content[12:16])
    where, value = {
        b"VP8 ": (26, (10_100).to_bytes(2, "little") * 2),
        b"VP8L": (21, (10_099 | 10_099 << 14).to_bytes(4, "little")),
        b"VP8X": (24, (10_099).to_bytes(3, "little") * 2),
    }[kind]
    content[where : where + len(value)] = value

    def opened(*arguments: object, **options: object) -> None:
        raise AssertionError("Pillow opened it")

    monkeypatch.setattr(Image, "open", opened)
    with pytest.raises(UnreadableImage, match="10100 x 10100 pixels, more than 100,000,000"):
        decode(io.BytesIO(bytes(content)), "vast")


def test_no_other_decoder_is_asked_and_no_program_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *arguments, **options: started.append(arguments))
    eps = io.BytesIO()
    picture(0).save(eps, "EPS")
    for content in (eps.getvalue(), encoded(picture(0), "PCX"), encoded(picture(0), "ICO"), encoded(picture(0), "TGA")):
        with pytest.raises(UnreadableImage, match="it is none of JPEG, PNG"):
            decode(io.BytesIO(content), "photo.jpg")
    assert not started


def laid_out(folder: Path, sound: int) -> dict[str, str]:
    """`sound` good images in a folder, and all that are none; returns their names and kinds."""
    broken = broken_folder(folder)
    (folder / "first.png").write_bytes(encoded(picture(0, 6, 5)))
    for number in range(sound - 1):
        os.link(folder / "first.png", folder / f"good_{number:04}.png")
    return broken


@pytest.mark.parametrize("way", [{"crop": crop}, {"canvas": 4}])
def test_batches_keep_their_size_and_order_and_all_is_reported(tmp_path: Path, way: dict[str, object]) -> None:
    broken = laid_out(tmp_path, 4000)
    with within(60):
        source = open_source(str(tmp_path))
        loader = Loader(source, batch_size=64, seed=0, device=CPU, **way)
        batches = list(loader.epoch(0))
    names = [os.path.basename(source.name(index)) for index in range(len(source))]
    assert len(source) == 4000 + len(broken)
    substitute = torch.arange(len(source))
    for index in reversed(range(len(source))):  # the next readable one; the last names of all are of good images
        if names[index] in broken:
            substitute[index] = substitute[(index + 1) % len(source)]
    assert len(batches) == len(source) // 64
    for number, batch in enumerate(batches):
        assert torch.equal(batch.indices, substitute[loader.sampler.batch(0, number)])
        assert [len(images) for images in ([batch.images] if "canvas" in way else batch.images)] == [64]
    left = set(names) - {names[index] for n in range(len(batches)) for index in loader.sampler.batch(0, n)}
    said = {os.path.basename(name): reason for name, reason in loader.unreadable.items()}
    assert set(said) >= set(broken) - left
    assert all(said.values())


def test_more_than_one_percent_ends_the_run_with_the_first_names(tmp_path: Path) -> None:
    broken = laid_out(tmp_path, 2000)
    source = open_source(str(tmp_path))
    with (
        within(60),
        pytest.raises(TooManyUnreadable, match=r"of 20\d\d images cannot be read, more than 1%: ") as error,
    ):
        list(evaluation_batches(source, batch_size=64, device=CPU, crop=crop))
    assert str(tmp_path / next(iter(broken))) in str(error.value)


def test_what_is_no_file_is_said_to_be_none(tmp_path: Path) -> None:
    broken = broken_folder(tmp_path)
    for kind, reason in {
        "a link that leads nowhere": "No such file",
        "a link to itself": "Too many levels",
        "a link to a device": "a pipe, a socket or a device",
        "a pipe": "a pipe, a socket or a device",
        "an empty folder": "directory",
    }.items():
        name = next(name for name in broken if broken[name] == kind)
        with within(10), pytest.raises(UnreadableImage, match=reason):
            decode(tmp_path / name, name)
    listening = socket.socket(socket.AF_UNIX)
    before = os.getcwd()
    try:
        os.chdir(tmp_path)  # a socket's name must be short
        listening.bind("socket.jpg")
    finally:
        os.chdir(before)
        listening.close()
    with within(10), pytest.raises(UnreadableImage, match="a pipe, a socket or a device"):
        decode(tmp_path / "socket.jpg", "socket")


def test_a_folder_with_an_image_s_name_is_a_folder_while_there_are_images_in_it(tmp_path: Path) -> None:
    for name in ("a.jpg/1.png", "b.jpg/2.png", "b.jpg/c.png/readme.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture(0)))
    assert list_folder(tmp_path).images == ["a.jpg/1.png", "b.jpg/2.png", "b.jpg/c.png"]


def test_a_file_without_permission_is_reported() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place, owner = Path(folder), os.geteuid()
        place.chmod(0o755)
        for name, mode in (("open.png", 0o444), ("closed.png", 0)):
            (place / name).write_bytes(encoded(picture(0)))
            (place / name).chmod(mode)
        if owner == 0:
            os.seteuid(65534)  # root may read everything
        try:
            assert decode(place / "open.png", "open")[0].size == (20, 14)
            with pytest.raises(UnreadableImage, match="Permission denied"):
                decode(place / "closed.png", "closed")
        finally:
            os.seteuid(owner)
