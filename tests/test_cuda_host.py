"""The CUDA kernels, executed on the host: every op against the reference, and what the layer can see.

Nothing here needs a GPU or nvcc, only NVIDIA's headers. kernels/cuda_host compiles the very .cu files as C++.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from test_parity import OPS, RESULT, ROOT, build, need, run

pytestmark = pytest.mark.subprocess

BUGS = re.findall(r"^  k(\w+),", (ROOT / "tests/cuda_host/planted.h").read_text(), re.MULTILINE)
# What one order cannot show: in reverse, warp 0 is the last to write its part and so finds the others';
# atomics add up alike until the blocks change places.
MISSED = {("no_barrier", "reverse"), ("float_atomics", "forward")}
# Devices that are modelled: the plain path, and the limits of a data-centre GPU. 86 is the default.
OTHER_DEVICES = ["75", "90"]


def cuda_headers() -> str | None:
    """Where NVIDIA's headers are: a toolkit, or the wheels that carry them."""
    for folder in (
        Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include",
        Path(sysconfig.get_paths()["purelib"]) / "nvidia/cu13/include",
    ):
        if (folder / "cuda_fp16.h").is_file():
            return str(folder)
    return None


def build_host(targets: list[str], *options: str, directory: str = "cuda-host") -> Path:
    need("cmake")
    headers = cuda_headers()
    if headers is None:
        pytest.skip("no CUDA headers: install nvidia-cuda-runtime, nvidia-cuda-crt and nvidia-cuda-cccl 13.0")
    return build(
        ROOT / "build" / directory,
        targets,
        "-DTRIMTOK_CUDA_HOST=ON",
        f"-DTRIMTOK_CUDA_INCLUDE_DIR={headers}",
        "-DCMAKE_BUILD_TYPE=Release",
        *options,
    )


@pytest.fixture(scope="session")
def host() -> Path:
    return build_host(["trimtok_parity", "trimtok_cuda_host_test"])


def check_op(result: subprocess.CompletedProcess[str], op: str) -> None:
    """One PASS line of this op, and it was the CUDA body that ran, on the host."""
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    lines = RESULT.findall(result.stdout)
    assert len(lines) == 1, result.stdout
    verdict, table, name, served_by, cases, failures = lines[0]
    assert (verdict, table, name, served_by, failures) == ("PASS", "cuda_host", op, "cuda_host", "0")
    assert int(cases) >= 10


@pytest.mark.parametrize("op", OPS)
def test_cuda_op_agrees_with_the_reference(host: Path, op: str) -> None:
    """In forward, reverse and random order, which must agree to the bit; --quick keeps every kind of size."""
    check_op(run(host / "tests/parity/trimtok_parity", "--isa", "cuda_host", "--op", op, "--quick"), op)


@pytest.mark.parametrize("sm", OTHER_DEVICES)
@pytest.mark.parametrize("op", OPS)
def test_cuda_op_on_other_devices(host: Path, op: str, sm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTOK_CUDA_HOST_SM", sm)
    monkeypatch.setenv("TRIMTOK_CUDA_HOST_MMA", "h100" if sm == "90" else "a100")
    parity = host / "tests/parity/trimtok_parity"
    check_op(run(parity, "--isa", "cuda_host", "--op", op, "--quick", "--seed", sm), op)


def test_a_table_without_a_device_is_not_a_pass(host: Path) -> None:
    result = run(host / "tests/parity/trimtok_parity", "--isa", "cuda", "--quick")
    assert result.returncode == 2
    assert "SKIP cuda" in result.stdout


@pytest.fixture(scope="session")
def report(host: Path) -> str:
    result = run(host / "tests/cuda_host/trimtok_cuda_host_test")
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return result.stdout


def test_layer_computes_what_a_gpu_would(report: str) -> None:
    checks = re.findall(r"^ok (.+)$", report, re.MULTILINE)
    assert "FAIL" not in report
    assert "lane maps are NVIDIA's" in checks
    assert "a graph runs what was captured" in checks
    assert checks.count("a sound kernel") == 27  # three kernels, three orders, three models of tensor cores
    assert len(checks) >= 60


def test_layer_sees_planted_bugs(report: str) -> None:
    lines = re.findall(r"^bug (\w+) (\w+) (CAUGHT|missed): ?(.*)$", report, re.MULTILINE)
    assert len(lines) == 3 * (len(BUGS) - 1)  # without kNone; kCount has no comma
    assert {(bug, order) for bug, order, verdict, _ in lines if verdict == "missed"} == MISSED
    how = {(bug, order): text for bug, order, _, text in lines}
    assert "outside the shared array 'of_warp'" in how["shared_overrun", "forward"]
    assert re.search(r"divergent __syncthreads at \S+planted.cu:\d+", how["divergent_barrier", "forward"])
    assert "deadlock" in how["few_lanes", "forward"]
    assert "outside a device buffer" in how["no_row_check", "random"]
    assert "never waited for" in how["no_wait", "forward"]
    assert "not aligned to 16" in how["misaligned", "forward"]
    assert "another result" in how["float_atomics", "reverse"]
    assert "nan" in how["uninitialised", "forward"]
    assert "element" in how["swapped_lanes", "forward"]
    assert re.search(r"planted.cu:\d+.*planted.cu:\d+", how["barrier_in_branch", "forward"])


def test_instant_copies_hide_a_lax_wait(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why the destination of a copy is poison until the wait: without that the bug is invisible."""
    program = host / "tests/cuda_host/trimtok_cuda_host_test"
    assert run(program, "--bug", "lax_wait").returncode == 1
    monkeypatch.setenv("TRIMTOK_CUDA_HOST_CPASYNC", "immediate")
    assert run(program, "--bug", "lax_wait").returncode == 0
    assert run(program, "--bug", "none").returncode == 0


@pytest.fixture(scope="session")
def raced() -> Path:
    """The planted bugs under ThreadSanitizer, which knows the fibers and what barriers order."""
    need("g++")
    if not Path(run("g++", "-print-file-name=libtsan.so").stdout.strip()).is_absolute():
        pytest.skip("this g++ has no libtsan")
    options = ("-DCMAKE_CXX_COMPILER=g++", "-DTRIMTOK_SANITIZE=thread")
    folder = build_host(["trimtok_cuda_host_test"], *options, directory="cuda-host-tsan")
    return folder / "tests/cuda_host/trimtok_cuda_host_test"


@pytest.mark.parametrize("bug", ["no_barrier", "no_loop_barrier", "no_barrier_before_vote"])
def test_thread_sanitizer_sees_races_in_every_order(
    raced: Path, bug: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for order in ("forward", "reverse"):
        monkeypatch.setenv("TRIMTOK_CUDA_HOST_ORDER", order)
        result = run(raced, "--bug", bug)
        assert result.returncode != 0
        assert "ThreadSanitizer: data race" in result.stderr
        assert "cuda::planted::" in result.stderr  # the kernel's name


def test_thread_sanitizer_finds_nothing_in_sound_kernels(raced: Path) -> None:
    result = run(raced, "--bug", "none")
    assert result.returncode == 0, result.stderr[-4000:]
    assert "ThreadSanitizer" not in result.stderr


def test_unknown_bug_is_refused(host: Path) -> None:
    assert run(host / "tests/cuda_host/trimtok_cuda_host_test", "--bug", "gremlin").returncode == 2


@pytest.fixture(scope="session")
def package(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to import trimtok_cpp from whose CUDA kernels the host executes."""
    pytest.importorskip("pybind11")
    assert host.is_dir()  # first: the same folder, configured without the extension
    directory = build_host(["_core"], "-DTRIMTOK_PYTHON=ON", f"-DPython_EXECUTABLE={sys.executable}")
    folder = tmp_path_factory.mktemp("package")
    copy = folder / "trimtok_cpp"
    shutil.copytree(ROOT / "python/trimtok_cpp", copy, ignore=shutil.ignore_patterns("*.so"))
    for core in (directory / "python/bindings").glob("_core*.so"):
        shutil.copy(core, copy)
    return folder


def run_device_tests(package: Path, which: str) -> int:
    """Tests of test_device.py in another process; how many passed, when none failed."""
    # An editable installation answers imports before PYTHONPATH does.
    start = (
        "import sys, pytest\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__]\n"
        f"sys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'tests/test_device.py', '-k', '{which}']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", start],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    summary = result.stdout.strip().splitlines()[-1]
    passed = re.search(r"(\d+) passed", summary)
    assert passed is not None, summary
    return int(passed.group(1))


@pytest.mark.slow
def test_models_run_through_the_cuda_kernels(package: Path) -> None:
    """The golden files of every family, device="cuda", in a package whose CUDA kernels the host executes."""
    assert run_device_tests(package, "cuda") >= 10


@pytest.mark.slow
@pytest.mark.parametrize("order", ["reverse", "random"])
def test_recorded_steps_in_other_orders(package: Path, order: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads, warps and blocks of recorded kernels take turns in another order."""
    monkeypatch.setenv("TRIMTOK_CUDA_HOST_ORDER", order)
    assert run_device_tests(package, "cuda and (recorded_steps or more_keys) and not llava") >= 7
