"""Opens pages in a browser, as readers do: in light and dark, wide and narrow, by keyboard, and without scripts.

    python -m tools.browser_check runs/mine/report.html --screenshots build/shots

Wanted are Chromium (`apt-get install chromium`), the package playwright (`pip install playwright`; its own browsers
are not needed) and npm, by which axe-core is fetched into build/browser once. It is run by hand: no test needs it.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfsup.report.page import LIMIT

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (1280, 390)
THEMES = ("light", "dark")
_QUIET = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update".split()
_TABS = 400  # presses of the tab key after which everything must have been reached
_WAIT = 400  # milliseconds for a page to draw
# What a reader may act on, in the order of the page; what is folded away cannot be reached before it is opened.
_ACTIVE = """() => {
  const all = [...document.querySelectorAll('a[href], button, select, summary, [tabindex="0"]')];
  window.active = all.filter((one) => one.checkVisibility());
  window.reached = new Set();
  return window.active.length;
}"""
_REACHED = "() => { reached.add(document.activeElement); return active.every((one) => reached.has(one)); }"
_MISSED = "() => active.filter((one) => !reached.has(one)).map((one) => one.outerHTML.slice(0, 120))"
_TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.browser_check", description="Open pages as readers do.")
    parser.add_argument("pages", nargs="+", type=Path, help="files of selfsup report")
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the pages")
    parser.add_argument("--browser", default=shutil.which("chromium") or "chromium", help="default: %(default)s")
    arguments = parser.parse_args()
    axe = axe_core(ROOT / "build" / "browser")
    figures, wrong = {}, 0
    with browser(arguments.browser) as opened:
        for path in arguments.pages:
            found = checked(opened, path.resolve(), axe, arguments.screenshots)
            wrong += len(found["wrong"])
            figures[str(path)] = found
            for line in found["wrong"]:
                print(f"{path}: {line}", file=sys.stderr)
    print(json.dumps(figures))
    sys.exit(1 if wrong else 0)


def axe_core(folder: Path) -> str:
    """The program that looks for what keeps people from reading; fetched where it is not there yet."""
    place = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not place.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--prefix", str(folder), "--silent", "axe-core"], check=True)
    return place.read_text()


@contextmanager
def browser(executable: str) -> Iterator[Any]:
    """A browser with a profile of its own; gives a function that opens a context with its settings."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as program:
        arguments = [*_QUIET, "--disable-sync", f"--disk-cache-dir={profile}"]
        opened = program.chromium.launch(executable_path=executable, args=arguments)
        try:
            yield opened
        finally:
            opened.close()


def checked(opened: Any, path: Path, axe: str, screenshots: Path | None) -> dict[str, Any]:
    """What is wrong with a page, in sentences, and its size in bytes."""
    size = path.stat().st_size
    wrong = [f"{size:,} bytes, more than {LIMIT:,}"] if size > LIMIT else []
    for width in WIDTHS:
        for theme in THEMES:
            wrong += [
                f"{width} px, {theme}: {line}" for line in _with_scripts(opened, path, width, theme, axe, screenshots)
            ]
    wrong += [f"without scripts: {line}" for line in _without_scripts(opened, path, axe, screenshots)]
    return {"bytes": size, "wrong": wrong}


@contextmanager
def _page(opened: Any, path: Path, width: int, theme: str, problems: list[str], **settings: Any) -> Iterator[Any]:
    """A page in a context of its own; what it says on the console, and asks for, is added to `problems`."""
    context = opened.new_context(viewport={"width": width, "height": 900}, color_scheme=theme, **settings)
    page = context.new_page()
    page.on(
        "console", lambda said: problems.append(f"console: {said.text}") if said.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on("request", lambda asked: _note_request(asked.url, path, problems))
    page.goto(path.as_uri())
    page.wait_for_timeout(_WAIT)
    try:
        yield page
    finally:
        context.close()


def _note_request(url: str, path: Path, problems: list[str]) -> None:
    if not url.startswith(("data:", path.as_uri())):
        problems.append(f"request: {url[:200]}")


def _with_scripts(opened: Any, path: Path, width: int, theme: str, axe: str, screenshots: Path | None) -> list[str]:
    problems: list[str] = []
    # axe-core is brought in from outside of the page, whose policy would not let it in by itself.
    with _page(opened, path, width, theme, problems, bypass_csp=True) as page:
        _kept(page, screenshots, f"{path.stem}_{width}_{theme}")
        over = page.evaluate(_TOO_WIDE)
        if over > 0:
            problems.append(f"{over} px wider than the window")
        if width == WIDTHS[0] and theme == THEMES[0]:
            problems += _by_keyboard(page)
        page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.wait_for_timeout(_WAIT)
        problems += _barriers(page, axe)
        _kept(page, screenshots, f"{path.stem}_{width}_{theme}_open")
        problems += _on_paper(page)
        page.click("button.theme")
        page.wait_for_timeout(_WAIT)
        problems += [f"after the switch: {line}" for line in _barriers(page, axe)]
    with _page(opened, path, width, theme, problems):  # and once more under its own policy
        pass
    return problems


def _without_scripts(opened: Any, path: Path, axe: str, screenshots: Path | None) -> list[str]:
    """Whether what matters is there: drawings that are seen, and words."""
    problems: list[str] = []
    with _page(opened, path, WIDTHS[0], "light", problems, java_script_enabled=False) as page:
        _kept(page, screenshots, f"{path.stem}_without_scripts")
        if not page.locator("h1").is_visible() or not page.locator("section h2 + *").first.is_visible():
            problems.append("no title or no content is seen")
        hidden = [one for one in page.locator("section > * svg.drawing, section > svg.drawing").all() if not _seen(one)]
        if hidden:
            problems.append(f"{len(hidden)} drawings are not seen")
    return problems


def _on_paper(page: Any) -> list[str]:
    """Whether drawings that scripts have replaced are there again where the page is printed."""
    page.emulate_media(media="print")
    hidden = [one for one in page.locator("svg.drawing").all() if not one.is_visible()]
    page.emulate_media(media="screen")
    return [f"in print {len(hidden)} drawings are not seen"] if hidden else []


def _seen(drawing: Any) -> bool:
    """Whether a drawing is seen, or lies in what is folded away."""
    folded = drawing.locator("xpath=ancestor::details[not(@open)]").count() > 0
    return folded or bool(drawing.is_visible())


def _kept(page: Any, screenshots: Path | None, name: str) -> None:
    if screenshots is not None:
        screenshots.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(screenshots / f"{name}.png"), full_page=True)


def _by_keyboard(page: Any) -> list[str]:
    """Whether the tab key reaches all that can be acted on."""
    count = page.evaluate(_ACTIVE)
    for _ in range(_TABS):
        page.keyboard.press("Tab")
        if page.evaluate(_REACHED):
            return []
    return [f"of {count} the tab key does not reach {missed}" for missed in page.evaluate(_MISSED)]


def _barriers(page: Any, axe: str) -> list[str]:
    """Violations that axe-core finds."""
    page.evaluate(axe)
    found = page.evaluate("async () => (await axe.run()).violations")
    return [f"{one['id']}: {one['help']} ({len(one['nodes'])}): {one['nodes'][0]['html'][:160]}" for one in found]


if __name__ == "__main__":
    main()
