"""Files of the Qwen and Gemma 3 families with random small weights: keys and tensors to change and break."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tiny_decoder

Array = np.ndarray
HALF = [0.5, 0.5, 0.5]


@dataclasses.dataclass
class File:
    """What a file holds; shapes are those of numpy (outputs first)."""

    arch: str
    keys: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    def write(self, path: Path, seed: int = 1, **values: Array) -> str:
        writer = gguf.GGUFWriter(path, self.arch)
        for name, value in self.keys.items():
            if isinstance(value, list):
                writer.add_array(name, value)
            elif isinstance(value, bool):
                writer.add_bool(name, value)
            elif isinstance(value, str):
                writer.add_string(name, value)
            elif isinstance(value, float):
                writer.add_float32(name, value)
            else:
                writer.add_uint32(name, value)
        rng = np.random.default_rng(seed)
        for name, shape in self.shapes.items():
            spread = 1.0 if len(shape) == 1 else 1 / np.sqrt(np.prod(shape[1:]))
            tensor = values.get(name, rng.normal(0, spread, shape))
            writer.add_tensor(name, np.ascontiguousarray(tensor, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return str(path)


def linear(name: str, rows: int, cols: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (rows, cols), f"{name}.bias": (rows,)}


def norm(name: str, n: int, bias: bool = True) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (n,)} | ({f"{name}.bias": (n,)} if bias else {})


def vision_keys(projector: str, width: int, n_layers: int, patch: int, **more: Any) -> dict[str, Any]:
    own = {
        "image_size": 560, "patch_size": patch, "embedding_length": width, "feed_forward_length": 0,
        "projection_dim": 0, "block_count": n_layers, "attention.head_count": 2,
        "attention.layer_norm_epsilon": 1e-6, "image_mean": HALF, "image_std": HALF, **more,
    }  # fmt: skip
    keys = {"clip.has_vision_encoder": True, "clip.projector_type": projector}
    return keys | {f"clip.vision.{name}": value for name, value in own.items()}


def qwen_tower(kind: str, patch: int = 14, width: int = 8, n_embd: int = 4, n_layers: int = 2) -> File:
    """kind: qwen2vl, qwen25vl, qwen3vl."""
    n_ff, cell, bias = 12, 4 * width, kind != "qwen25vl"
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (width, 3, patch, patch),
        "v.patch_embd.weight.1": (width, 3, patch, patch),
    }
    for i in range(n_layers):
        block = f"v.blk.{i}."
        shapes |= norm(block + "ln1", width, bias) | norm(block + "ln2", width, bias)
        if kind == "qwen3vl":
            shapes |= linear(block + "attn_qkv", 3 * width, width)
        else:
            for part in "qkv":
                shapes |= linear(f"{block}attn_{part}", width, width)
        shapes |= linear(block + "attn_out", width, width)
        shapes |= linear(block + "ffn_up", n_ff, width) | linear(block + "ffn_down", width, n_ff)
        if kind == "qwen25vl":
            shapes |= linear(block + "ffn_gate", n_ff, width)
    shapes |= norm("v.post_ln", width, bias) | linear("mm.0", cell, cell) | linear("mm.2", n_embd, cell)
    more: dict[str, Any] = {}
    if kind == "qwen3vl":
        shapes |= {"v.patch_embd.bias": (width,), "v.position_embd.weight": (25, width)}
        shapes |= norm("v.deepstack.1.norm", cell) | linear("v.deepstack.1.fc1", cell, cell)
        shapes |= linear("v.deepstack.1.fc2", n_embd, cell)
    if kind == "qwen25vl":
        more["n_wa_pattern"] = 2
    projector = {"qwen2vl": "qwen2vl_merger", "qwen25vl": "qwen2.5vl_merger", "qwen3vl": "qwen3vl_merger"}
    keys = vision_keys(projector[kind], width, n_layers, patch, **more)
    flags = {"qwen25vl": {"clip.use_silu": True}, "qwen3vl": {"clip.use_gelu": True}}
    return File("clip", keys | flags.get(kind, {}), shapes)


def gemma_tower(
    image_size: int = 56, patch: int = 14, pool: int | None = 2, width: int = 8, n_embd: int = 4
) -> File:
    side = image_size // patch
    shapes: dict[str, tuple[int, ...]] = {
        "v.patch_embd.weight": (width, 3, patch, patch),
        "v.patch_embd.bias": (width,),
        "v.position_embd.weight": (side * side, width),
        "mm.soft_emb_norm.weight": (width,),
        "mm.input_projection.weight": (width, n_embd),
    }
    block = "v.blk.0."
    shapes |= norm(block + "ln1", width) | norm(block + "ln2", width) | norm("v.post_ln", width)
    for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
        shapes |= linear(block + name, width, width)
    shapes |= linear(block + "ffn_up", 12, width) | linear(block + "ffn_down", width, 12)
    more = {} if pool is None else {"projector.scale_factor": pool}
    keys = vision_keys("gemma3", width, 1, patch, **(more | {"image_size": image_size}))
    return File("clip", keys | {"clip.use_gelu": True}, shapes)


def decoder(arch: str, n_layers: int = 3) -> File:
    """arch: qwen2vl, qwen3, qwen3vl, gemma3."""
    d, n_heads, n_kv, head_dim, n_ff = 32, 4, 2, 12, 40
    n_q, n_k = n_heads * head_dim, n_kv * head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (tiny_decoder.N_VOCAB, d),
        "output_norm.weight": (d,),
    }
    for i in range(n_layers):
        block = f"blk.{i}."
        shapes |= {f"{block}attn_norm.weight": (d,), f"{block}ffn_norm.weight": (d,)}
        for part, rows in (("q", n_q), ("k", n_k), ("v", n_k)):
            shapes[f"{block}attn_{part}.weight"] = (rows, d)
            if arch == "qwen2vl":
                shapes[f"{block}attn_{part}.bias"] = (rows,)
        if arch != "qwen2vl":
            shapes |= {f"{block}attn_q_norm.weight": (head_dim,), f"{block}attn_k_norm.weight": (head_dim,)}
        if arch == "gemma3":
            for name in ("post_attention_norm", "post_ffw_norm"):
                shapes[f"{block}{name}.weight"] = (d,)
        shapes |= {
            f"{block}attn_output.weight": (d, n_q),
            f"{block}ffn_gate.weight": (n_ff, d),
            f"{block}ffn_up.weight": (n_ff, d),
            f"{block}ffn_down.weight": (d, n_ff),
        }
    own: dict[str, Any] = {
        "context_length": 256, "embedding_length": d, "block_count": n_layers, "feed_forward_length": n_ff,
        "attention.head_count": n_heads, "attention.head_count_kv": n_kv, "attention.key_length": head_dim,
        "attention.value_length": head_dim, "attention.layer_norm_rms_epsilon": 1e-6, "rope.freq_base": 1e6,
    }  # fmt: skip
    if arch in ("qwen2vl", "qwen3vl"):
        own["rope.dimension_sections"] = [2, 2, 2, 0]
    if arch == "qwen3vl":
        own["n_deepstack_layers"] = 1
    if arch == "gemma3":
        own["attention.sliding_window"] = 5
    tokenizer = {
        name: value
        for name, value in tiny_decoder.make_keys(tiny_decoder.Spec()).items()
        if name.startswith("tokenizer")
    }
    return File(arch, tokenizer | {f"{arch}.{name}": value for name, value in own.items()}, shapes)
