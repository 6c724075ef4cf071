"""An answer while it is being made."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from .images import ImageSource
from .pruning import Pruning
from .result import Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from . import _core
    from .model import Model

__all__ = ["GenerateOptions", "Progress", "Stream", "ViewOptions"]

Progress: TypeAlias = "Callable[[str, int, int], None]"  # phase, done, total


class ViewOptions(TypedDict, total=False):
    """How pictures are looked at; what is missing is the family's own value."""

    min_pixels: int
    max_pixels: int
    video_fps: float  # the pictures are frames of one video


class GenerateOptions(ViewOptions):
    """Checked arguments of a generation, as the extension takes them."""

    max_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repeat_penalty: float
    seed: int
    stop: list[str]


class Stream(Iterator[str]):
    """An answer as it is made: iterate for pieces of text, always whole characters.

    The first step encodes the images and reads the prompt. `result` is the state so far, complete after the
    last piece. An abandoned stream stops; `close()` (or a `with` block) frees its memory at once.
    """

    def __init__(
        self,
        model: Model,
        prompt: str,
        sources: Sequence[ImageSource],
        options: GenerateOptions,
        progress: Progress | None = None,
        pruning: Pruning | None = None,
        question: str = "",
    ) -> None:
        """`question` holds the user's words, which the kept visual tokens should agree with."""
        self._seed = options["seed"]
        # Frames of a video are reported by group; its first one stands for it.
        self._group: int = model._info["frames_per_group"] if "video_fps" in options else 1
        self._model = model
        self._cancelled = False
        # A step and a look at the result exclude each other; a signal handler may look during a step.
        self._step = threading.RLock()
        self._generation: _core.Generation | None = None
        self._result = Result.empty(self._seed)
        self._pictures: list[NDArray[np.uint8]] = []
        self._enter()
        try:
            self._pictures = model._load_images(sources)
            settings = None if pruning is None else pruning.as_model_options() | {"text": question}
            keys = [_key(picture) for picture in self._pictures]
            self._generation = model._core.generate(
                prompt, self._pictures, **options, pruning=settings, image_keys=keys, progress=progress
            )
            if self._cancelled:  # by another thread while the images were read
                self._generation.cancel()
        except BaseException:
            self._leave()
            raise

    def __iter__(self) -> Stream:  # noqa: D105
        return self

    def __next__(self) -> str:  # noqa: D105
        with self._step:
            if self._generation is None:
                raise StopIteration
            try:
                piece: str | None = self._generation.next()
            except BaseException:
                self._finish("")
                raise
            if piece is None:
                self._finish("")
                raise StopIteration
            return piece

    @property
    def result(self) -> Result:
        """The answer so far; `finish_reason` is "" until it is complete."""
        with self._step:
            if self._generation is not None:
                return self._read("")
            return self._result

    def cancel(self) -> None:
        """Ends the answer within one layer of work, from any thread."""
        self._cancelled = True
        generation = self._generation
        if generation is not None:
            generation.cancel()

    def close(self) -> None:
        """Ends the answer and frees its memory; `result` keeps what there is. May be called twice."""
        self.cancel()
        with self._step:
            self._finish("cancelled")

    def _finish(self, reason: str) -> None:
        """Keeps the result; `reason` is for an answer that the engine has not ended itself."""
        if self._generation is not None:
            self._result = self._read(reason)
            self._generation = None
            self._leave()

    def _read(self, reason: str) -> Result:
        assert self._generation is not None
        raw: dict[str, Any] = self._generation.result()
        raw["finish_reason"] = raw["finish_reason"] or reason
        # For overlays: colours without opacity.
        pictures = [picture[..., :3] for picture in self._pictures[:: self._group]]
        return Result.from_core(raw, self._seed, pictures)

    def __enter__(self) -> Stream:  # noqa: D105
        return self

    def __exit__(  # noqa: D105
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enter(self) -> None:
        with self._model._lock:
            self._model._running.add(self)

    def _leave(self) -> None:
        with self._model._lock:
            self._model._running.discard(self)


def _key(picture: NDArray[np.uint8]) -> str:
    """The same for the same pixels and size."""
    digest = hashlib.sha256(picture.data)
    digest.update(repr(picture.shape).encode())
    return digest.hexdigest()
