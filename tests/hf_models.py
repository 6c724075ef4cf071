"""Random tiny models of transformers, written as GGUF pairs: the original implementations as a reference.

Needs torch and transformers (extra "reference"); nothing here is shared with the engine or with the tools
that made the golden files.
"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tiny_decoder
import torch
import transformers

Array = np.ndarray
N_VOCAB = tiny_decoder.N_VOCAB
# The last pieces of the tiny vocabulary become the markers of the family.
MARKERS = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
GEMMA_MARKERS = ["<start_of_image>", "<end_of_image>", "<image_soft_token>", "\n\n", "\n\n\n\n"]
QWEN_MEAN, QWEN_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


@dataclasses.dataclass
class HfModel:
    """A model of transformers and the two files that hold the same weights."""

    model: Any
    lm: str
    mmproj: str
    patch: int
    mean: list[float]
    std: list[float]


def tokenizer_keys(markers: list[str]) -> dict[str, Any]:
    keys = {
        name: value
        for name, value in tiny_decoder.make_keys(tiny_decoder.Spec()).items()
        if name.startswith("tokenizer")
    }
    tokens, types = list(keys["tokenizer.ggml.tokens"]), list(keys["tokenizer.ggml.token_type"])
    tokens[-len(markers) :] = markers
    types[-len(markers) :] = [4 if text.isspace() else 3 for text in markers]
    return keys | {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}


def marker_id(markers: list[str], text: str) -> int:
    return N_VOCAB - len(markers) + markers.index(text)


def write(path: Path, arch: str, keys: dict[str, Any], tensors: dict[str, Array], qtype: str = "F32") -> str:
    writer = gguf.GGUFWriter(path, arch)
    for name, value in keys.items():
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
    for name, values in tensors.items():
        values = np.ascontiguousarray(values, np.float32)
        kind = gguf.GGMLQuantizationType[qtype if values.ndim > 1 else "F32"]
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


def randomise(model: Any, seed: int) -> None:
    """Weights far from the small ones of an initialised model, so that every step matters."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                gain = 1.6 if re.search(r"qkv|q_proj|k_proj", name) else 1.0
                value.copy_(noise * gain / value[0].numel() ** 0.5)
                if "embed_tokens" in name or "pos" in name:
                    value.copy_(noise * 0.7)
            elif "norm" in name or "ln_q" in name:
                gemma = "language_model" in name and "gemma" in type(model).__name__.lower()
                gemma = gemma or "soft_emb" in name
                value.copy_(noise * 0.2 + (0.0 if gemma or name.endswith("bias") else 1.0))
            else:
                value.copy_(noise * 0.3)


def rename(state: dict[str, Array], rules: list[tuple[str, str]]) -> dict[str, Array]:
    """Tensors whose whole name matches a rule, under the name that it gives."""
    out = {}
    for name, values in state.items():
        for pattern, target in rules:
            match = re.fullmatch(pattern, name)
            if match:
                out[match.expand(target)] = values
                break
    return out


LM_RULES = [
    (r"model\.language_model\.embed_tokens\.weight", "token_embd.weight"),
    (r"model\.language_model\.norm\.weight", "output_norm.weight"),
    (r"lm_head\.weight", "output.weight"),
    *(
        (rf"model\.language_model\.layers\.(\d+)\.{hf}\.(weight|bias)", rf"blk.\1.{name}.\2")
        for hf, name in {
            r"self_attn\.q_proj": "attn_q",
            r"self_attn\.k_proj": "attn_k",
            r"self_attn\.v_proj": "attn_v",
            r"self_attn\.o_proj": "attn_output",
            r"self_attn\.q_norm": "attn_q_norm",
            r"self_attn\.k_norm": "attn_k_norm",
            r"mlp\.gate_proj": "ffn_gate",
            r"mlp\.up_proj": "ffn_up",
            r"mlp\.down_proj": "ffn_down",
            "input_layernorm": "attn_norm",
            "post_attention_layernorm": "ffn_norm",
        }.items()
    ),
]
QWEN_TOWER_RULES = [
    *(
        (rf"model\.visual\.blocks\.(\d+)\.{hf}\.(weight|bias)", rf"v.blk.\1.{name}.\2")
        for hf, name in {
            "norm1": "ln1",
            "norm2": "ln2",
            r"attn\.qkv": "attn_qkv",
            r"attn\.proj": "attn_out",
            r"mlp\.(?:fc1|linear_fc1|up_proj)": "ffn_up",
            r"mlp\.(?:fc2|linear_fc2|down_proj)": "ffn_down",
            r"mlp\.gate_proj": "ffn_gate",
        }.items()
    ),
    (r"model\.visual\.merger\.(?:ln_q|norm)\.(weight|bias)", r"v.post_ln.\1"),
    (r"model\.visual\.merger\.(?:mlp\.0|linear_fc1)\.(weight|bias)", r"mm.0.\1"),
    (r"model\.visual\.merger\.(?:mlp\.2|linear_fc2)\.(weight|bias)", r"mm.2.\1"),
    (r"model\.visual\.patch_embed\.proj\.bias", "v.patch_embd.bias"),
    (r"model\.visual\.pos_embed\.weight", "v.position_embd.weight"),
]


def arrays_of(model: Any) -> dict[str, Array]:
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def lm_keys(arch: str, config: Any, **more: Any) -> dict[str, Any]:
    keys = {
        "context_length": 4096,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": float(config.rope_theta),
        **more,
    }
    return {f"{arch}.{name}": value for name, value in keys.items()}


def vision_keys(projector: str, mean: list[float], std: list[float], **more: Any) -> dict[str, Any]:
    keys = {"image_mean": mean, "image_std": std, "feed_forward_length": 0, "projection_dim": 0, **more}
    return {"clip.has_vision_encoder": True, "clip.projector_type": projector} | {
        f"clip.vision.{name}": value for name, value in keys.items()
    }


def qwen_files(
    folder: Path, arch: str, model: Any, keys: dict[str, Any], extra: dict[str, Any], split: bool, qtype: str
) -> tuple[str, str]:
    state = arrays_of(model)
    tower = rename(state, QWEN_TOWER_RULES)
    kernel = state["model.visual.patch_embed.proj.weight"]  # [width, 3, 2, patch, patch]
    tower["v.patch_embd.weight"], tower["v.patch_embd.weight.1"] = kernel[:, :, 0], kernel[:, :, 1]
    if split:  # the converter's habit for the older families
        for name in [name for name in tower if "attn_qkv" in name]:
            for part, values in zip("qkv", np.split(tower.pop(name), 3), strict=True):
                tower[name.replace("qkv", part)] = values
    lm = write(folder / "lm.gguf", arch, tokenizer_keys(MARKERS) | keys, rename(state, LM_RULES), qtype)
    return lm, write(folder / "mmproj.gguf", "clip", extra, tower | deepstack(model, state), qtype)


def deepstack(model: Any, state: dict[str, Array]) -> dict[str, Array]:
    out = {}
    for k, layer in enumerate(getattr(model.config.vision_config, "deepstack_visual_indexes", [])):
        for hf, name in {"norm": "norm", "linear_fc1": "fc1", "linear_fc2": "fc2"}.items():
            for kind in ("weight", "bias"):
                values = state[f"model.visual.deepstack_merger_list.{k}.{hf}.{kind}"]
                out[f"v.deepstack.{layer}.{name}.{kind}"] = values
    return out


def token_ids() -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return {name: marker_id(MARKERS, text) for name, text in zip(names, MARKERS, strict=True)}


def make_qwen2vl(folder: Path, seed: int, qtype: str = "F32") -> HfModel:
    config = transformers.Qwen2VLConfig(
        text_config={
            "hidden_size": 96, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 6,
            "num_key_value_heads": 3, "vocab_size": N_VOCAB, "max_position_embeddings": 4096,
            "rope_theta": 5e5, "rope_scaling": {"type": "mrope", "mrope_section": [4, 1, 3]},
            "rms_norm_eps": 1e-5,
        },
        vision_config={
            "depth": 2, "embed_dim": 48, "hidden_size": 96, "num_heads": 3, "mlp_ratio": 3, "patch_size": 10,
        },
        tie_word_embeddings=False, **token_ids(),
    )  # fmt: skip
    model = load(transformers.Qwen2VLForConditionalGeneration, config, seed)
    text = config.get_text_config()
    keys = lm_keys("qwen2vl", text, **{"rope.dimension_sections": [4, 1, 3, 0]})
    extra = vision_keys(
        "qwen2vl_merger", QWEN_MEAN, QWEN_STD, image_size=560, patch_size=10, embedding_length=48,
        block_count=2, **{"attention.head_count": 3, "attention.layer_norm_epsilon": 1e-6},
    )  # fmt: skip
    return HfModel(
        model, *qwen_files(folder, "qwen2vl", model, keys, extra, True, qtype), 10, QWEN_MEAN, QWEN_STD
    )


def make_qwen25vl(folder: Path, seed: int, qtype: str = "F32") -> HfModel:
    config = transformers.Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
            "num_key_value_heads": 1, "vocab_size": N_VOCAB, "max_position_embeddings": 4096,
            "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [2, 4, 2]},
        },
        vision_config={
            "depth": 4, "hidden_size": 32, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 44,
            "patch_size": 8, "window_size": 48, "fullatt_block_indexes": [1, 3], "tokens_per_second": 2,
        },
        tie_word_embeddings=False, **token_ids(),
    )  # fmt: skip
    model = load(transformers.Qwen2_5_VLForConditionalGeneration, config, seed)
    text = config.get_text_config()
    keys = lm_keys("qwen2vl", text, **{"rope.dimension_sections": [2, 4, 2, 0]})
    extra = vision_keys(
        "qwen2.5vl_merger", QWEN_MEAN, QWEN_STD, image_size=560, patch_size=8, embedding_length=32,
        block_count=4, n_wa_pattern=2, window_size=48,
        **{"attention.head_count": 2, "attention.layer_norm_epsilon": 1e-6},
    ) | {"clip.use_silu": True}  # fmt: skip
    return HfModel(
        model, *qwen_files(folder, "qwen2vl", model, keys, extra, True, qtype), 8, QWEN_MEAN, QWEN_STD
    )


def make_qwen3vl(folder: Path, seed: int, qtype: str = "F32") -> HfModel:
    half = [0.5, 0.5, 0.5]
    config = transformers.Qwen3VLConfig(
        text_config={
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 5, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 24, "vocab_size": N_VOCAB,
            "max_position_embeddings": 4096, "rope_theta": 5e6,
            "rope_scaling": {"rope_type": "default", "mrope_section": [6, 4, 2]},
        },
        vision_config={
            "depth": 5, "hidden_size": 48, "out_hidden_size": 64, "num_heads": 2, "intermediate_size": 80,
            "patch_size": 8, "num_position_embeddings": 49, "deepstack_visual_indexes": [0, 2, 3],
        },
        tie_word_embeddings=False, **token_ids(),
    )  # fmt: skip
    model = load(transformers.Qwen3VLForConditionalGeneration, config, seed)
    text = config.get_text_config()
    more = {
        "rope.dimension_sections": [6, 4, 2, 0], "attention.key_length": 24, "attention.value_length": 24,
        "n_deepstack_layers": 3,
    }  # fmt: skip
    extra = vision_keys(
        "qwen3vl_merger", half, half, image_size=56, patch_size=8, embedding_length=48, block_count=5,
        spatial_merge_size=2, **{"attention.head_count": 2, "attention.layer_norm_epsilon": 1e-6},
    ) | {"clip.use_gelu": True}  # fmt: skip
    files = qwen_files(folder, "qwen3vl", model, lm_keys("qwen3vl", text, **more), extra, False, qtype)
    return HfModel(model, *files, 8, half, half)


GEMMA_TOWER_RULES = [
    *(
        (
            rf"model\.vision_tower\.vision_model\.encoder\.layers\.(\d+)\.{hf}\.(weight|bias)",
            rf"v.blk.\1.{name}.\2",
        )
        for hf, name in {
            "layer_norm1": "ln1",
            "layer_norm2": "ln2",
            r"self_attn\.q_proj": "attn_q",
            r"self_attn\.k_proj": "attn_k",
            r"self_attn\.v_proj": "attn_v",
            r"self_attn\.out_proj": "attn_out",
            r"mlp\.fc1": "ffn_up",
            r"mlp\.fc2": "ffn_down",
        }.items()
    ),
    (r"model\.vision_tower\.vision_model\.embeddings\.patch_embedding\.(weight|bias)", r"v.patch_embd.\1"),
    (r"model\.vision_tower\.vision_model\.embeddings\.position_embedding\.weight", "v.position_embd.weight"),
    (r"model\.vision_tower\.vision_model\.post_layernorm\.(weight|bias)", r"v.post_ln.\1"),
    (r"model\.multi_modal_projector\.mm_input_projection_weight", "mm.input_projection.weight"),
    (r"model\.multi_modal_projector\.mm_soft_emb_norm\.weight", "mm.soft_emb_norm.weight"),
]
GEMMA_LM_RULES = [
    (
        r"model\.language_model\.layers\.(\d+)\.post_attention_layernorm\.weight",
        r"blk.\1.post_attention_norm.weight",
    ),
    (r"model\.language_model\.layers\.(\d+)\.pre_feedforward_layernorm\.weight", r"blk.\1.ffn_norm.weight"),
    (
        r"model\.language_model\.layers\.(\d+)\.post_feedforward_layernorm\.weight",
        r"blk.\1.post_ffw_norm.weight",
    ),
    *(rule for rule in LM_RULES if "lm_head" not in rule[0]),
]


def make_gemma3(folder: Path, seed: int, qtype: str = "F32", window: int = 9) -> HfModel:
    half = [0.5, 0.5, 0.5]
    config = transformers.Gemma3Config(
        text_config={
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 24, "vocab_size": N_VOCAB, "sliding_window": window,
            "query_pre_attn_scalar": 24, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "max_position_embeddings": 4096,
        },
        vision_config={
            "hidden_size": 64, "intermediate_size": 72, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 54, "patch_size": 9,
        },
        mm_tokens_per_image=9,
        boi_token_index=marker_id(GEMMA_MARKERS, "<start_of_image>"),
        eoi_token_index=marker_id(GEMMA_MARKERS, "<end_of_image>"),
        image_token_index=marker_id(GEMMA_MARKERS, "<image_soft_token>"),
    )  # fmt: skip
    model = load(transformers.Gemma3ForConditionalGeneration, config, seed)
    text = config.text_config
    more = {
        "attention.key_length": 24, "attention.value_length": 24, "attention.sliding_window": window,
        "rope.freq_base_swa": 1e4, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0,
    }  # fmt: skip
    state = arrays_of(model)
    lm = rename(state, GEMMA_LM_RULES)
    lm = {name: values + 1 if "norm" in name else values for name, values in lm.items()}
    tower = rename(state, GEMMA_TOWER_RULES)
    tower["mm.soft_emb_norm.weight"] = tower["mm.soft_emb_norm.weight"] + 1
    extra = vision_keys(
        "gemma3", half, half, image_size=54, patch_size=9, embedding_length=64, block_count=2,
        **{"attention.head_count": 2, "attention.layer_norm_epsilon": 1e-6, "projector.scale_factor": 2},
    ) | {"clip.use_gelu": True}  # fmt: skip
    keys = tokenizer_keys(GEMMA_MARKERS) | {"tokenizer.ggml.add_space_prefix": False}
    return HfModel(
        model,
        write(folder / "lm.gguf", "gemma3", keys | lm_keys("gemma3", text, **more), lm, qtype),
        write(folder / "mmproj.gguf", "clip", extra, tower, qtype),
        9, half, half,
    )  # fmt: skip


def load(kind: Any, config: Any, seed: int) -> Any:
    config._attn_implementation = "eager"
    model = kind(config).to(torch.float32).eval()
    randomise(model, seed)
    model.tie_weights()
    return model


def qwen_patches(model: HfModel, frames: list[Array], merge: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """What the Qwen processors hand to the tower: patches of cells one after the other, and the grid.

    frames: uint8 [height, width, 3], two per group; a still picture is given twice.
    """
    pixels = (np.stack(frames) / 255 - np.array(model.mean)) / np.array(model.std)
    pixels = pixels.transpose(0, 3, 1, 2).astype(np.float32)
    n, _, height, width = pixels.shape
    p, t, h, w = model.patch, n // 2, height // model.patch, width // model.patch
    cut = pixels.reshape(t, 2, 3, h // merge, merge, p, w // merge, merge, p)
    cut = cut.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, 3 * 2 * p * p)
    return torch.from_numpy(np.ascontiguousarray(cut)), torch.tensor([[t, h, w]])
