"""What the engine's core promises about memory, in C++: builds and runs tests/engine."""

from __future__ import annotations

import shutil

import pytest
from test_parity import ROOT, build, need, run

pytestmark = pytest.mark.subprocess


def test_allocator_and_isolation() -> None:
    need("cmake")
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler")
    directory = build(ROOT / "build/parity", ["trimtok_engine_test"], "-DCMAKE_BUILD_TYPE=Release")
    result = run(directory / "tests/engine/trimtok_engine_test")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "engine: all checks hold" in result.stdout
