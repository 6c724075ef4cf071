"""The kernel tables through Python: dequantisation and matmul against the gguf package's own decoder."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from trimtok_cpp import _core

ops = _core.ops
Array = np.ndarray
WEIGHTS = {row["name"]: row for row in ops.dtypes() if row["use"] == "weight"}
# Byte offsets of the f16 fields of a block (spec 2.2-2.4); every other byte of a block may be anything.
F16_FIELDS = {
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q8_0": [0],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
}
# Of sum |x||w|, as in tests/parity/tolerance.h: formats with a minimum may sum scale and minimum apart.
DOT_TOLERANCE = dict.fromkeys(WEIGHTS, 1e-6) | dict.fromkeys(["Q4_1", "Q5_1", "Q2_K", "Q4_K", "Q5_K"], 2e-6)


def every_finite_f16(rng: np.random.Generator, n: int) -> Array:
    """Any sign, any exponent below infinity: zeros, subnormals and the largest values are all among them."""
    bits = rng.integers(0, 0x7C00, n, dtype=np.uint16)
    special = np.array([0x0000, 0x0001, 0x03FF, 0x0400, 0x7BFF, 0x3C00], dtype=np.uint16)
    chosen = rng.random(n) < 0.1
    bits[chosen] = rng.choice(special, int(chosen.sum()))
    return bits | (rng.integers(0, 2, n, dtype=np.uint16) << 15)


def random_rows(name: str, rows: int, cols: int, seed: int, magnitude: float | None = None) -> Array:
    """Packed rows as uint8 [rows, bytes]. `magnitude` bounds the scales; None: every finite f16."""
    rng = np.random.default_rng(seed)
    row = WEIGHTS[name]
    n_blocks = rows * cols // row["block_elems"]
    if name in ("F32", "F16", "BF16"):
        if magnitude is None:
            return rng.integers(0, 256, (rows, cols * row["block_bytes"]), dtype=np.uint8)
        values = (magnitude * rng.standard_normal((rows, cols))).astype(np.float32)
        if name == "BF16":
            return (values.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)
        return values.astype({"F32": np.float32, "F16": np.float16}[name]).view(np.uint8)
    blocks = rng.integers(0, 256, (n_blocks, row["block_bytes"]), dtype=np.uint8)
    for offset in F16_FIELDS[name]:
        if magnitude is None:
            scales = every_finite_f16(rng, n_blocks)
        else:
            scales = rng.uniform(-magnitude, magnitude, n_blocks).astype(np.float16).view(np.uint16)
        blocks[:, offset : offset + 2] = scales.view(np.uint8).reshape(-1, 2)
    if name == "MXFP4" and magnitude is not None:
        blocks[:, 0] = rng.integers(118, 128, n_blocks)
    return blocks.reshape(rows, -1)


def expected_values(name: str, packed: Array) -> Array:
    with np.errstate(all="ignore"):
        return gguf.quants.dequantize(packed, gguf.GGMLQuantizationType[name])


def test_every_weight_dtype_is_covered() -> None:
    assert set(WEIGHTS) == set(F16_FIELDS) | {"F32", "F16", "BF16"}
    for row in ops.dtypes():
        if row["name"] not in gguf.GGMLQuantizationType.__members__ or row["name"] == "Q8_1":
            continue  # newer than the installed gguf; or written differently there (spec 2.2)
        kind = gguf.GGMLQuantizationType[row["name"]]
        assert (row["id"], row["block_elems"], row["block_bytes"]) == (kind, *gguf.GGML_QUANT_SIZES[kind])


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("name", WEIGHTS)
def test_dequantised_values_are_those_of_gguf(name: str, isa: str) -> None:
    elems = WEIGHTS[name]["block_elems"]
    for seed, (rows, blocks) in enumerate([(1, 1), (3, 2), (2, 7), (33, 4), (64, 9)]):
        cols = elems * blocks if elems > 1 else blocks * 11
        packed = random_rows(name, rows, cols, seed)
        expected = expected_values(name, packed)
        actual = ops.dequantize(packed.tobytes(), WEIGHTS[name]["id"], rows, cols, isa)
        assert actual.dtype == np.float32
        assert actual.shape == (rows, cols)
        # Every product is exact in f32 and one sum rounds, so any order of operations gives these bits.
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("name", ["F16", "BF16"])
def test_all_65536_small_floats(name: str, isa: str) -> None:
    packed = np.arange(65536, dtype=np.uint16).view(np.uint8)
    actual = ops.dequantize(packed, WEIGHTS[name]["id"], 1, 65536, isa)
    np.testing.assert_array_equal(actual, expected_values(name, packed.reshape(1, -1)))
    finite = np.isfinite(actual)
    assert 60000 < finite.sum() < 65536
    assert (np.signbit(actual[finite]) == np.signbit(actual[finite][::-1])).sum() == 0


@pytest.mark.parametrize("isa", ops.isas())
@pytest.mark.parametrize("name", WEIGHTS)
def test_dot_products(name: str, isa: str) -> None:
    rng = np.random.default_rng(7)
    for n_tokens, n_outputs, k in [(1, 37, 768), (2, 5, 256), (9, 16, 1024), (70, 33, 512)]:
        packed = random_rows(name, n_outputs, k, seed=k, magnitude=0.05)
        x = rng.standard_normal((n_tokens, k)).astype(np.float32)
        w = expected_values(name, packed).astype(np.float64)
        assert np.isfinite(w).all()
        actual = ops.matmul(x, packed.tobytes(), WEIGHTS[name]["id"], n_outputs, isa)
        assert actual.shape == (n_tokens, n_outputs)
        error = np.abs(actual - x.astype(np.float64) @ w.T)
        allowed = DOT_TOLERANCE[name] * (np.abs(x).astype(np.float64) @ np.abs(w).T)
        assert (error <= allowed).all(), f"{np.nanmax(error / allowed)} times the allowed error"
        threaded = ops.matmul(x, packed.tobytes(), WEIGHTS[name]["id"], n_outputs, isa, n_threads=3)
        np.testing.assert_array_equal(actual, threaded)


def test_tables_and_who_serves_them() -> None:
    assert ops.isas()[0] == "ref"
    assert ops.best_isa() == ops.isas()[-1]
    assert set(ops.served_by("ref").values()) == {"ref"}
    for isa in ops.isas():
        assert {"matmul", "attention", "gather_rows"} <= set(ops.served_by(isa))
        assert set(ops.served_by(isa).values()) <= set(ops.isas())


def test_bad_arguments_are_named() -> None:
    q4_0 = WEIGHTS["Q4_0"]["id"]
    data = bytes(18)
    with pytest.raises(ValueError, match="must be 18 contiguous bytes"):
        ops.dequantize(data + b"x", q4_0, 1, 32, "ref")
    with pytest.raises(ValueError, match="contiguous bytes"):
        ops.dequantize(np.zeros(36, np.uint8)[::2], q4_0, 1, 32, "ref")
    with pytest.raises(ValueError, match="contiguous bytes"):
        ops.dequantize(np.zeros(18, np.float32), q4_0, 1, 32, "ref")
    with pytest.raises(ValueError, match="whole blocks of 32"):
        ops.dequantize(data, q4_0, 1, 31, "ref")
    with pytest.raises(ValueError, match="non-negative"):
        ops.dequantize(data, q4_0, -1, 32, "ref")
    with pytest.raises(ValueError, match="whole blocks"):
        ops.dequantize(data, q4_0, 2**62, 2**62, "ref")
    with pytest.raises(ValueError, match="Q8_K"):
        ops.dequantize(data, 15, 1, 256, "ref")
    with pytest.raises(ValueError, match="unknown"):
        ops.dequantize(data, 4, 1, 32, "ref")
    with pytest.raises(ValueError, match=r'"sse9", this machine and build offer: ref'):
        ops.dequantize(data, q4_0, 1, 32, "sse9")
    with pytest.raises(ValueError, match="n_threads"):
        ops.matmul(np.zeros((1, 32), np.float32), data, q4_0, 1, "ref", n_threads=0)
    with pytest.raises(ValueError, match="dimensions"):
        ops.matmul(np.zeros(32, np.float32), data, q4_0, 1, "ref")


def test_empty_shapes() -> None:
    q4_0 = WEIGHTS["Q4_0"]["id"]
    assert ops.dequantize(b"", q4_0, 0, 32, "ref").shape == (0, 32)
    assert ops.matmul(np.zeros((0, 32), np.float32), bytes(18), q4_0, 1, "ref").shape == (0, 1)
