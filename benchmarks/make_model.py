"""Writes multimodal models with random weights at real shapes, in any usual quantisation.

    python benchmarks/make_model.py llava-1.1b --type q4_k_m --out models

makes models/llava-1.1b-q4_k_m.gguf and models/llava-1.1b-mmproj-f16.gguf. Random weights are fine for
timing and memory; what such a model says means nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
from model_shapes import SHAPES, LmShape, Shape

Type = gguf.GGMLQuantizationType


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


def tensor_type(recipe: str, name: str, cols: int) -> Type:
    """The stored type of a matrix under a recipe."""
    dtype = RECIPES[recipe]
    if recipe == "q4_k_m" and (
        name == "output.weight" or name.endswith(("attn_v.weight", "ffn_down.weight"))
    ):
        dtype = Type.Q6_K
    # Rows that are not whole blocks of 256 go to a type with smaller ones, as the usual quantiser does it.
    return dtype if cols % gguf.GGML_QUANT_SIZES[dtype][0] == 0 else Type.Q8_0


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


def add_vocabulary(writer: gguf.GGUFWriter, n_vocab: int, special: tuple[str, ...]) -> None:
    """A SentencePiece-style vocabulary of made-up words with byte fallback, control tokens at its end."""
    n_words = n_vocab - 259 - len(special)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    words: list[str] = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"-() ▁")
    seen = set(words)
    for size in range(1, 4):
        for number in range(len(syllables) ** size):
            if len(words) >= n_words:
                break
            digits = [number // len(syllables) ** k % len(syllables) for k in range(size)]
            word = "".join(syllables[d] for d in digits)
            for text in ("▁" + word, word):
                if text not in seen:
                    seen.add(text)
                    words.append(text)
    words = words[:n_words]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words, *special]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(words))] + [0.0] * len(special))
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(words) + [3] * len(special))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)


def write_lm(path: Path, shape: LmShape, recipe: str, seed: int) -> None:
    """Writes the language model file."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, shape.arch, use_temp_file=True)
    writer.add_name(path.stem)
    writer.add_block_count(shape.n_layers)
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_layer_norm_rms_eps(shape.eps)
    writer.add_vocab_size(shape.n_vocab)
    writer.add_quantization_version(2)
    qwen = shape.arch == "qwen2vl"
    if qwen:
        # Time, row and column turn an eighth and twice three sixteenths of a head.
        half = shape.head_dim // 2
        writer.add_rope_dimension_sections([half // 4, half * 3 // 8, half * 3 // 8, 0])
    add_vocabulary(writer, shape.n_vocab, shape.special)

    def matrix(name: str, rows: int, cols: int) -> None:
        dtype = tensor_type(recipe, name, cols)
        data = random_matrix(rng, rows, cols, dtype)
        writer.add_tensor(name, data, raw_dtype=None if dtype == Type.F32 else dtype)

    kv_width = shape.n_kv_heads * shape.head_dim
    ones = np.ones(shape.n_embd, dtype=np.float32)
    matrix("token_embd.weight", shape.n_vocab, shape.n_embd)
    if not shape.tied:
        matrix("output.weight", shape.n_vocab, shape.n_embd)
    writer.add_tensor("output_norm.weight", ones)
    for i in range(shape.n_layers):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", ones)
        for part, width in (("q", shape.n_embd), ("k", kv_width), ("v", kv_width)):
            matrix(f"blk.{i}.attn_{part}.weight", width, shape.n_embd)
            if qwen:
                writer.add_tensor(f"blk.{i}.attn_{part}.bias", np.zeros(width, dtype=np.float32))
        matrix(f"blk.{i}.attn_output.weight", shape.n_embd, shape.n_embd)
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", ones)
        matrix(f"blk.{i}.ffn_gate.weight", shape.n_ff, shape.n_embd)
        matrix(f"blk.{i}.ffn_up.weight", shape.n_ff, shape.n_embd)
        matrix(f"blk.{i}.ffn_down.weight", shape.n_embd, shape.n_ff)
    _close(writer)


class _TowerWriter:
    """Adds named tensors of a tower to a file."""

    def __init__(self, writer: gguf.GGUFWriter, shape: Shape, recipe: str, seed: int) -> None:
        self._writer = writer
        self._rng = np.random.default_rng(seed + 1)
        self._dtype = RECIPES[recipe]
        self._width = shape.tower.width

    def small(self, name: str, *shape: int) -> None:
        self._writer.add_tensor(name, self._rng.standard_normal(shape, dtype=np.float32) * np.float32(0.02))

    def matrix(self, name: str, rows: int, cols: int) -> None:
        data = random_matrix(self._rng, rows, cols, self._dtype)
        raw = None if self._dtype == Type.F32 else self._dtype
        self._writer.add_tensor(f"{name}.weight", data, raw_dtype=raw)

    def linear(self, name: str, rows: int, cols: int) -> None:
        self.matrix(name, rows, cols)
        self.small(f"{name}.bias", rows)

    def norm(self, name: str) -> None:
        self._writer.add_tensor(f"{name}.weight", np.ones(self._width, dtype=np.float32))
        self._writer.add_tensor(f"{name}.bias", np.zeros(self._width, dtype=np.float32))

    def patch(self, name: str, size: int) -> None:
        kernel = self._rng.standard_normal((self._width, 3, size, size), dtype=np.float32)
        self._writer.add_tensor(name, (kernel / np.sqrt(3.0 * size * size)).astype(np.float16))


def _add_llava(out: _TowerWriter, writer: gguf.GGUFWriter, shape: Shape) -> None:
    """LLaVA-1.5 in the layout of published files: ffn names swapped as there."""
    t = shape.tower
    writer.add_bool("clip.has_llava_projector", True)
    writer.add_bool("clip.use_gelu", False)
    # The layer whose output is used, counted from the input of layer 0: all that the file holds.
    writer.add_array("clip.vision.feature_layer", [t.n_layers])
    out.small("v.class_embd", t.width)
    out.small("v.position_embd.weight", (t.image_size // t.patch) ** 2 + 1, t.width)
    out.norm("v.pre_ln")
    out.linear("mm.0", shape.lm.n_embd, t.width)
    out.linear("mm.2", shape.lm.n_embd, shape.lm.n_embd)


def _add_smolvlm(out: _TowerWriter, writer: gguf.GGUFWriter, shape: Shape) -> None:
    t = shape.tower
    factor = 4  # cells of 4 x 4 patches become one row
    writer.add_string("general.type", "mmproj")
    writer.add_bool("clip.use_gelu", True)
    writer.add_uint32("clip.vision.projector.scale_factor", factor)
    writer.add_uint32("clip.vision.preproc_image_size", 4 * t.image_size)
    out.small("v.patch_embd.bias", t.width)
    out.small("v.position_embd.weight", (t.image_size // t.patch) ** 2, t.width)
    out.norm("v.post_ln")
    out.matrix("mm.model.fc", shape.lm.n_embd, factor * factor * t.width)


def _add_qwen2vl(out: _TowerWriter, writer: gguf.GGUFWriter, shape: Shape) -> None:
    t = shape.tower
    cell = 4 * t.width  # 2 x 2 patches become one row
    writer.add_string("general.type", "mmproj")
    writer.add_bool("clip.use_gelu", False)
    out.patch("v.patch_embd.weight.1", t.patch)
    out.norm("v.post_ln")
    out.linear("mm.0", cell, cell)
    out.linear("mm.2", shape.lm.n_embd, cell)


FAMILIES: dict[str, Callable[[_TowerWriter, gguf.GGUFWriter, Shape], None]] = {
    "mlp": _add_llava,
    "idefics3": _add_smolvlm,
    "qwen2vl_merger": _add_qwen2vl,
}


def write_mmproj(path: Path, shape: Shape, recipe: str, seed: int) -> None:
    """Writes the file of the vision part."""
    writer = gguf.GGUFWriter(path, "clip", use_temp_file=True)
    t = shape.tower
    writer.add_bool("clip.has_text_encoder", False)
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", t.projector)
    for key, value in {
        "image_size": t.image_size,
        "patch_size": t.patch,
        "embedding_length": t.width,
        "feed_forward_length": t.n_ff,
        "projection_dim": shape.lm.n_embd,
        "block_count": t.n_layers,
        "attention.head_count": t.n_heads,
    }.items():
        writer.add_uint32(f"clip.vision.{key}", value)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-6)
    writer.add_array("clip.vision.image_mean", list(t.mean))
    writer.add_array("clip.vision.image_std", list(t.std))

    out = _TowerWriter(writer, shape, recipe, seed)
    out.patch("v.patch_embd.weight", t.patch)
    FAMILIES[t.projector](out, writer, shape)
    # Published LLaVA-1.5 files call the first matrix of a feed-forward block "down".
    first, second = ("ffn_down", "ffn_up") if t.projector == "mlp" else ("ffn_up", "ffn_down")
    for i in range(t.n_layers):
        out.norm(f"v.blk.{i}.ln1")
        out.norm(f"v.blk.{i}.ln2")
        for part in ("attn_q", "attn_k", "attn_v", "attn_out"):
            out.linear(f"v.blk.{i}.{part}", t.width, t.width)
        out.linear(f"v.blk.{i}.{first}", t.n_ff, t.width)
        out.linear(f"v.blk.{i}.{second}", t.width, t.n_ff)
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

    def write(path: Path, writer: Callable[[Path], None]) -> None:
        if not path.exists():
            partial = path.with_suffix(".part")
            writer(partial)
            partial.rename(path)

    write(lm, lambda path: write_lm(path, shape.lm, recipe, seed))
    write(mmproj, lambda path: write_mmproj(path, shape, mmproj_recipe, seed))
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
