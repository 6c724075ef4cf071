"""The settings, the report, and pruning as part of generate and chat."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CASES, Golden, load_golden, run
from PIL import Image

import trimtok_cpp
from trimtok_cpp import ContextOverflowError, Model, PruneReport, Pruning, Result, Stream, prune
from trimtok_cpp.images import load_image
from trimtok_cpp.pruning import DEFAULT_PRUNING

# --- settings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, ["[pruning]", "nothing", "exactly one of keep, max_tokens, coverage, fit"]),
        ({"keep": 0.2, "max_tokens": 5}, ["[pruning]", "keep and max_tokens", "exactly one"]),
        ({"coverage": 0.9, "fit": True}, ["[pruning]", "coverage and fit", "exactly one"]),
        ({"keep": 0}, ["[keep]", "0", "(0, 1]"]),
        ({"keep": 1.01}, ["[keep]", "1.01", "(0, 1]"]),
        ({"keep": -0.5}, ["[keep]", "-0.5", "(0, 1]"]),
        ({"keep": math.nan}, ["[keep]", "nan", "(0, 1]"]),
        ({"keep": "0.2"}, ["[keep]", "'0.2'", "(0, 1]"]),
        ({"keep": True}, ["[keep]", "True", "(0, 1]"]),
        ({"keep": np.zeros(3)}, ["[keep]", "array", "(0, 1]"]),
        ({"max_tokens": 0}, ["[max_tokens]", "0", "1..2147483647"]),
        ({"max_tokens": 2**31}, ["[max_tokens]", "2147483648", "1..2147483647"]),
        ({"max_tokens": 5.0}, ["[max_tokens]", "5.0", "integer"]),
        ({"max_tokens": True}, ["[max_tokens]", "True", "integer"]),
        ({"coverage": 0.0}, ["[coverage]", "0.0", "(0, 1)"]),
        ({"coverage": 1}, ["[coverage]", "1", "(0, 1)"]),
        ({"fit": 1}, ["[fit]", "1", "True or False"]),
        (
            {"keep": 0.2, "selector": "fastv"},
            ["[selector]", "'fastv'", "trimtokenator-lc", "grid_pool", "none"],
        ),
        ({"keep": 0.2, "selector": None}, ["[selector]", "None", "divprune"]),
        ({"keep": 0.2, "stage1": "min"}, ["[stage1]", "'min'", "max_sum, max_min, facility"]),
        ({"keep": 0.2, "d_inter": ""}, ["[d_inter]", "''", "centroid, sequence, token"]),
        ({"keep": 0.2, "align": "dot"}, ["[align]", "'dot'", "cosine, l2"]),
        ({"keep": 0.2, "positions": "kept"}, ["[positions]", "'kept'", "auto, original, compact"]),
        ({"keep": 0.2, "pool": 0.9}, ["[pool]", "0.9", "[1, 1e6]"]),
        ({"keep": 0.2, "pool": math.inf}, ["[pool]", "inf", "[1, 1e6]"]),
        ({"keep": 0.2, "alpha": 1.1}, ["[alpha]", "1.1", "[0, 1]"]),
        ({"keep": 0.2, "alpha": math.nan}, ["[alpha]", "nan", "[0, 1]"]),
        ({"keep": 0.2, "pareto_weight": 1.5}, ["[pareto_weight]", "1.5", "[0, 1]"]),
        ({"keep": 0.2, "pareto_weight": None}, ["[pareto_weight]", "None", "[0, 1]"]),
        ({"keep": 0.2, "inter_weight": -0.1}, ["[inter_weight]", "-0.1", "[0, 1]"]),
        ({"keep": 0.2, "seed": -1}, ["[seed]", "-1", f"0..{2**64 - 1}"]),
        ({"fit": True, "kv_memory_mb": 0}, ["[kv_memory_mb]", "0", "1..2147483647"]),
        ({"keep": 0.2, "kv_memory_mb": 64}, ["[kv_memory_mb]", "64", "fit=True"]),
    ],
    ids=str,
)
def test_wrong_settings(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"^\[") as error:
        Pruning(**options)
    for word in words:
        assert word in str(error.value)


def test_settings() -> None:
    assert Pruning.of(None) is None
    assert Pruning.of(0.2) == Pruning(0.2) == Pruning(keep=0.2)
    assert Pruning.of(np.float32(0.5)) == Pruning(0.5)
    settings = Pruning(max_tokens=np.int64(7), pool=2, seed=2**64 - 1)
    assert Pruning.of(settings) is settings
    assert (type(settings.max_tokens), type(settings.pool)) == (int, float)
    assert hash(settings) == hash(Pruning(None, 7, pool=2.0, seed=2**64 - 1))
    assert Pruning(None, None, None, True, kv_memory_mb=64).fit is True
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.keep = 0.5  # type: ignore[misc]
    for wrong in ("0.2", True, [0.2], object()):
        with pytest.raises(ValueError, match=r"\[pruning\].*Pruning"):
            Pruning.of(wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[keep\] is 2.0"):
        Pruning.of(2)
    with pytest.raises(TypeError):
        Pruning(0.2, None, None, False, "divprune")  # type: ignore[misc]


# --- plain arrays


def test_prune_is_careful() -> None:
    good = np.ones((4, 3), np.float32)
    for rows, kind, words in [
        ([], ValueError, r"\[rows_per_image\] is empty"),
        (good, ValueError, r"\[rows_per_image\].*list of arrays"),
        ([good, [[1.0]]], TypeError, r"\[rows_per_image\[1\]\].*list.*numpy"),
        ([good.astype(np.float64)], ValueError, r"\[rows_per_image\[0\]\].*float64.*float32 or float16"),
        ([good, good[0]], ValueError, r"\[rows_per_image\[1\]\].*\[3\].*\[rows, width\]"),
        ([good, good[:, :2]], ValueError, r"\[rows_per_image\[1\]\].*width 2.*3"),
        ([good[:, :0]], ValueError, r"\[rows_per_image\[0\]\].*width at least 1"),
    ]:
        with pytest.raises(kind, match=words):
            prune(rows)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[text_rows\].*2.*3"):
        prune([good], good[:, :2])
    with pytest.raises(ValueError, match=r"\[fit\].*model"):
        prune([good], None, Pruning(fit=True))
    with pytest.raises(ValueError, match=r"\[pruning\] is None"):
        prune([good], None, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[n_threads\]"):
        prune([good], n_threads=0)
    for grids, words in [([], "0 entries, must be 1"), ([(2, 3)], r"\[grids\[0\]\] is 2 x 3.*only 4 rows")]:
        with pytest.raises(ValueError, match=words):
            prune([good], None, Pruning(0.5, selector="grid_pool"), grids=grids)


def test_prune_lets_other_threads_run() -> None:
    rows = [np.random.default_rng(0).normal(size=(1500, 256)).astype(np.float32)]
    steps: list[int] = []
    done = threading.Event()

    def work() -> None:
        prune(rows, None, 0.5, n_threads=1)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not done.is_set():
        steps.append(len(steps))
        done.wait(0.001)
    thread.join()
    assert len(steps) > 3


# --- the report


def synthetic() -> PruneReport:
    """Picture 0: 4 x 3 cells of 10 pixels on grey, and a row without place; picture 1: nothing kept of it."""
    boxes = np.array([(x, y, x + 10, y + 10) for y in (0, 10, 20) for x in (0, 10, 20, 30)] + [(0, 0, 0, 0)])
    grey = np.full((30, 40, 3), 120, np.uint8)
    return PruneReport(
        kept=[np.array([1, 6, 12], np.int32), np.array([], np.int32)],
        n_rows=[13, 0],
        budgets=[5, 0],
        d_intra=[0.25, 0.0],
        d_inter=0.125,
        alpha=0.5,
        n_total=13,
        budget=3,
        stage1_budget=5,
        pool_size=4,
        selector="trimtokenator-lc",
        settings={"selector": "trimtokenator-lc", "keep": 0.2},
        seconds={"stage1": 0.0125},
        positions="original",
        boxes=[boxes.astype(np.float32), np.zeros((0, 4), np.float32)],
        pictures=[grey, grey],
    )


def test_summary() -> None:
    report = synthetic()
    lines = report.summary().splitlines()
    assert lines[0].split() == ["picture", "tokens", "budget", "kept", "kept", "%", "D_intra"]
    assert lines[1].split() == ["0", "13", "5", "3", "23.1", "0.2500"]
    assert lines[2].split() == ["1", "0", "0", "0", "-", "0.0000"]
    assert lines[3].split() == ["all", "13", "5", "3", "23.1"]
    assert len({len(line) for line in lines[:3]}) == 1  # columns line up
    text = "\n".join(lines[4:])
    for part in ("D_inter 0.1250", "alpha 0.5000", "B 3", "B_1 5", "pool 4", "keep 0.2", "original", "12.50"):
        assert part in text
    assert "did not run" not in text
    off = dataclasses.replace(
        report, reason="keep is 1", alpha=None, d_inter=None, pool_size=None, d_intra=[]
    )
    for part in ("did not run: keep is 1", "alpha -", "D_inter -", "pool -"):
        assert part in off.summary()
    assert off.summary().splitlines()[1].split()[-1] == "-"
    assert repr(report) == "PruneReport(3 of 13 rows, 2 pictures, trimtokenator-lc)"
    assert "did not run" in repr(off)
    assert "\n" not in repr(off)
    json.dumps(report.as_dict())
    assert report.as_dict()["kept"] == [[1, 6, 12], []]
    assert "pictures" not in report.as_dict()


def test_overlay() -> None:
    report = synthetic()
    picture = report.overlay(0)
    assert isinstance(picture, Image.Image)
    assert picture.size == (40, 30)
    pixels = np.asarray(picture).astype(int)
    cells = pixels[:, :, 0].reshape(3, 10, 4, 10)
    kept = np.zeros((3, 4), bool)
    kept[0, 1] = kept[1, 2] = True
    for row, column in np.ndindex(3, 4):
        cell = cells[row, :, column]
        assert cell.min() == cell.max()  # to the pixel: no bleeding at the edges
        assert (cell.min() > 100) == kept[row, column]
        assert (cell.max() < 60) == (not kept[row, column])
    dark = np.asarray(report.overlay(1))
    assert dark.max() < 60
    assert [p.size for p in report.overlays()] == [(40, 30)] * 2
    # A black picture shows the difference, too; half-covered places lie between.
    black = dataclasses.replace(report, pictures=[np.zeros((30, 40, 3), np.uint8)] * 2)
    pixels = np.asarray(black.overlay(0)).astype(int)
    assert pixels[5, 15, 0] > pixels[5, 5, 0] + 10
    whole = np.array([[0, 0, 40, 30]], np.float32)
    assert report.boxes is not None
    both = dataclasses.replace(
        report, n_rows=[14, 0], boxes=[np.concatenate([report.boxes[0], whole]), whole[:0]]
    )
    assert np.asarray(report.overlay(0))[5, 15, 0] > np.asarray(both.overlay(0))[5, 15, 0] > 60


def test_overlay_errors() -> None:
    report = synthetic()
    for k in (2, -1):
        with pytest.raises(IndexError, match=r"\[overlay\] picture -?\d.*0\.\.1"):
            report.overlay(k)
    plain = prune([np.ones((4, 3), np.float32)], None, 0.5)
    for call in (lambda: plain.overlay(0), plain.overlays):
        with pytest.raises(ValueError, match=r"\[overlay\].*generate"):
            call()


# --- generate


@pytest.fixture(scope="module", params=["llava15", "llava16", "smolvlm", "internvl3"])
def plain(request: pytest.FixtureRequest, fixtures: Path) -> Golden:
    """Families of one position per row, causal and without extra slices; tests/test_golden.py has all."""
    return load_golden(fixtures / request.param)


def asked(model: Model, golden: Golden, case: str = "multi", **options: Any) -> Result:
    return run(model, golden, case, **options)


def rebuilt(
    model: Model, golden: Golden, case: str, report: PruneReport
) -> tuple[np.ndarray, np.ndarray, int]:
    """Kept rows of a case, their positions without pruning, and the position after the prompt."""
    rows, plan = golden.rows(model, case)
    stays = np.ones(len(rows), bool)
    order = golden.cases[case]["images"]
    for segment in plan["segments"]:
        if "image" in segment:
            kept = set(report.kept[segment["image"]].tolist())
            for i in range(segment["count"]):
                stays[segment["start"] + i] = segment["row_start"] + i in kept
    assert len(order) == len(report.kept)
    return rows[stays], np.asarray(plan["positions"])[stays], plan["next_position"]


def continued(model: Model, rows: np.ndarray, positions: np.ndarray, after: int, n: int) -> list[int]:
    """Greedy tokens from rows and positions alone."""
    ids: list[int] = []
    for _ in range(n):
        logits = model._core.logits(rows, positions.astype(np.int32), 1)
        ids.append(int(logits[0].argmax()))
        rows = np.concatenate([rows, model._core.embed(ids[-1:])])
        positions = np.append(positions, after + len(ids) - 1)
    return ids


@pytest.mark.parametrize("policy", ["original", "compact"])
@pytest.mark.parametrize("case", ["one", "multi"])
def test_generate(plain: Golden, case: str, policy: str) -> None:
    """What comes out is what the language model says to the kept rows at their positions."""
    model = Model(plain.lm, kv_dtype="f32", compute="f32")
    result = asked(model, plain, case, pruning=Pruning(keep=0.2, positions=policy))
    full = plain.cases[case]
    report = result.pruning
    assert report is not None
    counts = [plain.data["images"][k]["rows"] for k in full["images"]]  # tiles of a picture are one picture
    assert report.n_total == sum(counts)
    assert report.n_rows == counts
    assert report.n_kept == report.budget == round(0.2 * sum(counts))
    assert result.usage.visual_tokens == report.n_kept
    assert result.usage.prompt_tokens == full["n_positions"] - sum(counts) + report.n_kept
    assert (report.reason, report.positions) == (None, policy)
    for kept, m in zip(report.kept, report.n_rows, strict=True):
        assert kept.dtype == np.int32
        assert len(kept) > 0
        assert (np.diff(kept) > 0).all()
        assert 0 <= kept[0] <= kept[-1] < m

    rows, positions, after = rebuilt(model, plain, case, report)
    assert len(rows) == result.usage.prompt_tokens
    if policy == "compact":
        positions, after = np.arange(len(rows)), len(rows)
    ids = continued(model, rows, positions, after, 6)
    assert result.token_ids[:6] == ids
    other = np.arange(len(rows)) if policy == "original" else rebuilt(model, plain, case, report)[1]
    moved = model._core.logits(rows, other.astype(np.int32), 1)
    assert not np.allclose(moved, model._core.logits(rows, positions.astype(np.int32), 1), atol=1e-3)


@pytest.mark.parametrize("case", CASES)
def test_off_is_off(golden: Golden, case: str) -> None:
    model = Model(golden.lm, compute="f32")
    plain = asked(model, golden, case, pruning=None)
    assert plain.token_ids == golden.cases[case]["greedy"]["ids"]
    assert plain.pruning is None
    for all_rows in (1.0, Pruning(max_tokens=10**6), Pruning(fit=True), Pruning(keep=0.2, selector="none")):
        result = asked(model, golden, case, pruning=all_rows)
        assert result.token_ids == plain.token_ids
        assert (result.usage, result.kv_bytes) == (plain.usage, plain.kv_bytes)
        if case == "text":
            assert result.pruning is None
            continue
        assert result.pruning is not None
        assert [k.tolist() for k in result.pruning.kept] == [list(range(m)) for m in result.pruning.n_rows]
        if not (isinstance(all_rows, Pruning) and all_rows.selector == "none"):
            assert result.pruning.reason
            assert result.pruning.reason in result.pruning.summary()


def test_the_plain_call_prunes(golden: Golden) -> None:
    model = Model(golden.lm)
    images = golden.case_images("multi")
    plain = model.generate(images, "What differs?", max_tokens=4)
    same = model.generate(images, "What differs?", max_tokens=4, pruning=DEFAULT_PRUNING)
    off = model.generate(images, "What differs?", max_tokens=4, pruning=None)
    assert plain.pruning is not None
    assert same.pruning is not None
    assert DEFAULT_PRUNING.keep is not None
    assert plain.pruning.n_kept == round(DEFAULT_PRUNING.keep * off.usage.visual_tokens)
    assert plain.pruning.settings == same.pruning.settings
    assert plain.pruning.settings["keep"] == DEFAULT_PRUNING.keep
    assert plain.token_ids == same.token_ids
    assert off.pruning is None
    parts = [
        *({"type": "image", "image": path} for path in images),
        {"type": "text", "text": "What differs?"},
    ]
    chat = model.chat([{"role": "user", "content": parts}], max_tokens=4)
    assert chat.pruning is not None
    assert [k.tolist() for k in chat.pruning.kept] == [k.tolist() for k in plain.pruning.kept]
    assert model.generate([], "Hello", max_tokens=1).pruning is None  # nothing to prune


def test_same_rows_as_on_arrays(plain: Golden) -> None:
    """generate and prune choose alike where text plays no part."""
    model = Model(plain.lm)
    images = plain.case_images("multi")
    rows = [model._core.encode(load_image(path)) for path in images]
    for selector in ("divprune", "uniform", "random"):
        settings = Pruning(keep=0.3, selector=selector, seed=3)
        report = asked(model, plain, pruning=settings).pruning
        assert report is not None
        alone = prune(rows, None, settings)
        assert [k.tolist() for k in report.kept] == [k.tolist() for k in alone.kept]
        assert report.d_intra == pytest.approx(alone.d_intra, abs=1e-6)
        assert report.d_inter == pytest.approx(alone.d_inter, abs=1e-6)
    coverage = asked(model, plain, pruning=Pruning(coverage=0.9)).pruning
    assert coverage is not None
    assert [k.tolist() for k in coverage.kept] == [
        k.tolist() for k in prune(rows, None, Pruning(coverage=0.9)).kept
    ]


def test_the_question_matters(llava15: Golden) -> None:
    model = Model(llava15.lm)
    settings = Pruning(keep=0.2, pareto_weight=0.0, pool=4)
    prompts = ["What is red?", "Count the windows of every house.", "Zebra"]
    kept = {
        str([k.tolist() for k in asked_about(model, llava15, prompt, settings).kept]) for prompt in prompts
    }
    assert len(kept) > 1


def asked_about(model: Model, golden: Golden, prompt: str, settings: Pruning) -> PruneReport:
    report = model.generate(golden.case_images("multi"), prompt, max_tokens=1, pruning=settings).pruning
    assert report is not None
    return report


@pytest.mark.parametrize("selector", trimtok_cpp.pruning.SELECTORS)
def test_every_selector(golden: Golden, selector: str) -> None:
    result = asked(Model(golden.lm), golden, pruning=Pruning(keep=0.25, selector=selector))
    report = result.pruning
    assert report is not None
    assert report.selector == selector
    assert result.usage.visual_tokens == report.n_kept
    assert len(result.token_ids) == 16
    if selector == "none":
        assert report.n_kept == report.n_total
    elif selector == "grid_pool":
        assert report.n_kept <= report.budget
    else:
        assert report.n_kept == report.budget == round(0.25 * report.n_total)


def test_streaming_and_chat(golden: Golden) -> None:
    model = Model(golden.lm)
    plain = asked(model, golden, pruning=0.3)
    stream = asked(model, golden, pruning=0.3, stream=True)
    assert isinstance(stream, Stream)
    assert "".join(stream) == plain.text == stream.result.text
    assert stream.result.pruning is not None
    assert plain.pruning is not None
    assert [k.tolist() for k in stream.result.pruning.kept] == [k.tolist() for k in plain.pruning.kept]
    messages = golden.chat_messages("multi")
    if messages is not None:
        chat = model.chat(messages, max_tokens=16, pruning=Pruning(keep=0.3, pareto_weight=1))
        raw = asked(model, golden, pruning=Pruning(keep=0.3, pareto_weight=1))
        assert chat.usage == raw.usage == plain.usage
        assert chat.pruning is not None
        # The words differ (a raw prompt holds the template's too), what is measured of the pictures does not.
        assert raw.pruning is not None
        assert chat.pruning.d_intra == raw.pruning.d_intra
        assert chat.pruning.budgets == raw.pruning.budgets
    with pytest.raises(ValueError, match=r"\[keep\]"):
        asked(model, golden, pruning=1.5)


@pytest.mark.parametrize("phase", ["encode", "prefill"])
def test_cancel(llava15: Golden, phase: str) -> None:
    model = Model(llava15.lm)
    phases: list[str] = []

    def progress(now: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        phases.append(now)
        if now == phase:
            thread = threading.Thread(target=model.cancel)
            thread.start()
            thread.join()

    options = model._options(16, 0.0, 40, 0.95, 0.05, 1.0, 0, None)
    images = [llava15.image_path(0)] * 3
    prompt = model._prompt("Hi", 3, None, False)
    stream = Stream(model, prompt, images, options, progress, Pruning(keep=0.2))
    assert list(stream) == []
    assert stream.result.finish_reason == "cancelled"
    assert (stream.result.pruning is None) == (phase == "encode")
    assert phases[-1] == phase
    assert asked(model, llava15, "one").token_ids == llava15.cases["one"]["greedy"]["ids"]


def test_forty_images(golden: Golden) -> None:
    model = Model(golden.lm)
    n = len(golden.data["images"])
    images = [golden.image_path(k % n) for k in range(40)]
    prompt = "Look: " + "<image> and " * 39 + "<image>. What differs?"
    full = model.count_tokens(images, prompt)
    result = model.generate(images, prompt, max_tokens=2, pruning=0.1)
    report = result.pruning
    assert report is not None
    assert len(report.kept) == 40
    assert all(len(kept) > 0 for kept in report.kept)
    assert report.n_kept == max(40, round(0.1 * full.visual_tokens))
    assert result.usage.prompt_tokens == full - full.visual_tokens + report.n_kept
    assert len(result.timings.encode) == 40
    again = model.generate(images, prompt, max_tokens=2, pruning=0.1).pruning
    assert again is not None
    assert [k.tolist() for k in again.kept] == [k.tolist() for k in report.kept]


@pytest.mark.parametrize("keep", [0.5, 0.2, 0.1])
def test_memory_falls_in_proportion(llava15: Golden, keep: float) -> None:
    model = Model(llava15.lm)
    images = [llava15.image_path(k % 3) for k in range(20)]
    full = model.generate(images, "What differs?", max_tokens=1, pruning=None)
    less = model.generate(images, "What differs?", max_tokens=1, pruning=keep)
    assert less.usage.visual_tokens == round(keep * full.usage.visual_tokens)
    assert less.usage.prompt_tokens - less.usage.visual_tokens == (
        full.usage.prompt_tokens - full.usage.visual_tokens
    )
    # Matrices take work in proportion to the rows, attention less than that.
    share = less.usage.prompt_tokens / full.usage.prompt_tokens
    assert share**2 < less.prefill_flops / full.prefill_flops < share
    per_row = full.kv_bytes / (full.usage.prompt_tokens + 1)
    assert less.kv_bytes == pytest.approx(per_row * (less.usage.prompt_tokens + 1), rel=1e-6)


# --- fit


def test_fit(llava15: Golden) -> None:
    images = [llava15.image_path(k) for k in range(3)]
    text = 0
    for n_ctx in (100, 150):
        model = Model(llava15.lm, n_ctx=n_ctx)
        count = model.count_tokens(images, "What differs?")
        text = count - count.visual_tokens
        with pytest.raises(ContextOverflowError, match=r"fit=True") as error:
            model.generate(images, "What differs?", max_tokens=10, pruning=None)
        assert str(count - n_ctx + 1) in str(error.value)  # how many are over
        result = model.generate(images, "What differs?", max_tokens=10, pruning=Pruning(fit=True))
        assert len(result.token_ids) == 10
        # The largest number that fits; the last token of an answer takes no row.
        assert result.usage.prompt_tokens + 10 in (n_ctx, n_ctx + 1)
        assert result.pruning is not None
        assert result.pruning.n_kept == result.usage.visual_tokens == result.usage.prompt_tokens - text
    with pytest.raises(ContextOverflowError):
        Model(llava15.lm, n_ctx=text + 3).generate(
            images, "What differs?", max_tokens=10, pruning=Pruning(fit=True)
        )
    # What was asked for is kept to, and refused before any picture is encoded.
    with pytest.raises(ContextOverflowError, match=r"173 of them visual.*fit=True"):
        Model(llava15.lm, n_ctx=100).generate(
            images, "What differs?", max_tokens=10, pruning=0.9, stream=True
        )


def test_fit_into_memory(llava15: Golden) -> None:
    model = Model(llava15.lm)
    images = [llava15.image_path(k % 3) for k in range(40)]
    full = model.generate(images, "What differs?", max_tokens=8, pruning=Pruning(fit=True))
    assert full.usage.visual_tokens == 40 * 64
    assert full.kv_bytes > 2**20
    less = model.generate(images, "What differs?", max_tokens=8, pruning=Pruning(fit=True, kv_memory_mb=1))
    assert 0.98 * 2**20 < less.kv_bytes <= 2**20
    assert 40 < less.usage.visual_tokens < 40 * 64


def test_positions_beyond_the_trained_context(llava15: Golden) -> None:
    model = Model(llava15.lm)
    trained = model.info()["n_ctx_train"]
    images = [llava15.image_path(k % 3) for k in range(trained // 64 + 2)]
    with pytest.raises(ContextOverflowError, match="fit=True"):
        model.generate(images, "What?", max_tokens=2, pruning=None)
    far = model.generate(images, "What?", max_tokens=2, pruning=0.1)
    near = model.generate(images[:5], "What?", max_tokens=2, pruning=0.1)
    assert far.pruning is not None
    assert near.pruning is not None
    assert (far.pruning.positions, near.pruning.positions) == ("compact", "original")


# --- overlays of real pictures


def test_overlays(golden: Golden) -> None:
    images = golden.case_images("multi")
    report = asked(Model(golden.lm), golden, pruning=0.2).pruning
    assert report is not None
    assert report.boxes is not None
    for k, path in enumerate(images):
        picture = load_image(path)
        height, width = picture.shape[:2]
        boxes = report.boxes[k]
        assert boxes.shape == (report.n_rows[k], 4)
        placed = boxes[boxes[:, 2] > boxes[:, 0]]
        assert len(placed) > 0.4 * len(boxes)
        assert (placed >= 0).all()
        assert (placed[:, [0, 2]] <= width).all()
        assert (placed[:, [1, 3]] <= height).all()
        overlay = np.asarray(report.overlay(k)).astype(float)
        assert overlay.shape == picture.shape
        change = overlay.mean(axis=2) - 0.9 * picture.mean(axis=2)  # kept: +25; dropped: darker
        bright = change > 20
        wanted = np.zeros((height, width), bool)
        for x0, y0, x1, y1 in np.floor(placed + 0.5).astype(int).tolist():
            wanted[y0:y1, x0:x1] = True
        assert not bright[~wanted].any()
        if golden.name == "llava15":  # one layer of cells
            stays = np.zeros((height, width), bool)
            for x0, y0, x1, y1 in np.floor(boxes[report.kept[k]] + 0.5).astype(int).tolist():
                stays[y0:y1, x0:x1] = True
            assert (bright == stays).all()
