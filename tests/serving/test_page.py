"""The page in a real browser: a photo is dropped, and the answer is seen."""

import base64

import pytest
from browser import open_page, started_browser
from PIL import Image

DROP = """([content, name, type]) => {
    const bytes = Uint8Array.from(atob(content), sign => sign.charCodeAt(0)), transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name, {type}));
    for (const kind of ["dragenter", "dragover", "drop"])
        document.getElementById("drop").dispatchEvent(
            new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
}"""

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_backend")]


@pytest.fixture(scope="module")
def browser():
    with started_browser() as browser:
        yield browser


@pytest.fixture(params=[(400, "light"), (1100, "dark")], ids=["narrow", "wide"])
def page(request, browser, address):
    """A page, and what it complained of."""
    width, scheme = request.param
    page, errors = open_page(browser, address, width, color_scheme=scheme)
    page.set_default_timeout(120_000)
    yield page, errors
    page.close()


def width_of(photo):
    with Image.open(photo) as opened:
        return opened.width


def overflow(page):
    """Pixels by which the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def test_a_dropped_photo_is_answered(page, files):
    page, errors = page
    photo = files[0][4]
    page.evaluate(DROP, [base64.b64encode(photo.read_bytes()).decode(), photo.name, "image/jpeg"])
    page.wait_for_selector("#result:not([hidden])")
    assert page.locator("#classes li").count() == 5
    shares = [float(text.split()[0]) for text in page.locator("#classes .name span:last-child").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=3)
    assert shares == sorted(shares, reverse=True)
    assert "of the dense model’s" in page.inner_text("#macs")
    assert page.get_attribute("#photo", "alt") == photo.name
    page.wait_for_function("width => document.getElementById('photo').naturalWidth === width", arg=width_of(photo))
    assert page.inner_text("#which") == "All blocks, in the mean; skipped patches are covered"
    before = page.evaluate("document.getElementById('cover').toDataURL()")
    page.locator("#block").fill("2")
    assert page.inner_text("#which") == "Block 2 of 3; skipped patches are covered"
    assert page.evaluate("document.getElementById('cover').toDataURL()") != before
    cost = page.inner_text("#macs")
    page.select_option("#budget", "0.3")
    page.wait_for_function("cost => document.getElementById('macs').innerText !== cost", arg=cost)
    assert overflow(page) <= 0
    assert errors == []


def test_what_is_no_photo_is_told(page):
    page, errors = page
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no photo"})
    page.wait_for_selector("#message.error")
    page.wait_for_function("document.getElementById('message').textContent.includes('JPEG')")
    assert page.inner_text("#message") == "The file must be a JPEG or PNG photo. Received: something else"
    assert page.is_hidden("#result")
    assert overflow(page) <= 0
    assert all("415" in error for error in errors)  # the browser's own remark on the answer
