"""Headless Chromium for tests, with what a page asked for and complained of."""

import contextlib
import dataclasses
import os
import shutil

from tests import needs

_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")


@dataclasses.dataclass
class Seen:
    """What happened on a page."""

    requests: list[str] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    def check_only(self, allowed: tuple[str, ...]) -> None:
        """Nothing was asked for but what starts so, and the page complained of nothing."""
        assert [url for url in self.requests if not url.startswith(allowed)] == []
        assert self.errors == []


def executable() -> str:
    """Chromium's place."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        needs.missing("Chromium is not installed (Debian, as root: apt-get install chromium), and CHROMIUM names none")
    return found


@contextlib.contextmanager
def page(url: str, **context):
    """Opens a page; yields it (Playwright's) and what it asked for."""
    from playwright.sync_api import sync_playwright

    seen = Seen()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable(), args=list(_FLAGS))
        try:
            opened = chromium.new_context(**context).new_page()
            opened.on("request", lambda request: seen.requests.append(request.url))
            opened.on("pageerror", lambda error: seen.errors.append(str(error)))
            opened.on("console", lambda message: seen.errors.append(message.text) if message.type == "error" else None)
            opened.goto(url)
            yield opened, seen
        finally:
            chromium.close()
