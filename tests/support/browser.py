"""A real browser to look at the page with; screenshots are kept in ``artifacts/page/``, to be looked at by people."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

SHOTS = Path(__file__).parents[2] / "artifacts" / "page"
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}

CONTRAST = """(selector) => {
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (let each = node; each; each = each.parentElement) {
      const color = parts(getComputedStyle(each).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return parts(getComputedStyle(document.body).backgroundColor);
  };
  return [...document.querySelectorAll(selector)].filter((node) => node.checkVisibility() && node.textContent.trim())
    .map((node) => {
      const [a, b] = [light(parts(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
      return [Math.round(100 * (a + 0.05) / (b + 0.05)) / 100, node.textContent.slice(0, 40)];
    });
}"""
"""The contrast of every text that *selector* finds against what is behind it, as WCAG 2 counts it."""


@dataclass
class Seen:
    """A page, and whatever went wrong on it."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Errors of its script, and what its policy forbade."""
    asked: list[str] = field(default_factory=list)
    """Every address it asked for."""

    async def shoot(self, name: str) -> None:
        """Keep a picture of the whole page."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    async def says(self, text: str, within: str = "main") -> None:
        """Wait until *text* stands in *within*."""
        await self.page.locator(within, has_text=text).first.wait_for(timeout=15_000)

    async def overflows(self) -> bool:
        """Tell whether anything sticks out at the side."""
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        return bool(await self.page.evaluate(wide))


def chromium() -> str:
    """Return where a browser is; skip the test where there is none."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        # tests/run installs one where it may.
        pytest.skip("no browser is here; on Debian: apt-get install chromium")
    return found


@asynccontextmanager
async def look(url: str, size: str = "desktop", *, is_dark: bool = False, width: int = 0) -> AsyncIterator[Seen]:
    """Open *url* and look at it while inside."""
    wide, high = SIZES[size]
    path = chromium()
    async with async_playwright() as playwright:
        # Without its sandbox, which wants a kernel feature that containers rarely have; it only sees our own page.
        browser = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            context = await browser.new_context(
                viewport={"width": width or wide, "height": high},
                color_scheme="dark" if is_dark else "light",
                reduced_motion="reduce",
                locale="en-GB",
            )
            page = await context.new_page()
            seen = Seen(page)
            page.on("pageerror", lambda error: seen.complaints.append(str(error)))
            page.on("console", lambda said: seen.complaints.append(said.text) if said.type == "error" else None)
            page.on("request", lambda request: seen.asked.append(request.url))
            await page.goto(url)
            yield seen
        finally:
            await browser.close()
