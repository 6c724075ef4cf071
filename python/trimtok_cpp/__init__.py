"""Answers questions about many images with GGUF models, reading only the visual tokens that matter.

>>> import trimtok_cpp
>>> model = trimtok_cpp.Model("llava.gguf")
>>> answer = model.generate(["a.png", "b.jpg"], "What changed between these pictures?")
>>> print(answer.text, answer.usage, answer.timings)
>>> print(answer.pruning.summary())
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
from .model import Model
from .pruning import PruneReport, Pruning, prune
from .result import MemoryPlan, Result, Timings, TokenCount, Usage
from .stream import Stream

__all__ = [
    "Cancelled",
    "ContextOverflowError",
    "ImageSource",
    "MemoryPlan",
    "Model",
    "ModelFormatError",
    "NumericsError",
    "PruneReport",
    "Pruning",
    "Result",
    "Stream",
    "Timings",
    "TokenCount",
    "TrimtokError",
    "UnsupportedError",
    "Usage",
    "__version__",
    "prune",
]
