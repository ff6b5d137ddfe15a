"""A headless Chromium for tests of pages, where there is one."""

import contextlib
import shutil

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@contextlib.contextmanager
def started_browser():
    """Chromium; skips the test where it, or playwright, is missing."""
    playwright = pytest.importorskip("playwright.sync_api", reason="a test in a browser needs playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("a test in a browser needs chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser, url, width=1200, **options):
    """A page, and what it complains of: errors and warnings of its console, exceptions, requests that failed."""
    page, complaints = browser.new_page(viewport={"width": width, "height": 900}, **options), []
    page.on("console", lambda each: complaints.append(each.text) if each.type in ("error", "warning") else None)
    page.on("pageerror", lambda each: complaints.append(str(each)))
    page.on("requestfailed", lambda each: complaints.append(each.url))
    page.goto(url)
    return page, complaints
