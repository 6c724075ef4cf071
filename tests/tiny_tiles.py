"""Random tiny towers that cut pictures into tiles (SmolVLM, InternVL), and what they compute, in plain numpy.

Layers and files are tiny_tower.py's. Geometry follows the original Python processors, with Pillow; pixel
shuffle is their chain of reshapes.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from PIL import Image
from tiny_tower import (
    BICUBIC,
    QTYPE,
    Array,
    Spec,
    TinyTower,
    gelu_erf,
    make_tower,
    numpy_vision_out,
    pil_resize,
)

LANCZOS = Image.Resampling.LANCZOS
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@dataclasses.dataclass(frozen=True)
class TileSpec(Spec):
    """A tower of one of the two families; fields of the other one do nothing."""

    family: str = "idefics3"
    factor: int = 2
    image_size: int = 30  # 4 x 4 patches and 2 pixels that belong to none
    patch: int = 7
    act: str = "gelu"
    class_token: bool = False
    pre_ln: bool = False
    post_ln: bool = True
    patch_bias: bool = True
    longest: int = 120
    min_tiles: int = 1
    max_tiles: int = 6

    @property
    def cells(self) -> int:
        return self.grid // self.factor


def internvl(**options: Any) -> TileSpec:
    defaults = {"act": "gelu_erf", "class_token": True, "post_ln": False, "layer_scale": True}
    return TileSpec(family="internvl", **(defaults | options))


def make_tiled(spec: TileSpec, seed: int = 1) -> TinyTower:
    tiny = make_tower(dataclasses.replace(spec, projector="linear", keys=()), seed)
    tiny.tensors = {name: value for name, value in tiny.tensors.items() if not name.startswith("mm.")}
    rng = np.random.default_rng(seed + 1000)
    n_features = spec.factor**2 * spec.width

    def add(name: str, shape: tuple[int, ...], std: float, mean: float = 0.0, qtype: str = "F32") -> None:
        tiny.tensors[name] = ((mean + rng.normal(0, std, shape)).astype(np.float32), QTYPE[qtype])

    keys: dict[str, Any] = {
        "clip.projector_type": spec.family,
        "clip.use_gelu": True,
        "clip.vision.projector.scale_factor": spec.factor,
        "general.type": "mmproj",
    }
    if spec.family == "idefics3":
        keys["clip.vision.preproc_image_size"] = spec.longest
        keys |= {"clip.vision.image_mean": [0.5] * 3, "clip.vision.image_std": [0.5] * 3}
        add("mm.model.fc.weight", (spec.n_embd, n_features), 1 / math.sqrt(n_features), qtype=spec.qtype)
    else:
        keys["clip.vision.preproc_min_tiles"] = spec.min_tiles
        keys["clip.vision.preproc_max_tiles"] = spec.max_tiles
        keys |= {"clip.vision.image_mean": IMAGENET[0], "clip.vision.image_std": IMAGENET[1]}
        add("mm.model.mlp.0.weight", (n_features,), 0.2, mean=1.0)
        add("mm.model.mlp.0.bias", (n_features,), 0.2)
        for name, n in (("mm.model.mlp.1", n_features), ("mm.model.mlp.3", spec.n_hidden)):
            n_out = spec.n_hidden if name.endswith("1") else spec.n_embd
            add(f"{name}.weight", (n_out, n), 1 / math.sqrt(n), qtype=spec.qtype)
            add(f"{name}.bias", (n_out,), 0.3)
    tiny.spec = spec
    tiny.keys |= keys | dict(spec.keys)
    tiny.keys = {name: value for name, value in tiny.keys.items() if value is not None}
    tiny.tensors = {name: value for name, value in tiny.tensors.items() if name not in spec.without}
    return tiny


# --- pictures


def smolvlm_canvas(
    width: int, height: int, longest: int, tile: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The two sizes that a picture is resized to: longest edge, then whole tiles."""
    aspect = width / height
    if width >= height:
        w, h = longest, int(longest / aspect)
        h += h % 2
    else:
        w, h = int(longest * aspect), longest
        w += w % 2
    first = (max(w, 1), max(h, 1))
    aspect = first[0] / first[1]
    if first[0] >= first[1]:
        w = math.ceil(first[0] / tile) * tile
        h = math.ceil(int(w / aspect) / tile) * tile
    else:
        h = math.ceil(first[1] / tile) * tile
        w = math.ceil(int(h * aspect) / tile) * tile
    return first, (w, h)


def internvl_grid(width: int, height: int, tile: int, low: int, high: int) -> tuple[int, int]:
    """(columns, rows), by the loop of the original."""
    pairs = [(i, j) for i in range(1, high + 1) for j in range(1, high + 1) if low <= i * j <= high]
    best, best_difference = (1, 1), math.inf
    for pair in sorted(pairs, key=lambda p: p[0] * p[1]):
        difference = abs(width / height - pair[0] / pair[1])
        if difference < best_difference:
            best, best_difference = pair, difference
        elif difference == best_difference and width * height > 0.5 * tile * tile * pair[0] * pair[1]:
            best = pair
    return best


def tiles_of(canvas: Image.Image, tile: int) -> list[Array]:
    pixels = np.asarray(canvas)
    rows, cols = pixels.shape[0] // tile, pixels.shape[1] // tile
    return list(pixels.reshape(rows, tile, cols, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3))


def tile_grid(spec: TileSpec, width: int, height: int) -> tuple[int, int]:
    if spec.family == "internvl":
        return internvl_grid(width, height, spec.image_size, spec.min_tiles, spec.max_tiles)
    canvas = smolvlm_canvas(width, height, spec.longest, spec.image_size)[1]
    return canvas[0] // spec.image_size, canvas[1] // spec.image_size


def resize_rgba(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Pillow's own steps for transparent pictures, with the passes in their order."""
    if picture.mode == "RGB" or picture.size == size:
        return pil_resize(picture, size, LANCZOS)
    return pil_resize(picture.convert("RGBa"), size, LANCZOS).convert("RGBA")


def over_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, (255, 255, 255)), picture).convert("RGB")


def tile_views(spec: TileSpec, image: Array) -> list[Array]:
    picture, tile = Image.fromarray(image), spec.image_size
    cols, rows = tile_grid(spec, *picture.size)
    if spec.family == "internvl":
        picture = picture.convert("RGB")
        whole = np.asarray(pil_resize(picture, (tile, tile), BICUBIC))
        canvas = pil_resize(picture, (cols * tile, rows * tile), BICUBIC)
        return [whole] if cols * rows == 1 else [*tiles_of(canvas, tile), whole]
    first, second = smolvlm_canvas(*picture.size, spec.longest, tile)
    canvas = resize_rgba(resize_rgba(picture, first), second)
    if cols * rows == 1:
        return [np.asarray(over_white(canvas))]
    whole = np.asarray(over_white(resize_rgba(canvas, (tile, tile))))
    return [*tiles_of(over_white(canvas), tile), whole]


# --- the forward pass


def pixel_shuffle(x: Array, grid: int, factor: int) -> Array:
    """[grid^2, C] -> [(grid / factor)^2, factor^2 C]."""
    n, width = grid // factor, x.shape[1]
    x = x.reshape(grid, n, width * factor).transpose(1, 0, 2)
    x = x.reshape(n, n, width * factor * factor).transpose(1, 0, 2)
    return x.reshape(n * n, -1)


def numpy_project(tiny: TinyTower, features: Array) -> Array:
    x = pixel_shuffle(features, tiny.spec.grid, tiny.spec.factor)
    if tiny.spec.family == "idefics3":
        return tiny.linear("mm.model.fc", x)
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    x = x * tiny.weight("mm.model.mlp.0.weight") + tiny.weight("mm.model.mlp.0.bias")
    return tiny.linear("mm.model.mlp.3", gelu_erf(tiny.linear("mm.model.mlp.1", x)))


def numpy_rows(tiny: TinyTower, views: list[Array]) -> list[Array]:
    return [numpy_project(tiny, numpy_vision_out(tiny, view)) for view in views]


def numpy_tiled(tiny: TinyTower, image: Array) -> dict[str, Array]:
    features = [numpy_vision_out(tiny, view) for view in tile_views(tiny.spec, image)]
    rows = np.concatenate([numpy_project(tiny, view) for view in features])
    return {"vision_out": np.concatenate(features), "view_rows": rows, "rows": rows}
