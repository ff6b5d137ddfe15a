"""A headless Chromium for tests of pages, where there is one."""

import contextlib
import shutil

import pytest


@contextlib.contextmanager
def opened(url, width=1200, **options):
    """A page in Chromium, and what it complained of so far: console errors, exceptions, requests that failed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="a test in a browser needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("a test in a browser needs chromium")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page, complaints = browser.new_page(viewport={"width": width, "height": 900}, **options), []
            page.on("console", lambda each: complaints.append(each.text) if each.type == "error" else None)
            page.on("pageerror", lambda each: complaints.append(str(each)))
            page.on("requestfailed", lambda each: complaints.append(each.url))
            page.goto(url)
            yield page, complaints
        finally:
            browser.close()
