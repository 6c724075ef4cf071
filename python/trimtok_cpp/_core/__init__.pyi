"""
The engine behind trimtok_cpp; use the trimtok_cpp package.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import typing
from . import ops
__all__: list[str] = ['Generation', 'GgufFile', 'Model', 'Sampler', 'StreamDecoder', 'Tokenizer', 'Tower', 'find_model_files', 'ops', 'pre_tokenize', 'prune', 'resize', 'smart_resize', 'supported_decoders', 'supported_projectors', 'window_order']
class GgufFile:
    """
    A GGUF file (all its shards), mapped read-only and checked.
    
    Raises OSError, ModelFormatError or UnsupportedError naming file, field, value and what was expected.
    """
    def __init__(self, path: typing.Any) -> None:
        ...
    def tensor_data(self, name: str, *, copy: bool = True) -> numpy.ndarray:
        """
        The tensor's bytes as stored, uint8 [bytes]. copy=False: a read-only view that keeps the file mapped. KeyError for an unknown name.
        """
    @property
    def file_bytes(self) -> int:
        ...
    @property
    def kind(self) -> str:
        """
        'language model', 'projector', 'combined' or 'ollama', decided by content.
        """
    @property
    def metadata(self) -> dict:
        """
        A new dict per access, in file order: int, float, bool, str (bytes that are no UTF-8 as surrogate escapes) or a list of these.
        """
    @property
    def n_shards(self) -> int:
        ...
    @property
    def path(self) -> typing.Any:
        ...
    @property
    def projector_type(self) -> typing.Any:
        """
        Family of the projector; empty when the file has none.
        """
    @property
    def projector_width(self) -> int:
        """
        Width of the rows that the projector makes; 0 when unknown.
        """
    @property
    def tensors(self) -> list:
        """
        List of dicts: name, dtype, type_id, usable (as a weight), shape (slowest dimension first, as numpy shows it), ne (GGUF order), bytes, shard.
        """
    @property
    def value_types(self) -> dict:
        """
        dict of key -> (GGUF value type id, element type id or None), as stored.
        """
    @property
    def version(self) -> int:
        ...
    @property
    def warnings(self) -> list:
        ...
class Tokenizer:
    """
    The tokenizer that a GGUF file describes. Immutable; safe to share.
    """
    def __init__(self, path: str, n_rows: typing.SupportsInt | typing.SupportsIndex | None = None) -> None:
        """
        n_rows: rows of the embedding table (default: those of token_embd.weight, else one per token).
        Raises OSError, ModelFormatError or UnsupportedError.
        """
    def decode(self, ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], print_special: bool = False) -> str:
        """
        Text of ids; invalid UTF-8 becomes U+FFFD.
        """
    def encode(self, text: str, parse_special: bool = True, add_bos: bool = False) -> list[int]:
        """
        Ids of str or bytes; invalid UTF-8 becomes U+FFFD. U+FDD0 breaks up special tokens and vanishes.
        """
    def find(self, text: str) -> int:
        """
        Id of a token as the file stores it, -1 when there is none.
        """
    def is_eog(self, id: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Whether the token ends a generation.
        """
    def piece(self, id: typing.SupportsInt | typing.SupportsIndex, print_special: bool = False) -> bytes:
        """
        Bytes of one token; may be part of a character.
        """
    def text(self, id: typing.SupportsInt | typing.SupportsIndex) -> bytes:
        """
        The token as the file stores it.
        """
    @property
    def add_bos(self) -> bool:
        """
        Whether prompts start with BOS.
        """
    @property
    def add_eos(self) -> bool:
        ...
    @property
    def bos(self) -> int:
        """
        Id, -1 when there is none.
        """
    @property
    def eos(self) -> int:
        """
        Id, -1 when there is none.
        """
    @property
    def model(self) -> str:
        """
        "llama" or "gpt2".
        """
    @property
    def n_tokens(self) -> int:
        ...
    @property
    def pre(self) -> str:
        """
        Name of the pre-tokenizer, "" when the file has none.
        """
    @property
    def suppressed(self) -> list[int]:
        """
        Ids that are never sampled, ascending.
        """
    @property
    def warnings(self) -> list[str]:
        ...
class StreamDecoder:
    """
    Turns ids into text one by one, never splitting a character.
    """
    def __init__(self, tokenizer: Tokenizer) -> None:
        ...
    def finish(self) -> str:
        """
        What is left; a broken character becomes U+FFFD.
        """
    def push(self, id: typing.SupportsInt | typing.SupportsIndex) -> str:
        """
        The characters that became complete.
        """
class Sampler:
    """
    Chooses tokens from logits; the same seed gives the same choices.
    """
    def __init__(self, *, temperature: typing.SupportsFloat | typing.SupportsIndex = 0.0, top_k: typing.SupportsInt | typing.SupportsIndex = 40, top_p: typing.SupportsFloat | typing.SupportsIndex = 0.949999988079071, min_p: typing.SupportsFloat | typing.SupportsIndex = 0.05000000074505806, repeat_penalty: typing.SupportsFloat | typing.SupportsIndex = 1.0, seed: typing.SupportsInt | typing.SupportsIndex = 0, suppressed: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = []) -> None:
        """
        Raises ValueError naming the allowed range.
        """
    def accept(self, id: typing.SupportsInt | typing.SupportsIndex) -> None:
        """
        Counts a token as seen, for repeat_penalty.
        """
    def sample(self, logits: numpy.ndarray) -> int:
        """
        Id chosen from float32 [n_vocab]. Raises NumericsError for NaN, +inf or nothing to choose from.
        """
class Tower:
    """
    The vision part of a GGUF file, on its own.
    """
    def __init__(self, path: str, n_threads: typing.SupportsInt | typing.SupportsIndex = 0, device: str = 'cpu') -> None:
        """
        n_threads: 0 uses every CPU that this process may run on. Raises OSError, ModelFormatError, UnsupportedError or ValueError.
        """
    def encode(self, image: numpy.ndarray, taps: bool = False) -> typing.Any:
        """
        uint8 [h, w, 3 or 4] -> the rows that enter the language model, float32 [n_rows, n_embd]. With taps: (rows, dict of intermediate values, float32 [n, width]). Raises ValueError, NumericsError or MemoryError.
        """
    def plan(self, width: typing.SupportsInt | typing.SupportsIndex, height: typing.SupportsInt | typing.SupportsIndex) -> dict:
        """
        What becomes of a picture of this size (pixels): n_rows, n_views, view_width, view_height, parts, and boxes: float32 [n_rows, 4], x0 y0 x1 y1 in pixels of the picture, zeros where a row shows no place.
        """
    def preprocess(self, image: numpy.ndarray) -> numpy.typing.NDArray[numpy.uint8]:
        """
        The views that are encoded: uint8 [h, w, 3 or 4] -> uint8 [n_views, view_height, view_width, 3].
        """
    @property
    def info(self) -> dict:
        """
        Facts about the tower, as a dict.
        """
class Generation:
    """
    One answer being made.
    """
    def cancel(self) -> None:
        """
        Ends the generation; from any thread.
        """
    def next(self) -> str | None:
        """
        The next piece of text, None at the end. The first call encodes and prefills.
        """
    def result(self) -> dict:
        """
        Text, ids, usage and timings so far.
        """
class Model:
    """
    A loaded model; see trimtok_cpp.Model.
    """
    def __init__(self, path: str, mmproj: str = '', device: str = 'auto', gpu_layers: typing.SupportsInt | typing.SupportsIndex = -1, kv_dtype: str = 'f16', compute: str = 'auto', n_ctx: typing.SupportsInt | typing.SupportsIndex = 0, n_threads: typing.SupportsInt | typing.SupportsIndex = 0, n_threads_batch: typing.SupportsInt | typing.SupportsIndex = 0, image_cache_bytes: typing.SupportsInt | typing.SupportsIndex = 0, mmap: bool | None = None, progress: collections.abc.Callable | None = None) -> None:
        ...
    def detokenize(self, ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], print_special: bool = False) -> typing.Any:
        ...
    def embed(self, ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def encode(self, image: numpy.ndarray, min_pixels: typing.SupportsInt | typing.SupportsIndex = 0, max_pixels: typing.SupportsInt | typing.SupportsIndex = 0) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def generate(self, prompt: str, images: collections.abc.Sequence[numpy.ndarray], *, max_tokens: typing.SupportsInt | typing.SupportsIndex, temperature: typing.SupportsFloat | typing.SupportsIndex, top_k: typing.SupportsInt | typing.SupportsIndex, top_p: typing.SupportsFloat | typing.SupportsIndex, min_p: typing.SupportsFloat | typing.SupportsIndex, repeat_penalty: typing.SupportsFloat | typing.SupportsIndex, seed: typing.SupportsInt | typing.SupportsIndex, stop: collections.abc.Sequence[str], chunk: typing.SupportsInt | typing.SupportsIndex = 512, pruning: dict | None = None, image_keys: collections.abc.Sequence[str] = [], min_pixels: typing.SupportsInt | typing.SupportsIndex = 0, max_pixels: typing.SupportsInt | typing.SupportsIndex = 0, video_fps: typing.SupportsFloat | typing.SupportsIndex = 0.0, progress: collections.abc.Callable | None = None) -> Generation:
        ...
    def image_plan(self, width: typing.SupportsInt | typing.SupportsIndex, height: typing.SupportsInt | typing.SupportsIndex) -> dict:
        ...
    def info(self) -> dict:
        ...
    def logits(self, rows: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], positions: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], n_last: typing.SupportsInt | typing.SupportsIndex = 1, chunk: typing.SupportsInt | typing.SupportsIndex = 512, visible_end: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None = None, ids: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex] = []) -> numpy.typing.NDArray[numpy.float32]:
        ...
    def memory(self, n_images: typing.SupportsInt | typing.SupportsIndex, n_ctx: typing.SupportsInt | typing.SupportsIndex, width: typing.SupportsInt | typing.SupportsIndex, height: typing.SupportsInt | typing.SupportsIndex) -> dict:
        """
        Bytes that n_images pictures of this size and n_ctx rows of cache need, and those there are.
        """
    def plan(self, prompt: str, sizes: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]], min_pixels: typing.SupportsInt | typing.SupportsIndex = 0, max_pixels: typing.SupportsInt | typing.SupportsIndex = 0, video_fps: typing.SupportsFloat | typing.SupportsIndex = 0.0, kept: collections.abc.Sequence[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex]] | None = None, policy: str = 'original') -> dict:
        ...
    def preprocess(self, image: numpy.ndarray) -> numpy.typing.NDArray[numpy.uint8]:
        ...
    def record_steps(self, on: bool) -> None:
        """
        Whether answers that begin from now on decode by recorded steps where they can; for measurements.
        """
    def tokenize(self, text: str, parse_special: bool = True) -> list[int]:
        ...
def _bind_weights(file: GgufFile, part: str, requests: list) -> tuple:
    ...
def find_model_files(path: typing.Any, mmproj: typing.Any = None) -> dict:
    """
    dict(lm=path, vision=path or None, combined=bool, notes=[str]).
    
    Without mmproj the vision part is the file itself when it is combined, else the only projector file in its
    folder that fits. Raises ValueError for a wrong or ambiguous pair, and as GgufFile does.
    """
def pre_tokenize(name: str, text: str) -> list[str]:
    """
    The pieces inside which the named byte-level BPE merges, in order. Raises ValueError.
    """
def prune(rows: collections.abc.Sequence[numpy.ndarray], text_rows: numpy.ndarray | None, options: dict, grids: collections.abc.Sequence[tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]] | None = None, n_threads: typing.SupportsInt | typing.SupportsIndex = 0, device: str = 'cpu') -> dict:
    """
    Chooses rows of arrays; returns the report as a dict (see trimtok_cpp.PruneReport).
    
    rows: float32 or float16 [m_k, d], one per picture; text_rows: [M, d] or None; options: exactly one of keep,
    max_tokens, coverage, and any of selector, stage1, d_inter, align, alpha, pool, pareto_weight, inter_weight,
    seed; grids: (height, width) in cells per picture, for grid_pool; rows behind the grid stay as they are.
    n_threads: 0 uses every CPU. Other Python threads run meanwhile. Raises ValueError, NumericsError or MemoryError.
    """
def resize(image: numpy.ndarray, width: typing.SupportsInt | typing.SupportsIndex, height: typing.SupportsInt | typing.SupportsIndex, filter: str) -> numpy.typing.NDArray[numpy.uint8]:
    """
    Resize as Pillow does, horizontal pass first.
    
    image: uint8 [h, w, 3]; filter: bilinear, bicubic or lanczos. Returns uint8 [height, width, 3]. Raises ValueError for other shapes, sizes or names.
    """
def smart_resize(width: typing.SupportsInt | typing.SupportsIndex, height: typing.SupportsInt | typing.SupportsIndex, factor: typing.SupportsInt | typing.SupportsIndex, min_pixels: typing.SupportsInt | typing.SupportsIndex, max_pixels: typing.SupportsInt | typing.SupportsIndex, n_frames: typing.SupportsInt | typing.SupportsIndex = 1) -> tuple[int, int]:
    """
    (width, height) that a picture is scaled to: multiples of factor, an area within the limits. With several frames the limits are those of all together.
    """
def supported_decoders() -> dict:
    """
    The values of general.architecture that this version runs, and the models that they stand for.
    """
def supported_projectors() -> dict:
    """
    The values of clip.projector_type that can be loaded, and the families that they stand for.
    """
def window_order(cells_across: typing.SupportsInt | typing.SupportsIndex, cells_down: typing.SupportsInt | typing.SupportsIndex, window: typing.SupportsInt | typing.SupportsIndex) -> tuple[list[int], list[int]]:
    """
    Cells of a grid grouped by windows: (raster index of the j-th cell, first cell of every window and the number of cells).
    """
__version__: str = '0.1.0'
