"""Writes the trained model as GGUF: language model, projector with tower, and both merged into one file.

    python tools/tiny/export.py --run RUN --out DIR [--type q8_0]

Makes DIR/trimtok-tiny-lm.gguf, DIR/trimtok-tiny-mmproj.gguf and DIR/trimtok-tiny.gguf.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import scenes as sc
import torch
import vocab
from lm import Lm, LmConfig
from torch import Tensor
from tower import MEAN, STD, Tower, load_tower

Type = gguf.GGMLQuantizationType
TYPES = {"f32": Type.F32, "f16": Type.F16, "q8_0": Type.Q8_0}
FILE_TYPES = {"f32": 0, "f16": 1, "q8_0": 7}
Keys = list[tuple[str, Any, gguf.GGUFValueType]]
Tensors = list[tuple[str, np.ndarray, Type]]
V = gguf.GGUFValueType


def load_lm(path: Path) -> Lm:
    state = torch.load(path, map_location="cpu", weights_only=True)
    model = Lm(LmConfig(**state["config"]))
    # The running mean of the weights, as good as weights after a decay of the learning rate.
    model.load_state_dict(state.get("smooth", state["lm"]))
    return model.eval()


def lm_parts(model: Lm, dtype: Type) -> tuple[Keys, Tensors]:
    c = model.config
    tokens, merges = vocab.train()
    kinds = [3, 3] + [1] * (len(tokens) - 2)
    keys: Keys = [
        ("llama.block_count", c.layers, V.UINT32),
        ("llama.context_length", c.context, V.UINT32),
        ("llama.embedding_length", c.width, V.UINT32),
        ("llama.feed_forward_length", c.ff, V.UINT32),
        ("llama.attention.head_count", c.heads, V.UINT32),
        ("llama.attention.head_count_kv", c.heads, V.UINT32),
        ("llama.attention.layer_norm_rms_epsilon", c.eps, V.FLOAT32),
        ("llama.rope.dimension_count", c.width // c.heads, V.UINT32),
        ("llama.rope.freq_base", c.rope_base, V.FLOAT32),
        ("llama.vocab_size", c.vocab, V.UINT32),
        ("tokenizer.ggml.model", "gpt2", V.STRING),
        ("tokenizer.ggml.pre", "gpt-2", V.STRING),
        ("tokenizer.ggml.tokens", list(tokens), V.ARRAY),
        ("tokenizer.ggml.token_type", kinds, V.ARRAY),
        ("tokenizer.ggml.merges", [f"{a} {b}" for a, b in merges], V.ARRAY),
        ("tokenizer.ggml.bos_token_id", 0, V.UINT32),
        ("tokenizer.ggml.eos_token_id", 1, V.UINT32),
        ("tokenizer.ggml.add_bos_token", True, V.BOOL),
        ("tokenizer.ggml.add_eos_token", False, V.BOOL),
        ("tokenizer.chat_template", vocab.CHAT_TEMPLATE, V.STRING),
    ]
    tensors: Tensors = []

    def add(name: str, value: Tensor, kind: Type = Type.F32) -> None:
        tensors.append((name, value.detach().float().numpy(), kind))

    add("token_embd.weight", model.embed.weight, dtype)
    add("output.weight", model.head.weight, dtype)
    add("output_norm.weight", model.norm.weight)
    for i, b in enumerate(model.blocks):
        # Q and K rows need no permutation: training turns pairs of neighbours, as `llama` files want it.
        for name, part in (("attn_q", b.q), ("attn_k", b.k), ("attn_v", b.v), ("attn_output", b.o)):
            add(f"blk.{i}.{name}.weight", part.weight, dtype)
        for name, part in (("ffn_gate", b.gate), ("ffn_up", b.up), ("ffn_down", b.down)):
            add(f"blk.{i}.{name}.weight", part.weight, dtype)
        add(f"blk.{i}.attn_norm.weight", b.attn_norm.weight)
        add(f"blk.{i}.ffn_norm.weight", b.ffn_norm.weight)
    return keys, tensors


def tower_parts(tower: Tower, model: Lm, dtype: Type) -> tuple[Keys, Tensors]:
    c = tower.config
    keys: Keys = [
        ("clip.has_text_encoder", False, V.BOOL),
        ("clip.has_vision_encoder", True, V.BOOL),
        ("clip.has_llava_projector", True, V.BOOL),
        ("clip.projector_type", "mlp", V.STRING),
        ("clip.use_gelu", False, V.BOOL),
        ("clip.use_silu", False, V.BOOL),
        ("clip.vision.image_size", sc.SIZE, V.UINT32),
        ("clip.vision.patch_size", sc.PATCH, V.UINT32),
        ("clip.vision.embedding_length", c.width, V.UINT32),
        ("clip.vision.feed_forward_length", c.ff, V.UINT32),
        ("clip.vision.projection_dim", model.config.width, V.UINT32),
        ("clip.vision.block_count", c.layers, V.UINT32),
        ("clip.vision.attention.head_count", c.heads, V.UINT32),
        ("clip.vision.attention.layer_norm_epsilon", c.eps, V.FLOAT32),
        # All layers of the file are run; counted from the input of layer 0.
        ("clip.vision.feature_layer", [c.layers], V.ARRAY),
        ("clip.vision.image_mean", list(MEAN), V.ARRAY),
        ("clip.vision.image_std", list(STD), V.ARRAY),
    ]
    tensors: Tensors = []

    def add(name: str, value: Tensor, kind: Type = Type.F32) -> None:
        tensors.append((name, value.detach().float().numpy(), kind))

    def linear(name: str, part: torch.nn.Linear) -> None:
        add(f"{name}.weight", part.weight, dtype)
        add(f"{name}.bias", part.bias)

    small = Type.F32 if dtype == Type.F32 else Type.F16  # what published files do with these two
    add("v.class_embd", tower.class_embed)
    add("v.patch_embd.weight", tower.patch_embed.weight.view(c.width, 3, sc.PATCH, sc.PATCH), small)
    add("v.position_embd.weight", tower.position, small)
    add("v.pre_ln.weight", tower.pre_ln.weight)
    add("v.pre_ln.bias", tower.pre_ln.bias)
    for i, b in enumerate(tower.blocks):
        for name, norm in (("ln1", b.ln1), ("ln2", b.ln2)):
            add(f"v.blk.{i}.{name}.weight", norm.weight)
            add(f"v.blk.{i}.{name}.bias", norm.bias)
        for name, part in zip(("attn_q", "attn_k", "attn_v"), b.qkv, strict=True):
            linear(f"v.blk.{i}.{name}", part)
        linear(f"v.blk.{i}.attn_out", b.out)
        linear(f"v.blk.{i}.ffn_up", b.up)
        linear(f"v.blk.{i}.ffn_down", b.down)
    linear("mm.0", model.project_in)
    linear("mm.2", model.project_out)
    return keys, tensors


def general(kind: str, recipe: str) -> Keys:
    return [
        ("general.type", kind, V.STRING),
        ("general.name", "trimtok-tiny", V.STRING),
        ("general.license", "apache-2.0", V.STRING),
        ("general.file_type", FILE_TYPES[recipe], V.UINT32),
        ("general.quantization_version", 2, V.UINT32),
    ]


def write(path: Path, arch: str, keys: Keys, tensors: Tensors) -> None:
    writer = gguf.GGUFWriter(path, arch)
    for name, value, kind in keys:
        if kind == V.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, kind)
    for name, values, kind in tensors:
        data = np.ascontiguousarray(values)
        if kind != Type.F32:
            data = gguf.quants.quantize(data, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def export(tower: Tower, model: Lm, out: Path, recipe: str) -> Path:
    """Writes the three files; returns the path of the merged one."""
    out.mkdir(parents=True, exist_ok=True)
    dtype = TYPES[recipe]
    lm_keys, lm_tensors = lm_parts(model, dtype)
    clip_keys, clip_tensors = tower_parts(tower, model, dtype)
    stem = "trimtok-tiny"
    write(out / f"{stem}-lm.gguf", "llama", general("model", recipe) + lm_keys, lm_tensors)
    write(out / f"{stem}-mmproj.gguf", "clip", general("mmproj", recipe) + clip_keys, clip_tensors)
    merged = out / f"{stem}.gguf"
    write(merged, "llama", general("model", recipe) + lm_keys + clip_keys, lm_tensors + clip_tensors)
    return merged


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--name", default="lm")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--type", choices=TYPES, default="q8_0")
    args = parser.parse_args()
    tower, model = load_tower(args.run / "tower.pt"), load_lm(args.run / f"{args.name}.pt")
    path = export(tower, model, args.out, args.type)
    print(path, f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
