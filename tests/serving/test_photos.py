"""What is no photo, or too large, is refused before anything is decoded."""

import io
import struct
import zlib

import pytest
from PIL import Image

from keras_adavit.serving.photos import check_photo
from keras_adavit.serving.refusals import Refusal

LIMIT = 10_000


def encode(width, height, format="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, format)
    return file.getvalue()


def png_that_says(width, height):
    """A PNG file of some bytes whose header says that it is so large."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_photos_pass(format):
    check_photo(encode(100, 100, format), LIMIT)


@pytest.mark.parametrize(
    ("encoded", "status", "sentence"),
    [
        (b"", 400, "The file must be a photo. Received: an empty file"),
        (b"no photo", 415, "The file must be a JPEG or PNG photo. Received: something else"),
        (encode(9, 9, "GIF"), 415, "The file must be a JPEG or PNG photo. Received: something else"),
        (encode(9, 9)[:20], 415, "The file must be a JPEG or PNG photo. Received: something else"),
        (encode(101, 100), 413, "The photo must have at most 10,000 pixels. Received: 101 × 100"),
        (encode(101, 100, "JPEG"), 413, "The photo must have at most 10,000 pixels. Received: 101 × 100"),
        (png_that_says(12_000, 9_000), 413, "The photo must have at most 10,000 pixels. Received: 12000 × 9000"),
        (png_that_says(2**30, 2**30), 413, "The photo must have at most 10,000 pixels. Received: many more"),
    ],
)
def test_others_do_not(encoded, status, sentence):
    with pytest.raises(Refusal) as refused:
        check_photo(encoded, LIMIT)
    assert (refused.value.status, refused.value.sentence) == (status, sentence)
