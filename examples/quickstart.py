"""Looks at two pictures and answers a question about them, with a model made on the spot.

    python examples/quickstart.py

The model is small and its weights are random, so that nothing has to be downloaded: what it says means
nothing, everything else (files, pictures, prompt, speed, memory) is real. Give a model of your own with
--model llava.gguf.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from PIL import Image, ImageDraw

import trimtok_cpp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import make_model


def draw_pictures(folder: Path) -> list[Path]:
    """Two pictures that differ in one thing: the ball has moved."""
    paths = []
    for name, x in (("before.png", 60), ("after.png", 220)):
        picture = Image.new("RGB", (320, 240), (200, 220, 240))
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 180, 320, 240), fill=(110, 160, 90))
        draw.ellipse((x, 130, x + 60, 190), fill=(200, 60, 50))
        picture.save(folder / name)
        paths.append(folder / name)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a GGUF model of your own (its projector lies beside it)")
    parser.add_argument(
        "--out", type=Path, default=Path("models"), help="where the demo model and pictures go"
    )
    parser.add_argument("--question", default="What changed between these pictures?")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    path = args.model
    if path is None:
        path, _ = make_model.make("demo", "q8_0", args.out)
        print(f"made {path} (random weights: the words below mean nothing)")
    pictures = draw_pictures(args.out)

    model = trimtok_cpp.Model(path)
    stream = model.generate(pictures, args.question, max_tokens=32, stream=True)
    print(f"\n{args.question}\n> ", end="")
    for piece in stream:
        print(piece, end="", flush=True)
    print("\n")
    print(stream.result.usage)
    print(stream.result.timings)


if __name__ == "__main__":
    main()
