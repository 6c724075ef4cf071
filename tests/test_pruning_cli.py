"""Pruning on the command line: run and bench."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Golden
from PIL import Image

from trimtok_cpp import cli
from trimtok_cpp.pruning import DEFAULT_PRUNING


def test_run_command(llava15: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [flag for path in llava15.case_images("multi") for flag in ("-i", path)]
    base = ["run", llava15.lm, *flags, "What differs?", "--max-tokens", "4", "--keep", "0.2"]
    assert cli.main([*base, "--overlay", str(tmp_path / "out")]) == 0
    out = capsys.readouterr()
    assert "38 of 192" in out.err
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["picture_0.png", "picture_1.png", "picture_2.png"]
    with Image.open(tmp_path / "out" / "picture_0.png") as picture:
        assert picture.size == (150, 101)
    assert cli.main([*base, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["pruning"]
    assert all(report["kept"])
    assert sum(map(len, report["kept"])) == report["budget"] == 38
    assert cli.main([*base[:-1], "1.5"]) != 0
    assert "[keep]" in capsys.readouterr().err
    assert cli.main([*base[:-2], "--overlay", str(tmp_path / "plain")]) == 0  # the default prunes, too
    assert f"kept {round(192 * (DEFAULT_PRUNING.keep or 0))} of 192" in capsys.readouterr().err
    assert cli.main([*base[:-2], "--no-pruning", "--overlay", str(tmp_path / "none")]) == 1
    assert "[overlay]" in capsys.readouterr().err
    for flag, words in (
        (["--max-visual", "9"], "kept 9 of 192"),
        (["--coverage", "0.5"], "of 192"),
        (["--fit"], "kept 192 of 192"),
    ):
        assert cli.main([*base[:-2], *flag]) == 0
        assert words in capsys.readouterr().err
    assert cli.main([*base, "--fit"]) == 1
    assert "keep and fit" in capsys.readouterr().err
    assert cli.main([*base[:-1], "0"]) == 1
    assert "[keep]" in capsys.readouterr().err


def test_bench_command(llava15: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [flag for path in llava15.case_images("multi") for flag in ("-i", path)]
    table = tmp_path / "table.csv"
    args = ["bench", llava15.lm, *flags, "--keep", "1.0,0.5,0.1", "--tg", "8", "-r", "1", "--csv", str(table)]
    assert cli.main(args) == 0
    printed = capsys.readouterr().out
    for word in ("keep", "tokens", "encode", "prune", "prefill", "first", "GFLOP", "KV", "tokens/s"):
        assert word in printed
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["keep"]) for row in rows] == [1.0, 0.5, 0.1]
    assert [int(row["visual_tokens"]) for row in rows] == [192, 96, 19]
    for row in rows:
        assert int(row["total_visual_tokens"]) == 192
        assert float(row["first_token_s"]) >= float(row["encode_s"]) + float(row["prefill_s"]) > 0
        assert float(row["decode_tokens_per_s"]) > 0
    work = [float(row["prefill_gflop"]) for row in rows]
    assert work == sorted(work, reverse=True)
    assert work[2] < 0.4 * work[0]
    memory = [float(row["kv_mib"]) for row in rows]
    assert memory == sorted(memory, reverse=True)
    assert float(rows[0]["prune_s"]) == 0 < float(rows[2]["prune_s"])
    assert cli.main([*args[:-2], "--keep", "2"]) != 0
    assert "keep" in capsys.readouterr().err


def test_bench_plot(llava15: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["bench", llava15.lm, "-i", llava15.image_path(0), "--keep", "1,0.2", "--tg", "2", "-r", "1"]
    code = cli.main([*args, "--plot", str(tmp_path / "plot.png")])
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert code == 1
        assert "trimtok-cpp[plot]" in capsys.readouterr().err
        return
    assert code == 0
    with Image.open(tmp_path / "plot.png") as picture:
        assert picture.size[0] > 400
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10
