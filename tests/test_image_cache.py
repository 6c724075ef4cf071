"""Pictures that come again are not encoded again, and nothing else changes."""

from __future__ import annotations

import numpy as np
from conftest import Golden, run

from trimtok_cpp import Model
from trimtok_cpp.images import load_image


def remembered(model: Model, picture: np.ndarray) -> bool:
    """Whether asking about the picture needs no encoding."""
    (seconds,) = model.generate(picture, "What?", max_tokens=1).timings.encode
    return seconds == 0.0


def test_a_picture_is_encoded_once(golden: Golden) -> None:
    model = Model(golden.lm)
    forgetful = Model(golden.lm, image_cache_mb=0)
    first = run(model, golden, "multi")
    assert all(first.timings.encode)
    again = run(model, golden, "multi")
    assert not any(again.timings.encode)
    assert again.token_ids == first.token_ids == golden.cases["multi"]["greedy"]["ids"]
    for _ in range(2):
        assert all(run(forgetful, golden, "multi").timings.encode)
    pixels = load_image(golden.case_images("one")[0])
    assert not any(
        model.generate(pixels, "What?", max_tokens=1).timings.encode
    )  # it is the pixels that count
    changed = pixels.copy()
    changed[-1, -1, -1] ^= 1
    turned = np.ascontiguousarray(pixels).reshape(pixels.shape[1], pixels.shape[0], 3)
    for other in (changed, turned):
        assert not remembered(model, other)
        assert remembered(model, other)


def test_the_latest_pictures_are_remembered(llava15: Golden) -> None:
    model = Model(llava15.lm, image_cache_mb=1)
    n_embd = llava15.data["config"]["n_embd"]
    room = 2**20 // (64 * n_embd * 4)
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (room + 1, 28, 28, 3), np.uint8)
    for picture in pictures:
        assert not remembered(model, picture)
    assert remembered(model, pictures[-1])
    assert not remembered(model, pictures[0])
