"""Whether a page can be used without a mouse: the tab key reaches all of it, one sees where, and keys work it."""

from typing import Any

_TABS = 600  # presses of the tab key after which everything must have been reached
# What a reader may act on, in the order of the page; what is folded away cannot be reached before it is opened.
_ACTIVE = """() => {
  const all = [...document.querySelectorAll('a[href], button, select, summary, [tabindex="0"]')];
  window.active = all.filter((one) => one.checkVisibility());
  window.reached = new Set();
  window.unmarked = new Set();
  window.hiddenThere = new Set();
  return window.active.length;
}"""
# Where the focus is: noted as reached, and whether it is marked and lies in the window, not below what sticks there.
_REACHED = """() => {
  const one = document.activeElement, style = getComputedStyle(one), box = one.getBoundingClientRect();
  if (one !== document.body) {
    reached.add(one);
    if (style.outlineStyle === 'none' || parseFloat(style.outlineWidth) < 2) unmarked.add(one);
    const x = Math.min(innerWidth - 2, Math.max(1, box.left + Math.min(box.width, 40) / 2));
    const y = Math.min(innerHeight - 2, Math.max(1, box.top + Math.min(box.height, 40) / 2));
    const top = document.elementFromPoint(x, y);
    const seen = box.bottom > 0 && box.top < innerHeight && top && (one.contains(top) || top.contains(one));
    if (!seen) hiddenThere.add(one);
  }
  return active.every((one) => reached.has(one));
}"""
_NAMES = "(which) => [...window[which]].map((one) => one.outerHTML.slice(0, 120))"
_MISSED = "() => active.filter((one) => !reached.has(one)).map((one) => one.outerHTML.slice(0, 120))"
# All that a key may change, as one word.
_STATE = """() => JSON.stringify([
  document.documentElement.dataset.theme, scrollY,
  [...document.querySelectorAll('[aria-pressed]')].map((one) => one.ariaPressed),
  [...document.querySelectorAll('select')].map((one) => one.value),
  [...document.querySelectorAll('[aria-live]')].map((one) => one.textContent),
  [...document.querySelectorAll('details')].map((one) => one.open),
  [...document.querySelectorAll('[tabindex="0"]')].map((one) => [one.scrollTop, one.scrollLeft]),
  [...document.querySelectorAll('.map canvas')].map((one) => { const text = one.toDataURL(); let sum = 0;
    for (let at = 0; at < text.length; at++) sum = (sum * 31 + text.charCodeAt(at)) | 0; return sum; })])"""
# What keys should do something: the name of the key, and whether it has anything to do there.
_KEY = """(one) => {
  if (one.matches('summary, button')) return one.ariaPressed === 'true' ? '' : 'Enter';
  if (one.matches('select')) return one.options.length > 1 ? 'ArrowDown' : '';
  if (one.matches('canvas, .plot')) return 'ArrowRight';
  if (one.scrollHeight > one.clientHeight + 1) return 'ArrowDown';
  return one.scrollWidth > one.clientWidth + 1 ? 'ArrowRight' : '';
}"""


def reached_by_keyboard(page: Any) -> tuple[int, list[str]]:
    """How many things can be acted on, and what is wrong with going to them by the tab key."""
    count: int = page.evaluate(_ACTIVE)
    for _ in range(_TABS):
        page.keyboard.press("Tab")
        if page.evaluate(_REACHED):
            break
    wrong = [f"the tab key does not reach {missed}" for missed in page.evaluate(_MISSED)]
    wrong += [f"one does not see the focus on {one}" for one in page.evaluate(_NAMES, "unmarked")]
    wrong += [f"the focus is out of sight on {one}" for one in page.evaluate(_NAMES, "hiddenThere")]
    return count, wrong


def worked_by_keyboard(page: Any) -> tuple[int, list[str]]:
    """How many things were worked by a key each, and those at which nothing happened."""
    worked, wrong = 0, []
    for one in page.query_selector_all('button, select, summary, [tabindex="0"]'):
        if not one.is_visible() or not (key := one.evaluate(_KEY)):
            continue
        one.focus()
        before = page.evaluate(_STATE)
        one.press(key)
        page.wait_for_timeout(40)
        worked += 1
        if page.evaluate(_STATE) == before:
            wrong.append(f"{key} does nothing at {one.evaluate('(one) => one.outerHTML.slice(0, 120)')}")
    return worked, wrong
