"""From records to a table: score, interval, tokens and times by task, selector and ratio."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

from .runner import Record

__all__ = ["Row", "aggregate", "markdown", "mean_interval", "plain", "wilson", "write_csv"]

Z: Final = statistics.NormalDist().inv_cdf(0.975)
OVERALL: Final = "all questions"
MEAN: Final = "mean of tasks"
_HEAD: Final = (
    "task", "selector", "ratio", "n", "errors", "score %", "95 % interval", "prompt tokens", "visual", "kept",
    "first token ms", "decode ms",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One line. Shares are in [0, 1], times in seconds; what nothing is known of is NaN.

    n: questions with an answer; errors: without one, which do not count in anything else. prompt_tokens,
    visual_tokens, kept: means. first_token, decode: medians.
    """

    task: str
    selector: str
    ratio: float
    n: int
    errors: int
    score: float
    low: float
    high: float
    prompt_tokens: float
    visual_tokens: float
    kept: float
    first_token: float
    decode: float


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); NaN for n 0.

    Holds for the mean of any scores in [0, 1], whose variance is at most that of a share; it is wider than
    need be then.
    """
    if n == 0:
        return math.nan, math.nan
    share = successes / n
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def mean_interval(mean: float, variance: float) -> tuple[float, float]:
    """Normal 95 % interval of a mean with the given variance of the mean, cut to [0, 1]."""
    half = Z * math.sqrt(variance)
    return max(0.0, mean - half), min(1.0, mean + half)


def aggregate(records: Iterable[Record]) -> list[Row]:
    """A row for each task, selector and ratio; with several tasks also over all of them.

    "all questions" weights every question alike, "mean of tasks" every task (with the interval that follows
    from those of the tasks, taken as independent).
    """
    cells: dict[str, dict[tuple[str, float], list[Record]]] = {}
    for record in records:
        cells.setdefault(record.task, {}).setdefault((record.selector, record.ratio), []).append(record)
    rows = [
        _row(task, *config, found) for task, configs in cells.items() for config, found in configs.items()
    ]
    if len(cells) > 1:
        pooled: dict[tuple[str, float], list[list[Record]]] = {}
        for configs in cells.values():
            for config, found in configs.items():
                pooled.setdefault(config, []).append(found)
        for config, groups in pooled.items():
            rows.append(_row(OVERALL, *config, [record for group in groups for record in group]))
        for config, groups in pooled.items():
            # A mean over other tasks than those of its neighbours would compare unlike things.
            if len(groups) == len(cells) and all(any(r.error is None for r in group) for group in groups):
                rows.append(_mean_row(*config, groups))
    order = {task: index for index, task in enumerate([*cells, OVERALL, MEAN])}
    return sorted(rows, key=lambda row: (order[row.task], row.ratio != 1, row.selector, -row.ratio))


def _row(task: str, selector: str, ratio: float, records: Sequence[Record]) -> Row:
    answered = [record for record in records if record.error is None]
    scores = [record.score for record in answered]
    score = _mean(scores)
    if any(record.kind == "open" for record in answered) and _spread(scores) > 0:
        low, high = mean_interval(score, _spread(scores) / len(scores))
    else:
        low, high = wilson(sum(scores), len(scores))
    return Row(
        task=task,
        selector=selector,
        ratio=ratio,
        n=len(answered),
        errors=len(records) - len(answered),
        score=score,
        low=low,
        high=high,
        prompt_tokens=_mean([record.prompt_tokens for record in answered]),
        visual_tokens=_mean([record.visual_tokens for record in answered]),
        kept=_mean([record.kept for record in answered]),
        first_token=_median([record.first_token for record in answered]),
        decode=_median([record.decode for record in answered]),
    )


def _mean_row(selector: str, ratio: float, groups: Sequence[Sequence[Record]]) -> Row:
    rows = [_row("", selector, ratio, group) for group in groups]
    score = _mean([row.score for row in rows])
    low, high = mean_interval(score, sum(map(_task_variance, groups)) / len(groups) ** 2)
    return Row(
        task=MEAN,
        selector=selector,
        ratio=ratio,
        n=sum(row.n for row in rows),
        errors=sum(row.errors for row in rows),
        score=score,
        low=low,
        high=high,
        prompt_tokens=_mean([row.prompt_tokens for row in rows]),
        visual_tokens=_mean([row.visual_tokens for row in rows]),
        kept=_mean([row.kept for row in rows]),
        first_token=_mean([row.first_token for row in rows]),
        decode=_mean([row.decode for row in rows]),
    )


def plain(rows: Sequence[Row]) -> str:
    """For a terminal: aligned columns, an empty line between tasks."""
    cells = [_HEAD, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(_HEAD))]
    lines: list[str] = []
    task = None
    for index, line in enumerate(cells):
        if index > 1 and line[0] != task:
            lines.append("")
        task = line[0]
        left = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(line[2:], widths[2:], strict=True)]
        lines.append("  ".join(left + right).rstrip())
    return "\n".join(lines + _remarks(rows))


def markdown(rows: Sequence[Row]) -> str:
    """A table in Markdown."""
    head = ["| " + " | ".join(_HEAD) + " |", "|---|---|" + "---:|" * (len(_HEAD) - 2)]
    body = ["| " + " | ".join(cell.replace("|", "\\|") for cell in _cells(row)) + " |" for row in rows]
    return "\n".join([*head, *body, *_remarks(rows)]) + "\n"


def write_csv(rows: Sequence[Row], file: TextIO) -> None:
    """One line per row, numbers in full; an unknown number is an empty cell. `file` with newline=""."""
    writer = csv.writer(file, lineterminator="\n")
    names = list(Row.__dataclass_fields__)
    writer.writerow(names)
    for row in rows:
        values = [getattr(row, name) for name in names]
        writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in values])


def _cells(row: Row) -> tuple[str, ...]:
    known = not math.isnan(row.low)
    return (
        " ".join(row.task.split()),
        row.selector,
        f"{row.ratio:g}",
        str(row.n),
        str(row.errors),
        _number(100 * row.score),
        f"{100 * row.low:.1f} .. {100 * row.high:.1f}" if known else "-",
        _number(row.prompt_tokens),
        _number(row.visual_tokens),
        _number(row.kept),
        _number(1000 * row.first_token),
        _number(1000 * row.decode),
    )


def _remarks(rows: Sequence[Row]) -> list[str]:
    if any(row.errors for row in rows):
        return ["", "Questions that ended in an error have no part in the other columns."]
    return []


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.1f}"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def _task_variance(records: Sequence[Record]) -> float:
    scores = [record.score for record in records if record.error is None]
    if any(record.kind == "open" for record in records) and _spread(scores) > 0:
        return _spread(scores) / len(scores)
    # Agresti and Coull (1998): unlike s^2 / n it is not 0 where all scores are alike.
    n = len(scores) + Z * Z
    share = (sum(scores) + Z * Z / 2) / n
    return share * (1 - share) / n


def _spread(scores: Sequence[float]) -> float:
    """Variance of a sample; 0 where nothing can be said of it: one score, or all alike."""
    return statistics.variance(scores) if len(scores) > 1 else 0.0
