"""Checks what the compiler cannot: the layer rule, file sizes, and that no machine's path is in a file.

python tools/check_tree.py [ROOT]   prints every finding and exits with their number (capped at 1)
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

MAX_LINES = 600
CODE = {".cc", ".h", ".cu", ".cuh", ".def", ".py"}
# Generated data is long by nature and not read by people.
GENERATED = {"engine/text/unicode_tables.cc"}

# Which includes a file may have, by the folder it lies in: the first matching prefix decides. A layer sees
# itself and what lies below it; siblings are strangers.
KERNEL_HEADERS = ["trimtok/"]
CORE = [*KERNEL_HEADERS, "engine/core/"]
FORMAT = [*CORE, "engine/gguf/"]
PARTS = ["text", "vision", "language", "prune"]
LAYERS: list[tuple[str, list[str]]] = [
    ("kernels/include/", KERNEL_HEADERS),
    ("kernels/cpu/", [*KERNEL_HEADERS, "kernels/check.h", "kernels/cpu/"]),
    ("kernels/cuda/", [*KERNEL_HEADERS, "kernels/check.h", "kernels/cuda/", "kernels/cuda_host/cuda_host.h"]),
    ("kernels/cuda_host/", ["kernels/cuda_host/"]),
    ("kernels/", [*KERNEL_HEADERS, "kernels/check.h"]),
    ("engine/core/", CORE),
    ("engine/gguf/", FORMAT),
    ("engine/text/", [*FORMAT, "engine/text/"]),
    ("engine/vision/", [*FORMAT, "engine/vision/"]),
    ("engine/language/", [*FORMAT, "engine/language/"]),
    ("engine/prune/", [*CORE, "engine/prune/"]),
    ("engine/runtime/", [*FORMAT, *(f"engine/{part}/" for part in PARTS), "engine/runtime/"]),
    ("python/bindings/", [*KERNEL_HEADERS, "engine/", "python/bindings/"]),
]
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)
# Spelled in pieces so that this file does not find itself.
MACHINE_PATH = re.compile("/(?:" + "|".join(["root", "home/[a-z]+", "work", "tmp/w"]) + ")/")


def tracked_files(root: Path) -> list[str]:
    """Files of the checkout: what git tracks or would track; every file where there is no git."""
    listing = subprocess.run(
        ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        return [name for name in listing.stdout.splitlines() if (root / name).is_file()]
    return [str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()]


def check_file(name: str, text: str) -> list[str]:
    """Findings for one file."""
    findings = []
    n_lines = text.count("\n")
    if n_lines > MAX_LINES and name not in GENERATED:
        findings.append(f"{name}: {n_lines} lines, at most {MAX_LINES}: would two files be clearer?")
    findings.extend(
        f"{name}:{i}: a machine's path: {match.group(0)}"
        for i, line in enumerate(text.splitlines(), 1)
        if (match := MACHINE_PATH.search(line))
    )
    for prefix, allowed in LAYERS:
        if not name.startswith(prefix):
            continue
        for include in INCLUDE.findall(text):
            # A list file or a multi-compiled body is named by its path from the root as well.
            if not include.startswith(tuple(allowed)):
                findings.append(f'{name}: includes "{include}"; this layer may include {", ".join(allowed)}')
        break
    return findings


def check(root: Path) -> list[str]:
    """All findings below root."""
    findings = []
    for name in tracked_files(root):
        path = root / name
        if path.suffix not in CODE and path.name != "CMakeLists.txt":
            continue
        findings.extend(check_file(name, path.read_text(encoding="utf-8")))
    return findings


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    findings = check(root)
    for finding in findings:
        print(finding)
    print(f"check_tree: {len(findings)} findings")
    return min(len(findings), 1)


if __name__ == "__main__":
    sys.exit(main())
