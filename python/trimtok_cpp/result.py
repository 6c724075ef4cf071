"""What a generation returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .pruning import PruneReport

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["MemoryPlan", "Result", "Timings", "TokenCount", "Usage"]


@dataclass(frozen=True)
class Usage:
    """Tokens of one generation.

    `prompt_tokens` counts every row that the language model read, the `visual_tokens` that stayed included.
    """

    prompt_tokens: int
    visual_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        """Rows of context that the prompt and the answer take."""
        return self.prompt_tokens + self.completion_tokens

    def __str__(self) -> str:  # noqa: D105
        return (
            f"{self.prompt_tokens} prompt tokens ({self.visual_tokens} visual), "
            f"{self.completion_tokens} completion tokens"
        )


class TokenCount(int):
    """The number of rows that a prompt takes in the context; `visual_tokens` of them belong to pictures."""

    visual_tokens: int

    def __new__(cls, prompt_tokens: int, visual_tokens: int) -> TokenCount:  # noqa: D102
        count = super().__new__(cls, prompt_tokens)
        count.visual_tokens = visual_tokens
        return count

    @property
    def prompt_tokens(self) -> int:
        """The number itself."""
        return int(self)


@dataclass(frozen=True)
class MemoryPlan:
    """MiB of memory that a model takes on its device, the host where it has none; see Model.plan.

    `weights` of the language model, `tower`, `kv`: the cache, `rows`: of pictures and prompt, `scratch`:
    activations (what single operations use for themselves comes on top: some MiB). `total` is their sum,
    `available` what this process can have, `fits` whether that is enough. `host`: what layers beyond
    gpu_layers take beside. `visual_tokens`: rows of all pictures before pruning.
    """

    device: str
    weights: float
    tower: float
    kv: float
    rows: float
    scratch: float
    total: float
    available: float
    fits: bool
    host: float
    visual_tokens: int

    @classmethod
    def of(cls, numbers: Mapping[str, int], device: str) -> MemoryPlan:
        """From the extension's bytes."""
        names = ("weights", "tower", "kv", "rows", "scratch", "total", "available", "host")
        return cls(
            device=device,
            fits=numbers["total"] <= numbers["available"],
            visual_tokens=numbers["image_rows"],
            **{name: numbers[name] / 2**20 for name in names},
        )

    def __str__(self) -> str:  # noqa: D105
        return (
            f"{self.total:.1f} MiB on {self.device} (weights {self.weights:.1f}, tower {self.tower:.1f}, "
            f"cache {self.kv:.1f}, rows {self.rows:.1f}, scratch {self.scratch:.1f}) of "
            f"{self.available:.1f}: {'fits' if self.fits else 'does not fit'}"
        )


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds: `load` of the model, `encode` of each picture, `prune`, `prefill`, `decode`.

    A picture whose rows the model remembered has 0.0. Rates are 0.0 where nothing was measured. The first
    answer token comes out of the prefill, so the decode rate counts the tokens after it.
    """

    load: float
    encode: tuple[float, ...]
    prune: float
    prefill: float
    decode: float
    prefill_tokens_per_second: float
    decode_tokens_per_second: float

    def __str__(self) -> str:  # noqa: D105
        encode = " + ".join(f"{seconds:.3f}" for seconds in self.encode) or "0"
        prune = f"prune {self.prune:.3f} s, " if self.prune else ""
        return (
            f"load {self.load:.3f} s, encode {encode} s, {prune}"
            f"prefill {self.prefill:.3f} s ({self.prefill_tokens_per_second:.1f} tokens/s), "
            f"decode {self.decode:.3f} s ({self.decode_tokens_per_second:.1f} tokens/s)"
        )


@dataclass(frozen=True)
class Result:
    """An answer. `print(result)` prints its text.

    `finish_reason` is "stop" (end token or stop string), "length" (max_tokens or the context is used up),
    "cancelled", or "" while the answer is being made or after an error. `token_ids` holds every sampled
    token but the end token. `seed` repeats the answer. `kv_bytes` is the memory of the key/value cache.
    `prefill_flops` counts the prefill's work: matrices, and attention over what each row may see.
    `pruning` says which visual tokens stayed and why; None where pruning was off or there was no picture.
    """

    text: str
    token_ids: list[int] = field(repr=False)
    finish_reason: str
    usage: Usage
    timings: Timings = field(repr=False)
    seed: int
    kv_bytes: int = field(repr=False)
    prefill_flops: float = field(repr=False)
    pruning: PruneReport | None = field(default=None, repr=False)

    def __str__(self) -> str:  # noqa: D105
        return self.text

    def as_dict(self) -> dict[str, Any]:
        """Plain lists, texts and numbers, for JSON."""
        out = {
            name: getattr(self, name)
            for name in ("text", "token_ids", "finish_reason", "seed", "kv_bytes", "prefill_flops")
        }
        out |= {"usage": asdict(self.usage), "timings": asdict(self.timings)}
        out["pruning"] = None if self.pruning is None else self.pruning.as_dict()
        return out

    @classmethod
    def empty(cls, seed: int) -> Result:
        """The answer before anything has run."""
        return cls("", [], "", Usage(0, 0, 0), Timings(0.0, (), 0.0, 0.0, 0.0, 0.0, 0.0), seed, 0, 0.0)

    @classmethod
    def from_core(cls, raw: Mapping[str, Any], seed: int, pictures: Sequence[NDArray[np.uint8]]) -> Result:
        """From the dictionary of the extension's Generation.result(); `pictures` are for overlays."""
        usage = Usage(**raw["usage"])
        seconds = raw["timings"]
        timings = Timings(
            load=seconds["load"],
            encode=tuple(seconds["encode"]),
            prune=seconds["prune"],
            prefill=seconds["prefill"],
            decode=seconds["decode"],
            prefill_tokens_per_second=_rate(usage.prompt_tokens, seconds["prefill"]),
            decode_tokens_per_second=_rate(usage.completion_tokens - 1, seconds["decode"]),
        )
        return cls(
            text=raw["text"],
            token_ids=list(raw["token_ids"]),
            finish_reason=raw["finish_reason"],
            usage=usage,
            timings=timings,
            seed=seed,
            kv_bytes=raw["kv_bytes"],
            prefill_flops=raw["prefill_flops"],
            pruning=None if raw["pruning"] is None else PruneReport.from_core(raw["pruning"], pictures),
        )


def _rate(count: int, seconds: float) -> float:
    return count / seconds if count > 0 and seconds > 0 else 0.0
