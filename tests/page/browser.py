"""The Chromium of this machine, headless, and what a page in it may not do."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright
from stack.paths import ROOT
from stack.process import wait_for


class NoChromium(Exception):
    """There is none; says what to install."""


@contextmanager
def chromium() -> Iterator[Browser]:
    found = subprocess.run([ROOT / "tests/tools/get-chromium"], capture_output=True, text=True)
    if found.returncode:
        raise NoChromium(found.stderr.strip())
    # As root Chromium starts only without its sandbox. It sees nothing here but our own pages.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found.stdout.strip(), args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def complaints(page: Page) -> list[str]:
    """What the page reports from now on: errors, warnings, what its policy blocked. Grows."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def until(page: Page, expression: str, arg=None, timeout: float = 15.0):
    """Waits until JavaScript gives something true. Playwright's own way polls by `eval`, which our policy forbids."""
    return wait_for(expression, lambda: page.evaluate(expression, arg), timeout, every=0.05)
