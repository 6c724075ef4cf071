"""Instruction sets that a machine may lack: their shipped machine code, and the model of AMX's tile unit."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import pytest
from kernel_builds import ROOT, build, need, run

pytestmark = [
    pytest.mark.subprocess,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="AMX and AVX-VNNI are of x86-64"),
]
FLAGS = ["-std=c++20", "-Wall", "-Wextra", "-Wshadow", "-ffp-contract=off", "-Werror", "-pthread"]
FLAGS += ["-mamx-tile", "-mamx-bf16", "-mamx-int8"]
FLAGS += [f"-I{ROOT / folder}" for folder in (".", "tests/parity", "kernels/include")]
PARITY = ROOT / "tests/parity"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    need("c++")
    folder = tmp_path_factory.mktemp("tile_unit")
    objects = []
    for name in ("tile_unit", "tile_trap"):
        objects.append(folder / f"{name}.o")
        result = run("c++", "-O2", *FLAGS, "-c", PARITY / f"{name}.cc", "-o", objects[-1])
        assert result.returncode == 0, result.stderr
    return objects


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
def test_tile_instructions_do_what_the_manual_says(
    model: list[Path], tmp_path: Path, compiler: str, level: str
) -> None:
    """At every level, because GCC 12 drops most of a configuration that an intrinsic loads from -O2 on."""
    need(compiler)
    binary = tmp_path / "test"
    result = run(compiler, level, *FLAGS, PARITY / "tile_unit_test.cc", *model, "-o", binary)
    assert result.returncode == 0, result.stderr
    result = run(binary)
    if result.returncode == 77:
        pytest.skip(result.stdout.strip())
    assert result.returncode == 0, result.stdout
    executed = re.fullmatch(r"tile unit: 0 failures, (\d+) instructions trapped", result.stdout.strip())
    assert executed is not None
    assert int(executed[1]) > 250


def test_the_avx_vnni_object_has_no_avx512() -> None:
    """Its source also runs compiled for AVX-512's form of the instruction: what is shipped has the other."""
    need("cmake", "objdump")
    directory = build(ROOT / "build/weak-release", ["tt_isa_avx_vnni"], "-DCMAKE_BUILD_TYPE=Release")
    (path,) = directory.glob("**/tt_isa_avx_vnni.dir/**/isa_avx_vnni.cc.o")
    code = run("objdump", "-d", "--no-show-raw-insn", path).stdout
    assert len(re.findall(r"\t\{vex\} vpdpbusd\b", code)) > 1000
    assert re.findall(r".*(?:zmm|%[xy]mm(?:1[6-9]|2\d|3\d)|%k[0-7]\b).*", code) == []


def test_the_shipped_object_multiplies_tiles() -> None:
    need("cmake", "objdump")
    directory = build(ROOT / "build/weak-release", ["tt_isa_amx"], "-DCMAKE_BUILD_TYPE=Release")
    (path,) = directory.glob("**/tt_isa_amx.dir/**/isa_amx.cc.o")
    code = run("objdump", "-d", "--no-show-raw-insn", path).stdout
    count = {name: len(re.findall(rf"\t{name}\b", code)) for name in ("tdpbf16ps", "tdpbsud")}
    assert count["tdpbf16ps"] >= 6  # two and four tiles of sums
    assert count["tdpbsud"] >= 4
    # One configuration, one release: bf16, int8 in groups of 32 and of 16.
    assert len(re.findall(r"\tldtilecfg\b", code)) == len(re.findall(r"\ttilerelease\b", code)) == 3
