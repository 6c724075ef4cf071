"""Random tiny models of the original implementations (transformers), written as GGUF and run here.

Needs the `transformers` extra; shapes and seeds are not those of the golden files.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder import QTYPE, Spec, TinyModel, make_keys, write_model
from tiny_tiles import TileSpec, internvl, make_tiled
from tiny_tower import Array, TinyTower, write_tower

from trimtok_cpp import _core

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torch = pytest.importorskip("torch", reason="torch: not installed; pip install trimtok-cpp[transformers]")
    transformers = pytest.importorskip(
        "transformers", reason="transformers: not installed; pip install trimtok-cpp[transformers]"
    )

pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-4  # of the largest absolute value: transformers computes in float32 as well


def relative_error(actual: Array, expected: Array) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def randomise(model: Any, seed: int) -> Any:
    """Weights large enough that attention is far from uniform and norms matter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if value.dim() < 2:
                is_factor = re.search(r"norm.*weight|lambda", name)
                value.copy_(1.0 + 0.2 * noise if is_factor else 0.2 * noise)
            else:
                gain = 1.5 if re.search(r"\b(qkv|q|k)_proj", name) else 1.0
                value.copy_(gain * noise / value[0].numel() ** 0.5 if "embed" not in name else 0.5 * noise)
    return model.float().eval()


def weights(model: Any) -> dict[str, Array]:
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def rename(name: str, rules: dict[str, str]) -> str | None:
    for pattern, new in rules.items():
        if match := re.fullmatch(pattern, name):
            return match.expand(new)
    return None


# --- decoders

DECODER_NAMES = {
    r"model\.embed_tokens\.weight": "token_embd.weight",
    r"model\.norm\.weight": "output_norm.weight",
    r"lm_head\.weight": "output.weight",
    r"model\.layers\.(\d+)\.input_layernorm\.weight": r"blk.\1.attn_norm.weight",
    r"model\.layers\.(\d+)\.post_attention_layernorm\.weight": r"blk.\1.ffn_norm.weight",
    r"model\.layers\.(\d+)\.self_attn\.([qkv])_proj\.weight": r"blk.\1.attn_\2.weight",
    r"model\.layers\.(\d+)\.self_attn\.qkv_proj\.weight": r"blk.\1.attn_qkv.weight",
    r"model\.layers\.(\d+)\.self_attn\.o_proj\.weight": r"blk.\1.attn_output.weight",
    r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight": r"blk.\1.ffn_\2.weight",
    r"model\.layers\.(\d+)\.mlp\.gate_up_proj\.weight": r"blk.\1.ffn_up.weight",
}


def permuted(weight: Array, n_heads: int) -> Array:
    """Rows in the order of adjacent-pair RoPE, as converters write them (spec 5.1)."""
    heads = weight.reshape(n_heads, 2, -1, weight.shape[1])
    return heads.swapaxes(1, 2).reshape(weight.shape)


def write_decoder(
    model: Any, spec: Spec, path: Path, permute: bool, extra: dict[str, Array] | None = None
) -> Any:
    tensors = dict(extra or {})
    for name, value in weights(model).items():
        new = rename(name, DECODER_NAMES)
        assert new is not None, name
        if permute and ("attn_q." in new or "attn_k." in new):
            value = permuted(value, spec.n_heads if "attn_q." in new else spec.n_kv_heads)
        tensors[new] = value
    if spec.tied:
        del tensors["output.weight"]
    stored = {name: (value.astype(np.float32), QTYPE.F32) for name, value in tensors.items()}
    return _core.Model(
        write_model(TinyModel(spec, make_keys(spec), stored), path), kv_dtype="f32", n_threads=2
    )


def check_decoder(core: Any, model: Any, n: int, positions: Array | None = None) -> None:
    ids = np.random.default_rng(n).integers(0, 288, n)
    positions = np.arange(n) if positions is None else positions
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(ids)[None],
            position_ids=torch.tensor(positions)[None],
            attention_mask=torch.ones(1, n),  # without it gaps in the positions begin a new sequence
            use_cache=False,
        )
    expected = out.logits[0].numpy()
    rows = core.embed(ids.tolist())
    for chunk in (1, 13, 512):
        actual = core.logits(rows, positions.astype(np.int32), n, chunk)
        assert relative_error(actual, expected) < TOLERANCE, chunk


def common(spec: Spec) -> dict[str, Any]:
    return {
        "vocab_size": 288, "hidden_size": spec.n_embd, "intermediate_size": spec.n_ff,
        "num_hidden_layers": spec.n_layers, "num_attention_heads": spec.n_heads,
        "num_key_value_heads": spec.n_kv_heads, "rms_norm_eps": 1e-5, "max_position_embeddings": 256,
        "tie_word_embeddings": spec.tied, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
        "attn_implementation": "eager",
    }  # fmt: skip


@pytest.mark.parametrize("window", [None, 11])
@pytest.mark.parametrize(("partial", "n_pairs"), [(1.0, 10), (0.6, 6)])
def test_phi3(window: int | None, partial: float, n_pairs: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    factors = {name: rng.uniform(1, high, n_pairs).tolist() for name, high in (("short", 1.4), ("long", 7))}
    keys: tuple[tuple[str, Any], ...] = (
        ("rope.dimension_count", 2 * n_pairs),
        ("rope.scaling.original_context_length", 48),
        ("rope.freq_base", 20000.0),
    )
    spec = Spec(
        arch="phi3", n_layers=2, n_embd=120, n_heads=6, n_kv_heads=3, head_dim=20, n_ff=72,
        extra_keys=(*keys, *((("attention.sliding_window", window),) if window else ())),
    )  # fmt: skip
    scaling = {"type": "longrope", "short_factor": factors["short"], "long_factor": factors["long"]}
    config = transformers.Phi3Config(
        **common(spec),
        rope_theta=20000.0,
        rope_scaling=scaling,
        original_max_position_embeddings=48,
        partial_rotary_factor=partial,
        sliding_window=window,
    )
    model = randomise(transformers.Phi3ForCausalLM(config), 11)
    extra = {f"rope_factors_{name}.weight": np.array(values) for name, values in factors.items()}
    core = write_decoder(model, spec, tmp_path / "lm.gguf", False, extra)
    check_decoder(core, model, 40)  # short divisors
    check_decoder(core, model, 70)  # long ones
    gaps = np.sort(np.random.default_rng(9).choice(200, 30, replace=False))
    check_decoder(core, model, 30, gaps)


def test_phi3_without_scaling(tmp_path: Path) -> None:
    spec = Spec(arch="phi3", n_embd=64, n_heads=4, n_kv_heads=4, tied=True)
    config = transformers.Phi3Config(**common(spec), rope_theta=10000.0, sliding_window=None)
    model = randomise(transformers.Phi3ForCausalLM(config), 12)
    check_decoder(write_decoder(model, spec, tmp_path / "lm.gguf", False), model, 50)


@pytest.mark.parametrize("tied", [True, False])
def test_smollm3(tied: bool, tmp_path: Path) -> None:
    spec = Spec(
        arch="smollm3", n_layers=9, n_embd=96, n_heads=6, n_kv_heads=2, n_ff=80, tied=tied,
        extra_keys=(("rope.freq_base", 50000.0),),
    )  # fmt: skip
    config = transformers.SmolLM3Config(**common(spec), rope_theta=50000.0, use_sliding_window=False)
    model = randomise(transformers.SmolLM3ForCausalLM(config), 13)
    core = write_decoder(model, spec, tmp_path / "lm.gguf", True)
    check_decoder(core, model, 60)
    check_decoder(core, model, 30, np.sort(np.random.default_rng(9).choice(900, 30, replace=False)))


# --- towers

SIGLIP_NAMES = {
    r"embeddings\.patch_embedding\.(weight|bias)": r"v.patch_embd.\1",
    r"embeddings\.position_embedding\.weight": r"v.position_embd.weight",
    r"encoder\.layers\.(\d+)\.layer_norm([12])\.(weight|bias)": r"v.blk.\1.ln\2.\3",
    r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(weight|bias)": r"v.blk.\1.attn_\2.\3",
    r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(weight|bias)": r"v.blk.\1.attn_out.\2",
    r"encoder\.layers\.(\d+)\.mlp\.fc1\.(weight|bias)": r"v.blk.\1.ffn_up.\2",
    r"encoder\.layers\.(\d+)\.mlp\.fc2\.(weight|bias)": r"v.blk.\1.ffn_down.\2",
    r"post_layernorm\.(weight|bias)": r"v.post_ln.\1",
}
INTERNVIT_NAMES = {
    r"embeddings\.cls_token": "v.class_embd",
    r"embeddings\.patch_embeddings\.projection\.(weight|bias)": r"v.patch_embd.\1",
    r"embeddings\.position_embeddings": r"v.position_embd.weight",
    r"encoder\.layer\.(\d+)\.layernorm_before\.(weight|bias)": r"v.blk.\1.ln1.\2",
    r"encoder\.layer\.(\d+)\.layernorm_after\.(weight|bias)": r"v.blk.\1.ln2.\2",
    r"encoder\.layer\.(\d+)\.attention\.([qkv])_proj\.(weight|bias)": r"v.blk.\1.attn_\2.\3",
    r"encoder\.layer\.(\d+)\.attention\.([qk])_norm\.weight": r"v.blk.\1.attn_\2_norm.weight",
    r"encoder\.layer\.(\d+)\.attention\.projection_layer\.(weight|bias)": r"v.blk.\1.attn_out.\2",
    r"encoder\.layer\.(\d+)\.lambda_([12])": r"v.blk.\1.ls\2.weight",
    r"encoder\.layer\.(\d+)\.mlp\.fc1\.(weight|bias)": r"v.blk.\1.ffn_up.\2",
    r"encoder\.layer\.(\d+)\.mlp\.fc2\.(weight|bias)": r"v.blk.\1.ffn_down.\2",
}
INTERNVL_PROJECTOR_NAMES = {
    r"layer_norm\.(weight|bias)": r"mm.model.mlp.0.\1",
    r"linear_1\.(weight|bias)": r"mm.model.mlp.1.\1",
    r"linear_2\.(weight|bias)": r"mm.model.mlp.3.\1",
}


def write_tiled(
    spec: TileSpec, parts: list[tuple[Any, dict[str, str]]], keys: dict[str, Any], path: Path
) -> Any:
    tensors: dict[str, tuple[Array, Any]] = {}
    for module, names in parts:
        for name, value in weights(module).items():
            new = rename(name, names)
            assert new is not None, name
            shape = value.shape if new == "v.patch_embd.weight" else value.squeeze().shape
            tensors[new] = (value.reshape(shape), QTYPE.F32)
    return _core.Tower(write_tower(TinyTower(spec, make_tiled(spec).keys | keys, tensors), path), 2)


def picture(width: int, height: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    # Away from black and white: Pillow 12.2 and later choose the order of the passes, and what a first pass
    # cuts off would differ by more than rounding.
    coarse = rng.integers(70, 180, (height // 5 + 1, width // 5 + 1, 3))
    return np.kron(coarse, np.ones((5, 5, 1)))[:height, :width].astype(np.uint8)


def pixel_values(views: Array, mean: float | list[float], std: float | list[float]) -> Any:
    values = (views / 255.0 - np.array(mean)) / np.array(std)
    return torch.tensor(values.transpose(0, 3, 1, 2), dtype=torch.float32)


@pytest.mark.parametrize(("tile", "patch", "factor"), [(60, 10, 3), (44, 7, 2), (32, 8, 4)])
def test_idefics3(tile: int, patch: int, factor: int, tmp_path: Path) -> None:
    from transformers.models.idefics3 import modeling_idefics3 as idefics3

    text = {"hidden_size": 40, "vocab_size": 288, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {
        "hidden_size": 48, "intermediate_size": 76, "num_hidden_layers": 3, "num_attention_heads": 3,
        "image_size": tile, "patch_size": patch, "layer_norm_eps": 1e-6,
        "hidden_act": "gelu_pytorch_tanh", "attn_implementation": "eager",
    }  # fmt: skip
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", **text}, vision_config=vision, scale_factor=factor
    )
    config.vision_config._attn_implementation = "eager"
    tower = randomise(idefics3.Idefics3VisionTransformer(config.vision_config), 21)
    connector = randomise(idefics3.Idefics3Connector(config), 22)
    spec = TileSpec(
        image_size=tile, patch=patch, factor=factor, n_layers=3, width=48, n_heads=3, n_kv_heads=3,
        n_ff=76, n_embd=40, longest=3 * tile,
    )  # fmt: skip
    names = {r"modality_projection\.proj\.weight": "mm.model.fc.weight"}
    eps = {"clip.vision.attention.layer_norm_epsilon": 1e-6}
    ours = write_tiled(spec, [(tower, SIGLIP_NAMES), (connector, names)], eps, tmp_path / "mmproj.gguf")

    processor = transformers.Idefics3ImageProcessor(
        size={"longest_edge": 3 * tile}, max_image_size={"longest_edge": tile}
    )
    for seed, (width, height) in enumerate([(70, 51), (33, 90), (64, 64)]):
        image = picture(width, height, seed)
        views = ours.preprocess(image)
        theirs = processor(image, return_tensors="np", return_row_col_info=True)
        u8 = np.rint((theirs["pixel_values"][0].transpose(0, 2, 3, 1) * 0.5 + 0.5) * 255)
        assert views.shape == u8.shape
        assert np.abs(views - u8).max() <= 1

        with torch.no_grad():
            # transformers from 4.55 on computes position ids wrongly in float32; patch i has position i.
            embeddings = tower.embeddings
            x = embeddings.patch_embedding(pixel_values(views, 0.5, 0.5)).flatten(2).transpose(1, 2)
            x = tower.encoder(inputs_embeds=x + embeddings.position_embedding.weight)[0]
            expected = connector(tower.post_layernorm(x)).reshape(-1, 40).numpy()
        assert relative_error(ours.encode(image), expected) < TOLERANCE

        from transformers.models.idefics3.processing_idefics3 import get_image_prompt_string

        rows, cols = theirs["rows"][0][0], theirs["cols"][0][0]
        around, whole = "<fake_token_around_image>", "<global-img>"
        prompt = get_image_prompt_string(rows, cols, spec.cells**2, around, "#", whole)
        parts = ours.plan(width, height)["parts"]
        assert "".join("#" * part["n_rows"] + part["text"] for part in parts) == prompt


@pytest.mark.parametrize("six_billion", [False, True])
@pytest.mark.parametrize(("tile", "patch", "n_heads"), [(40, 10, 4), (28, 7, 3)])
def test_internvl(six_billion: bool, tile: int, patch: int, n_heads: int, tmp_path: Path) -> None:
    width = 16 * n_heads
    vision = {
        "hidden_size": width, "intermediate_size": 90, "num_hidden_layers": 3,
        "num_attention_heads": n_heads, "image_size": [tile, tile], "patch_size": [patch, patch],
        "layer_norm_eps": 1e-6, "norm_type": "rms_norm" if six_billion else "layer_norm",
        "use_qk_norm": six_billion, "attention_bias": not six_billion, "hidden_act": "gelu",
    }  # fmt: skip
    text = {
        "model_type": "qwen2", "hidden_size": 36, "vocab_size": 288, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 40,
    }  # fmt: skip
    config = transformers.InternVLConfig(vision_config=vision, text_config=text, attn_implementation="eager")
    model = randomise(transformers.InternVLModel(config), 31)
    spec = internvl(
        image_size=tile, patch=patch, n_layers=3, width=width, n_heads=n_heads, n_kv_heads=n_heads,
        n_ff=90, n_embd=36, max_tiles=5,
    )  # fmt: skip
    parts = [
        (model.vision_tower, INTERNVIT_NAMES),
        (model.multi_modal_projector, INTERNVL_PROJECTOR_NAMES),
    ]
    eps = {"clip.vision.attention.layer_norm_epsilon": 1e-6}
    ours = write_tiled(spec, parts, eps, tmp_path / "mmproj.gguf")
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    processor = transformers.GotOcr2ImageProcessor(
        size={"height": tile, "width": tile}, crop_to_patches=True, min_patches=1, max_patches=5,
        image_mean=mean, image_std=std,
    )  # fmt: skip
    for seed, (w, h) in enumerate([(70, 51), (33, 90), (tile, tile)]):
        image = picture(w, h, seed)
        views = ours.preprocess(image)
        theirs = processor(image, return_tensors="np")["pixel_values"].transpose(0, 2, 3, 1)
        u8 = np.rint((theirs * np.array(std) + np.array(mean)) * 255)
        assert views.shape == u8.shape
        assert np.abs(views - u8).max() <= 1
        with torch.no_grad():
            expected = model.get_image_features(
                pixel_values=pixel_values(views, mean, std),
                vision_feature_layer=-1,
                vision_feature_select_strategy="default",
            )
        assert relative_error(ours.encode(image), expected.reshape(-1, 36).numpy()) < TOLERANCE
