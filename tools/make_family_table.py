"""Writes the table of what runs into README.md, from the lists that the engine itself is made of.

python tools/make_family_table.py [--check]

--check changes nothing and exits with 1 when README.md says something else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from trimtok_cpp import _core

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- families: made by tools/make_family_table.py -->\n", "<!-- end of families -->\n"


def table() -> str:
    """Families by device; every weight type works in every one of them, and so does pruning."""
    weights = [row["name"] for row in _core.ops.dtypes() if row["use"] == "weight"]
    rows = [(f"{names} (`{kind}`)", "vision") for kind, names in _core.supported_projectors().items()]
    rows += [(f"{names} (`{arch}`)", "language") for arch, names in _core.supported_decoders().items()]
    lines = ["| model | part | quantisations | pruning | CPU | CUDA |", "|---|---|---|---|---|---|"]
    lines += [f"| {name} | {part} | all {len(weights)} | yes | yes | on host only |" for name, part in rows]
    lines += ["", f"Quantisations: {' '.join(weights)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    text = README.read_text("utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    new = before + BEGIN + table() + END + after
    if check and new != text:
        sys.exit(
            "README.md: the table of families is not what the engine's lists say; run this without --check"
        )
    README.write_text(new, "utf-8")


if __name__ == "__main__":
    main()
