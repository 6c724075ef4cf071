"""The command line, started as users start it."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Golden, run

from trimtok_cpp import Model, _core

pytestmark = pytest.mark.subprocess


def trimtok(*args: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trimtok_cpp", *map(str, args)],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8"} | env,
        timeout=300,
        check=False,
    )


def image_flags(golden: Golden, case: str) -> list[str]:
    return [flag for path in golden.case_images(case) for flag in ("-i", path)]


def user_text(golden: Golden) -> str:
    """llava15's mixed prompt as a user would type it."""
    return golden.cases["multi"]["prompt"].removeprefix("USER: ").removesuffix(" ASSISTANT:")


def test_run_streams_the_golden_text(llava15: Golden) -> None:
    out = trimtok(
        "run",
        llava15.lm,
        *image_flags(llava15, "multi"),
        user_text(llava15),
        "--max-tokens=16",
        "--no-pruning",
    )
    assert out.returncode == 0, out.stderr
    assert out.stdout == llava15.cases["multi"]["greedy"]["text"] + "\n"
    usage = out.stderr.splitlines()[-1]
    assert "221 prompt tokens (192 visual), 16 completion tokens" in usage
    assert "finish: length" in usage
    assert "\r" not in out.stderr  # no progress bar without a terminal


def test_run_json_and_options(golden: Golden) -> None:
    case = golden.cases["one"]
    prompt = golden.raw_prompt(Model(golden.lm), "one")
    args = ["run", golden.lm, "--mmproj", golden.mmproj, *image_flags(golden, "one"), prompt, "--raw"]
    args += ["--no-pruning", "--compute=f32"]
    out = trimtok(
        *args, "--json", "--max-tokens=16", "--threads=1", "--ctx=200", "--kv-dtype=f32", "--seed=3"
    )
    assert out.returncode == 0, out.stderr
    result = json.loads(out.stdout)
    assert result["token_ids"] == case["greedy"]["ids"]
    assert result["seed"] == 3
    assert result["usage"]["prompt_tokens"] == case["n_positions"]
    assert result["finish_reason"] == "length"
    assert set(result["timings"]) >= {"load", "encode", "prefill", "decode"}
    stop = trimtok(*args, "--max-tokens=16", "--stop", result["text"][5:9])
    assert stop.stdout == result["text"][: result["text"].index(result["text"][5:9])] + "\n"


def test_run_draws_progress_on_a_terminal(llava15: Golden) -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "trimtok_cpp", "run", llava15.lm, *image_flags(llava15, "multi")]
    process = subprocess.Popen(
        [*command, user_text(llava15), "--max-tokens=16", "--no-pruning"],
        stdout=subprocess.PIPE,
        stderr=follower,
        encoding="utf-8",
    )
    os.close(follower)
    seen = b""
    while True:
        try:
            data = os.read(leader, 65536)
        except OSError:  # how Linux reports the end of a terminal
            break
        if not data:
            break
        seen += data
    os.close(leader)
    stdout, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert stdout == llava15.cases["multi"]["greedy"]["text"] + "\n"
    for phase in ("load", "encode", "prefill"):
        assert f"\r{phase:<8}[".encode() in seen
    assert b"decode  [" not in seen


def test_interrupt(llava15: Golden) -> None:
    images = [flag for _ in range(60) for flag in ("-i", llava15.image_path(0))]
    process = subprocess.Popen(
        [sys.executable, "-m", "trimtok_cpp", "run", llava15.lm, *images, "Go on", "--max-tokens", "200"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.read(1)  # the first character has been made
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1] == "trimtok: interrupted"
    assert time.monotonic() - start < 10


def test_broken_pipe(llava15: Golden) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trimtok_cpp", "run", llava15.lm, "Go on", "--max-tokens", "50"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 1
    process.stderr.close()


def test_merge_then_run(llava15: Golden, tmp_path: Path) -> None:
    merged = tmp_path / "llava.gguf"
    out = trimtok("merge", llava15.lm, llava15.mmproj, "-o", merged)
    assert out.returncode == 0, out.stderr
    assert out.stdout == f"wrote {merged} ({merged.stat().st_size} bytes)\n"
    again = trimtok("merge", llava15.lm, llava15.mmproj, "-o", merged)
    assert again.returncode == 1
    assert str(merged) in again.stderr
    assert trimtok("merge", llava15.lm, llava15.mmproj, "-o", merged, "--force").returncode == 0
    assert run(Model(merged), llava15, "one").token_ids == llava15.cases["one"]["greedy"]["ids"]


def test_inspect(llava15: Golden) -> None:
    out = trimtok("inspect", llava15.mmproj)
    assert out.returncode == 0, out.stderr
    assert "clip.projector_type" in out.stdout
    assert "v.patch_embd.weight" in out.stdout
    facts = json.loads(trimtok("inspect", llava15.mmproj, "--json").stdout)
    assert "v.patch_embd.weight" in json.dumps(facts)


def test_bench(llava15: Golden) -> None:
    args = ["bench", llava15.lm, "-i", llava15.image_path(0), "--pp", "64", "--tg", "8", "-r", "2"]
    out = trimtok(*args)
    assert out.returncode == 0, out.stderr
    assert [line.split()[0] for line in out.stdout.splitlines()] == ["test", "encode", "prefill", "decode"]
    results = json.loads(trimtok(*args, "--json").stdout)["results"]
    assert [(row["test"], row["rows"]) for row in results] == [("encode", 64), ("prefill", 64), ("decode", 8)]
    assert all(len(row["all_seconds"]) == 2 and row["tokens_per_second"] > 0 for row in results)
    assert trimtok("bench", llava15.lm, "--pp", "5000").returncode == 1


def test_kernels(isa: str) -> None:
    out = trimtok("kernels")
    assert out.returncode == 0, out.stderr
    lines = out.stdout.splitlines()
    heads = lines[0].split()
    assert f"{isa}*" in heads
    assert "TRIMTOK_CPU_ISA" in lines[-1]
    served = _core.ops.served_by(isa)
    column = heads.index(f"{isa}*")
    assert {
        line.split()[0]: line.split()[column] for line in lines[1:] if len(line.split()) == len(heads)
    } == served
    assert json.loads(trimtok("kernels", "--json").stdout)["active"] == isa
    assert trimtok("kernels", TRIMTOK_CPU_ISA="mmx").returncode == 1


def test_version_and_help() -> None:
    assert trimtok("--version").stdout == f"trimtok {_core.__version__}\n"
    out = trimtok("--help")
    assert out.returncode == 0
    for command in ("run", "inspect", "merge", "bench", "kernels"):
        assert command in out.stdout
        assert trimtok(command, "--help").returncode == 0


@pytest.mark.parametrize(
    "args", [[], ["nosuch"], ["run"], ["run", "a"], ["merge", "a", "b"], ["run", "a", "b", "--threads", "x"],
             ["run", "a", "b", "--ctx", "0"], ["run", "a", "b", "--device", "gpu"]],
)  # fmt: skip
def test_wrong_usage(args: list[str]) -> None:
    out = trimtok(*args)
    assert out.returncode == 2
    assert "usage:" in out.stderr
    assert out.stdout == ""


def test_errors_are_one_line(llava15: Golden, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(llava15.lm, alone / "lm.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    for args, message in (
        (["run", tmp_path / "none.gguf", "Hi"], "none.gguf"),
        (["run", tmp_path / "bad.gguf", "Hi"], "bad.gguf"),
        (["run", llava15.lm, "Hi", "-i", tmp_path / "none.png"], "none.png"),
        (["run", llava15.lm, "Hi", "--temperature", "-1"], "[temperature]"),
        (["run", llava15.lm, "Hi <image>"], "[prompt]"),
        (["run", alone / "lm.gguf", "Hi", "-i", llava15.image_path(0)], "mmproj"),
        (["inspect", tmp_path / "bad.gguf"], "bad.gguf"),
        (["merge", llava15.lm, llava15.lm, "-o", tmp_path / "x.gguf"], "lm.gguf"),
    ):
        out = trimtok(*args)
        assert out.returncode == 1, args
        assert out.stderr.startswith("trimtok: error: "), out.stderr
        assert message in out.stderr
        assert out.stderr.count("\n") == 1
    debug = trimtok("--debug", "run", tmp_path / "none.gguf", "Hi")
    assert debug.returncode == 1
    assert "Traceback" in debug.stderr
