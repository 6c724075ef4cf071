"""The command line of the evaluation. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TextIO

from .. import _core
from ..model import COMPUTES, DEVICES, KV_DTYPES, Model
from .milebench import read_milebench
from .runner import Config, Progress, Record, Results, Settings, evaluate, grid
from .table import aggregate, markdown, plain, write_csv
from .tasks import Question, read_questions

__all__ = ["about", "add_arguments", "main", "read_all", "run"]

_SAMPLES: Final = 32  # blocks of a model file that its fingerprint reads
_BLOCK: Final = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments that `run` takes."""
    parser.add_argument("model", metavar="MODEL", nargs="?", help="GGUF file; not needed with --table")
    parser.add_argument(
        "tasks", metavar="TASKS", nargs="*", help="JSON lines files (*.jsonl) or MileBench task folders"
    )
    parser.add_argument(
        "-r", "--results", metavar="FILE", required=True,
        help="answers are appended here, and a later run goes on from them",
    )  # fmt: skip
    parser.add_argument("--table", action="store_true", help="only print the table of --results")
    parser.add_argument(
        "--selectors",
        type=_names,
        default=["trimtokenator-lc"],
        metavar="A,B",
        help="(default trimtokenator-lc)",
    )
    parser.add_argument(
        "--ratios", type=_numbers, default=[1.0, 0.2], metavar="X,Y",
        help="shares of visual tokens to keep; 1 is the model without pruning (default 1,0.2)",
    )  # fmt: skip
    parser.add_argument(
        "-P", "--prune-option", action="append", type=_assignment, default=[], metavar="NAME=VALUE",
        help="further argument of Pruning, such as stage1=max_sum; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--max-tokens", type=_positive, default=32, metavar="N", help="of an answer (default 32)"
    )
    parser.add_argument(
        "--limit", type=_positive, metavar="N", help="only the first N questions of each task"
    )
    parser.add_argument(
        "--max-side", type=_positive, metavar="N", help="scale larger images down to N pixels"
    )
    parser.add_argument("--retry-errors", action="store_true", help="ask again what ended in an error")
    parser.add_argument("--csv", metavar="FILE", help="write the table as CSV")
    parser.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")
    parser.add_argument(
        "--mmproj", metavar="FILE", help="GGUF file of the vision part (default: beside MODEL)"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--ctx", type=_positive, metavar="N", help="rows of context (default: as trained)")
    parser.add_argument("--threads", type=_positive, metavar="N", help="default: every CPU")
    parser.add_argument("--kv-dtype", choices=KV_DTYPES, default="f16")
    parser.add_argument("--compute", choices=COMPUTES, default="auto", help="precision of matrix products")


def run(args: argparse.Namespace) -> int:
    """Does what the arguments say and returns the exit code; errors other than Ctrl-C are raised."""
    if args.table:
        if args.model is not None:
            raise ValueError("[--table] reads --results alone; leave MODEL and TASKS out")
        with Results(args.results) as results:
            _report(list(results.records.values()), args)
        return 0
    if args.model is None or not args.tasks:
        raise ValueError("[arguments] MODEL and at least one of TASKS are needed (or --table)")
    questions = read_all(args.tasks, args.limit)
    configs = grid(args.selectors, args.ratios)
    options = dict(args.prune_option)
    for config in configs:  # before the model is loaded: wrong options are refused here
        config.pruning(options)
    model = Model(
        args.model,
        mmproj=args.mmproj,
        device=args.device,
        n_ctx=args.ctx,
        n_threads=args.threads,
        kv_dtype=args.kv_dtype,
        compute=args.compute,
    )
    for warning in model.info()["warnings"]:
        print(f"trimtok: warning: {warning}", file=sys.stderr)
    settings = Settings(args.max_tokens, args.max_side, options, about(model))
    with Results(args.results, settings) as results:
        return _evaluate(model, questions, configs, results, settings, args)


def _evaluate(
    model: Model,
    questions: Sequence[Question],
    configs: Sequence[Config],
    results: Results,
    settings: Settings,
    args: argparse.Namespace,
) -> int:
    bar = ProgressBar(sys.stderr)
    try:
        records = evaluate(
            model,
            questions,
            configs,
            results,
            settings,
            retry_errors=args.retry_errors,
            progress=bar.callback,
        )
    except KeyboardInterrupt:
        bar.clear()
        print(
            f"trimtok: interrupted; {args.results} holds {len(results.records)} answers, "
            "the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    bar.clear()
    _report(records, args)
    failed = [record for record in records if record.error is not None]
    if failed:
        print(
            f"trimtok: {len(failed)} of {len(records)} answers failed, the first with: {failed[0].error}",
            file=sys.stderr,
        )
    return 1 if len(failed) == len(records) else 0


def read_all(paths: Sequence[str], limit: int | None) -> list[Question]:
    """All questions of all files, at most `limit` of each task."""
    questions: list[Question] = []
    taken: dict[str, int] = {}
    source: dict[tuple[str, str], str] = {}
    for name in paths:
        path = Path(name)
        milebench = path.is_dir() or path.suffix == ".json"
        for question in read_milebench(path) if milebench else read_questions(path):
            key = (question.task, question.id)
            if key in source:
                raise ValueError(
                    f"[{name}] has the question {question.id!r} of task {question.task!r}, "
                    f"as {source[key]} has; name one of them"
                )
            source[key] = name
            taken[question.task] = taken.get(question.task, 0) + 1
            if limit is None or taken[question.task] <= limit:
                questions.append(question)
    return questions


def about(model: Model) -> dict[str, Any]:
    """What answers and times depend on, files by content so that they may move."""
    info = model.info()
    files = {"model": info["lm_path"], "mmproj": info["mmproj_path"]}
    return {
        "version": _core.__version__,
        **{name: file_fingerprint(path) if path else None for name, path in files.items()},
        **{name: info[name] for name in ("n_ctx", "device", "isa", "n_threads", "kv_dtype", "compute")},
    }


def file_fingerprint(path: str | os.PathLike[str]) -> str:
    """Name, size and a hash over blocks spread evenly over the file: reading all of it would take minutes."""
    path = Path(path)
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for index in range(_SAMPLES):
            file.seek(max(0, size - _BLOCK) * index // (_SAMPLES - 1))
            digest.update(file.read(_BLOCK))
    return f"{path.name} ({size} bytes, {digest.hexdigest()[:16]})"


def _report(records: Sequence[Record], args: argparse.Namespace) -> None:
    rows = aggregate(records)
    print(plain(rows))
    if args.csv:
        with Path(args.csv).open("w", encoding="utf-8", newline="") as file:
            write_csv(rows, file)
    if args.markdown:
        Path(args.markdown).write_text(markdown(rows), encoding="utf-8")


class ProgressBar:
    """One line on a terminal: answers, errors, time to go; nothing elsewhere."""

    WIDTH = 30

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._start = time.monotonic()
        self.active = out.isatty()

    def __call__(self, done: int, asked: int, total: int, errors: int) -> None:
        """Redraws the line; answers of an earlier run take no time."""
        filled = self.WIDTH * done // max(total, 1)
        seconds = (time.monotonic() - self._start) / max(asked, 1) * (total - done)
        left = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
        failed = f", {errors} errors" if errors else ""
        self._out.write(
            f"\r[{'#' * filled}{'.' * (self.WIDTH - filled)}] {done}/{total}{failed}, {left} left\x1b[K"
        )
        self._out.flush()

    def clear(self) -> None:
        """Takes the line away."""
        if self.active:
            self._out.write("\r\x1b[K")
            self._out.flush()

    @property
    def callback(self) -> Progress | None:
        """For `evaluate`."""
        return self if self.active else None


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.split(",")]


def _assignment(text: str) -> tuple[str, Any]:
    name, found, value = text.partition("=")
    if name not in PRUNE_OPTIONS or not found:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=VALUE with NAME in {', '.join(PRUNE_OPTIONS)}"
        )
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value  # a bare word


#: Arguments of Pruning that are neither the budget nor the selector.
PRUNE_OPTIONS: Final = (
    "stage1",
    "d_inter",
    "align",
    "positions",
    "alpha",
    "pool",
    "pareto_weight",
    "inter_weight",
    "seed",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv` (default: that of the process) and returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="trimtok eval", description="Compare selectors and ratios on questions with known answers"
    )
    add_arguments(parser)
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # argparse has printed
        return stop.code if isinstance(stop.code, int) else 2
    try:
        return run(args)
    except KeyboardInterrupt:
        print("\ntrimtok: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        print(f"trimtok: error: {text}", file=sys.stderr)
        return 1
