"""Towers and decoders against transformers on random tiny models, with shapes that no golden file has."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import widen

from trimtok_cpp import Model, _core

torch = pytest.importorskip(
    "torch", reason="torch is missing, the reference of these tests: pip install '.[transformers]'"
)
pytest.importorskip(
    "transformers", reason="transformers is missing, the truth of these tests: pip install '.[transformers]'"
)

import hf_models as hf  # noqa: E402

Array = np.ndarray
TOLERANCE = 1e-4  # of the largest |value|; float32 on both sides
# Sizes in pixels that need no resampling: (width, height) in cells of a family.
GRIDS = [(3, 4), (5, 2), (1, 7)]


@pytest.fixture(scope="module", autouse=True)
def _no_gradients() -> Any:
    with torch.no_grad():
        yield


MAKERS: dict[str, Callable[..., hf.HfModel]] = {
    "qwen2vl": hf.make_qwen2vl,
    "qwen25vl": hf.make_qwen25vl,
    "qwen3vl": hf.make_qwen3vl,
}


@pytest.fixture(scope="module", params=[*MAKERS])
def qwen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> hf.HfModel:
    return MAKERS[request.param](tmp_path_factory.mktemp(request.param), seed=len(request.param))


def picture(width: int, height: int, seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def check(actual: Array, expected: Any) -> None:
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else expected
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() < TOLERANCE * np.abs(expected).max()


def limits(model: hf.HfModel) -> dict[str, int]:
    """So wide that pictures keep their size."""
    return {"min_pixels": 1, "max_pixels": 2**24}


def engine_rows(core: Any, encoded: list[Array], plan: dict[str, Any]) -> Array:
    width = max(rows.shape[1] for rows in encoded)
    pieces = [
        widen(core.embed(s["ids"]), width)
        if "ids" in s
        else encoded[s["image"]][s["row_start"] : s["row_start"] + s["count"]]
        for s in plan["segments"]
    ]
    return np.concatenate(pieces)


def input_ids(plan: dict[str, Any], placeholder: int) -> Any:
    ids: list[int] = []
    for s in plan["segments"]:
        ids += s.get("ids", [placeholder] * s["count"])
    return torch.tensor([ids])


@pytest.mark.parametrize("seed", [0, 1])
def test_qwen_images(qwen: hf.HfModel, seed: int) -> None:
    core = _core.Model(qwen.lm, qwen.mmproj, kv_dtype="f32")
    cell = 2 * qwen.patch
    sizes = [(w * cell, h * cell) for w, h in GRIDS[seed : seed + 2]]
    pictures = [picture(w, h, seed + i) for i, (w, h) in enumerate(sizes)]
    plan = core.plan("w3 w5\ufdd1w7 w1 w4\ufdd1 w2", sizes, **limits(qwen))
    encoded = [core.encode(p, **limits(qwen)) for p in pictures]

    inputs = [hf.qwen_patches(qwen, [p, p]) for p in pictures]
    pixels = torch.cat([patches for patches, _ in inputs])
    grids = torch.cat([grid for _, grid in inputs])
    visual = qwen.model.model.visual(pixels, grids)
    rows, deep = visual if isinstance(visual, tuple) else (visual, [])
    n_embd = rows.shape[1]
    check(np.concatenate(encoded)[:, :n_embd], rows)
    for k, slices in enumerate(deep):
        check(np.concatenate(encoded)[:, n_embd * (k + 1) : n_embd * (k + 2)], slices)

    ids = input_ids(plan, hf.marker_id(hf.MARKERS, "<|image_pad|>"))
    expected_positions, _ = qwen.model.model.get_rope_index(ids, grids)
    assert np.array_equal(plan["positions"], expected_positions[:, 0].numpy())
    assert plan["next_position"] == int(expected_positions.max()) + 1
    expected = qwen.model(input_ids=ids, pixel_values=pixels, image_grid_thw=grids).logits[0]
    rows_in = engine_rows(core, encoded, plan)
    for chunk in (512, 5, 1):
        check(core.logits(rows_in, plan["positions"], len(rows_in), chunk), expected)


def test_qwen_pruned_rows(qwen: hf.HfModel) -> None:
    """Kept rows keep their places and their deepstack slices, text behind them follows the policy."""
    core = _core.Model(qwen.lm, qwen.mmproj, kv_dtype="f32")
    cell = 2 * qwen.patch
    sizes = [(4 * cell, 3 * cell), (2 * cell, 5 * cell)]
    encoded = [core.encode(picture(w, h, i), **limits(qwen)) for i, (w, h) in enumerate(sizes)]
    kept = [[0, 3, 6, 7], [4, 5, 9]]
    for policy in ("original", "compact"):
        plan = core.plan("w3\ufdd1w7 w1\ufdd1w2", sizes, **limits(qwen), kept=kept, policy=policy)
        rows = engine_rows(core, encoded, plan)
        is_row = np.concatenate([np.full(s["count"], "ids" not in s) for s in plan["segments"]])
        n_embd = core.info()["n_embd"]
        more: dict[str, Any] = {}
        if rows.shape[1] > n_embd:
            slices = rows[is_row, n_embd:].reshape(is_row.sum(), -1, n_embd).transpose(1, 0, 2)
            more = {
                "visual_pos_masks": torch.from_numpy(is_row)[None],
                "deepstack_visual_embeds": [torch.from_numpy(s.copy()) for s in slices],
            }
        positions = torch.from_numpy(plan["positions"].astype(np.int64))[:, None]
        language = qwen.model.model.language_model
        hidden = language(
            inputs_embeds=torch.from_numpy(rows[None, :, :n_embd].copy()), position_ids=positions, **more
        ).last_hidden_state
        check(core.logits(rows, plan["positions"], len(rows)), qwen.model.lm_head(hidden)[0])
    # Compact: the text between the pictures follows the largest kept place: row 7 lies at (1, 3).
    first = plan["segments"][0]["count"]
    assert plan["positions"][:, first + 4].tolist() == [first + 4] * 3


@pytest.mark.parametrize(("n_frames", "fps"), [(4, 2.0), (5, 0.7), (1, 3.0), (6, 8.0)])
def test_qwen_video(qwen: hf.HfModel, n_frames: int, fps: float) -> None:
    model = Model(qwen.lm, mmproj=qwen.mmproj, kv_dtype="f32")
    width, height = 6 * qwen.patch, 4 * qwen.patch
    frames = [picture(width, height, seed) for seed in range(n_frames)]
    options = limits(qwen) | {"max_pixels": n_frames * width * height * 4}
    plan = model._core.plan("w3 w5\ufdd1w7 w1", [(width, height)] * n_frames, **options, video_fps=fps)
    text = "".join(
        model._core.detokenize(s["ids"], print_special=True) for s in plan["segments"] if "ids" in s
    )

    padded = frames + frames[-1:] * (n_frames % 2)
    pixels, grids = hf.qwen_patches(qwen, padded)
    n_groups = len(padded) // 2
    ids = input_ids(plan, hf.marker_id(hf.MARKERS, "<|video_pad|>"))
    kind = type(qwen.model).__name__
    more = {"second_per_grid_ts": torch.tensor([2 / fps])} if "2_5" in kind else {}
    positions, _ = qwen.model.model.get_rope_index(ids, None, grids, **more)
    if "2_5" in kind:
        # transformers cuts the seconds of a group to an integer here; the model was trained without that.
        is_row = (ids[0] == hf.marker_id(hf.MARKERS, "<|video_pad|>")).numpy()
        first, per_group = int(is_row.argmax()), int(is_row.sum()) // n_groups
        t = [first + int(k * (2 / fps) * 2) for k in range(n_groups)]
        assert plan["positions"][0, is_row].tolist() == np.repeat(t, per_group).tolist()
        assert np.array_equal(plan["positions"][1:, is_row], positions[1:, 0].numpy()[:, is_row])
        after = plan["positions"][:, first + int(is_row.sum())]
        assert after.tolist() == [int(plan["positions"][:, is_row].max()) + 1] * 3
        positions = torch.from_numpy(plan["positions"].astype(np.int64))[:, None]
    assert np.array_equal(plan["positions"], positions[:, 0].numpy())
    if "3" in kind:
        stamps = [float(t) for t in re.findall(r"<([0-9.]+) seconds>", text.replace("\u2581", " "))]
        times = [min(i, n_frames - 1) / fps for i in range(2 * n_groups)]
        assert stamps == [float(f"{(a + b) / 2:.1f}") for a, b in zip(times[::2], times[1::2], strict=True)]
    else:
        assert text.count("<|vision_start|>") == text.count("<|vision_end|>") == 1
    expected = qwen.model(
        input_ids=ids, pixel_values_videos=pixels, video_grid_thw=grids, position_ids=positions
    ).logits[0, -1]
    token = int(expected.argmax())
    result = model.generate(
        frames, "w3 w5<image>w7 w1", raw=True, video=True, fps=fps, pruning=None, max_tokens=1, **options
    )
    assert result.usage.prompt_tokens == ids.shape[1]
    assert result.token_ids == [token] or result.finish_reason == "stop"
    assert len(result.timings.encode) == n_groups


@pytest.mark.parametrize("window", [14, 5])
def test_gemma3(window: int, tmp_path: Path) -> None:
    """A window longer than a picture's nine rows, and one that is shorter: its rows still see each other."""
    gemma = hf.make_gemma3(tmp_path, seed=window, window=window)
    core = _core.Model(gemma.lm, gemma.mmproj, kv_dtype="f32")
    pictures = [picture(54, 54, seed) for seed in (1, 2)]
    plan = core.plan("w3 w5 w9\ufdd1\ufdd1w7 w1 w4 w2 w8 w6 w2 w1", [(54, 54)] * 2)
    encoded = [core.encode(p) for p in pictures]
    pixels = np.stack(pictures).transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
    pixel_values = torch.from_numpy(pixels)
    check(np.stack(encoded), gemma.model.model.get_image_features(pixel_values))

    image_id = hf.marker_id(hf.GEMMA_MARKERS, "<image_soft_token>")
    ids = input_ids(plan, image_id)
    # Blank lines around pictures are single tokens; between two pictures they join.
    runs = [hf.marker_id(hf.GEMMA_MARKERS, text) for text in ("\n\n", "\n\n\n\n")]
    assert [int((ids == run).sum()) for run in runs] == [2, 1]
    outputs = gemma.model(
        input_ids=ids, pixel_values=pixel_values, token_type_ids=(ids == image_id).long(),
        attention_mask=torch.ones_like(ids),
    )  # fmt: skip
    rows = engine_rows(core, encoded, plan)
    for chunk in (512, 11, 1):
        actual = core.logits(rows, plan["positions"], len(rows), chunk, visible_end=plan["visible_end"])
        check(actual, outputs.logits[0])


def test_sizes_are_those_of_transformers() -> None:
    """Many sizes, but no sides below half a cell: there the engine follows the authors (docs/families.md)."""
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    rng = np.random.default_rng(3)
    for factor, low, high in [(28, 3136, 12845056), (32, 65536, 16777216), (28, 6272, 50000)]:
        for _ in range(3000):
            width, height = (int(v) for v in np.exp(rng.uniform(np.log(factor / 2 + 1), np.log(4000), 2)))
            if max(width, height) > 200 * min(width, height):
                continue
            expected = smart_resize(height, width, factor, low, high)
            assert _core.smart_resize(width, height, factor, low, high) == expected[::-1], (width, height)


def test_video_sizes_are_those_of_transformers() -> None:
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

    rng = np.random.default_rng(4)
    for _ in range(3000):
        n_frames = int(rng.integers(2, 40))
        width, height = (int(v) for v in rng.integers(32, 1500, 2))
        expected = smart_resize(n_frames, height, width, 2, 32, 4096, 25165824)
        found = _core.smart_resize(width, height, 32, 4096, 25165824, n_frames)
        assert found == expected[::-1], (n_frames, width, height)
