"""Builds of the kernels for tests that run them outside Python."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)


@contextlib.contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Keeps other processes that run tests out of a build folder."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "tests.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build(directory: Path, targets: list[str], *options: str) -> Path:
    """Configures and builds; a build that fails fails the test with the compiler's words."""
    with alone_in(directory):
        return build_alone(directory, targets, *options)


def build_alone(directory: Path, targets: list[str], *options: str) -> Path:
    jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL", str(min(4, os.cpu_count() or 1)))
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    configure = [
        "cmake",
        "-S",
        ROOT,
        "-B",
        directory,
        "-DTRIMTOK_TESTS=ON",
        "-DTRIMTOK_WERROR=ON",
        *generator,
    ]
    for command in (
        [*configure, *options],
        ["cmake", "--build", directory, "-j", jobs, "--target", *targets],
    ):
        result = run(*command)
        assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return directory


def need(*programs: str) -> None:
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
