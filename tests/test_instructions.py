"""Kernels may not silently cost more: instructions per call, counted by callgrind, against a record.

Valgrind knows no AVX-512, so the AVX2 bodies are counted; they share their source with the others. The
record is of one compiler; with another one there is nothing to compare. To make it anew:

    python tests/test_instructions.py PARITY_BINARY > tests/data/instructions.json
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kernel_builds import run

RECORD = Path(__file__).resolve().parent / "data" / "instructions.json"
# "T N K dtype compute" of one matmul: answers being written, then prompts.
CASES = [
    *(f"1 64 1024 {dtype} int8" for dtype in ("Q4_0", "Q5_0", "Q8_0", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K")),
    "1 64 1024 F16 f32",
    "4 64 1024 Q4_K int8",
    "64 64 1024 Q4_K f32",
    "64 64 1024 F16 f32",
]
MARGIN = 1.1


def compiler() -> str:
    """Name and major version of the compiler that the parity binary is built with."""
    text = subprocess.run(["c++", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"(\d+)\.\d+\.\d+", text)
    return f"{'clang' if 'clang' in text else 'gcc'} {version[1] if version else '?'}"


def instructions(binary: Path, case: str) -> int:
    """Of one call: that of three calls less that of one, halved, so that setting up costs nothing."""
    counts = []
    for calls in ("1", "3"):
        command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
        command += [str(binary), "--isa", "avx2", "--matmul", case, "--calls", calls]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        found = re.search(r"Collected : (\d+)", result.stderr)
        assert found, result.stderr
        assert "SKIP" not in result.stdout, result.stdout
        counts.append(int(found[1]))
    return (counts[1] - counts[0]) // 2


@pytest.mark.subprocess
@pytest.mark.parametrize("case", CASES)
def test_kernels_cost_no_more_than_recorded(parity: Path, case: str) -> None:
    record: dict[str, Any] = json.loads(RECORD.read_text())
    if shutil.which("valgrind") is None:
        pytest.skip("not installed: valgrind")
    if compiler() != record["compiler"]:
        pytest.skip(f"instructions are recorded for {record['compiler']}, this is {compiler()}")
    if "avx2 available" not in run(parity, "--list").stdout:
        pytest.skip("this machine has no avx2")
    assert 0 < instructions(parity, case) <= MARGIN * record["instructions"][case]


if __name__ == "__main__":
    counted = {case: instructions(Path(sys.argv[1]), case) for case in CASES}
    print(json.dumps({"compiler": compiler(), "instructions": counted}, indent=2))
