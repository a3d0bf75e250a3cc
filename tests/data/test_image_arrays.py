import zipfile

import numpy as np
import pytest
import torch

from selfsup.data import arrays
from selfsup.data.arrays import images_from_array, write_npz
from selfsup.data.sources import open_source
from tests.support.hostile_place import Trap

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW", "NHW1", "N1HW"])
def test_layouts_of_arrays(tmp_path, layout):
    gray = IMAGES[..., 0]
    array = {
        "NHWC": IMAGES,
        "NCHW": IMAGES.transpose(0, 3, 1, 2),
        "NHW": gray,
        "NHW1": gray[..., None],
        "N1HW": gray[:, None],
    }[layout]
    np.save(tmp_path / "a.npy", array)
    source = open_source(str(tmp_path / "a.npy"))
    wanted = IMAGES if "C" in layout else np.repeat(gray[..., None], 3, axis=3)
    assert source.images.shape == (6, 3, 5, 7)
    assert source.labels.tolist() == [-1] * 6
    for index in range(6):
        np.testing.assert_array_equal(np.asarray(source.load(index)), wanted[index])


def test_an_npz_with_both_parts_and_names(tmp_path):
    arrays = {"x_train": IMAGES, "y_train": LABELS[:, None], "x_test": IMAGES[:2], "y_test": LABELS[1:3]}
    write_npz(tmp_path / "some.npz", arrays | {"classes": np.array(["a", "b", "c"])})
    for root in (tmp_path / "some.npz", tmp_path):
        train, test = open_source(str(root), "train"), open_source(str(root), "test")
        assert train.labels.tolist() == LABELS.tolist()
        assert test.labels.tolist() == [1, 2]
        assert train.classes == test.classes == ("a", "b", "c")
        assert train.name(3) == f"{tmp_path / 'some.npz'}[3]"
        np.testing.assert_array_equal(test.images.permute(0, 2, 3, 1).numpy(), IMAGES[:2])


def test_images_with_and_without_labels(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES, labels=LABELS)
    np.savez(tmp_path / "b.npz", images=IMAGES)
    assert open_source(str(tmp_path / "a.npz")).labels.tolist() == LABELS.tolist()
    assert open_source(str(tmp_path / "a.npz")).classes == ("0", "1", "2")
    assert open_source(str(tmp_path / "b.npz")).labels.tolist() == [-1] * 6
    with pytest.raises(ValueError, match=r"a.npz has no test part; add x_test"):
        open_source(str(tmp_path / "a.npz"), "test")


def test_gray_takes_no_more_memory_for_three_channels():
    images = images_from_array(IMAGES[..., 0], "gray")
    assert images.untyped_storage().nbytes() == 6 * 5 * 7
    assert torch.equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (
            {"images": IMAGES / 255},
            r"\[images\] is float64 from 0 to 1; such numbers have no agreed range: give --data.range 0:1, file",
        ),
        (
            {"images": IMAGES.astype(np.int64)},
            "is int64 from 0 to 255; .* give --data.range 0:255",
        ),
        ({"images": IMAGES[0, 0]}, r"has shape \(7, 3\); wanted \(N, H, W, 3\)"),
        ({"images": np.zeros((2, 4, 4, 4), np.uint8)}, r"has shape \(2, 4, 4, 4\)"),
        ({"images": IMAGES[:0]}, r"with at least one image"),
        ({"images": IMAGES, "labels": LABELS[:4]}, r"6 images but labels of shape \(4,\)"),
        ({"images": IMAGES, "labels": LABELS / 2}, r"\[labels\] is float64 of shape \(6,\); wanted integers"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array(["a"])}, "a label is 2, but there are 1 class names"),
        ({"pictures": IMAGES}, "holds pictures; wanted x_train, y_train"),
    ],
)
def test_wrong_arrays_are_refused_with_a_remedy(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path / "a.npz"))


def test_object_arrays_are_not_unpickled(tmp_path):
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "a.npz", images=trap)
    np.save(tmp_path / "a.npy", trap)
    for name in ("a.npz", "a.npy"):
        with pytest.raises(ValueError, match=name):
            open_source(str(tmp_path / name))
    assert not (tmp_path / "sprung").exists()


def test_damaged_files_are_refused_by_name(tmp_path):
    np.savez(tmp_path / "a.npz", images=IMAGES)
    content = (tmp_path / "a.npz").read_bytes()
    np.save(tmp_path / "a.npy", IMAGES)
    header = (tmp_path / "a.npy").read_bytes()
    for name, damaged in {
        "cut.npz": content[: len(content) // 2],
        "text.npz": b"no archive at all",
        "cut.npy": header[:200],
        "text.npy": b"no array at all",
        "bomb.npy": header[:128].replace(b"(6, 5, 7, 3)", b"(999999999, 5, 7, 3)")[:128],
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=name):
            open_source(str(tmp_path / name))


def test_writing_leaves_nothing_behind_when_it_fails(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"what was there before")
    with pytest.raises(ValueError, match="Object arrays"):
        write_npz(tmp_path / "a.npz", {"x": IMAGES, "y": np.array([object()])})
    assert (tmp_path / "a.npz").read_bytes() == b"what was there before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_zip_of_pictures_named_npz_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.png", b"")
    with pytest.raises(ValueError, match=r"a\.npz holds a\.png; wanted x_train"):
        open_source(str(tmp_path / "a.npz"))


def test_an_archive_that_unpacks_to_more_than_there_is_is_refused_before_it_is_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=IMAGES, labels=LABELS, other=np.zeros(10**6))
    monkeypatch.setattr(arrays, "free_memory", lambda: 1000)
    assert len(open_source(str(tmp_path / "a.npz"))) == 6  # what is not needed is not counted
    monkeypatch.setattr(arrays, "free_memory", lambda: 500)
    with pytest.raises(ValueError, match=r"a\.npz unpacks to 0\.0 GiB, and 0\.0 GiB of memory are free"):
        open_source(str(tmp_path / "a.npz"))
