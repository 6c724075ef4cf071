"""How many answers a precision policy changes: greedy answers to questions, against compute="f32".

    python tools/tiny/make_tasks.py --split test --out build/quality/test  # as docs/quality.md has
    python benchmarks/policy_answers.py build/quality/test/n02.jsonl build/quality/test/n08.jsonl

Prints, per policy and kept share, the answers that differ, and the mean score of both. The bar is 0.5 %.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from trimtok_cpp import Model, UnsupportedError
from trimtok_cpp.demo import TINY
from trimtok_cpp.eval.scoring import score
from trimtok_cpp.eval.tasks import Question, read_questions

POLICIES = ("auto", "bf16", "int8")


def answers(args: argparse.Namespace, questions: Sequence[Question], compute: str) -> dict[float, list[str]]:
    """The answers by kept share, in the order of the questions."""
    model = Model(args.model, compute=compute, n_threads=args.threads)
    found: dict[float, list[str]] = {keep: [] for keep in args.keep}
    for question in questions:
        for keep in args.keep:
            pruning = None if keep == 1 else keep
            result = model.generate(
                list(question.images), question.prompt, max_tokens=16, pruning=pruning, seed=0
            )
            found[keep].append(result.text)
    return found


def accuracy(questions: Sequence[Question], texts: Sequence[str]) -> float:
    return sum(
        score(text, q.answer, q.kind, q.matching, q.choices) for q, text in zip(questions, texts, strict=True)
    ) / len(questions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("questions", type=Path, nargs="+", help="JSON lines files, see docs/eval.md")
    parser.add_argument("--model", type=Path, default=TINY, help="default: the model that comes along")
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--keep", type=float, nargs="+", default=[1.0, 0.5, 0.2])
    parser.add_argument("--limit", type=int, help="questions per file")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    questions = [q for path in args.questions for q in read_questions(path)[: args.limit]]
    exact = answers(args, questions, "f32")
    rows = []
    for compute in args.policies:
        try:
            found = answers(args, questions, compute)
        except UnsupportedError as error:
            print(f"{compute}: {error}")
            continue
        for keep, texts in found.items():
            changed = sum(a != b for a, b in zip(texts, exact[keep], strict=True))
            row = {
                "compute": compute,
                "keep": keep,
                "questions": len(questions),
                "changed": changed,
                "score": accuracy(questions, texts),
                "score_f32": accuracy(questions, exact[keep]),
            }
            rows.append(row)
            print(
                f"{compute:<5} keep {keep:<4g} {changed:>4} of {len(questions)} answers differ"
                f" ({changed / len(questions):.2%}); score {row['score']:.1%}, f32 {row['score_f32']:.1%}",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
