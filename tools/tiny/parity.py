"""Answers of PyTorch and of the engine to the same questions, and how far they agree.

    python tools/tiny/parity.py torch  --tasks DIR --run RUN --out torch.jsonl          (needs PyTorch)
    python tools/tiny/parity.py engine --tasks DIR --model trimtok-tiny.gguf --out engine.jsonl
    python tools/tiny/parity.py report --tasks DIR torch.jsonl engine.jsonl

An answer is right here only if it is the expected text, word for word.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Answer = Callable[[list[Path], str], str]


def questions(tasks: Path, limits: str) -> list[dict[str, Any]]:
    """All questions, or the first of every task: `limits` "25" or, by number of images, "2:25,8:8"."""
    limit = {n: int(count) for n, _, count in (part.rpartition(":") for part in limits.split(",") if part)}
    out = []
    for path in sorted(tasks.glob("n*.jsonl")):
        seen: dict[str, int] = defaultdict(int)
        for line in path.read_text(encoding="utf-8").splitlines():
            q = json.loads(line)
            seen[q["task"]] += 1
            most = limit.get(str(len(q["images"])), limit.get("", 0 if limit else 1 << 30))
            if seen[q["task"]] <= most:
                out.append(q | {"key": f"{path.stem}/{q['id']}"})
    return out


def torch_answer(run: Path, name: str) -> Answer:
    import torch
    import vocab
    from batches import layout
    from export import load_lm
    from tower import load_tower

    torch.set_num_threads(2)
    tower, model = load_tower(run / "tower.pt"), load_lm(run / f"{name}.pt")
    cache: dict[Path, torch.Tensor] = {}

    @torch.no_grad()
    def answer(paths: list[Path], prompt: str) -> str:
        new = [p for p in dict.fromkeys(paths) if p not in cache]
        if new:
            pixels = np.stack([np.asarray(Image.open(p).convert("RGB")) for p in new])
            cache.update(zip(new, model.project(tower(torch.from_numpy(pixels))), strict=True))
        ids, patch = layout(len(paths))
        x = model.embed(torch.from_numpy(ids.clip(0)))
        x[torch.from_numpy(patch >= 0)] = torch.cat([cache[p] for p in paths])
        asked, made = vocab.question(prompt), []
        while len(made) < 12 and (not made or made[-1] != 1):
            tail = torch.tensor(asked + made)
            whole = torch.cat([x, model.embed(tail)])[None]
            hidden, _ = model(whole, torch.arange(whole.shape[1])[None], len(ids), 1)
            made.append(int(model.head(hidden[0, -1]).argmax()))
        return vocab.decode(made)

    return answer


def engine_answer(path: Path, threads: int | None) -> Answer:
    import trimtok_cpp

    model = trimtok_cpp.Model(path, n_threads=threads)

    def answer(paths: list[Path], prompt: str) -> str:
        return model.generate(paths, prompt, max_tokens=12, pruning=None).text

    return answer


def wilson(right: int, n: int) -> tuple[float, float]:
    p, z = right / n, 1.96
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)


def report(tasks: Path, files: list[Path]) -> None:
    asked = {q["key"]: q for q in questions(tasks, "")}
    lines = [f.read_text(encoding="utf-8").splitlines() for f in files]
    given = [{a["key"]: a["answer"] for a in map(json.loads, part)} for part in lines]
    print("| task | images | " + " | ".join(f"{f.stem} %" for f in files) + " | n |")
    print("|---|---|" + "---|" * (len(files) + 1))
    cells: dict[tuple[str, str], list[str]] = defaultdict(list)
    for key in set.intersection(*(set(g) for g in given)):
        q = asked[key]
        for images in (str(len(q["images"])), "all"):
            cells[q["task"], images].append(key)
            cells["all", images].append(key)
    for task, images in sorted(cells, key=lambda c: (c[0], c[1].zfill(3))):
        keys, shown = cells[task, images], []
        for g in given:
            right = sum(g[k].split() == asked[k]["answer"].split() for k in keys)
            low, high = wilson(right, len(keys))
            shown.append(f"{100 * right / len(keys):.1f} ({100 * low:.1f} to {100 * high:.1f})")
        print(f"| {task} | {images} | " + " | ".join(shown) + f" | {len(keys)} |")
    if len(given) > 1:
        keys = [k for k in given[0] if k in given[1]]
        equal = sum(given[0][k].split() == given[1][k].split() for k in keys)
        print(f"\nequal answers: {equal} of {len(keys)} ({100 * equal / len(keys):.2f} %)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["torch", "engine", "report"])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--tasks", type=Path, required=True)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--name", default="lm")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--limits", default="", help="of each task: 25, or 2:25,8:8 by number of images")
    parser.add_argument("--threads", type=int, help="of the engine")
    args = parser.parse_intermixed_args()
    if args.what == "report":
        report(args.tasks, args.files)
        return
    answer = (
        torch_answer(args.run, args.name) if args.what == "torch" else engine_answer(args.model, args.threads)
    )
    with args.out.open("w", encoding="utf-8") as file:
        for q in questions(args.tasks, args.limits):
            text = answer([args.tasks / p for p in q["images"]], q["prompt"])
            file.write(json.dumps({"key": q["key"], "answer": text.strip()}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
