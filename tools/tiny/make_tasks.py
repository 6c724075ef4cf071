"""Writes questions with pictures in the layout of `trimtok eval` (docs/eval.md).

    python tools/tiny/make_tasks.py --split test --out DIR

makes DIR/images/*.png and, for every number of images, DIR/n02.jsonl, n08.jsonl, n16.jsonl and n32.jsonl.
The seeds of the splits are fixed. What training never combines (objects, colours, places, texts) is in `test`
alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import albums as al
import numpy as np
from PIL import Image

SEEDS = {"val": 22, "test": 33}
SIZES = {
    "val": {"singles": 1500, "blanks": 100, "sparse": 200, "groups": 150},
    "test": {"singles": 3000, "blanks": 300, "sparse": 400, "groups": 300},
}
NUMBERS = (2, 8, 16, 32)


def split_store(split: str) -> al.Store:
    return al.make_store(SEEDS[split], held_out=split == "test", **SIZES[split])


def draw(store: al.Store, split: str, n: int, count: int) -> list[tuple[al.Album, al.Question]]:
    """`count` questions for each of the seven tasks about n images, every one with an album of its own."""
    rng = np.random.default_rng((SEEDS[split], n))
    out = []
    for row in sorted(set(al.TABLE.values())):
        tasks = [t for t in al.TABLE if al.TABLE[t] == row]
        for i in range(count):
            task, question = tasks[i % len(tasks)], None
            while question is None:
                album = al.MAKERS[al.TASKS[task]](store, rng, n)
                question = al.Asker(store, album, rng).ask(task)
            out.append((album, question))
    return out


def record(number: int, album: al.Album, question: al.Question) -> dict[str, Any]:
    choices = question.choices or question.implied
    line: dict[str, Any] = {
        "id": f"{question.task}-{number:04d}",
        "task": al.TABLE[question.task],
        "images": [f"images/{p:05d}.png" for p in album.pictures],
        "prompt": question.prompt,
        "answer": question.answer,
        "kind": "choice" if choices else "needle",
    }
    return line | ({"choices": list(choices)} if choices else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=SEEDS, default="test")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=75, help="questions for each task and number of images")
    parser.add_argument("--numbers", default=",".join(map(str, NUMBERS)))
    args = parser.parse_args()
    store = split_store(args.split)
    (args.out / "images").mkdir(parents=True, exist_ok=True)
    used: set[int] = set()
    for n in map(int, args.numbers.split(",")):
        drawn = draw(store, args.split, n, args.count)
        with (args.out / f"n{n:02d}.jsonl").open("w", encoding="utf-8") as file:
            for i, (album, question) in enumerate(drawn):
                used.update(album.pictures)
                file.write(json.dumps(record(i, album, question)) + "\n")
        print(f"{len(drawn)} questions about {n} images")
    for block in sorted({p // al.BLOCK for p in used}):
        pictures = al.render_block(store, SEEDS[args.split], block)
        for i, pixels in enumerate(pictures):
            if block * al.BLOCK + i in used:
                Image.fromarray(pixels).save(args.out / "images" / f"{block * al.BLOCK + i:05d}.png")
    print(f"{len(used)} pictures")


if __name__ == "__main__":
    main()
