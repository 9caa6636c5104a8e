"""A real Chromium on the console. Where there is none, the tests that need it are skipped, and say so."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
_FLAGS = (
    "--no-sandbox",  # which root has no use for, and root is who runs in a container
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
WIDE, NARROW = (1280, 900), (360, 740)  # pixels


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        reason = "There is no Chromium on this machine (apt-get install chromium), so the web console is NOT TESTED."
        print(f"\n*** {reason}", file=sys.__stderr__)
        pytest.skip(reason)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=_FLAGS)
        try:
            yield browser
        finally:
            await browser.close()


class Console:
    """A page of the console at ``url``, and what its browser complained of."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._asked)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.url).netloc:
            self.complaints.append(f"It asked another host: {request.url}")

    async def open(self, place: str = "") -> Page:
        """``place``: a view, such as ``log``. Comes back when the server is heard."""
        await self.page.goto(f"{self.url}/console#/{place}")
        await self.page.get_by_text("Live", exact=True).wait_for()
        return self.page

    async def scrolls_sideways(self) -> bool:
        return bool(await self.page.evaluate("document.documentElement.scrollWidth > innerWidth"))


@asynccontextmanager
async def console(
    browser: Browser, url: str, *, scheme: str = "light", size: Sequence[int] = WIDE, expected: Sequence[str] = ()
) -> AsyncIterator[Console]:
    """A new browser profile. Left: nothing was complained of but what is ``expected``."""
    width, height = size
    context = await browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light",
        viewport={"width": width, "height": height},
        reduced_motion="reduce",
    )
    try:
        opened = Console(await context.new_page(), url)
        yield opened
        assert [one for one in opened.complaints if not any(words in one for words in expected)] == []
    finally:
        await context.close()
