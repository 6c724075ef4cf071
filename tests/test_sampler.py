"""The sampler against a plain implementation with its own Mersenne twister, and its rules one by one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from trimtok_cpp import _core
from trimtok_cpp.errors import NumericsError

INF, NAN = float("inf"), float("nan")
OFF: dict[str, Any] = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def row(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float32)


def mt19937_64(seed: int) -> Iterator[int]:
    """Matsumoto and Nishimura's 64-bit Mersenne twister (2004), the engine of the C++ standard."""
    mask = 2**64 - 1
    state = [seed & mask]
    for i in range(1, 312):
        state.append((6364136223846793005 * (state[-1] ^ (state[-1] >> 62)) + i) & mask)
    while True:
        for i in range(312):
            x = (state[i] & 0xFFFFFFFF80000000) | (state[(i + 1) % 312] & 0x7FFFFFFF)
            state[i] = state[(i + 156) % 312] ^ (x >> 1) ^ (0xB5026F5AA96619E9 if x & 1 else 0)
        for x in state:
            x ^= (x >> 29) & 0x5555555555555555
            x ^= (x << 17) & 0x71D67FFFEDA60000
            x ^= (x << 37) & 0xFFF7EEE000000000
            yield x ^ (x >> 43)


def test_the_twister_is_the_standard_one() -> None:
    twister = mt19937_64(5489)
    # The 10000th number, from [rand.predef] of the C++ standard.
    assert [next(twister) for _ in range(10000)][-1] == 9981545732273789042


class PlainSampler:
    """Sorts everything at every step."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.twister = mt19937_64(options["seed"])
        self.seen: set[int] = set()

    def sample(self, logits: np.ndarray) -> int:
        o = self.options
        values = logits.copy()
        penalty = np.float32(o["repeat_penalty"])
        for i in self.seen:
            values[i] = values[i] / penalty if values[i] > 0 else values[i] * penalty
        values[o["suppressed"]] = -np.inf
        order = sorted((i for i in range(len(values)) if values[i] > -np.inf), key=lambda i: (-values[i], i))
        if o["temperature"] == 0:
            return order[0]
        ranked = bool(o["top_k"]) and o["top_k"] < len(order)
        if ranked:
            order = order[: o["top_k"]]
        x = values.astype(np.float64)
        if o["top_p"] < 1:
            ranked = True
            p = np.exp(x[order] - x[order[0]])
            reached = np.cumsum(p) >= float(np.float32(o["top_p"])) * p.sum()
            order = order[: int(np.argmax(reached)) + 1]
        floor = float(np.float32(o["min_p"]))
        order = [i for i in order if math.exp(x[i] - x[order[0]]) >= floor]
        best = x[order[0]]
        if not ranked:
            order = sorted(order)  # without a selection the draw goes through the vocabulary in id order
        weights = np.exp((x[order] - best) / float(np.float32(o["temperature"])))
        target = (next(self.twister) >> 11) / 2**53 * weights.sum()
        return order[int(np.argmax(np.cumsum(weights) > target))]


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [0, 1, 5, 40, 5000])
@pytest.mark.parametrize("top_p", [0.1, 0.95, 1.0])
@pytest.mark.parametrize("min_p", [0.0, 0.05, 0.9])
def test_choices_are_those_of_the_plain_sampler(
    temperature: float, top_k: int, top_p: float, min_p: float
) -> None:
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    options |= {"repeat_penalty": 1.3, "seed": 2**63 + 12345, "suppressed": [0, 7, 499]}
    ours, plain = _core.Sampler(**options), PlainSampler(**options)
    rng = np.random.default_rng(11)
    chosen = []
    for step in range(40):
        # Coarse values: many ties.
        logits = (np.round(rng.normal(size=500) * 8) / (4 if step % 2 else 1)).astype(np.float32)
        logits[rng.integers(0, 500, 20)] = -np.inf
        expected = plain.sample(logits)
        assert ours.sample(logits) == expected
        chosen.append(expected)
        ours.accept(expected)
        plain.seen.add(expected)
    assert len(set(chosen)) > 20


def test_zero_temperature_takes_the_largest_and_lowest() -> None:
    sampler = _core.Sampler(temperature=0.0)
    assert sampler.sample(row(1, 3, 2, 3)) == 1
    assert sampler.sample(row(-INF, -INF, -5)) == 2
    assert sampler.sample(row(0)) == 0
    assert sampler.sample(np.array([1, 9, 3, 9, 2, 8], dtype=np.float32)[::2]) == 1


def test_same_seed_same_choices() -> None:
    logits = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    runs = []
    for seed in (1, 1, 2, 2**64 - 1):
        sampler = _core.Sampler(**OFF, seed=seed)
        runs.append([sampler.sample(logits) for _ in range(50)])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2] != runs[3]


def test_frequencies_are_the_probabilities() -> None:
    logits = row(1.0, 0.0, 2.0, -1.0, -INF)
    for temperature in (0.5, 1.0, 2.0):
        sampler = _core.Sampler(**{**OFF, "temperature": temperature}, seed=42)
        n = 20000
        counts = np.bincount([sampler.sample(logits) for _ in range(n)], minlength=5)
        p = np.exp(logits.astype(np.float64) / temperature)
        p /= p.sum()
        deviation = np.abs(counts / n - p) / np.sqrt(np.maximum(p * (1 - p), 1e-12) / n)
        assert counts[4] == 0
        assert deviation[:4].max() < 4


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, {0, 1, 2, 3, 4}),
        ({"top_k": 2}, {1, 3}),
        ({"top_k": 1}, {1}),
        ({"top_p": 0.01}, {1}),
        # Probabilities 0.4, 0.3, 0.15, 0.1, 0.05.
        ({"top_p": 0.69}, {1, 3}),
        ({"top_p": 0.71}, {0, 1, 3}),
        ({"min_p": 0.3}, {0, 1, 3}),
        ({"min_p": 0.99}, {1}),
        # After top_k the rest counts as everything: 0.57, 0.43.
        ({"top_k": 2, "top_p": 0.5}, {1}),
        # A temperature does not change what top_p and min_p keep.
        ({"min_p": 0.3, "temperature": 50.0}, {0, 1, 3}),
        ({"top_p": 0.69, "temperature": 50.0}, {1, 3}),
        ({"suppressed": [1, 3]}, {0, 2, 4}),
        ({"suppressed": [1, 3, 1000], "top_k": 1}, {0}),
    ],
)
def test_what_each_filter_keeps(options: dict[str, Any], allowed: set[int]) -> None:
    sampler = _core.Sampler(**{**OFF, **options}, seed=9)
    logits = np.log(np.array([0.15, 0.4, 0.1, 0.3, 0.05])).astype(np.float32)
    assert {sampler.sample(logits) for _ in range(600)} == allowed


def test_tiny_temperature_is_like_none() -> None:
    for temperature in (1e-6, 1e-30, 1e-45):
        sampler = _core.Sampler(**{**OFF, "temperature": temperature}, seed=1)
        assert {sampler.sample(row(1, 1.5, -3e38, 1.5001)) for _ in range(50)} == {3}


def test_repeat_penalty() -> None:
    sampler = _core.Sampler(temperature=0.0, repeat_penalty=2.0)
    assert sampler.sample(row(3, 2, -1)) == 0
    sampler.accept(0)
    sampler.accept(0)  # once is enough
    assert sampler.sample(row(3, 2, -1)) == 1
    assert sampler.sample(row(5, 2, -1)) == 0
    sampler.accept(1)
    assert sampler.sample(row(-1, -1.5, -1.9)) == 2  # -2, -3, -1.9
    sampler.accept(10**6)  # a token of another vocabulary does not matter
    assert sampler.sample(row(3, 2, 1.6)) == 2
    # A penalty below 1 must not overflow.
    extreme = _core.Sampler(**OFF, repeat_penalty=1e-30)
    extreme.accept(1)
    assert extreme.sample(row(0, 3e38)) == 1
    with pytest.raises(ValueError, match="negative"):
        sampler.accept(-1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(
    ("logits", "suppressed", "message"),
    [
        (row(1, NAN, 2), [], "token 1 is NaN"),
        (row(1, -NAN, 2), [1], "token 1 is NaN"),
        (row(1, 2, INF), [], r"token 2 is \+inf"),
        (row(-INF, -INF), [], "all 2 logits are -inf"),
        (row(-INF, 5), [1], "all 2 logits are -inf or suppressed"),
    ],
)
def test_broken_logits(logits: np.ndarray, suppressed: list[int], message: str, temperature: float) -> None:
    sampler = _core.Sampler(temperature=temperature, suppressed=suppressed)
    with pytest.raises(NumericsError, match=message):
        sampler.sample(logits)


@pytest.mark.parametrize(
    ("name", "bad", "allowed"),
    [
        ("temperature", [-0.1, NAN, INF], ">= 0"),
        ("top_k", [-1], ">= 0"),
        ("top_p", [0.0, -1.0, 1.01, NAN], "0 < top_p <= 1"),
        ("min_p", [-0.1, 1.0, NAN], "0 <= min_p < 1"),
        ("repeat_penalty", [0.0, -1.0, NAN, INF], "> 0"),
        ("suppressed", [[-1]], "a token id"),
    ],
)
def test_options_out_of_range(name: str, bad: list[Any], allowed: str) -> None:
    for value in bad:
        with pytest.raises(ValueError, match=allowed):
            _core.Sampler(**{name: value})


def test_logits_of_a_wrong_shape_or_type() -> None:
    sampler = _core.Sampler()
    for logits in (np.zeros(3), np.zeros((1, 3), np.float32), np.zeros(3, np.float16), np.zeros(3, np.int32)):
        with pytest.raises(ValueError, match="must be float32"):
            sampler.sample(logits)
    with pytest.raises(ValueError, match="0 logits"):
        sampler.sample(np.zeros(0, np.float32))
