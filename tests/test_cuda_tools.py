"""The tools around the CUDA kernels can fail: gates see what they look for, the model's numbers are right."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import cuda_gates  # noqa: E402
import cuda_model  # noqa: E402
import gpu_report  # noqa: E402

GEMM = "_ZN7trimtok4cuda15gemm_mma_kernelEv"
USAGE = """
Resource usage:
 Common:
  GLOBAL:0
 Function {name}:
  REG:70 STACK:{stack} SHARED:{shared} LOCAL:0 CONSTANT[0]:528 TEXTURE:0 SURFACE:0 SAMPLER:0
"""
CODE = f"""
                Function : {GEMM}
        .headerflags    @"EF_CUDA_SM80"
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
        /*0010*/              @!P0 LDSM.16.M88.4 R4, [R8] ;
        /*0020*/                   HMMA.16816.F32 R4, R4, R12, R4 ;
        /*0030*/                   HMMA.16816.F32 R8, R4, R14, R8 ;
"""


def usage(stack: int = 0, shared: int = 20480, name: str = GEMM) -> str:
    return USAGE.format(name=name, stack=stack, shared=shared)


def test_machine_code_is_read() -> None:
    kernels: dict[str, cuda_gates.Kernel] = {}
    cuda_gates.read_usage("gemm.cu", 80, usage() + usage(name="_Z5otherv"), kernels)
    cuda_gates.read_usage("gemm.cu", 90, usage(shared=21504), kernels)  # ptxas counts in 1 KiB of the system
    assert set(kernels) == {GEMM, "_Z5otherv"}
    assert kernels[GEMM].on[80] == cuda_gates.Entry(70, 20480, 0)
    assert kernels[GEMM].on[90] == cuda_gates.Entry(70, 20480, 0)
    cuda_gates.read_instructions(80, CODE, kernels)
    assert kernels[GEMM].on[80].instructions == {"IMAD": 1, "LDSM": 1, "HMMA": 2}
    cuda_gates.read_bounds(f".visible .entry {GEMM}(\n)\n.maxntid 128\n.minnctapersm 2\n{{", kernels)
    assert kernels[GEMM].threads == 128


def test_gates_find_local_memory_and_missing_tensor_cores() -> None:
    kernels: dict[str, cuda_gates.Kernel] = {}
    cuda_gates.read_usage("gemm.cu", 80, usage(), kernels)
    cuda_gates.read_usage("gemm.cu", 90, usage(stack=16), kernels)
    kernel = kernels[GEMM]
    kernel.name = "gemm_mma_kernel<1, 0, TileShape<128, 128, 32>>"
    kernel.on[90].instructions.update(["HMMA", "LDSM", "LDGSTS"])
    kernel.on[80].instructions.update(["HMMA", "LDSM"])
    found = cuda_gates.findings([kernel])
    assert len(found) == 2
    assert "sm_80 has no LDGSTS" in found[0]
    assert "sm_90 spills, or keeps 16 bytes in local memory" in found[1]


@pytest.mark.parametrize(
    ("registers", "shared", "threads", "arch", "percent"),
    [  # from NVIDIA's cuda_occupancy.h
        (70, 20480, 128, 80, 44),
        (128, 27648, 128, 80, 25),
        (32, 0, 256, 80, 100),
        (40, 0, 256, 86, 100),
        (255, 0, 256, 90, 12),
        (16, 0, 32, 80, 50),
    ],
)
def test_occupancy(registers: int, shared: int, threads: int, arch: int, percent: int) -> None:
    share = cuda_gates.occupancy(cuda_gates.Entry(registers, shared), threads, 0, cuda_gates.GPUS[arch])
    assert round(100 * share) == percent


def test_names_are_readable() -> None:
    mangled = (
        "_ZN7trimtok4cuda43_GLOBAL__N__8840494d_10_convert_cu_0da039d9"
        "20convert_dense_kernelILNS_5DtypeE30EEEvNS_15ConvertRowsArgsE"
    )
    assert cuda_gates.demangle([mangled]) in (["convert_dense_kernel<30>"], [mangled])


def test_model_knows_what_bounds_a_call() -> None:
    gpu = cuda_model.H100
    assert cuda_model.seconds("add", "T=576 D=1024", 3.35e9, 0, gpu) == (1e-3, "memory")
    square = 2.0 * 4096**3
    assert cuda_model.seconds("matmul", "T=4096 N=4096 K=4096 F16", 1e6, square, gpu)[1] == "tensor"
    one = cuda_model.seconds("matmul", "T=4096 N=4096 K=4096 Q4_K", 1e6, square, gpu)[0]
    two = cuda_model.seconds("matmul", "T=4096 N=4096 K=4096 BF16", 1e6, square, gpu)[0]
    assert two == pytest.approx(2 * one)  # two terms of x
    assert cuda_model.seconds("matmul", "T=4096 N=4096 K=4096 F32", 1e6, square, gpu)[1] == "f32"
    digits, unit = cuda_model.seconds("matmul", "T=4096 N=4096 K=4096 Q4_K int8", 1e6, square, gpu)
    assert (digits, unit) == (pytest.approx(one, rel=1e-3), "int8")  # two products at twice the rate
    assert cuda_model.seconds("gram", "T=576 D=1024", 1e6, square, gpu)[1] == "int8"


def test_report_reads_what_the_harness_prints() -> None:
    line = "PASS cuda add served_by=cuda cases=94 failures=0 worst=0.00"
    match = gpu_report.PASS_LINE.search(f"noise\n{line}\n")
    assert match is not None
    assert match.groups() == ("PASS", "cuda", "add", "cuda", "94", "0", "0.00")
    row = {"op": "matmul", "shape": "T=1 N=2048 K=2048 Q4_0", "seconds": 1e-5, "bytes": 2e6, "flops": 8e6}
    limit = {"limit": "read", "per_second": 1e12}
    bench = f"noise\n{json.dumps(limit)}\n{json.dumps(row)}\n"
    assert gpu_report.bench_rows(bench) == [row]


def test_dynamic_shared_memory_is_what_launches_ask_for() -> None:
    assert cuda_gates.dynamic_shared("matvec_kernel<12, true, 1>") == 18432
    assert cuda_gates.dynamic_shared("matvec_kernel<12, true, 4>") == 36864
    # x: 64 rows of two digits, a scale a block; weights: 128 rows, a scale and, for Q4_K, a min.
    assert cuda_gates.dynamic_shared("gemm_int8_kernel<8, TileShape<64, 128, 32>>") == 3 * 6400 + 2 * 6656
    assert cuda_gates.dynamic_shared("gemm_int8_kernel<12, TileShape<64, 128, 32>>") == 3 * 6656 + 2 * 7168
    assert cuda_gates.dynamic_shared("greedy_kernel<true>") == 2304
    assert cuda_gates.dynamic_shared("greedy_kernel<false>") == 0
