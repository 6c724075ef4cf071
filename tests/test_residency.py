"""Where weights lie: in mapped files, in memory, or on their way there. Answers do not tell."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
from conftest import Golden

from trimtok_cpp import Model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="files are replaced by memory on Linux only")
PROMPT = "Name three colours."


def maps(path: str) -> list[str]:
    name = os.path.realpath(path)
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(name)]


def answer(model: Model) -> list[int]:
    return list(model.generate([], PROMPT, max_tokens=12).token_ids)


@pytest.fixture
def padded(fixtures: Path, tmp_path: Path) -> Path:
    """The language model with 160 MiB behind its weights: enough to be moved, and to take some time."""
    source = gguf.GGUFReader(fixtures / "llava15" / "lm.gguf")
    path = tmp_path / "padded.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    for field in source.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, element)
    for tensor in source.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("padding", np.zeros(40 << 20, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", ["llava15", "qwen2vl"])
def test_answers_and_pages(fixtures: Path, name: str) -> None:
    lm = str(fixtures / name / "lm.gguf")
    mapped, memory = Model(lm, mmap=True), Model(lm, mmap=False)
    assert (mapped.info()["weights"], memory.info()["weights"]) == ("mapped", "memory")
    assert answer(mapped) == answer(memory)
    assert maps(lm)  # the first model's
    del mapped
    assert not maps(lm)
    assert answer(memory)


def test_small_files_stay_mapped(llava15: Golden) -> None:
    info = Model(llava15.lm).info()
    assert info["weights"] == "mapped"
    assert "they are small" in info["weights_note"]


def test_moving_in_the_background(padded: Path) -> None:
    expected = answer(Model(padded, mmap=True))
    model = Model(padded)
    assert model.info()["weights"] in ("moving", "memory"), model.info()["weights_note"]
    deadline = time.monotonic() + 120
    rounds = 0
    while model.info()["weights"] == "moving" or rounds == 0:
        assert answer(model) == expected
        rounds += 1
        assert time.monotonic() < deadline
    assert (model.info()["weights"], model.info()["weights_note"]) == ("memory", "")
    assert not maps(str(padded))
    padded.write_bytes(b"")  # what was SIGBUS for a mapping
    assert answer(model) == expected
    del model


def test_a_model_may_go_while_it_is_moving(padded: Path) -> None:
    for _ in range(5):
        Model(padded)
    assert not maps(str(padded))


@pytest.mark.subprocess
def test_no_room(padded: Path) -> None:
    """With 100 MiB of addresses left the copy is an error that says so, and mapping goes on to work."""
    script = """
import resource, sys
import trimtok_cpp
model = trimtok_cpp.Model(sys.argv[1], mmap=True, n_threads=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (190 << 20), -1))
try:
    trimtok_cpp.Model(sys.argv[1], mmap=False, n_threads=1)
except MemoryError as error:
    print(error)
print(len(model.generate([], "x", max_tokens=3).token_ids))
"""
    run = subprocess.run([sys.executable, "-c", script, padded], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    error, n_tokens = run.stdout.splitlines()
    assert "no memory for" in error
    assert n_tokens == "3"


def test_arguments(llava15: Golden) -> None:
    with pytest.raises(TypeError, match=r"\[mmap\] is 'no', must be True, False or None"):
        Model(llava15.lm, mmap="no")  # type: ignore[arg-type]
