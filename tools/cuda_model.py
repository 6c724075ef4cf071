"""The performance model of the CUDA kernels: what a GPU's memory and arithmetic would allow at best.

python tools/cuda_model.py PARITY [--write | --check]   PARITY: a build's tests/parity/trimtok_parity

Takes bytes and FLOPs of every benchmark row from `PARITY --plan`, so that a measurement (tools/gpu_report.py)
and the model speak of the same calls, and writes docs/cuda_model.md.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/cuda_model.md"


@dataclass(frozen=True)
class Gpu:
    """Peak rates of the data sheets, without sparsity."""

    name: str
    memory: float  # bytes/s
    tensor: float  # FLOP/s, f16 or bf16 inputs, f32 sums
    int8: float  # op/s, int8 inputs, 32-bit sums
    f32: float  # FLOP/s of FMA


H100 = Gpu("H100 SXM", 3.35e12, 989e12, 1979e12, 66.9e12)
RTX4090 = Gpu("RTX 4090", 1.008e12, 165.2e12, 660.6e12, 82.6e12)
H200 = Gpu("H200", 4.8e12, 989e12, 1979e12, 66.9e12)

# From this many rows on, matmul and attention multiply on tensor cores (kVecRows, kFewRows in kernels/cuda).
ROWS_ON_TENSOR_CORES = 9


def work(op: str, shape: str) -> tuple[str, int]:
    """Which units the CUDA table takes this call to on sm_80 and later, and how often it multiplies there."""
    if op == "gram":
        return "int8", 8  # pairs of three digits, but the last
    rows = re.match(r"(?:H=\d+ G=\d+ E=\d+ )?T=(\d+)", shape)
    if op not in ("matmul", "attention") or rows is None or int(rows.group(1)) < ROWS_ON_TENSOR_CORES:
        return "f32", 1
    if op == "attention":
        return "tensor", 1
    if shape.endswith(" int8"):
        return "int8", 2  # two digits of x
    if shape.endswith((" BF16", " MXFP4")):
        return "tensor", 2  # x as the sum of two bf16 numbers
    return ("f32" if shape.endswith(" F32") else "tensor"), 1


def seconds(op: str, shape: str, nbytes: float, flops: float, gpu: Gpu) -> tuple[float, str]:
    """The least time on this GPU and what sets it."""
    unit, times = work(op, shape)
    arithmetic = flops * times / {"tensor": gpu.tensor, "int8": gpu.int8, "f32": gpu.f32}[unit]
    memory = nbytes / gpu.memory
    return (memory, "memory") if memory >= arithmetic else (arithmetic, unit)


def read_plan(parity: Path) -> list[tuple[str, str, float, float]]:
    command = [str(parity), "--isa", "ref", "--plan"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = re.findall(r"^plan;(\w+);(.*?);(\d+);(\d+)$", text, re.MULTILINE)
    return [(op, shape, float(nbytes), float(flops)) for op, shape, nbytes, flops in rows]


def page(rows: list[tuple[str, str, float, float]]) -> str:
    lines = [
        "# What a GPU would allow: the performance model",
        "",
        "Written by `tools/cuda_model.py`; do not edit. Not measured: no kernel has run on a GPU yet. Bytes:",
        "every input and output once, as stored; FLOPs: those of the definition. The times are the larger of",
        "bytes over memory bandwidth and FLOPs over peak arithmetic (data sheets, no sparsity:",
        f"{H100.name} {H100.memory / 1e12:.2f} TB/s, {H100.tensor / 1e12:.0f} TFLOP/s on tensor cores, "
        f"{H100.int8 / 1e12:.0f} in int8,",
        f"{H100.f32 / 1e12:.0f} in f32; {RTX4090.name} {RTX4090.memory / 1e12:.2f} TB/s, "
        f"{RTX4090.tensor / 1e12:.0f}, {RTX4090.int8 / 1e12:.0f} and {RTX4090.f32 / 1e12:.0f}): no run can "
        "be quicker.",
        "Where x or rows are split into terms or digits the products are counted as often as they are made.",
        "Small calls are bound by the launch, some 2 us, which a captured graph takes away from most of",
        "them; what fits the L2 cache may beat its memory time; `greedy_pick` is bound by the latency of its",
        "picks, a block-wide reduction each, and by neither column.",
        "",
        "`tools/gpu_report.py` times the same calls and says which share of the bound each reaches.",
        "",
        f"| op | call | MB | GFLOP | {H100.name}, us | bound by | {RTX4090.name}, us | bound by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for op, shape, nbytes, flops in rows:
        cells = [op, shape, f"{nbytes / 1e6:.3f}", f"{flops / 1e9:.3f}"]
        for gpu in (H100, RTX4090):
            least, bound = seconds(op, shape, nbytes, flops, gpu)
            cells += [f"{least * 1e6:.2f}", bound]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parity", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = page(read_plan(args.parity))
    if args.write:
        PAGE.write_text(text, encoding="utf-8")
    elif args.check:
        if PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is not what {args.parity.name} --plan says: run tools/cuda_model.py --write")
            return 1
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
