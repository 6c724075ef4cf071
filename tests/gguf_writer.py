"""Writes GGUF files byte by byte for the tests, and can lie about every field."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path
from typing import Any, NamedTuple

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {
    U8: "B",
    I8: "b",
    U16: "H",
    I16: "h",
    U32: "I",
    I32: "i",
    F32: "f",
    BOOL: "B",
    U64: "Q",
    I64: "q",
    F64: "d",
}


class Key(NamedTuple):
    """A key-value pair; `value` of an ARRAY is (element type, elements)."""

    name: str | bytes
    type: int
    value: Any


class Tensor(NamedTuple):
    """`ne` in GGUF order; `offset` None: after the tensor before it."""

    name: str | bytes
    ne: tuple[int, ...]
    type: int
    data: bytes
    offset: int | None = None


class Field(NamedTuple):
    """Where a field of the built file lies."""

    name: str
    offset: int
    size: int


@dataclasses.dataclass
class RawGguf:
    """A file to be built. `lies` maps field names to what is written instead: a number, or raw bytes.

    Fields: magic, version, tensor_count, kv_count; KEY/name_length, KEY/name_text, KEY/type, KEY/value,
    KEY/length, KEY/text, KEY/element_type, KEY/count, KEY/3/length; TENSOR/name_length, TENSOR/name_text,
    TENSOR/n_dims, TENSOR/ne0, TENSOR/type, TENSOR/offset.
    """

    keys: list[Key] = dataclasses.field(default_factory=list)
    tensors: list[Tensor] = dataclasses.field(default_factory=list)
    version: int = 3
    alignment: int = 32
    lies: dict[str, int | bytes] = dataclasses.field(default_factory=dict)
    last_padding: bool = True
    fields: list[Field] = dataclasses.field(default_factory=list)
    data_start: int = 0

    def build(self) -> bytes:
        self.fields = []
        out = bytearray()
        unused = set(self.lies)

        def put(name: str, fmt: str, value: Any) -> None:
            lie = self.lies.get(name)
            unused.discard(name)
            raw = value if fmt == "raw" else struct.pack("<" + fmt, value)
            if isinstance(lie, bytes):
                raw = lie
            elif lie is not None:
                raw = struct.pack("<" + (fmt if lie >= 0 else fmt.lower()), lie)
            self.fields.append(Field(name, len(out), len(raw)))
            out.extend(raw)

        def put_text(name: str, field: str, value: str | bytes) -> None:
            raw = value.encode() if isinstance(value, str) else value
            put(f"{name}/{field}length", "Q", len(raw))
            put(f"{name}/{field}text", "raw", raw)

        def put_value(name: str, kind: int, value: Any) -> None:
            if kind == STRING:
                put_text(name, "", value)
            elif kind == ARRAY:
                element, values = value
                put(f"{name}/element_type", "I", element)
                put(f"{name}/count", "Q", len(values))
                for i, item in enumerate(values):
                    put_value(f"{name}/{i}", element, item)
            else:
                put(f"{name}/value", FORMATS[kind], value)

        put("magic", "raw", b"GGUF")
        put("version", "I", self.version)
        put("tensor_count", "Q", len(self.tensors))
        put("kv_count", "Q", len(self.keys))
        for key in self.keys:
            name = key.name if isinstance(key.name, str) else key.name.decode("latin-1")
            put_text(name, "name_", key.name)
            put(f"{name}/type", "I", key.type)
            put_value(name, key.type, key.value)
        end = 0
        offsets = []
        for tensor in self.tensors:
            name = tensor.name if isinstance(tensor.name, str) else tensor.name.decode("latin-1")
            offset = end if tensor.offset is None else tensor.offset
            offsets.append(offset)
            end = -(-(offset + len(tensor.data)) // self.alignment) * self.alignment
            put_text(name, "name_", tensor.name)
            put(f"{name}/n_dims", "I", len(tensor.ne))
            for d, n in enumerate(tensor.ne):
                put(f"{name}/ne{d}", "Q", n)
            put(f"{name}/type", "I", tensor.type)
            put(f"{name}/offset", "Q", offset)
        self.data_start = -(-len(out) // self.alignment) * self.alignment
        for tensor, offset in zip(self.tensors, offsets, strict=True):
            begin = self.data_start + offset
            out.extend(bytes(max(0, begin + len(tensor.data) - len(out))))
            out[begin : begin + len(tensor.data)] = tensor.data
        if self.last_padding:
            out.extend(bytes(-len(out) % self.alignment))
        if unused:
            raise KeyError(f"no such fields: {sorted(unused)}; there are {[f.name for f in self.fields]}")
        return bytes(out)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.build())
        return path


def f32(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def f16(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}e", *values)


def language_model(width: int = 8, arch: str = "llama", **kwargs: Any) -> RawGguf:
    """The least that counts as a language model of that width."""
    keys = [Key("general.architecture", STRING, arch), Key(f"{arch}.embedding_length", U32, width)]
    tensors = [
        Tensor("token_embd.weight", (width, 3), 0, f32(*range(3 * width))),
        Tensor("output_norm.weight", (width,), 0, f32(*[1.0] * width)),
    ]
    return RawGguf(keys, tensors, **kwargs)


def projector(width: int = 8, family: str = "mlp", **kwargs: Any) -> RawGguf:
    """The least that counts as a projector (mlp names) to that width."""
    keys = [
        Key("general.architecture", STRING, "clip"),
        Key("clip.has_vision_encoder", BOOL, True),
        Key("clip.projector_type", STRING, family),
    ]
    tensors = [
        Tensor("v.patch_embd.weight", (2, 2, 3, 4), 1, f16(*range(48))),
        Tensor("mm.0.weight", (4, 6), 1, f16(*range(24))),
        Tensor("mm.0.bias", (6,), 0, f32(*range(6))),
        Tensor("mm.2.weight", (6, width), 1, f16(*range(6 * width))),
    ]
    return RawGguf(keys, tensors, **kwargs)


def combined(width: int = 8) -> RawGguf:
    """Both parts in one file."""
    lm, vision = language_model(width), projector(width)
    return RawGguf([*lm.keys, *vision.keys[1:]], [*lm.tensors, *vision.tensors])


def everything() -> RawGguf:
    """A file with every value type, alone and in an array, and tensors of many types."""
    numbers = {U8: 200, I8: -100, U16: 60000, I16: -30000, U32: 4_000_000_000, I32: -2_000_000_000}
    numbers |= {F32: 0.5, U64: 2**62, I64: -(2**62), F64: 0.1, BOOL: True}
    keys = [Key("general.architecture", STRING, "llama"), Key("llama.embedding_length", U32, 8)]
    for kind, value in numbers.items():
        keys.append(Key(f"scalar.t{kind}", kind, value))
        keys.append(Key(f"array.t{kind}", ARRAY, (kind, [value, 0, 1])))
    keys.append(Key("scalar.text", STRING, "caf\u00e9\0end"))
    keys.append(Key("array.text", ARRAY, (STRING, ["a", "", b"\xff\xfe", "\u4e2d"])))
    keys.append(Key("array.none", ARRAY, (I32, [])))
    return RawGguf(keys, [*language_model().tensors, Tensor("q8", (32, 2), 8, bytes(range(68)))])
