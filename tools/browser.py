"""A browser for the pages that selfsup writes: Chromium without a window, and axe-core beside it."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or "chromium"
_QUIET = "--headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update".split()
_WAIT = 150  # milliseconds for a page to draw
_HEIGHT = 900  # of the window, in pixels


def axe_core(folder: Path) -> str:
    """The program that looks for what keeps people from reading; fetched where it is not there yet."""
    place = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not place.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "install", "--prefix", str(folder), "--silent", "axe-core"], check=True)
    return place.read_text()


@contextmanager
def browser(executable: str = CHROMIUM) -> Iterator[Any]:
    """A browser with a profile of its own."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as profile, sync_playwright() as program:
        arguments = [*_QUIET, "--disable-sync", f"--disk-cache-dir={profile}"]
        opened = program.chromium.launch(executable_path=executable, args=arguments)
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def page_of(
    opened: Any, path: Path, width: int, theme: str, problems: list[str] | None = None, **settings: Any
) -> Iterator[Any]:
    """A page in a context of its own.

    Args:
        opened: the browser.
        path: of the page.
        width: of the window, in pixels.
        theme: "light" or "dark", as the system would have it.
        problems: what the page says on the console, and what it asks for, is added here.
        settings: further ones of the context.
    """
    said = [] if problems is None else problems
    context = opened.new_context(viewport={"width": width, "height": _HEIGHT}, color_scheme=theme, **settings)
    page = context.new_page()
    page.on("console", lambda told: said.append(f"console: {told.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda asked: _note_request(asked.url, path, said))
    page.goto(path.as_uri())
    drawn(page)
    try:
        yield page
    finally:
        context.close()


def drawn(page: Any) -> None:
    """Wait until the page has drawn what has changed."""
    page.wait_for_timeout(_WAIT)


def _note_request(url: str, path: Path, problems: list[str]) -> None:
    if not url.startswith(("data:", path.as_uri())):
        problems.append(f"request: {url[:200]}")
