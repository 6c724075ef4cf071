"""From the answers of run.py, which calls this, to docs/quality.md, its CSV and its pictures."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import grids

from trimtok_cpp.eval import Record, Results, Row, aggregate
from trimtok_cpp.eval.table import MEAN

ROOT = Path(__file__).resolve().parent.parent.parent
OTHERS = ("trimtokenator", "divprune", "cdpruner", "grid_pool", "uniform", "random")
LONG = (16, 32)  # numbers of images that the goal speaks of


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row of the evaluation's table with what all its questions have in common."""

    group: str
    n_images: int  # 0: all numbers
    row: Row


def read_cells(folder: Path, image_size: int) -> list[Cell]:
    cells: list[Cell] = []
    answers: dict[str, list[Record]] = {}
    for run in grids.runs(image_size):
        path = run.results(folder)
        if not path.exists():
            continue
        records = list(Results(path).records.values())
        if run.max_side is not None:  # told apart by the ratio that the shrinking stands for
            ratio = (run.max_side / image_size) ** 2
            ratio = min(grids.RATIOS, key=lambda r: abs(r - ratio))
            records = [dataclasses.replace(r, ratio=ratio, selector=run.group) for r in records]
        answers.setdefault(run.group, []).extend(records)
    for group, records in answers.items():
        for n in sorted({record.n_images for record in records}):
            cells += [Cell(group, n, row) for row in aggregate(r for r in records if r.n_images == n)]
        # A question's id is its own within a number of images only.
        named = [dataclasses.replace(r, id=f"{r.n_images}-{r.id}") for r in records]
        cells += [Cell(group, 0, row) for row in aggregate(named)]
        long = [r for r in named if r.n_images in LONG]
        cells += [Cell(group, -1, row) for row in aggregate(long)]
    return cells


def write_csv(cells: Iterable[Cell], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        names = [field.name for field in dataclasses.fields(Row)]
        writer.writerow(["group", "images", *names])
        for cell in cells:
            values = [getattr(cell.row, name) for name in names]
            images = {0: "all", -1: "long"}.get(cell.n_images, cell.n_images)
            writer.writerow([cell.group, images, *(_short(value) for value in values)])


def _short(value: Any) -> Any:
    return f"{value:.5g}" if isinstance(value, float) else value


class Table:
    """Looks cells up."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._rows = {(c.group, c.n_images, c.row.task, c.row.selector, c.row.ratio): c.row for c in cells}

    def find(self, group: str, n: int, task: str, selector: str, ratio: float) -> Row | None:
        if ratio == 1.0:
            group, selector = "main", "none"
        return self._rows.get((group, n, task, selector, ratio))

    def tasks(self) -> list[str]:
        return list(dict.fromkeys(key[2] for key in self._rows if key[0] == "main" and key[1] > 0))


def score(row: Row | None) -> str:
    if row is None:
        return ""
    half = 100 * (row.high - row.low) / 2
    return f"{100 * row.score:.1f} ± {half:.1f}"


def lines_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    align = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (head, align, *rows)]


def by_ratio(table: Table, n: int, task: str, cell: Callable[[Row | None], str]) -> list[str]:
    groups = dict.fromkeys((grids.DEFAULT, *OTHERS), "main") | {"downsampled": "downsampled"}
    rows = [
        [name, *(cell(table.find(group, n, task, name, ratio)) for ratio in grids.RATIOS)]
        for name, group in groups.items()
    ]
    return lines_of(["selector", *(f"{100 * r:g} %" for r in grids.RATIOS)], rows)


def milliseconds(row: Row | None) -> str:
    return "" if row is None else f"{1000 * row.first_token:.0f}"


def ablations(table: Table) -> list[str]:
    head = [
        "",
        *(f"{n} images, {100 * r:g} %" for n in grids.ABLATION_NUMBERS for r in grids.ABLATION_RATIOS),
    ]
    rows = []
    for name in ("main", *grids.ABLATIONS):
        cells = [
            score(table.find(name, n, MEAN, grids.DEFAULT, r))
            for n in grids.ABLATION_NUMBERS
            for r in grids.ABLATION_RATIOS
        ]
        rows.append(["default" if name == "main" else f"`{name}`", *cells])
    return lines_of(head, rows)


def plot(table: Table, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(grids.NUMBERS), figsize=(14, 4), sharey=True, layout="constrained")
    for axis, n in zip(axes, grids.NUMBERS, strict=True):
        for name in (grids.DEFAULT, *OTHERS):
            found = [table.find("main", n, MEAN, name, r) for r in grids.RATIOS]
            points = [(r, row) for r, row in zip(grids.RATIOS, found, strict=True) if row is not None]
            bold = name == grids.DEFAULT
            axis.plot(
                [100 * r for r, _ in points],
                [100 * row.score for _, row in points],
                marker="o",
                label=name,
                linewidth=2.5 if bold else 1,
                zorder=3 if bold else 2,
            )
        axis.set(title=f"{n} images", xlabel="visual tokens kept, %", xscale="log")
        axis.set_xticks([100 * r for r in grids.RATIOS], [f"{100 * r:g}" for r in grids.RATIOS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean accuracy of seven tasks, %")
    axes[-1].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def document(table: Table) -> str:
    tasks = [task for task in table.tasks() if task not in (MEAN, "all questions")]
    lines = [
        "# Quality: what is lost when visual tokens go",
        "",
        "Accuracy of the shipped model [`trimtok-tiny`](trimtok-tiny.md) on its test split, in per cent,",
        "with 95 % intervals. Made by `python tools/quality/run.py`;",
        "all cells are in [quality.csv](quality.csv). A row of the first tables is the mean over the tasks.",
        "",
        "![Accuracy over the share of kept tokens](img/quality.png)",
        "",
        "`downsampled` is a control: pictures are shrunk to that share of their pixels before the tower sees",
        "them. A tower of a fixed size makes as many tokens as before of them, so it saves nothing; it says",
        "how little of the pictures these questions need.",
        f"525 questions for each number of images, {7 * grids.FEWER} for `downsampled` and single settings.",
        "",
    ]
    for n in (-1, *grids.NUMBERS):
        what = "16 and 32 images" if n == -1 else f"{n} images"
        lines += [f"## {what}", "", *by_ratio(table, n, MEAN, score), ""]
    for ratio in (0.2, 0.1):
        names = [grids.DEFAULT, *OTHERS]
        rows = [["none (all tokens)", *(score(table.find("main", -1, t, "none", 1.0)) for t in tasks)]]
        rows += [[name, *(score(table.find("main", -1, t, name, ratio)) for t in tasks)] for name in names]
        lines += [f"## By task, 16 and 32 images, {100 * ratio:g} % of the tokens", ""]
        lines += [*lines_of(["selector", *tasks], rows), ""]
    lines += ["## Time to the first token, milliseconds, 32 images", ""]
    lines += [
        "One thread, while other work ran: to be compared within the table. Pictures were encoded before.",
        "",
    ]
    lines += [*by_ratio(table, 32, "all questions", milliseconds), ""]
    lines += [
        "## What our own choices are worth",
        "",
        "Mean of the tasks, `trimtokenator-lc` with one setting changed; `default` over all questions.",
        "",
    ]
    lines += ablations(table)
    return "\n".join(lines) + "\n"


def write(results: Path, image_size: int, docs: Path) -> None:
    """quality.md, quality.csv and img/quality.png from the answers in `results`."""
    cells = read_cells(results, image_size)
    table = Table(cells)
    write_csv(cells, docs / "quality.csv")
    (docs / "img").mkdir(parents=True, exist_ok=True)
    plot(table, docs / "img" / "quality.png")
    (docs / "quality.md").write_text(document(table), encoding="utf-8")
