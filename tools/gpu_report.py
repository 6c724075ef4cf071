#!/usr/bin/env python3
"""Proves the CUDA backend on this machine's GPU and writes what was found, with the device's name.

python tools/gpu_report.py [--out FOLDER] [--build FOLDER] [--minutes 10] [--rehearse]

Needs nvcc, a C++ compiler, CMake and a GPU; no network, no Python package but the standard library. Builds
the kernels for this GPU, runs every op against the reference on the device, the golden files where the
extension can be built (pybind11, NumPy and pytest are here), and the kernel benchmark; writes REPORT.md and
the raw logs. Steps that cannot run say why and are listed first. --rehearse runs the same steps with the
kernels executed on the host, to try this script where there is no GPU: its report says so.
Exit codes: 0 everything passed, 1 something failed, 2 there was nothing to prove (no nvcc, no device).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cuda_model import H100, H200, RTX4090, seconds

ROOT = Path(__file__).resolve().parent.parent
OPS = re.findall(r"^TT_OP\((\w+),", (ROOT / "kernels/include/trimtok/ops.def").read_text(), re.MULTILINE)
PASS_LINE = re.compile(
    r"^(PASS|FAIL) (\w+) (\w+) served_by=(\w+) cases=(\d+) failures=(\d+) worst=(\S+)$", re.M
)
MODELLED = {"H100": H100, "H200": H200, "4090": RTX4090}  # by a part of the device's name


@dataclass
class Report:
    """What was done, in the order in which it was done."""

    folder: Path
    deadline: float
    lines: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def run(self, name: str, command: list[object], env: dict[str, str] | None = None) -> tuple[int, str]:
        """Runs within the time that is left; the output goes to NAME.log. Exit code 124: no time left."""
        log = self.folder / f"{name}.log"
        if self.left() <= 1:
            return 124, ""
        with log.open("w", encoding="utf-8") as out:
            try:
                code = subprocess.run(
                    [str(c) for c in command],
                    cwd=ROOT,
                    env={**os.environ, **(env or {})},
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    timeout=self.left(),
                    check=False,
                ).returncode
            except subprocess.TimeoutExpired:
                code = 124
            except OSError as error:
                out.write(str(error))
                code = 127
        return code, log.read_text(encoding="utf-8", errors="replace")

    def section(self, title: str) -> None:
        self.lines += ["", f"## {title}", ""]
        print(f"== {title} ({self.left():.0f} s left)", flush=True)


def build(report: Report, build_dir: Path, rehearse: bool) -> bool:
    """Configures and builds the parity harness, and the extension where pybind11 is here."""
    report.section("Build")
    options = ["-DTRIMTOK_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
    options += (
        ["-DTRIMTOK_CUDA_HOST=ON"] if rehearse else ["-DTRIMTOK_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=native"]
    )
    targets = ["trimtok_parity", "trimtok_cuda_host_test" if rehearse else "trimtok_cuda_device_test"]
    if importlib.util.find_spec("pybind11"):
        options += ["-DTRIMTOK_PYTHON=ON", f"-DPython_EXECUTABLE={sys.executable}"]
        targets.append("_core")
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    start = time.monotonic()
    code, text = report.run("configure", ["cmake", "-S", ROOT, "-B", build_dir, *generator, *options])
    if code == 0:
        jobs = str(os.cpu_count() or 1)
        code, text = report.run("build", ["cmake", "--build", build_dir, "-j", jobs, "--target", *targets])
    if code != 0:
        report.failed.append("build")
        report.lines += ["The build failed:", "", "```", text[-3000:], "```"]
        return False
    report.lines.append(f"{', '.join(targets)} in {time.monotonic() - start:.0f} s, {' '.join(options)}")
    return True


def describe(report: Report, parity: Path, rehearse: bool) -> str | None:
    """The machine and the device; None when there is no device."""
    report.section("Machine")
    _, listing = report.run("list", [parity, "--list"])
    device = re.search(r'^device 0 "(.*?)" (.*)$', listing, re.MULTILINE)
    if device is None:
        reason = re.search(r"^device .*$", listing, re.MULTILINE)
        report.lines.append(f"No device: {reason.group(0) if reason else 'the harness does not start'}")
        return None
    name = device.group(1)
    rows = {
        "device": name + (" (NOT A GPU: a rehearsal)" if rehearse else ""),
        "of it": device.group(2),
        "host": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}",
        "commit": report.run("commit", ["git", "describe", "--always", "--dirty"])[1].strip(),
    }
    query = "name,driver_version,clocks.max.sm,clocks.max.memory,power.limit,memory.total"
    if shutil.which("nvidia-smi"):
        rows["nvidia-smi"] = report.run(
            "smi", ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
        )[1].strip()
    if shutil.which("nvcc"):
        rows["nvcc"] = report.run("nvcc", ["nvcc", "--version"])[1].strip().splitlines()[-1]
    report.lines += ["| | |", "|---|---|"] + [f"| {key} | {value} |" for key, value in rows.items()]
    return name


def check_features(report: Report, build_dir: Path, rehearse: bool) -> None:
    """Shuffles, atomics, lane maps of tensor cores, graphs: what the execution layer models, for real."""
    report.section("What kernels are made of")
    name = "trimtok_cuda_host_test" if rehearse else "trimtok_cuda_device_test"
    code, text = report.run("features", [build_dir / "tests/cuda_host" / name])
    if code != 0:
        report.failed.append("features of the device")
    report.lines.append(f"{text.count(chr(10) + 'ok ')} checks passed, exit code {code}.")
    report.lines += [f"* {line}" for line in text.splitlines() if line.startswith("FAIL")]


def check_ops(report: Report, parity: Path, isa: str) -> None:
    """Every op against the reference on the device."""
    report.section("Every op against the reference")
    report.lines += ["| op | result | served by | cases | failures | worst share of the tolerance | s |"]
    report.lines += ["|---|---|---|---|---|---|---|"]
    quick = ["--quick"] if isa == "cuda_host" else []

    def check(op: str) -> tuple[str, int, str, float]:
        start = time.monotonic()
        code, text = report.run(f"parity-{op}", [parity, "--isa", isa, "--op", op, *quick])
        return op, code, text, time.monotonic() - start

    # Most of the time goes into the reference on the CPU, so several ops at once.
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = list(pool.map(check, OPS))
    for op, code, text, taken in results:
        found = PASS_LINE.search(text)
        if found is None:
            report.failed.append(f"parity {op}")
            report.lines.append(
                f"| {op} | {'no time left' if code == 124 else f'no result, exit code {code}'} | | | | | |"
            )
            continue
        verdict, _, _, served_by, cases, failures, worst = found.groups()
        if verdict != "PASS" or code != 0 or served_by != isa:
            report.failed.append(f"parity {op}")
        report.lines.append(
            f"| {op} | {verdict} | {served_by} | {cases} | {failures} | {worst} | {taken:.1f} |"
        )


# An editable installation answers imports before PYTHONPATH does.
WITHOUT_EDITABLE = (
    "import runpy, sys\nsys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__]\n"
)


def make_package(
    report: Report, build_dir: Path, step: str, needs: list[str], *folders: Path
) -> dict[str, str] | None:
    """How Python finds the package that was built; None, with the reason in the report, where it cannot."""
    missing = [name for name in ("pybind11", *needs) if not importlib.util.find_spec(name)]
    missing += [str(folder) for folder in folders if not folder.is_dir()]
    cores = sorted((build_dir / "python/bindings").glob("_core*.so"))
    if missing or not cores:
        reason = f"missing here: {', '.join(missing) or 'the extension'}"
        report.skipped.append(f"{step} ({reason})")
        report.lines.append(f"Not run: {step}, {reason}.")
        return None
    package = build_dir / "package/trimtok_cpp"
    shutil.copytree(ROOT / "python/trimtok_cpp", package, dirs_exist_ok=True)
    shutil.copy(cores[-1], package)
    return {"PYTHONPATH": str(package.parent)}


def check_goldens(report: Report, build_dir: Path) -> None:
    """The golden files of every family, through the Python package on the device."""
    report.section("Golden files")
    fixtures = Path(os.environ.get("TRIMTOK_FIXTURES", ROOT.parent / "shared/fixtures"))
    env = make_package(report, build_dir, "golden files", ["numpy", "pytest", "gguf", "PIL"], fixtures)
    if env is None:
        return
    tests = ["tests/test_device.py", "-k", "cuda"]
    start = (
        f"{WITHOUT_EDITABLE}import pytest\nsys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', *{tests}]))"
    )
    code, text = report.run(
        "goldens", [sys.executable, "-c", start], {**env, "TRIMTOK_FIXTURES": str(fixtures)}
    )
    summary = text.strip().splitlines()[-1] if text.strip() else "no output"
    if code != 0 or " passed" not in summary:
        report.failed.append("golden files")
    report.lines += [f"`pytest {' '.join(tests)}` on device cuda: {summary}"]


def benchmark(report: Report, parity: Path, isa: str, device: str) -> None:
    """Time, bandwidth and arithmetic of single kernels, and the share of what docs/cuda_model.md allows."""
    report.section("Kernels at shapes of real models")
    code, text = report.run("bench", [parity, "--isa", isa, "--bench", "--json"])
    rows = bench_rows(text)
    if code != 0 or not rows:
        (report.skipped if code == 124 else report.failed).append("benchmark")
    gpu = next((gpu for key, gpu in MODELLED.items() if key in device), None)
    report.lines.append(f"Bound: that of {gpu.name}." if gpu else f"No bound: {device} is not in the model.")
    report.lines += [
        "",
        "| op | call | us | GB/s | TFLOP/s | share of the bound |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        op, shape, taken = row["op"], row["shape"], row["seconds"]
        share = ""
        if gpu is not None:
            least, by = seconds(op, shape, row["bytes"], row["flops"], gpu)
            share = f"{100 * least / taken:.0f} % ({by})"
        rates = f"{row['bytes'] / taken / 1e9:.2f} | {row['flops'] / taken / 1e12:.2f}"
        report.lines.append(f"| {op} | {shape} | {taken * 1e6:.2f} | {rates} | {share} |")


def time_decode(report: Report, build_dir: Path, rehearse: bool) -> None:
    """Decode steps of a model with random weights, as recorded graphs and op by op, which must agree."""
    env = make_package(report, build_dir, "decode steps", ["numpy", "gguf", "PIL"])
    if env is None:
        return
    shape, steps = ("demo", 4) if rehearse else ("llava-1.1b", 128)
    models = build_dir / "models"
    maker = [sys.executable, ROOT / "benchmarks/make_model.py", shape, "--type", "q4_k_m", "--out", models]
    code, text = report.run("make-model", maker)
    if code == 0:
        arguments = ["time_decode.py", str(models / f"{shape}-q4_k_m.gguf"), "--steps", str(steps)]
        arguments += ["--prompt", "8", "--rounds", "1"] if rehearse else []
        start = (
            f"{WITHOUT_EDITABLE}sys.argv = {arguments}\n"
            f"runpy.run_path({str(ROOT / 'tools/time_decode.py')!r}, run_name='__main__')"
        )
        code, text = report.run("decode", [sys.executable, "-c", start], env)
    line = next((json.loads(line) for line in text.splitlines() if line.startswith("{")), None)
    if code != 0 or line is None:
        (report.skipped if code == 124 else report.failed).append("decode steps")
        report.lines += ["", f"Decode steps: exit code {code}, see the logs."]
        return
    times = f"{line['recorded_ms']:.3f} ms a step as a recorded graph, {line['op_by_op_ms']:.3f} ms op by op"
    report.lines += [
        "",
        f"Decode of {shape} q4_k_m: {'not timed' if rehearse else times}; the logits are the same.",
        f"{line['recorded']} graphs recorded, {line['replayed']} steps replayed, {line['op_by_op']} not.",
    ]


def bench_rows(text: str) -> list[dict[str, Any]]:
    """The rows of `trimtok_parity --bench --json`, without limits and what else is printed."""
    lines = (json.loads(line) for line in text.splitlines() if line.startswith("{"))
    return [line for line in lines if "op" in line]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ROOT / "build/gpu_report")))
    parser.add_argument("--build", type=Path, help="default: build/gpu, or build/gpu-rehearsal")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rehearse", action="store_true", help="execute the kernels on the host")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    report = Report(args.out, time.monotonic() + 60 * args.minutes - 15)
    isa = "cuda_host" if args.rehearse else "cuda"
    build_dir = args.build or ROOT / ("build/gpu-rehearsal" if args.rehearse else "build/gpu")
    parity = build_dir / "tests/parity/trimtok_parity"
    device = None
    if build(report, build_dir, args.rehearse):
        device = describe(report, parity, args.rehearse)
    if device is not None:
        check_features(report, build_dir, args.rehearse)
        check_ops(report, parity, isa)
        check_goldens(report, build_dir)
        if args.rehearse:
            report.skipped.append("benchmark (times of host execution mean nothing)")
            report.section("Decode steps")
        else:
            benchmark(report, parity, isa, device)
        time_decode(report, build_dir, args.rehearse)
    verdict = "FAILED: " + ", ".join(report.failed) if report.failed else "passed"
    if device is None and not report.failed:
        verdict = "nothing proven: no device"
    title = (
        "# Rehearsal of the GPU report (no GPU involved)"
        if args.rehearse
        else f"# GPU report: {device or 'no device'}"
    )
    head = [title, "", f"{verdict}. Skipped: {', '.join(report.skipped) or 'nothing'}."]
    (args.out / "REPORT.md").write_text("\n".join([*head, *report.lines, ""]), encoding="utf-8")
    print(f"{verdict}; {args.out / 'REPORT.md'}")
    return 1 if report.failed else 2 if device is None else 0


if __name__ == "__main__":
    sys.exit(main())
