"""Reads the task folders of MileBench (arXiv 2404.18532, github.com/MileBench/MileBench).

A folder `Task` holds `Task.json` and `images/`. The file has "meta_data" with "question_type" and the list
"task_instruction", and "data", whose records have "sample_id", "task_instruction_id", "response" and
"task_instance" with "context", "images_path" and, for multiple choice, "choice_list".
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ..prompt import IMAGE_TAG
from .scoring import _milebench_text
from .tasks import Question, check_reference, check_text, field, parse_object, texts

__all__ = ["read_milebench"]

MAX_FILE: Final = 1 << 30  # bytes; the largest published one has a few MB
_PLACE = re.compile(r"\{(?:image|table)#(\d{1,4})\}")
_QUESTION_TYPES: Final = {"multi-choice": "choice", "open-ended": "open"}


def read_milebench(path: str | os.PathLike[str]) -> list[Question]:
    """Questions of one task folder, of every task folder in a folder, or of one JSON file in a task folder.

    Prompts and scoring rules are those of the published code. Unknown fields are ignored; what is missing or
    of the wrong type is a ValueError that names file and record. Raises OSError for unreadable files.
    """
    path = Path(path)
    if not path.is_dir():
        return _read_task(path)
    files = [folder / f"{folder.name}.json" for folder in [path.resolve(), *sorted(path.iterdir())]]
    files = [file for file in files if file.is_file()]
    if not files:
        raise ValueError(
            f"[{path}] holds no MileBench task; expected {path.name}.json or folders X with X.json"
        )
    return [question for file in files for question in _read_task(file)]


def _read_task(path: Path) -> list[Question]:
    size = path.stat().st_size
    if size > MAX_FILE:
        raise ValueError(f"[{path}] has {size} bytes, at most {MAX_FILE} are read")
    where = str(path)
    content = parse_object(path.read_bytes(), where)
    meta = field(content, "meta_data", dict, where)
    instructions = texts(field(meta, "task_instruction", list, where), "task_instruction", where)
    folder = path.resolve().parent
    kind = _kind(folder.name, field(meta, "question_type", str, where), where)
    questions: list[Question] = []
    seen: dict[str, int] = {}
    for index, record in enumerate(field(content, "data", list, where)):
        here = f"{path}, data[{index}]"
        if not isinstance(record, dict):
            raise ValueError(f"[{here}] is a JSON {type(record).__name__}, must be an object")
        question = _question(record, folder, path.stem, kind, instructions, here)
        first = seen.setdefault(question.id, index)
        if first != index:
            raise ValueError(f"[{here}] repeats the sample_id {question.id} of data[{first}]")
        questions.append(question)
    if not questions:
        raise ValueError(f"[{path}] has an empty list 'data'")
    return questions


def _kind(folder: str, question_type: str, where: str) -> str:
    if "NeedleInAHaystack" in folder:
        return "needle"
    if "MMCoQA" in folder:
        return "contained"
    if question_type not in _QUESTION_TYPES:
        raise ValueError(
            f"[{where}] the question_type is {question_type!r}, must be one of {', '.join(_QUESTION_TYPES)}"
        )
    return _QUESTION_TYPES[question_type]


def _question(
    record: Mapping[str, Any], folder: Path, task: str, kind: str, instructions: tuple[str, ...], where: str
) -> Question:
    identity = str(field(record, "sample_id", (int, str), where))
    number = field(record, "task_instruction_id", int, where)
    if not 0 <= number < len(instructions):
        raise ValueError(f"[{where}] task_instruction_id is {number}, must be in 0..{len(instructions) - 1}")
    instance = field(record, "task_instance", dict, where)
    context = field(instance, "context", str, where)
    names = texts(field(instance, "images_path", list, where), "images_path", where)
    answer = str(field(record, "response", (str, int, float), where))
    check_text(answer, "response", where)
    choices: tuple[str, ...] = ()
    if kind == "choice" or "choice_list" in instance:
        choices = tuple(str(choice) for choice in field(instance, "choice_list", list, where))
        texts(choices, "choice_list", where)
        context += _choice_list(choices, letters=folder.name != "GPR1200")
    if kind != "choice":
        choices = ()
        check_reference(answer, kind, "milebench", where)
    elif _milebench_text(answer) not in map(_milebench_text, choices):
        raise ValueError(f"[{where}] the response {answer[:80]!r} is none of the choices")
    prompt, images = _place(f"{instructions[number]}\n{context}", names)
    paths = tuple(folder / "images" / name for name in images)
    return Question(identity, task, paths, prompt, answer, kind, choices, "milebench")


def _choice_list(choices: tuple[str, ...], *, letters: bool) -> str:
    # GPR1200 has more options than there are letters; the published prompt lists them bare.
    lines = [f"{chr(65 + k)}. {choice}" if letters else choice for k, choice in enumerate(choices)]
    return "\nChoice list: \n" + "\n".join(lines) + "\nYour answer is: "


def _place(text: str, names: tuple[str, ...]) -> tuple[str, list[str]]:
    """`text` with a tag at every place that names an image, and the images in that order.

    Images that no place names go in front; a place without an image stays text, as in the published code.
    """
    placed: list[int] = []

    def tag(match: re.Match[str]) -> str:
        index = int(match[1]) - 1
        if not 0 <= index < len(names):
            return match[0]
        placed.append(index)
        return IMAGE_TAG

    # A tag that the text itself spells out would count as a place.
    text = _PLACE.sub(tag, text.replace(IMAGE_TAG, IMAGE_TAG.title()))
    unplaced = [index for index in range(len(names)) if index not in set(placed)]
    if not placed:
        return text, list(names)
    return IMAGE_TAG * len(unplaced) + text, [names[index] for index in unplaced + placed]
