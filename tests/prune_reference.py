"""The selectors of docs/pruning.md once more, in plain float64 numpy: slow, stateless, easy to read.

Every decision also says how clear it was. `Selection.gap` is the smallest distance between a winner and a
loser that was not an exact tie, relative to scores above 1: where it is above 1e-4, float32 must agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray

TIE = 1e-9  # scores this close are equal: float64 rounding, far below any gap that float32 can see


@dataclass
class Clarity:
    """How clear the decisions were so far."""

    gap: float = math.inf
    ties: int = 0

    def see(self, difference: float, scale: float = 1.0) -> None:
        relative = abs(difference) / max(1.0, abs(scale))
        if relative <= TIE:
            self.ties += 1
        else:
            self.gap = min(self.gap, relative)


@dataclass
class Selection:
    kept: list[Array]
    n_total: int
    budget: int
    d_intra: list[float]
    d_inter: float
    budgets: list[int] = field(default_factory=list)
    alpha: float = math.nan
    stage1_budget: int = 0
    pool_size: int = 0
    gap: float = math.inf
    ties: int = 0


# --- measures


def normalised(x: Array) -> Array:
    x = np.asarray(x, np.float64)
    norm = np.sqrt((x * x).sum(axis=1, keepdims=True))
    return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)


def clamp(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def intra(x: Array) -> float:
    m = len(x)
    if m < 2:
        return 0.0
    y = normalised(x)
    distances = [1 - y[i] @ y[j] for i in range(m) for j in range(m) if i != j]
    return clamp(float(np.mean(distances)), 0.0, 2.0)


def inter(pictures: Sequence[Array], variant: str) -> float:
    pictures = [np.asarray(x, np.float64) for x in pictures if len(x)]
    n = len(pictures)
    if n < 2:
        return 0.0
    if variant == "token":
        s = [normalised(x).sum(axis=0) for x in pictures]
        m = [len(x) for x in pictures]
        same = sum(float(s[k] @ s[j]) for k in range(n) for j in range(n) if k != j)
        pairs = sum(m[k] * m[j] for k in range(n) for j in range(n) if k != j)
        return clamp(1 - same / pairs, 0.0, 2.0)
    u = normalised(np.stack([x.mean(axis=0) for x in pictures]))
    if variant == "sequence":
        return clamp(float(np.mean([1 - u[k] @ u[k + 1] for k in range(n - 1)])), 0.0, 2.0)
    assert variant == "centroid", variant
    # The closed form, in which a zero centroid still counts as similar to itself.
    total = float((u.sum(axis=0) ** 2).sum())
    return clamp(1 - (total - n) / (n * (n - 1)), 0.0, 2.0)


def agreement(x: Array, text: Array | None, variant: str) -> Array:
    if text is None or len(text) == 0:
        return np.zeros(len(x))
    text = np.asarray(text, np.float64)
    if variant == "cosine":
        return normalised(x) @ normalised(text).mean(axis=0)
    assert variant == "l2", variant
    x = np.asarray(x, np.float64)
    return -((x * x).sum(axis=1) - 2 * x @ text.mean(axis=0))


# --- budgets


def water_fill(weights: Sequence[float], caps: Sequence[int], total: int, clarity: Clarity) -> list[int]:
    """Integers near c w_k within 1..m_k that sum to `total`."""
    weights_, caps_ = np.asarray(weights, np.float64), np.asarray(caps, np.float64)
    assert len(caps_) <= total <= caps_.sum()
    low, high = 0.0, float((caps_ / weights_).max())
    for _ in range(200):  # the sum grows with c
        middle = (low + high) / 2
        if np.clip(middle * weights_, 1, caps_).sum() < total:
            low = middle
        else:
            high = middle
    real = np.clip(high * weights_, 1, caps_)
    counts = np.maximum(np.floor(real + TIE), 1).astype(int)
    rest = total - int(counts.sum())
    fraction = real - counts
    order = sorted(range(len(real)), key=lambda k: (-round(fraction[k], 9), k))
    assert 0 <= rest <= len(real)
    for k in order[:rest]:
        counts[k] += 1
    if 0 < rest < len(real):
        clarity.see(fraction[order[rest - 1]] - fraction[order[rest]], real.max())
    assert counts.sum() == total
    return [int(c) for c in counts]


def split(
    n_pictures: int,
    d_intra: float,
    d_inter: float,
    n: int,
    b: int,
    clarity: Clarity,
    given: float | None = None,
) -> tuple[float, int]:
    """alpha and B_1."""
    both = d_intra + d_inter
    if given is not None:
        alpha = given
    elif n_pictures == 1 or both <= TIE:
        alpha = 0.5
    else:
        alpha = clamp(d_inter / both, 0.2, 0.8)
        clarity.see(both)
    value = n * (b / n) ** alpha
    clarity.see(value - math.floor(value) - 0.5, value)
    return alpha, int(clamp(round(value), b, n))


# --- greedy picks


class Greedy:
    """An objective over rows with cosines `g`; scores are to be maximised."""

    def __init__(self, g: Array, objective: str, universe: Sequence[int], clarity: Clarity) -> None:
        self.g, self.objective, self.clarity = g, objective, clarity
        self.universe = list(universe)

    def scores(self, kept: list[int], candidates: list[int]) -> Array:
        g, j = self.g[candidates], self.universe
        if not kept:
            return g[:, j].sum(axis=1) * (1 if self.objective == "facility" else -1)
        if self.objective == "max_sum":
            return -g[:, kept].sum(axis=1)
        if self.objective == "max_min":
            return (1 - g[:, kept]).min(axis=1)
        assert self.objective == "facility", self.objective
        best = self.g[np.ix_(kept, j)].max(axis=0)
        return np.maximum(0, g[:, j] - best).sum(axis=1)

    def choose(self, kept: list[int], candidates: list[int]) -> int:
        return best_of(self.scores(kept, candidates), candidates, self.clarity)

    def run(self, count: int, kept: list[int] | None = None) -> list[int]:
        kept = [] if kept is None else list(kept)
        while len(kept) < count:
            taken = set(kept)
            kept.append(self.choose(kept, [i for i in self.universe if i not in taken]))
        return kept


def best_of(scores: Array, candidates: list[int], clarity: Clarity) -> int:
    """The candidate with the largest score, of equal ones the lowest index."""
    top = float(scores.max())
    scale = max(1.0, abs(top))
    equal = [c for c, s in zip(candidates, scores, strict=True) if top - s <= TIE * scale]
    losers = [top - s for s in scores if top - s > TIE * scale]
    if losers:
        clarity.see(min(losers), scale)
    clarity.ties += len(equal) - 1
    return min(equal)


class Dpp(Greedy):
    """Greedy MAP of L = diag(r) G diag(r); max_min once the rank is used up."""

    def __init__(self, g: Array, relevance: Array, universe: Sequence[int], clarity: Clarity) -> None:
        super().__init__(g, "max_min", universe, clarity)
        self.l = relevance[:, None] * g * relevance[None, :]

    def choose(self, kept: list[int], candidates: list[int]) -> int:
        gain = np.diag(self.l)[candidates]
        alike = [c for c, one in zip(candidates, gain, strict=True) if one > TIE]
        if not kept and alike and np.ptp(np.diag(self.l)[alike]) <= TIE:
            return min(alike)  # no text: the first pick is a tie by definition, in any arithmetic
        if kept:  # the Schur complement: what a row adds to the determinant
            cross = self.l[np.ix_(candidates, kept)]
            solved = np.linalg.lstsq(self.l[np.ix_(kept, kept)], cross.T, rcond=1e-13)[0]
            gain = gain - (cross * solved.T).sum(axis=1)
        if gain.max() > 1e-8:
            self.clarity.see(gain.max() - 1e-8)
            return best_of(gain, candidates, self.clarity)
        if gain.max() > TIE:
            self.clarity.see(1e-8 - gain.max())
        if not kept:
            return min(candidates)
        return super().choose(kept, candidates)


def give_every_picture_a_row(picks: list[int], owner: Array, greedy: Greedy) -> list[int]:
    """Stage 2.2, the floor. `picks` in the order in which they were made.

    "Would pick next" is meant as things stood after the last pick, before any exchange.
    """
    made = list(picks)
    picks = list(picks)
    for k in sorted({int(p) for p in owner}):
        if any(owner[i] == k for i in picks):
            continue
        # All of its rows when the universe, a part of them, holds none.
        own = [i for i in greedy.universe if owner[i] == k] or [i for i in range(len(owner)) if owner[i] == k]
        chosen = greedy.choose(made, own)
        counts = {int(p): sum(int(owner[i]) == p for i in picks) for p in owner[picks]}
        latest = next(i for i in reversed(picks) if counts[int(owner[i])] > 1)
        picks.remove(latest)
        picks.append(chosen)
    return picks


# --- stage 2: Pareto


def pareto(div: Array, align: Array, b: int, weight: float, owner: Array, clarity: Clarity) -> list[int]:
    """Indices into the pool, which is in original order, of the `b` rows that survive."""
    p = len(div)
    for values in (div, align):
        if np.ptp(values) <= TIE:  # a constant objective, in any arithmetic
            continue
        ordered = np.sort(values)
        for difference in np.diff(ordered):
            clarity.see(difference, np.abs(values).max())

    def at_least(values: Array, i: int, j: int) -> bool:
        return values[i] >= values[j] - TIE * max(1.0, float(np.abs(values).max()))

    def dominates(i: int, j: int) -> bool:
        return (
            at_least(div, i, j)
            and at_least(align, i, j)
            and not (at_least(div, j, i) and at_least(align, j, i))
        )

    front = np.zeros(p, int)
    left, number = set(range(p)), 0
    while left:
        best = {i for i in left if not any(dominates(j, i) for j in left)}
        for i in best:
            front[i] = number
        left -= best
        number += 1

    def unit(values: Array) -> Array:
        low, high = values.min(), values.max()
        return np.zeros(p) if high - low <= TIE * max(1.0, abs(high)) else (values - low) / (high - low)

    score = weight * unit(div) + (1 - weight) * unit(align)
    ranked = sorted(range(p), key=lambda i: (front[i], -round(score[i], 9), i))
    if b < p and front[ranked[b - 1]] == front[ranked[b]] and np.ptp(score) > TIE:
        clarity.see(score[ranked[b - 1]] - score[ranked[b]])
    survivors = swap_in_missing(ranked, b, owner)
    if set(survivors) != set(ranked[:b]):  # then the order inside a front counts, too
        for a, c in pairwise(ranked):
            if front[a] == front[c]:
                clarity.see(score[a] - score[c])
    return survivors


def swap_in_missing(ranked: list[int], count: int, owner: Array) -> list[int]:
    """Stage 2.5, the floor: the first `count`, but a picture without one gets its best-ranked row."""
    survivors = ranked[:count]
    for k in sorted({int(o) for o in owner}):
        if any(owner[i] == k for i in survivors):
            continue
        best = next(i for i in ranked if owner[i] == k)
        counts = {int(o): sum(int(owner[i]) == o for i in survivors) for o in owner[survivors]}
        worst = max((i for i in survivors if counts[int(owner[i])] > 1), key=ranked.index)
        survivors = [i for i in survivors if i != worst] + [best]
    return survivors


# --- the selectors


def coverage_count(x: Array, c: float, clarity: Clarity) -> tuple[list[int], Array]:
    """The max_min picks of one picture until every dropped row has a kept one with cosine >= c."""
    g = normalised(x) @ normalised(x).T
    greedy = Greedy(g, "max_min", range(len(x)), clarity)
    kept: list[int] = []
    while True:
        dropped = [i for i in range(len(x)) if i not in kept]
        if not dropped:
            return kept, g
        if kept:
            worst = float(g[np.ix_(dropped, kept)].max(axis=1).min())
            clarity.see(worst - c)
            if worst >= c - TIE:
                return kept, g
        kept = greedy.run(len(kept) + 1, kept)


def select(
    rows: Sequence[Array],
    text: Array | None = None,
    *,
    keep: float | None = None,
    max_tokens: int | None = None,
    coverage: float | None = None,
    selector: str = "trimtokenator-lc",
    stage1: str = "max_min",
    d_inter: str = "centroid",
    align: str = "cosine",
    alpha: float | None = None,
    pool: float = 1.5,
    pareto_weight: float = 0.5,
    inter_weight: float = 1.0,
    grids: Sequence[tuple[int, int]] | None = None,
    **unused: Any,
) -> Selection:
    rows = [np.asarray(x, np.float64) for x in rows]
    clarity = Clarity()
    full = [k for k, x in enumerate(rows) if len(x)]
    m = [len(x) for x in rows]
    n = sum(m)
    covered = {k: coverage_count(rows[k], coverage, clarity)[0] for k in full} if coverage is not None else {}
    if keep is not None:
        b = max(len(full), round(keep * n))
    elif max_tokens is not None:
        b = min(n, max_tokens)
    else:
        b = sum(len(picks) for picks in covered.values())
    if b < len(full):
        raise ValueError("fewer rows than pictures")
    measures = [intra(x) for x in rows]
    out = Selection([], n, b, measures, inter(rows, d_inter))
    if selector == "none" or b == n:
        out.kept = [np.arange(count) for count in m]
        out.budget = n
        return out

    starts = np.cumsum([0, *m])
    owner = np.concatenate([np.full(count, k) for k, count in enumerate(m)])

    def per_picture(indices: Sequence[int]) -> list[Array]:
        found = np.sort(np.asarray(indices, int))
        return [found[owner[found] == k] - starts[k] for k in range(len(rows))]

    def finish() -> Selection:
        out.gap, out.ties = clarity.gap, clarity.ties
        return out

    if selector in ("random", "uniform"):
        budgets = proportional(m, b, clarity)
        out.budgets = budgets
        if selector == "uniform":
            out.kept = [
                np.array([(2 * i + 1) * m[k] // (2 * c) for i in range(c)], int)
                for k, c in enumerate(budgets)
            ]
        return finish()
    if selector == "grid_pool":
        assert grids is not None
        out.kept = [index for index, _ in grid_pool(rows, grids, b)]
        return finish()

    x = np.concatenate([r for r in rows if len(r)])
    y = normalised(x)
    if selector == "trimtokenator-lc":
        _two_stages(
            out,
            rows,
            x,
            text,
            covered,
            clarity,
            per_picture,
            starts,
            owner,
            {
                "stage1": stage1,
                "align": align,
                "alpha": alpha,
                "pool": pool,
                "weight": pareto_weight,
                "inter_weight": inter_weight,
                "full": full,
            },
        )
        return finish()

    g = y @ y.T
    if selector == "divprune":
        greedy = Greedy(g, "max_min", range(n), clarity)
        distance = 1 - g
        np.fill_diagonal(distance, np.inf)
        picks = greedy.run(b, [best_of(distance.min(axis=1), list(range(n)), clarity)])
    elif selector == "cdpruner":
        greedy = Dpp(g, relevance(y, text), range(n), clarity)
        picks = greedy.run(b)
    else:
        assert selector == "trimtokenator", selector
        near = agreement(x, text, "l2")
        order = sorted(range(n), key=lambda i: (-near[i], i))
        count = max(b, 4 * n // 5)
        if count < n and np.ptp(near) > TIE:
            clarity.see(near[order[count - 1]] - near[order[count]], np.abs(near).max())
        greedy = Greedy(g, "max_sum", sorted(order[:count]), clarity)
        picks = greedy.run(b)
    out.kept = per_picture(give_every_picture_a_row(picks, owner, greedy))
    return finish()


def _two_stages(
    out: Selection,
    rows: Sequence[Array],
    x: Array,
    text: Array | None,
    covered: dict[int, list[int]],
    clarity: Clarity,
    per_picture: Any,
    starts: Array,
    owner: Array,
    setting: dict[str, Any],
) -> None:
    full, n, b = setting["full"], out.n_total, out.budget
    if covered:
        out.kept = [np.sort(np.array(covered.get(k, []), int)) for k in range(len(rows))]
        out.budgets = [len(kept) for kept in out.kept]
        return
    mean = float(np.mean([out.d_intra[k] for k in full]))
    out.alpha, out.stage1_budget = split(len(full), mean, out.d_inter, n, b, clarity, setting["alpha"])
    weights = [len(rows[k]) * max(out.d_intra[k], 1e-6) for k in full]
    counts = water_fill(weights, [len(rows[k]) for k in full], out.stage1_budget, clarity)
    out.budgets = [dict(zip(full, counts, strict=True)).get(k, 0) for k in range(len(rows))]

    union: list[int] = []
    for k in full:
        y = normalised(rows[k])
        picks = Greedy(y @ y.T, setting["stage1"], range(len(y)), clarity).run(out.budgets[k])
        union += [int(starts[k]) + i for i in sorted(picks)]
    if len(union) == b:
        out.pool_size = b
        out.kept = per_picture(union)
        return
    y = normalised(x[union])
    borders = owner[union][:, None] != owner[union][None, :]
    similar = np.where(borders, setting["inter_weight"], 1.0) * (y @ y.T)
    greedy = Greedy(similar, setting["stage1"], range(len(union)), clarity)
    out.pool_size = min(out.stage1_budget, math.ceil(setting["pool"] * b))
    picks = greedy.run(out.pool_size)
    pool = sorted(give_every_picture_a_row(picks, owner[union], greedy))
    rows_of_pool = [union[i] for i in pool]
    g = similar[np.ix_(pool, pool)]
    p = len(pool)
    div = 1 - (g.sum(axis=1) - np.diag(g)) / (p - 1) if p > 1 else np.zeros(1)
    near = agreement(x[rows_of_pool], text, setting["align"])
    survivors = pareto(div, near, b, setting["weight"], owner[rows_of_pool], clarity)
    out.kept = per_picture([rows_of_pool[i] for i in survivors])


def proportional(m: Sequence[int], b: int, clarity: Clarity) -> list[int]:
    full = [k for k, count in enumerate(m) if count]
    counts = water_fill([m[k] for k in full], [m[k] for k in full], b, clarity)
    return [dict(zip(full, counts, strict=True)).get(k, 0) for k in range(len(m))]


def relevance(y: Array, text: Array | None) -> Array:
    if text is None or len(text) == 0:
        return np.ones(len(y))
    mean = np.asarray(text, np.float64).mean(axis=0)
    norm = np.sqrt(mean @ mean)
    near = y @ (mean / norm if norm > 0 else mean)
    span = near.max() - near.min()
    return np.ones(len(y)) if span <= TIE else (near - near.min() + 1e-6) / span


def grid_pool(rows: Sequence[Array], grids: Sequence[tuple[int, int]], b: int) -> list[tuple[Array, Array]]:
    """First cells and means of the blocks of every picture; a grid is (height, width) in cells."""
    size = 1
    while sum(math.ceil(h / size) * math.ceil(w / size) for h, w in grids) > b:
        size += 1
    out = []
    for x, (h, w) in zip(rows, grids, strict=True):
        cells = np.arange(h * w).reshape(h, w)
        blocks = [
            cells[r : r + size, c : c + size].ravel() for r in range(0, h, size) for c in range(0, w, size)
        ]
        means = [np.asarray(x, np.float64)[block].mean(axis=0) for block in blocks]
        out.append(
            (np.array([block[0] for block in blocks], int), np.array(means).reshape(len(blocks), x.shape[1]))
        )
    return out
