"""A real browser for tests: Chromium or Chrome, driven by Playwright."""

import os
import re
import shutil
from contextlib import contextmanager

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
BADGE = '<svg xmlns="http://www.w3.org/2000/svg" width="117" height="20"/>'
LOCAL = ("http://localhost", "ws://localhost", "file:", "data:", "blob:")
SLOW = r"^Plugin \S+ .*(took [\d.]+ ?ms|taking too long) to activate"  # the machine is busy
MISSING = ("no Chromium here: install it (Debian: apt-get install chromium; anywhere: "
           "python -m playwright install chromium)")


def find(playwright):
    """Path of a browser, or None."""
    own = playwright.chromium.executable_path
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), own]
    return next((path for path in found if path and os.path.exists(path)), None)


def offline(route):
    """Stand in for the only thing that a page may fetch from elsewhere: the badge."""
    if route.request.url.startswith("https://colab.research.google.com/assets/"):
        route.fulfill(body=BADGE, content_type="image/svg+xml")
    else:
        route.abort()


@contextmanager
def page(width=1200, height=1400):
    """A page, and a list of everything that its console complained of.

    Skips the test, with one line, where there is no browser.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = find(playwright)
        if path is None:
            pytest.skip(MISSING)
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        tab = browser.new_page(viewport={"width": width, "height": height})
        tab.set_default_timeout(240_000)  # a busy machine is slow, not broken
        complaints = []
        tab.on("console", lambda said: said.type in ("error", "warning")
               and not re.search(SLOW, said.text)
               and complaints.append(f"{said.type}: {said.text}"))
        tab.on("pageerror", lambda error: complaints.append(f"uncaught: {error}"))
        tab.route(lambda url: not url.startswith(LOCAL), offline)
        tab.on("requestfailed", lambda r: complaints.append(f"failed: {r.url} {r.failure}"))
        yield tab, complaints
        browser.close()
