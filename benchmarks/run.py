"""Measures this engine, and llama.cpp in turn with it: limits, kernels, phases, time to the first token.

    cmake --preset release && cmake --build --preset release         # for limits and kernels
    pip install ".[bench]"                                           # for --peer
    python benchmarks/run.py --model llava-1.1b --type q4_k_m --peer llama-cpp-python --json out.json

A model with random weights is made where it is missing; --lm and --mmproj take files in its place, which
--model then has to describe. Whatever is compared is run in turn, A B A B, and ratios are taken pair by pair:
shared machines drift, so that only ratios of one run count. Ratios above 1: the first one is faster.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import make_model
from engines import CLOCKS, Engine, Files, Ours, peak_mib, pictures
from model_shapes import SHAPES

import kernels
import trimtok_cpp
from trimtok_cpp import _core

Row = dict[str, Any]
SECTIONS = ("kernels", "memory", "threads", "phases", "first-token")
ROOT = Path(__file__).resolve().parent.parent


def alternate(runs: Sequence[Callable[[], list[float]]], pairs: int) -> list[list[list[float]]]:
    """Runs each once to warm up, then all in turn; per run, per figure that it returns, the values."""
    for run in runs:
        run()
    found: list[list[list[float]]] = [[] for _ in runs]
    for _ in range(pairs):
        for run, values in zip(runs, found, strict=True):
            values.append(run())
    return [[list(column) for column in zip(*values, strict=True)] for values in found]


def compared(what: str, unit: str, amount: float, names: Sequence[str], values: Sequence[list[float]]) -> Row:
    """One row: the rate of every engine and, of two, the ratio of their seconds."""
    row: Row = {"what": what, "unit": unit}
    row |= {name: amount / statistics.median(v) for name, v in zip(names, values, strict=True)}
    if len(values) == 2:
        ratios = [b / a for a, b in zip(*values, strict=True)]
        row |= {"ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}
    rates = "".join(f"  {name} {row[name]:9.2f}" for name in names)
    ratio = (
        f"  ratio {row['ratio']:.2f} ({row['ratio_min']:.2f} .. {row['ratio_max']:.2f})"
        if "ratio" in row
        else ""
    )
    print(f"{what:<18}{rates} {unit:<9}{ratio}", flush=True)
    return row


def phases(args: argparse.Namespace, engines: dict[str, Engine]) -> list[Row]:
    """Encoding, and prompts of several lengths with the decoding behind each."""
    names = list(engines)
    rows = []
    if args.files.mmproj is not None:
        picture = pictures(1, args.picture)[0]
        found = alternate([lambda e=e: [e.encode(picture)] for e in engines.values()], args.pairs)
        rows.append(compared("encode", "images/s", 1, names, [values[0] for values in found]))
    for n in args.prompt:

        def run(engine: Engine, n: int = n) -> list[float]:
            timing = engine.text(n, args.generate)
            return [timing.prefill, timing.token]

        found = alternate([lambda e=e, run=run: run(e) for e in engines.values()], args.pairs)
        rows.append(compared(f"prefill {n}", "tokens/s", n, names, [values[0] for values in found]))
        rows.append(compared(f"decode behind {n}", "tokens/s", 1, names, [values[1] for values in found]))
    return rows


def first_token(args: argparse.Namespace, ours: Engine, peer: Engine | None) -> list[Row]:
    """Time to the first token by number of pictures and kept share; the peer reads every row."""
    rows = []
    for count in args.images:
        batch = pictures(count, args.picture)
        seen: dict[float, list[Row]] = {keep: [] for keep in args.keep}
        for _ in range(args.pairs):
            theirs = peer.first_token(batch, 1.0) if peer else None
            for keep in args.keep:
                one = ours.first_token(batch, keep)
                seen[keep].append({"ours": one.seconds, "rows": one.rows, **one.parts})
                if theirs:
                    seen[keep][-1] |= {"peer": theirs.seconds, "peer_rows": theirs.rows}
        for keep, runs in seen.items():
            row: Row = {"what": "first token", "images": count, "keep": keep}
            for name in ("ours", "rows", "encode", "prune", "prefill"):
                row[name] = statistics.median(run[name] for run in runs)
            if peer:
                ratios = [run["peer"] / run["ours"] for run in runs]
                row |= {name: statistics.median(run[name] for run in runs) for name in ("peer", "peer_rows")}
                row |= {
                    "ratio": statistics.median(ratios),
                    "ratio_min": min(ratios),
                    "ratio_max": max(ratios),
                }
            rows.append(row)
            versus = (
                f"   peer {row['peer']:8.2f} s  ratio {row['ratio']:6.2f}"
                f" ({row['ratio_min']:.2f} .. {row['ratio_max']:.2f})"
                if peer
                else ""
            )
            print(
                f"{count:>3} pictures, keep {keep:<4g} {row['rows']:6.0f} rows {row['ours']:8.2f} s (encode"
                f" {row['encode']:.2f}, prune {row['prune']:.3f}, prefill {row['prefill']:.2f}){versus}",
                flush=True,
            )
    return rows


def _memory_child(files: Files, side: int, rows: int) -> Row:
    start = time.perf_counter()
    engine = Ours(dataclasses.replace(files, mmap=None))
    loaded = time.perf_counter() - start
    if files.mmproj is not None:
        engine.encode(pictures(1, side)[0])
    engine.text(rows, 4)
    return {"load_s": loaded, "peak_mib": peak_mib(), "kv_mib": engine.kv_mib()}


def memory(args: argparse.Namespace) -> list[Row]:
    """Time to load and peak memory, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        row = pool.apply(_memory_child, (args.files, args.picture, min(512, max(args.prompt))))
    weights = sum(p.stat().st_size for p in (args.files.lm, args.files.mmproj) if p is not None) / 2**20
    row |= {"what": "memory", "files_mib": weights, "beyond_files_mib": row["peak_mib"] - weights}
    print(
        f"load {row['load_s']:.3f} s; peak {row['peak_mib']:.0f} MiB, of it files {weights:.0f} MiB,"
        f" the rest {row['beyond_files_mib']:.0f} MiB (Python, cache, scratch)"
    )
    return [row]


def machine(args: argparse.Namespace) -> Row:
    """Where and with what the figures were taken."""
    cpuinfo = Path("/proc/cpuinfo")
    names = (
        [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        if cpuinfo.exists()
        else []
    )
    return {
        "cpu": names[0].partition(":")[2].strip() if names else platform.processor(),
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[0],
        "isa": args.isa,
        "threads": args.threads,
        "clock": args.clock,
        "version": trimtok_cpp.__version__,
        "pairs": args.pairs,
    }


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _shares(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SHAPES, default="llava-1.1b", help="shape of the generated model")
    parser.add_argument("--type", choices=make_model.RECIPES, default="q4_k_m", help="of its matrices")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder of generated models")
    parser.add_argument("--lm", type=Path, help="a language model file in place of a generated one")
    parser.add_argument("--mmproj", type=Path, help="the vision part that belongs to --lm")
    parser.add_argument("--only", default=",".join(SECTIONS), help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--peer", choices=["llama-cpp-python"])
    parser.add_argument("--peer-flash", action="store_true", help="flash attention in the peer")
    parser.add_argument(
        "--parity", type=Path, help="the trimtok_parity binary (default: the newest in build/)"
    )
    parser.add_argument("--op", help="kernel rows of this op only")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall",
        help="cpu: seconds of CPU, with --threads 1: on a machine that others use, too",
    )  # fmt: skip
    parser.add_argument("--pairs", type=int, help="how often each is run (default 5, --quick 1)")
    parser.add_argument("--prompt", type=_numbers, help="rows of prompts, as in 512,4096")
    parser.add_argument("--generate", type=int, default=16, help="tokens to decode behind each prompt")
    parser.add_argument("--images", type=_numbers, help="numbers of pictures, as in 1,4,8,20")
    parser.add_argument("--keep", type=_shares, help="kept shares, as in 1,0.5,0.2,0.1")
    parser.add_argument("--quick", action="store_true", help="few rows, once each: to see that it works")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args(argv)
    args.only = args.only.split(",")
    if unknown := set(args.only) - set(SECTIONS):
        parser.error(f"--only knows {', '.join(SECTIONS)}, not {', '.join(unknown)}")
    if args.clock == "cpu" and args.threads != 1:
        parser.error("--clock cpu needs --threads 1: the CPU seconds of several threads add up")
    args.pairs = args.pairs or (1 if args.quick else 5)
    args.prompt = args.prompt or ([64] if args.quick else [16, 512, 2048, 4096])
    args.images = args.images or ([1] if args.quick else [1, 4, 8, 20])
    args.keep = args.keep or ([1.0, 0.2] if args.quick else [1.0, 0.5, 0.2, 0.1])
    args.picture = SHAPES[args.model].picture
    args.isa = os.environ.get("TRIMTOK_CPU_ISA") or _core.ops.best_isa()
    args.parity = args.parity or kernels.find_parity(ROOT)
    return args


def _kernel_rows(args: argparse.Namespace) -> list[Row]:
    if args.parity is None:
        print("left out: no trimtok_parity in build/*/tests/parity; cmake --build --preset release makes it")
        return []
    rows = kernels.measure(args.parity, args.isa, sorted({1, args.threads}), quick=args.quick, op=args.op)
    print("\n".join(kernels.lines(rows)))
    return rows


def _end_to_end(args: argparse.Namespace) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}

    def begin(name: str) -> bool:
        if name in args.only:
            print(f"\n{name}: {args.files.lm.name}", flush=True)
        return name in args.only

    if begin("memory"):
        found["memory"] = memory(args)
    ours = Ours(args.files)
    if args.threads > 1 and begin("threads"):
        single = Ours(dataclasses.replace(args.files, threads=1))
        found["threads"] = phases(args, {f"{args.threads} threads": ours, "1 thread": single})
    peer: Engine | None = None
    if args.peer and {"phases", "first-token"} & set(args.only):
        import peer as peer_module

        print(f"\npeer: {peer_module.about()}, flash attention {'on' if args.peer_flash else 'off'}")
        peer = peer_module.LlamaCpp(args.files, flash=args.peer_flash)
    if begin("phases"):
        found["phases"] = phases(args, {"ours": ours, **({"llama.cpp": peer} if peer else {})})
    if args.files.mmproj is not None and begin("first-token"):
        found["first-token"] = first_token(args, ours, peer)
    return found


def main() -> None:
    args = parse()
    about = machine(args)
    print(", ".join(f"{name} {value}" for name, value in about.items()))
    found: dict[str, list[Row]] = {}
    if "kernels" in args.only:
        print("\nkernels")
        found["kernels"] = _kernel_rows(args)
    if set(args.only) - {"kernels"}:
        lm, mmproj = (
            (args.lm, args.mmproj) if args.lm else make_model.make(args.model, args.type, args.models)
        )
        n_ctx = max(args.prompt) + args.generate + 64
        if mmproj is not None and "first-token" in args.only:
            n_ctx = max(n_ctx, max(args.images) * SHAPES[args.model].rows + 256)
        args.files = Files(lm, mmproj, args.threads, n_ctx, args.clock)
        about |= {"lm": lm.name, "mmproj": mmproj and mmproj.name}
        found |= _end_to_end(args)
    if args.json:
        args.json.write_text(json.dumps({"machine": about, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
