"""Compares selectors and ratios on questions with known answers.

`trimtok eval` or `python -m trimtok_cpp.eval`; docs/eval.md describes task files, scoring and the table.
"""

from .command import add_arguments, main, run
from .milebench import read_milebench
from .runner import Config, Record, Results, Settings, evaluate, grid
from .scoring import match_choice, rouge_l, score
from .table import Row, aggregate, markdown, plain, write_csv
from .tasks import Question, read_questions

__all__ = [
    "Config",
    "Question",
    "Record",
    "Results",
    "Row",
    "Settings",
    "add_arguments",
    "aggregate",
    "evaluate",
    "grid",
    "main",
    "markdown",
    "match_choice",
    "plain",
    "read_milebench",
    "read_questions",
    "rouge_l",
    "run",
    "score",
    "write_csv",
]
