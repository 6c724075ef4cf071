"""Towers that cut pictures into tiles (SmolVLM, InternVL) against plain numpy and Pillow (tiny_tiles.py)."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_tiles import TileSpec, internvl, make_tiled, numpy_rows, numpy_tiled, tile_grid, tile_views
from tiny_tower import Array, TinyTower, write_tower

from trimtok_cpp import Model, Pruning, _core
from trimtok_cpp.errors import ModelFormatError
from trimtok_cpp.images import load_image
from trimtok_cpp.templates import ChatTemplate

TOLERANCE = 2e-5  # of the largest absolute value
TAPS = ("vision_out", "view_rows", "rows")

SPECS = {
    "smolvlm": TileSpec(),
    "smolvlm-q8_0": TileSpec(qtype="Q8_0"),
    "smolvlm-swapped-ffn": TileSpec(qtype="F16", swapped_ffn=True, keys=(("general.type", None),)),
    "smolvlm-factor-4": TileSpec(factor=4),
    "smolvlm-factor-1": TileSpec(factor=1, n_layers=1),
    "smolvlm-three-of-nine": TileSpec(image_size=64, factor=3, longest=150, n_layers=1),
    "smolvlm-uneven-longest": TileSpec(longest=100),
    "smolvlm-one-tile": TileSpec(longest=30),
    "smolvlm-smaller-than-a-tile": TileSpec(longest=17),
    "smolvlm-no-longest": TileSpec(longest=120, keys=(("clip.vision.preproc_image_size", None),)),
    "internvl": internvl(),
    "internvl-f16": internvl(qtype="F16", factor=4),
    "internvl-no-layer-scale": internvl(layer_scale=False),
    "internvl-6b": internvl(rms_norm=True, query_norm="full"),
    "internvl-6b-q8_0": internvl(rms_norm=True, query_norm="full", qtype="Q8_0", fused_qkv=True),
    "internvl-norm-per-head": internvl(query_norm="head"),
    "internvl-grouped-norms": internvl(query_norm="full", n_heads=6, n_kv_heads=2),
    "internvl-two-to-four": internvl(min_tiles=2, max_tiles=4),
    "internvl-default-tiles": internvl(
        max_tiles=12,
        n_layers=1,
        keys=(("clip.vision.preproc_min_tiles", None), ("clip.vision.preproc_max_tiles", None)),
    ),
}
SIZES = [(61, 40), (31, 77), (30, 30), (200, 9)]


def relative_error(actual: Array, expected: Array) -> float:
    assert actual.shape == expected.shape
    error = float(np.abs(actual - expected).max() / np.abs(expected).max())
    return error if math.isfinite(error) else math.inf


def picture(width: int, height: int, seed: int = 3) -> Array:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + 4 * c) + y / (5 - c)) for c in range(3)]
    noise = rng.normal(0, 25, (height, width, 3))
    return np.clip(128 + 90 * np.stack(waves, -1) + noise, 0, 255).astype(np.uint8)


def load(spec: TileSpec, tmp_path: Path, seed: int = 1) -> tuple[Any, TinyTower]:
    tiny = make_tiled(spec, seed)
    return _core.Tower(write_tower(tiny, tmp_path / "mmproj.gguf"), 2), tiny


# --- right answers


@pytest.mark.parametrize("name", SPECS)
def test_rows_match_numpy(name: str, tmp_path: Path) -> None:
    spec = SPECS[name]
    tower, tiny = load(spec, tmp_path, seed=len(name))
    for width, height in SIZES:
        image = picture(width, height)
        views = tile_views(spec, image)
        assert np.array_equal(tower.preprocess(image), np.array(views))
        rows, taps = tower.encode(image, taps=True)
        expected = numpy_tiled(tiny, image)
        for tap in TAPS:
            error = relative_error((taps | {"rows": rows})[tap], expected[tap])
            assert error < TOLERANCE, f"{tap}, {width}x{height}"
        plan = tower.plan(width, height)
        assert plan["n_views"] == len(views)
        assert plan["n_rows"] == len(rows) == len(plan["boxes"]) == len(views) * spec.cells**2


@pytest.mark.parametrize(
    "name", ["smolvlm", "smolvlm-q8_0", "internvl", "internvl-6b", "internvl-grouped-norms"]
)
def test_every_isa(name: str, isa: str, tmp_path: Path) -> None:
    tower, tiny = load(SPECS[name], tmp_path)
    assert tower.info["isa"] == isa
    image = picture(61, 40)
    rows, taps = tower.encode(image, taps=True)
    expected = numpy_tiled(tiny, image)
    for tap in TAPS:
        assert relative_error((taps | {"rows": rows})[tap], expected[tap]) < TOLERANCE, tap


def test_views_of_several_groups(tmp_path: Path) -> None:
    """37 views: more than are encoded together."""
    spec = internvl(min_tiles=36, max_tiles=36, n_layers=1)
    tower, tiny = load(spec, tmp_path)
    image = picture(70, 60)
    assert tower.plan(70, 60)["n_views"] == 37
    assert relative_error(tower.encode(image), numpy_tiled(tiny, image)["rows"]) < TOLERANCE


def test_the_tolerance_sees_common_mistakes(tmp_path: Path) -> None:
    for name, mistakes in {
        "smolvlm": {"act": "gelu_erf", "n_layers": 1},
        "internvl": {"act": "gelu", "layer_scale": False},
        "internvl-6b": {"query_norm": ""},
    }.items():
        tower, tiny = load(SPECS[name], tmp_path)
        image = picture(61, 40)
        rows = tower.encode(image)
        for field, value in mistakes.items():
            wrong = TinyTower(tiny.spec, tiny.keys, tiny.tensors)
            object.__setattr__(wrong, "spec", type(tiny.spec)(**(vars(tiny.spec) | {field: value})))
            assert relative_error(rows, numpy_tiled(wrong, image)["rows"]) > 3 * TOLERANCE, (name, field)
    # The class token with the last position, after the patches.
    tower, tiny = load(SPECS["internvl"], tmp_path)
    table, qtype = tiny.tensors["v.position_embd.weight"]
    tiny.tensors["v.position_embd.weight"] = (np.roll(table, 1, 0), qtype)
    assert relative_error(tower.encode(image), numpy_tiled(tiny, image)["rows"]) > 100 * TOLERANCE


# --- real sizes


def real_size(tmp_path: Path, family: str, tile: int, patch: int, factor: int, longest: int = 0) -> Any:
    """The geometry of a released model with next to no weights."""
    options: dict[str, Any] = {
        "image_size": tile, "patch": patch, "factor": factor, "n_layers": 1, "width": 4, "n_heads": 1,
        "n_kv_heads": 1, "head_dim": 4, "n_ff": 5, "n_hidden": 3, "n_embd": 2,
    }  # fmt: skip
    if family == "internvl":
        return load(internvl(max_tiles=12, **options), tmp_path)[0]
    return load(TileSpec(longest=longest, **options), tmp_path)[0]


def released(name: str, tmp_path: Path) -> Any:
    return {
        "smolvlm512": lambda: real_size(tmp_path, "idefics3", 512, 16, 4, 2048),
        "smolvlm384": lambda: real_size(tmp_path, "idefics3", 384, 14, 3, 1536),
        "idefics3": lambda: real_size(tmp_path, "idefics3", 364, 14, 2, 1456),
        "internvl448": lambda: real_size(tmp_path, "internvl", 448, 14, 2),
    }[name]()


@pytest.mark.parametrize("processor", ["smolvlm512", "internvl448"])
def test_golden_preprocessing(processor: str, fixtures: Path, tmp_path: Path) -> None:
    tower = released(processor, tmp_path)
    folder = fixtures / "preprocess"
    images = json.loads((folder / "expected.json").read_text())["images"]
    assert len(images) == 12
    for info in images:
        # The transparent picture: SmolVLM's processor lays it over white, the others drop its alpha.
        image = load_image(folder / info["file"], keep_alpha=tower.info["composite_alpha"])
        assert image.shape[2] == (4 if info["mode"] == "RGBA" and tower.info["composite_alpha"] else 3)
        expected = info["results"][processor]
        plan = tower.plan(info["width"], info["height"])
        assert (plan["n_views"], plan["n_rows"]) == (expected["views"], expected["tokens"])
        assert [plan["view_width"], plan["view_height"]] == expected["view_wh"]
        views = np.ascontiguousarray(tower.preprocess(image).transpose(0, 3, 1, 2))
        at = expected["crop"]
        part = views[at["view"], :, at["y"] : at["y"] + 24, at["x"] : at["x"] + 24]
        assert np.array_equal(part, np.load(folder / at["file"])), info["file"]
        assert hashlib.sha256(views.tobytes()).hexdigest() == expected["u8_sha256_all"], info["file"]


@pytest.mark.parametrize(
    ("name", "size", "n_views", "n_rows"),
    [
        ("smolvlm512", (640, 480), 13, 832),
        ("smolvlm512", (1920, 1080), 13, 832),
        ("smolvlm512", (512, 512), 17, 1088),
        ("smolvlm512", (300, 1000), 9, 576),
        ("smolvlm512", (3000, 300), 5, 320),
        ("smolvlm384", (640, 480), 13, 1053),
        ("smolvlm384", (1920, 1080), 13, 1053),
        ("smolvlm384", (512, 512), 17, 1377),
        ("smolvlm384", (300, 1000), 9, 729),
        ("smolvlm384", (3000, 300), 5, 405),
        ("idefics3", (640, 480), 13, 13 * 169),
        ("internvl448", (640, 480), 13, 3328),
        ("internvl448", (800, 600), 13, 3328),
        ("internvl448", (1920, 1080), 9, 2304),
        ("internvl448", (448, 448), 1, 256),
        ("internvl448", (1000, 1000), 10, 2560),
        ("internvl448", (2000, 2000), 10, 2560),
        ("internvl448", (300, 1000), 4, 1024),
        ("internvl448", (100, 400), 5, 1280),
    ],
)
def test_numbers_of_rows(name: str, size: tuple[int, int], n_views: int, n_rows: int, tmp_path: Path) -> None:
    plan = released(name, tmp_path).plan(*size)
    assert (plan["n_views"], plan["n_rows"]) == (n_views, n_rows)


def test_grids_of_many_sizes(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    sizes = [(int(w), int(h)) for w, h in np.exp(rng.uniform(0, 9.6, (300, 2)))]
    sizes += [(46000, 1), (1, 46000), (1, 1), (5, 4), (4, 5), (1000, 800), (9, 2), (448, 896)]
    for name, spec in {
        "smolvlm512": TileSpec(image_size=512, patch=16, longest=2048),
        "smolvlm384": TileSpec(image_size=384, patch=14, longest=1536),
        "internvl448": internvl(image_size=448, patch=14, max_tiles=12),
    }.items():
        tower = released(name, tmp_path)
        for width, height in sizes:
            cols, rows = tile_grid(spec, width, height)
            expected = 1 if cols * rows == 1 else cols * rows + 1
            assert tower.plan(width, height)["n_views"] == expected, (name, width, height)


# --- how pictures enter the prompt


def text_of(plan: dict[str, Any]) -> str:
    """The parts with rows as [first:end]."""
    return "".join(
        f"[{part['row_start']}:{part['row_start'] + part['n_rows']}]" if part["n_rows"] else part["text"]
        for part in plan["parts"]
    )


def test_markers_of_smolvlm(tmp_path: Path) -> None:
    tower = released("smolvlm512", tmp_path)
    expected, row = "", 0
    for r in (1, 2, 3):
        for c in (1, 2, 3, 4):
            expected += f"<fake_token_around_image><row_{r}_col_{c}>[{row}:{row + 64}]"
            row += 64
        expected += "\n"
    expected += "\n<fake_token_around_image><global-img>[768:832]<fake_token_around_image>"
    assert text_of(tower.plan(640, 480)) == expected
    single = load(SPECS["smolvlm-one-tile"], tmp_path)[0].plan(640, 480)
    assert text_of(single) == "<fake_token_around_image><global-img>[0:4]<fake_token_around_image>"


def test_markers_of_internvl(tmp_path: Path) -> None:
    tower = released("internvl448", tmp_path)
    assert text_of(tower.plan(640, 480)) == "<img>[0:3328]</img>"
    assert text_of(tower.plan(448, 448)) == "<img>[0:256]</img>"


IMAGE = {"type": "image"}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


TALK = [
    {"role": "user", "content": [IMAGE, IMAGE, text("What differs between the two pictures?")]},
    {"role": "assistant", "content": [text("Nothing.")]},
    {"role": "user", "content": [text("And "), IMAGE, text("?")]},
]


def test_fallback_template_of_smolvlm(tmp_path: Path) -> None:
    template = ChatTemplate(load(TileSpec(), tmp_path)[0].info["fallback_template"])
    assert template.render(TALK[:1]) == (
        "<|im_start|>User:<image><image>What differs between the two pictures?<end_of_utterance>\nAssistant:"
    )
    assert template.render([{"role": "SYSTEM", "content": "Be brief."}, *TALK]) == (
        "<|im_start|>System: Be brief.<end_of_utterance>\n"
        "User:<image><image>What differs between the two pictures?<end_of_utterance>\n"
        "Assistant: Nothing.<end_of_utterance>\nUser: And <image>?<end_of_utterance>\nAssistant:"
    )
    assert not template.render(TALK[:1], add_generation_prompt=False).endswith("Assistant:")
    assert template.render([{"role": "user", "content": []}], add_generation_prompt=False) == (
        "<|im_start|>User: <end_of_utterance>\n"
    )


def test_fallback_template_of_internvl(tmp_path: Path) -> None:
    template = ChatTemplate(load(internvl(), tmp_path)[0].info["fallback_template"])
    official = (
        "<|im_start|>system\n你是书生·万象，英文名是InternVL，是由上海人工智能实验室、"  # noqa: RUF001
        "清华大学及多家合作单位联合开发的多模态大语言模型。<|im_end|>\n"
    )
    user = (
        "<|im_start|>user\n<IMG_CONTEXT>\n<IMG_CONTEXT>\nWhat differs between the two pictures?<|im_end|>\n"
    )
    end = "<|im_start|>assistant\n"
    assert template.render(TALK[:1]) == official + user + end
    brief = [{"role": "system", "content": "Be brief."}, *TALK[:1]]
    assert template.render(brief) == "<|im_start|>system\nBe brief.<|im_end|>\n" + user + end


# --- where rows come from


def area(boxes: Array) -> float:
    return float(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum())


@pytest.mark.parametrize("name", ["smolvlm512", "internvl448"])
@pytest.mark.parametrize("size", [(640, 480), (300, 1000), (3, 2), (1000, 10)])
def test_tiles_and_the_whole_view_each_cover_the_picture(
    name: str, size: tuple[int, int], tmp_path: Path
) -> None:
    plan = released(name, tmp_path).plan(*size)
    n = plan["n_rows"] // plan["n_views"]
    boxes = plan["boxes"]
    assert (boxes >= 0).all()
    assert (boxes <= [*size, *size]).all()
    assert area(boxes[-n:]) == pytest.approx(size[0] * size[1], rel=1e-4)
    assert area(boxes[:-n]) == pytest.approx(size[0] * size[1], rel=1e-4)


@pytest.mark.parametrize("size", [(118, 60), (60, 118), (90, 90)])
@pytest.mark.parametrize(
    "spec",
    [TileSpec(n_layers=1, image_size=28), internvl(n_layers=1, image_size=28)],
    ids=["smolvlm", "internvl"],
)
def test_rows_see_the_place_that_their_box_says(
    spec: TileSpec, size: tuple[int, int], tmp_path: Path
) -> None:
    """Layers that add nothing leave a row to its own patches: a spot changes the row whose box it is in."""
    tiny = make_tiled(spec)
    for name in ("attn_out", "ffn_down"):
        for kind in ("weight", "bias"):
            tiny.tensors[f"v.blk.0.{name}.{kind}"][0][:] = 0
    tower = _core.Tower(write_tower(tiny, tmp_path / "mmproj.gguf"), 1)
    (width, height), n = size, spec.cells**2
    boxes = tower.plan(width, height)["boxes"]
    blank = np.full((height, width, 3), 128, np.uint8)
    before = tower.encode(blank)
    first_of_whole, n_tested = len(boxes) - n, 0
    for row, (x0, y0, x1, y1) in enumerate(boxes):
        if min(x1 - x0, y1 - y0) < 6:
            continue
        image = blank.copy()
        x, y = int((x0 + x1) / 2), int((y0 + y1) / 2)
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
        change = np.abs(tower.encode(image) - before).sum(1)
        # The picture is there twice: in the tiles and as a whole.
        tiles, whole = change[:first_of_whole], change[first_of_whole:]
        hit = tiles.argmax() if row < first_of_whole else first_of_whole + whole.argmax()
        assert hit == row
        n_tested += 1
    assert n_tested >= 4


@pytest.mark.parametrize("spec", [TileSpec(n_layers=1), internvl(n_layers=1)], ids=["smolvlm", "internvl"])
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (46000, 1), (1, 46000)])
def test_extreme_pictures(spec: TileSpec, size: tuple[int, int], tmp_path: Path) -> None:
    tower, _ = load(spec, tmp_path)
    rows = tower.encode(np.full((size[1], size[0], 3), 77, np.uint8))
    assert np.isfinite(rows).all()
    assert len(rows) == tower.plan(*size)["n_rows"]


# --- files that cannot be served


@pytest.mark.parametrize(
    ("spec", "keys", "message"),
    [
        (TileSpec(), {"projector.scale_factor": None}, "scale_factor"),
        (TileSpec(), {"projector.scale_factor": 0}, "scale_factor"),
        (TileSpec(), {"projector.scale_factor": 3}, "scale_factor is 3, expected a divisor of the 4 patches"),
        (TileSpec(), {"projector.scale_factor": 4}, r"mm\.model\.fc\.weight"),
        (TileSpec(), {"projector.scale_factor": 2**31}, "scale_factor"),
        (TileSpec(), {"preproc_image_size": 0}, "preproc_image_size"),
        (TileSpec(), {"preproc_image_size": 4000}, "134 tiles a side, expected at most 16"),
        (TileSpec(), {"image_size": 1, "patch_size": 1, "projector.scale_factor": 1}, "tiles a side"),
        (internvl(), {"projector.scale_factor": 8}, "scale_factor"),
        (internvl(), {"preproc_min_tiles": 0}, "preproc_min_tiles"),
        (internvl(), {"preproc_max_tiles": 0}, "preproc_max_tiles"),
        (internvl(), {"preproc_max_tiles": 257}, "preproc_max_tiles"),
        (internvl(min_tiles=4), {"preproc_max_tiles": 3}, "preproc_max_tiles"),
        (internvl(), {"image_size": 8192, "patch_size": 2048, "preproc_max_tiles": 6}, "preproc_max_tiles"),
    ],
)
def test_keys_that_cannot_be_served(
    spec: TileSpec, keys: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tiny = make_tiled(spec)
    for name, value in keys.items():
        tiny.keys[f"clip.vision.{name}"] = value
    tiny.keys = {name: value for name, value in tiny.keys.items() if value is not None}
    with pytest.raises(ModelFormatError, match=message):
        _core.Tower(write_tower(tiny, tmp_path / "mmproj.gguf"), 1)


@pytest.mark.parametrize(
    ("spec", "name", "values", "message"),
    [
        (TileSpec(), "mm.model.fc.weight", None, "is missing"),
        (TileSpec(), "v.position_embd.weight", np.zeros((17, 64)), "shape"),
        (TileSpec(), "v.class_embd", np.zeros(64), r"v\.position_embd\.weight"),
        (TileSpec(), "v.blk.1.ls1.weight", np.zeros(63), "shape"),
        (TileSpec(), "v.blk.1.attn_q_norm.weight", np.zeros(17), "shape"),
        (internvl(), "mm.model.mlp.0.weight", np.zeros(255), "shape"),
        (internvl(), "mm.model.mlp.1.weight", None, "is missing"),
        (internvl(), "mm.model.mlp.3.weight", np.zeros((32, 95)), "shape"),
        (internvl(), "v.blk.0.ls2.weight", np.full(64, np.nan), "finite"),
        (internvl(), "v.class_embd", None, r"v\.position_embd\.weight"),
    ],
)
def test_tensors_that_cannot_be_served(
    spec: TileSpec, name: str, values: Array | None, message: str, tmp_path: Path
) -> None:
    tiny = make_tiled(spec)
    tiny.tensors.pop(name, None)
    if values is not None:
        tiny.tensors[name] = (values.astype(np.float32), make_tiled(spec).tensors["v.patch_embd.bias"][1])
    with pytest.raises(ModelFormatError, match=rf"(?s){message}"):
        _core.Tower(write_tower(tiny, tmp_path / "mmproj.gguf"), 1)


# --- pruning


@pytest.mark.parametrize("policy", ["original", "compact"])
def test_markers_stay_around_tiles_without_rows(policy: str, fixtures: Path) -> None:
    """13 tiles of one picture are one picture: it may end up with a single row, and all its markers."""
    folder = fixtures / "smolvlm"
    model = Model(str(folder / "lm.gguf"))
    picture_path = folder / "images" / "a_photo.png"
    count = model.count_tokens([picture_path], "What is it?")
    settings = Pruning(max_tokens=1, positions=policy)
    result = model.generate([picture_path], "What is it?", max_tokens=1, pruning=settings)
    assert (count.visual_tokens, result.usage.visual_tokens) == (52, 1)
    assert result.usage.prompt_tokens == count - 51
    assert result.pruning is not None
    assert (result.pruning.n_rows, result.pruning.n_kept) == ([52], 1)


@pytest.mark.parametrize(("family", "n_views"), [("smolvlm", 13), ("internvl3", 7)])
def test_grid_pool_pools_inside_every_view(family: str, n_views: int, fixtures: Path) -> None:
    folder = fixtures / family
    model = Model(str(folder / "lm.gguf"))
    image = load_image(folder / "images" / "a_photo.png")
    settings = Pruning(max_tokens=n_views, selector="grid_pool")
    report = model.generate([image], "What is it?", max_tokens=1, pruning=settings).pruning
    assert report is not None
    assert report.kept[0].tolist() == list(range(0, 4 * n_views, 4))
    assert report.pooled is not None
    rows = model._core.encode(image).astype(np.float64)
    means = rows.reshape(n_views, 4, -1).mean(1)
    assert np.abs(report.pooled[0] - means).max() < 1e-5 * np.abs(means).max()


# --- transparent pictures


def transparent(width: int, height: int) -> Array:
    """Every opacity, and parts that show nothing."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (height, width, 4), np.uint8)
    pixels[: height // 4, :, 3] = 0
    pixels[-(height // 4) :, :, 3] = 255
    return pixels


@pytest.mark.parametrize("size", [(61, 40), (31, 77), (120, 120), (7, 200)])
@pytest.mark.parametrize("name", ["smolvlm", "smolvlm-one-tile", "internvl"])
def test_transparent_pictures(name: str, size: tuple[int, int], tmp_path: Path) -> None:
    tower, tiny = load(SPECS[name], tmp_path)
    image = transparent(*size)
    views = tile_views(tiny.spec, image)
    assert np.array_equal(tower.preprocess(image), np.array(views))
    rows = tower.encode(image)
    assert relative_error(rows, np.concatenate(numpy_rows(tiny, views))) < TOLERANCE
    opaque = np.dstack([image[..., :3], np.full(image.shape[:2], 255, np.uint8)])
    assert np.array_equal(tower.preprocess(opaque), tower.preprocess(image[..., :3]))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_alpha_is_kept_for_those_who_want_it(mode: str) -> None:
    rgba = Image.fromarray(transparent(7, 9))
    source: Image.Image = rgba if mode == "RGBA" else rgba.convert("LA")
    if mode == "P":
        source = rgba.convert("RGB").convert("P")
        source.info["transparency"] = 5
    wide = np.asarray(source.convert("RGBA"))
    assert np.array_equal(load_image(source, keep_alpha=True), wide)
    assert np.array_equal(load_image(source), wide[..., :3])
    opaque = rgba.convert("RGB")
    assert np.array_equal(load_image(opaque, keep_alpha=True), np.asarray(opaque))


def test_generate_sees_transparency(fixtures: Path, tmp_path: Path) -> None:
    model = Model(str(fixtures / "smolvlm" / "lm.gguf"))
    Image.fromarray(transparent(90, 60)).save(tmp_path / "transparent.png")
    flat = np.asarray(Image.open(tmp_path / "transparent.png").convert("RGB"))
    over = model._core.encode(load_image(tmp_path / "transparent.png", keep_alpha=True))
    assert not np.array_equal(model._core.encode(flat), over)
    result = model.generate([tmp_path / "transparent.png"], "What is it?", max_tokens=12, pruning=None)
    plain = model.generate([flat], "What is it?", max_tokens=12, pruning=None)
    assert result.token_ids != plain.token_ids
    pruned = model.generate([tmp_path / "transparent.png"], "What is it?", max_tokens=1, pruning=0.3).pruning
    assert pruned is not None
    assert pruned.overlay(0).size == (90, 60)
    assert model.count_tokens([tmp_path / "transparent.png"], "What is it?") == result.usage.prompt_tokens
