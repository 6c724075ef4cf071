"""Files that lie: each lie has a message of its own, and whatever the bytes, the process survives."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gguf_writer import (
    ARRAY,
    BOOL,
    I32,
    I64,
    STRING,
    U8,
    U32,
    U64,
    Key,
    RawGguf,
    Tensor,
    everything,
    f32,
    language_model,
)

from trimtok_cpp import _core
from trimtok_cpp.errors import ModelFormatError, UnsupportedError

MAX64 = 2**64 - 1
REFUSALS = (ModelFormatError, UnsupportedError, OSError, ValueError)


def key_lie(*keys: Key, **lies: int | bytes) -> Callable[[], RawGguf]:
    """A file with these keys; in the names of lies, K stands for the first key."""

    def make() -> RawGguf:
        first = keys[0].name if isinstance(keys[0].name, str) else keys[0].name.decode("latin-1")
        return RawGguf(
            list(keys), language_model().tensors, lies={f"{first}/{k}": v for k, v in lies.items()}
        )

    return make


def tensor_lie(**lies: int | bytes) -> Callable[[], RawGguf]:
    """A sound file but for fields of its tensor 'w', [4, 3] of F32."""

    def make() -> RawGguf:
        tensors = [Tensor("w", (4, 3), 0, f32(*range(12))), Tensor("z", (8,), 0, f32(*range(8)))]
        return RawGguf(tensors=tensors, lies={f"w/{k}": v for k, v in lies.items()})

    return make


def header_lie(**lies: int | bytes) -> Callable[[], RawGguf]:
    return lambda: language_model(lies=lies)


def tensors_lie(*tensors: Tensor, **kwargs: Any) -> Callable[[], RawGguf]:
    return lambda: RawGguf(tensors=list(tensors), **kwargs)


ALIGNMENT = Key("general.alignment", U32, 32)
TEXT, INTS, STRINGS = (
    Key("k", STRING, "abc"),
    Key("k", ARRAY, (I32, [1, 2])),
    Key("k", ARRAY, (STRING, ["a", "b"])),
)
LIES: dict[str, tuple[Callable[[], RawGguf], type[Exception], str]] = {
    "magic": (header_lie(magic=b"GGML"), ModelFormatError, r"header: magic is 'GGML', expected 'GGUF'"),
    "magic-bytes": (header_lie(magic=b"\xff\x00\x1b["), ModelFormatError, r"magic is '\\xff\\x00\\x1b\['"),
    "version-0": (header_lie(version=0), ModelFormatError, "version is 0, expected 2 or 3"),
    "version-1": (header_lie(version=1), UnsupportedError, "version is 1, expected 2 or 3"),
    "version-4": (header_lie(version=4), UnsupportedError, "version is 4, expected 2 or 3"),
    "big-endian": (header_lie(version=0x03000000), UnsupportedError, "0x03000000: the file is big-endian"),
    "tensor-count-cap": (
        header_lie(tensor_count=MAX64),
        ModelFormatError,
        f"tensor count is {MAX64}, expected at",
    ),
    "tensor-count-file": (
        header_lie(tensor_count=500_000),
        ModelFormatError,
        "tensor count is 500000, .* the rest",
    ),
    "key-count-cap": (
        header_lie(kv_count=2**63),
        ModelFormatError,
        f"key count is {2**63}, expected at most",
    ),
    "key-count-file": (
        header_lie(kv_count=90_000),
        ModelFormatError,
        "key count is 90000, .* the rest of the file",
    ),
    "key-length-cap": (
        key_lie(TEXT, name_length=65536),
        ModelFormatError,
        "key number 0: key length is 65536, exp",
    ),
    "key-length-file": (
        key_lie(TEXT, name_length=60000),
        ModelFormatError,
        "key needs 60000 bytes .* file ends",
    ),
    "key-length-max": (
        key_lie(TEXT, name_length=MAX64),
        ModelFormatError,
        f"key length is {MAX64}, expected at most",
    ),
    "key-empty": (key_lie(Key("", U8, 1)), ModelFormatError, "the key is empty"),
    "key-control": (
        key_lie(Key("a\nb", U8, 1)),
        ModelFormatError,
        r"the key is 'a\\x0ab', expected printable",
    ),
    "key-not-ascii": (
        key_lie(Key(b"a\xe9", U8, 1)),
        ModelFormatError,
        r"the key is 'a\\xe9', expected printable",
    ),
    "key-twice": (key_lie(TEXT, Key("k", U8, 1)), ModelFormatError, "key 'k': the key appears twice"),
    "value-type": (key_lie(TEXT, type=13), ModelFormatError, "key 'k': value type is 13, expected 0-12"),
    "value-type-negative": (key_lie(TEXT, type=-1), ModelFormatError, "value type is -1, expected 0-12"),
    "string-length-cap": (
        key_lie(TEXT, length=MAX64),
        ModelFormatError,
        f"string length is {MAX64}, expected at most",
    ),
    "string-length-file": (
        key_lie(TEXT, length=2**26),
        ModelFormatError,
        f"string needs {2**26} bytes .* file ends",
    ),
    "element-type": (
        key_lie(INTS, element_type=13),
        ModelFormatError,
        "element type is 13, expected 0-8 or 10-12",
    ),
    "element-type-nested": (key_lie(INTS, element_type=ARRAY), ModelFormatError, "is an array of arrays"),
    "count-cap": (
        key_lie(INTS, count=MAX64),
        ModelFormatError,
        f"array count is {MAX64}, expected at most {2**26}",
    ),
    "count-wraps": (
        key_lie(INTS, count=2**62 + 1),
        ModelFormatError,
        f"array count is {2**62 + 1}, expected at",
    ),
    "count-file": (
        key_lie(INTS, count=100_000),
        ModelFormatError,
        "array count is 100000, .* rest of the file",
    ),
    "strings-count-file": (
        key_lie(STRINGS, count=100_000),
        ModelFormatError,
        "array count is 100000, .* rest of",
    ),
    "element-length": (
        key_lie(STRINGS, **{"1/length": 2**20}),
        ModelFormatError,
        "string element needs 1048576 bytes",
    ),
    "element-length-cap": (
        key_lie(STRINGS, **{"0/length": MAX64}),
        ModelFormatError,
        "string element length is 1844",
    ),
    "bool": (key_lie(Key("k", BOOL, 2)), ModelFormatError, "key 'k': bool value is 2, expected 0 or 1"),
    "bools": (
        key_lie(Key("k", ARRAY, (BOOL, [1, 255]))),
        ModelFormatError,
        "bool value is 255, expected 0 or 1",
    ),
    "uint64": (
        key_lie(Key("k", U64, 2**63)),
        ModelFormatError,
        f"value is {2**63}, expected at most 2.63 - 1",
    ),
    "uint64s": (
        key_lie(Key("k", ARRAY, (U64, [MAX64]))),
        ModelFormatError,
        f"value is {MAX64}, expected at most",
    ),
    "alignment-0": (
        key_lie(ALIGNMENT, value=0),
        ModelFormatError,
        "'general.alignment': is 0, expected a power of",
    ),
    "alignment-4": (
        key_lie(ALIGNMENT, value=4),
        ModelFormatError,
        "is 4, expected a power of two from 8 to 1048576",
    ),
    "alignment-24": (key_lie(ALIGNMENT, value=24), ModelFormatError, "is 24, expected a power of two"),
    "alignment-2MiB": (
        key_lie(ALIGNMENT, value=2**21),
        ModelFormatError,
        "is 2097152, expected a power of two",
    ),
    "alignment-max": (
        key_lie(ALIGNMENT, value=2**31),
        ModelFormatError,
        "is 2147483648, expected a power of two",
    ),
    "alignment-i64": (
        key_lie(Key(ALIGNMENT.name, I64, 32)),
        ModelFormatError,
        "the integer 32, expected a uint32",
    ),
    "alignment-text": (
        key_lie(Key(ALIGNMENT.name, STRING, "32")),
        ModelFormatError,
        "string '32', expected a uint32",
    ),
    "name-length": (
        tensor_lie(name_length=64),
        ModelFormatError,
        "number 0: name length is 64, expected at most 63",
    ),
    "name-length-max": (
        tensor_lie(name_length=MAX64),
        ModelFormatError,
        f"name length is {MAX64}, expected at most",
    ),
    "name-empty": (tensors_lie(Tensor("", (1,), 0, f32(1))), ModelFormatError, "the name is empty"),
    "name-control": (
        tensors_lie(Tensor("a\x1b[2J", (1,), 0, f32(1))),
        ModelFormatError,
        r"name is 'a\\x1b\[2J'",
    ),
    "name-twice": (
        tensors_lie(*[Tensor("a", (1,), 0, f32(1))] * 2),
        ModelFormatError,
        "tensor 'a': .* appears twice",
    ),
    "n-dims": (tensor_lie(n_dims=5), ModelFormatError, "tensor 'w': dimension count is 5, expected 0 to 4"),
    "n-dims-max": (
        tensor_lie(n_dims=2**32 - 1),
        ModelFormatError,
        "dimension count is 4294967295, expected 0 to",
    ),
    "dimension-sign": (tensor_lie(ne1=2**63), ModelFormatError, f"dimension 1 is {2**63}, expected at most"),
    "elements-wrap": (
        tensor_lie(ne0=2**42, ne1=2**42 + 1),
        ModelFormatError,
        "the number of elements exceeds",
    ),
    "bytes-wrap": (tensor_lie(ne0=2**62, ne1=1), ModelFormatError, "the number of bytes exceeds"),
    "type-unknown": (tensor_lie(type=43), UnsupportedError, "type id is 43, which is no tensor type known"),
    "type-negative": (tensor_lie(type=-1), UnsupportedError, "type id is -1, which is no tensor type known"),
    "type-q8_1": (tensor_lie(type=9), ModelFormatError, "type is Q8_1, which exists at run time only"),
    "type-q8_k": (tensor_lie(type=15), ModelFormatError, "type is Q8_K, which exists at run time only"),
    "block": (
        tensor_lie(type=8),
        ModelFormatError,
        "dimension 0 is 4, expected a multiple of 32, the block of Q8_0",
    ),
    "offset-unaligned": (
        tensor_lie(offset=1),
        ModelFormatError,
        "offset is 1, expected a multiple of the alignment 32",
    ),
    "offset-outside": (
        tensor_lie(offset=2**20),
        ModelFormatError,
        "48 bytes at offset 1048576 .* outside the file",
    ),
    "offset-wraps": (
        tensor_lie(offset=MAX64 - 31),
        ModelFormatError,
        f"at offset {MAX64 - 31} .* outside the file",
    ),
    "data-too-long": (
        tensor_lie(ne1=1000),
        ModelFormatError,
        "its 16000 bytes at offset 0 .* outside the file",
    ),
    "overlap": (
        tensors_lie(Tensor("a", (16,), 0, bytes(64)), Tensor("b", (4,), 0, bytes(16), offset=32)),
        ModelFormatError,
        "tensor 'b': its data at offset 32 overlaps tensor 'a', which ends at 64",
    ),
    "overlap-same": (
        tensors_lie(Tensor("a", (4,), 0, bytes(16)), Tensor("b", (4,), 0, bytes(16), offset=0)),
        ModelFormatError,
        "overlaps tensor",
    ),
    "empty-tensor-outside": (
        tensors_lie(Tensor("a", (4, 0), 0, b""), lies={"a/offset": 2**20}),
        ModelFormatError,
        "its 0 bytes at offset 1048576 .* outside the file",
    ),
}
for _id in (4, 5, 31, 32, 33, 36, 37, 38):
    LIES[f"type-removed-{_id}"] = (
        tensor_lie(type=_id),
        UnsupportedError,
        f"type id is {_id}, which was removed",
    )


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_named(tmp_path: Path, lie: str) -> None:
    make, error, message = LIES[lie]
    with pytest.raises(error, match=message) as caught:
        _core.GgufFile(make().write(tmp_path / "liar.gguf"))
    assert str(caught.value).startswith(f"[gguf] '{tmp_path}/liar.gguf': ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "magic is '', expected 'GGUF'"),
        (b"GG", "magic is 'GG', expected 'GGUF'"),
        (b"GGUF\x03\0\0\0\1", "header: tensor count needs 8 bytes at byte 8, but the file ends after 1 more"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "is a Git LFS pointer, expected a GGUF",
        ),
    ],
)
def test_files_that_are_no_gguf(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ModelFormatError, match=message):
        _core.GgufFile(tmp_path / "x.gguf")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    raw = everything()
    raw.last_padding = False
    whole = raw.build()
    path = tmp_path / "cut.gguf"
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(ModelFormatError):
            _core.GgufFile(path)


# --- fuzz: anything may be refused, nothing may crash ------------------------------------------------------


def survive(path: Path) -> bool:
    """True when the file loads; then everything in it can be read."""
    try:
        file = _core.GgufFile(path)
        message = ""
    except REFUSALS as error:
        message = str(error)
    if message:
        assert re.match(r"\[gguf\] '.*mutated\.gguf': \S", message)
        return False
    assert len(file.metadata) == len(file.value_types)
    read = 0
    for tensor in file.tensors:
        data = file.tensor_data(tensor["name"])
        assert data.nbytes == tensor["bytes"]
        read += data.nbytes
    assert read <= file.file_bytes
    assert file.kind in ("language model", "projector", "combined", "ollama")
    return True


def test_fuzz_every_field(tmp_path: Path) -> None:
    raw = everything()
    whole = raw.build()
    rng = random.Random(20260822)
    path = tmp_path / "mutated.gguf"
    results = []
    for field in raw.fields:
        if field.size == 0:
            continue
        top = (1 << (8 * field.size)) - 1
        for value in (0, 1, top, top >> 1, rng.randint(0, top), rng.randint(0, min(top, 255))):
            mutated = bytearray(whole)
            mutated[field.offset : field.offset + field.size] = value.to_bytes(field.size, "little")
            path.write_bytes(mutated)
            results.append(survive(path))
    assert len(results) > 1000
    assert 100 < sum(results) < len(results) - 100  # both outcomes are exercised


@pytest.mark.parametrize("seed", range(8))
def test_fuzz_bytes(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    raw = everything()
    whole = raw.build()
    path = tmp_path / "mutated.gguf"
    results = []
    for _ in range(100):
        mutated = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 4, 16))):
            at = rng.randrange(raw.data_start)
            match rng.randrange(5):
                case 0:
                    mutated[at] ^= 1 << rng.randrange(8)
                case 1:
                    mutated[at] = rng.randrange(256)
                case 2:
                    del mutated[at : at + rng.randrange(1, 16)]
                case 3:
                    mutated[at:at] = rng.randbytes(rng.randrange(1, 16))
                case 4:
                    mutated[at : at + 8] = struct.pack(
                        "<Q", rng.choice((2**63, MAX64, 2**32, rng.getrandbits(64)))
                    )
        if rng.random() < 0.2:
            del mutated[rng.randrange(len(mutated)) :]
        path.write_bytes(mutated)
        results.append(survive(path))
    assert not all(results)
