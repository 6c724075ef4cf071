"""Decoding pictures from outside."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trimtok_cpp.images import MAX_PIXELS, as_sources, load_image

RNG = np.random.default_rng(5)
RGB = RNG.integers(0, 256, (7, 9, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG that claims a size whatever its data hold."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def test_every_source(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    data = encoded(image)
    path = tmp_path / "a picture.png"
    path.write_bytes(data)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    quoted = url.replace("+", "%2B").replace("/", "%2F")
    for source in (
        path,
        str(path),
        path.as_uri(),
        data,
        bytearray(data),
        memoryview(data),
        image,
        RGB,
        url,
        quoted,
    ):
        array = load_image(source)
        assert np.array_equal(array, RGB)
        assert array.dtype == np.uint8
        assert array.flags.c_contiguous


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats(kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    assert np.array_equal(load_image(encoded(Image.fromarray(RGB), kind, **options)), RGB)


def test_jpeg_and_gif() -> None:
    flat = Image.new("RGB", (16, 8), (200, 30, 90))
    assert np.abs(load_image(encoded(flat, "JPEG", quality=95)).astype(int) - (200, 30, 90)).max() <= 3
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    animation = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (load_image(animation) == (255, 0, 0)).all()  # the first frame


def test_modes() -> None:
    grey = RGB[:, :, 0]
    tripled = np.repeat(grey[:, :, None], 3, axis=2)
    alpha = np.dstack([RGB, RNG.integers(0, 256, (7, 9), dtype=np.uint8)])
    assert np.array_equal(load_image(Image.fromarray(grey)), tripled)
    assert np.array_equal(load_image(Image.fromarray(alpha)), RGB)  # alpha dropped, not composited
    assert np.array_equal(load_image(Image.merge("LA", [Image.fromarray(grey)] * 2)), tripled)
    bits = grey > 127
    assert np.array_equal(load_image(Image.fromarray(bits)), np.where(bits, 255, 0)[:, :, None].repeat(3, 2))
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putpixel((1, 0), 1)
    want = [[[10, 20, 30], [40, 50, 60]]]
    assert load_image(palette).tolist() == want
    assert load_image(encoded(palette, transparency=b"\x00\x80")).tolist() == want
    cmyk = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    assert (load_image(cmyk) == (255, 0, 0)).all()


def test_sixteen_bits_are_scaled() -> None:
    wide = np.array([[0, 255, 256, 0x7FFF, 0x8000, 0xFFFF]], dtype=np.uint16)
    want = np.repeat((wide >> 8).astype(np.uint8)[:, :, None], 3, axis=2)
    assert np.array_equal(load_image(Image.fromarray(wide)), want)
    assert np.array_equal(load_image(encoded(Image.fromarray(wide))), want)
    assert np.array_equal(load_image(encoded(Image.fromarray(wide), "TIFF")), want)
    assert np.array_equal(load_image(Image.fromarray(wide.astype(np.int32))), want)
    with pytest.raises(ValueError, match="not within 16 bits"):
        load_image(Image.fromarray(np.array([[70000]], dtype=np.int32)))
    with pytest.raises(ValueError, match="floating-point samples"):
        load_image(Image.fromarray(np.array([[0.5]], dtype=np.float32)))


def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert load_image(encoded(Image.fromarray(RGB), exif=exif)).shape == RGB.shape


def test_sizes() -> None:
    for shape in ((1, 1, 3), (1, 5000, 3), (5000, 1, 3)):
        assert load_image(np.zeros(shape, np.uint8)).shape == shape
        assert load_image(encoded(Image.fromarray(np.zeros(shape, np.uint8)))).shape == shape
    for shape in ((0, 5, 3), (5, 0, 3), (1, 46001, 3)):
        with pytest.raises(ValueError, match=r"\[image 2\] is \d+ x \d+ pixels"):
            load_image(np.zeros(shape, np.uint8), 2)


@pytest.mark.parametrize(
    ("width", "height"), [(10_000, 10_000), (30_000, 30_000), (46_001, 1), (2**31 - 1, 2**31 - 1)]
)
def test_bombs_are_refused_by_their_header(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_decoding(*_: Any) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", no_decoding)
    assert width * height > MAX_PIXELS or width > 46_000
    with pytest.raises(ValueError, match=r"\[image 0 \(\d+ bytes\)\] is "):
        load_image(png(width, height))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"", r"\[image 4 \(0 bytes\)\] is no picture"),
        (b"GIF89a", r"is no picture|cannot be decoded"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture"),
        (encoded(Image.fromarray(RGB))[:60], "cannot be decoded|no picture"),
        (png(9, 7, b"\x00"), "cannot be decoded"),
        ("data:image/png;base64,@@@@", r"\[image 4\] the data URL is not valid base64"),
        ("data:image/png,abc", "must look like"),
        ("data:", "must look like"),
        ("data:image/png;base64,", r"\(data URL\)\] is no picture"),
        ("http://example.org/a.png", r"'http://example.org/a.png' is a URL; nothing is fetched"),
        ("HTTPS://example.org/a.png", "nothing is fetched"),
        ("ftp://example.org/a.png", "nothing is fetched"),
        ("file://example.org/a.png", "on another machine"),
        ("a\0b.png", "NUL"),
        (np.zeros((4, 4), np.uint8), r"uint8 \[4, 4\]; it must be uint8 \[height, width, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), r"\[4, 4, 4\]"),
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\[2, 4, 4, 3\]"),
    ],
)  # fmt: skip
def test_bad_sources(source: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_image(source, 4)


def test_damaged_files_never_escape_as_something_else() -> None:
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        data = encoded(Image.fromarray(RGB), kind)
        for _ in range(60):
            damaged = bytearray(data[: RNG.integers(1, len(data) + 1)])
            for place in RNG.integers(0, len(damaged), 3):
                damaged[place] = RNG.integers(0, 256)
            try:
                array = load_image(bytes(damaged))
            except ValueError as error:
                assert "[image 0 (" in str(error)  # noqa: PT017 (both outcomes are right)
            else:
                assert array.dtype == np.uint8
                assert array.ndim == 3


def test_missing_files_and_types(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.png"):
        load_image(tmp_path / "no.png")
    with pytest.raises(IsADirectoryError):
        load_image(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"image 0 \(.*a\.txt\)\] is no picture"):
        load_image(tmp_path / "a.txt")
    for source in (3, None, [RGB]):
        with pytest.raises(TypeError, match=r"\[image 1\] is of type"):
            load_image(source, 1)  # type: ignore[arg-type]


def test_as_sources() -> None:
    image = Image.fromarray(RGB)
    assert as_sources(None) == []
    assert as_sources([]) == []
    assert as_sources("a.png") == ["a.png"]
    assert as_sources(b"x") == [b"x"]
    assert as_sources(image) == [image]
    assert as_sources(RGB)[0] is RGB
    assert as_sources(("a", "b")) == ["a", "b"]
    for images in (3, {"a": 1}, RGB[None]):
        with pytest.raises(TypeError, match=r"\[images\]"):
            as_sources(images)  # type: ignore[arg-type]
