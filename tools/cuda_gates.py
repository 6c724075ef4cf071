"""Compiles the CUDA kernels for every GPU generation that is promised and checks what the compiler made.

python tools/cuda_gates.py [--write | --check] [--link BUILD] [--arch 80 ...] [--jobs N] [FILE.cu ...]

Fails on a warning, a spill, local memory, or a kernel without the tensor-core and asynchronous-copy
instructions that it must have. --write renews docs/cuda_kernels.md, --check fails when it is not what this
compiler says (registers are the compiler's, so another version is told and not compared). --link makes the
parity harness of a CPU build one with these kernels and starts it: it must find its driver, or say why not.
Needs nvcc 13 and cuobjdump, from a toolkit or from PyPI (nvidia-cuda-nvcc, nvidia-nvvm, nvidia-cuda-crt,
nvidia-cuda-runtime, nvidia-cuda-cccl, nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm). No GPU.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KERNELS = ROOT / "kernels/cuda"
PAGE = ROOT / "docs/cuda_kernels.md"
CACHE = ROOT / "build/cuda_gates"  # object files and reports, by what they were made from
ARCHITECTURES = [75, 80, 86, 89, 90, 120]

# Kernels that must multiply on tensor cores: (name, instruction, from which architecture on).
REQUIRED = [
    ("gemm_mma_kernel", "HMMA", 75),
    ("gemm_mma_kernel", "LDSM", 75),
    ("gemm_mma_kernel", "LDGSTS", 80),
    ("gemm_int8_kernel", "IMMA", 75),
    ("gemm_int8_kernel", "LDSM", 75),
    ("gemm_int8_kernel", "LDGSTS", 80),
    ("gram_kernel", "IMMA", 75),
    ("gram_kernel", "LDSM", 75),
    ("gram_kernel", "LDGSTS", 80),
    ("attention_many_kernel", "HMMA", 75),
    ("attention_many_kernel", "LDSM", 75),
]
# What sm_75 cannot run is never launched there: its body is a trap that spills nothing.
COUNTED = ["HMMA", "IMMA", "LDSM", "LDGSTS", "FFMA", "IDP"]


@dataclass(frozen=True)
class Gpu:
    """What a multiprocessor has, from the tables of the CUDA programming guide."""

    warps: int
    blocks: int
    shared: int  # bytes
    shared_unit: int
    reserved: int  # bytes of shared memory that the system takes from every block
    registers: int = 65536


GPUS = {
    75: Gpu(32, 16, 64 << 10, 256, 0),
    80: Gpu(64, 32, 164 << 10, 128, 1024),
    86: Gpu(48, 16, 100 << 10, 128, 1024),
    89: Gpu(48, 24, 100 << 10, 128, 1024),
    90: Gpu(64, 32, 228 << 10, 128, 1024),
    120: Gpu(48, 32, 100 << 10, 128, 1024),
}


@dataclass
class Entry:
    """One kernel on one architecture."""

    registers: int = 0
    shared: int = 0
    stack: int = 0  # bytes of local memory
    instructions: Counter[str] = field(default_factory=Counter)


@dataclass
class Kernel:
    source: str
    name: str
    threads: int = 0  # of __launch_bounds__; 0: none given
    on: dict[int, Entry] = field(default_factory=dict)


def occupancy(entry: Entry, threads: int, dynamic: int, gpu: Gpu) -> float:
    """Share of a multiprocessor's warps that can be resident. Registers are handed out in 256s per warp."""
    warps = -(-threads // 32)
    per_warp = -(-entry.registers * 32 // 256) * 256
    by_registers = (gpu.registers // 4 // per_warp) * 4 // warps if per_warp else gpu.blocks
    shared = -(-(entry.shared + dynamic) // gpu.shared_unit) * gpu.shared_unit + gpu.reserved
    by_shared = gpu.shared // shared if shared else gpu.blocks
    blocks = min(gpu.warps // warps, gpu.blocks, by_registers, by_shared)
    return blocks * warps / gpu.warps


def dynamic_shared(name: str) -> int:
    """Bytes that a launch adds, as the .cu files compute them for the sizes that page() names."""
    numbers = [int(number) for number in re.findall(r"(?<![\w])\d+", name)]
    if name.startswith("gemm_mma_kernel"):  # <dtype, feed, TileShape<rows, columns, depth>>: gemm_shared()
        dtype, feed, rows, columns, depth = numbers
        terms = 2 if dtype in (30, 39) else 1  # BF16, MXFP4
        return 2 * (depth + 8) * (3 * terms * rows + (3 if feed == 0 else 2) * columns)
    if name.startswith("gemm_int8_kernel"):  # <dtype, TileShape<rows, columns, depth>>: Int8Layout
        dtype, rows, columns, depth = numbers
        groups = depth // 32 * (2 if dtype in (10, 11, 14) else 1)  # Q2_K, Q3_K, Q6_K
        mins = groups if dtype in (3, 7, 10, 12, 13) else 0  # Q4_1, Q5_1, Q2_K, Q4_K, Q5_K
        of_x = 2 * rows * (depth + 16) + 4 * rows * (depth // 32 + mins)
        return 3 * of_x + 2 * (columns * (depth + 16) + 4 * columns * (groups + mins))
    if name.startswith("gram_kernel"):
        return 3 * 2 * 3 * 64 * 48
    if name.startswith("attention_many_kernel"):  # <head_dim, keys>
        return 2 * (64 + 2 * numbers[1]) * (numbers[0] + 8)
    if name.startswith("attention_few_kernel"):
        return 4 * 32 * (257 if numbers == [4] else 129)  # dimensions that a thread owns; see page()
    if name.startswith("matvec"):  # <dtype, whole words, rows of x>: launch_vec()
        piece = min(4096, 8192 // numbers[-1])
        return 4 * numbers[-1] * (piece + piece // 8)
    return 4 * 576 if name == "greedy_kernel<true>" else 0


def find_tool(name: str) -> Path | None:
    """A program of the CUDA toolkit: of CUDA_HOME, the PATH, the usual place, or a wheel."""
    folders = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    folders += [f"{sysconfig.get_paths()['purelib']}/nvidia/cu13"]
    for folder in folders:
        if folder and (Path(folder) / "bin" / name).is_file():
            return Path(folder) / "bin" / name
    found = shutil.which(name)
    return Path(found) if found else None


def dependencies(source: Path) -> set[Path]:
    """The file and every file of the project that it includes, directly or not."""
    found: set[Path] = set()
    todo = [source]
    while todo:
        path = todo.pop()
        if path in found or path.name == "gpu_host.h":  # nvcc does not see that one
            continue
        found.add(path)
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE):
            todo += [p for p in (ROOT / name, ROOT / "kernels/include" / name) if p.is_file()]
    return found


def key_of(source: Path, version: str) -> str:
    """Changes when anything does that the machine code of this source depends on: not with comments."""
    digest = hashlib.sha256(version.encode())
    for path in sorted(dependencies(source)):
        code = re.sub(r"//[^\n]*", "", path.read_text(encoding="utf-8"))
        digest.update(" ".join(code.split()).encode())
    return digest.hexdigest()


def call(command: list[object], what: str) -> str:
    """Runs a program of the toolkit; a failure carries its last words."""
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{what} failed\n{(result.stdout + result.stderr)[-4000:]}")
    return result.stdout


def front_of(arch: int) -> int:
    """Which PTX an architecture is made from, as in cmake/cuda.cmake: the kernels know two kinds."""
    return 75 if arch < 80 else 80


def to_ptx(nvcc: Path, source: Path, folder: Path) -> None:
    """The front end's part: an object file with PTX, and the PTX as text."""
    if (folder / "kernel.o").is_file():  # written last
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        nvcc,
        "-std=c++20",
        "-O3",
        "-c",
        source,
        "-o",
        folder / "half.o",
        "--keep",
        "--keep-dir",
        folder,
    ]
    command += ["-I", ROOT, "-I", ROOT / "kernels/include", "-Werror", "all-warnings"]
    command += ["-Xcompiler=-Wall,-Wextra,-Werror"]
    for front in (75, 80):
        command += ["-gencode", f"arch=compute_{front},code=compute_{front}"]
    call(command, f"{source.name}: nvcc")
    for kept in folder.iterdir():
        if kept.suffix not in (".o", ".ptx", ".cubin"):
            kept.unlink()
    (folder / "half.o").rename(folder / "kernel.o")


def to_machine_code(nvcc: Path, folder: Path, stem: str, arch: int) -> None:
    """The back end's part, which takes most of the time."""
    binary = folder / f"sm_{arch}.cubin"
    ptx = folder / f"{stem}.compute_{front_of(arch)}.ptx"
    if binary.is_file() or ".entry" not in ptx.read_text(encoding="utf-8"):
        return
    half = folder / f"half_{arch}.cubin"
    ptxas = nvcc.parent / "ptxas"
    call([ptxas, "--warning-as-error", f"-arch=sm_{arch}", "-m64", "-O3", ptx, "-o", half], f"{stem}: ptxas")
    half.rename(binary)


def demangle(names: list[str]) -> list[str]:
    """Readable names without parameters, namespaces and the compiler's tags of anonymous namespaces."""
    filt = shutil.which("c++filt")
    if filt is not None:
        plain = subprocess.run([filt], input="\n".join(names), capture_output=True, text=True, check=True)
        names = plain.stdout.splitlines()
    short = []
    for full in names:
        name = re.sub(r"_GLOBAL__N__\w+::|\(anonymous namespace\)::|trimtok::cuda::|trimtok::", "", full)
        name = re.sub(r"\(([A-Za-z]\w*)\)(-?\d+)", r"\2", name)  # (Dtype)8, (bool)1: the value says enough
        name = name.removeprefix("void ")
        depth = 0
        for i, char in enumerate(name):  # up to the parameter list: the first bracket outside of <>
            depth += (char == "<") - (char == ">")
            if char == "(" and depth == 0:
                name = name[:i]
                break
        short.append(name.replace(" >", ">"))
    return short


USAGE = re.compile(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


def read_usage(source: str, arch: int, text: str, kernels: dict[str, Kernel]) -> None:
    """Registers and memory, from cuobjdump -res-usage. What ptxas spills lies on the stack."""
    for mangled, registers, stack, shared, local in USAGE.findall(text):
        kernel = kernels.setdefault(mangled, Kernel(source, mangled))
        reserved = 1024 if arch >= 90 and int(shared) >= 1024 else 0  # counted in by ptxas there
        kernel.on[arch] = Entry(int(registers), int(shared) - reserved, int(stack) + int(local))


def read_instructions(arch: int, text: str, kernels: dict[str, Kernel]) -> None:
    """Counts, from cuobjdump -sass."""
    entry: Entry | None = None
    for line in text.splitlines():
        if match := re.match(r"\s*Function : (\w+)", line):
            kernel = kernels.get(match.group(1))
            entry = kernel.on.get(arch) if kernel else None
        elif entry is not None and (match := re.search(r"\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9]*)", line)):
            entry.instructions[match.group(1)] += 1


def read_bounds(ptx: str, kernels: dict[str, Kernel]) -> None:
    """The block sizes that __launch_bounds__ promises."""
    for mangled, body in re.findall(r"\.entry (\w+)\((.*?)\{", ptx, re.DOTALL):
        if mangled in kernels and (bound := re.search(r"\.maxntid (\d+)(?:, (\d+))?(?:, (\d+))?", body)):
            sizes = [int(size) for size in bound.groups() if size]
            kernels[mangled].threads = sizes[0] * (sizes[1] if len(sizes) > 1 else 1)


def link(build: Path, objects: list[Path], nvcc: Path) -> str:
    """Links the harness of a finished CPU build with the kernels; returns what it says of devices."""
    harness, table = CACHE / "trimtok_parity", CACHE / "table.o"
    include = ["-I", ROOT, "-I", ROOT / "kernels/include"]
    cuda = nvcc.resolve().parent.parent
    libraries = [f"-L{folder}" for folder in (cuda / "lib64", cuda / "lib") if folder.is_dir()]
    libraries += ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    harness_objects = build / "tests/parity/CMakeFiles"  # of the program, and of tables for tests alone
    parts = [
        *harness_objects.glob("trimtok_parity.dir/*.o"),
        *harness_objects.glob("tt_isa_*.dir/**/*.o"),
        table,
        *objects,
    ]
    compiler = os.environ.get("CXX", "g++")
    for command in (
        [compiler, "-std=c++20", "-c", ROOT / "kernels/cuda/table.cc", *include, "-o", table],
        [compiler, *parts, build / "kernels/libtt_kernels.a", *libraries, "-o", harness],
    ):
        result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"linking failed\n{result.stderr[-4000:]}")
    listing = subprocess.run([str(harness), "--list"], capture_output=True, text=True, check=False)
    device = re.search(r"^device .*$", listing.stdout, re.MULTILINE)
    if listing.returncode != 0 or device is None:
        raise RuntimeError(f"the linked harness does not start: exit code {listing.returncode}")
    return device.group(0)


def findings(kernels: list[Kernel]) -> list[str]:
    """What must not be."""
    found = []
    for kernel in kernels:
        for arch, entry in kernel.on.items():
            where = f"{kernel.source}: {kernel.name} on sm_{arch}"
            if entry.stack:
                found.append(f"{where} spills, or keeps {entry.stack} bytes in local memory")
            for name, instruction, since in REQUIRED:
                traps = entry.instructions["BPT"] > 0 and arch < 80  # not for this generation
                missing = entry.instructions[instruction] == 0 and arch >= since and not traps
                if kernel.name.startswith(name) and missing:
                    found.append(f"{where} has no {instruction} instruction")
    return found


def cell(kernel: Kernel, arch: int) -> str:
    entry = kernel.on.get(arch)
    if entry is None:
        return "-"
    if kernel.threads == 0:
        return f"{entry.registers}"
    share = occupancy(entry, kernel.threads, dynamic_shared(kernel.name), GPUS[arch])
    return f"{entry.registers} / {round(100 * share)} %" if share else f"{entry.registers} / not launched"


def page(kernels: list[Kernel], archs: list[int], version: str) -> str:
    """docs/cuda_kernels.md."""
    lines = [
        "# What the compiler makes of the CUDA kernels",
        "",
        f"Written by `tools/cuda_gates.py --write` with nvcc {version}; do not edit. No kernel spills, none",
        "uses local memory. Cells: registers per thread / share of a multiprocessor's warps that can be",
        "resident, computed from registers, shared memory and the launch bounds. Shared memory: static +",
        "dynamic, the latter as launched for 4096 columns, heads of 128 (512 where a thread owns four",
        "dimensions) and 576 rows to pick from.",
        "Instructions are those of the machine code for sm_80.",
        "",
    ]
    for source in sorted({k.source for k in kernels}):
        lines += [f"## {source}", ""]
        lines += [
            "| kernel | threads | shared | " + " | ".join(f"sm_{a}" for a in archs) + " | instructions |"
        ]
        lines += ["|---|---|---|" + "---|" * len(archs) + "---|"]
        for kernel in sorted((k for k in kernels if k.source == source), key=lambda k: k.name):
            main = kernel.on.get(80) or next(iter(kernel.on.values()))
            counted = ", ".join(f"{main.instructions[i]} {i}" for i in COUNTED if main.instructions[i])
            cells = " | ".join(cell(kernel, arch) for arch in archs)
            name = kernel.name.replace("|", r"\|")
            dynamic = dynamic_shared(kernel.name)
            shared = f"{main.shared} + {dynamic}" if dynamic else f"{main.shared}"
            lines.append(f"| `{name}` | {kernel.threads or '-'} | {shared} | {cells} | {counted} |")
        lines.append("")
    return "\n".join(lines)


def nvcc_version(nvcc: Path) -> str:
    text = subprocess.run([str(nvcc), "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r"V(\d+\.\d+\.\d+)", text)
    return match.group(1) if match else "unknown"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sources", nargs="*", type=Path, help="default: every .cu file of kernels/cuda")
    parser.add_argument("--arch", nargs="*", type=int, default=ARCHITECTURES, choices=ARCHITECTURES)
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--link", type=Path, metavar="BUILD")
    args = parser.parse_args()
    nvcc, cuobjdump = find_tool("nvcc"), find_tool("cuobjdump")
    if nvcc is None or cuobjdump is None:
        print("cuda_gates: nvcc and cuobjdump are needed; see the top of this file", file=sys.stderr)
        return 2
    sources = args.sources or sorted(KERNELS.glob("*.cu"))
    archs = sorted(args.arch)
    kernels: list[Kernel] = []
    version = nvcc_version(nvcc)
    CACHE.mkdir(parents=True, exist_ok=True)

    folders = {source: CACHE / f"{source.stem}-{key_of(source, version)[:16]}" for source in sources}

    def read(source: Path) -> list[Kernel]:
        found: dict[str, Kernel] = {}
        for arch in archs:
            binary = folders[source] / f"sm_{arch}.cubin"
            if binary.is_file():
                read_usage(source.name, arch, call([cuobjdump, "-res-usage", binary], "cuobjdump"), found)
                read_instructions(arch, call([cuobjdump, "-sass", binary], "cuobjdump"), found)
        read_bounds((folders[source] / f"{source.stem}.compute_80.ptx").read_text(encoding="utf-8"), found)
        mine = list(found.values())
        for kernel, name in zip(mine, demangle([k.name for k in mine]), strict=True):
            kernel.name = name
        print(f"{source.name}: {len(mine)} kernels", flush=True)
        return mine

    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            list(pool.map(lambda source: to_ptx(nvcc, source, folders[source]), sources))
            tasks = [(source, arch) for arch in archs for source in sources]
            list(pool.map(lambda t: to_machine_code(nvcc, folders[t[0]], t[0].stem, t[1]), tasks))
            for mine in pool.map(read, sources):
                kernels += mine
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return 1
    bad = findings(kernels)
    if args.link is not None:
        try:
            linked = [folder / "kernel.o" for folder in folders.values()]
            print(f"linked with {args.link}: {link(args.link, linked, nvcc)}")
        except RuntimeError as error:
            bad.append(str(error))
    for line in bad:
        print(line)
    text = page(kernels, archs, version)
    if args.write:
        PAGE.write_text(text, encoding="utf-8")
    elif args.check and not PAGE.is_file():
        bad.append("missing")
        print(f"{PAGE.name} is not there: run tools/cuda_gates.py --write")
    elif args.check and f"nvcc {version};" not in PAGE.read_text(encoding="utf-8"):
        print(f"{PAGE.name} was written with another nvcc than {version}: not compared")
    elif args.check and PAGE.read_text(encoding="utf-8") != text:
        bad.append("stale")
        print(f"{PAGE.name} is not what nvcc {version} says: run tools/cuda_gates.py --write")
    print(f"cuda_gates: nvcc {version}, {len(kernels)} kernels, {len(bad)} findings")
    return min(len(bad), 1)


if __name__ == "__main__":
    sys.exit(main())
