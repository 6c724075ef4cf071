"""Memory stays where it was after many failed loads and many answers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys, gc, resource
from pathlib import Path
import trimtok_cpp

def rss():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

lm, mmproj, broken, image = sys.argv[1:5]

def bad_load():
    try:
        trimtok_cpp.Model(broken)
    except trimtok_cpp.TrimtokError:
        return
    raise SystemExit("the truncated file loaded")

def answer(model):
    result = model.generate([image], "What is this?", max_tokens=2)
    assert result.usage.completion_tokens == 2, result

def load_and_drop():
    trimtok_cpp.Model(lm, mmproj=mmproj, n_threads=2).count_tokens([image], "x")

model = trimtok_cpp.Model(lm, mmproj=mmproj, n_threads=2)
turns = {"bad load": (bad_load, 200), "load": (load_and_drop, 30), "answer": (lambda: answer(model), 60)}
for what, (action, n) in turns.items():
    for _ in range(10):
        action()
    before = rss()
    for _ in range(n):
        action()
    print(what, rss() - before)
"""


@pytest.mark.subprocess
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the resident set from /proc")
def test_memory_does_not_grow(fixtures: Path, tmp_path: Path) -> None:
    folder = fixtures / "llava15"
    broken = tmp_path / "broken.gguf"
    data = (folder / "lm.gguf").read_bytes()
    broken.write_bytes(data[: len(data) // 2])
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            folder / "lm.gguf",
            folder / "mmproj.gguf",
            broken,
            folder / "images/a_photo.png",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    grown = {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in run.stdout.splitlines()}
    assert set(grown) == {"bad load", "load", "answer"}
    # A vocabulary of 32,000 strings or a cache of one answer leaked once per turn would be tens of MiB.
    assert all(n < 4 * 2**20 for n in grown.values()), grown
