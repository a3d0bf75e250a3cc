"""Files that are cut short: refused as ever, or on request read as far as they go, and counted."""

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageFile

from selfsup.data.base import UnreadableImage
from selfsup.data.decode import decode
from selfsup.data.loader import evaluation_batches
from selfsup.data.parts import open_data
from selfsup.data.resident import CanvasSource
from selfsup.data.settings import Data
from selfsup.data.sources import open_source
from selfsup.evaluation.features import extract
from selfsup.stages.base import as_read
from tests.support.pictures import encoded, picture
from tests.support.tiny import tiny_run

CUT = (2, 5)


def folder_of(root: Path) -> Path:
    """Eight JPEG files, of which two end in the middle, and one that is no image."""
    root.mkdir()
    whole = encoded(picture(0, 96, 64), "JPEG")
    for number in range(8):
        (root / f"{number}.jpg").write_bytes(whole[: len(whole) // 2] if number in CUT else whole)
    (root / "8.jpg").write_bytes(b"no image")
    return root


def test_the_upper_part_is_that_of_the_whole_image(tmp_path: Path) -> None:
    root = str(folder_of(tmp_path / "data"))
    strict, source = open_source(root), open_source(root, truncated=True)
    whole = np.asarray(strict.load(0)).astype(int)
    for number in CUT:
        with pytest.raises(UnreadableImage, match="image file is truncated"):
            strict.load(number)
        part = np.asarray(source.load(number)).astype(int)
        assert np.array_equal(part[:8], whole[:8])
        assert not np.array_equal(part, whole)
    with pytest.raises(UnreadableImage, match="none of"):
        source.load(8)
    assert source.names_cut_short() == [source.name(number) for number in CUT]
    assert strict.names_cut_short() == []
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def zipped(root: Path, target: Path) -> str:
    with zipfile.ZipFile(target, "w") as archive:
        for path in root.iterdir():
            archive.write(path, path.name)
    return str(target)


class _Whole:
    def __call__(self, images, indices, epoch):  # type: ignore[no-untyped-def]
        return (torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]),)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("packed", [False, True])
def test_they_are_counted_by_all_workers_and_in_every_part(tmp_path: Path, workers: int, packed: bool) -> None:
    folder = folder_of(tmp_path / "data")
    (folder / "8.jpg").unlink()
    root = zipped(folder, tmp_path / "z.zip") if packed else str(folder)
    source = open_source(root, truncated=True)
    part = source.select(torch.tensor([5, 0, 1]))
    list(evaluation_batches(source, batch_size=2, device=torch.device("cpu"), workers=workers, crop=_Whole()))
    assert source.names_cut_short() == [source.name(number) for number in CUT]
    assert part.names_cut_short() == [source.name(5)]
    again = open_source(root, truncated=True)
    again.select(torch.tensor([0, 5])).load(1)
    assert again.names_cut_short() == [source.name(5)]


def test_no_other_thread_reads_a_part_meanwhile(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "data")
    (folder / "8.jpg").unlink()
    tolerated = open_source(str(folder), truncated=True)

    def attempt(number: int) -> str:
        if number % 2:
            tolerated.load(CUT[0])
            return "part"
        try:
            decode(folder / "2.jpg", "2.jpg")
            return "leaked"
        except UnreadableImage:
            return "refused"

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(attempt, range(200)))
    assert found == ["refused", "part"] * 100


def test_it_is_said_and_stands_in_the_protocol(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of(tmp_path / "data")
    (folder / "8.jpg").unlink()
    data = Data(root=str(folder), truncated="allow", canvas=16)
    assert as_read(data) == {"canvas": 16, "truncated": "allow"}
    run = tiny_run(tmp_path / "run")
    source = open_data(data, "train")
    extract(run.encoder.build().eval(), source, run.feed.center(), torch.device("cpu"), canvas=16)
    told = "2 images are cut short and taken as far as they go; the first: "
    assert f"{told}{folder}/2.jpg" in capsys.readouterr().err
    assert CanvasSource(source, 8).names_cut_short() == source.names_cut_short()
