"""Every kernel table against the reference bodies: builds and runs the C++ harness in tests/parity."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from check_weak_symbols import isa_objects, weak_symbols
from kernel_builds import ROOT, build, need, run

pytestmark = pytest.mark.subprocess

OPS = re.findall(r"^TT_OP\((\w+),", (ROOT / "kernels/include/trimtok/ops.def").read_text(), re.MULTILINE)
SERVED = re.findall(r"^TT_SERVE\((\w+)\)", (ROOT / "kernels/cpu/simd/served.def").read_text(), re.MULTILINE)
RESULT = re.compile(
    r"^(PASS|FAIL) (\w+) (\w+) served_by=(\w+) cases=(\d+) failures=(\d+) worst=\S+$", re.MULTILINE
)
# Every table and the one below it, of which it inherits what it has no body for.
LAYERS = {
    "avx2": "ref",
    "avx_vnni": "avx2",
    "avx512": "avx2",
    "avx512_bf16": "avx512",
    "amx": "avx512_bf16",
    "neon": "ref",
    "neon_dot": "neon",
    "neon_i8mm": "neon_dot",
}
MATMUL_ONLY = {"avx_vnni", "avx512_bf16", "amx", "neon_dot", "neon_i8mm"}
# Tables whose code runs here although this machine lacks the instruction set, and whose bodies they have.
STAND_INS = {"amx_emulated": "amx", "avx_vnni_evex": "avx_vnni"}
OF_MACHINE = {
    "x86_64": ["avx2", "avx_vnni", "avx_vnni_evex", "avx512", "avx512_bf16", "amx"],
    "aarch64": ["neon", "neon_dot", "neon_i8mm"],
}
CROSS = "aarch64-linux-gnu-"


def available_isas(binary: Path) -> list[str]:
    return re.findall(r"^(\w+) available$", run(binary, "--list").stdout, re.MULTILINE)


def server(isa: str, op: str) -> str:
    """The table whose body the table of `isa` must call for an op."""
    own = op == "matmul" if isa in MATMUL_ONLY else op in SERVED
    return isa if own or isa == "ref" else server(LAYERS[isa], op)


def check_result(result: subprocess.CompletedProcess[str], isa: str, op: str, served: str = "") -> None:
    """One PASS line for exactly this table and op, with cases, served by the table that should."""
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    lines = RESULT.findall(result.stdout)
    assert len(lines) == 1, result.stdout
    verdict, table, name, served_by, cases, failures = lines[0]
    assert (verdict, table, name, failures) == ("PASS", isa, op, "0")
    assert int(cases) >= 10
    assert served_by == (served or server(isa, op))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("isa", ["ref", *LAYERS])
def test_table_agrees_with_the_reference(parity: Path, isa: str, op: str) -> None:
    if isa not in available_isas(parity):
        pytest.skip(f"this machine has no {isa}")
    check_result(run(parity, "--isa", isa, "--op", op), isa, op)


@pytest.mark.parametrize("name", STAND_INS)
def test_a_stand_in_agrees_with_the_reference(parity: Path, name: str) -> None:
    isas = available_isas(parity)
    if name not in isas:
        where = "has the real one" if STAND_INS[name] in isas else "can execute neither"
        pytest.skip(f"no {name}: this machine {where}")
    check_result(run(parity, "--isa", name, "--op", "matmul"), name, "matmul", STAND_INS[name])
    assert run(parity, "--isa", name, "--op", "add").returncode == 2  # proven nothing


# The table of docs/performance.md; avx512_bf16 depends on the maker of the processor.
AUTO = {
    "ref": {"F16": ("f32", "f32"), "Q4_K": ("f32", "f32")},
    "neon": {"F16": ("f32", "f32"), "Q4_K": ("int8", "f32")},
    "neon_dot": {"F16": ("f32", "f32"), "Q4_K": ("int8", "f32")},
    "neon_i8mm": {"F16": ("f32", "f32"), "Q4_K": ("int8", "int8")},
    "avx2": {"F16": ("f32", "f32"), "Q4_K": ("int8", "f32")},
    "avx_vnni": {"F16": ("f32", "f32"), "Q4_K": ("int8", "int8")},
    "avx512": {"F16": ("f32", "f32"), "Q4_K": ("int8", "int8")},
    "amx": {"F16": ("f32", "bf16"), "Q4_K": ("int8", "bf16")},
}


def test_what_auto_picks(parity: Path) -> None:
    picked: dict[str, dict[str, tuple[str, str]]] = {}
    isa = ""
    for line in run(parity, "--list").stdout.splitlines():
        if match := re.fullmatch(r"(\w+) (un)?available", line):
            isa = match[1]
        elif match := re.fullmatch(r"  auto (\w+) few_rows=(\w+) many_rows=(\w+)", line):
            picked.setdefault(isa, {})[match[1]] = (match[2], match[3])
    picked.pop("avx512_bf16")
    assert picked == AUTO


def test_another_seed(parity: Path) -> None:
    result = run(parity, "--quick", "--seed", "20261122")
    assert result.returncode == 0, result.stdout[-4000:]
    isas = available_isas(parity)
    stand_ins = len(STAND_INS.keys() & set(isas))  # matmul alone
    assert len(RESULT.findall(result.stdout)) == len(OPS) * (len(isas) - stand_ins) + stand_ins


@pytest.mark.parametrize("bug", ["tail", "guard", "threads", "half"])
@pytest.mark.parametrize("op", OPS)
def test_harness_sees_planted_bugs(parity: Path, op: str, bug: str) -> None:
    result = run(parity, "--isa", "ref", "--op", op, "--plant", bug, "--quick")
    assert result.returncode == 1, result.stdout[-4000:] + result.stderr
    verdict, _, name, _, cases, failures = RESULT.findall(result.stdout)[0]
    assert (verdict, name) == ("FAIL", op)
    assert 0 < int(failures) <= int(cases)
    expected = {
        "tail": r"out\[\d+\]\[\d+\] is nan|Q8_0 block|expected",
        "guard": r"wrote outside the output, at byte -1 ",
        "threads": r"threads=2: (the result differs|out\[|row)",
        "half": r"\(error \S+, allowed \S+\)",
    }[bug]
    assert re.search(expected, result.stdout), result.stdout[-2000:]


@pytest.mark.parametrize("arguments", [["--isa", "sse9"], ["--op", "conv9"], ["--isa"], ["--nonsense"]])
def test_unknown_requests_are_refused(parity: Path, arguments: list[str]) -> None:
    assert run(parity, *arguments).returncode == 2


def test_a_missing_table_is_not_a_pass(parity: Path) -> None:
    missing = set(LAYERS) - set(available_isas(parity))
    assert missing, "x86 and AArch64 tables in one process?"
    result = run(parity, "--isa", missing.pop(), "--quick")
    assert result.returncode == 2
    assert "SKIP" in result.stdout


@pytest.mark.parametrize("build_type", ["Debug", "Release"])
def test_isa_objects_have_no_weak_symbols(build_type: str) -> None:
    need("nm")
    isas = OF_MACHINE.get(platform.machine(), [])
    if not isas:
        pytest.skip("no SIMD table for this machine")
    directory = build(
        ROOT / f"build/weak-{build_type.lower()}",
        [f"tt_isa_{isa}" for isa in isas],
        f"-DCMAKE_BUILD_TYPE={build_type}",
    )
    objects = isa_objects(directory)
    assert len(objects) >= len(isas)
    assert weak_symbols(objects) == []


def test_weak_symbols_are_seen(tmp_path: Path) -> None:
    """A shared inline function, as a careless header would bring in."""
    need("c++", "nm")
    source = tmp_path / "isa_careless.cc"
    source.write_text("inline int f(int x) { return x + 1; }\nint g(int x) { return f(x); }\n")
    folder = tmp_path / "tt_isa_careless.dir"
    folder.mkdir()
    result = run("c++", "-O0", "-c", source, "-o", folder / "isa_careless.cc.o")
    assert result.returncode == 0, result.stderr
    objects = isa_objects(tmp_path)
    assert weak_symbols(objects) == ["isa_careless.cc.o: W f(int)"]
    assert run(sys.executable, ROOT / "tests/check_weak_symbols.py", tmp_path).returncode == 1
    objects[0].unlink()
    assert run(sys.executable, ROOT / "tests/check_weak_symbols.py", tmp_path).returncode == 2


@pytest.fixture(scope="session")
def neon_parity() -> Path:
    need("cmake", CROSS + "g++", "qemu-aarch64")
    directory = build(
        ROOT / "build/parity-aarch64",
        ["trimtok_parity"],
        "-DCMAKE_BUILD_TYPE=Release",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={CROSS}g++",
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
    )
    return directory / "tests/parity/trimtok_parity"


@pytest.mark.parametrize("op", OPS)
def test_neon_under_emulation(neon_parity: Path, op: str) -> None:
    check_result(run("qemu-aarch64", neon_parity, "--isa", "neon", "--op", op, "--quick"), "neon", op)


@pytest.mark.parametrize(("isa", "cpu_without"), [("neon_dot", "cortex-a53"), ("neon_i8mm", "cortex-a76")])
def test_int8_extensions_under_emulation(neon_parity: Path, isa: str, cpu_without: str) -> None:
    options = ["--isa", isa, "--op", "matmul", "--quick"]
    check_result(run("qemu-aarch64", "-cpu", "max", neon_parity, *options), isa, "matmul")
    without = run("qemu-aarch64", "-cpu", cpu_without, neon_parity, *options)
    assert without.returncode == 2
    assert f"SKIP {isa}" in without.stdout


def test_neon_objects_have_no_weak_symbols(neon_parity: Path) -> None:
    need(CROSS + "nm")
    objects = isa_objects(ROOT / "build/parity-aarch64")
    debug = build(
        ROOT / "build/weak-aarch64",
        [f"tt_isa_{isa}" for isa in OF_MACHINE["aarch64"]],
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DCMAKE_SYSTEM_NAME=Linux",
        "-DCMAKE_SYSTEM_PROCESSOR=aarch64",
        f"-DCMAKE_CXX_COMPILER={CROSS}g++",
    )
    objects += isa_objects(debug)
    assert len(objects) >= 6
    assert weak_symbols(objects, CROSS + "nm") == []
