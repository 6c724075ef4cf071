"""What the quality table is made of: the runs, their settings, and where their answers lie."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from trimtok_cpp.eval import Config, grid
from trimtok_cpp.pruning import SELECTORS

NUMBERS: Final = (2, 8, 16, 32)  # images of a question; one file of questions each
RATIOS: Final = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
ABLATION_RATIOS: Final = (0.2, 0.1)
ABLATION_NUMBERS: Final = (8, 32)
FEWER: Final = 40  # questions of a task for everything but the main table
DEFAULT: Final = "trimtokenator-lc"

#: Each changes one of our own choices and leaves the rest at the default.
ABLATIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    "stage1=max_sum": {"stage1": "max_sum"},
    "stage1=facility": {"stage1": "facility"},
    "d_inter=sequence": {"d_inter": "sequence"},
    "d_inter=token": {"d_inter": "token"},
    "alpha=0 (no stage 1)": {"alpha": 0.0},
    "alpha=0.5": {"alpha": 0.5},
    "alpha=1 (no stage 2)": {"alpha": 1.0},
    "inter_weight=0": {"inter_weight": 0.0},
    "inter_weight=0.25": {"inter_weight": 0.25},
    "inter_weight=0.75": {"inter_weight": 0.75},
    "inter_weight=1 (blind to borders)": {"inter_weight": 1.0},
    "pool=1 (no Pareto step)": {"pool": 1.0},
    "pool=1.5": {"pool": 1.5},
    "pool=3": {"pool": 3.0},
    "align=l2": {"align": "l2"},
    "pareto_weight=0": {"pareto_weight": 0.0},
    "pareto_weight=1": {"pareto_weight": 1.0},
    "positions=compact": {"positions": "compact"},
}


@dataclasses.dataclass(frozen=True)
class Run:
    """One results file: questions about `n` images, `configs` under common settings."""

    group: str  # "main", "downsampled" or the name of an ablation
    n: int
    configs: tuple[Config, ...]
    pruning: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_side: int | None = None
    limit: int | None = None  # questions of each task; None: all

    def results(self, folder: Path) -> Path:
        """Where its answers are kept."""
        name = "".join(c if c.isalnum() or c in "=._" else "-" for c in self.group)
        return folder / f"{name}-n{self.n:02d}{'' if self.max_side is None else f'-{self.max_side}px'}.jsonl"


def runs(image_size: int) -> Iterator[Run]:
    """Every run, the most wanted first."""
    full = Config("none", 1.0)
    for n in NUMBERS:
        yield Run("main", n, tuple(grid([DEFAULT, *(s for s in SELECTORS if s != DEFAULT)], RATIOS)))
    for name, options in ABLATIONS.items():
        for n in ABLATION_NUMBERS:
            yield Run(
                name, n, tuple(Config(DEFAULT, ratio) for ratio in ABLATION_RATIOS), options, limit=FEWER
            )
    # The tower makes as many tokens of a small picture as of a large one; what shrinks is what they can tell.
    for ratio in RATIOS[1:]:
        for n in NUMBERS:
            yield Run("downsampled", n, (full,), max_side=round(image_size * ratio**0.5), limit=FEWER)
