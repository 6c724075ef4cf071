"""What is timed end to end, and this engine as one of those that can be timed."""

from __future__ import annotations

import re
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trimtok_cpp import Model, Pruning

Picture = NDArray[np.uint8]
QUESTION = "Describe these pictures and say what differs between them."


Clock = Callable[[], float]
# Seconds of CPU are those of one thread only, but other programs on the machine move them little.
CLOCKS: dict[str, Clock] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Files:
    """A pair of files, and how an engine is to run them."""

    lm: Path
    mmproj: Path | None
    threads: int
    n_ctx: int
    clock: str = "wall"
    mmap: bool | None = False  # of this engine; what the background would do within a second is done before

    def seconds(self, work: Callable[[], object]) -> float:
        now = CLOCKS[self.clock]
        start = now()
        work()
        return now() - start


@dataclass(frozen=True)
class TextTiming:
    """Seconds of a prompt, and of one token of the answer behind it."""

    prefill: float
    token: float


@dataclass(frozen=True)
class FirstToken:
    """Seconds from the call to the first token; `parts` are those of its phases that are known."""

    seconds: float
    rows: int = 0
    parts: dict[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """One loaded model. Every method does its work anew: nothing is remembered between calls."""

    def encode(self, picture: Picture) -> float: ...
    def text(self, n_prompt: int, n_tokens: int) -> TextTiming: ...
    def first_token(self, pictures: Sequence[Picture], keep: float) -> FirstToken: ...


def pictures(count: int, side: int) -> list[Picture]:
    """Seeded noise: the work does not depend on what pictures show."""
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8))


def peak_mib() -> float:
    """Largest resident size of this process so far, pages of mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage() may report the parent's peak
        found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text())
        if found:
            return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Ours:
    """trimtok_cpp."""

    def __init__(self, files: Files) -> None:
        self.seconds = files.seconds
        self.model = Model(
            str(files.lm),
            mmproj=None if files.mmproj is None else str(files.mmproj),
            n_threads=files.threads,
            n_ctx=files.n_ctx,
            image_cache_mb=0,
            mmap=files.mmap,
        )

    def encode(self, picture: Picture) -> float:
        return self.seconds(lambda: self.model._core.encode(picture))

    def text(self, n_prompt: int, n_tokens: int) -> TextTiming:
        # The first token comes out of the prefill, hence one more than the steps to be timed.
        options = self.model._options(n_tokens + 1, 0.0, 1, 1.0, 0.0, 1.0, 0, ())
        generation = self.model._core.generate(self._prompt(n_prompt), [], **options)
        first = self.seconds(generation.next)
        early = len(generation.result()["token_ids"]) - 1  # steps that made the first piece of text whole

        def rest() -> None:
            while generation.next() is not None:
                pass

        decode = self.seconds(rest)
        result = generation.result()
        if abs(result["usage"]["prompt_tokens"] - n_prompt) > max(8, n_prompt // 50):
            raise RuntimeError(f"[text] {result['usage']['prompt_tokens']} rows in place of {n_prompt}")
        steps = len(result["token_ids"]) - 1 - early
        if steps < 1:
            raise RuntimeError("[text] the model ends its answer at once; decoding cannot be timed with it")
        return TextTiming(first - early * decode / steps, decode / steps)

    def first_token(self, pictures: Sequence[Picture], keep: float) -> FirstToken:
        pruning = None if keep == 1 else Pruning(keep=keep)
        results = []
        spent = self.seconds(
            lambda: results.append(
                self.model.generate(list(pictures), QUESTION, max_tokens=1, seed=0, pruning=pruning)
            )
        )
        result = results[0]
        report = result.pruning
        parts = {
            "encode": sum(result.timings.encode),
            "prune": 0.0 if report is None or report.reason else sum(report.seconds.values()),
            "prefill": result.timings.prefill,
        }
        return FirstToken(spent, result.usage.prompt_tokens, parts)

    def kv_mib(self) -> float:
        """Cache of a short answer; it grows with the rows."""
        return self.model.generate([], "a", raw=True, max_tokens=1, seed=0).kv_bytes / 2**20

    def _prompt(self, n: int) -> str:
        """Text of n tokens, more or less."""
        per_word = len(self.model._core.tokenize(" ba" * 64)) / 64
        return " ba" * max(round(n / per_word), 1)
