"""Opens pages in a browser, as readers do: light and dark, wide and narrow, by keyboard, on paper, without scripts.

    python -m tools.browser_check runs/mine/report.html --screenshots build/shots

Wanted are Chromium (`apt-get install chromium`), the package playwright (`pip install playwright`; its own browsers
are not needed) and npm, by which axe-core is fetched into build/browser once, or into the folder that --axe names.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from selfsup.report.page import LIMIT
from tools.browser import CHROMIUM, axe_core, browser, drawn, page_of
from tools.checkout import ROOT
from tools.page_keyboard import reached_by_keyboard, worked_by_keyboard

WIDTHS = (1280, 400)
THEMES = ("light", "dark")
AXE = ROOT / "build" / "browser"
_PAPER = 718  # CSS pixels between the margins of A4
_TOO_WIDE = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
# What lies beyond the paper, or is cut by a box that would scroll on a screen; letters of drawings may reach out a bit.
_CUT = """() => [...document.querySelectorAll('main *, header *')].filter((one) => {
  if (!one.checkVisibility() || one.closest('.screen-reader, svg, .skip')) return false;
  const style = getComputedStyle(one), box = one.getBoundingClientRect();
  const clips = style.overflowX !== 'visible' || style.overflowY !== 'visible';
  const within = one.scrollWidth > one.clientWidth + 1 || one.scrollHeight > one.clientHeight + 1;
  return box.right > document.documentElement.clientWidth + 1 || (clips && within);
}).map((one) => one.outerHTML.slice(0, 100))"""
_FOLDED = """() => [...document.querySelectorAll('details > :not(summary)')].filter(
  (one) => !one.checkVisibility({ contentVisibilityAuto: true }) || !one.getBoundingClientRect().height).length"""
_HIDDEN_DRAWINGS = (
    """() => [...document.querySelectorAll('svg.drawing')].filter((one) => !one.checkVisibility()).length"""
)
_BLANK_PICTURES = "() => [...document.images].filter((one) => !one.naturalWidth).length"


class Found(NamedTuple):
    """What was found on a page."""

    bytes: int
    reached: int  # things that the tab key goes to
    worked: int  # of them that do something at a key, and did
    printed: int  # sheets of A4
    wrong: list[str]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.browser_check", description="Open pages as readers do.")
    parser.add_argument("pages", nargs="+", type=Path, help="files that selfsup report, compare, data or search wrote")
    parser.add_argument("--screenshots", type=Path, help="folder for pictures of the pages")
    parser.add_argument("--browser", default=CHROMIUM, help="default: %(default)s")
    parser.add_argument("--axe", type=Path, default=AXE, help="folder that npm installs axe-core into")
    arguments = parser.parse_args()
    axe = axe_core(arguments.axe)
    figures, wrong = {}, 0
    with browser(arguments.browser) as opened:
        for path in arguments.pages:
            found = checked(opened, path.resolve(), axe, arguments.screenshots)
            wrong += len(found.wrong)
            figures[str(path)] = found._asdict()
            for line in found.wrong:
                print(f"{path}: {line}", file=sys.stderr)
    print(json.dumps(figures))
    sys.exit(1 if wrong else 0)


def checked(
    opened: Any,
    path: Path,
    axe: str,
    screenshots: Path | None = None,
    widths: Sequence[int] = WIDTHS,
    themes: Sequence[str] = THEMES,
) -> Found:
    """What is wrong with a page, in sentences, and what was counted.

    Args:
        opened: a browser.
        path: of the page.
        axe: axe-core; "": barriers are not looked for.
        screenshots: folder for pictures; None: none are made.
        widths: of windows, in pixels.
        themes: "light", "dark".
    """
    size = path.stat().st_size
    wrong = [f"{size:,} bytes, more than {LIMIT:,}"] if size > LIMIT else []
    for width in widths:
        for theme in themes:
            said = _looked_at(opened, path, width, theme, axe, screenshots)
            wrong += [f"{width} px, {theme}: {line}" for line in said]
    reached, worked, said = _by_keyboard(opened, path, widths[0])
    wrong += [f"by keyboard: {line}" for line in said]
    wrong += [f"without scripts: {line}" for line in _without_scripts(opened, path, widths[0], screenshots)]
    printed, said = _on_paper(opened, path, screenshots)
    wrong += [f"in print: {line}" for line in said]
    return Found(size, reached, worked, printed, wrong)


def _looked_at(opened: Any, path: Path, width: int, theme: str, axe: str, screenshots: Path | None) -> list[str]:
    """The page as it is first, with all unfolded, and after the switch to the other colours."""
    problems: list[str] = []
    # axe-core is brought in from outside of the page, whose policy would not let it in by itself.
    with page_of(opened, path, width, theme, problems, bypass_csp=True) as page:
        _kept(page, screenshots, f"{path.stem}_{width}_{theme}")
        _narrow_enough(page, problems)
        if blank := page.evaluate(_BLANK_PICTURES):
            problems.append(f"{blank} pictures are blank")
        page.evaluate("() => document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        drawn(page)
        _narrow_enough(page, problems)
        problems += _barriers(page, axe)
        _kept(page, screenshots, f"{path.stem}_{width}_{theme}_open")
        if page.locator("button.theme").count():
            page.click("button.theme")
            drawn(page)
            problems += [f"after the switch: {line}" for line in _barriers(page, axe)]
    with page_of(opened, path, width, theme, problems):  # and once more under its own policy
        pass
    return problems


def _narrow_enough(page: Any, problems: list[str]) -> None:
    over = page.evaluate(_TOO_WIDE)
    if over > 0:
        problems.append(f"{over} px wider than the window")


def _by_keyboard(opened: Any, path: Path, width: int) -> tuple[int, int, list[str]]:
    problems: list[str] = []
    with page_of(opened, path, width, "light", problems) as page:
        reached, wrong = reached_by_keyboard(page)
    with page_of(opened, path, width, "light", problems) as page:
        worked, idle = worked_by_keyboard(page)
    return reached, worked, [*problems, *wrong, *idle]


def _without_scripts(opened: Any, path: Path, width: int, screenshots: Path | None) -> list[str]:
    """Whether what matters is there: headings, words, pictures, and drawings that are seen or folded away."""
    problems: list[str] = []
    with page_of(opened, path, width, "light", problems, java_script_enabled=False) as page:
        _kept(page, screenshots, f"{path.stem}_without_scripts")
        for heading in [*page.locator("h1").all(), *page.locator("section h2").all()]:
            if not heading.is_visible():
                problems.append(f"the heading {heading.inner_text()!r} is not seen")
        if not page.locator("section h2 + *").first.is_visible():
            problems.append("no content is seen")
        hidden = [one for one in page.locator("svg.drawing").all() if not _seen(one)]
        if hidden:
            problems.append(f"{len(hidden)} drawings are not seen")
    return problems


def _seen(drawing: Any) -> bool:
    """Whether a drawing is seen, or lies in what is folded away."""
    folded = drawing.locator("xpath=ancestor::details[not(@open)]").count() > 0
    return folded or bool(drawing.is_visible())


def _on_paper(opened: Any, path: Path, screenshots: Path | None) -> tuple[int, list[str]]:
    """Sheets of A4, and what they do not show: drawings that scripts replaced, what is folded, what is cut."""
    problems: list[str] = []
    with page_of(opened, path, _PAPER, "light", problems) as page:
        page.emulate_media(media="print")
        drawn(page)
        for script, what in ((_HIDDEN_DRAWINGS, "drawings are not seen"), (_FOLDED, "folded parts are not seen")):
            if count := page.evaluate(script):
                problems.append(f"{count} {what}")
        _narrow_enough(page, problems)
        problems += [f"cut: {one}" for one in page.evaluate(_CUT)]
        _kept(page, screenshots, f"{path.stem}_print")
        content = page.pdf(format="A4")
    if screenshots is not None:
        (screenshots / f"{path.stem}.pdf").write_bytes(content)
    return len(re.findall(rb"/Type\s*/Page\b", content)), problems


def _kept(page: Any, screenshots: Path | None, name: str) -> None:
    if screenshots is not None:
        screenshots.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(screenshots / f"{name}.png"), full_page=True)


def _barriers(page: Any, axe: str) -> list[str]:
    """Violations that axe-core finds."""
    if not axe:
        return []
    page.evaluate(axe)
    found = page.evaluate("async () => (await axe.run()).violations")
    return [f"{one['id']}: {one['help']} ({len(one['nodes'])}): {one['nodes'][0]['html'][:160]}" for one in found]


if __name__ == "__main__":
    main()
