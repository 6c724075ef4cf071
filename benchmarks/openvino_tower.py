"""Times the vision tower of a LLaVA mmproj file against the same graph in OpenVINO, in turn.

    pip install ".[bench]"
    python benchmarks/openvino_tower.py --mmproj models/llava-1.1b-mmproj-f16.gguf

The graph is built here, with OpenVINO's own operations, from the weights of the file: patches, layers and
projector of a CLIP ViT with a two-layer MLP. Rows of both engines are compared before anything is timed.
OpenVINO computes in the precision that is fastest for it (--precision), this engine as --compute says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset13 as op
from engines import pictures
from gguf import GGUFReader
from numpy.typing import NDArray

from trimtok_cpp import _core

Array = NDArray[np.float32]


class Weights:
    """Tensors and numbers of a file."""

    def __init__(self, path: Path) -> None:
        reader = GGUFReader(path)
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._fields = reader.fields

    def number(self, key: str) -> float:
        return self._fields[f"clip.vision.{key}"].contents()

    def has(self, name: str) -> bool:
        return name in self._tensors

    def array(self, name: str) -> NDArray[np.floating]:
        """The values, slowest axis first, as they are stored."""
        tensor = self._tensors[name]
        if tensor.data.dtype not in (np.float16, np.float32):
            raise ValueError(f"[weights] {name} is {tensor.tensor_type.name}, expected F16 or F32")
        return tensor.data.reshape(tuple(int(n) for n in reversed(tensor.shape)))


class Graph:
    """CLIP's tower and LLaVA's projector; one picture, planar pixels in [0, 255], in; rows out."""

    def __init__(self, weights: Weights) -> None:
        self._w = weights
        self._width = int(weights.number("embedding_length"))
        self._heads = int(weights.number("attention.head_count"))
        self._eps = float(weights.number("attention.layer_norm_epsilon"))

    def model(self) -> ov.Model:
        w = self._w
        side = int(w.number("image_size"))
        patch = int(w.number("patch_size"))
        pixels = op.parameter([1, 3, side, side], np.float32)
        mean, std = (np.asarray(w.number(f"image_{name}"), np.float32) for name in ("mean", "std"))
        shifted = op.subtract(pixels, self._constant(255 * mean.reshape(1, 3, 1, 1)))
        x = op.divide(shifted, self._constant(255 * std.reshape(1, 3, 1, 1)))
        kernel = self._stored("v.patch_embd.weight")
        x = op.convolution(x, kernel, [patch, patch], [0, 0], [0, 0], [1, 1])
        x = op.transpose(op.reshape(x, [1, self._width, -1], False), [0, 2, 1])
        first = self._constant(w.array("v.class_embd").reshape(1, 1, -1))
        x = op.add(op.concat([first, x], 1), self._constant(w.array("v.position_embd.weight")))
        x = self._norm(x, "v.pre_ln")
        for i in range(int(w.number("block_count"))):
            x = self._layer(x, f"v.blk.{i}.")
        rows = op.slice(x, [1], [x.shape[1]], [1], [1])
        hidden = op.gelu(self._linear(rows, "mm.0"), "erf")
        return ov.Model([self._linear(hidden, "mm.2")], [pixels], "tower")

    def _layer(self, x: ov.Output, name: str) -> ov.Output:
        normed = self._norm(x, name + "ln1")
        heads = [self._split(self._linear(normed, f"{name}attn_{part}")) for part in "qkv"]
        mixed = op.scaled_dot_product_attention(*heads)
        joined = op.reshape(op.transpose(mixed, [0, 2, 1, 3]), [1, -1, self._width], False)
        x = op.add(x, self._linear(joined, name + "attn_out"))
        # Files of LLaVA's converter name the first matrix ffn_down.
        down = self._w.array(name + "ffn_down.weight")
        names = ("ffn_down", "ffn_up") if down.shape[0] > down.shape[1] else ("ffn_up", "ffn_down")
        hidden = self._linear(self._norm(x, name + "ln2"), name + names[0])
        gated = op.multiply(hidden, op.sigmoid(op.multiply(hidden, self._constant(np.float32([1.702])))))
        return op.add(x, self._linear(gated, name + names[1]))

    def _split(self, x: ov.Output) -> ov.Output:
        return op.transpose(
            op.reshape(x, [1, -1, self._heads, self._width // self._heads], False), [0, 2, 1, 3]
        )

    def _norm(self, x: ov.Output, name: str) -> ov.Output:
        unit = op.mvn(x, [-1], True, self._eps, "inside_sqrt")
        scaled = op.multiply(unit, self._constant(self._w.array(name + ".weight")))
        return op.add(scaled, self._constant(self._w.array(name + ".bias")))

    def _linear(self, x: ov.Output, name: str) -> ov.Output:
        y = op.matmul(x, self._stored(name + ".weight"), False, True)
        return op.add(y, self._constant(self._w.array(name + ".bias")))

    def _stored(self, name: str) -> ov.Output:
        """A matrix as the file has it; OpenVINO turns it into what it multiplies."""
        return op.convert(op.constant(self._w.array(name)), "f32")

    @staticmethod
    def _constant(values: NDArray[np.floating]) -> ov.Output:
        return op.constant(values.astype(np.float32))


def compiled(weights: Weights, precision: str, threads: int) -> Callable[[Array], Array]:
    """Rows of a picture by OpenVINO."""
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = ov.Core().compile_model(Graph(weights).model(), "CPU", config).create_infer_request()
    return lambda pixels: next(iter(request.infer([pixels]).values()))[0]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mmproj", type=Path, required=True)
    parser.add_argument("--lm", type=Path, help="a language model to go with it (default: the one beside it)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", choices=("bf16", "f32", "f16"), default="bf16", help="of OpenVINO")
    parser.add_argument(
        "--compute", choices=("auto", "f32", "bf16", "int8"), default="auto", help="of this engine"
    )
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    lm = args.lm or args.mmproj.with_name(args.mmproj.name.replace("mmproj-f16", "q4_k_m"))
    core = _core.Model(
        str(lm), mmproj=str(args.mmproj), n_threads=args.threads, compute=args.compute, mmap=False
    )
    weights = Weights(args.mmproj)
    peer = compiled(weights, args.precision, args.threads)

    picture = pictures(1, int(weights.number("image_size")))[0]
    planar = np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32)
    ours, theirs = core.encode(picture), peer(planar)
    error = float(np.sqrt(np.mean((ours - theirs) ** 2) / np.mean(theirs**2)))
    print(
        f"OpenVINO {ov.__version__}, {args.precision}; rows {ours.shape}, off by {error:.1e} (RMS, relative)"
    )
    if not error < 0.05:
        raise SystemExit("the two do not compute the same")

    pairs = [
        (seconds(lambda: core.encode(picture)), seconds(lambda: peer(planar))) for _ in range(args.pairs)
    ]
    ratios = sorted(b / a for a, b in pairs)
    line = {
        "ours_s": statistics.median(a for a, _ in pairs),
        "openvino_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "ratio_min": ratios[0],
        "ratio_max": ratios[-1],
    }
    print(json.dumps(line | {"threads": args.threads, "precision": args.precision, "error": error}))


if __name__ == "__main__":
    main()
