"""Times this engine and llama.cpp (package llama-cpp-python) on the same files, in turn.

    pip install ".[bench]"
    python benchmarks/make_model.py llava-1.1b --type q4_k_m
    python benchmarks/compare.py models/llava-1.1b-q4_k_m.gguf models/llava-1.1b-mmproj-f16.gguf

Every figure is the median over --pairs pairs A B A B; the ratio is taken pair by pair. Run it on an
otherwise idle machine: shared machines drift, only ratios of one run count.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import llama_cpp
import numpy as np
from llama_cpp import mtmd_cpp

import trimtok_cpp
from trimtok_cpp import _core

Timer = Callable[[], float]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Ours:
    """This engine: prefill and decode through the rows entry, encode through the tower."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.model = _core.Model(
            str(args.lm), mmproj=str(args.mmproj) if args.mmproj else "", n_threads=args.threads, n_ctx=8192
        )
        self.rng = np.random.default_rng(0)

    def prefill(self, n: int) -> float:
        rows = self.model.embed(self.rng.integers(300, 3000, n).tolist())
        positions = np.arange(n, dtype=np.int32)
        return seconds(lambda: self.model.logits(rows, positions, n_last=1, chunk=512))

    def decode(self, n: int) -> float:
        """Seconds for n tokens after a short prompt, prompt left out."""
        options = {"temperature": 1.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
        generation = self.model.generate("a short prompt", [], max_tokens=n + 1, seed=0, stop=[], **options)
        while generation.next() is not None:
            pass
        result = generation.result()
        made = result["usage"]["completion_tokens"]
        return result["timings"]["decode"] / max(made - 1, 1) * n

    def encode(self, image: np.ndarray) -> float:
        return seconds(lambda: self.model.encode(image))


class LlamaCpp:
    """The peer, with the settings that are best for it here: no flash attention in decode, same threads."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.llm = llama_cpp.Llama(
            str(args.lm), n_ctx=8192, n_batch=512, n_ubatch=512, n_threads=args.threads,
            n_threads_batch=args.threads, logits_all=False, flash_attn=args.peer_flash, verbose=False,
        )  # fmt: skip
        self.rng = np.random.default_rng(0)
        self.vision = None
        if args.mmproj:
            params = mtmd_cpp.mtmd_context_params_default()
            params.use_gpu = False
            params.n_threads = args.threads
            params.print_timings = False
            params.warmup = True
            self.vision = mtmd_cpp.mtmd_init_from_file(str(args.mmproj).encode(), self.llm.model, params)

    def prefill(self, n: int) -> float:
        self.llm.reset()
        self.llm._ctx.kv_cache_clear()
        tokens = self.rng.integers(300, 3000, n).tolist()
        return seconds(lambda: self.llm.eval(tokens))

    def decode(self, n: int) -> float:
        self.llm.reset()
        self.llm._ctx.kv_cache_clear()
        self.llm.eval([1, 300, 301, 302])

        def run() -> None:
            for i in range(n):
                self.llm.eval([400 + i])

        return seconds(run)

    def encode(self, image: np.ndarray) -> float:
        height, width = image.shape[:2]
        data = np.ascontiguousarray(image)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, pointer)
        text = mtmd_cpp.mtmd_input_text()
        text.text = mtmd_cpp.mtmd_default_marker()
        if hasattr(text, "text_len"):  # newer versions take a length
            text.text_len = len(text.text)
        text.add_special = False
        text.parse_special = True
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
        if mtmd_cpp.mtmd_tokenize(self.vision, chunks, ctypes.byref(text), bitmaps, 1) != 0:
            raise RuntimeError("the peer could not prepare the picture")
        spent = 0.0
        for i in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
            chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, i)
            if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE:
                spent += seconds(lambda c=chunk: mtmd_cpp.mtmd_encode_chunk(self.vision, c))
        mtmd_cpp.mtmd_input_chunks_free(chunks)
        mtmd_cpp.mtmd_bitmap_free(bitmap)
        return spent


def compare(name: str, ours: Timer, peer: Timer, pairs: int, work: float, unit: str) -> dict[str, object]:
    """One row: medians of both, the median ratio (peer time / our time) and its range."""
    ours()  # warm-up: pages of the mapped file, first-touch of scratch
    peer()
    mine, theirs = [], []
    for _ in range(pairs):
        mine.append(ours())
        theirs.append(peer())
    ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
    row = {
        "what": name,
        "ours": work / statistics.median(mine),
        "peer": work / statistics.median(theirs),
        "unit": unit,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
    }
    print(
        f"{name:<14} ours {row['ours']:9.2f}   llama.cpp {row['peer']:9.2f} {unit:<9}"
        f" ratio {row['ratio']:.2f} ({row['ratio_min']:.2f} .. {row['ratio_max']:.2f})",
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lm", type=Path)
    parser.add_argument("mmproj", type=Path, nargs="?")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--prompt", type=int, nargs="*", default=[512])
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--peer-flash", action="store_true", help="flash attention in the peer")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    ours, peer = Ours(args), LlamaCpp(args)
    print(f"trimtok_cpp {trimtok_cpp.__version__}, ISA {ours.model.info()['isa']}, {args.threads} threads")
    print(f"llama-cpp-python {llama_cpp.__version__}: {llama_cpp.llama_print_system_info().decode().strip()}")
    print(f"{args.lm.name}, medians of {args.pairs} pairs, ratio above 1: we are faster")
    rows = []
    for n in args.prompt:
        rows.append(
            compare(
                f"prefill {n}",
                lambda n=n: ours.prefill(n),
                lambda n=n: peer.prefill(n),
                args.pairs,
                n,
                "tokens/s",
            )
        )
    n = args.generate
    rows.append(
        compare(f"decode {n}", lambda: ours.decode(n), lambda: peer.decode(n), args.pairs, n, "tokens/s")
    )
    if args.mmproj:
        image = np.random.default_rng(0).integers(0, 255, (336, 336, 3), dtype=np.uint8)
        rows.append(
            compare(
                "encode", lambda: ours.encode(image), lambda: peer.encode(image), args.pairs, 1, "images/s"
            )
        )
    if args.json:
        args.json.write_text(
            json.dumps({"model": args.lm.name, "threads": args.threads, "rows": rows}, indent=1)
        )


if __name__ == "__main__":
    main()
