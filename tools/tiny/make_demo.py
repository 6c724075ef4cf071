"""Pictures and questions of `trimtok demo`, from the test split.

    python tools/tiny/make_demo.py --seed 7

writes eight pictures and questions.json with questions and right answers to the package. A demonstration, not
a measurement: docs/quality.md has those.
"""

from __future__ import annotations

import argparse
import json
import shutil

import albums as al
import numpy as np
from make_tasks import SEEDS, split_store
from PIL import Image

from trimtok_cpp.demo import PICTURES

N = 8
ASKED = ("find", "read", "count", "first", "attribute")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    store = split_store("test")
    questions: list[al.Question | None] = [None]
    while any(q is None for q in questions):
        album = al.mixed(store, rng, N)
        asker = al.Asker(store, album, rng, choice_share=0.0)
        questions = [asker.ask(task) for task in ASKED]
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir()
    for k, picture in enumerate(album.pictures, 1):
        pixels = al.render_block(store, SEEDS["test"], picture // al.BLOCK)[picture % al.BLOCK]
        Image.fromarray(pixels).save(PICTURES / f"{k}.png", optimize=True)
    asked = [{"question": q.prompt, "answer": q.answer} for q in questions if q is not None]
    (PICTURES / "questions.json").write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
