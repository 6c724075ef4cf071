"""Threads: as many as were asked for, by phase; none of them busy when there is no work."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_decoder import Spec, make_model, write_model

from trimtok_cpp import _core


@pytest.fixture
def lm(tmp_path: Path) -> str:
    return write_model(make_model(Spec()), tmp_path / "tiny.gguf")


def answer(core: _core.Model, n: int = 24) -> list[int]:
    options = {"temperature": 0.0, "top_k": 1, "top_p": 1.0, "min_p": 0.0, "repeat_penalty": 1.0}
    generation = core.generate("a b a b", [], max_tokens=n, seed=0, stop=[], **options)
    while generation.next() is not None:
        pass
    return generation.result()["token_ids"]


def n_os_threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def test_idle_threads_use_no_cpu(lm: str) -> None:
    core = _core.Model(lm, n_threads=4, n_threads_batch=3)
    assert answer(core)
    time.sleep(0.02)  # workers poll some tens of microseconds before they sleep
    start = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - start < 0.02


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads through /proc")
@pytest.mark.parametrize(
    ("decode", "batch", "started"), [(1, 1, 0), (3, 0, 2), (3, 3, 2), (2, 4, 4), (1, 3, 2)]
)
def test_threads_are_those_that_were_asked_for(lm: str, decode: int, batch: int, started: int) -> None:
    before = n_os_threads()
    core = _core.Model(lm, n_threads=decode, n_threads_batch=batch)
    answer(core)
    info = core.info()
    assert (info["n_threads"], info["n_threads_batch"]) == (decode, batch or decode)
    # The caller is one of the threads; phases with different numbers have pools of their own.
    assert n_os_threads() - before == started
    del core
    assert n_os_threads() == before


@pytest.mark.parametrize(("decode", "batch"), [(1, 3), (3, 1), (5, 2)])
def test_answers_do_not_depend_on_threads(lm: str, decode: int, batch: int) -> None:
    expected = _core.Model(lm, n_threads=1)
    core = _core.Model(lm, n_threads=decode, n_threads_batch=batch)
    assert answer(core) == answer(expected)
    rows = core.embed([1, 2, 3, 4, 5])
    positions = np.arange(5, dtype=np.int32)
    assert np.array_equal(core.logits(rows, positions, 5), expected.logits(rows, positions, 5))


def test_workers_that_come_late_hold_up_nobody(lm: str) -> None:
    """More threads than CPUs, and another program's load: every job still ends, with the same result."""
    expected = answer(_core.Model(lm, n_threads=1))
    core = _core.Model(lm, n_threads=16)
    stop = threading.Event()

    def load() -> None:
        x = np.ones((64, 64), np.float32)
        while not stop.is_set():
            x @ x

    others = [threading.Thread(target=load) for _ in range(2)]
    for other in others:
        other.start()
    try:
        for _ in range(5):
            assert answer(core) == expected
    finally:
        stop.set()
        for other in others:
            other.join()
