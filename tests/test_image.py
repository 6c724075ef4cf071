"""Resampling against the installed Pillow, bit for bit."""

from __future__ import annotations

import resource
import threading

import numpy as np
import pytest
from PIL import Image
from tiny_tower import pil_resize

from trimtok_cpp import _core

Array = np.ndarray
FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def check(image: Array, width: int, height: int, name: str) -> None:
    actual = _core.resize(image, width, height, name)
    expected = np.asarray(pil_resize(Image.fromarray(image), (width, height), FILTERS[name]))
    assert actual.dtype == np.uint8
    assert actual.shape == expected.shape
    differing = int((actual != expected).sum())
    assert differing == 0, (
        f"{image.shape[1]}x{image.shape[0]} -> {width}x{height}, {name}: {differing} values"
    )


def noise(rng: np.random.Generator, width: int, height: int) -> Array:
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", FILTERS)
def test_random_sizes(name: str) -> None:
    rng = np.random.default_rng(11)
    for _ in range(150):
        width, height, out_width, out_height = (int(v) for v in np.exp(rng.uniform(0, np.log(300), 4)))
        check(noise(rng, width, height), out_width, out_height, name)


@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize(
    ("size", "out"),
    [
        ((1, 1), (1, 1)),
        ((1, 1), (336, 336)),
        ((2, 1), (17, 336)),
        ((1, 5000), (336, 336)),
        ((5000, 1), (336, 336)),
        ((20000, 3), (1, 1)),
        ((3, 20000), (5, 2)),
        ((640, 480), (336, 336)),
        ((336, 336), (336, 336)),
        ((336, 100), (336, 336)),
        ((100, 336), (336, 336)),
        ((337, 335), (336, 336)),
        ((37, 101), (14, 29)),
        ((1000, 20), (20, 1000)),
    ],
)
def test_edge_sizes(size: tuple[int, int], out: tuple[int, int], name: str) -> None:
    check(noise(np.random.default_rng(5), *size), *out, name)


@pytest.mark.parametrize("name", FILTERS)
def test_hard_edges_saturate_as_pillow_does(name: str) -> None:
    """Black and white only: negative lobes overshoot on both sides, the worst case for the accumulator."""
    rng = np.random.default_rng(6)
    for width, height, out_width, out_height in [(4, 4, 999, 501), (90, 70, 33, 31), (2, 300, 50, 7)]:
        check(noise(rng, width, height) // 128 * np.uint8(255), out_width, out_height, name)


def test_filters_differ() -> None:
    image = noise(np.random.default_rng(7), 60, 40)
    results = [_core.resize(image, 30, 30, name) for name in FILTERS]
    assert not np.array_equal(results[0], results[1])
    assert not np.array_equal(results[1], results[2])


def test_strided_arrays_are_read_correctly() -> None:
    image = noise(np.random.default_rng(8), 60, 40)
    for view in (image[::2, ::-1], image[..., ::-1], image.transpose(1, 0, 2)):
        expected = _core.resize(np.ascontiguousarray(view), 20, 25, "bicubic")
        assert np.array_equal(_core.resize(view, 20, 25, "bicubic"), expected)


def test_threads_agree() -> None:
    image = noise(np.random.default_rng(9), 200, 150)
    expected = _core.resize(image, 64, 64, "lanczos")
    results: list[Array] = []
    threads = [
        threading.Thread(target=lambda: results.append(_core.resize(image, 64, 64, "lanczos")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8
    assert all(np.array_equal(result, expected) for result in results)


def test_memory_is_bounded() -> None:
    """Scratch is a few rows: the limits allow 46000 pixels a side, whatever the filter needs."""
    image = np.full((46000, 40, 3), 200, np.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (_core.resize(image, 512, 336, "lanczos") == 200).all()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # KiB
    assert grown < 16 * 1024  # all rows after the horizontal pass would be 70 MB


@pytest.mark.parametrize(
    ("image", "size", "name", "message"),
    [
        (np.zeros((4, 4, 3), np.uint8), (0, 4), "bicubic", "0 x 4"),
        (np.zeros((4, 4, 3), np.uint8), (4, -1), "bicubic", "4 x -1"),
        (np.zeros((4, 4, 3), np.uint8), (46001, 4), "bicubic", "46001"),
        (np.zeros((4, 4, 3), np.uint8), (46000, 46000), "bicubic", "46000 x 46000"),
        (np.zeros((4, 4, 3), np.uint8), (4, 4), "nearest", "bilinear, bicubic or lanczos"),
        (np.zeros((4, 4, 3), np.float32), (4, 4), "bicubic", "uint8"),
        (np.zeros((4, 4), np.uint8), (4, 4), "bicubic", r"\[height, width, 3\]"),
        (np.zeros((4, 4, 4), np.uint8), (4, 4), "bicubic", r"\[height, width, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), (4, 4), "bicubic", "4 x 0"),
        (np.zeros((1, 46001, 3), np.uint8), (4, 4), "bicubic", "46001"),
    ],
)
def test_bad_arguments(image: Array, size: tuple[int, int], name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _core.resize(image, *size, name)
