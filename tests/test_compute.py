"""The precision policy: what is picked, what is refused, what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Golden
from gguf import GGMLQuantizationType, quants

import trimtok_cpp
from trimtok_cpp import UnsupportedError, _core


def make_weights(dtype: GGMLQuantizationType, rows: int, cols: int) -> tuple[np.ndarray, np.ndarray]:
    """Packed bytes and their exact values."""
    values = np.random.default_rng(7).standard_normal((rows, cols), dtype=np.float32)
    packed = quants.quantize(values, dtype)
    return packed, quants.dequantize(packed, dtype)


def blocks_of_int8(x: np.ndarray) -> np.ndarray:
    """The rounding of Compute::kInt8 (kernels/include/trimtok/args.h), in NumPy."""
    blocks = x.reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    codes = np.rint(blocks * (np.float32(16256) / largest))
    return (codes * (largest / np.float32(16256))).reshape(x.shape)


@pytest.mark.parametrize("isa", _core.ops.isas())
@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("name", ["Q4_0", "Q5_1", "Q8_0"])
def test_int8_is_the_product_of_rounded_activations(isa: str, rows: int, name: str) -> None:
    dtype = GGMLQuantizationType[name]
    packed, values = make_weights(dtype, 24, 576)
    x = np.random.default_rng(rows).standard_normal((rows, 576), dtype=np.float32)
    out = _core.ops.matmul(x, packed.tobytes(), dtype.value, 24, isa, 2, "int8")
    rounded = blocks_of_int8(x).astype(np.float64)
    scale = np.abs(rounded) @ np.abs(values.T).astype(np.float64)
    assert np.all(np.abs(out - rounded @ values.T.astype(np.float64)) <= 2e-6 * scale)
    # Half a step of each block: the price of int8 that args.h states.
    steps = np.abs(x).reshape(rows, -1, 32).max(axis=2).repeat(32, axis=1) / (2 * 16256)
    exact = x.astype(np.float64) @ values.T
    assert np.all(np.abs(out - exact) <= steps @ np.abs(values.T) + 2e-6 * scale)


@pytest.mark.parametrize("isa", _core.ops.isas())
def test_bf16_rounds_both_or_is_refused(isa: str) -> None:
    dtype = GGMLQuantizationType.F16
    values = np.random.default_rng(3).standard_normal((24, 577)).astype(np.float16)
    x = np.random.default_rng(4).standard_normal((40, 577), dtype=np.float32)
    if isa not in ("ref", "avx512_bf16", "amx"):
        with pytest.raises(UnsupportedError, match="matmul"):
            _core.ops.matmul(x, values.tobytes(), dtype.value, 24, isa, 1, "bf16")
        return
    out = _core.ops.matmul(x, values.tobytes(), dtype.value, 24, isa, 1, "bf16")

    def bf16(a: np.ndarray) -> np.ndarray:
        bits = a.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).view(np.float32).astype(np.float64)

    scale = np.abs(x) @ np.abs(values.T).astype(np.float64)
    assert np.all(np.abs(out - bf16(x) @ bf16(values).T) <= 2e-6 * scale)


def test_f32_weights_stay_f32(isa: str) -> None:
    x = np.random.default_rng(5).standard_normal((40, 64), dtype=np.float32)
    w = np.random.default_rng(6).standard_normal((16, 64), dtype=np.float32)
    dtype = GGMLQuantizationType.F32.value
    exact = _core.ops.matmul(x, w.tobytes(), dtype, 16, isa)
    for compute in ("auto", "int8"):
        assert np.array_equal(exact, _core.ops.matmul(x, w.tobytes(), dtype, 16, isa, 1, compute))


def test_info_tells_the_choice(llava15: Golden, isa: str) -> None:
    info = trimtok_cpp.Model(llava15.lm).info()
    assert info["compute"] == "auto"
    choice = info["compute_by_weight"]
    assert choice.get("F32", {"few_rows": "f32", "many_rows": "f32"}) == {
        "few_rows": "f32",
        "many_rows": "f32",
    }
    blocks = {name: picked for name, picked in choice.items() if name[0] in "QI"}
    # avx512_bf16: bf16 where it is quicker, which it is not on Intel.
    wide = {
        "neon_i8mm": ("int8",),
        "avx_vnni": ("int8",),
        "avx512": ("int8",),
        "avx512_bf16": ("bf16", "int8"),
        "amx": ("bf16",),
    }
    for picked in blocks.values():
        assert picked["few_rows"] == ("f32" if isa == "ref" else "int8")
        assert picked["many_rows"] in wide.get(isa, ("f32",))
    exact = trimtok_cpp.Model(llava15.lm, compute="f32").info()["compute_by_weight"]
    assert all(picked == {"few_rows": "f32", "many_rows": "f32"} for picked in exact.values())


def test_bf16_needs_its_instructions(llava15: Golden, isa: str) -> None:
    if isa in ("ref", "avx512_bf16", "amx"):
        assert trimtok_cpp.Model(llava15.lm, compute="bf16").info()["compute"] == "bf16"
        return
    with pytest.raises(UnsupportedError, match=rf'"bf16" has no kernels for the instruction set {isa}'):
        trimtok_cpp.Model(llava15.lm, compute="bf16")


def test_an_unknown_policy_is_refused(llava15: Golden, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[compute\]"):
        trimtok_cpp.Model(llava15.lm, compute="f16")
