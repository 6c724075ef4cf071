"""No ISA object may export a weak symbol.

A weak symbol is a function that several objects may define; the linker keeps one of them. Were it the
AVX-512 one, baseline callers would run AVX-512 code and die on older machines. At -O0 nothing is inlined, so
Debug objects must be checked as well as Release ones.

python tests/check_weak_symbols.py BUILD_DIR [nm]   prints every finding; exit code 1 if there is any, 2 if
there was no object to look at
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Weak function, weak object, unique global; and their undefined forms, which some other object must define.
WEAK = set("WwVvu")


def isa_objects(build: Path) -> list[Path]:
    """The objects of every ISA library below a build directory."""
    return sorted(build.glob("**/tt_isa_*.dir/**/isa_*.o"))


def weak_symbols(objects: list[Path], nm: str = "nm") -> list[str]:
    """One line per weak symbol: object, symbol type, demangled name."""
    findings = []
    for path in objects:
        listing = subprocess.run([nm, "-C", str(path)], capture_output=True, text=True, check=True)
        for line in listing.stdout.splitlines():
            # "address type name", or "type name" where the symbol is undefined.
            fields = line[17:].split(maxsplit=1) if line[:1] != " " else line.split(maxsplit=1)
            if fields and fields[0] in WEAK:
                findings.append(f"{path.name}: {' '.join(fields)}")
    return findings


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    objects = isa_objects(Path(arguments[0]))
    if not objects:
        print(f"{arguments[0]}: no ISA object below it", file=sys.stderr)
        return 2
    findings = weak_symbols(objects, *arguments[1:2])
    for finding in findings:
        print(finding)
    print(f"{len(objects)} ISA objects, {len(findings)} weak symbols")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
