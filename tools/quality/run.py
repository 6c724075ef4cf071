"""Makes docs/quality.md, quality.csv and img/quality.png.

Draws the questions of the test split, asks each with every setting, reports. Goes on where it was stopped.

    python tools/quality/run.py

Questions and answers lie in build/quality, one file of answers for each run of grids.py. `--limit 10` takes
the first questions of each task, for a quick look.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import grids
import report

from trimtok_cpp import Model
from trimtok_cpp.demo import TINY
from trimtok_cpp.eval import Results, Settings, evaluate
from trimtok_cpp.eval.command import about, read_all


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=report.ROOT / "build" / "quality")
    parser.add_argument("--model", type=Path, default=TINY)
    parser.add_argument("--split", choices=("val", "test"), default="test", help="val: to decide on settings")
    parser.add_argument(
        "--groups", default="", help="main, downsampled or ablations, with commas; default: all"
    )
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--docs", type=Path, help="where the report goes; default: docs, for all of the test")
    args = parser.parse_args()

    tasks, folder = args.work / args.split, args.work / f"results-{args.split}"
    if not (tasks / f"n{grids.NUMBERS[-1]:02d}.jsonl").exists():
        maker = report.ROOT / "tools" / "tiny" / "make_tasks.py"
        subprocess.run([sys.executable, maker, "--split", args.split, "--out", tasks], check=True)
    folder.mkdir(parents=True, exist_ok=True)
    model = Model(args.model, n_threads=args.threads)
    image_size = model.info()["vision"]["image_size"]
    wanted = set(filter(None, args.groups.split(",")))
    for run in grids.runs(image_size):
        kind = run.group if run.group in ("main", "downsampled") else "ablations"
        if wanted and kind not in wanted:
            continue
        questions = read_all([str(tasks / f"n{run.n:02d}.jsonl")], args.limit)
        settings = Settings(max_tokens=8, max_side=run.max_side, pruning=run.pruning, about=about(model))
        path = run.results(folder)
        start = time.monotonic()
        with Results(path, settings) as results:
            records = evaluate(model, questions, run.configs, results, settings)
        failed = [record for record in records if record.error is not None]
        print(f"{path.name}: {len(records)} answers, {time.monotonic() - start:.0f} s", flush=True)
        if failed:
            sys.exit(f"{len(failed)} answers failed, the first with: {failed[0].error}")
    whole = args.split == "test" and args.limit is None and not wanted
    docs = args.docs or (report.ROOT / "docs" if whole else None)
    if docs is not None:
        report.write(folder, image_size, docs)


if __name__ == "__main__":
    main()
