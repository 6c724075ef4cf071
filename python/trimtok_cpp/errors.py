"""Exception classes of trimtok_cpp; the extension raises these same classes."""

from __future__ import annotations

__all__ = [
    "Cancelled",
    "ContextOverflowError",
    "ModelFormatError",
    "NumericsError",
    "TrimtokError",
    "UnsupportedError",
]


class TrimtokError(Exception):
    """Base of every exception that is special to this package.

    Plain argument mistakes are ``ValueError``, files that are missing or unreadable ``OSError``, exhausted
    memory ``MemoryError``.
    """


class ModelFormatError(TrimtokError, ValueError):
    """A model file (or the chat template inside it) is damaged or contradicts itself."""


class UnsupportedError(TrimtokError, ValueError):
    """The file or the request is legal, but this version cannot serve it."""


class ContextOverflowError(TrimtokError, ValueError):
    """The prompt with its images does not fit the context of the model."""


class NumericsError(TrimtokError, ArithmeticError):
    """NaN or infinity where a finite number must be: damaged weights, as a rule."""


class Cancelled(TrimtokError):
    """The work was stopped by ``cancel()``."""
