"""What each precision policy costs: errors of rows and logits against compute="f32", on one model.

    python benchmarks/precision.py model.gguf [mmproj.gguf] [--text FILE]

Logits are compared at every position of a text, with the whole text as one batch (prompts) and token by token
(answers). Errors are relative: RMS of the difference over RMS of the exact values (logits: of their deviation
from the mean). "top-1" is the share of positions whose best token stays the same.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from trimtok_cpp import UnsupportedError, _core

TEXT = (
    "The harbour was quiet when the first boats came in. Nets lay drying on the wall, and a boy counted "
    "crates of silver fish while his grandmother argued about the price of salt. Further up the hill, the "
    "baker had already opened her shop; the smell of bread mixed with that of seaweed and tar. In 1987, "
    "there were 214 boats here. Today there are nine, and most of them carry visitors who want to see whales."
)


def relative(value: np.ndarray, exact: np.ndarray, centre: bool) -> float:
    reference = exact - exact.mean(axis=-1, keepdims=True) if centre else exact
    return float(np.sqrt(np.mean((value - exact) ** 2) / np.mean(reference**2)))


def divergence(value: np.ndarray, exact: np.ndarray) -> float:
    """Mean over positions of KL(exact, value), in nats."""

    def log_softmax(x: np.ndarray) -> np.ndarray:
        shifted = x - x.max(axis=-1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

    p, q = log_softmax(exact), log_softmax(value)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


class Case:
    """One policy on one model: logits both ways, and rows of a picture."""

    def __init__(self, args: argparse.Namespace, compute: str) -> None:
        mmproj = str(args.mmproj) if args.mmproj else ""
        self.model = _core.Model(
            str(args.lm), mmproj=mmproj, kv_dtype="f32", compute=compute, n_threads=args.threads
        )
        text = args.text.read_text() if args.text else TEXT
        ids = self.model.tokenize(text)[: args.tokens]
        rows = self.model.embed(ids)
        positions = np.arange(len(ids), dtype=np.int32)
        self.logits = {
            name: self.model.logits(rows, positions, n_last=len(ids), chunk=chunk).astype(np.float64)
            for name, chunk in (("many rows", 512), ("one row", 1))
        }
        self.rows = None
        if args.mmproj:
            image = np.random.default_rng(0).integers(0, 255, (336, 336, 3), dtype=np.uint8)
            self.rows = np.asarray(self.model.encode(image), dtype=np.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lm", type=Path)
    parser.add_argument("mmproj", type=Path, nargs="?")
    parser.add_argument("--text", type=Path, help="a text file (default: a paragraph)")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    exact = Case(args, "f32")
    table = []
    for compute in ("int8", "bf16", "auto"):
        try:
            case = Case(args, compute)
        except UnsupportedError as error:
            print(f"{compute}: {error}")
            continue
        print(f"{args.lm.name} {compute}: {case.model.info()['compute_by_weight']}")
        for name, logits in case.logits.items():
            row = {
                "compute": compute,
                "what": f"logits, {name}",
                "error": relative(logits, exact.logits[name], centre=True),
                "kl": divergence(logits, exact.logits[name]),
                "top1": float(np.mean(logits.argmax(axis=-1) == exact.logits[name].argmax(axis=-1))),
            }
            print(
                f"  {row['what']:<18} error {row['error']:.2e}  KL {row['kl']:.1e}  top-1 {row['top1']:.1%}"
            )
            table.append(row)
        if case.rows is not None and exact.rows is not None:
            error = relative(case.rows, exact.rows, centre=False)
            print(f"  {'rows of a picture':<18} error {error:.2e}")
            table.append({"compute": compute, "what": "rows of a picture", "error": error})
    if args.json:
        args.json.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
