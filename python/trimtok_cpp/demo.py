"""The small model that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["TINY"]

#: trimtok-tiny: language model and tower in one file; docs/trimtok-tiny.md says what it can do.
TINY: Final = Path(__file__).parent / "models" / "trimtok-tiny.gguf"
