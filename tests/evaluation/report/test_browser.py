"""The page in a real browser: at two widths, in light and dark, by keyboard, without a network.

Needs Chromium (Debian: `apt-get install chromium`); CHROMIUM names another place. Its absence is a failure: what is not
looked at breaks unseen.
"""

import pytest

from tests import browser

pytestmark = pytest.mark.browser

CONTRAST = """selector => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const light = colour => { const [r, g, b] = rgb(colour).map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const style = getComputedStyle(document.documentElement);
  const grounds = ['--page', '--card'].map(name => light(style.getPropertyValue(name)));
  return [...document.querySelectorAll(selector)].map(element => {
    const own = getComputedStyle(element);
    const text = light(element instanceof SVGElement ? own.fill : own.color);
    return Math.min(...grounds.map(g => (Math.max(g, text) + 0.05) / (Math.min(g, text) + 0.05)));
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_at_every_width_in_light_and_dark(finished, scheme):
    with browser.page((finished[0] / "report.html").as_uri(), color_scheme=scheme) as (page, seen):
        for width in (360, 1280):
            page.set_viewport_size({"width": width, "height": 800})
            assert page.evaluate("document.documentElement.scrollWidth") == width
        for selector in ("p", "th", "td", "figcaption", "figcaption small", "nav a", "svg text"):
            ratios = page.evaluate(CONTRAST, selector)
            assert ratios, selector
            assert min(ratios) >= 4.5, (selector, min(ratios))
        seen.check_only(("file:", "data:"))


def test_by_keyboard(finished):
    with browser.page((finished[0] / "report.html").as_uri()) as (page, _):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
        assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0  # it shows when it is reached
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.tagName + ':' + document.activeElement.className"))
        assert {"A:", "DIV:scroll", "SUMMARY:"} <= reached
        page.locator("summary", has_text="Configuration").press("Enter")
        assert page.get_by_text("label_smoothing").is_visible()
