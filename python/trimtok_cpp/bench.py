"""What pruning saves: one prompt with the same pictures at several shares of kept visual tokens."""

from __future__ import annotations

import csv
import importlib.util
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .images import ImageSource
from .model import Model
from .pruning import Pruning
from .result import Result

__all__ = [
    "KeepTiming",
    "as_dict",
    "bench_keep",
    "check_plot",
    "synthetic_pictures",
    "table",
    "write_csv",
    "write_plot",
]

PROMPT = "Describe these pictures and say what differs between them."


@dataclass(frozen=True)
class KeepTiming:
    """Medians at one share. Seconds; `first_token` runs from the call to the first token of the answer."""

    keep: float
    total_visual_tokens: int
    visual_tokens: int
    prompt_tokens: int
    encode: float
    prune: float
    prefill: float
    first_token: float
    prefill_gflop: float
    kv_mib: float
    decode_tokens_per_second: float
    stages: dict[str, float]


def synthetic_pictures(count: int, size: int = 448) -> list[NDArray[np.uint8]]:
    """Seeded blocks of colour: the work does not depend on what pictures show."""
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 256, (count, size // 32, size // 32, 3), np.uint8)
    return [np.ascontiguousarray(c.repeat(32, axis=0).repeat(32, axis=1)) for c in cells]


def bench_keep(
    model: Model,
    images: Sequence[ImageSource],
    settings: Sequence[Pruning],
    *,
    n_decode: int,
    repeat: int,
) -> list[KeepTiming]:
    """Runs every setting (a share in `keep`) `repeat` times, in turn: a drifting machine treats all alike."""
    model.generate(images, PROMPT, max_tokens=1, pruning=settings[-1])  # touches the mapped weights
    runs: list[list[tuple[float, Result]]] = [[] for _ in settings]
    for _ in range(repeat):
        for one, found in zip(settings, runs, strict=True):
            start = time.perf_counter()
            result = model.generate(images, PROMPT, max_tokens=n_decode + 1, pruning=one)
            found.append((time.perf_counter() - start - result.timings.decode, result))
    return [_timing(one, found) for one, found in zip(settings, runs, strict=True)]


def _timing(settings: Pruning, found: Sequence[tuple[float, Result]]) -> KeepTiming:
    result = found[0][1]
    report = result.pruning
    if report is None:
        raise RuntimeError("[bench] the answer carries no report of its pruning")
    stages: dict[str, list[float]] = {}
    for _, one in found:
        for stage, seconds in ({} if one.pruning is None else one.pruning.seconds).items():
            stages.setdefault(stage, []).append(seconds)
    return KeepTiming(
        keep=settings.keep or 1.0,
        total_visual_tokens=report.n_total,
        visual_tokens=result.usage.visual_tokens,
        prompt_tokens=result.usage.prompt_tokens,
        encode=statistics.median(sum(one.timings.encode) for _, one in found),
        prune=statistics.median(_prune_seconds(one) for _, one in found),
        prefill=statistics.median(one.timings.prefill for _, one in found),
        first_token=statistics.median(first for first, _ in found),
        prefill_gflop=result.prefill_flops / 1e9,
        kv_mib=result.kv_bytes / 2**20,
        decode_tokens_per_second=statistics.median(one.timings.decode_tokens_per_second for _, one in found),
        stages={stage: statistics.median(seconds) for stage, seconds in stages.items()},
    )


def _prune_seconds(result: Result) -> float:
    if result.pruning is None or result.pruning.reason:
        return 0.0
    return sum(result.pruning.seconds.values())


def table(timings: Sequence[KeepTiming]) -> str:
    """Lines of text: the phases of each share, then the cost of every stage of the selection."""
    head = (
        "keep",
        "tokens",
        "encode s",
        "prune s",
        "prefill s",
        "first token s",
        "GFLOP",
        "KV MiB",
        "tokens/s",
    )
    lines = ["".join(f"{name:>{_width(name)}}" for name in head)]
    for t in timings:
        cells: tuple[str, ...] = (
            f"{t.keep:g}",
            f"{t.visual_tokens}/{t.total_visual_tokens}",
            f"{t.encode:.3f}",
            f"{t.prune:.4f}",
            f"{t.prefill:.3f}",
            f"{t.first_token:.3f}",
            f"{t.prefill_gflop:.1f}",
            f"{t.kv_mib:.2f}",
            f"{t.decode_tokens_per_second:.1f}",
        )
        lines.append("".join(f"{cell:>{_width(name)}}" for name, cell in zip(head, cells, strict=True)))
    names = _stage_names(timings)
    if names:
        lines += [
            "",
            "milliseconds of each pruning stage",
            "".join(f"{n:>{_width(n)}}" for n in ("keep", *names)),
        ]
        for t in timings:
            values = (f"{1000 * t.stages[n]:.2f}" if n in t.stages else "-" for n in names)
            cells = (f"{t.keep:g}", *values)
            lines.append("".join(f"{c:>{_width(n)}}" for n, c in zip(("keep", *names), cells, strict=True)))
    return "\n".join(lines)


def _width(name: str) -> int:
    return 14 if name == "tokens" else max(10, len(name) + 2)


def _stage_names(timings: Sequence[KeepTiming]) -> list[str]:
    return list(dict.fromkeys(stage for t in timings for stage in t.stages))


def as_dict(timing: KeepTiming) -> dict[str, Any]:
    """One flat row, as CSV and JSON have it; stages become `prune_<stage>_s`."""
    row: dict[str, Any] = {
        "keep": timing.keep,
        "total_visual_tokens": timing.total_visual_tokens,
        "visual_tokens": timing.visual_tokens,
        "prompt_tokens": timing.prompt_tokens,
        "encode_s": timing.encode,
        "prune_s": timing.prune,
        "prefill_s": timing.prefill,
        "first_token_s": timing.first_token,
        "prefill_gflop": timing.prefill_gflop,
        "kv_mib": timing.kv_mib,
        "decode_tokens_per_s": timing.decode_tokens_per_second,
    }
    return row | {f"prune_{stage}_s": seconds for stage, seconds in timing.stages.items()}


def write_csv(timings: Sequence[KeepTiming], path: str | Path) -> None:
    """One line per share; a stage that did not run is empty."""
    rows = [as_dict(timing) for timing in timings]
    names = list(dict.fromkeys(name for row in rows for name in row))
    with Path(path).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def check_plot() -> None:
    """Raises RuntimeError where the package that draws is missing: before the work, not after it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise RuntimeError('[plot] needs matplotlib; install it with: pip install "trimtok-cpp[plot]"')


def write_plot(timings: Sequence[KeepTiming], path: str | Path, title: str = "") -> None:
    """A PNG: time to the first token by phase, and memory of the cache, over the share that is kept."""
    check_plot()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)  # no global state, no display
    times, memory = figure.subplots(1, 2)
    names = [f"{t.keep:g}\n{t.visual_tokens}" for t in timings]
    bottom = np.zeros(len(timings))
    for phase in ("encode", "prune", "prefill"):
        values = np.array([getattr(t, phase) for t in timings])
        times.bar(names, values, bottom=bottom, label=phase)
        bottom += values
    times.set(xlabel="kept share / visual tokens", ylabel="seconds to the first token")
    times.legend()
    memory.bar(names, [t.kv_mib for t in timings], color="tab:grey")
    memory.set(xlabel="kept share / visual tokens", ylabel="KV cache, MiB")
    if title:
        figure.suptitle(title)
    figure.savefig(path, dpi=120)
