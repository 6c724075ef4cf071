"""Random tiny language models in files of their own, and what they compute, in plain numpy.

The models are written with the `gguf` package. The forward pass runs in float64 on the weights as the file
stores them (dequantised by `gguf`) and shares nothing with the engine.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np

Array = np.ndarray
N_VOCAB = 288
ADJACENT = ("llama", "internlm2", "smollm3")  # the converter permuted Q and K for adjacent-pair RoPE
QTYPE = gguf.GGMLQuantizationType


@dataclasses.dataclass(frozen=True)
class Spec:
    """One tiny model: what its file holds."""

    arch: str = "llama"
    qtype: str = "F32"
    n_layers: int = 3
    n_embd: int = 64
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int = 16
    n_ff: int = 96
    tied: bool = False
    qkv_bias: bool = False
    other_bias: bool = False  # attn_output.bias and output.bias
    fused_qkv: bool = False
    fused_ffn: bool = False  # gate and up in one matrix, named ffn_up
    longrope: bool = False
    rope_freqs: bool = False
    extra_keys: tuple[tuple[str, Any], ...] = ()  # after the `<arch>.` prefix; None removes a key


@dataclasses.dataclass
class TinyModel:
    """The contents of a file: keys, and tensors as they are stored together with their exact values."""

    spec: Spec
    keys: dict[str, Any]
    tensors: dict[str, tuple[Array, Any]]  # name -> (float32 values, storage type)

    def key(self, name: str, default: Any = None) -> Any:
        value = self.keys.get(f"{self.spec.arch}.{name}", default)
        value = value[0] if isinstance(value, list) else value
        return float(np.float32(value)) if isinstance(value, float) else value

    def weight(self, name: str) -> Array | None:
        """Values as the file stores them, float64; None when absent."""
        if name not in self.tensors:
            return None
        values, qtype = self.tensors[name]
        return round_to(values, qtype).astype(np.float64)


def round_to(values: Array, qtype: Any) -> Array:
    values = np.ascontiguousarray(values, dtype=np.float32)
    return gguf.quants.dequantize(gguf.quants.quantize(values, qtype), qtype).reshape(values.shape)


def make_model(spec: Spec, seed: int = 1) -> TinyModel:
    rng = np.random.default_rng(seed)
    qtype = QTYPE[spec.qtype]
    n_q, n_kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    tensors: dict[str, tuple[Array, Any]] = {}

    def matrix(name: str, rows: int, cols: int, gain: float = 1.0) -> None:
        values = rng.normal(0, gain / math.sqrt(cols), (rows, cols)).astype(np.float32)
        tensors[name] = (values, qtype)

    def vector(name: str, n: int, mean: float = 0.0) -> None:
        tensors[name] = ((mean + rng.normal(0, 0.3, n)).astype(np.float32), QTYPE.F32)

    matrix("token_embd.weight", N_VOCAB, spec.n_embd, gain=math.sqrt(spec.n_embd))
    if not spec.tied:
        matrix("output.weight", N_VOCAB, spec.n_embd)
    if spec.other_bias:
        vector("output.bias", N_VOCAB)
    vector("output_norm.weight", spec.n_embd, mean=1.0)
    if spec.rope_freqs:
        tensors["rope_freqs.weight"] = (rng.uniform(1, 8, spec.head_dim // 2).astype(np.float32), QTYPE.F32)
    if spec.longrope:
        n_pairs = dict(spec.extra_keys).get("rope.dimension_count", spec.head_dim) // 2
        for name, high in (("short", 1.5), ("long", 9.0)):
            factors = rng.uniform(1, high, n_pairs).astype(np.float32)
            tensors[f"rope_factors_{name}.weight"] = (factors, QTYPE.F32)
    for i in range(spec.n_layers):
        prefix = f"blk.{i}."
        vector(prefix + "attn_norm.weight", spec.n_embd, mean=1.0)
        # Large queries and keys: attention far from uniform, so that positions matter.
        parts = (
            {"attn_qkv": n_q + 2 * n_kv}
            if spec.fused_qkv
            else {"attn_q": n_q, "attn_k": n_kv, "attn_v": n_kv}
        )
        for name, rows in parts.items():
            matrix(f"{prefix}{name}.weight", rows, spec.n_embd, gain=1.5)
            if spec.qkv_bias:
                vector(f"{prefix}{name}.bias", rows)
        matrix(prefix + "attn_output.weight", spec.n_embd, n_q)
        if spec.other_bias:
            vector(prefix + "attn_output.bias", spec.n_embd)
        vector(prefix + "ffn_norm.weight", spec.n_embd, mean=1.0)
        if spec.fused_ffn:
            matrix(prefix + "ffn_up.weight", 2 * spec.n_ff, spec.n_embd)
        else:
            matrix(prefix + "ffn_gate.weight", spec.n_ff, spec.n_embd)
            matrix(prefix + "ffn_up.weight", spec.n_ff, spec.n_embd)
        matrix(prefix + "ffn_down.weight", spec.n_embd, spec.n_ff)
    return TinyModel(spec, make_keys(spec), tensors)


def make_keys(spec: Spec) -> dict[str, Any]:
    own = {
        "context_length": 256,
        "embedding_length": spec.n_embd,
        "block_count": spec.n_layers,
        "feed_forward_length": spec.n_ff,
        "attention.head_count": spec.n_heads,
        "attention.head_count_kv": spec.n_kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": spec.head_dim,
    }
    if spec.head_dim * spec.n_heads != spec.n_embd:
        own |= {"attention.key_length": spec.head_dim, "attention.value_length": spec.head_dim}
    own |= dict(spec.extra_keys)
    pieces = [f"\u2581w{i}" for i in range(N_VOCAB - 259)]
    keys: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces],
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(pieces))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
    return keys | {f"{spec.arch}.{name}": value for name, value in own.items() if value is not None}


def write_model(model: TinyModel, path: Path, arch: str | None = None) -> str:
    writer = gguf.GGUFWriter(path, arch or model.spec.arch)
    for name, value in model.keys.items():
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_uint32(name, value)
    for name, (values, qtype) in model.tensors.items():
        writer.add_tensor(name, gguf.quants.quantize(values, qtype), raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def longrope(model: TinyModel, reach: int) -> tuple[Array | float, float]:
    """Divisors for a sequence of `reach` positions and the factor on cos and sin; 1 and 1 without them."""
    original = model.key("rope.scaling.original_context_length", model.key("context_length"))
    factors = model.weight(f"rope_factors_{'long' if reach > original else 'short'}.weight")
    if factors is None:
        return 1.0, 1.0
    stretch = model.key("context_length") / original
    return factors, 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(original))


def rope_angles(
    model: TinyModel, n_rot: int, positions: Array, reach: int | None = None
) -> tuple[Array, float]:
    """Angles [n, n_rot/2] and the factor on cos and sin, after transformers' modeling_rope_utils."""
    base = model.key("rope.freq_base", 10000.0)
    factor = model.key("rope.scaling.factor", model.key("rope.scale_linear", 1.0))
    kind = model.key("rope.scaling.type", "linear")
    wavelengths = base ** (np.arange(0, n_rot, 2) / n_rot)
    factors = model.weight("rope_freqs.weight")
    if factors is not None:
        wavelengths = wavelengths * factors
    divisors, magnitude = longrope(model, int(positions.max()) + 1 if reach is None else reach)
    wavelengths = wavelengths * divisors
    magnitude = model.key("rope.scaling.attn_factor", magnitude)
    if kind == "none":
        inverse = 1 / wavelengths
    elif kind in ("linear", "longrope"):
        inverse = 1 / (factor * wavelengths)
    else:
        original = model.key("rope.scaling.original_context_length")

        def correction_dim(rotations: float) -> float:
            return n_rot * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

        low = max(math.floor(correction_dim(model.key("rope.scaling.yarn_beta_fast", 32.0))), 0)
        high = min(math.ceil(correction_dim(model.key("rope.scaling.yarn_beta_slow", 1.0))), n_rot - 1)
        ramp = np.clip((np.arange(n_rot // 2) - low) / max(high - low, 0.001), 0, 1)
        kept = (1 - ramp) * model.key("rope.scaling.yarn_ext_factor", 1.0)
        inverse = (1 - kept) / (factor * wavelengths) + kept / wavelengths

        def get_mscale(scale: float, m: float) -> float:
            return 0.1 * m * math.log(scale) + 1.0

        magnitude *= (
            model.key("rope.scaling.yarn_attn_factor", 1.0)
            * get_mscale(factor, 1.0)
            / get_mscale(factor, model.key("rope.scaling.yarn_log_multiplier", 0.0))
        )
    return positions[:, None] * inverse[None, :], magnitude


def rotate(x: Array, angles: Array, magnitude: float, adjacent: bool) -> Array:
    """x [n, heads, head_dim]: every pair as a complex number, multiplied by e^(i angle)."""
    n_rot = 2 * angles.shape[1]
    turn = (magnitude * np.exp(1j * angles))[:, None, :]
    out = x.copy()
    first, second = (
        (slice(0, n_rot, 2), slice(1, n_rot, 2))
        if adjacent
        else (slice(0, n_rot // 2), slice(n_rot // 2, n_rot))
    )
    pairs = (x[..., first] + 1j * x[..., second]) * turn
    out[..., first], out[..., second] = pairs.real, pairs.imag
    return out


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def numpy_logits(
    model: TinyModel,
    rows: Array,
    positions: Array,
    adjacent: bool | None = None,
    kv_round: Callable[[Array], Array] = lambda x: x,
    reach: int | None = None,
) -> Array:
    """Logits [n, N_VOCAB] at every position of one causal pass over rows [n, n_embd].

    `reach`: see longrope(); None is what the positions reach.
    """
    spec = model.spec
    n = len(rows)
    eps = model.key("attention.layer_norm_rms_epsilon")
    scale = model.key("attention.scale", 1 / math.sqrt(spec.head_dim))
    adjacent = spec.arch in ADJACENT if adjacent is None else adjacent
    angles, magnitude = rope_angles(model, model.key("rope.dimension_count", spec.head_dim), positions, reach)
    window = model.key("attention.sliding_window", n) if spec.arch == "phi3" else n
    distance = np.arange(n)[:, None] - np.arange(n)[None, :]
    hidden = (distance < 0) | (distance >= window)
    group = spec.n_heads // spec.n_kv_heads
    n_q, n_kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim

    def linear(x: Array, name: str) -> Array:
        weight, bias = model.weight(name + ".weight"), model.weight(name + ".bias")
        assert weight is not None
        return x @ weight.T + (0 if bias is None else bias)

    h = rows.astype(np.float64)
    for i in range(spec.n_layers):
        prefix = f"blk.{i}."
        x = rms_norm(h, model.weight(prefix + "attn_norm.weight"), eps)
        if spec.fused_qkv:
            q, k, v = np.split(linear(x, prefix + "attn_qkv"), [n_q, n_q + n_kv], axis=1)
        else:
            q, k, v = (linear(x, prefix + name) for name in ("attn_q", "attn_k", "attn_v"))
        q, k = q.reshape(n, spec.n_heads, -1), k.reshape(n, spec.n_kv_heads, -1)
        if not (spec.arch == "smollm3" and i % 4 == 3):
            q, k = rotate(q, angles, magnitude, adjacent), rotate(k, angles, magnitude, adjacent)
        k = kv_round(k.reshape(n, n_kv)).reshape(k.shape).repeat(group, axis=1)
        v = kv_round(v).reshape(n, spec.n_kv_heads, -1).repeat(group, axis=1)
        scores = np.einsum("thd,shd->hts", q, k) * scale
        scores[:, hidden] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = np.einsum("hts,shd->thd", scores / scores.sum(-1, keepdims=True), v).reshape(n, n_q)
        h = h + linear(attended, prefix + "attn_output")
        x = rms_norm(h, model.weight(prefix + "ffn_norm.weight"), eps)
        if spec.fused_ffn:
            gate, up = np.split(linear(x, prefix + "ffn_up"), 2, axis=1)
        else:
            gate, up = linear(x, prefix + "ffn_gate"), linear(x, prefix + "ffn_up")
        h = h + linear(gate / (1 + np.exp(-gate)) * up, prefix + "ffn_down")
    x = rms_norm(h, model.weight("output_norm.weight"), eps)
    head = model.weight("token_embd.weight" if spec.tied else "output.weight")
    bias = model.weight("output.bias")
    assert head is not None
    return x @ head.T + (0 if bias is None else bias)
