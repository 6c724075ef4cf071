"""The evaluation: the resumable run, the table, the command."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import Golden
from PIL import Image
from test_eval_tasks import LINE, write_lines

import trimtok_cpp
from trimtok_cpp.eval import (
    Config,
    Question,
    Record,
    Results,
    Settings,
    aggregate,
    command,
    evaluate,
    grid,
    main,
    markdown,
    plain,
    write_csv,
)
from trimtok_cpp.eval.table import mean_interval, wilson

ANIMALS = ["cat", "dog", "a red bird", "bird"]

# --- The run ---------------------------------------------------------------------------------------------


class FakeModel:
    """Answers "dog" to everything, keeps what it is told to; `trouble` raises at chosen calls."""

    def __init__(self, trouble: dict[int, BaseException] | None = None, text: str = "dog") -> None:
        self.calls: list[tuple[list[Any], str, int, trimtok_cpp.Pruning | None]] = []
        self.trouble = trouble or {}
        self.text = text

    def generate(
        self, images: list[Any], prompt: str, *, max_tokens: int, pruning: trimtok_cpp.Pruning | None
    ) -> Any:
        self.calls.append((images, prompt, max_tokens, pruning))
        if error := self.trouble.get(len(self.calls)):
            raise error
        total = 100 * len(images)
        kept = total if pruning is None else round(total * pruning.keep)
        report = SimpleNamespace(
            n_total=total, n_kept=kept, reason=None, seconds={"stage1": 0.25, "stage2": 0.75}
        )
        return SimpleNamespace(
            text=self.text,
            finish_reason="stop",
            usage=SimpleNamespace(prompt_tokens=kept + 10, visual_tokens=kept, completion_tokens=2),
            timings=SimpleNamespace(encode=(2.0,) * len(images), prefill=4.0, decode=8.0),
            pruning=None if pruning is None else report,
        )


def animal(number: int, answer: str = "dog", **more: Any) -> Question:
    values: dict[str, Any] = {"images": (), "prompt": f"Which? ({number})", "choices": tuple(ANIMALS)}
    return Question(id=str(number), task="animals", answer=answer, kind="choice", **(values | more))


CONFIGS = grid(["random", "none"], [1.0, 0.5])


def run(
    model: Any, questions: list[Question], path: Path, configs: list[Config] = CONFIGS, **more: Any
) -> Any:
    settings = more.pop("settings", Settings(max_tokens=7, about={"model": "fake"}))
    with Results(path, settings) as results:
        return evaluate(model, questions, configs, results, settings, **more)


def lines_of(path: Path) -> list[dict[str, Any]]:
    text = path.read_text("utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def test_grid() -> None:
    full = Config("none", 1.0)
    assert grid(["random", "uniform"], [0.2, 1]) == [full, Config("random", 0.2), Config("uniform", 0.2)]
    assert grid(["none"], [0.2]) == [full]
    assert grid(["random", "random"], [0.5]) == [Config("random", 0.5)]
    with pytest.raises(ValueError, match=r"selector\] is 'best', must be one of trimtokenator-lc"):
        grid(["best"], [1.0])
    for ratio in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match=r"\[ratio\]"):
            grid(["random"], [ratio])


def test_a_run_and_its_records(tmp_path: Path) -> None:
    for name in "ab":
        Image.new("RGB", (8, 4)).save(tmp_path / f"{name}.png")
    images = (tmp_path / "a.png", tmp_path / "b.png")
    model, seen = FakeModel(), []
    records = run(
        model,
        [animal(0, images=images), animal(1, "cat")],
        tmp_path / "r.jsonl",
        progress=lambda *state: seen.append(state),
    )
    assert [(r.id, r.selector, r.ratio, r.score, r.error) for r in records] == [
        ("0", "none", 1.0, 1.0, None),
        ("0", "random", 0.5, 1.0, None),
        ("1", "none", 1.0, 0.0, None),
        ("1", "random", 0.5, 0.0, None),
    ]
    assert seen == [(1, 1, 4, 0), (2, 2, 4, 0), (3, 3, 4, 0), (4, 4, 4, 0)]
    whole, pruned = records[:2]
    assert (whole.prompt_tokens, whole.visual_tokens, whole.kept, whole.n_images) == (210, 200, 200, 2)
    assert (pruned.prompt_tokens, pruned.visual_tokens, pruned.kept) == (110, 200, 100)
    assert (whole.first_token, pruned.first_token, pruned.decode) == (
        8.0,
        9.0,
        8.0,
    )  # 2 + 2 + 4, 1 for pruning
    assert [pruning for *_, pruning in model.calls[:2]] == [
        None,
        trimtok_cpp.Pruning(keep=0.5, selector="random"),
    ]
    assert model.calls[0][:3] == (list(images), "Which? (0)", 7)
    head, *lines = lines_of(tmp_path / "r.jsonl")
    assert head["settings"] == {"max_tokens": 7, "max_side": None, "model": "fake"}
    assert [line["text"] for line in lines] == ["dog"] * 4


def test_a_second_run_asks_only_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    first = run(FakeModel(), [animal(0)], path)
    model = FakeModel()
    seen: list[tuple[int, int, int, int]] = []
    both = run(model, [animal(0), animal(1)], path, progress=lambda *state: seen.append(state))
    assert seen == [(1, 0, 4, 0), (2, 0, 4, 0), (3, 1, 4, 0), (4, 2, 4, 0)]
    assert [call[1] for call in model.calls] == ["Which? (1)"] * 2
    assert both[:2] == first
    model = FakeModel()
    run(model, [animal(0), animal(1)], path, grid(["uniform", "none"], [1.0, 0.25]))
    assert [call[3] for call in model.calls] == [trimtok_cpp.Pruning(keep=0.25, selector="uniform")] * 2
    assert len(lines_of(path)) == 1 + 6


def test_a_changed_question_is_asked_again(tmp_path: Path) -> None:
    path, image = tmp_path / "r.jsonl", tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(image)
    run(FakeModel(), [animal(0), animal(1, images=(image,))], path)
    Image.new("RGB", (80, 80), (9, 8, 7)).save(image)
    model = FakeModel(text="cat")
    records = run(model, [animal(0, prompt="What?"), animal(1, images=(image,))], path)
    assert len(model.calls) == 4
    assert [record.text for record in records] == ["cat"] * 4
    with Results(path) as results:  # the later answer counts
        assert [record.text for record in results.records.values()] == ["cat"] * 4


def test_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    run(FakeModel(), [animal(0)], path)
    before = path.read_bytes()
    changed = Settings(max_tokens=8, about={"model": "other"}, pruning={"stage1": "max_sum"})
    with pytest.raises(
        ValueError, match=r"max_tokens was 7, is 8; model was 'fake', is 'other'; pruning\.stage1"
    ):
        run(FakeModel(), [animal(0)], path, settings=changed)
    assert path.read_bytes() == before


def test_a_torn_last_line_is_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    run(FakeModel(), [animal(0), animal(1)], path)
    whole = path.read_bytes()
    for cut in (1, 20, len(whole.splitlines(keepends=True)[-1]) - 1):
        path.write_bytes(whole[:-cut])
        model = FakeModel()
        run(model, [animal(0), animal(1)], path)
        assert len(model.calls) == 1
        assert path.read_bytes() == whole
    path.write_bytes(b"")  # made, but nothing written yet
    model = FakeModel()
    run(model, [animal(0), animal(1)], path)
    assert len(model.calls) == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{}", "line 6] has no field 'task'"),
        ("no", "line 6] is not JSON"),
        ({"score": 2.0}, "line 6] holds a score"),
        ({"first_token": 1e999}, "line 6]"),
        ({"kept": "5"}, "'kept' is '5', must be an integer"),
    ],
)
def test_a_damaged_results_file_is_refused(tmp_path: Path, line: Any, message: str) -> None:
    path = tmp_path / "r.jsonl"
    run(FakeModel(), [animal(0), animal(1)], path)
    if isinstance(line, dict):
        line = json.dumps(lines_of(path)[-1] | line)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        Results(path)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"hello", b"hello\n", b'{"id": 1}\n', b'{"trimtok_eval": 2, "settings": {}}\n']
)
def test_a_foreign_file_is_not_written_to(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    for settings in (None, Settings()):
        with pytest.raises(ValueError, match=r"notes\.txt"):
            Results(path, settings)
    assert path.read_bytes() == content


def test_errors_are_recorded_and_can_be_retried(tmp_path: Path) -> None:
    path, missing = tmp_path / "r.jsonl", tmp_path / "none.png"
    model = FakeModel({2: ValueError("too\n long"), 3: MemoryError()})
    seen: list[tuple[int, int, int, int]] = []
    records = run(model, [animal(0), animal(1)], path, progress=lambda *state: seen.append(state))
    assert [record.error for record in records] == [None, "ValueError: too long", "MemoryError: ", None]
    assert [state[3] for state in seen] == [0, 1, 2, 2]
    again = FakeModel()
    assert run(again, [animal(0), animal(1)], path) == records
    assert again.calls == []
    records = run(again, [animal(0), animal(1)], path, retry_errors=True)
    assert [record.error for record in records] == [None] * 4
    assert len(again.calls) == 2
    (record,) = run(
        FakeModel(),
        [animal(2, images=(missing,))],
        tmp_path / "s.jsonl",
        CONFIGS[:1],
        settings=Settings(max_side=10),
    )
    assert record.error is not None
    assert record.error.startswith("FileNotFoundError:")
    assert str(missing) in record.error


def test_ctrl_c_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(FakeModel({4: KeyboardInterrupt()}), [animal(0), animal(1)], path)
    assert len(lines_of(path)) == 1 + 3
    model = FakeModel()
    assert len(run(model, [animal(0), animal(1)], path)) == 4
    assert len(model.calls) == 1


def test_a_cancelled_answer_is_not_scored(tmp_path: Path) -> None:
    class Cancelled(FakeModel):
        def generate(self, *args: Any, **options: Any) -> Any:
            result = super().generate(*args, **options)
            result.finish_reason = "cancelled"
            return result

    with pytest.raises(KeyboardInterrupt):
        run(Cancelled(), [animal(0)], tmp_path / "r.jsonl")
    assert len(lines_of(tmp_path / "r.jsonl")) == 1


def test_max_side_scales_down_only(tmp_path: Path) -> None:
    for name, size in {"wide": (40, 10), "tall": (5, 30), "small": (20, 20), "line": (100, 1)}.items():
        Image.new("RGB", size).save(tmp_path / f"{name}.png")
    images = tuple(tmp_path / f"{name}.png" for name in ("wide", "tall", "small", "line"))
    model = FakeModel()
    settings = Settings(max_side=20)
    run(model, [animal(0, images=images)], tmp_path / "r.jsonl", CONFIGS[:1], settings=settings)
    sizes = [
        image.size if isinstance(image, Image.Image) else image.shape[1::-1] for image in model.calls[0][0]
    ]
    assert sizes == [(20, 5), (3, 20), (20, 20), (20, 1)]


# --- The table -------------------------------------------------------------------------------------------


def test_wilson() -> None:
    # Published values: Newcombe (1998), table I, method 3.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=5e-5)
    assert all(map(math.isnan, wilson(0, 0)))


def test_mean_interval() -> None:
    assert mean_interval(0.5, 0.01) == pytest.approx((0.304004, 0.695996), abs=1e-6)
    assert mean_interval(0.9, 0.01) == pytest.approx((0.704004, 1.0), abs=1e-6)


def record(task: str, number: int, value: float, **more: Any) -> Record:
    values: dict[str, Any] = {
        "kind": "choice", "selector": "none", "ratio": 1.0, "n_images": 1, "text": "x", "prompt_tokens": 100,
        "visual_tokens": 60, "kept": 60, "first_token": 1.0, "decode": 0.5,
    }  # fmt: skip
    return Record(task=task, id=str(number), question="f", score=value, **(values | more))


def test_the_numbers_of_a_row_by_hand() -> None:
    times = [1.0, 5.0, 2.0, 3.0]
    records = [
        record("a", k, value, first_token=times[k], prompt_tokens=100 + k)
        for k, value in enumerate([1.0, 1.0, 1.0, 0.0])
    ]
    records.append(record("a", 9, 0.0, error="ValueError: no", prompt_tokens=0, first_token=0.0))
    (row,) = aggregate(records)
    assert (row.task, row.selector, row.ratio, row.n, row.errors) == ("a", "none", 1.0, 4, 1)
    assert row.score == 0.75
    # Wilson: (0.75 + 3.84146 / 8 -+ 1.95996 sqrt(0.1875 / 4 + 3.84146 / 64)) / (1 + 3.84146 / 4)
    assert (row.low, row.high) == pytest.approx((0.300642, 0.954413), abs=2e-6)
    assert row.prompt_tokens == 101.5
    assert row.first_token == 2.5


def test_rouge_scores_get_the_interval_of_a_mean() -> None:
    (row,) = aggregate([record("a", k, value, kind="open") for k, value in enumerate([0.2, 0.4, 0.6, 0.8])])
    # s^2 = 0.2 / 3; half = 1.959964 sqrt(0.2 / 12) = 0.253030
    assert (row.score, row.low, row.high) == pytest.approx((0.5, 0.246970, 0.753030), abs=1e-6)
    # Where there is no spread to be seen, the wider one of a share: alike scores are no certainty.
    (row,) = aggregate([record("a", k, 1.0, kind="open") for k in range(20)])
    assert (row.low, row.high) == pytest.approx((0.8389, 1.0), abs=5e-5)
    (row,) = aggregate([record("a", 0, 0.2, kind="open")])
    assert (row.score, row.low, row.high) == pytest.approx((0.2, *wilson(0.2, 1)))


def test_overall_and_mean_of_tasks() -> None:
    records = [record("big", k, float(k < 6)) for k in range(8)] + [record("small", k, 1.0) for k in range(2)]
    records += [record("big", 0, 1.0, selector="random", ratio=0.5)]
    rows = aggregate(records)
    assert [(row.task, row.selector) for row in rows] == [
        ("big", "none"), ("big", "random"), ("small", "none"),
        ("all questions", "none"), ("all questions", "random"), ("mean of tasks", "none"),
    ]  # fmt: skip
    pooled, mean = rows[3], rows[5]
    assert (pooled.score, pooled.n) == (0.8, 10)
    assert (pooled.low, pooled.high) == pytest.approx(wilson(8, 10), abs=1e-12)
    assert (mean.score, mean.n) == (0.875, 10)
    # p~ = 7.92073 / 11.84146 = 0.668898, var 0.0187032; 3.92073 / 5.84146 = 0.671190, var 0.0377802;
    # half = 1.959964 sqrt(0.0564834 / 4) = 0.232903
    assert (mean.low, mean.high) == pytest.approx((0.642097, 1.0), abs=5e-6)


def test_only_errors_have_no_numbers() -> None:
    rows = aggregate([record("a", 0, 0.0, error="x")])
    assert (rows[0].n, rows[0].errors) == (0, 1)
    assert math.isnan(rows[0].score)
    out = io.StringIO()
    write_csv(rows, out)
    assert out.getvalue().splitlines()[1] == "a,none,1.0,0,1,,,,,,,,"
    assert "nan" not in plain(rows) + markdown(rows)
    assert aggregate([]) == []


def test_three_ways_to_write_the_table() -> None:
    records = [record("a|b", k, float(k < 3)) for k in range(4)] + [record("a|b", 9, 0.0, error="x")]
    rows = aggregate(records)
    line = plain(rows).splitlines()[1].split()
    assert line == [
        "a|b",
        "none",
        "1",
        "4",
        "1",
        "75.0",
        "30.1",
        "..",
        "95.4",
        "100.0",
        "60.0",
        "60.0",
        "1000.0",
        "500.0",
    ]
    assert "ended in an error" in plain(rows)
    text = markdown(rows).splitlines()
    assert text[2].startswith("| a\\|b | none | 1 | 4 | 1 | 75.0 | 30.1 .. 95.4 |")
    assert text[0].count("|") == text[1].count("|") == 13
    out = io.StringIO()
    write_csv(rows, out)
    (line,) = csv.DictReader(io.StringIO(out.getvalue()))
    assert (line["task"], line["score"], line["first_token"]) == ("a|b", "0.75", "1.0")


# --- The command -----------------------------------------------------------------------------------------


class FakeLoaded(FakeModel):
    path = ""

    def __init__(self, path: str, **_: Any) -> None:
        super().__init__(FakeLoaded.plan)
        self.path = path
        FakeLoaded.made.append(self)

    plan: dict[int, BaseException] = {}  # noqa: RUF012
    made: list[FakeLoaded] = []  # noqa: RUF012

    def info(self) -> dict[str, Any]:
        about = {"lm_path": self.path, "mmproj_path": "", "n_ctx": 64, "device": "cpu", "isa": "avx2"}
        return about | {"n_threads": 1, "kv_dtype": "f16", "compute": "auto", "warnings": []}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(command, "Model", FakeLoaded)
    monkeypatch.setattr(FakeLoaded, "plan", {})
    monkeypatch.setattr(FakeLoaded, "made", [])
    monkeypatch.chdir(tmp_path)
    Path("m.gguf").write_bytes(b"weights")
    lines = [
        LINE | {"id": k, "images": [], "prompt": "?", "choices": ["dog", "cat"], "answer": 0}
        for k in range(5)
    ]
    return write_lines(Path("t.jsonl"), *lines)


def test_the_command(loaded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "m.gguf",
        "t.jsonl",
        "-r",
        "r.jsonl",
        "--selectors",
        "random,uniform",
        "--ratios",
        "1,0.5",
        "--limit",
        "3",
    ]
    assert main([*argv, "-P", "seed=4", "--csv", "t.csv", "--markdown", "t.md"]) == 0
    out = capsys.readouterr()
    assert out.err == ""  # no bar without a terminal
    assert [line.split()[:5] for line in out.out.splitlines()[1:]] == [
        ["count", "none", "1", "3", "0"],
        ["count", "random", "0.5", "3", "0"],
        ["count", "uniform", "0.5", "3", "0"],
    ]
    assert {call[3] and call[3].seed for call in FakeLoaded.made[0].calls} == {None, 4}
    assert len(Path("t.csv").read_text().splitlines()) == 4
    assert Path("t.md").read_text().startswith("| task |")
    assert main(["--table", "-r", "r.jsonl"]) == 0
    assert capsys.readouterr().out == out.out
    Path("m.gguf").write_bytes(b"Weights")  # same name and size
    assert main([*argv, "-P", "seed=4"]) == 1
    assert "holds answers of other settings (model was" in capsys.readouterr().err


def test_the_command_counts_errors_and_stops_whole(loaded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["m.gguf", "t.jsonl", "-r", "r.jsonl", "--ratios", "1"]
    FakeLoaded.plan.update({2: ValueError("no room"), 4: KeyboardInterrupt()})
    assert main(argv) == 130
    assert "r.jsonl holds 3 answers" in capsys.readouterr().err
    FakeLoaded.plan.clear()
    assert main(argv) == 0
    assert len(FakeLoaded.made[1].calls) == 2
    assert "1 of 5 answers failed, the first with: ValueError: no room" in capsys.readouterr().err
    FakeLoaded.plan.update({k: ValueError("no room") for k in range(1, 6)})
    assert main(["m.gguf", "t.jsonl", "-r", "s.jsonl", "--ratios", "1"]) == 1


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["-r", "r.jsonl"], 1, "MODEL and at least one of TASKS are needed"),
        (["m.gguf", "--table", "-r", "r.jsonl"], 1, "leave MODEL and TASKS out"),
        (["m.gguf", "t.jsonl"], 2, "required: -r/--results"),
        (["m.gguf", "t.jsonl", "-r", "r.jsonl", "--limit", "0"], 2, "0 is not positive"),
        (["m.gguf", "t.jsonl", "-r", "r.jsonl", "-P", "keep=0.5"], 2, "NAME in stage1"),
        (["m.gguf", "t.jsonl", "-r", "r.jsonl", "-P", "stage1=best"], 1, "[stage1] is 'best'"),
        (["m.gguf", "t.jsonl", "-r", "r.jsonl", "--selectors", "best"], 1, "[selector] is 'best'"),
        (["m.gguf", "t.jsonl", "-r", "r.jsonl", "--ratios", "2"], 1, "[ratio] is 2.0"),
        (["m.gguf", "t.jsonl", "t.jsonl", "-r", "r.jsonl"], 1, "name one of them"),
        (["m.gguf", "u.jsonl", "-r", "r.jsonl"], 1, "u.jsonl"),
        (["--table", "-r", "none.jsonl"], 1, "none.jsonl"),
    ],
)
def test_wrong_usage(
    loaded: Path, capsys: pytest.CaptureFixture[str], argv: list[str], code: int, message: str
) -> None:
    assert main(argv) == code
    assert message in capsys.readouterr().err
    assert not Path("r.jsonl").exists()
    assert FakeLoaded.made == []


def test_the_progress_bar_is_for_terminals() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    bar = command.ProgressBar(out)
    assert bar.callback is bar
    bar(1, 1, 4, 1)
    assert out.getvalue().startswith("\r[#######" + "." * 23 + "] 1/4, 1 errors, ")
    bar.clear()
    assert out.getvalue().endswith("\r\x1b[K")
    assert command.ProgressBar(io.StringIO()).callback is None


def test_on_a_model(llava15: Golden, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [llava15.image_path(0), llava15.image_path(1)]
    model = trimtok_cpp.Model(llava15.lm, n_threads=1)
    expected = [
        model.generate(images[: k + 1], "Describe.", max_tokens=8, pruning=keep).text
        for k in range(2)
        for keep in (None, trimtok_cpp.Pruning(keep=0.5, selector="random"))
    ]
    lines = [
        {
            "id": k,
            "task": "t",
            "images": images[: k + 1],
            "prompt": "Describe.",
            "answer": expected[2 * k] or "x",
        }
        for k in range(2)
    ]
    tasks = write_lines(tmp_path / "t.jsonl", *(line | {"kind": "open"} for line in lines))
    results = tmp_path / "r.jsonl"
    argv = [llava15.lm, str(tasks), "-r", str(results), "--selectors", "random", "--ratios", "1,0.5"]
    assert main([*argv, "--max-tokens", "8", "--threads", "1"]) == 0, capsys.readouterr().err
    records = [Record.from_json(line, "line") for line in lines_of(results)[1:]]
    assert [record.text for record in records] == expected
    for number, (whole, pruned) in enumerate([records[:2], records[2:]]):
        assert whole.score == 1.0
        assert whole.kept == whole.visual_tokens == pruned.visual_tokens == 64 * (number + 1)
        assert pruned.kept == 32 * (number + 1)
        assert whole.prompt_tokens - pruned.prompt_tokens == pruned.kept
        assert min(whole.first_token, whole.decode, pruned.first_token) > 0
    assert main(["--table", "-r", str(results)]) == 0
