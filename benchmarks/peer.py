"""llama.cpp through llama-cpp-python, timed as engines.py asks."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import llama_cpp
import numpy as np
from engines import QUESTION, Files, FirstToken, Picture, TextTiming
from llama_cpp import mtmd_cpp

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 512


def about() -> str:
    """Its version and the instruction sets that it was built for."""
    return f"llama-cpp-python {llama_cpp.__version__}: {llama_cpp.llama_print_system_info().decode().strip()}"


class LlamaCpp:
    """The peer with as many threads; flash attention in its decoder as the caller says."""

    def __init__(self, files: Files, *, flash: bool) -> None:
        self._seconds = files.seconds
        self._llm = llama_cpp.Llama(
            str(files.lm), n_ctx=files.n_ctx, n_batch=BATCH, n_ubatch=BATCH, n_threads=files.threads,
            n_threads_batch=files.threads, logits_all=False, flash_attn=flash, verbose=False,
        )  # fmt: skip
        self._vision = None
        if files.mmproj is not None:
            params = mtmd_cpp.mtmd_context_params_default()
            params.use_gpu = False
            params.n_threads = files.threads
            params.print_timings = False
            params.warmup = True
            self._vision = mtmd_cpp.mtmd_init_from_file(str(files.mmproj).encode(), self._llm.model, params)
            if self._vision is None:
                raise RuntimeError(f"[peer] llama.cpp cannot load {files.mmproj}")

    def encode(self, picture: Picture) -> float:
        with self._chunks([picture], "") as chunks:
            return sum(
                self._seconds(lambda c=chunk: mtmd_cpp.mtmd_encode_chunk(self._vision, c))
                for chunk in _pictures_of(chunks)
            )

    def text(self, n_prompt: int, n_tokens: int) -> TextTiming:
        self._forget()
        tokens = np.random.default_rng(0).integers(300, 3000, n_prompt + n_tokens).tolist()
        prefill = self._seconds(lambda: self._llm.eval(tokens[:n_prompt]))

        def decode() -> None:
            for token in tokens[n_prompt:]:
                self._llm.eval([token])

        return TextTiming(prefill, self._seconds(decode) / n_tokens)

    def first_token(self, pictures: Sequence[Picture], keep: float) -> FirstToken:
        if keep != 1:
            raise ValueError(f"[peer] keep is {keep:g}: llama.cpp does not prune")
        self._forget()
        end = llama_cpp.llama_pos(0)

        def run() -> None:
            with self._chunks(pictures, QUESTION) as chunks:
                status = mtmd_cpp.mtmd_helper_eval_chunks(
                    self._vision, self._llm._ctx.ctx, chunks, 0, 0, BATCH, True, ctypes.byref(end)
                )
                if status != 0:
                    raise RuntimeError(f"[peer] llama.cpp failed on {len(pictures)} pictures: {status}")

        spent = self._seconds(run)
        return FirstToken(spent, int(end.value))

    def _forget(self) -> None:
        self._llm.reset()
        self._llm._ctx.kv_cache_clear()

    @contextmanager
    def _chunks(self, pictures: Sequence[Picture], question: str) -> Iterator[ctypes.c_void_p]:
        """The prompt cut into text and prepared pictures."""
        bitmaps = []
        for picture in pictures:
            height, width = picture.shape[:2]
            pixels = np.ascontiguousarray(picture).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
            bitmaps.append(mtmd_cpp.mtmd_bitmap_init(width, height, pixels))
        text = mtmd_cpp.mtmd_input_text()
        text.text = mtmd_cpp.mtmd_default_marker() * len(pictures) + question.encode()
        if hasattr(text, "text_len"):  # newer versions take a length
            text.text_len = len(text.text)
        text.add_special = bool(question)
        text.parse_special = True
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        array = (mtmd_cpp.mtmd_bitmap_p_ctypes * len(bitmaps))(*bitmaps)
        try:
            if mtmd_cpp.mtmd_tokenize(self._vision, chunks, ctypes.byref(text), array, len(bitmaps)) != 0:
                raise RuntimeError("[peer] llama.cpp could not prepare the pictures")
            yield chunks
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            for bitmap in bitmaps:
                mtmd_cpp.mtmd_bitmap_free(bitmap)


def _pictures_of(chunks: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
    for i in range(mtmd_cpp.mtmd_input_chunks_size(chunks)):
        chunk = mtmd_cpp.mtmd_input_chunks_get(chunks, i)
        if mtmd_cpp.mtmd_input_chunk_get_type(chunk) == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE:
            yield chunk
