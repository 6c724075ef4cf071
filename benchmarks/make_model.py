"""Writes LLaVA-1.5 models with random weights at real shapes, in any usual quantisation.

    python benchmarks/make_model.py llava-1.1b --type q4_k_m --out models

makes models/llava-1.1b-q4_k_m.gguf and models/llava-1.1b-mmproj-f16.gguf. Random weights are fine for
timing and memory; what such a model says means nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import gguf
import numpy as np

Type = gguf.GGMLQuantizationType


@dataclasses.dataclass(frozen=True)
class Shape:
    """Dimensions of a language model and the tower in front of it."""

    n_layers: int
    n_embd: int
    n_heads: int
    n_kv_heads: int
    n_ff: int
    n_vocab: int
    n_ctx: int
    v_layers: int
    v_embd: int
    v_heads: int
    v_ff: int
    image_size: int
    patch_size: int = 14


SHAPES = {
    # TinyLlama 1.1B with CLIP ViT-L/14-336: the shapes of LLaVA-1.5 at a size that two cores can time.
    "llava-1.1b": Shape(22, 2048, 32, 4, 5632, 32000, 4096, 23, 1024, 16, 4096, 336),
    # Loads and answers in a moment: for trying the API.
    "demo": Shape(4, 256, 8, 2, 768, 4096, 4096, 4, 192, 4, 768, 112),
}

# The matrix type of each recipe; q4_k_m gives some matrices more bits, as the usual quantiser does.
RECIPES = {
    "f32": Type.F32,
    "f16": Type.F16,
    "bf16": Type.BF16,
    "q8_0": Type.Q8_0,
    "q4_0": Type.Q4_0,
    "q4_k_m": Type.Q4_K,
    "q6_k": Type.Q6_K,
}


def tensor_type(recipe: str, name: str) -> Type:
    """The stored type of a matrix under a recipe."""
    if recipe == "q4_k_m" and (
        name == "output.weight" or name.endswith(("attn_v.weight", "ffn_down.weight"))
    ):
        return Type.Q6_K
    return RECIPES[recipe]


def _random_blocks(rng: np.random.Generator, n_blocks: int, dtype: Type, std: float) -> np.ndarray:
    """Random blocks of a quantised type whose values have about the given standard deviation and no bias."""
    block_bytes = gguf.GGML_QUANT_SIZES[dtype][1]
    blocks = rng.integers(0, 256, (n_blocks, block_bytes), dtype=np.uint8)

    def half(value: float) -> np.ndarray:
        return np.frombuffer(np.float16(value).tobytes(), dtype=np.uint8)

    if dtype == Type.Q8_0:
        blocks[:, :2] = half(std / 74)
    elif dtype == Type.Q4_0:
        blocks[:, :2] = half(std / 4.6)
    elif dtype == Type.Q4_K:
        blocks[:, :2] = half(std / 220)
        blocks[:, 2:4] = half(std / 220 * 7.5)
    elif dtype == Type.Q6_K:
        blocks[:, 192:208] = rng.integers(32, 128, (n_blocks, 16), dtype=np.uint8)
        blocks[:, 208:210] = half(std / (80 * 18.5))
    else:
        raise ValueError(f"no random blocks for {dtype.name}")
    return blocks


def random_matrix(rng: np.random.Generator, rows: int, cols: int, dtype: Type) -> np.ndarray:
    """A [rows, cols] matrix in its stored form, scaled so that activations keep their size."""
    std = cols**-0.5
    if dtype in (Type.F32, Type.F16, Type.BF16):
        values = rng.standard_normal((rows, cols), dtype=np.float32) * np.float32(std)
        return values if dtype == Type.F32 else gguf.quants.quantize(values, dtype)
    block = gguf.GGML_QUANT_SIZES[dtype][0]
    return _random_blocks(rng, rows * cols // block, dtype, std).reshape(rows, -1)


def add_vocabulary(writer: gguf.GGUFWriter, n_vocab: int) -> None:
    """A SentencePiece-style vocabulary of made-up words with byte fallback."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words: list[str] = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"-() ▁")
    seen = set(words)
    for size in range(1, 4):
        for number in range(len(syllables) ** size):
            if len(words) >= n_vocab - 259:
                break
            digits = [number // len(syllables) ** k % len(syllables) for k in range(size)]
            word = "".join(syllables[d] for d in digits)
            for text in ("▁" + word, word):
                if text not in seen:
                    seen.add(text)
                    words.append(text)
    words = words[: n_vocab - 259]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(words))])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(words))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def write_lm(path: Path, shape: Shape, recipe: str, seed: int) -> None:
    """Writes the language model file."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama", use_temp_file=True)
    head_dim = shape.n_embd // shape.n_heads
    writer.add_name(path.stem)
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_quantization_version(2)
    add_vocabulary(writer, shape.n_vocab)

    def matrix(name: str, rows: int, cols: int) -> None:
        dtype = tensor_type(recipe, name)
        data = random_matrix(rng, rows, cols, dtype)
        writer.add_tensor(name, data, raw_dtype=None if dtype == Type.F32 else dtype)

    kv_width = shape.n_kv_heads * head_dim
    ones = np.ones(shape.n_embd, dtype=np.float32)
    matrix("token_embd.weight", shape.n_vocab, shape.n_embd)
    matrix("output.weight", shape.n_vocab, shape.n_embd)
    writer.add_tensor("output_norm.weight", ones)
    for i in range(shape.n_layers):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", ones)
        matrix(f"blk.{i}.attn_q.weight", shape.n_embd, shape.n_embd)
        matrix(f"blk.{i}.attn_k.weight", kv_width, shape.n_embd)
        matrix(f"blk.{i}.attn_v.weight", kv_width, shape.n_embd)
        matrix(f"blk.{i}.attn_output.weight", shape.n_embd, shape.n_embd)
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", ones)
        matrix(f"blk.{i}.ffn_gate.weight", shape.n_ff, shape.n_embd)
        matrix(f"blk.{i}.ffn_up.weight", shape.n_ff, shape.n_embd)
        matrix(f"blk.{i}.ffn_down.weight", shape.n_embd, shape.n_ff)
    _close(writer)


def write_mmproj(path: Path, shape: Shape, recipe: str, seed: int) -> None:
    """Writes the projector file in the layout of published LLaVA-1.5 files (ffn names swapped as there)."""
    rng = np.random.default_rng(seed + 1)
    writer = gguf.GGUFWriter(path, "clip", use_temp_file=True)
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.use_gelu", False)
    for key, value in {
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "embedding_length": shape.v_embd,
        "feed_forward_length": shape.v_ff,
        "projection_dim": 768,
        "block_count": shape.v_layers,
        "attention.head_count": shape.v_heads,
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    # The layer whose output is used, counted from the input of layer 0: all that the file holds.
    writer.add_array("clip.vision.feature_layer", [shape.v_layers])
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.48145466, 0.4578275, 0.40821073])
    writer.add_array("clip.vision.image_std", [0.26862954, 0.26130258, 0.27577711])

    dtype = RECIPES[recipe]

    def linear(name: str, rows: int, cols: int) -> None:
        data = random_matrix(rng, rows, cols, dtype)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=None if dtype == Type.F32 else dtype)
        writer.add_tensor(f"{name}.bias", rng.standard_normal(rows, dtype=np.float32) * np.float32(0.02))

    def norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(shape.v_embd, dtype=np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(shape.v_embd, dtype=np.float32))

    def small(n: int) -> np.ndarray:
        return rng.standard_normal((n, shape.v_embd), dtype=np.float32) * np.float32(0.02)

    patch = rng.standard_normal((shape.v_embd, 3, shape.patch_size, shape.patch_size), dtype=np.float32)
    writer.add_tensor("v.patch_embd.weight", (patch / np.sqrt(588.0)).astype(np.float16))
    writer.add_tensor("v.class_embd", small(1)[0])
    writer.add_tensor("v.position_embd.weight", small((shape.image_size // shape.patch_size) ** 2 + 1))
    norm("v.pre_ln")
    for i in range(shape.v_layers):
        norm(f"v.blk.{i}.ln1")
        norm(f"v.blk.{i}.ln2")
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            linear(f"v.blk.{i}.{part}", shape.v_embd, shape.v_embd)
        linear(f"v.blk.{i}.ffn_down", shape.v_ff, shape.v_embd)
        linear(f"v.blk.{i}.ffn_up", shape.v_embd, shape.v_ff)
    linear("mm.0", shape.n_embd, shape.v_embd)
    linear("mm.2", shape.n_embd, shape.n_embd)
    _close(writer)


def _close(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(
    shape_name: str, recipe: str, out: Path, *, mmproj_recipe: str = "f16", seed: int = 0
) -> tuple[Path, Path]:
    """Writes both files unless they exist; returns (language model, projector)."""
    shape = SHAPES[shape_name]
    out.mkdir(parents=True, exist_ok=True)
    lm = out / f"{shape_name}-{recipe}.gguf"
    mmproj = out / f"{shape_name}-mmproj-{mmproj_recipe}.gguf"
    for path, write, kind in ((lm, write_lm, recipe), (mmproj, write_mmproj, mmproj_recipe)):
        if not path.exists():
            partial = path.with_suffix(".part")
            write(partial, shape, kind, seed)
            partial.rename(path)
    return lm, mmproj


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--type", choices=RECIPES, default="q4_k_m")
    parser.add_argument("--mmproj-type", choices=["f32", "f16", "bf16", "q8_0"], default="f16")
    parser.add_argument("--out", type=Path, default=Path("models"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for path in make(args.shape, args.type, args.out, mmproj_recipe=args.mmproj_type, seed=args.seed):
        print(path, f"{path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
