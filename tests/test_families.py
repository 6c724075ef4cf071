"""Qwen and Gemma 3: sizes of real pictures, plans, broken files; what they compute is in test_golden.py and
test_hf.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_families import File, decoder, gemma_tower, qwen_tower

from trimtok_cpp import _core
from trimtok_cpp.errors import ModelFormatError, NumericsError, UnsupportedError
from trimtok_cpp.templates import ChatTemplate

KINDS = ("qwen2vl", "qwen25vl", "qwen3vl")
REAL = {
    "qwen2vl": qwen_tower("qwen2vl"),
    "qwen25vl": qwen_tower("qwen25vl"),
    "qwen3vl": qwen_tower("qwen3vl", patch=16),
    "gemma3": gemma_tower(896, 14, None),
}


def load(file: File, tmp_path: Path) -> Any:
    return _core.Tower(file.write(tmp_path / "mmproj.gguf"), 2)


@pytest.mark.parametrize(
    ("kind", "processor"),
    [("qwen2vl", "qwen2vl"), ("qwen25vl", "qwen2vl"), ("qwen3vl", "qwen3vl"), ("gemma3", "gemma896")],
)
def test_golden_preprocessing(kind: str, processor: str, fixtures: Path, tmp_path: Path) -> None:
    tower = load(REAL[kind], tmp_path)
    folder = fixtures / "preprocess"
    images = json.loads((folder / "expected.json").read_text())["images"]
    assert len(images) == 12
    for info in images:
        image = np.asarray(Image.open(folder / info["file"]).convert("RGB"))
        expected = info["results"][processor]
        plan = tower.plan(info["width"], info["height"])
        assert (plan["n_views"], plan["n_rows"]) == (expected["views"], expected["tokens"]), info["file"]
        assert [plan["view_width"], plan["view_height"]] == expected["view_wh"]
        views = np.ascontiguousarray(tower.preprocess(image).transpose(0, 3, 1, 2))
        at = expected["crop"]
        part = views[at["view"], :, at["y"] : at["y"] + 24, at["x"] : at["x"] + 24]
        assert np.array_equal(part, np.load(folder / at["file"])), info["file"]
        assert hashlib.sha256(views.tobytes()).hexdigest() == expected["u8_sha256_all"], info["file"]


# Spec 12.1: picture, Qwen2-VL and Qwen2.5-VL, Qwen3-VL, and Qwen2-VL with llama.cpp's limits.
SIZES = [
    ((640, 480), (644, 476, 391), (640, 480, 300), (644, 476, 391)),
    ((1920, 1080), (1932, 1092, 2691), (1920, 1088, 2040), (1932, 1092, 2691)),
    ((336, 336), (336, 336, 144), (320, 320, 100), (336, 336, 144)),
    ((28, 28), (56, 56, 4), (256, 256, 64), (84, 84, 9)),
    ((100, 50), (112, 56, 8), (384, 192, 72), (112, 56, 8)),
    ((42, 42), (56, 56, 4), (256, 256, 64), (84, 84, 9)),
    ((70, 70), (56, 56, 4), (256, 256, 64), (84, 84, 9)),
    ((4000, 3000), (4004, 2996, 15301), (4000, 3008, 11750), (2044, 1540, 4015)),
]


@pytest.mark.parametrize(("size", "qwen2", "qwen3", "narrow"), SIZES)
def test_sizes(size: tuple[int, int], qwen2: Any, qwen3: Any, narrow: Any, tmp_path: Path) -> None:
    for kind, expected in (("qwen2vl", qwen2), ("qwen25vl", qwen2), ("qwen3vl", qwen3)):
        plan = load(REAL[kind], tmp_path).plan(*size)
        assert (plan["view_width"], plan["view_height"], plan["n_rows"]) == expected
    width, height = _core.smart_resize(*size, 28, 6272, 3211264)
    assert (width, height, width * height // 784) == narrow


def test_extreme_aspects() -> None:
    # The short side is rounded up to a whole cell first, so the area is within the limits; transformers
    # rounds it to 0 and then enlarges the picture.
    assert _core.smart_resize(200, 1, 28, 3136, 12845056) == (196, 28)
    assert _core.smart_resize(2000, 10, 28, 3136, 12845056) == (1988, 28)
    assert _core.smart_resize(1, 200, 32, 65536, 16777216) == (32, 3648)
    for size in ((201, 1), (1, 46000)):
        with pytest.raises(ValueError, match="factor of at most 200"):
            _core.smart_resize(*size, 28, 3136, 12845056)
    with pytest.raises(ValueError, match="limits in order"):
        _core.smart_resize(10, 10, 28, 5, 4)


def test_window_order() -> None:
    """Spec 12.5, and windows larger than the grid."""
    cells, starts = _core.window_order(6, 5, 4)
    assert cells == [
        0, 1, 2, 3, 6, 7, 8, 9, 12, 13, 14, 15, 18, 19, 20, 21, 4, 5, 10, 11, 16, 17, 22, 23,
        24, 25, 26, 27, 28, 29,
    ]  # fmt: skip
    assert starts == [0, 16, 24, 28, 30]
    assert _core.window_order(3, 2, 9) == ([0, 1, 2, 3, 4, 5], [0, 6])
    with pytest.raises(ValueError, match="at least 1"):
        _core.window_order(3, 0, 4)


def test_m_rope_positions(tmp_path: Path) -> None:
    """Spec 12.6, and where kept rows and the text behind them lie under both policies."""
    lm = decoder("qwen2vl").write(tmp_path / "lm.gguf")
    vision = qwen_tower("qwen2vl", n_embd=32).write(tmp_path / "mmproj.gguf")
    core = _core.Model(lm, vision)
    plan = core.plan("\ufdd1", [(84, 56)])
    first = plan["segments"][0]["count"]
    rows = plan["positions"][:, first : first + 6] - first
    assert rows.T.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 0], [0, 1, 1], [0, 1, 2]]
    assert plan["positions"][:, first + 6].tolist() == [first + 3] * 3
    assert plan["next_position"] == plan["n_rows"] - 3
    kept = core.plan("\ufdd1", [(84, 56)], kept=[[1, 3]], policy="original")
    assert (kept["positions"][:, first : first + 2] - first).T.tolist() == [[0, 0, 1], [0, 1, 0]]
    assert kept["next_position"] == plan["next_position"]
    moved = core.plan("\ufdd1", [(84, 56)], kept=[[1, 3]], policy="compact")
    assert np.array_equal(moved["positions"][:, : first + 2], kept["positions"][:, : first + 2])
    assert moved["positions"][:, first + 2].tolist() == [first + 2] * 3
    assert moved["next_position"] == plan["next_position"] - 1
    none = core.plan("\ufdd1", [(84, 56)], kept=[[]], policy="compact")
    assert none["positions"][0].tolist() == list(range(none["n_rows"]))
    with pytest.raises(ValueError, match=r"\[kept\] has 2 lists"):
        core.plan("\ufdd1", [(84, 56)], kept=[[], []])


@pytest.mark.parametrize("kind", [*KINDS, "gemma3"])
@pytest.mark.parametrize("size", [(640, 480), (97, 301), (1, 1), (5, 900)])
def test_boxes_tile_the_picture(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    plan = load(REAL[kind], tmp_path).plan(*size)
    boxes = plan["boxes"].astype(np.float64)
    assert len(boxes) == plan["n_rows"]
    assert ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum() == pytest.approx(
        size[0] * size[1], rel=1e-4
    )
    assert boxes[0, :2].tolist() == [0, 0]
    assert boxes[-1, 2:] == pytest.approx(size, rel=1e-5)
    assert (np.diff(boxes[:, 1]) >= 0).all()


def test_plans_wrap_the_rows(tmp_path: Path) -> None:
    for kind in KINDS:
        tower = load(REAL[kind], tmp_path)
        texts = [(part["text"], part["n_rows"]) for part in tower.plan(336, 336)["parts"]]
        assert texts == [("<|vision_start|>", 0), ("", texts[1][1]), ("<|vision_end|>", 0)]
        assert tower.info["placeholder"] == "<|vision_start|><|image_pad|><|vision_end|>"
    tower = load(REAL["gemma3"], tmp_path)
    texts = [(part["text"], part["n_rows"]) for part in tower.plan(3, 999)["parts"]]
    assert texts == [("\n\n<start_of_image>", 0), ("", 256), ("<end_of_image>\n\n", 0)]
    assert tower.info["bidirectional"]
    assert set(_core.supported_projectors()) >= {
        "qwen2vl_merger", "qwen2.5vl_merger", "qwen3vl_merger", "gemma3",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, "gemma3"])
def test_result_does_not_depend_on_threads(kind: str, tmp_path: Path) -> None:
    file = gemma_tower() if kind == "gemma3" else qwen_tower(kind)
    path = file.write(tmp_path / "mmproj.gguf")
    image = np.random.default_rng(5).integers(0, 256, (100, 170, 3)).astype(np.uint8)
    expected = _core.Tower(path, 1).encode(image)
    assert np.isfinite(expected).all()
    for n_threads in (2, 5):
        assert np.array_equal(_core.Tower(path, n_threads).encode(image), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (200, 1), (28, 5000)])
def test_extreme_pictures(kind: str, size: tuple[int, int], tmp_path: Path) -> None:
    tower = load(REAL[kind], tmp_path)
    rows = tower.encode(np.full((size[1], size[0], 3), 77, np.uint8))
    assert len(rows) == tower.plan(*size)["n_rows"]
    assert np.isfinite(rows).all()


# --- files that cannot be served


def broken(file: File, change: dict[str, Any], drop: str | None = None) -> File:
    """`change` holds keys and shapes; None takes a key away."""
    keys = dict(file.keys)
    for name, value in change.items():
        if name in file.shapes:
            continue
        if value is None:
            del keys[name]
        else:
            keys[name] = value
    shapes = {name: change.get(name, shape) for name, shape in file.shapes.items() if name != drop}
    return File(file.arch, keys, shapes)


def test_every_tensor_is_needed(tmp_path: Path) -> None:
    optional = (".bias", "v.deepstack.1.fc1.weight", "ffn_gate.weight")
    for file in (*(qwen_tower(kind) for kind in KINDS), gemma_tower()):
        for name in file.shapes:
            if name.endswith(optional):
                continue
            with pytest.raises(ModelFormatError, match=name.replace("attn_qkv", "attn_q")):
                load(broken(file, {}, drop=name), tmp_path)


TOWER_FAULTS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("qwen2vl", {"clip.vision.attention.head_count": 4}, ModelFormatError, "multiple of 4"),
    ("qwen2vl", {"clip.vision.spatial_merge_size": 0}, ModelFormatError, "spatial_merge_size"),
    ("qwen2vl", {"clip.vision.spatial_merge_size": 65}, ModelFormatError, "spatial_merge_size"),
    ("qwen2vl", {"clip.vision.spatial_merge_size": 3}, ModelFormatError, r"mm\.0\.weight"),
    ("qwen2vl", {"clip.vision.patch_size": 513}, UnsupportedError, "at most 512 pixels"),
    ("qwen2vl", {"v.patch_embd.weight.1": (8, 3, 14, 7)}, ModelFormatError, r"v\.patch_embd\.weight\.1"),
    ("qwen2vl", {"mm.2.weight": (4, 33)}, ModelFormatError, r"mm\.2\.weight"),
    ("qwen25vl", {"clip.vision.n_wa_pattern": None}, ModelFormatError, "n_wa_pattern"),
    ("qwen25vl", {"clip.vision.n_wa_pattern": 0}, ModelFormatError, "n_wa_pattern"),
    ("qwen25vl", {"clip.vision.window_size": 27}, ModelFormatError, "window_size is 27.*28 pixels"),
    ("qwen25vl", {"clip.vision.window_size": 4097}, ModelFormatError, "window_size"),
    ("qwen25vl", {"v.blk.0.ffn_gate.weight": (11, 8)}, ModelFormatError, r"v\.blk\.0\.ffn_gate"),
    ("qwen3vl", {"v.position_embd.weight": (24, 8)}, ModelFormatError, "24 rows, expected a square"),
    ("qwen3vl", {"v.deepstack.1.norm.weight": (8,)}, ModelFormatError, r"v\.deepstack\.1\.norm"),
    ("qwen3vl", {"v.deepstack.1.fc2.weight": (5, 32)}, ModelFormatError, r"v\.deepstack\.1\.fc2"),
    ("gemma3", {"clip.vision.projector.scale_factor": 3}, ModelFormatError, "multiple of the 3"),
    ("gemma3", {"clip.vision.projector.scale_factor": 0}, ModelFormatError, "scale_factor"),
    ("gemma3", {"clip.vision.projector.scale_factor": 5}, ModelFormatError, "scale_factor"),
    ("gemma3", {"v.position_embd.weight": (15, 8)}, ModelFormatError, r"v\.position_embd\.weight"),
    ("gemma3", {"mm.input_projection.weight": (4, 8)}, ModelFormatError, r"mm\.input_projection\.weight"),
]


@pytest.mark.parametrize(("kind", "change", "error", "words"), TOWER_FAULTS, ids=str)
def test_bad_towers_are_named(
    kind: str, change: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    file = gemma_tower() if kind == "gemma3" else qwen_tower(kind)
    with pytest.raises(error, match=words):
        load(broken(file, change), tmp_path)


def test_old_qwen2vl_files(tmp_path: Path) -> None:
    """They lack the projector type and hold a dummy table of positions."""
    file = broken(qwen_tower("qwen2vl"), {"clip.projector_type": None, "clip.has_qwen2vl_merger": True})
    file.shapes["v.position_embd.weight"] = (10, 10)
    for i in range(2):  # and the swapped names of the FFN matrices
        up, down = (file.shapes.pop(f"v.blk.{i}.ffn_{n}.weight") for n in ("up", "down"))
        up_bias, down_bias = (file.shapes.pop(f"v.blk.{i}.ffn_{n}.bias") for n in ("up", "down"))
        file.shapes |= {f"v.blk.{i}.ffn_down.weight": up, f"v.blk.{i}.ffn_up.weight": down}
        file.shapes |= {f"v.blk.{i}.ffn_down.bias": up_bias, f"v.blk.{i}.ffn_up.bias": down_bias}
    assert load(file, tmp_path).info["family"] == "Qwen2-VL"


@pytest.mark.parametrize("kind", [*KINDS, "gemma3"])
def test_damaged_weights_are_reported(kind: str, tmp_path: Path) -> None:
    file = gemma_tower() if kind == "gemma3" else qwen_tower(kind)
    name = "v.blk.0.attn_out.weight"
    bad = {name: np.full(file.shapes[name], np.nan)}
    tower = _core.Tower(file.write(tmp_path / "mmproj.gguf", **bad), 1)
    with pytest.raises(NumericsError, match="weights of the vision tower may be damaged"):
        tower.encode(np.zeros((60, 60, 3), np.uint8))


DECODER_FAULTS: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("qwen2vl", {"rope.dimension_sections": None}, ModelFormatError, r"dimension_sections is \[\].*is 6"),
    ("qwen2vl", {"rope.dimension_sections": [2, 2]}, ModelFormatError, r"\[2, 2\]"),
    ("qwen2vl", {"rope.dimension_sections": [2, 2, 3, 0]}, ModelFormatError, r"\[2, 2, 3, 0\]"),
    ("qwen2vl", {"rope.dimension_sections": [2, 2, 1, 1]}, ModelFormatError, r"\[2, 2, 1, 1\]"),
    ("qwen2vl", {"rope.dimension_sections": [-2, 4, 4, 0]}, ModelFormatError, r"\[-2, 4, 4, 0\]"),
    ("qwen2vl", {"rope.dimension_sections": 6}, ModelFormatError, "dimension_sections"),
    ("qwen2vl", {"blk.1.attn_k.bias": (23,)}, ModelFormatError, r"blk\.1\.attn_k\.bias"),
    ("qwen3vl", {"n_deepstack_layers": 4}, ModelFormatError, "n_deepstack_layers"),
    ("qwen3vl", {"rope.dimension_sections": [6, 0, 1, 0]}, ModelFormatError, r"\[6, 0, 1, 0\]"),
    ("qwen3", {"blk.2.attn_q_norm.weight": (48,)}, ModelFormatError, r"blk\.2\.attn_q_norm"),
    ("gemma3", {"attention.sliding_window": 0}, ModelFormatError, "sliding_window"),
    ("gemma3", {"attention.sliding_window_pattern": 0}, ModelFormatError, "sliding_window_pattern"),
    ("gemma3", {"attention.sliding_window_pattern": [1, 0]}, ModelFormatError, "sliding_window_pattern"),
    ("gemma3", {"rope.freq_base_swa": 0.0}, ModelFormatError, "freq_base_swa"),
    ("gemma3", {"final_logit_softcapping": 30.0}, UnsupportedError, "final_logit_softcapping"),
    ("gemma3", {"attn_logit_softcapping": -1.0}, ModelFormatError, "attn_logit_softcapping"),
    ("gemma3", {"blk.0.post_ffw_norm.weight": (31,)}, ModelFormatError, r"post_ffw_norm"),
]


@pytest.mark.parametrize(("arch", "change", "error", "words"), DECODER_FAULTS, ids=str)
def test_bad_decoders_are_named(
    arch: str, change: dict[str, Any], error: type[Exception], words: str, tmp_path: Path
) -> None:
    file = decoder(arch)
    named = {name if name in file.shapes else f"{arch}.{name}": value for name, value in change.items()}
    with pytest.raises(error, match=words):
        _core.Model(broken(file, named).write(tmp_path / "lm.gguf"))


@pytest.mark.parametrize("arch", ["qwen2vl", "qwen3", "qwen3vl", "gemma3"])
def test_every_decoder_tensor_is_needed(arch: str, tmp_path: Path) -> None:
    file = decoder(arch, n_layers=1)
    for name in file.shapes:
        with pytest.raises(ModelFormatError, match=name):
            _core.Model(broken(file, {}, drop=name).write(tmp_path / "lm.gguf"))


def test_pairs_that_do_not_fit(tmp_path: Path) -> None:
    lm = decoder("qwen2vl").write(tmp_path / "lm.gguf")
    vision = qwen_tower("qwen3vl", n_embd=32).write(tmp_path / "mmproj.gguf")
    with pytest.raises(ValueError, match=r"\(\+1 extra\).*\(\+0 extra\)"):
        _core.Model(lm, vision)


@pytest.mark.parametrize("arch", ["qwen2vl", "qwen3", "qwen3vl", "gemma3"])
def test_chunks_do_not_matter(arch: str, isa: str, tmp_path: Path) -> None:
    """Rows of two pictures between texts: one batch, chunks, one row at a time (Gemma's pictures stay whole).

    Without its window Gemma would see everything: the text between the pictures is longer than it.
    """
    core = _core.Model(decoder(arch).write(tmp_path / "lm.gguf"), kv_dtype="f32", compute="f32", n_threads=2)
    assert core.info()["isa"] == isa
    rng, n = np.random.default_rng(8), 40
    n_pos = 3 if arch in ("qwen2vl", "qwen3vl") else 1
    rows = rng.normal(0, 1, (n, 64 if arch == "qwen3vl" else 32)).astype(np.float32)
    positions = np.sort(rng.choice(90, (n_pos, n), replace=True), axis=1).astype(np.int32)
    visible = np.arange(1, n + 1, dtype=np.int32)
    if arch == "gemma3":
        visible[3:12], visible[25:31] = 12, 31
    whole = core.logits(rows, positions, n, 512, visible_end=visible)
    for chunk in (1, 7, 13):
        parts = core.logits(rows, positions, n, chunk, visible_end=visible)
        assert np.abs(parts - whole).max() < 1e-4 * np.abs(whole).max()
    causal = core.logits(rows, positions, n, 512)
    assert (np.abs(causal - whole).max() > 1e-2) == (arch == "gemma3")


def test_gemma_patterns(tmp_path: Path) -> None:
    """A period, flags per layer, and no window: the same file, other layers."""
    rows = np.random.default_rng(2).normal(0, 1, (30, 32)).astype(np.float32)

    def logits(**keys: Any) -> np.ndarray:
        file = broken(decoder("gemma3", 6), {f"gemma3.{name}": value for name, value in keys.items()})
        core = _core.Model(file.write(tmp_path / "lm.gguf"), kv_dtype="f32", compute="f32", n_threads=1)
        return core.logits(rows, np.arange(30, dtype=np.int32))

    default = logits()
    assert np.array_equal(default, logits(**{"attention.sliding_window_pattern": 6}))
    flags = {"attention.sliding_window_pattern": [True, True, True, True, True, False]}
    assert np.array_equal(default, logits(**flags))
    assert not np.allclose(default, logits(**{"attention.sliding_window_pattern": 2}), atol=1e-3)
    assert not np.allclose(default, logits(**{"attention.sliding_window": None}), atol=1e-3)


# --- templates for files without one

IMAGE, Q = {"type": "image"}, {"type": "text", "text": "What differs between the two pictures?"}
QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"


def test_fallback_templates(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": [IMAGE, IMAGE, Q]}]
    asked = f"<|im_start|>user\n{QWEN_PICTURE}{QWEN_PICTURE}{Q['text']}<|im_end|>\n<|im_start|>assistant\n"
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    for kind, expected in (("qwen2vl", system + asked), ("qwen25vl", system + asked), ("qwen3vl", asked)):
        template = ChatTemplate(load(REAL[kind], tmp_path).info["fallback_template"])
        assert template.render(messages) == expected
        own = [{"role": "system", "content": "Be brief."}, *messages]
        assert template.render(own) == "<|im_start|>system\nBe brief.<|im_end|>\n" + asked
    template = ChatTemplate(load(REAL["gemma3"], tmp_path).info["fallback_template"])
    picture = "<start_of_image>"
    asked = f"{picture}{picture}{Q['text']}<end_of_turn>\n<start_of_turn>model\n"
    assert template.render(messages, bos_token="<bos>") == f"<bos><start_of_turn>user\n{asked}"
    own = [{"role": "system", "content": "S"}, *messages]
    assert template.render(own, bos_token="<bos>") == f"<bos><start_of_turn>user\nS\n\n{asked}"
    with pytest.raises(ValueError, match="roles must alternate"):
        template.render([*messages, *messages])
