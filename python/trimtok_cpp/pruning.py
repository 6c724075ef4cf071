"""Which visual tokens stay: the settings, the report, and the selectors on plain arrays."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import _core

__all__ = ["DEFAULT_PRUNING", "PruneReport", "Pruning", "prune"]

SELECTORS = (
    "trimtokenator-lc",
    "trimtokenator",
    "divprune",
    "cdpruner",
    "random",
    "uniform",
    "grid_pool",
    "none",
)
STAGE1 = ("max_sum", "max_min", "facility")
D_INTER = ("centroid", "sequence", "token")
ALIGN = ("cosine", "l2")
POSITIONS = ("auto", "original", "compact")
_BUDGETS = ("keep", "max_tokens", "coverage", "fit")
_MAX_INT32 = 2**31 - 1
# Lifted by a little, so that a black cell that stays still differs from one that goes.
_BRIGHT, _LIFT, _DIM = 0.9, 25.0, 0.25


@dataclass(frozen=True)
class Pruning:
    """How many visual tokens stay, and which. Exactly one of the first four must be set.

    keep: share of all visual tokens, in (0, 1]; 1 runs no pruner at all.
    max_tokens: number of visual tokens that stay in total, at least one per picture.
    coverage: in (0, 1). Every dropped token has a kept one of its own picture with at least this cosine; a
    blank picture then costs little, a dense one much.
    fit: True keeps what the context has room for beside text and answer; everything when all fits.

    selector: "trimtokenator-lc" (two stages, see docs/pruning.md), "trimtokenator", "divprune", "cdpruner",
    "random", "uniform", "grid_pool" or "none" (measures only).
    stage1: "max_sum", "max_min" or "facility". d_inter: "centroid", "sequence" or "token".
    align: "cosine" or "l2", the agreement with the words of the prompt.
    positions: "original", "compact", or "auto" (original while it stays within the trained context).
    alpha: in [0, 1], how the reduction is split: stage 1 leaves N (B/N)^alpha of N tokens to stage 2, so 1 is
    stage 1 alone and 0 stage 2 alone. None (default) decides by what the pictures show.
    pool: candidates of stage 2 per token that stays, at least 1. pareto_weight: in [0, 1]; 1 is diversity
    alone, 0 agreement alone. inter_weight: in [0, 1], what likeness of tokens of different pictures counts in
    stage 2; 1 is blind to the borders of pictures. seed: 0 .. 2**64 - 1, for "random".
    kv_memory_mb: with fit=True, limit of the key/value cache in MiB.

    Raises ValueError that names the argument, its value and what is allowed.
    """

    keep: float | None = None
    max_tokens: int | None = None
    coverage: float | None = None
    fit: bool = False
    _: KW_ONLY
    selector: str = "trimtokenator-lc"
    stage1: str = "max_min"
    d_inter: str = "centroid"
    align: str = "cosine"
    positions: str = "auto"
    alpha: float | None = None
    pool: float = 1.5
    pareto_weight: float = 0.5
    inter_weight: float = 1.0
    seed: int = 0
    kv_memory_mb: int | None = None

    def __post_init__(self) -> None:
        """Checks every value and stores it as a plain Python number."""
        if not isinstance(self.fit, (bool, np.bool_)):
            raise ValueError(f"[fit] is {self.fit!r}, must be True or False")
        self._set("fit", bool(self.fit))
        given = [name for name in _BUDGETS if getattr(self, name) is not (False if name == "fit" else None)]
        if len(given) != 1:
            what = " and ".join(given) or "nothing"
            raise ValueError(f"[pruning] sets {what}; exactly one of {', '.join(_BUDGETS)} must be set")
        if self.keep is not None:
            self._real("keep", "(0, 1]", lambda value: 0 < value <= 1)
        if self.max_tokens is not None:
            self._integer("max_tokens", 1, _MAX_INT32)
        if self.coverage is not None:
            self._real("coverage", "(0, 1)", lambda value: 0 < value < 1)
        self._choice("selector", SELECTORS)
        self._choice("stage1", STAGE1)
        self._choice("d_inter", D_INTER)
        self._choice("align", ALIGN)
        self._choice("positions", POSITIONS)
        if self.alpha is not None:
            self._real("alpha", "[0, 1]", lambda value: 0 <= value <= 1)
        self._real("pool", "[1, 1e6]", lambda value: 1 <= value <= 1e6)
        self._real("pareto_weight", "[0, 1]", lambda value: 0 <= value <= 1)
        self._real("inter_weight", "[0, 1]", lambda value: 0 <= value <= 1)
        self._integer("seed", 0, 2**64 - 1)
        if self.kv_memory_mb is not None:
            self._integer("kv_memory_mb", 1, _MAX_INT32)
            if not self.fit:
                raise ValueError(f"[kv_memory_mb] is {self.kv_memory_mb}, must be None unless fit=True")

    @classmethod
    def of(cls, value: Pruning | float | None) -> Pruning | None:
        """What a `pruning=` argument stands for: a number is `keep`, None is no pruning."""
        if value is None or isinstance(value, cls):
            return value
        if isinstance(value, (bool, str, bytes)) or not hasattr(value, "__float__"):
            raise ValueError(f"[pruning] is {value!r}, must be a Pruning, a number in (0, 1], or None")
        return cls(keep=float(value))  # type: ignore[arg-type]

    def as_options(self) -> dict[str, Any]:
        """The settings of the selection, as the extension takes them."""
        names = (
            "selector",
            "stage1",
            "d_inter",
            "align",
            "alpha",
            "pool",
            "pareto_weight",
            "inter_weight",
            "seed",
        )
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        for name in ("keep", "max_tokens", "coverage"):
            if getattr(self, name) is not None:
                options[name] = getattr(self, name)
        return options

    def as_model_options(self) -> dict[str, Any]:
        """As `as_options`, with what only a model can use."""
        return self.as_options() | {
            "fit": self.fit,
            "kv_memory_mb": self.kv_memory_mb,
            "positions": self.positions,
        }

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the class is frozen

    def _real(self, name: str, allowed: str, inside: Any) -> None:
        given = getattr(self, name)
        try:
            value = math.nan if isinstance(given, (bool, str, bytes)) else float(given)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not inside(value):  # false for NaN
            raise ValueError(f"[{name}] is {given!r}, must be a number in {allowed}")
        self._set(name, value)

    def _integer(self, name: str, low: int, high: int) -> None:
        given = getattr(self, name)
        try:
            value = low - 1 if isinstance(given, (bool, np.bool_)) else operator.index(given)
        except TypeError:
            value = low - 1
        if not low <= value <= high:
            raise ValueError(f"[{name}] is {given!r}, must be an integer in {low}..{high}")
        self._set(name, value)

    def _choice(self, name: str, allowed: tuple[str, ...]) -> None:
        given = getattr(self, name)
        if not isinstance(given, str) or given not in allowed:
            raise ValueError(f"[{name}] is {given!r}, must be one of {', '.join(allowed)}")


# What a call gets that says nothing about pruning.
DEFAULT_PRUNING: Final = Pruning(keep=0.5)


@dataclass(frozen=True, eq=False, repr=False)
class PruneReport:
    """What was selected, and on what grounds; lists run over the pictures.

    kept: ascending int32 indices of the rows that stayed. n_rows: rows before. budgets: b_k, of stage 1 where
    there are two. d_intra: diversity inside each picture, empty when nothing was measured. d_inter: variation
    between pictures. alpha, stage1_budget (B_1): split of the budget between the stages. pool_size:
    candidates of stage 2. (None where the selector has no such thing.) n_total, budget (B): rows of all
    pictures, and how many of them may stay. selector, settings: what ran. seconds: wall-clock time of each
    stage. reason: why no pruning ran, None where it did. positions: "original" or "compact" where a model
    read the rows. pooled: the rows that replace the kept ones (selector "grid_pool" only), float32 [b_k, d].
    boxes: place of every row in its picture, float32 [m_k, 4], pixels x0, y0, x1, y1; x1 <= x0 is no place.
    """

    kept: list[NDArray[np.int32]]
    n_rows: list[int]
    budgets: list[int]
    d_intra: list[float]
    d_inter: float | None
    alpha: float | None
    n_total: int
    budget: int
    stage1_budget: int | None
    pool_size: int | None
    selector: str
    settings: dict[str, Any]
    seconds: dict[str, float]
    reason: str | None = None
    positions: str | None = None
    pooled: list[NDArray[np.float32]] | None = None
    boxes: list[NDArray[np.float32]] | None = None
    pictures: list[NDArray[np.uint8]] | None = field(default=None)

    @classmethod
    def from_core(
        cls, raw: Mapping[str, Any], pictures: Sequence[NDArray[np.uint8]] | None = None
    ) -> PruneReport:
        """From the extension's dictionary; `pictures` (uint8 [height, width, 3]) are for `overlay`."""
        names = ("n_total", "budget", "stage1_budget", "pool_size", "selector", "reason", "d_inter", "alpha")
        return cls(
            kept=list(raw["kept"]),
            n_rows=list(raw["n_rows"]),
            budgets=list(raw["budgets"]),
            d_intra=list(raw["d_intra"]),
            settings=dict(raw["settings"]),
            seconds=dict(raw["seconds"]),
            positions=raw.get("positions"),
            pooled=raw["pooled"],
            boxes=raw.get("boxes"),
            pictures=None if pictures is None else list(pictures),
            **{name: raw[name] for name in names},
        )

    def __repr__(self) -> str:  # noqa: D105
        what = f"{self.n_kept} of {self.n_total} rows, {len(self.n_rows)} pictures, {self.selector}"
        return f"PruneReport({what}{', did not run' if self.reason else ''})"

    @property
    def n_kept(self) -> int:
        """Number of rows that stayed, of all pictures."""
        return sum(len(kept) for kept in self.kept)

    def as_dict(self) -> dict[str, Any]:
        """Plain lists and numbers, for JSON; without the pictures and without `pooled`."""
        names = (
            *("n_rows", "budgets", "d_intra", "d_inter", "alpha", "n_total", "budget", "stage1_budget"),
            *("pool_size", "selector", "settings", "seconds", "reason", "positions"),
        )
        out: dict[str, Any] = {"kept": [kept.tolist() for kept in self.kept]}
        out |= {name: getattr(self, name) for name in names}
        out["boxes"] = None if self.boxes is None else [boxes.tolist() for boxes in self.boxes]
        return out

    def summary(self) -> str:
        """A table: tokens, stage-1 budget, kept tokens and D_intra of each picture; measures and times."""
        lines = [f"{'picture':>7}{'tokens':>9}{'budget':>9}{'kept':>9}{'kept %':>9}{'D_intra':>9}"]
        d_intras: Sequence[float | None] = self.d_intra or [None] * len(
            self.n_rows
        )  # nothing is measured where nothing ran
        rows = zip(self.n_rows, self.budgets, self.kept, d_intras, strict=True)
        for index, (n_rows, budget, kept, d_intra) in enumerate(rows):
            share = _share(len(kept), n_rows)
            lines.append(f"{index:>7}{n_rows:>9}{budget:>9}{len(kept):>9}{share:>9}{_decimal(d_intra):>9}")
        share = _share(self.n_kept, self.n_total)
        lines.append(f"{'all':>7}{self.n_total:>9}{sum(self.budgets):>9}{self.n_kept:>9}{share:>9}")
        lines.append(
            f"D_inter {_decimal(self.d_inter)}, alpha {_decimal(self.alpha)}, budget B {self.budget}, "
            f"stage-1 budget B_1 {_whole(self.stage1_budget)}, pool {_whole(self.pool_size)}"
        )
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items() if key != "selector")
        lines.append(f"selector {self.selector}" + (f" ({settings})" if settings else ""))
        if self.positions is not None:
            lines.append(f"positions {self.positions}")
        if self.seconds:
            stages = ", ".join(f"{stage} {1000 * value:.2f}" for stage, value in self.seconds.items())
            lines.append(f"milliseconds: {stages}")
        if self.reason:
            lines.append(f"did not run: {self.reason}")
        return "\n".join(lines)

    def overlay(self, k: int) -> Image.Image:
        """Picture `k` in its own size: cells whose token stayed are bright, cells whose token went are dim.

        Where cells lie over each other (tiles over an overview), brightness is the share that stayed. With
        "grid_pool" the bright cell is the first of its block.

        Raises IndexError for a picture that is not there, ValueError for a report without pictures.
        """
        if self.pictures is None or self.boxes is None:
            raise ValueError("[overlay] this report knows no pictures; only reports of Model.generate do")
        if not 0 <= operator.index(k) < len(self.pictures):
            raise IndexError(f"[overlay] picture {k} is not in 0..{len(self.pictures) - 1}")
        picture = self.pictures[k]
        height, width = picture.shape[:2]
        stays = np.zeros(self.n_rows[k], bool)
        stays[self.kept[k]] = True
        kept = np.zeros((height, width), np.float32)
        cells = np.zeros((height, width), np.float32)
        # Edges at half pixels round up on both sides, so that neighbours neither overlap nor leave gaps.
        edges = np.floor(np.asarray(self.boxes[k], np.float64).reshape(-1, 4) + 0.5).astype(np.int64)
        edges = np.clip(edges, 0, [width, height, width, height])
        for (x0, y0, x1, y1), stayed in zip(edges.tolist(), stays.tolist(), strict=True):
            cells[y0:y1, x0:x1] += 1
            if stayed:
                kept[y0:y1, x0:x1] += 1
        share = (kept / np.maximum(cells, 1))[:, :, None]
        pixels = picture.astype(np.float32)
        mixed = share * (pixels * _BRIGHT + _LIFT) + (1 - share) * (pixels * _DIM)
        return Image.fromarray(np.clip(mixed, 0, 255).astype(np.uint8))

    def overlays(self) -> list[Image.Image]:
        """`overlay` of every picture."""
        return [self.overlay(k) for k in range(len(self.n_rows))]


def prune(
    rows_per_image: Sequence[NDArray[Any]],
    text_rows: NDArray[Any] | None = None,
    pruning: Pruning | float = 0.2,
    *,
    grids: Sequence[tuple[int, int]] | None = None,
    n_threads: int | None = None,
) -> PruneReport:
    """Selects rows of your own arrays, without a model. Other Python threads run meanwhile.

    rows_per_image: one float32 or float16 array [m_k, d] per picture; m_k may be 0.
    text_rows: [M, d] of the same kinds, the words that the rows are to agree with; None is no text.
    pruning: a Pruning, or a number that stands for Pruning(keep=...). fit=True needs a model.
    grids: (height, width) in cells of each picture, for selector "grid_pool"; rows behind the grid stay.
    n_threads: None is every CPU that this process may use.

    Raises TypeError for what is no array, ValueError for wrong shapes, types, NaN and infinite values (naming
    picture and row) and for budgets below one row per picture.
    """
    settings = Pruning.of(pruning)
    if settings is None:
        raise ValueError("[pruning] is None; pass a Pruning or a number in (0, 1]")
    if settings.fit:
        raise ValueError("[fit] is True, which needs a model; use keep, max_tokens or coverage")
    if isinstance(rows_per_image, np.ndarray) and rows_per_image.ndim != 3:
        raise ValueError(
            f"[rows_per_image] is one array {list(rows_per_image.shape)}; pass a list of arrays [m, d]"
        )
    rows = [_rows(f"rows_per_image[{k}]", array) for k, array in enumerate(rows_per_image)]
    if not rows:
        raise ValueError("[rows_per_image] is empty; pass an array per picture")
    text = None if text_rows is None else _rows("text_rows", text_rows)
    width = rows[0].shape[1]
    for k, array in enumerate(rows):
        if array.shape[1] != width:
            raise ValueError(
                f"[rows_per_image[{k}]] has rows of width {array.shape[1]}, must be {width} as in picture 0"
            )
    if text is not None and text.shape[1] != width:
        raise ValueError(f"[text_rows] has rows of width {text.shape[1]}, must be {width} as in the pictures")
    raw = _core.prune(
        rows,
        text,
        settings.as_options(),
        grids=None if grids is None else _grids(grids, rows),
        n_threads=0 if n_threads is None else _threads(n_threads),
    )
    return PruneReport.from_core(raw)


def _rows(name: str, array: NDArray[Any]) -> NDArray[Any]:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"[{name}] is of type {type(array).__name__}, must be a numpy array [rows, width]")
    if array.ndim != 2 or array.shape[1] == 0:
        raise ValueError(
            f"[{name}] has the shape {list(array.shape)}, must be [rows, width], width at least 1"
        )
    if array.dtype not in (np.float32, np.float16):
        raise ValueError(
            f"[{name}] is of {array.dtype}, must be float32 or float16; convert it with .astype(np.float32)"
        )
    return array


def _grids(grids: Sequence[tuple[int, int]], rows: Sequence[NDArray[Any]]) -> list[tuple[int, int]]:
    if len(grids) != len(rows):
        raise ValueError(f"[grids] has {len(grids)} entries, must be {len(rows)}, one per picture")
    checked = [(operator.index(height), operator.index(width)) for height, width in grids]
    for k, ((height, width), array) in enumerate(zip(checked, rows, strict=True)):
        if height < 0 or width < 0 or height * width > len(array):
            raise ValueError(
                f"[grids[{k}]] is {height} x {width} cells, the picture has only {len(array)} rows"
            )
    return checked


def _threads(n_threads: int) -> int:
    number = operator.index(n_threads)
    if not 1 <= number <= 512:
        raise ValueError(f"[n_threads] is {n_threads}, must be in 1..512")
    return number


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f}" if total else "-"


def _whole(value: int | None) -> str:
    return "-" if value is None else str(value)


def _decimal(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
