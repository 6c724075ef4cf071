"""The small model that comes with the package, and `trimtok demo`, which shows it at work."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from .model import Model
from .pruning import DEFAULT_PRUNING

__all__ = ["PICTURES", "TINY"]

#: trimtok-tiny: language model and tower in one file; docs/trimtok-tiny.md says what it can do.
TINY: Final = Path(__file__).parent / "models" / "trimtok-tiny.gguf"
#: Eight of the pictures that it was made for, 1.png to 8.png, and questions.json with right answers.
PICTURES: Final = TINY.parent / "demo"

_SCALE = 2  # the pictures have 96 x 96 pixels
_GAP = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `trimtok demo`."""
    parser.add_argument(
        "--keep", type=float, default=DEFAULT_PRUNING.keep, metavar="SHARE",
        help="share of the visual tokens that the model reads, in (0, 1] (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("trimtok-demo.png"), metavar="FILE",
        help="picture of what the model read (default %(default)s)",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Asks trimtok-tiny about eight pictures, with all of their tokens and with a share."""
    model = Model(TINY, image_cache_mb=0)  # every answer is timed with its pictures
    pictures = [PICTURES / f"{k}.png" for k in range(1, 9)]
    share = f"{100 * args.keep:g} %"
    print(f"{len(pictures)} pictures of {PICTURES}\n")
    print(f"{'question':<62}{'right':<14}{'all tokens':<14}{share}")
    for asked in json.loads((PICTURES / "questions.json").read_text(encoding="utf-8")):
        full = model.generate(pictures, asked["question"], pruning=None, max_tokens=8)
        part = model.generate(pictures, asked["question"], pruning=args.keep, max_tokens=8)
        print(f"{asked['question']:<62}{asked['answer']:<14}{full.text:<14}{part.text}")
    print("\nof the last question:")
    for name, result in (("all tokens", full), (share, part)):
        print(f"{name:<12}{result.usage}; {result.timings}")
    if part.pruning is not None:
        print(f"\n{part.pruning.summary()}")
        contact_sheet(part.pruning.overlays(), columns=4).save(args.out)
        print(f"\n{args.out} shows what it read for the last question: bright cells stayed, dim ones went")


def contact_sheet(pictures: Sequence[Image.Image], columns: int, scale: int = _SCALE) -> Image.Image:
    """Pictures of one size in rows of `columns`, enlarged without smoothing."""
    width, height = (side * scale for side in pictures[0].size)
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP), "white")
    for k, picture in enumerate(pictures):
        place = (k % columns * (width + _GAP), k // columns * (height + _GAP))
        sheet.paste(picture.resize((width, height), Image.Resampling.NEAREST), place)
    return sheet
