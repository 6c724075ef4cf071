"""Times the selectors on rows of many pictures.

    python benchmarks/selection.py --pictures 20 --rows 576 --width 2048 --keep 0.2

Rows lie around some centres in every picture, as those of real pictures do.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from trimtok_cpp import Pruning, prune
from trimtok_cpp.pruning import SELECTORS


def clustered(pictures: int, rows: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    out = []
    for _ in range(pictures):
        centres = rng.standard_normal((64, width), np.float32)
        noise = rng.standard_normal((rows, width), np.float32)
        out.append(centres[rng.integers(0, 64, rows)] + np.float32(0.5) * noise)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--rows", type=int, default=576)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--keep", type=float, default=0.2)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--selectors", default="trimtokenator-lc", help=f"of {', '.join(SELECTORS)}")
    args = parser.parse_args()
    rows = clustered(args.pictures, args.rows, args.width)
    text = np.random.default_rng(1).standard_normal((12, args.width), np.float32)
    print(f"{args.pictures} x {args.rows} x {args.width} to {args.keep:g}, median of {args.repeat}")
    for selector in args.selectors.split(","):
        settings = Pruning(keep=args.keep, selector=selector)
        report = prune(rows, text, settings, n_threads=args.threads)  # warm-up
        seconds = []
        for _ in range(args.repeat):
            start = time.perf_counter()
            report = prune(rows, text, settings, n_threads=args.threads)
            seconds.append(time.perf_counter() - start)
        stages = ", ".join(f"{stage} {spent:.3f}" for stage, spent in report.seconds.items())
        print(f"{selector:<18}{statistics.median(seconds):.3f} s   {report.n_kept} kept   ({stages})")


if __name__ == "__main__":
    main()
