"""Asks every question with every configuration and keeps the answers in a file that a later run continues."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from PIL import Image

from ..images import ImageSource, load_image
from ..pruning import SELECTORS, Pruning
from .scoring import KINDS, score
from .tasks import Question, field, parse_object

__all__ = ["Config", "Record", "Results", "Settings", "evaluate", "grid"]

FORMAT: Final = 1  # of the results file
Progress = Callable[[int, int, int, int], None]  # done, of them asked in this run, all, errors


class AnswersQuestions(Protocol):
    """What the runner needs of a model: `generate` as in trimtok_cpp.Model."""

    def generate(
        self, images: Sequence[ImageSource], prompt: str, *, max_tokens: int, pruning: Pruning | None
    ) -> Any:
        """A Result."""


@dataclass(frozen=True)
class Config:
    """One column of the comparison: a selector and the share of visual tokens that it keeps."""

    selector: str
    ratio: float

    def pruning(self, options: Mapping[str, Any]) -> Pruning | None:
        """None for the whole of the tokens: nothing is selected then."""
        if self.ratio == 1.0:
            return None
        return Pruning(keep=self.ratio, selector=self.selector, **options)

    def __str__(self) -> str:  # noqa: D105
        return f"{self.selector}@{self.ratio:g}"


def grid(selectors: Iterable[str], ratios: Iterable[float]) -> list[Config]:
    """Every selector with every ratio. At ratio 1 all are the same and run once, as "none"."""
    ratios = list(ratios)
    found: dict[Config, None] = {}
    for selector in selectors:
        if selector not in SELECTORS:
            raise ValueError(f"[selector] is {selector!r}, must be one of {', '.join(SELECTORS)}")
        for ratio in [1.0] if selector == "none" else ratios:
            if not 0 < ratio <= 1:
                raise ValueError(f"[ratio] is {ratio}, must be a number in (0, 1]")
            found[Config("none" if ratio == 1 else selector, float(ratio))] = None
    return sorted(found, key=lambda config: config.ratio != 1.0)  # the reference first; sorting is stable


@dataclass(frozen=True)
class Settings:
    """What all answers of a results file have in common.

    max_tokens: of an answer. max_side: pixels; larger images are scaled down to it. pruning: further
    arguments of Pruning. about: anything else that answers or times depend on (model, device, version).
    """

    max_tokens: int = 32
    max_side: int | None = None
    pruning: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """One flat JSON object."""
        own = {"max_tokens": self.max_tokens, "max_side": self.max_side}
        pruning = {f"pruning.{name}": value for name, value in self.pruning.items()}
        flat: dict[str, Any] = json.loads(json.dumps({**own, **pruning, **self.about}))
        return flat


@dataclass(frozen=True)
class Record:
    """One answer, or the error that took its place (then the numbers are 0).

    prompt_tokens: rows that the language model read, the kept visual tokens included. visual_tokens: of the
    images before pruning. kept: visual tokens that the language model read.
    first_token: seconds of encoding, pruning and prefill. decode: seconds of the rest.
    """

    task: str
    id: str
    question: str
    kind: str
    selector: str
    ratio: float
    n_images: int
    text: str = ""
    score: float = 0.0
    prompt_tokens: int = 0
    visual_tokens: int = 0
    kept: int = 0
    first_token: float = 0.0
    decode: float = 0.0
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, str, float]:
        """A later record with the same key replaces an earlier one."""
        return self.task, self.id, self.selector, self.ratio

    @classmethod
    def from_json(cls, raw: Mapping[str, Any], where: str) -> Record:
        """Checks every field."""
        values: dict[str, Any] = {}
        for name in ("task", "id", "question", "kind", "selector", "text"):
            values[name] = field(raw, name, str, where)
        for name in ("n_images", "prompt_tokens", "visual_tokens", "kept"):
            values[name] = field(raw, name, int, where)
        for name in ("ratio", "score", "first_token", "decode"):
            values[name] = float(field(raw, name, (int, float), where))
        values["error"] = None if raw.get("error") is None else field(raw, "error", str, where)
        record = cls(**values)
        finite = math.isfinite(record.first_token + record.decode)
        if not (0 <= record.score <= 1 and 0 < record.ratio <= 1 and finite and record.kind in KINDS):
            raise ValueError(f"[{where}] holds a score, ratio, time or kind that is out of range")
        return record


class Results:
    """A results file: a first line with the settings, then one record per line, flushed one by one.

    With `settings` it is opened for writing and made if need be, otherwise only read. A last line without an
    end was cut off by a crash: it is taken off. Raises ValueError for a file of other settings or contents.
    """

    def __init__(self, path: str | os.PathLike[str], settings: Settings | None = None) -> None:
        self.path = Path(path)
        self.records: dict[tuple[str, str, str, float], Record] = {}
        self._file: BinaryIO | None = None
        size = self._read(settings) if settings is None or self.path.exists() else 0
        if settings is None:
            return
        if self.path.exists():
            os.truncate(self.path, size)
        self._file = self.path.open(
            "ab", buffering=0
        )  # appending: a second run would not write over this one
        if size == 0:
            self._write({"trimtok_eval": FORMAT, "settings": settings.as_dict()})

    def add(self, record: Record) -> None:
        """Appends one record."""
        self._write(dataclasses.asdict(record))
        self.records[record.key] = record

    def close(self) -> None:
        """May be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Results:  # noqa: D105
        return self

    def __exit__(self, *_: object) -> None:  # noqa: D105
        self.close()

    def _write(self, value: Mapping[str, Any]) -> None:
        assert self._file is not None
        line = json.dumps(value).encode() + b"\n"
        while line:  # an unbuffered write may take a part
            line = line[self._file.write(line) :]

    def _read(self, settings: Settings | None) -> int:
        """Reads all whole lines and returns where they end."""
        end = 0
        with self.path.open("rb") as file:
            for number in itertools.count(1):
                line = file.readline()
                if not line.endswith(b"\n"):
                    break
                where = f"{self.path}, line {number}"
                raw = parse_object(line, where)
                if number == 1:
                    self._check_head(raw, settings, where)
                else:
                    record = Record.from_json(raw, where)
                    self.records[record.key] = record
                end += len(line)
        if end == 0 and (settings is None or line):
            raise ValueError(f"[{self.path}] is no results file of trimtok eval; name another file")
        return end

    def _check_head(self, raw: Mapping[str, Any], settings: Settings | None, where: str) -> None:
        if raw.get("trimtok_eval") != FORMAT or not isinstance(raw.get("settings"), dict):
            raise ValueError(
                f"[{where}] is no results file of trimtok eval (format {FORMAT}); name another file"
            )
        if settings is None:
            return
        old, new = raw["settings"], settings.as_dict()
        changed = [
            f"{name} was {old.get(name)!r}, is {new.get(name)!r}"
            for name in dict.fromkeys([*old, *new])
            if old.get(name) != new.get(name)
        ]
        if changed:
            raise ValueError(
                f"[{self.path}] holds answers of other settings ({'; '.join(changed)}); "
                "name another results file or use the same settings"
            )


def evaluate(
    model: AnswersQuestions,
    questions: Sequence[Question],
    configs: Sequence[Config],
    results: Results,
    settings: Settings,
    *,
    retry_errors: bool = False,
    progress: Progress | None = None,
) -> list[Record]:
    """Answers what `results` does not hold yet, and returns the records of these questions and configs.

    All configurations of a question run one after the other, so that a table of an unfinished run compares
    the same questions. An answer to an older version of a question (its text or images changed) is asked
    again. An exception that a question raises becomes a record; only KeyboardInterrupt and its like end the
    run, after which the file is whole.
    """
    prunings = [(config, config.pruning(settings.pruning)) for config in configs]
    records: list[Record] = []
    asked = errors = 0
    total = len(questions) * len(configs)
    for question in questions:
        fingerprint = question.fingerprint()
        encode = _EncodeSeconds()
        for config, pruning in prunings:
            found = results.records.get((question.task, question.id, config.selector, config.ratio))
            if found is None or found.question != fingerprint or (retry_errors and found.error is not None):
                found = _ask(model, question, fingerprint, config, pruning, settings, encode)
                results.add(found)
                asked += 1
            records.append(found)
            errors += found.error is not None
            if progress is not None:
                progress(len(records), asked, total, errors)
    return records


class _EncodeSeconds:
    """Seconds that each image of a question took to encode: a model may remember it for the next setting."""

    def __init__(self) -> None:
        self._known: dict[int, float] = {}

    def total(self, seconds: Sequence[float]) -> float:
        for k, spent in enumerate(seconds):
            if spent > 0:
                self._known[k] = spent
        return sum(self._known.values())


def _ask(
    model: AnswersQuestions,
    question: Question,
    fingerprint: str,
    config: Config,
    pruning: Pruning | None,
    settings: Settings,
    encode: _EncodeSeconds,
) -> Record:
    record = Record(
        task=question.task,
        id=question.id,
        question=fingerprint,
        kind=question.kind,
        selector=config.selector,
        ratio=config.ratio,
        n_images=len(question.images),
    )
    try:
        images = [_image(path, k, settings.max_side) for k, path in enumerate(question.images)]
        result = model.generate(images, question.prompt, max_tokens=settings.max_tokens, pruning=pruning)
        if result.finish_reason == "cancelled":  # somebody stopped the model: no answer to be scored
            raise KeyboardInterrupt
        seconds = encode.total(result.timings.encode)
        return _answered(record, question, result, None if pruning is None else result.pruning, seconds)
    except Exception as error:
        text = " ".join(str(error).split())
        return dataclasses.replace(record, error=f"{type(error).__name__}: {text}"[:2000])


def _answered(record: Record, question: Question, result: Any, report: Any, encode: float) -> Record:
    usage, timings = result.usage, result.timings
    return dataclasses.replace(
        record,
        text=result.text,
        score=score(result.text, question.answer, question.kind, question.matching, question.choices),
        prompt_tokens=usage.prompt_tokens,
        visual_tokens=usage.visual_tokens if report is None else report.n_total,
        kept=usage.visual_tokens if report is None else report.n_kept,
        first_token=encode + timings.prefill + _prune_seconds(report),
        decode=timings.decode,
    )


def _prune_seconds(report: Any) -> float:
    if report is None or report.reason:
        return 0.0
    return float(sum(report.seconds.values()))


def _image(path: Path, index: int, max_side: int | None) -> ImageSource:
    """The path itself, or the image scaled down so that no side is longer than `max_side`."""
    if max_side is None:
        return path
    pixels = load_image(path, index)
    height, width = pixels.shape[:2]
    if max(height, width) <= max_side:
        return pixels
    scale = max_side / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
