"""Makes the pictures of the README, of photographs that are drawn, by the commands that stand beside them there.

    python -m tools.readme_pictures [--folder build/readme]

FOLDER gets the photographs and the run; what is there already is taken as it is. Pretraining takes some minutes. The
pictures go to docs/pictures. Wanted are Chromium and the package playwright.
"""

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from selfsup.output import message, program
from tools.browser import browser, drawn, page_of
from tools.checkout import ROOT
from tools.generated_photos import photo, write_photos

PICTURES = ROOT / "docs" / "pictures"
MOST = 150_000  # bytes of a picture
_EACH = 75  # photographs of each kind
_WIDTH, _SHARP = 1000, 1.5  # of the window in pixels, and pixels of the picture for each
_ASKED = (
    ("flowers", 900),
    ("cities", 900),
    ("balloons", 901),
)  # kinds and numbers of images that are not in the folder
_FOUND = 5
_BOX = "(one) => { const box = one.getBoundingClientRect(); return [box.top + scrollY, box.bottom + scrollY]; }"


def make(folder: Path) -> tuple[Path, Path]:
    """The report and the answers to a search, as pages."""
    photos, asked = folder / "photos", folder / "asked"
    if not photos.exists():
        write_photos(photos, _EACH)
    asked.mkdir(exist_ok=True)
    queries = [asked / f"{kind}.jpg" for kind, _ in _ASKED]
    for path, (kind, number) in zip(queries, _ASKED, strict=True):
        photo(kind, number).save(path, quality=90)
    run = Path("runs") / "simclr_folder"
    if not (folder / run / "encoder.safetensors").exists():  # goes on where one was interrupted
        _selfsup(folder, "pretrain", "simclr_folder", "--data.root", photos, "--size", 64, "--epochs", 20)
    _selfsup(folder, "report", run)
    words = ("--data.root", photos, "--k", _FOUND, "--out", "found.html")
    _selfsup(folder, "search", run, *[path.relative_to(folder) for path in queries], *words)
    return folder / run / "report.html", folder / "found.html"


def _selfsup(folder: Path, *words: object) -> None:
    message(f"selfsup {' '.join(map(str, words))}")
    command = [sys.executable, "-m", "selfsup", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode:
        raise ValueError(f"selfsup {words[0]} ended with {done.returncode}:\n{done.stderr}")


def pictures(report: Path, found: Path) -> dict[str, int]:
    """Write the pictures; their sizes in bytes."""
    sizes = {}
    with browser() as opened:
        with _sharp(opened, report, "light") as page:
            sizes["report"] = _write(page, "header", "#curves", "report")
        with _sharp(opened, report, "dark") as page:
            page.locator(".map canvas[tabindex]").focus()
            for key in ("ArrowRight", "ArrowUp", "ArrowRight"):
                page.keyboard.press(key)
            page.evaluate("() => { document.activeElement.blur(); document.querySelector('#map').style.border = 0; }")
            drawn(page)
            sizes["map"] = _write(page, "#map", "#map .key", "map")
        with _sharp(opened, found, "light") as page:
            sizes["search"] = _write(page, "header h1", "section:last-of-type", "search")
    return sizes


@contextmanager
def _sharp(opened: Any, path: Path, theme: str) -> Iterator[Any]:
    with page_of(opened, path, _WIDTH, theme, device_scale_factor=_SHARP) as page:
        yield page


def _write(page: Any, first: str, last: str, name: str) -> int:
    """The page from the top of one element to the end of another, in the best quality that is small enough."""
    top, bottom = (page.locator(which).first.evaluate(_BOX) for which in (first, last))
    page.set_viewport_size({"width": _WIDTH, "height": round(bottom[1]) + 40})  # so that nothing sticks over it
    page.evaluate("() => scrollTo(0, 0)")
    drawn(page)
    begin = max(0, top[0] - 12)
    clip = {"x": 0, "y": begin, "width": _WIDTH, "height": bottom[1] - begin + 6}
    with Image.open(io.BytesIO(page.screenshot(clip=clip))) as shot:
        picture = shot.convert("RGB")
    PICTURES.mkdir(exist_ok=True)
    for quality in range(88, 20, -6):
        content = io.BytesIO()
        picture.save(content, "WebP", quality=quality, method=6)
        if content.tell() <= MOST:
            (PICTURES / f"{name}.webp").write_bytes(content.getvalue())
            return content.tell()
    raise ValueError(f"the picture {name} does not fit in {MOST:,} bytes")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.readme_pictures", description="Make the README's pictures.")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "readme", help="default: build/readme")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(json.dumps(pictures(*make(folder))))
    return 0


if __name__ == "__main__":
    with program():
        sys.exit(main())
