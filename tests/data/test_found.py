"""Nothing is left out or reinterpreted without a word: what a folder or an archive gives, and what is said of it."""

import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from selfsup.data import formats
from selfsup.data.base import NoTestPart, Source
from selfsup.data.layout import class_labels
from selfsup.data.listing import list_folder
from selfsup.data.opening import told
from selfsup.data.sources import open_source
from tests.support.pictures import encoded, picture

PNG, JPEG = encoded(picture(0)), encoded(picture(0), "JPEG")
Place = Callable[[dict[str, bytes]], str]


@pytest.fixture(params=["folder", "zip", "wrapped"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Lays files out, name -> content (a name that ends in a slash is a folder): in a folder or a zip archive."""

    def lay_out(files: dict[str, bytes]) -> str:
        inside = "outer/" if request.param == "wrapped" else ""
        if request.param == "zip":
            with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
                for name, content in files.items():
                    archive.writestr(name, content)
            return str(tmp_path / "data.zip")
        for name, content in files.items():
            path = tmp_path / "data" / inside / name
            (path if name.endswith("/") else path.parent).mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_bytes(content)
        return str(tmp_path / "data")

    return lay_out


def images(*names: str) -> dict[str, bytes]:
    return dict.fromkeys(names, PNG)


def labelled(source: Source) -> dict[str, str]:
    """Base name of each image -> its class, "" where it has none."""
    labels = source.labels.tolist()
    assert len(labels) == len(source)
    return {
        re.split(r"[/\[]", source.name(n).rstrip("]"))[-1]: source.classes[label] if label >= 0 else ""
        for n, label in enumerate(labels)
    }


def test_every_suffix_of_the_families_counts(place: Place) -> None:
    """Were `.jfif` or `.jpe` unknown, class b would vanish and a would lose an image."""
    content = {"JPEG": JPEG, "PNG": PNG, "PPM": encoded(picture(0), "PPM"), "TIFF": encoded(picture(0), "TIFF")}
    files = {f"a/{n}.{end}": content[form] for n, (end, form) in enumerate(_SAVED)} | {"b/x.JFIF": JPEG}
    source = open_source(place(files))
    assert len(source) == len(files)
    assert source.classes == ("a", "b")
    assert "first bytes" not in told(source, "train")  # by their names alone
    for index in range(len(source)):
        assert source.load(index).size == (20, 14)


_SAVED = [
    *((end, "JPEG") for end in ("jpg", "jpeg", "jpe", "jfif")),
    *((end, "PNG") for end in ("png", "apng")),
    *((end, "PPM") for end in ("ppm", "pnm")),
    ("tif", "TIFF"),
]


@pytest.mark.parametrize(("form", "end"), [("AVIF", "avif"), ("JPEG2000", "jp2"), ("PPM", "pbm"), ("BMP", "dib")])
def test_formats_that_this_pillow_has(tmp_path: Path, form: str, end: str) -> None:
    if form not in formats.FORMATS:
        pytest.skip(f"this Pillow has no {form}")
    content = encoded(picture(0).convert("1") if end == "pbm" else picture(0), form)
    (tmp_path / f"a.{end}").write_bytes(content)
    (tmp_path / "without").write_bytes(content)
    source = open_source(str(tmp_path))
    assert [source.load(n).size for n in range(2)] == [(20, 14)] * 2


def test_what_is_passed_over_is_counted_by_suffix_and_a_class_that_vanishes_is_named(place: Place) -> None:
    files = images("a/1.png", "b/1.png") | dict.fromkeys(("gone/1.heic", "gone/2.HEIC", "a/notes.txt"), b"none")
    source = open_source(place(files | {"b/.DS_Store": b"", "void/": b""}))
    line = told(source, "train")
    assert source.classes == ("a", "b")
    assert line.startswith("2 training images, 2 classes")
    assert "no image in class folders gone (2 .heic); void (empty)" in line
    assert "no images: 2 .heic, 1 .txt" in line
    assert ".DS_Store" in line


def test_files_of_unknown_suffix_are_decided_by_their_first_bytes(place: Place) -> None:
    files = images("a/1.png") | {"b/n02_1": JPEG, "b/x.jpg?w=8": JPEG, "b/y.image": PNG, "b/README": b"words"}
    files |= {"b/copy.jpg.bak": JPEG, "b/list.txt": PNG}
    source = open_source(place(files))
    assert labelled(source) == {"1.png": "a", "n02_1": "b", "x.jpg?w=8": "b", "y.image": "b"}
    line = told(source, "train")
    assert "3 files" in line
    assert "taken as images by their first bytes" in line
    assert "README), 1 .bak, 1 .txt" in line


def test_of_an_unknown_suffix_few_are_opened_unless_one_is_an_image() -> None:
    opened: list[str] = []

    def head(name: str, is_image: bool) -> bytes:
        opened.append(name)
        return PNG[:16] if is_image else b"no image"

    names = [f"{number:05}.xyz" for number in range(5000)]
    assert formats.images_by_content(names, lambda name: head(name, False)) == []
    assert len(opened) <= 32
    assert formats.images_by_content(names, lambda name: head(name, True)) == names


_TRAIN = ("train", "Train", "TRAINING", "train_set")
_TEST = ("test", "val", "valid", "Validation", "Val", "dev", "TESTING")
PAIRS = [*((name, "valid") for name in _TRAIN), *(("train", name) for name in _TEST), ("train2017", "val2017")]


@pytest.mark.parametrize(("train", "test"), PAIRS)
def test_names_that_people_give_to_parts(tmp_path: Path, train: str, test: str) -> None:
    """Were a part not known, its images would be trained on, or be a class."""
    archive = tmp_path / "a.zip"
    names = (f"{train}/a/1.png", f"{train}/b/2.png", f"{test}/b/3.png")
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.writestr(name, PNG)
            (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "folder" / name).write_bytes(PNG)
    for root in (archive, tmp_path / "folder"):
        assert labelled(open_source(str(root))) == {"1.png": "a", "2.png": "b"}
        assert labelled(open_source(str(root), "test")) == {"3.png": "b"}
        assert open_source(str(root), "test").labels.tolist() == [1]  # as in training, though a is missing


def test_what_lies_beside_the_parts_is_said(place: Place) -> None:
    root = place(images("train/a/1.png", "train/b/2.png", "val/a/3.png", "test/a/4.png", "more/5.png", "6.png"))
    source = open_source(root)
    assert labelled(source) == {"1.png": "a", "2.png": "b"}
    line = told(source, "train")
    assert "the training part is train" in line
    assert "2 folders (more, val) beside the parts" in line
    assert "1 image (6.png) beside the parts" in line
    assert labelled(open_source(root, "test")) == {"4.png": "a"}


@pytest.mark.parametrize("pair", [("train", "Training"), ("train_a", "")])
def test_two_folders_that_could_be_one_part_are_refused(place: Place, pair: tuple[str, str]) -> None:
    first, second = pair
    root = place(images(f"{first}/a/1.png", f"{second or 'b'}/b/2.png", "val/a/3.png"))
    if second:
        with pytest.raises(ValueError, match=r"Training and train, which could be the same part of the data; rename"):
            open_source(root)
    else:
        assert open_source(root).classes == ("b", "train_a", "val")  # no training part, so these are classes
        assert "val not taken as a part of the data" in told(open_source(root), "train")


def test_a_test_part_alone_is_not_trained_on(place: Place) -> None:
    """Else a test image would be judged by itself."""
    root = place(images("val/a/1.png", "val/b/2.png"))
    assert labelled(open_source(root, "test")) == {"1.png": "a", "2.png": "b"}
    with pytest.raises(ValueError, match="has a test part, val, and no training part; wanted a folder 'train'"):
        open_source(root)
    with pytest.raises(NoTestPart):
        open_source(place(images("a/1.png", "b/2.png", "val/3.png")), "test")


def test_one_image_beside_the_class_folders_and_one_deeper_take_no_label_away(place: Place) -> None:
    source = open_source(place(images("a/1.png", "a/more/2.png", "b/3.png", "stray.png")))
    assert labelled(source) == {"1.png": "a", "2.png": "a", "3.png": "b", "stray.png": ""}
    line = told(source, "train")
    assert "4 training images, 2 classes, 1 without a label" in line
    assert "1 image (stray.png) beside the class folders without a label" in line
    assert "1 folder (a/more) within class folders, of their class" in line


@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled"])
def test_unlabelled_images_beside_classes_and_beside_parts(place: Place, name: str) -> None:
    source = open_source(place(images("a/1.png", "b/2.png", f"{name}/3.png", f"{name}/deep/4.png")))
    assert labelled(source) == {"1.png": "a", "2.png": "b", "3.png": "", "4.png": ""}
    assert source.classes == ("a", "b")
    root = place(images("train/a/5.png", "train/b/6.png", f"{name}/7.png", "test/b/8.png"))
    if not root.endswith(".zip"):
        return
    assert labelled(open_source(root)) == {"5.png": "a", "6.png": "b", "7.png": ""}
    assert labelled(open_source(root, "test")) == {"8.png": "b"}


def test_parts_within_a_class_folder_are_named(place: Place) -> None:
    line = told(open_source(place(images("x/train/1.png", "x/val/2.png", "y/train/3.png"))), "train")
    assert "train, val not taken as a part of the data: parts are a training and a test folder side by side" in line


def test_without_labels_it_is_said_why(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "1.png").write_bytes(PNG)
    alone = open_source(str(tmp_path / "x")).found.no_labels
    assert alone.startswith("they lie in no folders; put the images of each class")
    assert open_source(str(tmp_path)).found.no_labels.startswith("x is the only folder with images; put")
    (tmp_path / "2.png").write_bytes(PNG)
    assert open_source(str(tmp_path)).found.no_labels.startswith("x is the only folder with images; put")
    assert open_source(str(tmp_path), labels="none").found.no_labels == "data.labels is none; give --data.labels auto"


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not a file in it that never was there."""
    (tmp_path / "np").mkdir()
    monkeypatch.setattr("selfsup.data.sources.os.access", lambda *_: False)
    with pytest.raises(ValueError, match=r"the folder .*/np may not be read; change its permissions"):
        open_source(str(tmp_path / "np"))


def test_other_files_beside_an_array_are_said(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(PNG)
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 5, 6, 3), np.uint8), embeddings=np.zeros(4))
    line = told(open_source(str(tmp_path)), "train")
    assert "1 array (embeddings) of another name; 1 name (a) beside x.npz" in line
    assert "add the array labels to" in line


@pytest.mark.parametrize(
    ("shape", "readings"),
    [
        ((4, 3, 9, 3), "4 images of 3 x 9 pixels and 3 channel.s., or of 9 x 3 pixels with 3 channel.s. first"),
        ((4, 1, 9, 3), "4 images of 1 x 9"),
        ((3, 8, 9), "3 gray images of 8 x 9 pixels, or one image of 8 x 9 pixels, channels first; save it as"),
        ((8, 9, 3), "8 gray images of 9 x 3 pixels, or one image of 8 x 9 pixels; save it as"),
        ((8, 9, 1), "8 gray images of 9 x 1 pixels, or one image of 8 x 9 pixels"),
    ],
)
def test_arrays_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, shape: tuple[int, ...], readings: str) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.uint8))
    np.savez(tmp_path / "b.npz", x_train=np.zeros(shape, np.uint8), y_train=np.zeros(5, int))
    for name in ("a.npy", "b.npz"):
        with pytest.raises(ValueError, match=rf"can be read in two ways: {readings}"):
            open_source(str(tmp_path / name))


def test_a_label_for_each_image_tells_gray_images_from_one_image(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", x_train=np.zeros((3, 8, 9), np.uint8), y_train=np.arange(3))
    assert open_source(str(tmp_path / "b.npz")).images.shape == (3, 3, 8, 9)
    np.savez(tmp_path / "c.npz", x_train=np.zeros((3, 8, 9), np.uint8), y_train=np.array([0, -2, 1]))
    with pytest.raises(ValueError, match="holds -2; wanted numbers from 0, or -1"):
        open_source(str(tmp_path / "c.npz"))


def test_names_are_arranged_fast() -> None:
    """100,000 names in 5 s: files are not asked for anything, and nothing is quadratic in their number."""
    paths = [f"class{number % 1000}/{number}.jpg" for number in range(100_000)]
    begin = time.process_time()
    assert len(class_labels(paths).names) == 1000
    assert time.process_time() - begin < 5


def test_a_folder_is_listed_without_asking_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(50):
        (tmp_path / f"{number}.png").write_bytes(b"")
    asked: list[object] = []
    real = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **how: asked.append(self) or real(self, **how))
    assert len(list_folder(tmp_path).images) == 50
    assert asked == [tmp_path]
