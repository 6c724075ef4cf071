"""Questions with known answers, and the JSON lines files that hold them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..prompt import IMAGE_TAG
from .scoring import KINDS, MATCHINGS, check_answer, words

__all__ = ["Question", "read_questions"]

MAX_LINE: Final = 1 << 24  # bytes; a question is a few kB
MAX_ANSWER: Final = 10_000  # characters; scoring compares every word with every word
MAX_IMAGES: Final = 1_000
_FIELDS: Final = ("id", "task", "images", "prompt", "choices", "answer", "kind", "matching")


@dataclass(frozen=True)
class Question:
    """One question. `images` are paths; `prompt` is sent as it stands.

    answer: the expected text; for kind "choice" it is one of `choices`.
    kind: "choice" (accuracy), "open" (ROUGE-L), "needle" (words contained) or "contained" (text contained).
    matching: "words", or "milebench" for the rules of the published scorer; see docs/eval.md.
    """

    id: str
    task: str
    images: tuple[Path, ...]
    prompt: str
    answer: str
    kind: str
    choices: tuple[str, ...] = ()
    matching: str = "words"

    def fingerprint(self) -> str:
        """Changes with everything that may change answer or score: texts, and names and sizes of the images.

        Folders are left out, so that data may move.
        """
        images = [(path.name, _size(path)) for path in self.images]
        content = [images, self.prompt, self.answer, self.kind, self.choices, self.matching]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def read_questions(path: str | os.PathLike[str]) -> list[Question]:
    """Reads a file of JSON lines, one question each; docs/eval.md describes the fields.

    Raises OSError for a file that cannot be read and ValueError, naming file and line, for everything that is
    not as described.
    """
    path = Path(path)
    questions: list[Question] = []
    seen: dict[tuple[str, str], int] = {}
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_LINE + 1):
            number += 1
            where = f"{path}, line {number}"
            if len(line) > MAX_LINE:
                raise ValueError(f"[{where}] is longer than {MAX_LINE} bytes; write one question per line")
            if not line.strip():
                continue
            question = _question(parse_object(line, where), path.parent, where)
            first = seen.setdefault((question.task, question.id), number)
            if first != number:
                raise ValueError(
                    f"[{where}] repeats the id {question.id!r} of task {question.task!r} from line {first}; "
                    "ids must differ within a task"
                )
            questions.append(question)
    if not questions:
        raise ValueError(f"[{path}] holds no question; write one JSON object per line")
    return questions


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in `data`, or a ValueError that begins with `where`."""
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"[{where}] is not JSON in UTF-8: {error or 'nested too deeply'}") from None
    if not isinstance(value, dict):
        raise ValueError(f"[{where}] holds a JSON {type(value).__name__}, must be an object {{...}}")
    return value


def field(record: Mapping[str, Any], name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """A field that must be there with one of the given types; true and false are no numbers."""
    if name not in record:
        raise ValueError(f"[{where}] has no field {name!r}")
    value = record[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = " or ".join(_NAMES[k] for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"[{where}] the field {name!r} is {_short(value)}, must be {wanted}")
    if isinstance(value, str):
        check_text(value, name, where)
    return value


def texts(values: Sequence[Any], name: str, where: str) -> tuple[str, ...]:
    """The entries of a list, which must be texts that are not blank."""
    for index, value in enumerate(values):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"[{where}] the field {name!r} holds {_short(value)} at {index}, must be text")
        check_text(value, name, where)
    return tuple(values)


def check_text(text: str, name: str, where: str) -> None:
    """JSON can spell halves of a character, which no tokenizer and no file can take."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"[{where}] the field {name!r} holds a lone surrogate; must be Unicode") from None


def check_reference(answer: str, kind: str, matching: str, where: str) -> None:
    """An answer that scoring could never find is refused at once."""
    if len(answer) > MAX_ANSWER:
        raise ValueError(
            f"[{where}] the answer has {len(answer)} characters, at most {MAX_ANSWER} are allowed"
        )
    if not check_answer(answer, kind, matching):
        raise ValueError(f"[{where}] the answer {_short(answer)} has no word in it")


def _question(record: dict[str, Any], folder: Path, where: str) -> Question:
    for name in record:
        if name not in _FIELDS:
            raise ValueError(f"[{where}] has the unknown field {name!r}; known are {', '.join(_FIELDS)}")
    kind = _one_of("kind", field(record, "kind", str, where), KINDS, where)
    matching = _one_of("matching", record.get("matching", "words"), MATCHINGS, where)
    images = texts(field(record, "images", list, where), "images", where)
    if len(images) > MAX_IMAGES:
        raise ValueError(f"[{where}] has {len(images)} images, at most {MAX_IMAGES} are allowed")
    prompt = field(record, "prompt", str, where)
    places = prompt.count(IMAGE_TAG)
    if places not in (0, len(images)):
        raise ValueError(
            f"[{where}] the prompt holds {places} {IMAGE_TAG} for {len(images)} image(s); "
            "write one for each or none"
        )
    identity = str(field(record, "id", (str, int), where))
    task = field(record, "task", str, where)
    if not identity or not task:
        raise ValueError(f"[{where}] the fields 'id' and 'task' must not be empty")
    choices, answer = _answer(record, kind, matching, where)
    check_reference(answer, kind, matching, where)
    paths = tuple(folder / image for image in images)
    return Question(identity, task, paths, prompt, answer, kind, choices, matching)


def _answer(record: dict[str, Any], kind: str, matching: str, where: str) -> tuple[tuple[str, ...], str]:
    if kind != "choice":
        if record.get("choices") is not None:
            raise ValueError(f"[{where}] has choices, which the kind {kind!r} does not; use kind 'choice'")
        return (), field(record, "answer", str, where)
    choices = texts(field(record, "choices", list, where), "choices", where)
    if len(choices) < 2:
        raise ValueError(f"[{where}] has {len(choices)} choice(s), must be at least 2")
    if matching == "words" and len({tuple(words(choice)) for choice in choices}) < len(choices):
        raise ValueError(f"[{where}] has choices that differ in nothing but case or punctuation")
    answer = field(record, "answer", (str, int), where)
    if isinstance(answer, int):
        if not 0 <= answer < len(choices):
            raise ValueError(f"[{where}] the answer is {answer}, must be in 0..{len(choices) - 1}")
        return choices, choices[answer]
    if answer not in choices:
        raise ValueError(
            f"[{where}] the answer {_short(answer)} is none of the choices; use its index or text"
        )
    return choices, answer


def _one_of(name: str, value: Any, allowed: Sequence[str], where: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"[{where}] the field {name!r} is {_short(value)}, must be one of {', '.join(allowed)}"
        )
    return value


_NAMES: Final = {str: "text", int: "an integer", list: "a list", dict: "an object", float: "a number"}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
