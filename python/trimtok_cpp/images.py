"""Pictures from outside, decoded to 8-bit RGB by Pillow. Resizing and normalising are the engine's."""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import os
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

__all__ = ["ImageSource", "as_sources", "load_image"]

#: A path, a ``data:`` URL, the bytes of a picture file, a Pillow image, or uint8 [height, width, 3] RGB.
ImageSource: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]"
)

# Above this Pillow itself warns of decompression bombs; 89 million pixels are 268 MB of RGB.
MAX_PIXELS = 89_478_485
MAX_SIDE = 46_000
# Formats that Pillow decodes in process: EPS would start Ghostscript, the rest is rarely met.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "AVIF")
_HOW = "pass a PNG, JPEG, WebP, GIF, BMP, TIFF, PPM or AVIF picture"


def as_sources(images: Sequence[ImageSource] | ImageSource | None) -> list[ImageSource]:
    """The list that a caller's `images` argument stands for: None is empty, one picture is a list of one."""
    if images is None:
        return []
    if isinstance(images, (str, os.PathLike, bytes, bytearray, memoryview, Image.Image)):
        return [images]
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return [images]
    if not isinstance(images, (list, tuple)):
        name = type(images).__name__
        raise TypeError(f"[images] is of type {name}; pass a list of pictures, one picture, or None")
    return list(images)


def load_image(source: ImageSource, index: int = 0, *, keep_alpha: bool = False) -> NDArray[np.uint8]:
    """Decodes one picture to a contiguous uint8 array [height, width, 3], RGB.

    Greyscale is replicated, palettes are resolved, 16-bit samples keep their upper 8 bits, alpha is dropped
    without compositing (as most processors do), of an animation the first frame counts. EXIF orientation is
    not applied. `http(s)` URLs are refused: nothing is ever fetched. With `keep_alpha` a picture that has
    transparency stays RGBA, [height, width, 4].

    Raises FileNotFoundError and other OSError for a path that cannot be opened, TypeError for an object of
    another type, and ValueError naming the picture for everything that is no readable picture or is larger
    than 89,478,485 pixels or 46,000 pixels a side.
    """
    name = f"image {index}"
    if isinstance(source, np.ndarray):
        return _from_array(source, name)
    if isinstance(source, Image.Image):
        return _decode(source, f"{name} (PIL.Image)", keep_alpha)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), f"{name} ({len(source)} bytes)", keep_alpha)
    if isinstance(source, str):
        scheme = source.partition(":")[0].lower()
        if scheme == "data":
            return _from_bytes(_data_url(source, name), f"{name} (data URL)", keep_alpha)
        if scheme == "file" and "://" in source:
            source = _file_url(source, name)
        elif "://" in source:
            raise ValueError(f"[{name}] {source[:200]!r} is a URL; nothing is fetched: pass a local path")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if "\0" in str(path):
            raise ValueError(f"[{name}] the path {str(path)!r} contains a NUL character")
        with path.open("rb") as file:  # OSError already names the path
            return _open(file, f"{name} ({path})", keep_alpha)
    raise TypeError(
        f"[{name}] is of type {type(source).__name__}; "
        "pass a path, bytes, a PIL.Image or a numpy uint8 array [height, width, 3]"
    )


def _data_url(url: str, name: str) -> bytes:
    head, comma, body = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ValueError(f"[{name}] the data URL {url[:60]!r} must look like 'data:image/png;base64,...'")
    try:
        return base64.b64decode(urllib.parse.unquote_to_bytes(body), validate=True)
    except binascii.Error as error:
        raise ValueError(f"[{name}] the data URL is not valid base64: {error}") from error


def _file_url(url: str, name: str) -> str:
    parts = urllib.parse.urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(
            f"[{name}] {url[:200]!r} is on another machine; nothing is fetched: pass a local path"
        )
    return urllib.request.url2pathname(parts.path)


def _from_bytes(data: bytes, name: str, keep_alpha: bool) -> NDArray[np.uint8]:
    return _open(io.BytesIO(data), name, keep_alpha)


def _open(file: IO[bytes], name: str, keep_alpha: bool) -> NDArray[np.uint8]:
    Image.init()  # idempotent; without it an unregistered format in the list is a KeyError
    with _readable(name), Image.open(file, formats=[f for f in _FORMATS if f in Image.OPEN]) as image:
        return _decode(image, name, keep_alpha)


def _decode(image: Image.Image, name: str, keep_alpha: bool) -> NDArray[np.uint8]:
    _check_size(image.width, image.height, name)  # known from the header, before any pixel is decoded
    with _readable(name):
        rgb = np.ascontiguousarray(_to_channels(image, keep_alpha), dtype=np.uint8)
    _check_size(rgb.shape[1], rgb.shape[0], name)  # decoding may correct the header
    return rgb


class _SizeError(ValueError):
    """Already names the picture."""


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Turns whatever Pillow raises, which is nearly anything on damaged files, into a ValueError."""
    try:
        yield
    except (MemoryError, _SizeError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _SizeError(
            f"[{name}] is too large: {error}; the limit is {MAX_PIXELS} pixels: scale it down"
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"[{name}] is no picture that can be read; {_HOW}") from error
    except Exception as error:
        raise ValueError(f"[{name}] cannot be decoded: {error or type(error).__name__}; {_HOW}") from error


def _to_channels(image: Image.Image, keep_alpha: bool) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):  # I;16, I;16B, ...: 16 bits; Pillow would clip, not scale
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise ValueError("its samples are not within 16 bits")
        grey = (wide.astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode == "F":
        raise ValueError("floating-point samples have no defined range")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB warns
    if keep_alpha and (image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info):
        return np.asarray(image.convert("RGBA"))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _from_array(array: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ValueError(
            f"[{name}] is a numpy array of {array.dtype} {list(array.shape)}; "
            "it must be uint8 [height, width, 3], RGB"
        )
    _check_size(array.shape[1], array.shape[0], name)
    return np.ascontiguousarray(array)


def _check_size(width: int, height: int, name: str) -> None:
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE and width * height <= MAX_PIXELS):
        raise _SizeError(
            f"[{name}] is {width} x {height} pixels; each side must be in 1..{MAX_SIDE} and the area at most "
            f"{MAX_PIXELS} pixels: scale it"
        )
