"""The reference of the selectors against cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from prune_reference import (
    Clarity,
    Dpp,
    Greedy,
    coverage_count,
    give_every_picture_a_row,
    grid_pool,
    inter,
    intra,
    normalised,
    pareto,
    proportional,
    select,
    split,
    water_fill,
)

E = np.eye(4)


def test_measures() -> None:
    assert intra(E) == 1  # all cosines between different rows are 0
    assert intra(np.stack([E[0], E[0] * 7])) == 0
    assert intra(np.stack([E[0], -E[0]])) == 2
    assert intra(np.stack([E[0], E[0], E[1]])) == pytest.approx(2 / 3, abs=1e-12)  # 1 of 3 pairs is equal
    assert intra(np.stack([E[0], 0 * E[0]])) == 1  # a zero row is far from everything
    assert intra(E[:1]) == intra(E[:0]) == 0
    # z in the closed form: |sum|^2 counts no zero row with itself.
    x = np.stack([E[0], E[0], E[1], 0 * E[0]])
    y = normalised(x)
    assert intra(x) == pytest.approx(1 - ((y.sum(0) ** 2).sum() - 3) / 12, abs=1e-12)

    pictures = [E[:1], 3 * E[:1], E[1:2], E[:0]]
    assert inter(pictures, "centroid") == pytest.approx(2 / 3, abs=1e-12)
    assert inter(pictures, "sequence") == pytest.approx(1 / 2, abs=1e-12)
    assert inter(pictures, "token") == pytest.approx(2 / 3, abs=1e-12)
    assert inter(pictures[:1], "centroid") == inter([E[:0], E[:1]], "token") == 0
    long = np.stack([E[0] * 9, E[1]])  # the centroid weighs by length, the tokens do not
    assert inter([long, E[:1]], "centroid") == pytest.approx(1 - 9 / math.hypot(9, 1), abs=1e-12)
    assert inter([long, E[:1]], "token") == pytest.approx(0.5, abs=1e-12)


def test_water_fill() -> None:
    c = Clarity()
    assert water_fill([1, 1, 1], [9, 9, 9], 7, c) == [3, 2, 2]  # equal fractions: the lower picture
    assert water_fill([10, 1, 1], [4, 9, 9], 10, c) == [4, 3, 3]  # the first is full, the rest is shared
    assert water_fill([100, 0.01], [50, 50], 20, c) == [19, 1]  # never below one
    assert water_fill([1, 2], [8, 8], 8, c) == [3, 5]  # 2.67 and 5.33
    assert water_fill([1, 2], [8, 8], 16, c) == [8, 8]
    assert proportional([0, 10, 90], 10, c) == [0, 1, 9]
    assert proportional([1, 1, 98], 4, c) == [1, 1, 2]


def test_split() -> None:
    c = Clarity()
    assert split(1, 0.9, 0.0, 100, 25, c) == (0.5, 50)
    assert split(2, 0.0, 0.0, 100, 25, c) == (0.5, 50)
    assert split(2, 0.5, 0.5, 100, 25, c) == (0.5, 50)
    assert split(2, 0.9, 0.0, 100, 25, c) == (0.2, 76)  # 75.79
    assert split(2, 0.0, 0.9, 100, 25, c) == (0.8, 33)  # 32.99
    assert c.gap < 0.01  # 32.99 ends 0.49 from 32.5, relative to 33


# Cosines 1 on the diagonal; rows 0 and 1 alike, 2 between, 3 far.
G = np.array(
    [
        [1.0, 0.9, 0.5, -0.2],
        [0.9, 1.0, 0.4, -0.1],
        [0.5, 0.4, 1.0, 0.3],
        [-0.2, -0.1, 0.3, 1.0],
    ]
)


def test_greedy() -> None:
    # Row sums 2.2, 2.2, 2.2, 1.0.
    assert Greedy(G, "max_sum", range(4), Clarity()).run(4) == [3, 0, 1, 2]  # 1 and 2 tie at 0.8
    assert Greedy(G, "max_min", range(4), Clarity()).run(4) == [3, 0, 2, 1]
    # Row 0 has the largest sum (ties: lowest). Gains then: 1: 0.1 + 0.1, 2: 0.5 + 0.5, 3: 1.2.
    assert Greedy(G, "facility", range(4), Clarity()).run(4) == [0, 3, 2, 1]


def test_greedy_scores() -> None:
    c = Clarity()
    assert list(Greedy(G, "max_sum", range(4), c).scores([3], [0, 1, 2])) == pytest.approx([0.2, 0.1, -0.3])
    assert list(Greedy(G, "max_min", range(4), c).scores([3, 0], [1, 2])) == pytest.approx([0.1, 0.5])
    assert list(Greedy(G, "facility", range(4), c).scores([0], [1, 2, 3])) == pytest.approx([0.2, 1.0, 1.2])
    assert list(Greedy(G, "max_sum", range(4), c).scores([3, 0], [1, 2])) == pytest.approx([-0.8, -0.8])


def test_clarity() -> None:
    c = Clarity()
    assert Greedy(np.eye(3), "max_min", range(3), c).run(3) == [0, 1, 2]
    assert (c.gap, c.ties) == (math.inf, 3)
    c = Clarity()
    Greedy(G, "max_min", range(4), c).run(2)
    assert c.gap == pytest.approx(0.1 / 1.2)  # 1.2 against 1.1; the first pick is clear by 1.2


def test_dpp() -> None:
    # Conditional variances are 1 - cos^2 in two dimensions.
    y = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8]])
    assert Dpp(y @ y.T, np.ones(3), range(3), Clarity()).run(2) == [0, 2]
    # Relevance changes that: diag 0.25, 1, 1; then 0.25 * 0.36 against 1 - 0.96^2.
    assert Dpp(y @ y.T, np.array([0.5, 1, 1]), range(3), Clarity()).run(2) == [1, 0]
    # Rank one: what is left is picked by max_min, here lowest index.
    assert Dpp(np.ones((3, 3)), np.ones(3), range(3), Clarity()).run(3) == [0, 1, 2]


def test_floor() -> None:
    owner = np.array([0, 0, 1, 2])
    greedy = Greedy(G, "max_min", range(4), Clarity())
    assert sorted(give_every_picture_a_row([0, 1, 3], owner, greedy)) == [0, 2, 3]  # row 1 came last
    assert sorted(give_every_picture_a_row([1, 0, 3], owner, greedy)) == [1, 2, 3]


def test_pareto() -> None:
    div = np.array([0.9, 0.5, 0.1, 0.4, 0.0])
    align = np.array([0.1, 0.5, 0.9, 0.4, 0.0])
    one = np.zeros(5, int)
    c = Clarity()
    assert sorted(pareto(div, align, 3, 0.5, one, c)) == [0, 1, 2]  # the first front is whole
    assert sorted(pareto(div, align, 4, 0.5, one, c)) == [0, 1, 2, 3]
    assert sorted(pareto(div, align, 1, 0.9, one, c)) == [0]  # cut by diversity
    assert sorted(pareto(div, align, 1, 0.1, one, c)) == [2]
    assert sorted(pareto(div, 0 * div, 2, 0.5, one, c)) == [0, 1]  # without text: fronts by diversity
    assert sorted(pareto(0 * div, 0 * div, 2, 0.5, one, c)) == [0, 1]  # all equal: lower index
    owner = np.array([0, 0, 0, 0, 1])
    assert sorted(pareto(div, align, 3, 0.9, owner, c)) == [0, 1, 4]  # 2 scores least of the first front


def test_coverage() -> None:
    x = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8]])
    # Row sums 2.4, 3.36, 2.4, 3.36: first row 0, then row 2, the farthest from it.
    assert coverage_count(x, 0.79, Clarity())[0] == [0, 2]
    assert len(coverage_count(x, 0.85, Clarity())[0]) == 3
    assert len(coverage_count(x, 0.97, Clarity())[0]) == 4
    assert coverage_count(np.ones((5, 2)), 0.99, Clarity())[0] == [0]
    assert len(coverage_count(np.zeros((3, 2)), 0.1, Clarity())[0]) == 3  # nothing stands for a zero row


def test_grid_pool() -> None:
    x = np.arange(15.0)[:, None]
    ((index, mean),) = grid_pool([x], [(3, 5)], 6)
    assert list(index) == [0, 2, 4, 10, 12, 14]
    assert list(mean[:, 0]) == [(0 + 1 + 5 + 6) / 4, (2 + 3 + 7 + 8) / 4, (4 + 9) / 2, 10.5, 12.5, 14]


def test_whole_selection() -> None:
    """Two pictures of two equal pairs each; one of every pair stays."""
    rows = [np.stack([E[0], E[0], E[1], E[1]]), np.stack([E[2], E[2], E[3], E[3]])]
    out = select(rows, keep=0.5)
    assert [list(kept) for kept in out.kept] == [[0, 2], [0, 2]]
    # D_intra = 2/3: 4 of 6 pairs differ. Centroids are orthogonal.
    assert out.d_intra == pytest.approx([2 / 3, 2 / 3])
    assert out.d_inter == pytest.approx(1)
    assert out.alpha == pytest.approx(0.6)
    assert out.stage1_budget == 5  # 8 * 0.5^0.6 = 5.28
    assert out.budgets == [3, 2]
    assert out.pool_size == 5
    assert out.ties > 0
    uniform = select([np.ones((10, 2)), np.ones((2, 2))], max_tokens=6, selector="uniform")
    assert [list(kept) for kept in uniform.kept] == [[1, 3, 5, 7, 9], [1]]
    with pytest.raises(ValueError, match="fewer"):
        select(rows, max_tokens=1)
