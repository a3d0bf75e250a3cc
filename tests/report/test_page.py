"""The page: one file that asks for nothing, whatever words come from files, and within its size."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from selfsup.report.charts import Series, decay, heat_map, lines, scatter, ticks
from selfsup.report.contents import Contents
from selfsup.report.curves import Curve, ends, read_curves, thinned
from selfsup.report.drawing import Drawing, Line, png, svg
from selfsup.report.page import LIMIT
from selfsup.report.plots import plots
from selfsup.report.verdict import Evidence
from selfsup.report.writing import map_data, report_page, write_drawings
from tests.support.reported import POLICY, Read, contents, random_map

HOSTILE = "</script><script>alert(1)</script>'\"><img src=x onerror=alert(2)>&amp;\0\x1b[31m\u202e{{0}}"


def test_the_page_is_whole_and_asks_for_nothing() -> None:
    page = report_page(contents()).decode()
    read = Read(page)
    policies = [meta["content"] for meta in read.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]
    assert not read.of("link")
    assert all("src" not in script for script in read.of("script"))
    assert read.of("img")
    assert all(image["src"].startswith("data:image/jpeg;base64,") and image["alt"] for image in read.of("img"))
    assert all(link["href"].startswith("#") for link in read.of("a"))
    names = {section["id"] for section in read.of("section")}
    assert names == {
        *("verdict", "curves", "views", "map", "neighbours", "clusters", "confusion", "spread", "results"),
        *("data", "run"),
    }
    assert {link["href"][1:] for link in read.of("a")} <= names | {"content"}
    identities = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(set(identities)) == len(identities)
    assert "It has learnt." in read.text
    # Without scripts all drawings are there, with words for those who do not see them.
    assert len(read.of("svg")) >= 8
    assert all("aria-label" in drawing or drawing.get("aria-hidden") for drawing in read.of("svg"))
    assert "uPlot" in page
    assert "Copyright (c)" in page, "the licence goes with the library"
    assert not re.search(r"\beval\(|new Function", page)


def test_hostile_words_stay_words() -> None:
    tame, wild = Read(report_page(contents()).decode()), Read(report_page(contents(HOSTILE)).decode())
    # As many elements with as many attributes as with tame words: nothing became markup.
    assert [(tag, sorted(attributes)) for tag, attributes in wild.tags] == [
        (tag, sorted(attributes)) for tag, attributes in tame.tags
    ]
    assert "alert(1)" in wild.text
    assert "\x1b" not in wild.text
    assert "\u202e" not in wild.text
    assert "<" not in wild.scripts[0], "a browser would take </script and a blank for its end"
    assert json.loads(wild.scripts[0])["map"]["groups"][0]["names"][0].startswith("</script>")


def test_a_page_on_nothing_but_a_name() -> None:
    bare = Contents(title="encoder", facts=[], evidence=Evidence(kind="weights", name="weights.pth"))
    read = Read(report_page(bare).decode())
    assert "how good these weights are is for you to see" in read.text
    assert [section["id"] for section in read.of("section")] == ["verdict", "run"]


def test_a_map_without_pictures_or_classes() -> None:
    bare = contents(thumbs=0)
    assert bare.map is not None
    bare.map = bare.map._replace(labels=torch.full_like(bare.map.labels, -1), names=[], clusters=None)
    found = json.loads(Read(report_page(bare).decode()).scripts[0])["map"]
    assert (found["thumbs"]["uri"], found["thumbs"]["names"]) == ("", [])
    assert [group["names"] for group in found["groups"]] == [[]]


def test_fifty_thousand_points_and_pictures_of_noise_fit() -> None:
    full = contents(points=50_000, thumbs=800, examples=60)
    full.curves = {f"figure{n}": Curve(list(range(30_000)), [1 / (1 + n + x) for x in range(30_000)]) for n in range(3)}
    page = report_page(full)
    assert len(page) <= LIMIT
    found = json.loads(Read(page.decode()).scripts[0])
    places = np.frombuffer(base64.b64decode(found["map"]["layouts"][0]["xy"]), "<u2").reshape(-1, 2)
    assert full.map is not None
    np.testing.assert_allclose(places / 65535, full.map.layouts[0].places.numpy(), atol=1e-5)
    groups = [np.frombuffer(base64.b64decode(group["of"]), "<i2") for group in found["map"]["groups"]]
    np.testing.assert_array_equal(groups[0], full.map.labels.numpy())
    assert len(found["map"]["thumbs"]["names"]) >= 100
    assert all(len(curve["x"]) <= 600 for curve in found["curves"].values())


def test_pictures_of_the_map_lie_where_the_page_looks_for_them() -> None:
    """Picture n at column n mod C and row n div C, each of one colour."""
    found = random_map(50, 0, ["a"])
    colours = [(5 * n, 255 - 5 * n, 80) for n in range(45)]
    blank = contents().views
    assert blank is not None
    example = blank.rows[0][0]
    thumbs = [(n, example._replace(picture=Image.new("RGB", (40, 40), colour))) for n, colour in enumerate(colours)]
    data = map_data(found._replace(thumbs=thumbs), 200_000)["thumbs"]
    content = base64.b64decode(data["uri"].partition(",")[2])
    with Image.open(io.BytesIO(content)) as sheet:
        for n, colour in enumerate(colours):
            centre = (n % data["columns"] * data["edge"] + 20, n // data["columns"] * data["edge"] + 20)
            assert sheet.getpixel(centre) == pytest.approx(colour, abs=12)


def test_drawings_are_written_as_png(tmp_path: Path) -> None:
    written = write_drawings(contents(HOSTILE), tmp_path / "drawings")
    assert {place.parent for place in written} == {tmp_path / "drawings"}
    names = {place.stem for place in written}
    assert {"loss", "knn", "compared", "map_pca", "map_tsne", "confusion", "spectrum"} <= names
    for place in written:
        with Image.open(place) as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 100
            assert len(picture.getcolors(100_000) or [0] * 9) > 3, f"{place.name} is empty"


def test_lines_are_drawn_where_the_values_are() -> None:
    """In the PNG as in the SVG: a level line over the whole width, in its colour."""
    drawing = Drawing(60, 40, (Line([(10, 20), (50, 20)], "s0", 4),), "t", "d")
    assert 'd="M10.0 20.0L50.0 20.0"' in svg(drawing)
    content = png(drawing)
    with Image.open(io.BytesIO(content)) as picture:
        assert picture.size == (3 * (60 + 2 * 14), 3 * (40 + 2 * 14 + 26))
        assert picture.getpixel((3 * (30 + 14), 3 * (20 + 14 + 26))) == (0x25, 0x63, 0xB8)
        assert picture.getpixel((3 * (30 + 14), 3 * (10 + 14 + 26))) == (255, 255, 255)


def test_charts_of_odd_values() -> None:
    single = lines([Series("one", [5], [2.0], "s0"), Series("none", [1], [float("nan")], "s1")], "A point")
    assert "from 2 to 2" in single.description
    assert "h0" in svg(single)
    assert svg(decay([0.5, 0.0, 0.0], "D", "number"))
    many = heat_map([[int(a == b) for a in range(60)] for b in range(60)], [f"c{n}" for n in range(60)], "M")
    assert many.width < 700
    assert "no mistakes" in many.description
    assert svg(scatter([(0.5, 0.5)], [-1], "S", "told")).count("faint") == 1
    assert ticks(0, 1) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(3, 3) == [3]


def test_curves_are_read_as_they_were_logged(tmp_path: Path) -> None:
    place = tmp_path / "metrics.jsonl"
    logged = [{"step": n, "time": 1.0, "loss": 10.0 - n, "bad": "nan"} for n in range(1, 6)]
    place.write_text("\n".join([*map(json.dumps, logged), "[]", "null", '{"step": 7, "loss"']))
    assert read_curves(place) == {"loss": Curve([1, 2, 3, 4, 5], [9.0, 8.0, 7.0, 6.0, 5.0])}
    assert read_curves(tmp_path / "none.jsonl") == {}
    long = Curve(list(range(1000)), [float(n) for n in range(1000)])
    short = thinned(long, 10)
    assert short.values == [49.5 + 100 * n for n in range(10)]
    assert short.steps[-1] == 999
    assert ends(long) == (49.5, 949.5)


def test_names_of_the_log_make_no_drawing_of_ours() -> None:
    found = contents()
    found.curves = {"loss": Curve([1, 2], [2.0, 1.0]), "own_figure": Curve([1], [1.0])}
    assert {"loss", "log_own_figure"} <= plots(found).keys()
