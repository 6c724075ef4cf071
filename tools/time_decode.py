#!/usr/bin/env python3
"""Times decode steps with and without recorded graphs (docs/cuda.md), in turn, and compares their logits.

    python tools/time_decode.py MODEL.gguf [--device cuda] [--steps 128] [--prompt 128] [--rounds 3]

Writes one line of JSON: milliseconds a step, the median of the rounds, and how many were run which way. Exit
code 1 where the two ways differ or nothing was recorded.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from typing import Any

import numpy as np

from trimtok_cpp import _core


def decode(core: Any, rows: np.ndarray, ids: list[int]) -> tuple[float, np.ndarray]:
    """Seconds that the ids take behind a prompt of these rows, and their logits."""
    positions = np.arange(len(rows), dtype=np.int32)
    start = time.perf_counter()
    core.logits(rows, positions, 1)
    prompt = time.perf_counter() - start
    start = time.perf_counter()
    logits = core.logits(rows, positions, 0, ids=ids)
    return time.perf_counter() - start - prompt, logits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--steps", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    core = _core.Model(args.model, device=args.device)
    rng = np.random.default_rng(1)
    n_vocab = core.info()["n_vocab"]
    rows = core.embed(rng.integers(0, n_vocab, args.prompt).tolist())
    ids = rng.integers(0, n_vocab, args.steps).tolist()
    taken: dict[bool, list[float]] = {True: [], False: []}
    logits: dict[bool, np.ndarray] = {}
    for _ in range(1 + args.rounds):  # the first one warms up
        for recorded in (False, True):
            core.record_steps(recorded)
            seconds, logits[recorded] = decode(core, rows, ids)
            taken[recorded].append(seconds)
    steps = core.info()["decode_steps"]
    same = bool(np.array_equal(logits[True], logits[False]))
    times = {
        name: 1e3 * statistics.median(taken[recorded][1:]) / args.steps
        for name, recorded in (("recorded_ms", True), ("op_by_op_ms", False))
    }
    line = {**times, "same_logits": same, **steps}
    print(json.dumps(line))
    return 0 if same and steps["replayed"] > 0 else 1


if __name__ == "__main__":
    sys.exit(main())
