"""The benchmarks run: generated models of every family load, one command measures them and writes JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from trimtok_cpp import Model, _core

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import make_model  # noqa: E402
import run  # noqa: E402
from model_shapes import SHAPES, Shape  # noqa: E402

import kernels  # noqa: E402


def shrunk(shape: Shape) -> Shape:
    """The same family, keys and tensors at a size for tests."""
    lm = dataclasses.replace(
        shape.lm, n_layers=1, n_embd=256, n_heads=4, n_kv_heads=2, n_ff=256, n_vocab=1000
    )
    tower = dataclasses.replace(shape.tower, n_layers=1, width=64, n_heads=4, n_ff=64)
    return dataclasses.replace(shape, lm=lm, tower=tower)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("recipe", ["q4_k_m", "f16"])
def test_generated_models_see_and_answer(
    name: str, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHAPES, name, shrunk(SHAPES[name]))
    lm, mmproj = make_model.make(name, recipe, tmp_path)
    model = Model(str(lm), mmproj=str(mmproj), n_threads=1)
    side = SHAPES[name].picture
    picture = np.zeros((side, side, 3), np.uint8)
    result = model.generate([picture], "a", max_tokens=2, seed=0)
    assert result.pruning is not None
    assert 0 < result.pruning.n_total <= SHAPES[name].rows  # run.py makes room for so many


def test_rows_that_are_no_whole_blocks_get_a_type_that_fits() -> None:
    assert make_model.tensor_type("q4_k_m", "blk.0.ffn_down.weight", 1536).name == "Q6_K"
    assert make_model.tensor_type("q4_k_m", "blk.0.attn_q.weight", 576).name == "Q8_0"
    assert make_model.tensor_type("q4_k_m", "blk.0.attn_q.weight", 512).name == "Q4_K"


def test_runs_are_taken_in_turn_and_ratios_pair_by_pair(capsys: pytest.CaptureFixture[str]) -> None:
    order: list[str] = []
    seconds = {"a": iter([9.0, 1.0, 2.0, 4.0]), "b": iter([9.0, 3.0, 4.0, 4.0])}

    def timed(name: str) -> list[float]:
        order.append(name)
        return [next(seconds[name])]

    found = run.alternate([lambda: timed("a"), lambda: timed("b")], 3)
    assert order == ["a", "b"] * 4
    row = run.compared("x", "tokens/s", 8, ["a", "b"], [values[0] for values in found])
    assert row == {
        "what": "x", "unit": "tokens/s", "a": 4.0, "b": 2.0, "ratio": 2.0, "ratio_min": 1.0, "ratio_max": 3.0,
    }  # fmt: skip
    assert "ratio 2.00 (1.00 .. 3.00)" in capsys.readouterr().out


@pytest.mark.subprocess
def test_one_command_measures_a_model(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [
        sys.executable, ROOT / "benchmarks" / "run.py", "--quick", "--model", "demo", "--models", tmp_path,
        "--only", "memory,threads,phases,first-token", "--threads", "2", "--json", out,
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert set(found) == {"machine", "memory", "threads", "phases", "first-token"}
    assert found["machine"]["threads"] == 2
    whats = [row["what"] for row in found["phases"]]
    assert whats == ["encode", "prefill 64", "decode behind 64"]
    assert all(row["ours"] > 0 for row in found["phases"])
    assert all(math.isfinite(row["ratio"]) for row in found["threads"])
    # The peak counts the pages of the files, so that it cannot be below them.
    memory = found["memory"][0]
    assert memory["peak_mib"] > memory["files_mib"] > 5
    full, kept = found["first-token"]
    assert (full["keep"], kept["keep"]) == (1.0, 0.2)
    assert full["rows"] - kept["rows"] == 64 - round(0.2 * 64)  # 112 / 14 patches a side
    assert full["ours"] >= full["encode"] + full["prefill"]


@pytest.mark.subprocess
def test_kernels_are_shares_of_limits_that_bound_them(parity: Path) -> None:
    """Prefill attention is bound by f32 multiply-adds: far from its limit or above it, the limit is wrong."""
    isa = _core.ops.best_isa()
    rows = kernels.measure(parity, isa, [1], quick=True, op="attention")
    limits = {row["limit"]: row["per_second"] for row in rows if "limit" in row}
    shares = [row["of_limit"] for row in rows if "T=512" in row.get("shape", "")]
    assert limits["read"] > 0
    assert len(shares) == 8
    assert all(row["threads"] == 1 for row in rows)
    if isa != "ref":
        assert limits["f32"] > 0
        assert 0.3 < max(shares) < 1.1, rows
    assert len(kernels.lines(rows)) == len(rows)
