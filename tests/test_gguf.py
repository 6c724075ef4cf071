"""The GGUF reader on files that are fine, and on split models. Lies are in test_gguf_hostile.py."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_writer import (
    ARRAY,
    F32,
    I32,
    STRING,
    U16,
    U32,
    Key,
    RawGguf,
    Tensor,
    everything,
    f16,
    f32,
    language_model,
)

from trimtok_cpp import _core
from trimtok_cpp.errors import ModelFormatError


def load(raw: RawGguf, tmp_path: Path, name: str = "model.gguf") -> _core.GgufFile:
    return _core.GgufFile(raw.write(tmp_path / name))


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 64, 4096, 1 << 20])
def test_versions_and_alignments(tmp_path: Path, version: int, alignment: int) -> None:
    raw = language_model(version=version, alignment=alignment)
    if alignment != 32:
        raw.keys.append(Key("general.alignment", U32, alignment))
    file = load(raw, tmp_path)
    assert (file.version, file.n_shards, file.warnings) == (version, 1, [])
    assert file.file_bytes == (tmp_path / "model.gguf").stat().st_size
    for tensor in raw.tensors:
        assert file.tensor_data(tensor.name).tobytes() == tensor.data


def test_every_value_type(tmp_path: Path) -> None:
    raw = everything()
    file = load(raw, tmp_path)
    meta = file.metadata
    assert list(meta) == [key.name for key in raw.keys]
    assert meta["scalar.text"] == "caf\u00e9\0end"
    assert [s.encode("utf-8", "surrogateescape") for s in meta["array.text"]] == [
        b"a",
        b"",
        b"\xff\xfe",
        "\u4e2d".encode(),
    ]
    for key in raw.keys:
        stored = (key.type, key.value[0] if key.type == ARRAY else None)
        assert file.value_types[key.name] == stored
        if key.name.startswith("scalar.t") and key.type not in (STRING, F32):
            assert meta[key.name] == key.value
            assert type(meta[key.name]) is type(key.value)
        if key.name.startswith("array.t") and key.name != "array.text":
            assert meta[key.name] == key.value[1]
    assert meta["scalar.t7"] is True
    assert meta["array.t7"] == [True, False, True]
    assert meta["array.none"] == []


def test_float32_metadata_is_widened_exactly(tmp_path: Path) -> None:
    meta = load(RawGguf([Key("a", F32, 0.1), Key("b", F32, math.nan)]), tmp_path).metadata
    assert meta["a"] == float(np.float32(0.1))
    assert math.isnan(meta["b"])


@pytest.mark.parametrize("kind", [t for t in gguf.GGMLQuantizationType if t.name not in ("Q8_1", "Q8_K")])
def test_every_tensor_type_has_the_size_of_the_format(tmp_path: Path, kind: Any) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = random.Random(int(kind)).randbytes(6 * size)
    (tensor,) = load(RawGguf(tensors=[Tensor("t", (2 * block, 3), int(kind), data)]), tmp_path).tensors
    assert tensor["dtype"] == kind.name
    assert tensor["type_id"] == int(kind)
    assert tensor["bytes"] == len(data)
    assert tensor["ne"] == (2 * block, 3)
    assert tensor["shape"] == (3, 2 * block)
    lookup_or_integer = kind.name.startswith(
        ("IQ1", "IQ2", "IQ3", "I8", "I16", "I32", "I64", "F64", "TQ", "NVFP4")
    )
    assert tensor["usable"] is not (lookup_or_integer or kind.name in ("Q1_0", "Q2_0"))


def test_scalar_and_empty_tensors(tmp_path: Path) -> None:
    tensors = [Tensor("one", (), 0, f32(7)), Tensor("none", (4, 0, 2), 0, b""), Tensor("last", (0,), 0, b"")]
    file = load(RawGguf(tensors=tensors, last_padding=False), tmp_path)
    assert file.tensor_data("one").tobytes() == f32(7)
    assert [t["bytes"] for t in file.tensors] == [4, 0, 0]
    assert [t["shape"] for t in file.tensors] == [(), (2, 0, 4), (0,)]
    assert file.tensor_data("none").size == 0
    with pytest.raises(KeyError):
        file.tensor_data("absent")


def test_padding_at_the_end_may_be_missing(tmp_path: Path) -> None:
    raw = language_model(width=3, last_padding=False)
    assert len(raw.build()) % 32 != 0
    assert load(raw, tmp_path).warnings == []


def test_holes_order_and_trailing_bytes(tmp_path: Path) -> None:
    tensors = [
        Tensor("b", (8,), 0, f32(*range(8)), offset=128),
        Tensor("a", (8,), 0, f32(*range(8, 16)), offset=0),
    ]
    path = RawGguf(tensors=tensors).write(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes() + bytes(100))
    file = _core.GgufFile(path)
    assert [t["name"] for t in file.tensors] == ["b", "a"]
    assert file.tensor_data("a").tobytes() == f32(*range(8, 16))
    holes, trailing = file.warnings
    assert "1 holes between tensors, 96 bytes" in holes
    assert "100 bytes after the last tensor" in trailing


def test_views_outlive_the_file_object(tmp_path: Path) -> None:
    file = load(language_model(), tmp_path)
    view = file.tensor_data("token_embd.weight", copy=False)
    del file
    assert view.tobytes() == f32(*range(24))
    assert not view.flags.writeable


def test_file_cut_short_while_open_is_an_error_not_a_crash(tmp_path: Path) -> None:
    path = language_model(width=4096).write(tmp_path / "m.gguf")
    file = _core.GgufFile(path)
    with path.open("r+b") as handle:
        handle.truncate(4096)
    with pytest.raises(OSError, match="shrank from"):
        file.tensor_data("output_norm.weight")


def test_path_types_and_missing_files(tmp_path: Path) -> None:
    path = language_model().write(tmp_path / "m\u00f6del.gguf")
    for same in (path, str(path), str(path).encode()):
        assert _core.GgufFile(same).path == str(path)
    with pytest.raises(OSError, match=r"cannot open .*absent\.gguf.*No such file"):
        _core.GgufFile(tmp_path / "absent.gguf")
    with pytest.raises(OSError, match="is a folder"):
        _core.GgufFile(tmp_path)
    with pytest.raises(ValueError, match="NUL byte"):
        _core.GgufFile("a\0b")
    with pytest.raises(TypeError):
        _core.GgufFile(3)


def test_same_view_as_the_gguf_package(fixtures: Path) -> None:
    paths = sorted(fixtures.glob("*/lm.gguf")) + sorted(fixtures.glob("*/mmproj.gguf"))
    paths.append(fixtures / "tokenizers" / "ggml-vocab-phi-3.gguf")  # by another writer
    assert len(paths) >= 17
    for path in paths:
        ours, theirs = _core.GgufFile(path), gguf.GGUFReader(path)
        keys = {name: field for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
        assert list(ours.metadata) == list(keys)
        meta = ours.metadata
        for name, field in keys.items():
            assert [t for t in ours.value_types[name] if t is not None] == [int(t) for t in field.types][:2]
            if len(field.data) > 5000:  # slow in the package: a sample is enough
                for i in (0, 1, len(field.data) // 2, len(field.data) - 1):
                    assert meta[name][i] == field.contents(i)
                assert len(meta[name]) == len(field.data)
            else:
                assert meta[name] == field.contents()
        assert [t["name"] for t in ours.tensors] == [t.name for t in theirs.tensors]
        for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
            assert mine["ne"] == tuple(int(n) for n in other.shape)
            assert mine["type_id"] == int(other.tensor_type)
            assert ours.tensor_data(mine["name"]).tobytes() == other.data.tobytes()


def split_model(folder: Path, **changes: Any) -> Path:
    """Three shards; `changes` maps "shard.key" to another value, or to None to leave the key out."""
    for no in range(3):
        keys = {"split.no": (U16, no), "split.count": (U16, 3), "split.tensors.count": (I32, 6)}
        for name, value in changes.items():
            shard, key = name.split(".", 1)
            if int(shard) == no and value is None:
                del keys[key]
            elif int(shard) == no:
                keys[key] = (keys[key][0], value)
        listed = [Key(key, kind, value) for key, (kind, value) in keys.items()]
        raw = RawGguf([*language_model().keys, *listed] if no == 0 else listed)
        # Each shard has its own alignment (spec 1.7).
        raw.alignment = 32 << no
        raw.keys.append(Key("general.alignment", U32, raw.alignment))
        raw.tensors = [Tensor(f"t{no}.{i}", (4,), 1, f16(no, i, 0, 0)) for i in range(2)]
        raw.write(folder / f"m-{no + 1:05}-of-00003.gguf")
    return folder / "m-00001-of-00003.gguf"


def test_shards_make_one_model(tmp_path: Path) -> None:
    file = _core.GgufFile(split_model(tmp_path))
    assert file.n_shards == 3
    assert [(t["name"], t["shard"]) for t in file.tensors] == [
        (f"t{s}.{i}", s) for s in range(3) for i in range(2)
    ]
    assert file.tensor_data("t2.1").tobytes() == f16(2, 1, 0, 0)
    assert file.metadata["general.architecture"] == "llama"
    assert file.file_bytes == sum(p.stat().st_size for p in tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"0.split.count": 4}, ModelFormatError, "expected a name that ends in -00001-of-00004.gguf"),
        (
            {"0.split.no": 1},
            ModelFormatError,
            "number 2 of 3 .* expected a name that ends in -00002-of-00003",
        ),
        ({"0.split.no": 9}, ModelFormatError, "'split.no' is the integer 9, expected an integer from 0 to 2"),
        ({"0.split.no": None}, ModelFormatError, "key 'split.no' is missing"),
        ({"1.split.no": 2}, ModelFormatError, "'split.no' is the integer 2, expected an integer from 1 to 1"),
        (
            {"2.split.count": 2},
            ModelFormatError,
            "'split.count' is the integer 2, expected an integer from 3 to 3",
        ),
        ({"2.split.count": None}, ModelFormatError, "00003-of-00003.gguf': key 'split.count' is missing"),
        ({"0.split.tensors.count": 7}, ModelFormatError, "3 files hold 6 tensors, expected 7"),
        (
            {"0.split.tensors.count": -1},
            ModelFormatError,
            "'split.tensors.count' is the integer -1, expected",
        ),
        ({"0.split.tensors.count": None}, ModelFormatError, "key 'split.tensors.count' is missing"),
    ],
)
def test_shards_that_contradict(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        _core.GgufFile(split_model(tmp_path, **changes))


def test_shard_missing_wrong_or_duplicated(tmp_path: Path) -> None:
    first = split_model(tmp_path)
    second, third = (tmp_path / f"m-0000{n}-of-00003.gguf" for n in (2, 3))
    with pytest.raises(
        ValueError, match=r"is file 2 of 3, expected the first; open '.*m-00001-of-00003\.gguf'"
    ):
        _core.GgufFile(second)
    RawGguf(
        [Key("split.no", U16, 2), Key("split.count", U16, 3), Key("split.tensors.count", I32, 6)],
        [Tensor("t1.0", (1,), 0, f32(1))],
    ).write(third)
    with pytest.raises(
        ModelFormatError, match=r"00003-of-00003.gguf': tensor 't1.0' is also in .*00002-of-00003"
    ):
        _core.GgufFile(first)
    third.unlink()
    with pytest.raises(OSError, match=r"cannot open file 3 of 3 of this model, .*m-00003-of-00003\.gguf"):
        _core.GgufFile(first)
    renamed = first.rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelFormatError, match="restore the original file names"):
        _core.GgufFile(renamed)


def test_name_of_a_shard_alone_means_nothing(tmp_path: Path) -> None:
    assert load(language_model(), tmp_path, "m-00001-of-00002.gguf").n_shards == 1
