"""
The kernel tables, for tests and tools.
"""
from __future__ import annotations
import numpy
import numpy.typing
import typing
import typing_extensions
__all__: list[str] = ['best_isa', 'dequantize', 'dtypes', 'isas', 'matmul', 'served_by']
def best_isa() -> str:
    """
    The one that models use unless TRIMTOK_CPU_ISA names another.
    """
def dequantize(data: typing_extensions.Buffer, dtype_id: typing.SupportsInt | typing.SupportsIndex, rows: typing.SupportsInt | typing.SupportsIndex, cols: typing.SupportsInt | typing.SupportsIndex, isa: str) -> numpy.typing.NDArray[numpy.float32]:
    """
    Packed rows (bytes or uint8, rows * cols elements) as float32 [rows, cols]. ValueError: a dtype that is not a weight, a size that does not fit, an unknown isa.
    """
def dtypes() -> list:
    """
    GGUF tensor types as dicts: id, name, block_elems, block_bytes, use ("weight", "recognised", "runtime").
    """
def isas() -> list[str]:
    """
    Names of the instruction sets that this build and machine offer, "ref" first.
    """
def matmul(x: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], w: typing_extensions.Buffer, dtype_id: typing.SupportsInt | typing.SupportsIndex, n_outputs: typing.SupportsInt | typing.SupportsIndex, isa: str, n_threads: typing.SupportsInt | typing.SupportsIndex = 1, compute: str = 'f32') -> numpy.typing.NDArray[numpy.float32]:
    """
    x . w^T: x float32 [T, K], w packed rows [n_outputs, K] as bytes or uint8; float32 [T, n_outputs]. compute: as for Model. ValueError as dequantize, or n_threads outside 1 to 512.
    """
def served_by(isa: str) -> dict[str, str]:
    """
    For every op, the instruction set whose body the table of `isa` calls. ValueError: no such table.
    """
