"""Fixtures that several test files share."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernel_builds import build, need

from trimtok_cpp import Model, Result, _core
from trimtok_cpp.images import load_image

ROOT = Path(__file__).resolve().parent.parent
CASES = ["text", "one", "exact", "multi"]  # of every golden folder
# Golden folders that tests/test_golden.py runs through: a new family is one line here.
FAMILIES = [
    "llava15",
    "llava16",
    "smolvlm",
    "internvl3",
    "qwen2vl",
    "qwen25vl",
    "qwen3vl",
    "gemma3",
]


@dataclass(frozen=True)
class Golden:
    """One folder of golden files; see the README of the fixtures for the arrays."""

    folder: Path
    data: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def lm(self) -> str:
        return str(self.folder / "lm.gguf")

    @property
    def mmproj(self) -> str:
        return str(self.folder / "mmproj.gguf")

    @property
    def cases(self) -> dict[str, Any]:
        return self.data["cases"]

    def image_path(self, index: int) -> str:
        return str(self.folder / self.data["images"][index]["file"])

    def case_images(self, case: str) -> list[str]:
        return [self.image_path(index) for index in self.cases[case]["images"]]

    def chat_messages(self, case: str) -> list[dict[str, Any]] | None:
        """The case's messages with paths in place of image numbers."""
        messages = self.cases[case]["messages"]
        if messages is None:
            return None
        return [
            {
                "role": message["role"],
                "content": [
                    part
                    if part["type"] == "text"
                    else {"type": "image", "image": self.image_path(part["image"])}
                    for part in message["content"]
                ],
            }
            for message in messages
        ]

    def raw_prompt(self, model: Model, case: str) -> str:
        """The case's final prompt as `generate(raw=True)` takes it."""
        return self.cases[case]["prompt"].replace(model.info()["placeholder"] or "<image>", "<image>")

    def plan(self, model: Model, case: str, **options: Any) -> dict[str, Any]:
        prompt = self.raw_prompt(model, case).replace("<image>", "\ufdd1")
        sizes = [
            (self.data["images"][i]["width"], self.data["images"][i]["height"])
            for i in self.cases[case]["images"]
        ]
        return model._core.plan(prompt, sizes, **options)

    def rows(self, model: Model, case: str, **options: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """The rows of a case as they enter the decoder, and its plan (options: see _core.Model.plan).

        Rows of pictures may be wider than text (deepstack): text then has zeros.
        """
        plan = self.plan(model, case, **options)
        encoded = [model._core.encode(load_image(path)) for path in self.case_images(case)]
        width = max((rows.shape[1] for rows in encoded), default=0)
        pieces = []
        for segment in plan["segments"]:
            if "ids" in segment:
                pieces.append(widen(model._core.embed(segment["ids"]), width))
            else:
                start = segment["row_start"]
                pieces.append(encoded[segment["image"]][start : start + segment["count"]])
        return np.concatenate(pieces), plan


def widen(rows: np.ndarray, width: int) -> np.ndarray:
    return np.pad(rows, [(0, 0), (0, max(0, width - rows.shape[1]))])


def load_golden(folder: Path) -> Golden:
    with np.load(folder / "golden.npz") as arrays:
        return Golden(folder, json.loads((folder / "golden.json").read_text("utf-8")), dict(arrays))


def run(model: Model, golden: Golden, case: str, **options: Any) -> Result:
    """Generates from a golden case's final prompt, without pruning unless that is asked for."""
    images = golden.case_images(case)
    options.setdefault("pruning", None)
    return model.generate(images, golden.raw_prompt(model, case), raw=True, max_tokens=16, **options)


@pytest.fixture(scope="session")
def fixtures() -> Path:
    """The folder of golden files: TRIMTOK_FIXTURES, or shared/fixtures beside the project."""
    folder = Path(os.environ.get("TRIMTOK_FIXTURES", ROOT.parent / "shared" / "fixtures"))
    if not (folder / "llava15" / "golden.json").is_file():
        pytest.skip(f"golden files: no {folder}; set TRIMTOK_FIXTURES to the folder that holds llava15/")
    return folder


@pytest.fixture(scope="session", params=FAMILIES)
def golden(request: pytest.FixtureRequest, fixtures: Path) -> Golden:
    return load_golden(fixtures / request.param)


@pytest.fixture(scope="session")
def llava15(fixtures: Path) -> Golden:
    return load_golden(fixtures / "llava15")


@pytest.fixture(scope="session")
def llava16(fixtures: Path) -> Golden:
    return load_golden(fixtures / "llava16")


@pytest.fixture(params=_core.ops.isas())
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every instruction set of this machine and build; models made in the test use it."""
    monkeypatch.setenv("TRIMTOK_CPU_ISA", request.param)
    return request.param


@pytest.fixture(scope="session")
def parity() -> Path:
    need("cmake")
    if not any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        pytest.skip("no C++ compiler")
    return (
        build(ROOT / "build/parity", ["trimtok_parity"], "-DCMAKE_BUILD_TYPE=Release")
        / "tests/parity/trimtok_parity"
    )
