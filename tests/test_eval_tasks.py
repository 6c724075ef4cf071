"""Task files and MileBench folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trimtok_cpp.eval import Question, read_milebench, read_questions

LINE: dict[str, Any] = {
    "id": "q1",
    "task": "count",
    "images": ["a.png", "sub/b.png"],
    "prompt": "<image><image>How many?",
    "choices": ["1", "2"],
    "answer": 1,
    "kind": "choice",
}


def write_lines(path: Path, *lines: dict[str, Any] | str) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    path.write_text(text, "utf-8")
    return path


def test_a_task_file(tmp_path: Path) -> None:
    open_one = {"id": 2, "task": "t", "images": [], "prompt": "Say it", "answer": "it", "kind": "open"}
    path = write_lines(tmp_path / "t.jsonl", LINE, "", open_one)
    first, second = read_questions(path)
    assert first == Question(
        id="q1",
        task="count",
        images=(tmp_path / "a.png", tmp_path / "sub/b.png"),
        prompt="<image><image>How many?",
        answer="2",
        kind="choice",
        choices=("1", "2"),
    )
    assert (second.id, second.images, second.choices, second.matching) == ("2", (), (), "words")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, "'id' is None, must be text or an integer"),
        ({"id": True}, "'id' is True"),
        ({"id": ""}, "must not be empty"),
        ({"task": 5}, "'task' is 5, must be text"),
        ({"images": "a.png"}, "'images' is 'a.png', must be a list"),
        ({"images": ["a.png", 5]}, "'images' holds 5 at 1, must be text"),
        ({"images": ["a.png", " "]}, "'images' holds ' ' at 1"),
        ({"images": ["a.png"]}, "holds 2 <image> for 1 image"),
        ({"images": ["a.png"] * 1001}, "1001 images, at most 1000"),
        ({"prompt": "\ud800"}, "lone surrogate"),
        ({"choices": ["1"]}, "1 choice(s), must be at least 2"),
        ({"choices": ["a cat", "A cat!"]}, "differ in nothing but case"),
        ({"answer": 2}, "answer is 2, must be in 0..1"),
        ({"answer": -1}, "answer is -1"),
        ({"answer": True}, "'answer' is True"),
        ({"answer": "3"}, "'3' is none of the choices"),
        ({"kind": "guess"}, "'kind' is 'guess', must be one of choice, open, needle, contained"),
        ({"kind": "open"}, "has choices, which the kind 'open' does not"),
        ({"matching": "loose"}, "'matching' is 'loose', must be one of words, milebench"),
        ({"anwser": 1}, "unknown field 'anwser'"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    good = LINE | {"id": "q0"}
    path = write_lines(tmp_path / "t.jsonl", good, LINE | change)
    with pytest.raises(ValueError, match=r"t\.jsonl, line 2\]") as caught:
        read_questions(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("missing", ["id", "task", "images", "prompt", "answer", "kind", "choices"])
def test_a_missing_field_is_named(tmp_path: Path, missing: str) -> None:
    line = {name: value for name, value in LINE.items() if name != missing}
    with pytest.raises(ValueError, match=f"line 1\\] has no field '{missing}'"):
        read_questions(write_lines(tmp_path / "t.jsonl", line))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{"], "line 1] is not JSON"),
        (["[" * 100_000], "line 1] is not JSON"),
        (["[]"], "line 1] holds a JSON list"),
        (['{"id": NaN}'], "NaN is not JSON"),
        ([], "holds no question"),
        ([LINE, LINE], "line 2] repeats the id 'q1' of task 'count' from line 1"),
        ([LINE | {"kind": "open", "choices": None, "answer": ""}], "has no word in it"),
        ([LINE | {"kind": "needle", "choices": None, "answer": "x" * 10_001}], "10001 characters"),
    ],
)
def test_a_bad_file(tmp_path: Path, lines: list[dict[str, Any] | str], message: str) -> None:
    path = write_lines(tmp_path / "t.jsonl", *lines)
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read_questions(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_bytes(b"\xff\xfe{}\n")
    with pytest.raises(ValueError, match="line 1"):
        read_questions(tmp_path / "t.jsonl")


# --- MileBench -------------------------------------------------------------------------------------------


def milebench(root: Path, name: str, question_type: str, *records: dict[str, Any]) -> Path:
    folder = root / name
    (folder / "images").mkdir(parents=True)
    content = {
        "meta_data": {
            "dataset": name,
            "question_type": question_type,
            "task_instruction": ["Look.", "Compare the images."],
        },
        "data": list(records),
    }
    (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return folder


def sample(
    number: int, context: str, images: list[str], response: Any, choices: list[str] | None = None
) -> dict[str, Any]:
    instance: dict[str, Any] = {"context": context, "images_path": images, "some_new_field": 1}
    if choices is not None:
        instance["choice_list"] = choices
    return {
        "sample_id": number,
        "task_instruction_id": 1,
        "task_instance": instance,
        "response": response,
        "image_quantity_level": "Few",
    }


def test_milebench_multiple_choice(tmp_path: Path) -> None:
    record = sample(7, "{image#1} or {table#2}: which?", ["x.jpg", "y.jpg"], "Left", ["Left", "Right"])
    folder = milebench(tmp_path, "StateChange", "multi-choice", record)
    (question,) = read_milebench(folder)
    assert question == Question(
        id="7",
        task="StateChange",
        images=(folder / "images/x.jpg", folder / "images/y.jpg"),
        prompt="Compare the images.\n<image> or <image>: which?\nChoice list: \n"
        "A. Left\nB. Right\nYour answer is: ",
        answer="Left",
        kind="choice",
        choices=("Left", "Right"),
        matching="milebench",
    )


def test_milebench_kinds_and_a_folder_of_tasks(tmp_path: Path) -> None:
    milebench(tmp_path, "WikiVQA", "open-ended", sample(0, "{image#1}?", ["x.jpg"], "a boat"))
    milebench(tmp_path, "TextNeedleInAHaystack", "open-ended", sample(0, "{image#1}?", ["x.jpg"], 482))
    milebench(tmp_path, "MMCoQA", "open-ended", sample(0, "{image#1}?", ["x.jpg"], "boat"))
    many = [f"option {k}" for k in range(40)]
    milebench(tmp_path, "GPR1200", "multi-choice", sample(0, "{image#1}?", ["x.jpg"], "option 39", many))
    (tmp_path / "notes").mkdir()
    found = {question.task: question for question in read_milebench(tmp_path)}
    assert {task: question.kind for task, question in found.items()} == {
        "GPR1200": "choice",
        "MMCoQA": "contained",
        "TextNeedleInAHaystack": "needle",
        "WikiVQA": "open",
    }
    assert found["TextNeedleInAHaystack"].answer == "482"
    assert "\noption 0\noption 1\n" in found["GPR1200"].prompt  # no letters: there are not enough


def test_milebench_places(tmp_path: Path) -> None:
    records = [
        sample(0, "{image#2} then {image#1}, {image#9}", ["x.jpg", "y.jpg", "z.jpg"], "yes"),
        sample(1, "no places", ["x.jpg", "y.jpg"], "yes"),
        sample(2, "{image#1} and again {image#1} <image>", ["x.jpg"], "yes"),
    ]
    first, second, third = read_milebench(milebench(tmp_path, "TQA", "open-ended", *records))
    assert [path.name for path in first.images] == ["z.jpg", "y.jpg", "x.jpg"]
    assert first.prompt == "<image>Compare the images.\n<image> then <image>, {image#9}"
    assert [path.name for path in second.images] == ["x.jpg", "y.jpg"]
    assert "<image>" not in second.prompt
    assert [path.name for path in third.images] == ["x.jpg", "x.jpg"]
    assert third.prompt.count("<image>") == 2


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("sample_id",), None, "has no field 'sample_id'"),
        (("response",), None, "has no field 'response'"),
        (("response",), "Up", "'Up' is none of the choices"),
        (("task_instruction_id",), 2, "task_instruction_id is 2, must be in 0..1"),
        (("task_instance",), None, "has no field 'task_instance'"),
        (("task_instance", "context"), None, "has no field 'context'"),
        (("task_instance", "images_path"), None, "has no field 'images_path'"),
        (("task_instance", "images_path"), [3], "'images_path' holds 3"),
        (("task_instance", "choice_list"), None, "has no field 'choice_list'"),
        (("sample_id",), 0, "repeats the sample_id 0 of data[0]"),
    ],
)
def test_a_bad_milebench_record_is_named(
    tmp_path: Path, path: tuple[str, ...], value: Any, message: str
) -> None:
    records = [sample(k, "{image#1}?", ["x.jpg"], "Left", ["Left", "Right"]) for k in range(2)]
    parent = records[1]
    for name in path[:-1]:
        parent = parent[name]
    if value is None:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    folder = milebench(tmp_path, "StateChange", "multi-choice", *records)
    with pytest.raises(ValueError, match=r"StateChange\.json, data\[1\]") as caught:
        read_milebench(folder)
    assert message in str(caught.value)


def test_a_bad_milebench_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no MileBench task"):
        read_milebench(tmp_path)
    folder = milebench(tmp_path, "TQA", "essay", sample(0, "", ["x.jpg"], "yes"))
    with pytest.raises(ValueError, match=r"TQA\.json\] the question_type is 'essay'"):
        read_milebench(folder)
    (folder / "TQA.json").write_text("{}")
    with pytest.raises(ValueError, match=r"TQA\.json\] has no field 'meta_data'"):
        read_milebench(folder / "TQA.json")
