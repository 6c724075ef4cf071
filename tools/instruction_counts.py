"""Counts the instructions of a fixed amount of work and compares them with a committed file.

    python tools/instruction_counts.py build/release/tests/parity/trimtok_counts
    python tools/instruction_counts.py --update build/release/tests/parity/trimtok_counts   # a wanted change

Time depends on who else uses the machine, instructions do not: a kernel or a phase that needs more of them
than before fails here. valgrind knows no AVX-512, so the AVX2 bodies are counted. Exit codes: 0 equal within
the tolerance, 1 not (fewer are welcome too, but update the file), 3 nothing was compared, and why.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BASELINE = ROOT / "tools" / "instruction_counts.json"
TOLERANCE = 0.02
ISA = "avx2"
COUNTED = "trimtok_counted"
MODEL = "demo"  # of benchmarks/make_model.py


class NotCompared(Exception):
    """Nothing was proven; the text says why."""


def make_model(folder: Path) -> list[str]:
    """The two files of a small model with random weights, always the same."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import make_model as maker

    return [str(path) for path in maker.make(MODEL, "q4_k_m", folder)]


def count(binary: Path, folder: Path) -> dict[str, int]:
    """Instructions by case."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise NotCompared("valgrind is not installed")
    command = [
        valgrind, "--tool=callgrind", f"--toggle-collect={COUNTED}", f"--dump-after={COUNTED}",
        f"--callgrind-out-file={folder / 'counts'}", str(binary), ISA, *make_model(folder),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        raise NotCompared(done.stderr.strip().splitlines()[-1])
    if done.returncode != 0:
        raise RuntimeError(f"{binary.name} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    names = done.stdout.splitlines()
    found = {name: _total(folder / f"counts.{number}") for number, name in enumerate(names, 1)}
    if not found or 0 in found.values():
        raise RuntimeError(f"nothing was counted in {[name for name, n in found.items() if n == 0] or 'all'}")
    return found


def _total(dump: Path) -> int:
    match = re.search(r"^totals: (\d+)", dump.read_text(), re.MULTILINE)
    if match is None:
        raise RuntimeError(f"{dump.name} holds no total")
    return int(match[1])


def compiler(binary: Path) -> str:
    """What built the binary, by CMake's cache: other compilers make other instructions."""
    for folder in binary.resolve().parents:
        for file in sorted(folder.glob("CMakeFiles/*/CMakeCXXCompiler.cmake")):
            text = file.read_text()
            name = re.search(r'CMAKE_CXX_COMPILER_ID "(\w+)"', text)
            version = re.search(r'CMAKE_CXX_COMPILER_VERSION "(\d+)', text)
            if name and version:
                return f"{name[1]} {version[1]}"
    return "unknown"


def compare(before: dict[str, int], now: dict[str, int]) -> list[str]:
    """Prints every case; returns what is wrong."""
    wrong = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        change = "" if not old or not new else f"{100 * (new / old - 1):+7.2f} %"
        print(f"{name:<32}{old or '-':>14}{new or '-':>14} {change}")
        if old is None or new is None:
            wrong.append(f"{name}: {'not in the file' if old is None else 'no such case any more'}")
        elif abs(new / old - 1) > TOLERANCE:
            wrong.append(f"{name}: {old} instructions before, {new} now ({change.strip()})")
    return wrong


def run(args: argparse.Namespace) -> int:
    built_by = compiler(args.binary)
    with tempfile.TemporaryDirectory() as folder:
        now = count(args.binary, Path(folder))
    if args.update:
        BASELINE.write_text(json.dumps({"compiler": built_by, "isa": ISA, "counts": now}, indent=1) + "\n")
        print(f"wrote {len(now)} counts")
        return 0
    known = json.loads(BASELINE.read_text())
    if built_by != known["compiler"]:
        raise NotCompared(f"the committed counts are of {known['compiler']}, this build is of {built_by}")
    wrong = compare(known["counts"], now)
    for line in wrong:
        print(f"FAIL {line}")
    if wrong:
        print("a change that is meant to do this runs the tool with --update and says so")
    return 1 if wrong else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("binary", type=Path, help="trimtok_counts of an optimised build")
    parser.add_argument("--update", action="store_true", help="write the committed file anew")
    try:
        return run(parser.parse_args())
    except NotCompared as reason:
        print(f"not compared: {reason}")
        return 3


if __name__ == "__main__":
    sys.exit(main())
