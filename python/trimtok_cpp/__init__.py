"""Answers questions about several images with LLaVA-type models from GGUF files.

>>> import trimtok_cpp
>>> model = trimtok_cpp.Model("llava.gguf")
>>> answer = model.generate(["a.png", "b.jpg"], "What changed between these pictures?")
>>> print(answer.text, answer.usage, answer.timings)
"""

from ._core import __version__
from .errors import (
    Cancelled,
    ContextOverflowError,
    ModelFormatError,
    NumericsError,
    TrimtokError,
    UnsupportedError,
)
from .images import ImageSource
from .model import Model, Stream
from .result import Result, Timings, TokenCount, Usage

__all__ = [
    "Cancelled",
    "ContextOverflowError",
    "ImageSource",
    "Model",
    "ModelFormatError",
    "NumericsError",
    "Result",
    "Stream",
    "Timings",
    "TokenCount",
    "TrimtokError",
    "UnsupportedError",
    "Usage",
    "__version__",
]
