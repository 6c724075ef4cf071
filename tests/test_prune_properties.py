"""Properties of every selection, on inputs that hypothesis looks for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from prune_reference import Clarity, coverage_count, normalised, select, water_fill

from trimtok_cpp.pruning import SELECTORS, Pruning, prune

CLEAR = 1e-4
OPTIONS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)


@st.composite
def pictures(draw: st.DrawFn, least: int = 0) -> list[np.ndarray]:
    """Up to six pictures of up to twelve rows of a common width; some rows repeated, some zero."""
    width = draw(st.integers(1, 19))
    sizes = draw(st.lists(st.integers(least, 12), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows = [rng.normal(size=(m, width)).astype(np.float32) for m in sizes]
    if draw(st.booleans()):
        for x in rows:
            x[rng.random(len(x)) < 0.2] = 0
            if len(x) > 2:
                x[-1] = x[0]
    return rows


@st.composite
def clear_pictures(draw: st.DrawFn) -> list[np.ndarray]:
    sizes = draw(st.lists(st.integers(2, 8), min_size=2, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return [(rng.normal(size=(m, 6)) + rng.normal(size=6)).astype(np.float32) for m in sizes]


GRIDLESS = [name for name in SELECTORS if name != "grid_pool"]
keeps = st.floats(0.01, 0.99)


def kept_of(rows: list[np.ndarray], text: np.ndarray | None = None, **options: Any) -> list[list[int]]:
    return [kept.tolist() for kept in prune(rows, text, Pruning(**options)).kept]


@OPTIONS
@given(pictures(), keeps, st.sampled_from(GRIDLESS), st.sampled_from(["max_sum", "max_min", "facility"]))
def test_counts_floors_and_order(rows: list[np.ndarray], keep: float, selector: str, stage1: str) -> None:
    n, n_full = sum(map(len, rows)), sum(len(x) > 0 for x in rows)
    report = prune(rows, None, Pruning(keep=keep, selector=selector, stage1=stage1))
    budget = max(n_full, round(keep * n))
    assert report.budget == (n if selector == "none" else budget)
    assert report.n_rows == [len(x) for x in rows]
    assert sum(len(kept) for kept in report.kept) == (n if selector == "none" else budget)
    for x, kept in zip(rows, report.kept, strict=True):
        assert (len(kept) > 0) == (len(x) > 0)
        assert (np.diff(kept) > 0).all()
        assert all(0 <= i < len(x) for i in kept.tolist())


@OPTIONS
@given(pictures(), keeps)
def test_stage_budgets(rows: list[np.ndarray], keep: float) -> None:
    n = sum(map(len, rows))
    report = prune(rows, None, keep)
    assume(report.budget < n)
    assert report.budget <= report.stage1_budget <= n
    assert sum(report.budgets) == report.stage1_budget
    for x, budget in zip(rows, report.budgets, strict=True):
        assert (0 if len(x) == 0 else 1) <= budget <= len(x)
    assert 0.2 <= report.alpha <= 0.8
    for kept, budget in zip(report.kept, report.budgets, strict=True):
        assert len(kept) <= budget


@OPTIONS
@given(st.lists(st.tuples(st.floats(1e-6, 1e3), st.integers(1, 40)), min_size=1, max_size=8), st.floats(0, 1))
def test_reference_budgets(pairs: list[tuple[float, int]], share: float) -> None:
    weights, caps = [w for w, _ in pairs], [m for _, m in pairs]
    total = len(caps) + round(share * (sum(caps) - len(caps)))
    counts = water_fill(weights, caps, total, Clarity())
    assert sum(counts) == total
    assert all(1 <= count <= cap for count, cap in zip(counts, caps, strict=True))


@OPTIONS
@given(pictures(), st.sampled_from(GRIDLESS))
def test_keep_all(rows: list[np.ndarray], selector: str) -> None:
    everything = [list(range(len(x))) for x in rows]
    report = prune(rows, None, Pruning(keep=1.0, selector=selector))
    assert [kept.tolist() for kept in report.kept] == everything
    assert report.reason  # no pruner ran, and the report says so
    assert kept_of(rows, max_tokens=10**6, selector=selector) == everything


@OPTIONS
@given(pictures(), st.sampled_from([name for name in SELECTORS if name != "none"]))
def test_fewer_rows_than_pictures(rows: list[np.ndarray], selector: str) -> None:
    n_full = sum(len(x) > 0 for x in rows)
    assume(n_full > 1)
    grids = [(1, len(x)) for x in rows]
    with pytest.raises(ValueError, match=rf"\b{n_full}\b"):
        prune(rows, None, Pruning(max_tokens=n_full - 1, selector=selector), grids=grids)


ORDERLESS = ["trimtokenator-lc", "divprune", "cdpruner", "trimtokenator"]


@OPTIONS
@given(clear_pictures(), keeps, st.sampled_from(ORDERLESS), st.sampled_from(["centroid", "token"]), st.data())
def test_permuted_pictures(
    rows: list[np.ndarray], keep: float, selector: str, d_inter: str, data: st.DataObject
) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    text = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    options: dict[str, Any] = {"keep": keep, "selector": selector, "d_inter": d_inter}
    want, moved = select(rows, text, **options), select([rows[k] for k in order], text, **options)
    assume(min(want.gap, moved.gap) > CLEAR and want.ties == moved.ties == 0)
    # The floor looks at pictures in their order; where it must act on several, order may matter.
    assume([moved.kept[i].tolist() for i in range(len(rows))] == [want.kept[k].tolist() for k in order])
    there = kept_of(rows, text, **options)
    assert kept_of([rows[k] for k in order], text, **options) == [there[k] for k in order]
    assert there == [kept.tolist() for kept in want.kept]


@OPTIONS
@given(
    clear_pictures(),
    keeps,
    st.sampled_from(["trimtokenator-lc", "divprune", "cdpruner"]),
    st.integers(0, 2**32 - 1),
)
def test_scaled_rows(rows: list[np.ndarray], keep: float, selector: str, seed: int) -> None:
    """Only directions count, except in a centroid, which is a mean of the rows as they are."""
    rng = np.random.default_rng(seed)
    text = rng.normal(size=(3, 6)).astype(np.float32)
    options: dict[str, Any] = {"keep": keep, "selector": selector, "d_inter": "token"}
    want = select(rows, text, **options)
    assume(want.gap > CLEAR and want.ties == 0)
    rowwise = [(x * rng.uniform(0.01, 100, (len(x), 1))).astype(np.float32) for x in rows]
    assert kept_of(rowwise, text, **options) == kept_of(rows, text, **options)
    options["d_inter"] = "centroid"
    want = select(rows, text, **options)
    assume(want.gap > CLEAR and want.ties == 0)
    picturewise = [(x * rng.uniform(0.01, 100)).astype(np.float32) for x in rows]
    assert kept_of(picturewise, text, **options) == kept_of(rows, text, **options)


@OPTIONS
@given(pictures(), st.floats(0.02, 0.98))
def test_coverage(rows: list[np.ndarray], c: float) -> None:
    report = prune(rows, None, Pruning(coverage=c))
    for x, kept in zip(rows, report.kept, strict=True):
        dropped = sorted(set(range(len(x))) - set(kept.tolist()))
        y = normalised(x)
        if dropped:
            assert (y[dropped] @ y[kept].T).max(axis=1).min() >= c - 1e-5
        clarity = Clarity()
        picks, _ = coverage_count(x, c, clarity)
        if clarity.gap > CLEAR:  # not a pick more than the greedy needs
            assert len(kept) == len(picks)
    assert report.budget == sum(map(len, report.kept))


@OPTIONS
@given(pictures(), keeps, st.integers(0, 2**64 - 1))
def test_random_is_seeded(rows: list[np.ndarray], keep: float, seed: int) -> None:
    options: dict[str, Any] = {"keep": keep, "selector": "random", "seed": seed}
    assert kept_of(rows, **options) == kept_of(rows, **options)
