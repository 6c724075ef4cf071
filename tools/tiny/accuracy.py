"""PyTorch's accuracy on a whole split, many questions at once.

    python tools/tiny/accuracy.py --run RUN [--split test] [--keep full]

An answer counts when every one of its tokens is the likeliest after the ones before, which is what greedy
decoding needs to say it. The questions are those of make_tasks.py; `--keep 0.2` leaves a random fifth of the
rows.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import albums as al
import numpy as np
import torch
from batches import assemble, make_pool
from export import load_lm
from make_tasks import SEEDS, draw, split_store
from parity import wilson
from tower import load_tower
from train_lm import right_answers, run_batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--name", default="lm")
    parser.add_argument("--split", choices=SEEDS, default="test")
    parser.add_argument("--keep", default="full")
    parser.add_argument("--count", type=int, default=75, help="questions for each task and number of images")
    parser.add_argument("--numbers", default="2,8,16,32")
    args = parser.parse_args()
    torch.set_num_threads(2)
    model = load_lm(args.run / f"{args.name}.pt")
    store = split_store(args.split)
    seed = SEEDS[args.split]
    pool = make_pool(store, load_tower(args.run / "tower.pt"), seed, args.run / f"rows-{args.split}.pt")
    keep = args.keep if args.keep in ("full", "cell") else float(args.keep)
    numbers = [int(n) for n in args.numbers.split(",")]
    hits: dict[tuple[str, int], list[bool]] = defaultdict(list)
    for n in numbers:
        drawn = draw(store, args.split, n, args.count)
        # Neighbours are of alike length; eight albums at a time.
        for start in range(0, len(drawn), 8):
            part = drawn[start : start + 8]
            rng = np.random.default_rng((7, n, start))
            batch = assemble(pool, rng, [a for a, _ in part], [[q] for _, q in part], keep=keep)
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                logits, target, _ = run_batch(model, pool, batch)
            for (_, q), ok in zip(part, right_answers(logits, target, batch)[:, 0], strict=True):
                for name in (al.TABLE[q.task], f"({q.task})", "all"):
                    hits[name, n].append(bool(ok))
        print(f"{n} images: {100 * float(np.mean(hits['all', n])):.1f} %", flush=True)
    print("| task | " + " | ".join(f"{n} images" for n in numbers) + " | all |")
    print("|---|" + "---|" * (len(numbers) + 1))
    for name in sorted({name for name, _ in hits}, key=lambda s: (s == "all", s[0] == "(", s)):
        columns = [hits[name, n] for n in numbers]
        cells = []
        for values in [*columns, [ok for column in columns for ok in column]]:
            low, high = wilson(sum(values), len(values))
            cells.append(f"{100 * np.mean(values):.0f} ({100 * low:.0f} to {100 * high:.0f})")
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
