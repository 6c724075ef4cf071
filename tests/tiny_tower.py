"""Random tiny vision towers with an MLP projector, and what they compute, in plain numpy.

The files are written with the `gguf` package. The forward pass runs in float64 on the weights as the file
stores them (dequantised by `gguf`), pictures are resampled by Pillow: nothing is shared with the engine.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from PIL import Image

Array = np.ndarray
BICUBIC = Image.Resampling.BICUBIC
QTYPE = gguf.GGMLQuantizationType
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]
REAL_PINPOINTS = (336, 672, 672, 336, 672, 672, 1008, 336, 336, 1008)  # LLaVA-1.6, (height, width) pairs


@dataclasses.dataclass(frozen=True)
class Spec:
    """One tiny tower: what its file holds. Families of other projectors derive theirs from it."""

    qtype: str = "F32"
    n_layers: int = 2
    width: int = 64
    n_heads: int = 4
    n_kv_heads: int = 4
    head_dim: int = 16
    n_ff: int = 96
    image_size: int = 45  # 3 x 3 patches and 3 pixels that belong to none
    patch: int = 14
    n_hidden: int = 96
    n_embd: int = 32
    act: str = "quick_gelu"  # gelu, silu: the flags of the file
    class_token: bool = True
    pre_ln: bool = True
    post_ln: bool = False
    patch_bias: bool = False
    fused_qkv: bool = False
    swapped_ffn: bool = False
    projector: str = "mlp"  # linear, mlp_norm
    feature_layer: tuple[int, ...] = ()
    pinpoints: tuple[int, ...] = ()
    merge: str = "spatial_unpad"  # with pinpoints only
    newline: str = "model.image_newline"
    rms_norm: bool = False  # in the blocks: weights without biases
    query_norm: str = ""  # "head": each head on its own; "full": all heads as one vector
    layer_scale: bool = False
    keys: tuple[tuple[str, Any], ...] = ()  # None removes a key
    without: tuple[str, ...] = ()  # tensors left out

    @property
    def grid(self) -> int:
        return self.image_size // self.patch

    @property
    def n_tokens(self) -> int:
        return self.grid**2 + self.class_token


@dataclasses.dataclass
class TinyTower:
    """The contents of a file: keys, and tensors as they are stored together with their exact values."""

    spec: Spec
    keys: dict[str, Any]
    tensors: dict[str, tuple[Array, Any]]  # name -> (float32 values, storage type)

    def weight(self, name: str) -> Array:
        values, qtype = self.tensors[name]
        stored = gguf.quants.dequantize(gguf.quants.quantize(values, qtype), qtype)
        return stored.reshape(values.shape).astype(np.float64)

    def linear(self, name: str, x: Array) -> Array:
        y = x @ self.weight(f"{name}.weight").T
        return y + self.weight(f"{name}.bias") if f"{name}.bias" in self.tensors else y

    def norm(self, name: str, x: Array) -> Array:
        eps = float(np.float32(self.keys["clip.vision.attention.layer_norm_epsilon"]))
        if f"{name}.bias" not in self.tensors:
            return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * self.weight(f"{name}.weight")
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
        return scaled * self.weight(f"{name}.weight") + self.weight(f"{name}.bias")


def make_tower(spec: Spec, seed: int = 1) -> TinyTower:
    rng = np.random.default_rng(seed)
    tensors: dict[str, tuple[Array, Any]] = {}

    def add(name: str, shape: tuple[int, ...], std: float, mean: float = 0.0, qtype: str = "F32") -> None:
        tensors[name] = ((mean + rng.normal(0, std, shape)).astype(np.float32), QTYPE[qtype])

    def linear(name: str, rows: int, cols: int, gain: float = 1.0) -> None:
        add(f"{name}.weight", (rows, cols), gain / math.sqrt(cols), qtype=spec.qtype)
        add(f"{name}.bias", (rows,), 0.3)

    def norm(name: str, n: int, bias: bool = True) -> None:
        add(f"{name}.weight", (n,), 0.2, mean=1.0)
        if bias:
            add(f"{name}.bias", (n,), 0.2)

    # Never quantised in real files: their rows are no whole blocks.
    small = "F16" if spec.qtype != "F32" else "F32"
    add("v.patch_embd.weight", (spec.width, 3, spec.patch, spec.patch), 0.05, qtype=small)
    add("v.position_embd.weight", (spec.n_tokens, spec.width), 0.5, qtype=small)
    if spec.class_token:
        add("v.class_embd", (spec.width,), 1.0)
    if spec.patch_bias:
        add("v.patch_embd.bias", (spec.width,), 0.3)
    if spec.pre_ln:
        norm("v.pre_ln", spec.width)
    if spec.post_ln:
        norm("v.post_ln", spec.width)
    n_q, n_kv = spec.n_heads * spec.head_dim, spec.n_kv_heads * spec.head_dim
    for i in range(spec.n_layers):
        block = f"v.blk.{i}."
        norm(block + "ln1", spec.width, bias=not spec.rms_norm)
        norm(block + "ln2", spec.width, bias=not spec.rms_norm)
        if spec.query_norm:
            norm(block + "attn_q_norm", spec.head_dim if spec.query_norm == "head" else n_q, bias=False)
            norm(block + "attn_k_norm", spec.head_dim if spec.query_norm == "head" else n_kv, bias=False)
        if spec.layer_scale:
            add(block + "ls1.weight", (spec.width,), 0.3, mean=0.6)
            add(block + "ls2.weight", (spec.width,), 0.3, mean=-0.6)
        # Large queries and keys: attention far from uniform.
        if spec.fused_qkv:
            linear(block + "attn_qkv", n_q + 2 * n_kv, spec.width, gain=1.5)
        else:
            linear(block + "attn_q", n_q, spec.width, gain=1.5)
            linear(block + "attn_k", n_kv, spec.width, gain=1.5)
            linear(block + "attn_v", n_kv, spec.width, gain=1.5)
        linear(block + "attn_out", spec.width, n_q)
        up, down = ("ffn_down", "ffn_up") if spec.swapped_ffn else ("ffn_up", "ffn_down")
        linear(block + up, spec.n_ff, spec.width)
        linear(block + down, spec.width, spec.n_ff)
    n_features = spec.width * max(1, len(spec.feature_layer))
    if spec.projector == "linear":
        linear("mm.0", spec.n_embd, n_features)
    else:
        second = {"mlp": "mm.2", "mlp_norm": "mm.3"}[spec.projector]
        linear("mm.0", spec.n_hidden, n_features)
        linear(second, spec.n_embd, spec.n_hidden)
    if spec.projector == "mlp_norm":
        norm("mm.1", spec.n_hidden)
        norm("mm.4", spec.n_embd)
    if spec.pinpoints and spec.merge == "spatial_unpad":
        add(spec.newline, (spec.n_embd,), 1.0)
    return TinyTower(spec, make_keys(spec), {k: v for k, v in tensors.items() if k not in spec.without})


def make_keys(spec: Spec) -> dict[str, Any]:
    keys: dict[str, Any] = {
        "clip.has_vision_encoder": True,
        "clip.projector_type": "mlp",
        "clip.use_gelu": spec.act == "gelu",
        "clip.use_silu": spec.act == "silu",
        "clip.vision.image_size": spec.image_size,
        "clip.vision.patch_size": spec.patch,
        "clip.vision.embedding_length": spec.width,
        "clip.vision.feed_forward_length": 0,  # unreliable in real files: never to be used
        "clip.vision.projection_dim": 7,  # the same
        "clip.vision.block_count": spec.n_layers,
        "clip.vision.attention.head_count": spec.n_heads,
        "clip.vision.attention.layer_norm_epsilon": 1e-5,
        "clip.vision.image_mean": CLIP_MEAN,
        "clip.vision.image_std": CLIP_STD,
    }
    if spec.n_kv_heads != spec.n_heads:
        keys["clip.vision.attention.head_count_kv"] = spec.n_kv_heads
    if spec.n_heads * spec.head_dim != spec.width:
        keys["clip.vision.attention.head_dim"] = spec.head_dim
    if spec.feature_layer:
        keys["clip.vision.feature_layer"] = list(spec.feature_layer)
    if spec.pinpoints:
        keys["clip.vision.image_grid_pinpoints"] = list(spec.pinpoints)
        keys["clip.vision.mm_patch_merge_type"] = spec.merge
    return {name: value for name, value in (keys | dict(spec.keys)).items() if value is not None}


def write_tower(tower: TinyTower, path: Path) -> str:
    writer = gguf.GGUFWriter(path, "clip")
    for name, value in tower.keys.items():
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
    for name, (values, qtype) in tower.tensors.items():
        writer.add_tensor(name, gguf.quants.quantize(values, qtype), raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


# --- the forward pass, one view at a time

_erf = np.vectorize(math.erf, otypes=[np.float64])


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def gelu_erf(x: Array) -> Array:
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def gelu_tanh(x: Array) -> Array:
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "quick_gelu": lambda x: x * sigmoid(1.702 * x),
    "gelu": gelu_tanh,
    "gelu_erf": gelu_erf,
    "silu": lambda x: x * sigmoid(x),
}


def numpy_vision_out(tower: TinyTower, view: Array) -> Array:
    """uint8 [size, size, 3] -> features [patches, width of the projector's input]."""
    spec = tower.spec
    keys = (tower.keys[f"clip.vision.image_{name}"] for name in ("mean", "std"))
    mean, std = (np.float32(values).astype(np.float64) for values in keys)
    pixels = (view / 255.0 - mean) / std
    kernel = tower.weight("v.patch_embd.weight")
    patches = []
    for y in range(spec.grid):
        for x in range(spec.grid):
            at = pixels[y * spec.patch : (y + 1) * spec.patch, x * spec.patch : (x + 1) * spec.patch]
            patches.append(np.einsum("ocyx,yxc->o", kernel, at))
    x = np.array(patches)
    if spec.patch_bias:
        x = x + tower.weight("v.patch_embd.bias")
    if spec.class_token:
        x = np.concatenate([tower.weight("v.class_embd")[None], x])
    x = x + tower.weight("v.position_embd.weight")
    if spec.pre_ln:
        x = tower.norm("v.pre_ln", x)
    states = [x]
    for i in range(spec.n_layers):
        block = f"v.blk.{i}."
        ls1, ls2 = (tower.weight(f"{block}{n}.weight") if spec.layer_scale else 1.0 for n in ("ls1", "ls2"))
        x = x + ls1 * numpy_attention(tower, block, tower.norm(block + "ln1", x))
        up, down = ("ffn_down", "ffn_up") if spec.swapped_ffn else ("ffn_up", "ffn_down")
        hidden = ACTIVATIONS[spec.act](tower.linear(block + up, tower.norm(block + "ln2", x)))
        x = x + ls2 * tower.linear(block + down, hidden)
        states.append(x)
    if spec.feature_layer:
        x = np.concatenate([states[i] for i in spec.feature_layer], axis=1)
    elif spec.post_ln:
        x = tower.norm("v.post_ln", x)
    return x[1:] if spec.class_token else x


def numpy_attention(tower: TinyTower, block: str, x: Array) -> Array:
    spec, d = tower.spec, tower.spec.head_dim
    n_q, n_kv = spec.n_heads * d, spec.n_kv_heads * d
    if spec.fused_qkv:
        q, k, v = np.split(tower.linear(block + "attn_qkv", x), [n_q, n_q + n_kv], axis=1)
    else:
        q, k, v = (tower.linear(block + name, x) for name in ("attn_q", "attn_k", "attn_v"))
    if spec.query_norm:
        shape = (-1, d) if spec.query_norm == "head" else (1, -1)
        q = tower.norm(block + "attn_q_norm", q.reshape(len(x), *shape)).reshape(len(x), n_q)
        k = tower.norm(block + "attn_k_norm", k.reshape(len(x), *shape)).reshape(len(x), n_kv)
    out = []
    for h in range(spec.n_heads):
        g = h // (spec.n_heads // spec.n_kv_heads)
        scores = q[:, h * d : (h + 1) * d] @ k[:, g * d : (g + 1) * d].T / math.sqrt(d)
        p = np.exp(scores - scores.max(1, keepdims=True))
        out.append(p / p.sum(1, keepdims=True) @ v[:, g * d : (g + 1) * d])
    return tower.linear(block + "attn_out", np.concatenate(out, axis=1))


def numpy_project(tower: TinyTower, x: Array) -> Array:
    x = tower.linear("mm.0", x)
    if tower.spec.projector == "linear":
        return x
    if tower.spec.projector == "mlp_norm":
        return tower.norm("mm.4", tower.linear("mm.3", gelu_erf(tower.norm("mm.1", x))))
    return tower.linear("mm.2", gelu_erf(x))


# --- pictures, as the original implementations treat them


def pil_resize(picture: Image.Image, size: tuple[int, int], kind: Image.Resampling) -> Image.Image:
    """Horizontal pass first, in every version: since 12.2 Pillow chooses the order by cost."""
    return picture.resize((size[0], picture.height), kind).resize(size, kind)


def pil_views(spec: Spec, image: Array) -> list[Array]:
    size, picture = spec.image_size, Image.fromarray(image)
    width, height = picture.size
    if not spec.pinpoints:
        side = max(width, height)
        square = Image.new("RGB", (side, side), tuple(int(255 * m) for m in CLIP_MEAN))
        square.paste(picture, ((side - width) // 2, (side - height) // 2))
        return [np.asarray(pil_resize(square, (size, size), BICUBIC))]
    canvas_h, canvas_w = best_pinpoint(spec, width, height)
    if canvas_w / width < canvas_h / height:
        scaled = (canvas_w, min(math.ceil(height * (canvas_w / width)), canvas_h))
    else:
        scaled = (min(math.ceil(width * (canvas_h / height)), canvas_w), canvas_h)
    canvas = Image.new("RGB", (canvas_w, canvas_h))
    canvas.paste(
        pil_resize(picture, scaled, BICUBIC),
        ((canvas_w - scaled[0]) // 2, (canvas_h - scaled[1]) // 2),
    )
    tiles = np.asarray(canvas).reshape(canvas_h // size, size, canvas_w // size, size, 3)
    overview = np.asarray(pil_resize(picture, (size, size), BICUBIC))
    return [overview, *tiles.swapaxes(1, 2).reshape(-1, size, size, 3)]


def best_pinpoint(spec: Spec, width: int, height: int) -> tuple[int, int]:
    def rank(pair: tuple[int, int]) -> tuple[int, int]:
        scale = min(pair[1] / width, pair[0] / height)
        effective = min(int(width * scale) * int(height * scale), width * height)
        return effective, -(pair[0] * pair[1] - effective)

    # max() keeps the first of equals, as the original loops do.
    return max(zip(spec.pinpoints[::2], spec.pinpoints[1::2], strict=True), key=rank)


def numpy_pack(tower: TinyTower, view_rows: Array, width: int, height: int) -> Array:
    """[views, patches, n_embd] -> rows in prompt order: reshapes and slices, as transformers does it."""
    spec = tower.spec
    if not spec.pinpoints or spec.merge == "flat":
        return view_rows.reshape(-1, spec.n_embd)
    canvas_h, canvas_w = best_pinpoint(spec, width, height)
    n_y, n_x, g = canvas_h // spec.image_size, canvas_w // spec.image_size, spec.grid
    grid = view_rows[1:].reshape(n_y, n_x, g, g, -1).transpose(0, 2, 1, 3, 4).reshape(n_y * g, n_x * g, -1)
    if width / height > grid.shape[1] / grid.shape[0]:
        cut = (grid.shape[0] - int(round(height * (grid.shape[1] / width), 7))) // 2
        grid = grid[cut : grid.shape[0] - cut]
    else:
        cut = (grid.shape[1] - int(round(width * (grid.shape[0] / height), 7))) // 2
        grid = grid[:, cut : grid.shape[1] - cut]
    newline = np.broadcast_to(tower.weight(spec.newline), (grid.shape[0], 1, spec.n_embd))
    packed = np.concatenate([grid, newline], axis=1).reshape(-1, spec.n_embd)
    return np.concatenate([view_rows[0], packed])


def numpy_encode(tower: TinyTower, image: Array) -> dict[str, Array]:
    features = np.array([numpy_vision_out(tower, view) for view in pil_views(tower.spec, image)])
    view_rows = np.array([numpy_project(tower, view) for view in features])
    rows = numpy_pack(tower, view_rows, image.shape[1], image.shape[0])
    return {"vision_out": features, "view_rows": view_rows, "rows": rows}
