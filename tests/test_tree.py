"""The tree obeys its own rules, and the checker that says so can fail."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def check_tree() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_tree", ROOT / "tools" / "check_tree.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_tree_is_clean(check_tree: ModuleType) -> None:
    assert check_tree.check(ROOT) == []


@pytest.mark.parametrize(
    ("name", "text", "finding"),
    [
        ("kernels/cpu/ref/rows.cc", '#include "engine/core/error.h"\n', "may include"),
        ("engine/vision/llava.cc", '#include "engine/language/decoder.h"\n', "may include"),
        ("engine/gguf/file.cc", "x\n" * 601, "601 lines"),
        ("tests/test_x.py", 'PATH = "/' + 'home/someone/model.gguf"\n', "machine's path"),
    ],
)
def test_checker_sees_planted_faults(check_tree: ModuleType, name: str, text: str, finding: str) -> None:
    findings = check_tree.check_file(name, text)
    assert len(findings) == 1
    assert finding in findings[0]


def test_readme_has_the_table_of_the_lists() -> None:
    """tools/make_family_table.py says how to bring it up to date."""
    script = ROOT / "tools" / "make_family_table.py"
    result = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_checker_accepts_a_downward_include(check_tree: ModuleType) -> None:
    assert check_tree.check_file("engine/runtime/model.cc", '#include "engine/vision/tower.h"\n') == []
