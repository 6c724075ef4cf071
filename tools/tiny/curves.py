"""Turns the logs of a run into a CSV file and a picture with the curves.

python tools/tiny/curves.py --run RUN --logs tower,lm --out docs
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import albums as al
import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

Row = dict[str, Any]


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_csv(path: Path, logs: dict[str, list[Row]]) -> None:
    """Long form: stage, step, seconds, what, value."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["stage", "step", "seconds", "what", "value"])
        for stage, rows in logs.items():
            for row in rows:
                for key, value in row.items():
                    if key in ("step", "seconds") or not isinstance(value, (int, float)):
                        continue
                    writer.writerow([stage, row["step"], row.get("seconds", ""), key, value])


def plot(path: Path, logs: dict[str, list[Row]]) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.2))
    offset = 0.0
    for stage, rows in logs.items():
        axis = axes[0] if stage.startswith("tower") else axes[1]
        key = "text" if stage.startswith("tower") else "loss"
        for name in ("loss", "shape", "colour", "text") if key == "text" else ("loss", "aux"):
            points = [(offset + r["seconds"] / 60, r[name]) for r in rows if name in r and "seconds" in r]
            if points:
                axis.plot(*zip(*points, strict=True), label=f"{stage} {name}")
        if key == "loss":
            colours = plt.rcParams["axes.prop_cycle"].by_key()["color"]
            for task, colour in zip(al.TASKS, colours, strict=False):
                points = [
                    (offset + r["seconds"] / 60, r[f"train_{task}"])
                    for r in rows
                    if f"train_{task}" in r and "seconds" in r
                ]
                if points:
                    label = task if offset == 0 else None
                    axes[2].plot(*zip(*points, strict=True), label=label, color=colour, alpha=0.8)
            offset += max((r.get("seconds", 0) for r in rows), default=0) / 60
    for axis, title in zip(
        axes,
        ("tower: loss and accuracy", "language model: loss", "answers right while training"),
        strict=True,
    ):
        axis.set_title(title)
        axis.set_xlabel("minutes on two shared cores")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--logs", default="tower,lm")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logs = {name: read(args.run / f"{name}.jsonl") for name in args.logs.split(",")}
    args.out.mkdir(parents=True, exist_ok=True)
    write_csv(args.out / "trimtok-tiny-log.csv", logs)
    plot(args.out / "trimtok-tiny-curves.png", logs)


if __name__ == "__main__":
    main()
