"""Makes every kind of page that selfsup writes, opens each in a browser, and writes docs/pages.md and docs/pages.json.

    python -m tools.pages [--folder build/pages] [--axe build/browser]

The pages are of photographs that are drawn (`tools.generated_photos`) and of two small runs on them, and one is a
report with a map of 50,000 points. FOLDER gets the pages and pictures of them, to be looked at. What is there already
is taken as it is, so that pages alone are checked again; remove the folder to make all anew. Takes about ten minutes on
two cores. Ends with 1 where something is wrong with a page. Wanted is what `tools.browser_check` wants.
"""

import argparse
import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from selfsup.output import message, program
from selfsup.report.page import LIMIT
from selfsup.report.writing import report_page
from tests.support.reported import contents
from tools.browser import axe_core, browser
from tools.browser_check import AXE, THEMES, WIDTHS, Found, checked
from tools.checkout import ROOT
from tools.generated_photos import write_photos

_EACH = 14  # photographs of each kind
_POINTS = 50_000
_SMALL = ("--encoder.depth", "small", "--encoder.stem", "small", "--size", 32, "--data.canvas", 40, "--epochs", 4)
_RUN = ("--batch-size", 28, "--schedule.warmup-epochs", 1, "--workers", 0, "--no-report")
# The pages, and what makes each.
PAGES = {
    "report": "`selfsup report RUN`",
    "map": f"a report with a map of {_POINTS:,} points, 800 pictures",
    "compare": "`selfsup compare RUN RUN --out FILE.html`",
    "data": "`selfsup data PATH --out FILE.html`, twins and broken files among them",
    "search": "`selfsup search RUN IMAGES --out FILE.html`, four images",
}


def make(folder: Path) -> dict[str, Path]:
    """The pages, by their names; those that are there are taken as they are."""
    pages = {name: folder / f"{name}.html" for name in PAGES}
    photos, runs = folder / "photos", [folder / "runs" / name for name in ("slow", "fast")]
    if not photos.exists():
        write_photos(photos, _EACH)
    data = ("--data.root", photos)
    for run, rate in zip(runs, (0.02, 0.12), strict=True):
        if not (run / "encoder.safetensors").exists():
            _selfsup("pretrain", "simclr_folder", *data, *_SMALL, *_RUN, "--lr", rate, "--folder", run)
            _selfsup("knn", run)
    if not pages["report"].exists():
        _selfsup("report", runs[1], "--out", pages["report"])
    if not pages["map"].exists():
        pages["map"].write_bytes(report_page(contents("butterflies", points=_POINTS, thumbs=800, examples=20)))
    if not pages["compare"].exists():
        _selfsup("compare", *runs, "--out", pages["compare"])
    if not pages["data"].exists():
        _selfsup("data", flawed(photos, folder / "flawed"), "--out", pages["data"])
    if not pages["search"].exists():
        asked = [photos / kind / f"{kind}_003.jpg" for kind in ("balloons", "cities", "flowers", "planets")]
        _selfsup("search", runs[1], *asked, *data, "--out", pages["search"])
    return pages


def flawed(photos: Path, folder: Path) -> Path:
    """A copy of the photographs with parts, copies, a copy in both parts, one saved again, and two that are broken."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(photos, folder / "train")
    seas, flowers = folder / "train" / "seas", folder / "train" / "flowers"
    for kind in ("seas", "flowers"):
        (folder / "test" / kind).mkdir(parents=True)
        for path in sorted((folder / "train" / kind).iterdir())[-4:]:
            path.rename(folder / "test" / kind / path.name)
    shutil.copy(seas / "seas_000.jpg", seas / "copy.jpg")
    shutil.copy(seas / "seas_001.jpg", folder / "test" / "seas" / "seen.jpg")
    with Image.open(flowers / "flowers_002.jpg") as picture:
        picture.resize((200, 150)).save(flowers / "smaller.png")
    content = (flowers / "flowers_000.jpg").read_bytes()
    (flowers / "cut.jpg").write_bytes(content[: len(content) // 3])
    (flowers / "words.jpg").write_text("no image")
    return folder


def _selfsup(*words: object) -> None:
    message(f"selfsup {' '.join(map(str, words))}")
    command = [sys.executable, "-m", "selfsup", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"selfsup {words[0]} ended with {done.returncode}:\n{done.stderr}")


def table(found: dict[str, Found], about: str) -> str:
    """The page of the documents."""
    rows = "".join(
        f"| {PAGES[name]} | {one.bytes / 1e6:.2f} | {one.reached} | {one.worked} | {one.printed} | "
        f"{len(one.wrong) or 'nothing'} |\n"
        for name, one in found.items()
    )
    widths, themes = " and ".join(map(str, WIDTHS)), " and ".join(THEMES)
    return f"""# Pages in a browser

Written by `python -m tools.pages`, which makes a page of each kind from drawn photographs and two small runs, and opens
it in Chromium; `python -m tools.browser_check FILE.html` does the same with a page of yours.
{about}

| page | MB | the tab key reaches | worked by keys | sheets of A4 | wrong |
|---|---|---|---|---|---|
{rows}
Each is opened {widths} pixels wide, {themes}, and once more after the switch to the other colours.
Wrong would be:

- a message on the console, an error, or a request for anything;
- a file of more than {LIMIT / 1e6:g} MB, a blank picture, a page that scrolls sideways;
- a barrier that axe-core finds, with all that is folded away opened;
- a link, button, menu, curve, map or scrolling table that the tab key does not reach, on which one does not see the
  focus, which lies out of sight then, or where the key that is meant for it does nothing;
- without scripts: a heading or a drawing that is not seen;
- on paper: a drawing that is not seen, what stays folded, a box that is cut or wider than the sheet.
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.pages", description="Check every kind of page in a browser.")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "pages", help="default: build/pages")
    parser.add_argument("--axe", type=Path, default=AXE, help="folder that npm installs axe-core into")
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    pages = make(asked.folder.resolve())
    axe, found = axe_core(asked.axe), {}
    with browser() as opened:
        for name, path in pages.items():
            message(f"opening {path}")
            found[name] = checked(opened, path, axe, asked.folder / "shots")
            for line in found[name].wrong:
                print(f"{path}: {line}", file=sys.stderr)
        chromium = opened.version
    version = json.loads((asked.axe / "node_modules" / "axe-core" / "package.json").read_text())["version"]
    machine = f"{platform.system()} {platform.machine()}"
    figures = {"chromium": chromium, "axe_core": version, "machine": machine}
    figures |= {"pages": {name: one._asdict() for name, one in found.items()}}
    (ROOT / "docs" / "pages.json").write_text(json.dumps(figures, indent=1) + "\n")
    about = f"Here with Chromium {chromium} and axe-core {version}."
    (ROOT / "docs" / "pages.md").write_text(table(found, about))
    print(json.dumps({name: len(one.wrong) for name, one in found.items()}))
    return 1 if any(one.wrong for one in found.values()) else 0


if __name__ == "__main__":
    with program():
        sys.exit(main())
