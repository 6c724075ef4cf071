"""Asks every question of the quality table with every setting; goes on where it was stopped.

    python tools/tiny/make_tasks.py --split test --out build/quality/test
    python tools/quality/run.py build/quality/test --results build/quality/results
    python tools/quality/report.py build/quality/results

One file of answers for each run of grids.py. `--limit 10` takes the first questions of each task: a quick
look.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import grids

from trimtok_cpp import Model
from trimtok_cpp.demo import TINY
from trimtok_cpp.eval import Results, Settings, evaluate
from trimtok_cpp.eval.command import about, read_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", type=Path, help="folder that make_tasks.py wrote")
    parser.add_argument("--results", type=Path, required=True, help="folder of the answers")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument(
        "--groups", default="", help="main, downsampled or ablations, with commas; default: all"
    )
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int)
    args = parser.parse_args()

    args.results.mkdir(parents=True, exist_ok=True)
    model = Model(args.model, n_threads=args.threads)
    image_size = model.info()["vision"]["image_size"]
    wanted = set(filter(None, args.groups.split(",")))
    for run in grids.runs(image_size):
        kind = run.group if run.group in ("main", "downsampled") else "ablations"
        if wanted and kind not in wanted:
            continue
        questions = read_all([str(args.tasks / f"n{run.n:02d}.jsonl")], args.limit)
        settings = Settings(max_tokens=8, max_side=run.max_side, pruning=run.pruning, about=about(model))
        path = run.results(args.results)
        start = time.monotonic()
        with Results(path, settings) as results:
            records = evaluate(model, questions, run.configs, results, settings)
        failed = [record for record in records if record.error is not None]
        print(f"{path.name}: {len(records)} answers, {time.monotonic() - start:.0f} s", flush=True)
        if failed:
            sys.exit(f"{len(failed)} answers failed, the first with: {failed[0].error}")


if __name__ == "__main__":
    main()
