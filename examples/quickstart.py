"""Looks at six pictures, keeps a fifth of their visual tokens and answers a question about them.

    python examples/quickstart.py

The model is made on the spot, small and with random weights, so that nothing has to be downloaded: what it
says means nothing, everything else (files, pictures, pruning, prompt, speed, memory) is real. Give a model of
your own with --model llava.gguf.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

import trimtok_cpp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))
import make_model

SKY, GRASS, BALL, HOUSE, ROOF, SUN = "#c8dcf0", "#6ea05a", "#c83c32", "#e6d7b4", "#8c5046", "#fad25a"


def draw_pictures(folder: Path) -> list[Path]:
    """A ball rolls past a house, in five frames; the sixth is another picture altogether."""
    paths = []
    for index in range(5):
        picture = Image.new("RGB", (336, 336), SKY)
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 230, 336, 336), fill=GRASS)
        draw.ellipse((250, 20, 310, 80), fill=SUN)
        draw.rectangle((120, 140, 230, 240), fill=HOUSE)
        draw.polygon([(105, 140), (175, 85), (245, 140)], fill=ROOF)
        draw.ellipse((10 + 60 * index, 235, 70 + 60 * index, 295), fill=BALL)
        paths.append(folder / f"frame_{index}.png")
        picture.save(paths[-1])
    picture = Image.new("RGB", (336, 336), "#26304a")
    draw = ImageDraw.Draw(picture)
    for k in range(40):
        x, y = 37 * k % 320, 61 * k % 300
        draw.ellipse((x, y, x + 4 + k % 5, y + 4 + k % 5), fill="#f0f0dc")
    draw.ellipse((200, 40, 280, 120), fill="#e8e8d0")
    paths.append(folder / "night.png")
    picture.save(paths[-1])
    return paths


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    gap = 8
    width = sum(picture.width + gap for picture in pictures) - gap
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    x = 0
    for picture in pictures:
        sheet.paste(picture, (x, 0))
        x += picture.width + gap
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a GGUF model of your own (its projector lies beside it)")
    parser.add_argument(
        "--out", type=Path, default=Path("models"), help="where the demo model and pictures go"
    )
    parser.add_argument("--question", default="What changed between these pictures?")
    parser.add_argument("--keep", type=float, default=0.2, help="share of visual tokens to keep, in (0, 1]")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    path = args.model
    if path is None:
        path, _ = make_model.make("demo", "q8_0", args.out)
        print(f"made {path} (random weights: the words below mean nothing)")
    pictures = draw_pictures(args.out)

    model = trimtok_cpp.Model(path)
    stream = model.generate(pictures, args.question, max_tokens=32, pruning=args.keep, stream=True)
    print(f"\n{args.question}\n> ", end="")
    for piece in stream:
        print(piece, end="", flush=True)
    result = stream.result
    print(f"\n\n{result.usage}\n{result.timings}")
    if result.pruning is not None:
        print(f"\n{result.pruning.summary()}")
        kept = args.out / "kept.png"
        side_by_side(result.pruning.overlays()).save(kept)
        print(f"\n{kept} shows what the language model read: bright cells stayed, dim ones went")


if __name__ == "__main__":
    main()
