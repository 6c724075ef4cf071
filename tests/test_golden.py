"""The golden files end to end through the public API: prompts, positions, logits, greedy tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import CASES, Golden, run

from trimtok_cpp import Model, _core, gguf_tools
from trimtok_cpp.images import load_image

TOLERANCE = 1e-3  # of the largest |logit|, see the fixtures' README
ROW_TOLERANCE = 1e-4  # of the largest value of a tower's output
TAPS = ("vision_out", "view_rows", "rows")


def all_logits(model: Model, rows: np.ndarray, positions: np.ndarray, chunk: int = 512) -> np.ndarray:
    return model._core.logits(rows, positions, len(rows), chunk)


def check_logits(golden: Golden, prefix: str, logits: np.ndarray) -> float:
    """Compares with every stored array; returns the largest absolute error at the stored ids."""
    arrays = golden.arrays
    last = arrays[f"{prefix}_logits_last"]
    limit = TOLERANCE * np.abs(last).max()
    sub = np.abs(logits[:, arrays["sub_ids"]] - arrays[f"{prefix}_logits_sub"])
    assert sub.shape == arrays[f"{prefix}_logits_sub"].shape
    assert (sub <= limit).all()
    assert (np.abs(logits[-len(last) :, : last.shape[1]] - last) <= limit).all()
    wide = logits.astype(np.float64)
    top = wide.max(axis=1)
    lse = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    assert (np.abs(lse - arrays[f"{prefix}_lse"]) <= limit).all()
    winner = arrays[f"{prefix}_argmax"]
    # Prompt positions may have ties closer than the tolerance; the golden winner is within it everywhere.
    assert (wide[np.arange(len(winner)), winner] >= top - 2 * limit).all()
    assert logits[-1].argmax() == winner[-1]
    return float(sub.max())


@pytest.mark.parametrize("case", CASES)
def test_plan_is_golden(golden: Golden, case: str) -> None:
    plan = golden.plan(Model(golden.lm), case)
    expected = golden.cases[case]
    placeholder = golden.data["image_placeholder_id"]
    ids: list[int] = []
    assert len(plan["segments"]) == len(expected["segments"])
    for segment, want in zip(plan["segments"], expected["segments"], strict=True):
        assert (segment["start"], segment["count"]) == (want["start"], want["count"])
        if want["type"] == "text":
            assert segment["ids"] == want["ids"]
        else:
            # Golden segments number the model folder's images, plans the prompt's.
            assert expected["images"][segment["image"]] == want["image"]
            assert segment["row_start"] == want["row_start"]
        ids += segment.get("ids", [placeholder] * segment["count"])
    assert ids == expected["input_ids"] == golden.arrays[f"case_{case}_input_ids"].tolist()
    assert np.array_equal(np.ravel(plan["positions"]), golden.arrays[f"case_{case}_positions"])
    assert plan["next_position"] == expected["next_position"]
    assert plan["n_rows"] == expected["n_positions"]


def test_tower_is_golden(golden: Golden, isa: str) -> None:
    tower = _core.Tower(golden.mmproj, 2)
    assert tower.info["isa"] == isa
    for i, info in enumerate(golden.data["images"]):
        image = load_image(golden.image_path(i), keep_alpha=tower.info["composite_alpha"])
        views = golden.arrays[f"img{i}_u8"]
        assert np.array_equal(tower.preprocess(image).transpose(0, 3, 1, 2), views)
        rows, taps = tower.encode(image, taps=True)
        actual = taps | {"rows": rows}
        compared = [tap for tap in TAPS if f"img{i}_{tap}" in golden.arrays]
        assert {"vision_out", "rows"} <= set(compared)
        for tap in compared:
            expected = golden.arrays[f"img{i}_{tap}"].reshape(-1, actual[tap].shape[1])
            assert actual[tap].shape == expected.shape, f"image {i}, {tap}"
            error = np.abs(actual[tap] - expected).max() / np.abs(expected).max()
            assert error < ROW_TOLERANCE, f"image {i}, {tap}"
        plan = tower.plan(info["width"], info["height"])
        assert (plan["n_rows"], plan["n_views"]) == (info["rows"], info["views"]) == (len(rows), len(views))


@pytest.mark.parametrize("case", CASES)
def test_logits_are_golden(golden: Golden, case: str, isa: str) -> None:
    model = Model(golden.lm, kv_dtype="f32")
    assert model.info()["isa"] == isa
    rows, plan = golden.rows(model, case)
    check_logits(golden, f"case_{case}", all_logits(model, rows, plan["positions"]))


@pytest.mark.parametrize("kv_dtype", ["f32", "f16"])
@pytest.mark.parametrize("case", CASES)
def test_greedy_is_golden(golden: Golden, case: str, kv_dtype: str, isa: str) -> None:
    result = run(Model(golden.lm, kv_dtype=kv_dtype), golden, case)
    expected = golden.cases[case]
    assert result.token_ids == expected["greedy"]["ids"]
    assert result.finish_reason == "length"
    assert result.usage.prompt_tokens == expected["n_positions"]
    assert result.usage.visual_tokens == sum(s["count"] for s in expected["segments"] if s["type"] == "image")
    assert result.usage.completion_tokens == 16
    assert len(result.timings.encode) == len(expected["images"])
    assert all(seconds > 0 for seconds in result.timings.encode)
    assert result.timings.prefill > 0
    assert result.timings.decode > 0
    assert result.kv_bytes > 0


@pytest.mark.parametrize("case", CASES)
def test_chat_template_is_golden(golden: Golden, case: str) -> None:
    messages = golden.chat_messages(case)
    model = Model(golden.lm)
    if messages is None:  # llava15's mixed prompt: generate() keeps the places that the user wrote
        prompt = golden.cases[case]["prompt"].removeprefix("USER: ").removesuffix(" ASSISTANT:")
        result = model.generate(golden.case_images(case), prompt, max_tokens=16, pruning=None)
    else:
        result = model.chat(messages, max_tokens=16, pruning=None)
    assert result.token_ids == golden.cases[case]["greedy"]["ids"]


@pytest.mark.parametrize("kv_dtype", ["f32", "f16"])
def test_chunk_size_does_not_matter(golden: Golden, kv_dtype: str, isa: str) -> None:
    model = Model(golden.lm, kv_dtype=kv_dtype)
    rows, plan = golden.rows(model, "multi")
    whole = all_logits(model, rows, plan["positions"], chunk=len(rows))
    assert np.isfinite(whole).all()
    # The order of additions depends on the number of rows. In an f16 cache a last bit of K or V may then
    # round the other way, which moves logits no further than the cache's own rounding does.
    limit = 1e-5 * np.abs(whole).max()
    if kv_dtype == "f16":
        exact = Model(golden.lm, kv_dtype="f32")
        limit = np.abs(all_logits(exact, rows, plan["positions"], chunk=len(rows)) - whole).max()
        # The fixtures' README expects 1e-4 to 2e-3 of an engine that rounds to f16.
        assert 0 < limit < 2e-3 * np.abs(whole).max()
    for chunk in (1, 7, 64, 100_000):
        parts = all_logits(model, rows, plan["positions"], chunk=chunk)
        assert (np.abs(parts - whole) <= limit).all(), chunk


@pytest.mark.parametrize("variant", ["orig", "compact"])
def test_pruned_rows_and_positions(golden: Golden, variant: str, isa: str) -> None:
    model = Model(golden.lm, kv_dtype="f32")
    rows, _ = golden.rows(model, "one")
    rows = rows[golden.arrays["pruned_kept_index"]]
    positions = golden.arrays[f"pruned_{variant}_positions"]
    check_logits(golden, f"pruned_{variant}", all_logits(model, rows, positions))

    expected = golden.data["pruned"]["variants"][variant]
    ids: list[int] = []
    for step in range(len(expected["greedy"]["ids"])):
        ids.append(int(model._core.logits(rows, positions, 1)[0].argmax()))
        rows = np.concatenate([rows, model._core.embed(ids[-1:])])
        positions = np.append(positions, expected["next_position"] + step).astype(np.int32)
    assert ids == expected["greedy"]["ids"]


def test_tolerance_sees_mistakes(golden: Golden) -> None:
    """The mistakes that can be made outside the tower move the logits as far as the golden file says."""
    model = Model(golden.lm, kv_dtype="f32")
    rows, plan = golden.rows(model, "one")
    right = all_logits(model, rows, plan["positions"])
    runs = [segment for segment in plan["segments"] if "image" in segment]  # of one picture
    span = np.concatenate([np.arange(run["start"], run["start"] + run["count"]) for run in runs])
    sensitivity = golden.data["checks"]["sensitivity_case_one"]
    mistakes = {
        "image rows set to zero": lambda part: part * 0,
        "image rows rotated by one": lambda part: np.roll(part, 1, axis=0),
        "image rows x 1.01": lambda part: part * np.float32(1.01),
    }
    for name, mistake in mistakes.items():
        wrong_rows = rows.copy()
        wrong_rows[span] = mistake(rows[span])
        wrong = all_logits(model, wrong_rows, plan["positions"])
        moved = np.abs(wrong - right)[:, : golden.data["vocab_size"]]
        assert moved.max() == pytest.approx(sensitivity[name]["all"], rel=0.02), name
        with pytest.raises(AssertionError):
            check_logits(golden, "case_one", wrong)


def test_float32_error_is_below_every_listed_mistake(golden: Golden, isa: str) -> None:
    # The smallest of them, tanh instead of erf in the projector, is below the tolerance of the logits.
    model = Model(golden.lm, kv_dtype="f32")
    rows, plan = golden.rows(model, "one")
    error = check_logits(golden, "case_one", all_logits(model, rows, plan["positions"]))
    smallest = min(entry["all"] for entry in golden.data["checks"]["sensitivity_case_one"].values())
    assert error < smallest / 4


def test_merged_file_gives_the_same_answer(golden: Golden, tmp_path: Path) -> None:
    merged = tmp_path / "llava.gguf"
    gguf_tools.merge(golden.lm, golden.mmproj, merged)
    model = Model(merged)
    assert model.info()["combined"]
    assert model.info()["mmproj_path"] is None
    assert run(model, golden, "multi").token_ids == golden.cases["multi"]["greedy"]["ids"]
