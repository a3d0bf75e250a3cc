"""`selfsup data` as a user meets it: sentences, one JSON line, a page, and how it ends."""

import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from selfsup import cli
from selfsup.output import Steady
from selfsup.report.page import LIMIT
from tests.support.pictures import blobs, encoded
from tests.support.reported import POLICY, Read

HOSTILE = "<img src=x onerror=alert(1)>'\"&amp;\x1b[31m\u202e"


def call(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["selfsup", "data", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def told(capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    said = capsys.readouterr()
    found: dict[str, Any] = json.loads(said.out.splitlines()[-1])
    return found, said.err


def folder(root: Path, broken: int = 1, name: str = "") -> Path:
    """Two classes in two parts; one test image is a training image; `name` is part of all names."""
    for part, count in (("train", 12), ("test", 4)):
        for number in range(count):
            place = root / part / f"{'ab'[number % 2]}{name}" / f"{number:02}{name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(encoded(blobs(number + (50 if part == "test" and number else 0))))
    for number in range(broken):
        (root / "train" / f"a{name}" / f"broken{number}{name}.jpg").write_bytes(b"<html>404</html>")
    return root


def test_all_is_said_and_the_end_is_0_but_where_broken_files_are_to_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = folder(tmp_path / "photos")
    assert call(monkeypatch, root, "--workers", 0) == 0
    found, said = told(capsys)
    assert (found["images"], found["unreadable_images"], found["equal_test_images_in_training"]) == (17, 1, 1)
    assert found["train"]["classes"] == {"a": 7, "b": 6}
    assert list(found["unreadable"]) == [str(root / "train/a/broken0.jpg")]
    assert f"{root}: 13 training images, 2 classes" in said  # as every command begins
    assert "1 of 4 test images has the content of a training image." in said
    assert "broken0.jpg: it is a web page" in said
    assert call(monkeypatch, root, "--strict", "--workers", 0) == 1
    (root / "train/a/broken0.jpg").unlink()
    assert call(monkeypatch, root, "--strict", "--workers", 0) == 0


def test_a_terminal_gets_no_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Steady, "isatty", lambda self: self._number == 1)
    assert call(monkeypatch, folder(tmp_path), "--workers", 0) == 0
    said = capsys.readouterr()
    assert not said.out
    assert "12 training images" not in said.err
    assert "13 training images" in said.err


def test_the_page_is_whole_and_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pages = {}
    for name in ("tame", HOSTILE):
        root = folder(tmp_path / name / "photos", name=name.replace("/", ""))
        out = tmp_path / name / "pages" / "data.html"
        assert call(monkeypatch, root, "--out", out, "--workers", 0) == 0
        assert told(capsys)[0]["out"] == str(out)
        assert out.stat().st_size < LIMIT
        pages[name] = Read(out.read_text())
    tame, wild = pages["tame"], pages[HOSTILE]
    assert [(tag, sorted(own)) for tag, own in wild.tags] == [(tag, sorted(own)) for tag, own in tame.tags]
    assert "\x1b" not in wild.text
    assert "\u202e" not in wild.text
    policies = [meta["content"] for meta in wild.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]
    assert all("src" not in script for script in wild.of("script"))
    assert not wild.of("link")
    images = wild.of("img")
    assert len(images) > 16
    for image in images:
        kind, _, content = image["src"].partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(content))).size[0] > 8
    sections = {section["id"] for section in wild.of("section")}
    assert sections == {"found", "leaks", "sheet", "twins", "classes", "sizes", "levels", "broken"}
    assert "it is a web page" in tame.text  # without scripts, too
    assert tame.text.count(str(tmp_path / "tame" / "photos")) == 1, "paths repeat what stands at the head of the page"
    assert not re.search(r"https?://(?!www\.w3\.org)", "".join(str(own) for _, own in tame.tags))


def test_a_table_and_several_roots_are_taken_as_by_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        (tmp_path / "flat").mkdir(exist_ok=True)
        (tmp_path / "flat" / f"{number}.png").write_bytes(encoded(blobs(number)))
    (tmp_path / "labels.csv").write_text(
        "path,label,split\n0.png,x,train\n1.png,y,train\n2.png,x,train\n3.png,x,test\n"
    )
    assert call(monkeypatch, tmp_path / "flat", "--data.labels", tmp_path / "labels.csv", "--workers", 0) == 0
    found, _ = told(capsys)
    assert (found["train"]["classes"], found["test"]["classes"]) == ({"x": 2, "y": 1}, {"x": 1, "y": 0})
    folder(tmp_path / "more", broken=0)
    assert call(monkeypatch, tmp_path / "flat", tmp_path / "more", "--workers", 0) == 0
    found, _ = told(capsys)
    assert (found["train"]["images"], found["test"]["images"]) == (16, 4)
    assert found["equal_images"] == 2 * 4 + 1  # 0 to 3 are in both roots, and 0 among the test images, too


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "the path of the images is missing"),
        (["absent"], "no file or folder absent"),
        (["a", "--data.root", "b"], "a and --data.root both name images"),
        (["a", "--out", "page.pdf"], "ends in .html"),
        (["a", "--workers", "-1"], "workers is -1"),
        (["a", "--data.labelled-root", "b"], "data.labelled_root"),
    ],
)
def test_bad_words_are_named(
    words: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *words) == 2
    assert named in capsys.readouterr().err


def test_test_images_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path, broken=0)
    (root / "train").rename(tmp_path / ".train")
    assert call(monkeypatch, root, "--workers", 0) == 0
    found, _ = told(capsys)
    assert found["test"]["images"] == 4
    assert "train" not in found
