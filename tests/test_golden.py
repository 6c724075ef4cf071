"""The golden files end to end through the public API: prompts, positions, logits, greedy tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CASES, Golden, load_golden, run, widen

from trimtok_cpp import Model, Pruning, _core, gguf_tools
from trimtok_cpp.images import load_image

TOLERANCE = 1e-3  # of the largest |logit|, see the fixtures' README
TOWER_TOLERANCE = 1e-4  # of the largest |value|


def all_logits(model: Model, rows: np.ndarray, plan: dict[str, Any], chunk: int = 512) -> np.ndarray:
    return model._core.logits(rows, plan["positions"], len(rows), chunk, visible_end=plan["visible_end"])


def greedy(model: Model, rows: np.ndarray, plan: dict[str, Any], n_tokens: int) -> list[int]:
    """Decodes by evaluating the whole sequence again for every token."""
    ids: list[int] = []
    positions, visible_end = plan["positions"], plan["visible_end"]
    for step in range(n_tokens):
        ids.append(int(model._core.logits(rows, positions, 1, visible_end=visible_end)[0].argmax()))
        rows = np.concatenate([rows, widen(model._core.embed(ids[-1:]), rows.shape[1])])
        position = np.full((*positions.shape[:-1], 1), plan["next_position"] + step, np.int32)
        positions = np.concatenate([positions, position], axis=-1)
        visible_end = np.append(visible_end, len(rows)).astype(np.int32)
    return ids


def check_logits(golden: Golden, prefix: str, logits: np.ndarray) -> float:
    """Compares with every stored array; returns the largest absolute error at the stored ids."""
    arrays = golden.arrays
    last = arrays[f"{prefix}_logits_last"]
    limit = TOLERANCE * np.abs(last).max()
    sub = np.abs(logits[:, arrays["sub_ids"]] - arrays[f"{prefix}_logits_sub"])
    assert sub.shape == arrays[f"{prefix}_logits_sub"].shape
    assert (sub <= limit).all()
    assert (np.abs(logits[-len(last) :, : last.shape[1]] - last) <= limit).all()
    wide = logits[:, : golden.data["vocab_size"]].astype(np.float64)  # files may hold padding rows behind
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
    plan = golden.plan(Model(golden.lm, compute="f32"), case)
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
    assert np.array_equal(plan["positions"], golden.arrays[f"case_{case}_positions"])
    assert plan["next_position"] == expected["next_position"]
    assert plan["n_rows"] == expected["n_positions"]


@pytest.mark.parametrize("case", CASES)
def test_logits_are_golden(golden: Golden, case: str, isa: str) -> None:
    model = Model(golden.lm, compute="f32", kv_dtype="f32")
    assert model.info()["isa"] == isa
    rows, plan = golden.rows(model, case)
    check_logits(golden, f"case_{case}", all_logits(model, rows, plan))


@pytest.mark.parametrize("kv_dtype", ["f32", "f16"])
@pytest.mark.parametrize("case", CASES)
def test_greedy_is_golden(golden: Golden, case: str, kv_dtype: str, isa: str) -> None:
    result = run(Model(golden.lm, compute="f32", kv_dtype=kv_dtype), golden, case)
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
    model = Model(golden.lm, compute="f32")
    if messages is None:  # llava15's mixed prompt: generate() keeps the places that the user wrote
        prompt = golden.cases[case]["prompt"].removeprefix("USER: ").removesuffix(" ASSISTANT:")
        result = model.generate(golden.case_images(case), prompt, max_tokens=16, pruning=None)
    else:
        result = model.chat(messages, max_tokens=16, pruning=None)
    assert result.token_ids == golden.cases[case]["greedy"]["ids"]


@pytest.mark.parametrize("kv_dtype", ["f32", "f16"])
def test_chunk_size_does_not_matter(golden: Golden, kv_dtype: str, isa: str) -> None:
    model = Model(golden.lm, compute="f32", kv_dtype=kv_dtype)
    rows, plan = golden.rows(model, "multi")
    whole = all_logits(model, rows, plan, chunk=len(rows))
    assert np.isfinite(whole).all()
    # The order of additions depends on the number of rows. In an f16 cache a last bit of K or V may then
    # round the other way, which moves logits no further than the cache's own rounding does.
    limit = 1e-5 * np.abs(whole).max()
    if kv_dtype == "f16":
        exact = Model(golden.lm, compute="f32", kv_dtype="f32")
        limit = np.abs(all_logits(exact, rows, plan, chunk=len(rows)) - whole).max()
        # The fixtures' README expects 1e-4 to 2e-3 of an engine that rounds to f16.
        assert 0 < limit < 2e-3 * np.abs(whole).max()
    for chunk in (1, 7, 64, 100_000):
        parts = all_logits(model, rows, plan, chunk=chunk)
        assert (np.abs(parts - whole) <= limit).all(), chunk


def pruned_variants(golden: Golden) -> dict[str, str | None]:
    """Stored variant -> the engine's policy that makes these positions, None where it has none.

    M-RoPE: the engine's "compact" is the stored "shift" (kept rows keep their place in the picture, later
    text moves up); the stored "compact", 0..n-1 in all components, would take the picture its shape.
    gemma3's orig_poswindow counts the window in positions; transformers and the engine count remaining rows.
    """
    stored = set(golden.data["pruned"]["variants"]) - {"orig_poswindow"}
    m_rope = golden.arrays["pruned_orig_positions"].ndim == 2
    policies = {"orig": "original", "shift" if m_rope else "compact": "compact"}
    return {variant: policies.get(variant) for variant in sorted(stored)}


def test_pruned_rows_and_positions(golden: Golden, isa: str) -> None:
    model = Model(golden.lm, compute="f32", kv_dtype="f32")
    kept = golden.arrays["pruned_kept_rows"].tolist()
    whole, _ = golden.rows(model, "one")
    for variant, policy in pruned_variants(golden).items():
        plan = golden.plan(model, "one", kept=[kept], policy=policy or "compact")
        rows = whole[golden.arrays["pruned_kept_index"]]
        expected = golden.data["pruned"]["variants"][variant]
        stored = golden.arrays[f"pruned_{variant}_positions"]
        if policy is None:
            plan |= {"positions": stored, "next_position": expected["next_position"]}
        assert np.array_equal(plan["positions"], stored), variant
        assert plan["next_position"] == expected["next_position"], variant
        for chunk in (512, 7, 1):
            check_logits(golden, f"pruned_{variant}", all_logits(model, rows, plan, chunk))
        assert greedy(model, rows, plan, len(expected["greedy"]["ids"])) == expected["greedy"]["ids"], variant


@pytest.mark.parametrize("positions", ["original", "compact"])
@pytest.mark.parametrize("case", ["one", "multi"])
def test_pruning_in_generate(golden: Golden, case: str, positions: str) -> None:
    """What generate() does is the golden arithmetic on the rows that it reports to have kept."""
    model = Model(golden.lm, compute="f32", kv_dtype="f32")
    # llava16's 5 x 7 grids with newline rows and the others alike: a share that no grid divides evenly.
    options = Pruning(0.43, selector="random", positions=positions, seed=5).as_model_options()
    generation = model._core.generate(
        golden.raw_prompt(model, case).replace("<image>", "\ufdd1"),
        [load_image(path) for path in golden.case_images(case)],
        max_tokens=8, temperature=0.0, top_k=0, top_p=1.0, min_p=0.0, repeat_penalty=1.0, seed=0, stop=[],
        pruning=options,
    )  # fmt: skip
    while generation.next() is not None:
        pass
    result = generation.result()
    kept = [indices.tolist() for indices in result["pruning"]["kept"]]
    assert result["pruning"]["positions"] == positions
    rows, plan = golden.rows(model, case, kept=kept, policy=positions)
    assert result["usage"]["prompt_tokens"] == plan["n_rows"] == len(rows)
    assert result["usage"]["visual_tokens"] == plan["n_visual"] == sum(map(len, kept))
    assert result["token_ids"] == greedy(model, rows, plan, 8)


@pytest.mark.parametrize("name", ["qwen2vl", "qwen3vl", "gemma3"])
def test_grid_pool_in_generate(name: str, fixtures: Path) -> None:
    """Blocks are averaged with everything that their rows bring along, and lie where their first cell lay."""
    golden = load_golden(fixtures / name)
    model = Model(golden.lm, compute="f32", kv_dtype="f32")
    options = Pruning(0.5, selector="grid_pool", positions="original")
    result = model.generate(
        golden.case_images("one"), golden.raw_prompt(model, "one"), raw=True, pruning=options, max_tokens=8
    )
    assert result.pruning is not None
    kept = result.pruning.kept[0].tolist()
    height, width = golden.data["images"][0].get("merged_grid", (4, 4))
    rows, plan = golden.rows(model, "one")
    at = next(s["start"] for s in plan["segments"] if "image" in s)
    cells = rows[at : at + height * width].reshape(height, width, -1)
    side = next(side for side in range(1, 9) if -(-height // side) * -(-width // side) == len(kept))
    assert side > 1
    pooled = [cells[i // width :, i % width :][:side, :side].mean((0, 1)) for i in kept]
    short = golden.plan(model, "one", kept=[kept])
    rows = np.concatenate([rows[:at], pooled, rows[at + height * width :]]).astype(np.float32)
    assert result.token_ids == greedy(model, rows, short, 8)


def test_keeping_every_row_changes_nothing(golden: Golden) -> None:
    model = Model(golden.lm, compute="f32")
    whole = golden.plan(model, "multi")
    counts = [golden.data["images"][i]["rows"] for i in golden.cases["multi"]["images"]]
    for policy in ("original", "compact"):
        plan = golden.plan(model, "multi", kept=[list(range(n)) for n in counts], policy=policy)
        for key in ("positions", "visible_end"):
            assert np.array_equal(plan[key], whole[key])
        assert plan["next_position"] == whole["next_position"]


def test_tower_is_golden(golden: Golden, isa: str) -> None:
    tower = _core.Tower(golden.mmproj, 2)
    assert tower.info["isa"] == isa
    for i, info in enumerate(golden.data["images"]):
        image = load_image(golden.image_path(i), keep_alpha=tower.info["composite_alpha"])
        assert np.array_equal(tower.preprocess(image).transpose(0, 3, 1, 2), golden.arrays[f"img{i}_u8"])
        plan = tower.plan(info["width"], info["height"])
        assert (plan["n_rows"], plan["n_views"]) == (info["rows"], info["views"])
        rows, taps = tower.encode(image, taps=True)
        n_embd = tower.info["n_embd"]
        slices = rows.reshape(len(rows), -1, n_embd).transpose(1, 0, 2)
        check_tower(slices[0], golden.arrays[f"img{i}_rows"])
        assert len(slices) == 1 + tower.info["n_extra"]
        if len(slices) > 1:
            check_tower(slices[1:], golden.arrays[f"img{i}_deepstack"])
        vision_out = golden.arrays[f"img{i}_vision_out"]
        order = golden.arrays.get(f"img{i}_window_order")
        if order is not None:  # stored in raster order of cells; four patches make a cell
            vision_out = vision_out.reshape(len(order), 4, -1)[order]
            height, width = info["merged_grid"]
            assert _core.window_order(width, height, 4)[0] == order.tolist()
        check_tower(taps["vision_out"], vision_out.reshape(-1, vision_out.shape[-1]))
        view_rows = golden.arrays.get(f"img{i}_view_rows")
        if view_rows is not None:
            check_tower(taps["view_rows"], view_rows.reshape(-1, n_embd))


def check_tower(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= TOWER_TOLERANCE * np.abs(expected).max()


def test_tolerance_sees_mistakes(golden: Golden) -> None:
    """The mistakes that can be made outside the tower move the logits as far as the golden file says."""
    model = Model(golden.lm, compute="f32", kv_dtype="f32")
    rows, plan = golden.rows(model, "one")
    right = all_logits(model, rows, plan)
    runs = [segment for segment in plan["segments"] if "image" in segment]  # of one picture
    span = np.concatenate([np.arange(run["start"], run["start"] + run["count"]) for run in runs])
    sensitivity = golden.data["checks"]["sensitivity_case_one"]
    # Stored are mistakes in the rows themselves, not in what deepstack adds.
    width = golden.data["config"]["n_embd"]
    mistakes = {
        "image rows set to zero": lambda part: part * 0,
        "image rows rotated by one": lambda part: np.roll(part, 1, axis=0),
        "image rows x 1.01": lambda part: part * np.float32(1.01),
    }
    for name, mistake in mistakes.items():
        wrong_rows = rows.copy()
        wrong_rows[span, :width] = mistake(rows[span, :width])
        wrong = all_logits(model, wrong_rows, plan)
        moved = np.abs(wrong - right)[:, : golden.data["vocab_size"]]
        assert moved.max() == pytest.approx(sensitivity[name]["all"], rel=0.02), name
        with pytest.raises(AssertionError):
            check_logits(golden, "case_one", wrong)


def test_float32_error_is_below_every_listed_mistake(golden: Golden, isa: str) -> None:
    # The smallest of them, tanh instead of erf in the projector, is below the tolerance of the logits.
    model = Model(golden.lm, compute="f32", kv_dtype="f32")
    rows, plan = golden.rows(model, "one")
    error = check_logits(golden, "case_one", all_logits(model, rows, plan))
    smallest = min(entry["all"] for entry in golden.data["checks"]["sensitivity_case_one"].values())
    assert error < smallest / 4


def test_merged_file_gives_the_same_answer(golden: Golden, tmp_path: Path) -> None:
    merged = tmp_path / "llava.gguf"
    gguf_tools.merge(golden.lm, golden.mmproj, merged)
    model = Model(merged)
    assert model.info()["combined"]
    assert model.info()["mmproj_path"] is None
    assert run(model, golden, "multi").token_ids == golden.cases["multi"]["greedy"]["ids"]
