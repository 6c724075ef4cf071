"""The public Model: arguments are checked here, work is the extension's."""

from __future__ import annotations

import errno
import math
import operator
import os
import secrets
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from . import _core
from .images import ImageSource, as_sources, load_image
from .prompt import (
    ChatFormat,
    Message,
    clean,
    last_question,
    parse_messages,
    place_images,
    raw_prompt,
    repeat_tag,
    without_pictures,
)
from .pruning import DEFAULT_PRUNING, Pruning
from .result import MemoryPlan, Result, TokenCount
from .stream import GenerateOptions, Progress, Stream, ViewOptions

__all__ = ["Model"]

_MAX_SEED = 2**64 - 1
_MAX_INT32 = 2**31 - 1
_TINY = 1.2e-38  # smallest normal float32, the engine's type for these numbers
DEVICES = ("auto", "cpu", "cuda")
KV_DTYPES = ("f16", "bf16", "q8_0", "f32")
COMPUTES = ("auto", "f32", "bf16", "int8")


class Model:
    """A language model with its vision tower, loaded from GGUF files.

    All methods may be called from several threads; generations then share the machine layer by layer.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        mmproj: str | os.PathLike[str] | None = None,
        device: str = "auto",
        gpu_layers: int | None = None,
        n_ctx: int | None = None,
        n_threads: int | None = None,
        n_threads_batch: int | None = None,
        kv_dtype: str = "f16",
        compute: str = "auto",
        seed: int | None = None,
        image_cache_mb: int = 128,
        mmap: bool | None = None,
    ) -> None:
        """Maps the files into memory; weights keep their stored types.

        path: the language model (the first part of a split one), or one file that holds both.
        mmproj: the vision file; None looks inside `path`, then for a single candidate in its folder.
        device: "cpu", "cuda", or "auto": CUDA where this build and this machine have it, else the CPU, and
        info()["device_note"] says why.
        gpu_layers: how many layers of the language model go to the device, the first ones; the others, the
        embedding table and the output head are the CPU's then. None is all. The vision tower is always the
        device's. `plan` tells what fits.
        n_ctx: rows of context, pictures and answer included; None is the trained context.
        n_threads: threads while an answer is written; None is every CPU that this process may use.
        n_threads_batch: threads while pictures are encoded and prompts read; None is n_threads. Neither
        changes an answer.
        kv_dtype: type of the key/value cache: "f16", "bf16", "q8_0" or "f32".
        compute: what products of weights and activations are rounded to: "f32" not at all, "bf16", "int8"
        (activations only, against weights stored in blocks of up to 8 bits), or "auto", the quickest for each
        type of weight; info()["compute_by_weight"] tells its choice, docs/performance.md its price.
        With CUDA "auto" and "f32" are both its f16 tensor cores (docs/cuda.md), and "bf16" is refused.
        seed: for every generation that names none; None draws a new one each time (Result.seed tells it).
        image_cache_mb: MiB of encoded pictures to remember, so that a picture that comes again (the next turn
        of a chat) is not encoded again; 0 remembers none.
        mmap: True leaves weights in the mapped files, which processes share and the system may drop when
        memory is short. False copies them into memory of huge pages before this returns, which writes answers
        up to a fifth faster. None starts mapped and copies in the background, if twice the files' size is
        available; info()["weights"] is "mapped", "moving" or "memory", info()["weights_note"] says why.
        Weights on a device are copied there in any case. Answers do not change.

        Raises OSError for files that cannot be read, ModelFormatError for damaged ones, UnsupportedError for
        what this version cannot do or this machine has not (device="cuda"), MemoryError with the numbers when
        the device is too small (mmap=False: the host), ValueError for a wrong pair and for arguments out of
        range.
        """
        self._open(
            path,
            mmproj,
            device,
            gpu_layers,
            n_ctx,
            n_threads,
            n_threads_batch,
            kv_dtype,
            compute,
            seed,
            image_cache_mb,
            mmap,
            None,
        )

    @classmethod
    def _with_progress(cls, path: str, progress: Progress | None, **options: Any) -> Model:
        """As the constructor; `progress(phase, done, total)` is called while loading (for the CLI)."""
        model = cls.__new__(cls)
        defaults: dict[str, Any] = {
            "mmproj": None,
            "device": "auto",
            "gpu_layers": None,
            "n_ctx": None,
            "n_threads": None,
            "n_threads_batch": None,
            "kv_dtype": "f16",
            "compute": "auto",
            "seed": None,
            "image_cache_mb": 128,
            "mmap": None,
        }
        model._open(path, **(defaults | options), progress=progress)
        return model

    def _open(
        self,
        path: str | os.PathLike[str],
        mmproj: str | os.PathLike[str] | None,
        device: str,
        gpu_layers: int | None,
        n_ctx: int | None,
        n_threads: int | None,
        n_threads_batch: int | None,
        kv_dtype: str,
        compute: str,
        seed: int | None,
        image_cache_mb: int,
        mmap: bool | None,
        progress: Progress | None,
    ) -> None:
        self._seed = None if seed is None else _integer("seed", seed, 0, _MAX_SEED)
        self._core = _core.Model(
            path=_file("path", path),
            mmproj="" if mmproj is None else _file("mmproj", mmproj),
            device=_choice("device", device, DEVICES),
            gpu_layers=-1 if gpu_layers is None else _integer("gpu_layers", gpu_layers, 0, _MAX_INT32),
            kv_dtype=_choice("kv_dtype", kv_dtype, KV_DTYPES),
            compute=_choice("compute", compute, COMPUTES),
            n_ctx=0 if n_ctx is None else _integer("n_ctx", n_ctx, 1, _MAX_INT32),
            n_threads=_threads("n_threads", n_threads),
            n_threads_batch=_threads("n_threads_batch", n_threads_batch),
            image_cache_bytes=_integer("image_cache_mb", image_cache_mb, 0, _MAX_INT32) << 20,
            mmap=_flag("mmap", mmap),
            progress=progress,
        )
        self._info: dict[str, Any] = self._core.info()
        self._format: ChatFormat | None = None
        # Weak: an abandoned stream must not live on.
        self._running: weakref.WeakSet[Stream] = weakref.WeakSet()
        self._lock = threading.Lock()

    def __repr__(self) -> str:  # noqa: D105
        info = self._info
        vision = f" + {info['projector']}" if info["projector"] else ""
        return f"Model({info['lm_path']!r}: {info['arch']}{vision}, n_ctx {info['n_ctx']}, {info['device']})"

    @overload
    def generate(
        self,
        images: Sequence[ImageSource] | ImageSource | None,
        prompt: str,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        system: str | None = None,
        pruning: Pruning | float | None = DEFAULT_PRUNING,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        video: bool = False,
        fps: float | None = None,
        stream: Literal[False] = False,
        raw: bool = False,
    ) -> Result: ...

    @overload
    def generate(
        self,
        images: Sequence[ImageSource] | ImageSource | None,
        prompt: str,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        system: str | None = None,
        pruning: Pruning | float | None = DEFAULT_PRUNING,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        video: bool = False,
        fps: float | None = None,
        stream: Literal[True],
        raw: bool = False,
    ) -> Stream: ...

    def generate(
        self,
        images: Sequence[ImageSource] | ImageSource | None,
        prompt: str,
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        system: str | None = None,
        pruning: Pruning | float | None = DEFAULT_PRUNING,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        video: bool = False,
        fps: float | None = None,
        stream: bool = False,
        raw: bool = False,
    ) -> Result | Stream:
        """Answers `prompt` about `images`.

        images: paths, bytes, PIL images or numpy uint8 [height, width, 3]; [] or None for none.
        prompt: a user message. "<image>" places an image; without one the images come first.
        max_tokens: at least 1. temperature: >= 0; 0 always takes the most likely token. top_k: >= 0; 0 is
        off. top_p: in (0, 1]. min_p: in [0, 1). repeat_penalty: > 0; 1 is off. seed: 0 .. 2**64 - 1.
        stop: texts that end the answer (they are not part of it). system: a system message.
        pruning: which visual tokens the language model reads. A number is the share that stays, a Pruning
        says more, None keeps all; Result.pruning reports what was done. The default is Pruning(keep=0.5).
        min_pixels, max_pixels: limits of the area to which a picture is scaled, for families that take
        pictures at their own resolution (Qwen); None is what the released model uses.
        video: the images are frames of one video, in order; "<image>" (once) places it. Qwen reads two frames
        of one size as one group, and the limits are those of a frame (Qwen3-VL: of all frames together);
        for other families frames are images. fps: frames per second of what is given (default 2).
        stream: returns a Stream at once, which yields text as it comes.
        raw: `prompt` is the final text, special tokens included; only "<image>" is replaced, without one the
        images go in front with nothing around them. The chat template is not used.

        Raises ValueError or TypeError for bad arguments and unreadable images, OSError for missing files,
        ContextOverflowError when prompt and images do not fit, NumericsError when weights are damaged. A
        generation stopped by `cancel()` returns what there is, with finish_reason "cancelled".
        """
        options = self._options(max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, seed, stop)
        keep = Pruning.of(pruning)
        sources = as_sources(images)
        view = _view(min_pixels, max_pixels, video, fps, len(sources))
        text = self._prompt(prompt, len(sources), system, raw, video)
        return self._run(text, sources, {**options, **view}, keep, without_pictures(prompt), stream)

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        system: str | None = None,
        pruning: Pruning | float | None = DEFAULT_PRUNING,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        stream: Literal[False] = False,
    ) -> Result: ...

    @overload
    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        system: str | None = None,
        pruning: Pruning | float | None = DEFAULT_PRUNING,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        stream: Literal[True],
    ) -> Stream: ...

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_k: int = 40,
        top_p: float = 0.95,
        min_p: float = 0.05,
        repeat_penalty: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] | None = None,
        system: str | None = None,
        pruning: Pruning | float | None = DEFAULT_PRUNING,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        stream: bool = False,
    ) -> Result | Stream:
        """Continues a conversation of OpenAI-style messages.

        A message is {"role": "system" | "user" | "assistant", "content": text or parts}. A part is
        {"type": "text", "text": ...}, {"type": "image_url", "image_url": path or data URL, or {"url": ...}}
        or {"type": "image", "image": anything that `generate` takes}. Nothing is fetched from a network.
        "<image>" inside a text is ordinary text here. The template decides whether pictures stay between
        texts (LLaVA's puts a message's pictures first). The pruner listens to the words of the last user
        message. Other arguments, result and errors: see `generate`.
        """
        options = self._options(max_tokens, temperature, top_k, top_p, min_p, repeat_penalty, seed, stop)
        keep = Pruning.of(pruning)
        parsed, sources = parse_messages(messages)
        if system is not None:
            if any(message.role == "system" for message in parsed):
                raise ValueError("[system] is given, and messages hold a system message too; use one of them")
            parsed.insert(0, Message("system", (clean(system, "system"),)))
        self._check_vision(len(sources))
        options = {**options, **_view(min_pixels, max_pixels, False, None, len(sources))}
        text = self._chat_format().render(parsed)
        return self._run(text, sources, options, keep, last_question(parsed), stream)

    def count_tokens(
        self,
        images: Sequence[ImageSource] | ImageSource | None,
        prompt: str,
        *,
        system: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        video: bool = False,
        fps: float | None = None,
        raw: bool = False,
    ) -> TokenCount:
        """How many rows of context `generate` would use for this prompt without pruning; nothing runs.

        An int (its `visual_tokens` are those of the images); may exceed the context. Errors as in `generate`.
        """
        sources = as_sources(images)
        view = _view(min_pixels, max_pixels, video, fps, len(sources))
        text = self._prompt(prompt, len(sources), system, raw, video)
        arrays = self._load_images(sources)
        plan = self._core.plan(text, [(array.shape[1], array.shape[0]) for array in arrays], **view)
        return TokenCount(plan["n_rows"], plan["n_visual"])

    def _load_images(self, sources: Sequence[ImageSource]) -> list[NDArray[np.uint8]]:
        keep_alpha = self._info["composite_alpha"]
        return [load_image(source, index, keep_alpha=keep_alpha) for index, source in enumerate(sources)]

    def info(self) -> dict[str, Any]:
        """What was loaded: architecture, sizes, files, device, chat template, warnings of the loader.

        compute_by_weight: for every type of weight, what its products are rounded to with few rows of
        activations (answers being written) and with many (prompts and pictures); empty on a device
        (docs/cuda.md tells).
        decode_steps: steps of answers so far, "replayed" as recorded graphs of a device or "op_by_op", and
        graphs "recorded".
        """
        return {key: value for key, value in self._core.info().items() if key != "special_texts"}

    def plan(
        self, n_images: int = 1, n_ctx: int | None = None, *, width: int = 1024, height: int = 768
    ) -> MemoryPlan:
        """What n_images pictures of width x height pixels and n_ctx rows of context take; nothing runs.

        n_ctx: None is the model's. Without a vision tower n_images must be 0. Raises ValueError for arguments
        out of range.
        """
        images = _integer("n_images", n_images, 0, _MAX_INT32)
        self._check_vision(images)
        rows = self._info["n_ctx"] if n_ctx is None else _integer("n_ctx", n_ctx, 1, _MAX_INT32)
        return MemoryPlan.of(self._core.memory(images, rows, width, height), self._info["device"])

    def cancel(self) -> None:
        """Stops every generation of this model that is running now, from any thread."""
        with self._lock:
            running = list(self._running)
        for stream in running:
            stream.cancel()

    def _prompt(self, prompt: str, n_images: int, system: str | None, raw: bool, video: bool = False) -> str:
        if video and self._info["frames_per_group"] > 1:
            n_images = 1  # the engine knows how many runs of rows the frames become
        elif video:
            prompt = repeat_tag(prompt, n_images)
        if raw:
            if system is not None:
                raise ValueError("[system] cannot be used with raw=True; write it into the prompt")
            text = raw_prompt(prompt, n_images, self._info["bos_token"], self._info["add_bos"])
            self._check_vision(n_images)
            return text
        parts, placed = place_images(prompt, n_images)
        messages = [] if system is None else [Message("system", (clean(system, "system"),))]
        messages.append(Message("user", parts))
        self._check_vision(n_images)
        return self._chat_format().render(messages, placed)

    def _check_vision(self, n_images: int) -> None:
        if n_images and not self._info["projector"]:
            raise ValueError(
                f"[images] {n_images} given, but {self._info['lm_path']} was loaded without a vision file; "
                "pass mmproj='...' to Model"
            )

    def _chat_format(self) -> ChatFormat:
        # Compiled on first use: a damaged template must not keep raw prompts from working.
        if self._format is None:
            self._format = ChatFormat(self._info)
        return self._format

    def _options(
        self,
        max_tokens: int,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repeat_penalty: float,
        seed: int | None,
        stop: str | Sequence[str] | None,
    ) -> GenerateOptions:
        if seed is None:
            seed = secrets.randbits(64) if self._seed is None else self._seed
        return {
            "max_tokens": _integer("max_tokens", max_tokens, 1, _MAX_INT32),
            "temperature": _number("temperature", temperature, 0.0, 1e6, "[0, 1e6]"),
            "top_k": _integer("top_k", top_k, 0, _MAX_INT32),
            "top_p": _number("top_p", top_p, _TINY, 1.0, "(0, 1]"),
            "min_p": _number("min_p", min_p, 0.0, 1.0 - 2**-24, "[0, 1)"),
            "repeat_penalty": _number("repeat_penalty", repeat_penalty, _TINY, 1e6, "(0, 1e6]"),
            "seed": _integer("seed", seed, 0, _MAX_SEED),
            "stop": _stops(stop),
        }

    def _run(
        self,
        prompt: str,
        sources: Sequence[ImageSource],
        options: GenerateOptions,
        pruning: Pruning | None,
        question: str,
        stream: bool,
    ) -> Result | Stream:
        running = Stream(self, prompt, sources, options, None, pruning, question)
        if stream:
            return running
        with running:
            for _ in running:
                pass
        return running.result


def _view(
    min_pixels: int | None, max_pixels: int | None, video: bool, fps: float | None, n_images: int
) -> ViewOptions:
    view: ViewOptions = {}
    if min_pixels is not None:
        view["min_pixels"] = _integer("min_pixels", min_pixels, 1, _MAX_INT32)
    if max_pixels is not None:
        view["max_pixels"] = _integer("max_pixels", max_pixels, 1, _MAX_INT32)
    if view and not n_images:
        raise ValueError(f"[{next(iter(view))}] is given without images; leave it out")
    if not isinstance(video, bool):
        raise TypeError(f"[video] is {video!r}, must be True or False")
    if video and not n_images:
        raise ValueError("[video] is True, but [images] holds no frames")
    if fps is not None and not video:
        raise ValueError(
            f"[fps] is {fps!r} without video=True; leave it out or say that the images are frames"
        )
    if video:
        view["video_fps"] = _number("fps", 2.0 if fps is None else fps, _TINY, 1e6, "(0, 1e6]")
    return view


def _file(name: str, value: str | os.PathLike[str]) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"[{name}] is of type {type(value).__name__}, must be a path")
    path = os.fspath(value)
    if not isinstance(path, str):
        raise TypeError(f"[{name}] is a path of bytes, must be of str")
    if "\0" in path:
        raise ValueError(f"[{name}] {path!r} contains a NUL character")
    if not Path(path).exists():
        raise FileNotFoundError(errno.ENOENT, f"[{name}] no such file; check the path", path)
    return path


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(f"[{name}] is {value!r}, must be one of {', '.join(allowed)}")
    return value


def _flag(name: str, value: bool | None) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"[{name}] is {value!r}, must be True, False or None")
    return value


def _integer(name: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool):
        raise TypeError(f"[{name}] is {value!r}, must be an integer in {low}..{high}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"[{name}] is {value!r}, must be an integer in {low}..{high}") from None
    if not low <= number <= high:
        raise ValueError(f"[{name}] is {number}, must be in {low}..{high}")
    return number


def _threads(name: str, value: int | None) -> int:
    """0 stands for the default."""
    return 0 if value is None else _integer(name, value, 1, 512)


def _number(name: str, value: float, low: float, high: float, allowed: str) -> float:
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, OverflowError):
        number = math.nan
    if not low <= number <= high:  # false for NaN
        raise ValueError(f"[{name}] is {value!r}, must be a number in {allowed}")
    return number


def _stops(stop: str | Sequence[str] | None) -> list[str]:
    stops = [] if stop is None else [stop] if isinstance(stop, str) else list(stop)
    for text in stops:
        if not isinstance(text, str):
            raise TypeError(f"[stop] holds {text!r}, must be text or a list of texts")
        if not text:
            raise ValueError("[stop] holds an empty text; every stop must have at least one character")
        clean(text, "stop")
    return stops
