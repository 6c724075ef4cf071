"""Video and pixel limits through the public API; what the rows hold is in test_hf.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Golden, load_golden

from trimtok_cpp import Model, Pruning, cli


@pytest.fixture(scope="module")
def qwen(fixtures: Path) -> Golden:
    return load_golden(fixtures / "qwen25vl")


@pytest.fixture(scope="module")
def model(qwen: Golden) -> Model:
    return Model(qwen.lm)


def frames(n: int, width: int = 120, height: int = 90) -> list[np.ndarray]:
    rng = np.random.default_rng(n)
    return [rng.integers(0, 256, (height, width, 3)).astype(np.uint8) for _ in range(n)]


SMALL = {"min_pixels": 28 * 28 * 4, "max_pixels": 28 * 28 * 6}


def test_pixel_limits(model: Model, qwen: Golden) -> None:
    picture = qwen.image_path(0)  # 172 x 143: 30 rows; sides are rounded down to stay within a limit
    assert model.count_tokens(picture, "What?").visual_tokens == 30
    assert model.count_tokens(picture, "What?", max_pixels=28 * 28 * 12).visual_tokens == 9
    assert model.count_tokens(picture, "What?", min_pixels=28 * 28 * 60).visual_tokens >= 60
    result = model.generate(picture, "What?", max_pixels=28 * 28 * 12, pruning=None, max_tokens=2)
    assert result.usage.visual_tokens == 9
    message = {"role": "user", "content": [{"type": "image", "image": picture}]}
    chatted = model.chat([message], max_pixels=28 * 28 * 12, pruning=None, max_tokens=2)
    assert chatted.usage.visual_tokens == 9
    # Only for this call.
    assert model.generate(picture, "What?", pruning=None, max_tokens=1).usage.visual_tokens == 30


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"min_pixels": 0}, ValueError, r"\[min_pixels\] is 0"),
        ({"max_pixels": 1.5}, TypeError, r"\[max_pixels\] is 1.5"),
        ({"max_pixels": 783}, ValueError, r"\[max_pixels\].*783.*784"),
        ({"min_pixels": 5000, "max_pixels": 4999}, ValueError, "5000.*4999"),
        ({"min_pixels": 2**30}, ValueError, "1073741824"),
        ({"video": 1}, TypeError, r"\[video\] is 1"),
        ({"fps": 2.0}, ValueError, r"\[fps\] is 2.0 without video=True"),
        ({"video": True, "fps": 0}, ValueError, r"\[fps\] is 0"),
        ({"video": True, "fps": float("nan")}, ValueError, r"\[fps\] is nan"),
        ({"video": True, "fps": 1e-9}, ValueError, r"\[fps\] 1e-09 frames per second"),
    ],
)
def test_wrong_options(model: Model, options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        model.generate(frames(3), "<image>?" if "video" in options else "?", max_tokens=1, **options)


def test_options_without_images(model: Model) -> None:
    with pytest.raises(ValueError, match=r"\[min_pixels\] is given without images"):
        model.generate([], "Hi", min_pixels=5)
    with pytest.raises(ValueError, match=r"\[images\] holds no frames"):
        model.generate([], "Hi", video=True)


def test_fixed_resolution_has_no_limits(llava15: Golden) -> None:
    with pytest.raises(ValueError, match=r"\[max_pixels\] is 9999, but pictures for LLaVA have a fixed"):
        Model(llava15.lm).generate(llava15.image_path(0), "What?", max_pixels=9999)


def test_frames_of_one_size_and_one_place(model: Model) -> None:
    with pytest.raises(ValueError, match=r"\[video\] frames of 120 x 90 and 64 x 48"):
        model.generate([*frames(2), *frames(1, 64, 48)], "?", video=True)
    with pytest.raises(ValueError, match=r"holds 2 '<image>' marker"):
        model.generate(frames(2), "<image> and <image>", video=True)


def test_video_is_pruned_by_groups(model: Model) -> None:
    """Two frames are one group: the pruner sees three pictures, and overlays show the first frame of each."""
    pictures = frames(5)
    count = model.count_tokens(pictures, "What happens?", video=True, **SMALL)
    result = model.generate(
        pictures, "What happens?", video=True, fps=4, pruning=Pruning(0.5), max_tokens=2, **SMALL
    )
    report = result.pruning
    assert report is not None
    assert len(report.n_rows) == 3
    assert sum(report.n_rows) == count.visual_tokens
    assert result.usage.visual_tokens == report.n_kept == round(count.visual_tokens / 2)
    assert [picture.size for picture in report.overlays()] == [(120, 90)] * 3
    assert np.array_equal(report.pictures[1], pictures[2])  # type: ignore[index]
    whole = model.generate(pictures, "What happens?", video=True, pruning=None, max_tokens=2, **SMALL)
    assert whole.usage.prompt_tokens == count


def test_groups_are_remembered_as_what_they_are(qwen: Golden) -> None:
    """The same pixels as a picture, as a frame of another video or at another limit are other rows."""
    fresh = Model(qwen.lm)
    pictures = frames(2)

    def run(images: list[np.ndarray], **options: Any) -> tuple[list[int], int]:
        result = fresh.generate(images, "What?", pruning=None, max_tokens=3, **options)
        again = Model(qwen.lm, image_cache_mb=0).generate(
            images, "What?", pruning=None, max_tokens=3, **options
        )
        assert result.token_ids == again.token_ids
        return result.token_ids, sum(seconds == 0 for seconds in result.timings.encode)

    calls: list[tuple[list[np.ndarray], dict[str, Any]]] = [
        (pictures[:1], SMALL),
        (pictures[:1], {}),
        (pictures[:1], SMALL | {"video": True}),
        (pictures, SMALL | {"video": True}),
        (pictures[::-1], SMALL | {"video": True}),
    ]
    first = [run(images, **options) for images, options in calls]
    assert [hits for _, hits in first] == [0] * len(calls)
    second = [run(images, **options) for images, options in calls]
    assert [hits for _, hits in second] == [1] * len(calls)
    assert [ids for ids, _ in first] == [ids for ids, _ in second]


def test_kept_rows_of_a_video_keep_their_places(model: Model) -> None:
    """Runs of a video count from one place, with and without pruning, under both policies."""
    core = model._core
    sizes, options = [(120, 90)] * 4, SMALL | {"video_fps": 1.0}
    whole = core.plan("one\ufdd1two", sizes, **options)
    rows = whole["n_visual"] // 2
    kept = [[0, rows - 1], [1]]
    start = whole["segments"][0]["count"]
    original = core.plan("one\ufdd1two", sizes, **options, kept=kept, policy="original")
    compact = core.plan("one\ufdd1two", sizes, **options, kept=kept, policy="compact")
    places = whole["positions"][:, [start, start + rows - 1, start + rows + 1]]
    for plan in (original, compact):
        assert np.array_equal(plan["positions"][:, start : start + 3], places)
    assert original["next_position"] == whole["next_position"]
    assert compact["positions"][:, start + 3].tolist() == [places.max() + 1] * 3
    # A group is two seconds: four positions.
    assert (places[0] - start).tolist() == [0, 0, 4]


def test_other_families_take_frames_as_images(llava15: Golden, fixtures: Path) -> None:
    for golden, per_frame in ((llava15, None), (load_golden(fixtures / "gemma3"), 16)):
        other = Model(golden.lm)
        images = [golden.image_path(i) for i in (0, 1, 0)]
        as_video = other.generate(images, "<image>What happens?", video=True, max_tokens=3)
        as_images = other.generate(images, "<image><image><image>What happens?", max_tokens=3)
        assert as_video.token_ids == as_images.token_ids
        assert as_video.usage == as_images.usage
        if per_frame is not None:
            count = other.count_tokens(images, "What happens?", video=True)
            assert count.visual_tokens == 3 * per_frame


def test_command_line(qwen: Golden, capsys: pytest.CaptureFixture[str]) -> None:
    pictures = [flag for _ in range(2) for flag in ("-i", qwen.image_path(0))]
    limits = ["--max-pixels", "9408", "--no-pruning", "--max-tokens", "1", "--json"]
    assert cli.main(["run", qwen.lm, "What?", *pictures, "--video", "--fps", "3", *limits]) == 0
    assert '"visual_tokens": 9,' in capsys.readouterr().out
