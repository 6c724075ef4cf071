"""Towers with an MLP projector: golden fixtures, and random tiny ones against plain numpy (tiny_tower.py)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_tower import (
    QTYPE,
    REAL_PINPOINTS,
    Array,
    Spec,
    TinyTower,
    gelu_tanh,
    make_tower,
    numpy_encode,
    pil_views,
    write_tower,
)

from trimtok_cpp import _core
from trimtok_cpp.errors import ModelFormatError, NumericsError, UnsupportedError
from trimtok_cpp.templates import ChatTemplate

TOLERANCE = 2e-5  # of the largest absolute value; plain f32 loops come to 1e-6
TAPS = ("vision_out", "view_rows", "rows")

ANYRES = Spec(image_size=28, pinpoints=(28, 56, 56, 28, 56, 56, 84, 28, 28, 84))
SPECS = {
    "clip-f32": Spec(),
    "clip-f16": Spec(qtype="F16"),
    "clip-bf16": Spec(qtype="BF16"),
    "clip-q8_0": Spec(qtype="Q8_0"),
    "clip-q4_0": Spec(qtype="Q4_0", swapped_ffn=True),
    "swapped-ffn": Spec(swapped_ffn=True, qtype="F16"),
    "swapped-ffn-narrow": Spec(swapped_ffn=True, n_ff=32),
    "square-ffn": Spec(n_ff=64, keys=(("general.type", "mmproj"),)),
    "square-ffn-swapped": Spec(n_ff=64, swapped_ffn=True),
    "siglip": Spec(class_token=False, pre_ln=False, post_ln=True, patch_bias=True, act="gelu"),
    "no-norms-around": Spec(pre_ln=False, patch_bias=True),
    "class-token-and-post-ln": Spec(post_ln=True),
    "silu": Spec(act="silu"),
    "fused-qkv": Spec(fused_qkv=True, qtype="Q8_0"),
    "grouped-heads": Spec(n_heads=6, n_kv_heads=2, head_dim=16, fused_qkv=True),
    "one-head": Spec(n_heads=1, n_kv_heads=1, head_dim=64, n_layers=1),
    "linear": Spec(projector="linear"),
    "mlp-norm": Spec(projector="mlp_norm", qtype="F16"),
    "feature-layers": Spec(n_layers=4, feature_layer=(3, 0, 2)),
    "feature-layer-ignores-post-ln": Spec(n_layers=3, feature_layer=(2,), post_ln=True),
    "feature-layer-last": Spec(n_layers=2, feature_layer=(2,)),
    "odd-dimensions": Spec(width=39, n_heads=3, n_kv_heads=3, head_dim=13, n_ff=45, n_hidden=33, n_embd=21),
    "one-patch": Spec(image_size=14),
    "anyres": ANYRES,
    "anyres-new-name": dataclasses.replace(ANYRES, newline="v.image_newline", qtype="F16", swapped_ffn=True),
    "anyres-flat": dataclasses.replace(ANYRES, merge="flat", class_token=False),
    "anyres-merge-type-missing": dataclasses.replace(
        ANYRES, keys=(("clip.vision.mm_patch_merge_type", None),)
    ),
    # 26 views: more than one group.
    "anyres-many-views": dataclasses.replace(ANYRES, pinpoints=(140, 140), n_layers=1),
}
SIZES = [(61, 40), (31, 77), (45, 45), (200, 9)]


def relative_error(actual: Array, expected: Array) -> float:
    assert actual.shape == expected.shape
    error = float(np.abs(actual - expected).max() / np.abs(expected).max())
    return error if math.isfinite(error) else math.inf


def picture(width: int, height: int, seed: int = 3) -> Array:
    """Smooth shapes with some noise: resampling keeps contrast."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / (3 + 4 * c) + y / (5 - c)) for c in range(3)]
    return np.clip(128 + 90 * np.stack(waves, -1) + rng.normal(0, 25, (height, width, 3)), 0, 255).astype(
        np.uint8
    )


def load(spec: Spec, tmp_path: Path, n_threads: int = 2) -> tuple[Any, TinyTower]:
    tiny = make_tower(spec)
    return _core.Tower(write_tower(tiny, tmp_path / "mmproj.gguf"), n_threads), tiny


def encode(tower: Any, image: Array) -> dict[str, Array]:
    rows, taps = tower.encode(image, taps=True)
    return taps | {"rows": rows}


def flat(values: Array) -> Array:
    return values.reshape(-1, values.shape[-1])


# --- right answers


@pytest.mark.parametrize("name", SPECS)
def test_rows_match_numpy(name: str, tmp_path: Path) -> None:
    tower, tiny = load(SPECS[name], tmp_path)
    for width, height in SIZES if "anyres" in name else SIZES[:2]:
        image = picture(width, height)
        views = pil_views(tiny.spec, image)
        assert np.array_equal(tower.preprocess(image), np.array(views))
        actual, expected = encode(tower, image), numpy_encode(tiny, image)
        for tap in TAPS:
            assert relative_error(actual[tap], flat(expected[tap])) < TOLERANCE, f"{tap}, {width}x{height}"
        plan = tower.plan(width, height)
        assert plan["n_rows"] == len(actual["rows"]) == len(plan["boxes"])
        assert plan["n_views"] == len(views)


@pytest.mark.parametrize("name", ["clip-q8_0", "siglip", "mlp-norm", "anyres", "odd-dimensions"])
def test_every_isa(name: str, isa: str, tmp_path: Path) -> None:
    tower, tiny = load(SPECS[name], tmp_path)
    assert tower.info["isa"] == isa
    image = picture(61, 40)
    actual, expected = encode(tower, image), numpy_encode(tiny, image)
    for tap in TAPS:
        assert relative_error(actual[tap], flat(expected[tap])) < TOLERANCE, tap


def test_the_tolerance_sees_common_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower, tiny = load(Spec(), tmp_path)
    image = picture(61, 40)
    rows = tower.encode(image)
    assert relative_error(rows, numpy_encode(tiny, image)["rows"]) < TOLERANCE
    # The class token with the last position, after the patches.
    table, qtype = tiny.tensors["v.position_embd.weight"]
    wrong = dataclasses.replace(
        tiny, tensors=tiny.tensors | {"v.position_embd.weight": (np.roll(table, 1, 0), qtype)}
    )
    assert relative_error(rows, numpy_encode(wrong, image)["rows"]) > 100 * TOLERANCE
    wrong = dataclasses.replace(tiny, spec=dataclasses.replace(tiny.spec, n_layers=1))
    assert relative_error(rows, numpy_encode(wrong, image)["rows"]) > 100 * TOLERANCE
    wrong = dataclasses.replace(tiny, spec=dataclasses.replace(tiny.spec, act="gelu"))
    assert relative_error(rows, numpy_encode(wrong, image)["rows"]) > 100 * TOLERANCE
    monkeypatch.setattr("tiny_tower.gelu_erf", gelu_tanh)
    assert relative_error(rows, numpy_encode(tiny, image)["rows"]) > 3 * TOLERANCE


def test_taps_of_the_layers(tmp_path: Path) -> None:
    tower, tiny = load(Spec(n_layers=3), tmp_path)
    taps = encode(tower, picture(50, 45))
    assert set(taps) == {"patch_embd", "pre_ln", "layer_out.0", "layer_out.1", "layer_out.2", *TAPS}
    assert taps["patch_embd"].shape == (10, 64)
    assert np.array_equal(taps["layer_out.2"][1:], taps["vision_out"])
    # Row 0 is the class token: its embedding and the first position.
    first = tiny.weight("v.class_embd") + tiny.weight("v.position_embd.weight")[0]
    assert relative_error(taps["patch_embd"][0], first) < 1e-6


def test_result_does_not_depend_on_threads(tmp_path: Path) -> None:
    tiny = make_tower(dataclasses.replace(ANYRES, qtype="Q8_0"))
    path, image = write_tower(tiny, tmp_path / "mmproj.gguf"), picture(61, 40)
    expected = _core.Tower(path, 1).encode(image)
    for n_threads in (2, 3, 5):
        assert np.array_equal(_core.Tower(path, n_threads).encode(image), expected)


def test_one_tower_serves_many_threads(tmp_path: Path) -> None:
    tower, _ = load(ANYRES, tmp_path)
    images = [picture(61, 40, seed) for seed in range(6)]
    expected = [tower.encode(image) for image in images]
    actual: dict[int, Array] = {}

    def work(i: int) -> None:
        actual[i] = tower.encode(images[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(actual[i], expected[i]) for i in range(6))


# --- golden fixtures


def real_size(tmp_path: Path, pinpoints: tuple[int, ...]) -> Any:
    """The geometry of CLIP-L/14-336 with next to no weights."""
    tiny = Spec(
        n_layers=1, width=8, n_heads=1, n_kv_heads=1, head_dim=8, n_ff=9, n_hidden=5, n_embd=4,
        image_size=336, pinpoints=pinpoints,
    )  # fmt: skip
    return load(tiny, tmp_path)[0]


@pytest.mark.parametrize("processor", ["llava15_pad", "llava16"])
def test_golden_preprocessing(processor: str, fixtures: Path, tmp_path: Path) -> None:
    tower = real_size(tmp_path, REAL_PINPOINTS if processor == "llava16" else ())
    folder = fixtures / "preprocess"
    images = json.loads((folder / "expected.json").read_text())["images"]
    assert len(images) == 12
    for info in images:
        image = np.asarray(Image.open(folder / info["file"]).convert("RGB"))
        assert hashlib.sha256(image.tobytes()).hexdigest() == info["rgb_sha256"], "decoded differently"
        expected = info["results"][processor]
        plan = tower.plan(info["width"], info["height"])
        assert (plan["n_views"], plan["n_rows"]) == (expected["views"], expected["tokens"])
        assert [plan["view_width"], plan["view_height"]] == expected["view_wh"]
        views = np.ascontiguousarray(tower.preprocess(image).transpose(0, 3, 1, 2))
        at = expected["crop"]
        part = views[at["view"], :, at["y"] : at["y"] + 24, at["x"] : at["x"] + 24]
        assert np.array_equal(part, np.load(folder / at["file"])), info["file"]
        assert hashlib.sha256(views.tobytes()).hexdigest() == expected["u8_sha256_all"], info["file"]


# --- plans


@pytest.mark.parametrize(
    ("size", "n_views", "n_rows"),
    [
        ((640, 480), 5, 2340),
        ((1024, 768), 5, 2340),
        ((336, 336), 3, 1176),
        ((200, 200), 3, 1176),
        ((1000, 300), 4, 2182),
        ((300, 1000), 4, 2232),
        ((500, 333), 3, 1464),
        ((1920, 1080), 5, 1948),
    ],
)
def test_row_counts_of_llava16(size: tuple[int, int], n_views: int, n_rows: int, tmp_path: Path) -> None:
    plan = real_size(tmp_path, REAL_PINPOINTS).plan(*size)
    assert (plan["n_views"], plan["n_rows"]) == (n_views, n_rows)
    assert plan["parts"] == [{"text": "", "row_start": 0, "n_rows": n_rows}]


def test_ties_are_read_height_first(tmp_path: Path) -> None:
    """A square fits 672 x 336 and 336 x 672 alike: the first pair of the file is 336 high, 672 wide."""
    tower = real_size(tmp_path, REAL_PINPOINTS)
    views = tower.preprocess(np.full((200, 200, 3), 255, np.uint8))
    assert (views[1][:, :168] == 0).all()
    assert (views[1][:, 168:] == 255).all()
    assert (views[2][:, :168] == 255).all()


def area(boxes: Array) -> float:
    return float(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum())


@pytest.mark.parametrize(
    "size", [(640, 480), (480, 640), (336, 336), (1000, 10), (3, 2000), (1, 1), (41, 42)]
)
def test_boxes_of_a_padded_square_tile_the_picture(size: tuple[int, int], tmp_path: Path) -> None:
    boxes = real_size(tmp_path, ()).plan(*size)["boxes"]
    assert boxes.dtype == np.float32
    assert boxes.shape == (576, 4)
    assert (boxes >= 0).all()
    assert (boxes <= [*size, *size]).all()
    assert area(boxes) == pytest.approx(size[0] * size[1], rel=1e-4)
    empty = boxes[boxes[:, 2] <= boxes[:, 0]]
    assert (empty == 0).all()
    side, (width, height) = max(size), size
    left, top = (side - width) // 2, (side - height) // 2
    for row, box in enumerate(boxes):  # whether the square's cell meets the picture, by another road
        x, y = row % 24 * side / 24, row // 24 * side / 24
        inside = min(x + side / 24, left + width) > max(x, left) and min(y + side / 24, top + height) > max(
            y, top
        )
        if inside and box[2] > box[0]:
            assert box == pytest.approx(
                [
                    max(x - left, 0),
                    max(y - top, 0),
                    min(x + side / 24 - left, width),
                    min(y + side / 24 - top, height),
                ],
                abs=1e-3 + 1e-6 * side,
            )


def test_boxes_of_anyres(tmp_path: Path) -> None:
    boxes = real_size(tmp_path, REAL_PINPOINTS).plan(640, 480)["boxes"]
    assert area(boxes[:576]) == pytest.approx(640 * 480, rel=1e-5)
    assert boxes[25] == pytest.approx([640 / 24, 20, 2 * 640 / 24, 40])
    # Canvas 672 x 672, the picture 672 x 504 below 84 rows of padding, which are cut: 36 rows of 48 patches.
    grid = boxes[576:].reshape(36, 49, 4)
    assert (grid[:, 48] == 0).all()
    scale = 640 / 672
    assert grid[0, 0] == pytest.approx([0, 0, 14 * scale, 14 * scale])
    assert grid[35, 47] == pytest.approx([658 * scale, 490 * scale, 640, 480], rel=1e-5)
    assert grid[17, 30] == pytest.approx([420 * scale, 238 * scale, 434 * scale, 252 * scale], rel=1e-5)
    assert area(grid[:, :48].reshape(-1, 4)) == pytest.approx(640 * 480, rel=1e-5)


@pytest.mark.parametrize("size", [(118, 60), (60, 118), (75, 75), (150, 47)])
@pytest.mark.parametrize("spec", [Spec(), ANYRES, dataclasses.replace(ANYRES, merge="flat")])
def test_rows_see_the_place_that_their_box_says(spec: Spec, size: tuple[int, int], tmp_path: Path) -> None:
    """Without layers a row depends on its own patch: a spot changes most the row in whose box it lies."""
    tower, tiny = load(dataclasses.replace(spec, feature_layer=(0,), projector="linear"), tmp_path)
    (width, height), n_first = size, tiny.spec.grid**2
    boxes = tower.plan(width, height)["boxes"]
    blank = np.full((height, width, 3), 128, np.uint8)
    before = tower.encode(blank)
    n_tested = 0
    for row, (x0, y0, x1, y1) in enumerate(boxes):
        if min(x1 - x0, y1 - y0) < 8:
            continue
        image = blank.copy()
        x, y = int((x0 + x1) / 2), int((y0 + y1) / 2)
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
        change = np.abs(tower.encode(image) - before).sum(1)
        # The picture is there twice: in the overview and in the tiles.
        hit = change[:n_first].argmax() if row < n_first else n_first + change[n_first:].argmax()
        assert hit == row
        n_tested += 1
    assert n_tested >= 3


@pytest.mark.parametrize("spec", [Spec(), ANYRES], ids=["padded", "anyres"])
@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 1), (2000, 7)])
def test_extreme_pictures(spec: Spec, size: tuple[int, int], tmp_path: Path) -> None:
    tower, tiny = load(spec, tmp_path)
    image = picture(*size)
    rows = tower.encode(image)
    assert relative_error(rows, numpy_encode(tiny, image)["rows"]) < TOLERANCE
    assert len(rows) == tower.plan(*size)["n_rows"]


@pytest.mark.parametrize("size", [(46000, 1), (1, 46000)])
def test_the_square_of_a_thin_picture_is_never_made(size: tuple[int, int], tmp_path: Path) -> None:
    tower, _ = load(Spec(), tmp_path)
    image = np.full((size[1], size[0], 3), 255, np.uint8)
    view = tower.preprocess(image)[0].reshape(-1, 3)  # 6 GB if it were
    assert (view == [122, 116, 104]).all(1).sum() > 40 * 45
    assert np.isfinite(tower.encode(image)).all()


# --- files that are old or odd


@pytest.mark.parametrize(
    "keys",
    [
        (("clip.projector_type", None),),
        (("clip.projector_type", None), ("clip.vision.projector_type", "mlp")),
        (("clip.projector_type", None), ("clip.has_llava_projector", True)),
        (("clip.use_gelu", None), ("clip.use_silu", None)),
        (("clip.vision.feed_forward_length", None), ("clip.vision.projection_dim", None)),
        (("clip.has_vision_encoder", None),),
    ],
)
def test_keys_that_may_be_missing(keys: tuple[tuple[str, Any], ...], tmp_path: Path) -> None:
    tower, tiny = load(Spec(keys=keys), tmp_path)
    image = picture(40, 50)
    assert relative_error(tower.encode(image), numpy_encode(tiny, image)["rows"]) < TOLERANCE


def test_unused_tensors_and_layers_are_ignored(tmp_path: Path) -> None:
    spec = Spec(n_layers=3, feature_layer=(2,), without=("v.blk.2.ln1.weight", "v.blk.2.ffn_up.weight"))
    tower, tiny = load(spec, tmp_path)
    assert tower.info["n_layers"] == 2
    tiny.spec = dataclasses.replace(tiny.spec, n_layers=2)
    image = picture(40, 50)
    assert relative_error(tower.encode(image), numpy_encode(tiny, image)["rows"]) < TOLERANCE


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"projector_type": "ldpv2"}, UnsupportedError, "'ldpv2', expected one of: mlp, "),
        ({"has_vision_encoder": False}, UnsupportedError, "has_vision_encoder is false"),
        ({"use_gelu": True, "use_silu": True}, ModelFormatError, "both true"),
        ({"vision.image_size": 59}, ModelFormatError, r"v\.position_embd\.weight"),
        ({"vision.image_size": 8193}, ModelFormatError, "8193"),
        ({"vision.image_size": 8192, "vision.patch_size": 1}, UnsupportedError, "67108864"),
        ({"vision.patch_size": 0}, ModelFormatError, "patch_size"),
        ({"vision.patch_size": 46}, ModelFormatError, "patch_size"),
        ({"vision.embedding_length": None}, ModelFormatError, "embedding_length"),
        ({"vision.block_count": 0}, ModelFormatError, "block_count"),
        ({"vision.block_count": 513}, ModelFormatError, "block_count"),
        ({"vision.block_count": 3}, ModelFormatError, r"v\.blk\.2\.attn_q\.weight"),
        ({"vision.attention.head_count": 0}, ModelFormatError, "head_count"),
        ({"vision.attention.head_count": 5}, ModelFormatError, "multiple of the 5 heads"),
        ({"vision.attention.head_count_kv": 3}, ModelFormatError, "3 key/value heads"),
        ({"vision.attention.head_dim": 8}, ModelFormatError, r"v\.blk\.0\.attn_q\.weight"),
        ({"vision.attention.layer_norm_epsilon": 0.0}, ModelFormatError, "epsilon"),
        ({"vision.attention.layer_norm_epsilon": math.nan}, ModelFormatError, "epsilon"),
        ({"vision.image_mean": None}, ModelFormatError, "image_mean has 0 values"),
        ({"vision.image_mean": [0.5, 0.5]}, ModelFormatError, "image_mean has 2 values"),
        ({"vision.image_mean": [0.5, math.inf, 0.5]}, ModelFormatError, r"image_mean\[1\]"),
        ({"vision.image_std": [0.5, 0.5, 0.0]}, ModelFormatError, r"image_std\[2\] is 0"),
        ({"vision.feature_layer": [3]}, ModelFormatError, "feature_layer holds 3"),
        ({"vision.feature_layer": [-1]}, ModelFormatError, "feature_layer holds -1"),
        ({"vision.feature_layer": [0] * 99}, ModelFormatError, "feature_layer has 99"),
        ({"vision.feature_layer": [1, 2]}, ModelFormatError, r"mm\.0\.weight"),
    ],
)
def test_keys_that_cannot_be_served(
    keys: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    spec = Spec(keys=tuple((f"clip.{name}", value) for name, value in keys.items()))
    path = write_tower(make_tower(spec), tmp_path / "mmproj.gguf")
    with pytest.raises(error, match=message):
        _core.Tower(path, 1)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (
            Spec(keys=(("clip.projector_type", None),), projector="linear", without=("mm.0.weight",)),
            UnsupportedError,
            "expected one of: mlp, ",
        ),
        (
            Spec(without=("mm.0.weight", "v.blk.1.ln2.weight")),
            ModelFormatError,
            r"(?s)v\.blk\.1\.ln2.*mm\.0\.weight",
        ),
        (Spec(without=("v.position_embd.weight",)), ModelFormatError, r"v\.position_embd\.weight"),
        (Spec(without=("v.class_embd",)), ModelFormatError, r"v\.position_embd\.weight"),
        (Spec(projector="mlp_norm", without=("mm.1.weight",)), ModelFormatError, r"mm\.1\.weight"),
        (
            Spec(projector="mlp_norm", without=("mm.4.bias", "mm.4.weight")),
            ModelFormatError,
            r"mm\.4\.weight",
        ),
        (dataclasses.replace(ANYRES, pinpoints=(28, 56, 28)), ModelFormatError, "3 values"),
        (dataclasses.replace(ANYRES, pinpoints=(28, 57)), ModelFormatError, r"\(28, 57\)"),
        (dataclasses.replace(ANYRES, pinpoints=(0, 28)), ModelFormatError, r"\(0, 28\)"),
        (dataclasses.replace(ANYRES, pinpoints=(-28, -28)), ModelFormatError, r"\(-28, -28\)"),
        (dataclasses.replace(ANYRES, pinpoints=(28, 28 * 257)), ModelFormatError, "256 tiles"),
        (dataclasses.replace(ANYRES, pinpoints=(28, 28) * 1025), ModelFormatError, "at most 1024"),
        (dataclasses.replace(ANYRES, merge="spatial"), UnsupportedError, "flat or spatial_unpad"),
        (dataclasses.replace(ANYRES, without=("model.image_newline",)), ModelFormatError, "image_newline"),
        (
            dataclasses.replace(ANYRES, keys=(("clip.vision.image_aspect_ratio", "anyres_max_9"),)),
            UnsupportedError,
            "OneVision",
        ),
    ],
)
def test_files_that_cannot_be_served(
    spec: Spec, error: type[Exception], message: str, tmp_path: Path
) -> None:
    path = write_tower(make_tower(spec), tmp_path / "mmproj.gguf")
    with pytest.raises(error, match=message):
        _core.Tower(path, 1)


def test_broken_text_of_a_file_does_not_break_the_message(tmp_path: Path) -> None:
    path = Path(
        write_tower(make_tower(Spec(keys=(("clip.projector_type", "ldpv2"),))), tmp_path / "mmproj.gguf")
    )
    path.write_bytes(path.read_bytes().replace(b"ldpv2", b"ld\xff\x1b2"))
    with pytest.raises(UnsupportedError, match=r"'ld\\xff\\x1b2'"):
        _core.Tower(str(path), 1)


def test_damaged_weights_are_reported(tmp_path: Path) -> None:
    tiny = make_tower(Spec())
    tiny.tensors["v.blk.1.attn_out.weight"][0][3, 5] = np.nan
    tower = _core.Tower(write_tower(tiny, tmp_path / "mmproj.gguf"), 1)
    with pytest.raises(NumericsError, match="weights of the vision tower may be damaged"):
        tower.encode(picture(40, 40))


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((4, 0, 3), np.uint8)]
)
def test_bad_pictures(image: Array, tmp_path: Path) -> None:
    tower, _ = load(Spec(), tmp_path)
    for call in (tower.encode, tower.preprocess):
        with pytest.raises(ValueError, match=r"\[image\]"):
            call(image)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (46001, 1), (40000, 40000)])
def test_bad_sizes(size: tuple[int, int], tmp_path: Path) -> None:
    tower, _ = load(Spec(), tmp_path)
    with pytest.raises(ValueError, match="46000"):
        tower.plan(*size)


# --- what the tower says about itself


def test_info(tmp_path: Path) -> None:
    tower, tiny = load(Spec(qtype="Q8_0"), tmp_path)
    info = tower.info
    assert (info["projector"], info["placeholder"], info["n_extra"]) == ("mlp", "<image>", 0)
    assert (info["n_embd"], info["n_layers"], info["width"]) == (32, 2, 64)
    assert (info["patch_size"], info["image_size"], info["bidirectional"]) == (14, 45, False)
    sizes = {QTYPE.F32: 4.0, QTYPE.F16: 2.0, QTYPE.Q8_0: 34 / 32}
    assert info["weight_bytes"] == sum(values.size * sizes[qtype] for values, qtype in tiny.tensors.values())
    assert info["projector"] in _core.supported_projectors()


VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
IMAGE = {"type": "image"}


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


@pytest.mark.parametrize(
    ("messages", "prompt"),
    [
        (
            [{"role": "user", "content": [IMAGE, IMAGE, text("What differs between the two pictures?")]}],
            VICUNA + " USER: <image>\n<image>\nWhat differs between the two pictures? ASSISTANT:",
        ),
        (
            [
                {"role": "user", "content": [text("Look:"), IMAGE, text("What?")]},
                {"role": "assistant", "content": [text("A cat.")]},
                {"role": "user", "content": "Sure?"},
            ],
            VICUNA + " USER: <image>\nLook: What? ASSISTANT: A cat.</s>USER: Sure? ASSISTANT:",
        ),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [text("Hi")]}],
            "Be brief. USER: Hi ASSISTANT:",
        ),
        (
            [{"role": "system", "content": [text("Be brief.")]}, {"role": "user", "content": "Hi"}],
            "Be brief. USER: Hi ASSISTANT:",
        ),
    ],
)
def test_fallback_template(messages: list[dict[str, Any]], prompt: str, tmp_path: Path) -> None:
    template = ChatTemplate(load(Spec(), tmp_path)[0].info["fallback_template"])
    assert template.render(messages, bos_token="<s>", eos_token="</s>") == prompt
    without = template.render(messages, add_generation_prompt=False)
    assert without == prompt.removesuffix("ASSISTANT:")


def test_fallback_template_refuses_other_roles(tmp_path: Path) -> None:
    template = ChatTemplate(load(Spec(), tmp_path)[0].info["fallback_template"])
    with pytest.raises(ValueError, match="role must be"):
        template.render([{"role": "tool", "content": "x"}])
