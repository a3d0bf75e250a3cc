"""Pages in a real browser: a small one has nothing wrong with it, and what is wrong with another one is all found."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from selfsup.report.writing import report_page
from tests.support.places import ROOT
from tests.support.reported import contents
from tools.browser import browser
from tools.browser_check import checked
from tools.generated_photos import SCENES, photo

FAULTY = """<!DOCTYPE html><html lang='en'><title>x</title><style>:focus { outline: 0 }
@media print { .scroll { overflow: hidden; width: 200px } }</style><h1>x</h1>
<section><h2>y</h2><div style='width: 1700px'>wide</div><main><div class='scroll'><div style='width: 300px'>cut</div>
</div></main><details><summary>s</summary><p>folded</p></details><img alt='' src='data:image/png;base64,AAAA'>
<button type='button'>idle</button><script>console.log('said'); fetch('http://127.0.0.1:9/asked').catch(() => 0);
</script></section>"""


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed")
    if shutil.which("chromium") is None:
        pytest.skip("Chromium is not installed")
    with browser() as found:
        yield found


def test_a_report_has_nothing_wrong_with_it(opened: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    shown = contents()
    shown.settings |= {f"option_{number}": number for number in range(40)}  # a table that scrolls on a screen
    report.write_bytes(report_page(shown))
    looked = checked(opened, report, "", widths=(400,), themes=("dark",))
    assert looked.wrong == []
    assert looked.reached > 20
    assert looked.worked > 10
    assert looked.printed > 1


def test_what_is_wrong_with_a_page_is_found(opened: Any, tmp_path: Path) -> None:
    page = tmp_path / "faulty.html"
    page.write_text(FAULTY)
    wrong = "\n".join(checked(opened, page, "", widths=(400,), themes=("light",)).wrong)
    for said in (
        *("console: said", "request: http://127.0.0.1:9/asked", "px wider than the window", "1 pictures are blank"),
        *("one does not see the focus on <summary>", "Enter does nothing at <button", "1 folded parts are not seen"),
        'in print: cut: <div class="scroll">',
    ):
        assert said in wrong


def test_photographs_are_drawn_alike_and_differ() -> None:
    drawn = [photo(kind, number).tobytes() for kind in SCENES for number in (0, 1)]
    assert len(set(drawn)) == len(drawn)
    assert photo("seas", 1).tobytes() == drawn[-1]


def test_pictures_of_the_readme_are_small_and_told() -> None:
    text = (ROOT / "README.md").read_text()
    for path in (ROOT / "docs" / "pictures").iterdir():
        assert path.stat().st_size <= 150_000
        with Image.open(path) as picture:
            assert picture.format == "WEBP"
        before, found, _ = text.partition(f"](docs/pictures/{path.name})")
        assert found
        assert len(before.rpartition("![")[2]) > 40, "the picture has no words for those who do not see it"
