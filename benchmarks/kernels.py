"""Limits of the machine and rates of the kernels, as trimtok_parity --bench measures them in one process."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def find_parity(root: Path) -> Path | None:
    """The newest parity binary of a build tree."""
    found = sorted(root.glob("build/*/tests/parity/trimtok_parity"), key=lambda p: p.stat().st_mtime)
    return found[-1] if found else None


def measure(
    parity: Path, isa: str, threads: Sequence[int], *, quick: bool, op: str | None = None
) -> list[Row]:
    """One run of the binary for every number of threads; each measures its own limits first."""
    rows: list[Row] = []
    for n in threads:
        command = [str(parity), "--bench", "--json", "--isa", isa, "--threads", str(n)]
        command += ["--quick"] if quick else []
        command += ["--op", op] if op else []
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        rows += [json.loads(line) for line in lines if line.startswith("{")]
    return rows


def lines(rows: Sequence[Row]) -> list[str]:
    """Text, limits above the rows that they belong to."""
    return [_limit_line(row) if "limit" in row else _kernel_line(row) for row in rows]


def _limit_line(row: Row) -> str:
    unit = "GB/s" if row["limit"] == "read" else "GFLOP/s"
    rate = f"{row['per_second'] / 1e9:9.1f} {unit}"
    return f"limit {row['limit']:<5} {row['isa']:<11} {row['threads']} threads {rate}"


def _kernel_line(row: Row) -> str:
    seconds = row["seconds"]
    share = f"{100 * row['of_limit']:4.0f} %" if row["of_limit"] > 0 else "     -"
    return (
        f"{row['op']:<12} {row['shape']:<32} {row['compute']:<4} {row['threads']} threads"
        f" {seconds * 1e6:11.1f} us {row['bytes'] / seconds / 1e9:8.1f} GB/s"
        f" {row['flops'] / seconds / 1e9:9.1f} GFLOP/s {share} of its limit ({row['served_by']})"
    )
