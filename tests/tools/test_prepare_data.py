import json
import zipfile

import numpy as np
import pytest

from selfsup.data.sources import open_source
from tests.support.pictures import encoded, picture
from tools import prepare_data as tool


def pack(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            archive.writestr(name, encoded(picture(number)) if name.endswith(".png") else b"path,class\n")


def with_counts(monkeypatch, name, counts):
    item = tool.ITEMS[name]
    monkeypatch.setitem(tool.ITEMS, name, tool.Item(item.packs, item.target, counts, item.build))


def test_folders_are_extracted_counted_and_kept(tmp_path, monkeypatch, capsys):
    pack(tmp_path / "cars196_96.zip", ["train/1/a.png", "train/2/b.png", "test/3/c.png", "index.csv", "../../d.png"])
    with_counts(monkeypatch, "cars", {"train": 2, "test": 1})
    arguments = ["--from", str(tmp_path), "--to", str(tmp_path / "out")]
    assert tool.main(arguments) == 0
    target = tmp_path / "out" / "cars"
    assert json.loads(capsys.readouterr().out) == {
        "name": "cars",
        "path": str(target),
        "images": {"train": 2, "test": 1},
        "status": "written",
    }
    assert open_source(str(target)).classes == ("1", "2")
    assert len(open_source(str(target), "test")) == 1
    assert (target / "index.csv").is_file()
    assert not (tmp_path / "d.png").exists()
    assert not (tmp_path / "out" / "d.png").exists()
    assert tool.main([*arguments, "cars"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "kept"
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["cars"]


def test_an_incomplete_pack_leaves_nothing(tmp_path, capsys):
    pack(tmp_path / "cars196_96.zip", ["train/1/a.png"])
    assert tool.main(["--from", str(tmp_path), "--to", str(tmp_path / "out")]) == 2
    assert "cars/train has 1 images, wanted 4052" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_omniglot_becomes_images(tmp_path, monkeypatch):
    ink = np.random.default_rng(0).random((2, 20, 105, 105)) < 0.9
    packed = np.packbits(ink.reshape(2, 20, -1), axis=-1)
    np.savez(tmp_path / "omniglot.npz", train=packed, test=packed[:1])
    with_counts(monkeypatch, "omniglot", {"train": 40, "test": 20})
    assert tool.main(["--from", str(tmp_path), "--to", str(tmp_path / "out"), "omniglot"]) == 0
    source = open_source(str(tmp_path / "out" / "omniglot.npz"))
    np.testing.assert_array_equal(source.images[:, 1].numpy(), ink.reshape(40, 105, 105) * 255)
    assert source.labels.tolist() == [0] * 20 + [1] * 20
    assert len(open_source(str(tmp_path / "out" / "omniglot.npz"), "test")) == 20


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "no pack in"), (["cars"], "cars needs cars196_96.zip"), (["birds"], "no data set 'birds'; there are tiny")],
)
def test_what_cannot_be_prepared(tmp_path, capsys, names, message):
    assert tool.main(["--from", str(tmp_path), "--to", str(tmp_path / "out"), *names]) == 2
    assert message in capsys.readouterr().err


def test_a_pack_that_unpacks_to_more_than_the_disk_has_leaves_nothing(tmp_path, monkeypatch, capsys):
    pack(tmp_path / "cars196_96.zip", ["train/1/a.png"])
    usage = tool.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(tool.shutil, "disk_usage", lambda folder: usage._replace(free=100))
    assert tool.main(["--from", str(tmp_path), "--to", str(tmp_path / "out"), "cars"]) == 2
    assert "has 100 free" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())
