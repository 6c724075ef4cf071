"""What is built on the reader: binding weights, finding the files of a model, the inspect and merge tools."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf_writer import (
    ARRAY,
    BOOL,
    I32,
    STRING,
    U32,
    Key,
    RawGguf,
    Tensor,
    combined,
    f16,
    f32,
    language_model,
    projector,
)

from trimtok_cpp import _core, gguf_tools
from trimtok_cpp.errors import ModelFormatError, UnsupportedError

# --- weights ---------------------------------------------------------------------------------------------


def bf16(*values: float) -> bytes:
    return b"".join(struct.pack("<f", value)[2:] for value in values)


def bind(
    tmp_path: Path, tensors: list[Tensor], *requests: tuple[str, str, int, int]
) -> tuple[list[Any], int]:
    file = _core.GgufFile(RawGguf(tensors=tensors).write(tmp_path / "w.gguf"))
    return _core._bind_weights(file, "language model", list(requests))


def test_matrices_are_rows_of_the_stored_type(tmp_path: Path) -> None:
    q8 = bytes(range(102))
    tensors = [
        Tensor("w", (4, 3), 1, f16(*range(12))),
        Tensor("q", (32, 3), 8, q8),
        Tensor("v", (5,), 0, f32(*range(5))),
    ]
    bound, n_bytes = bind(
        tmp_path,
        tensors,
        ("matrix", "w", 3, 4),
        ("matrix", "w", -1, -1),
        ("matrix", "q", 3, 32),
        ("optional_matrix", "v", 1, 5),
        ("optional_matrix", "absent", 3, 4),
    )
    assert bound == [
        ("F16", 3, 4, 8, f16(*range(12))),
        ("F16", 3, 4, 8, f16(*range(12))),
        ("Q8_0", 3, 32, 34, q8),
        ("F32", 1, 5, 20, f32(*range(5))),
        None,
    ]
    assert n_bytes == 24 + 102 + 20  # 'w' counts once


def test_flattened_joins_all_but_the_outermost(tmp_path: Path) -> None:
    conv = f16(*range(48))
    tensors = [Tensor("c", (2, 2, 3, 4), 1, conv), Tensor("one", (2, 2, 3, 1), 1, conv[:24])]
    tensors += [Tensor("dropped", (2, 2, 3), 1, conv[:24])]
    bound, _ = bind(
        tmp_path,
        tensors,
        ("flattened", "c", 4, 12),
        ("flattened", "c", -1, 12),
        ("flattened", "one", 1, 12),
        ("flattened", "dropped", 1, 12),
        ("flattened", "dropped", 3, 4),
    )
    assert [b[1:4] for b in bound] == [(4, 12, 24), (4, 12, 24), (1, 12, 24), (1, 12, 24), (3, 4, 8)]
    assert bound[0][4] == conv


def test_vectors_become_f32(tmp_path: Path) -> None:
    tricky = (0.0, -0.0, 1.0, -2.5, 65504.0, 2.0**-14, 2.0**-24, -3 * 2.0**-24, 1 / 3)
    every_half = np.arange(65536, dtype=np.uint16).view(np.float16)
    every_half = every_half[np.isfinite(every_half)]
    tensors = [
        Tensor("f32", (9,), 0, f32(*tricky)),
        Tensor("f16", (9,), 1, f16(*tricky)),
        Tensor("bf16", (3,), 30, bf16(1.0, -2.5, 2.0**-130)),
        Tensor("all", (every_half.size, 1, 1), 1, every_half.tobytes()),
    ]
    n = every_half.size
    requests = [
        ("vector", "f32", 9, 0),
        ("vector", "f16", 9, 0),
        ("vector", "bf16", 3, 0),
        ("vector", "all", n, 0),
    ]
    (a, b, c, d, e), _ = bind(tmp_path, tensors, *requests, ("optional_vector", "absent", 3, 0))
    assert a.tobytes() == f32(*tricky)
    assert b.tobytes() == np.array(tricky, np.float16).astype(np.float32).tobytes()
    assert c.tolist() == [1.0, -2.5, 2.0**-130]
    assert d.tobytes() == every_half.astype(np.float32).tobytes()
    assert e is None


def test_all_gaps_are_reported_at_once(tmp_path: Path) -> None:
    tensors = [
        Tensor("wrong", (4, 3), 0, bytes(48)),
        Tensor("cube", (2, 2, 2), 0, bytes(32)),
        Tensor("empty", (4, 0), 0, b""),
        Tensor("codebook", (256, 1), 16, bytes(66)),
        Tensor("long", (5,), 0, bytes(20)),
        Tensor("quantised", (32,), 8, bytes(34)),
        Tensor("nan", (3,), 0, f32(0, 1, math.nan)),
        Tensor("inf", (2,), 1, f16(0, -math.inf)),
        Tensor("fine", (4, 3), 0, bytes(48)),
    ]
    requests = [
        ("matrix", "absent.weight", 1, 1),
        ("matrix", "wrong", 4, 3),
        ("matrix", "cube", 4, 2),
        ("optional_matrix", "empty", 0, 4),
        ("matrix", "codebook", 1, 256),
        ("vector", "long", 4, 0),
        ("vector", "quantised", 32, 0),
        ("vector", "nan", 3, 0),
        ("optional_vector", "inf", 2, 0),
        ("flattened", "fine", -1, 5),
        ("matrix", "fine", 3, 4),
    ]
    with pytest.raises(ModelFormatError) as caught:
        bind(tmp_path, tensors, *requests)
    where, _, problems = str(caught.value).partition(": 10 weights cannot be used: ")
    assert where == f"[language model] '{tmp_path}/w.gguf'"
    assert problems.split("; ") == [
        "'absent.weight' is missing",
        "'wrong' has shape 3 x 4 (ne = [4, 3]), expected 4 x 3 (ne = [3, 4])",
        "'cube' has shape 2 x 2 x 2 (ne = [2, 2, 2]), expected 4 x 2 (ne = [2, 4])",
        "'empty' is empty: its shape is 0 x 4 (ne = [4, 0])",
        "'codebook' has type IQ2_XXS, which cannot be used as a weight",
        "use another quantisation",
        "'long' has shape 5 (ne = [5]), expected 4",
        "'quantised' has type Q8_0, expected F32, F16 or BF16 for a vector",
        "'nan' holds nan at index 2, expected finite numbers",
        "'inf' holds -inf at index 1, expected finite numbers",
        "'fine' has shape 3 x 4 (ne = [4, 3]), expected any x 5 once its inner dimensions are joined",
    ]


def test_a_long_list_of_gaps_is_cut(tmp_path: Path) -> None:
    with pytest.raises(
        ModelFormatError, match=r"100 weights cannot be used: 'a0' is missing.*; and 80 more$"
    ):
        bind(tmp_path, [], *[("matrix", f"a{i}", 1, 1) for i in range(100)])


# name, elements per block, bytes per block (spec 2.1)
NO_WEIGHTS = {
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
    42: ("Q2_0", 64, 18),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
def test_types_that_cannot_be_weights_are_named(tmp_path: Path, kind: int) -> None:
    name, block, size = NO_WEIGHTS[kind]
    with pytest.raises(UnsupportedError, match=f"'w' has type {name}, which cannot be used as a weight"):
        bind(tmp_path, [Tensor("w", (block, 1), kind, bytes(size))], ("matrix", "w", 1, block))


# --- files of a model ------------------------------------------------------------------------------------


def test_explicit_pair(tmp_path: Path) -> None:
    lm = language_model().write(tmp_path / "a.gguf")
    (tmp_path / "other").mkdir()
    vision = projector().write(tmp_path / "other" / "b.gguf")
    assert _core.find_model_files(lm, vision) == {
        "lm": str(lm),
        "vision": str(vision),
        "combined": False,
        "notes": [],
    }


def test_text_only_and_combined(tmp_path: Path) -> None:
    lm = language_model().write(tmp_path / "a.gguf")
    found = _core.find_model_files(lm)
    assert found == {"lm": str(lm), "vision": None, "combined": False, "notes": []}
    both = combined().write(tmp_path / "both.gguf")
    assert _core.GgufFile(both).kind == "combined"
    found = _core.find_model_files(both)
    assert (found["lm"], found["vision"], found["combined"]) == (str(both), str(both), True)


def test_search_takes_the_only_projector_that_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = language_model(arch="qwen2").write(tmp_path / "mmproj-named-like-a-projector.gguf")
    right = projector().write(tmp_path / "z.gguf")
    projector(width=16).write(tmp_path / "wide.gguf")
    projector(family="gemma3").write(tmp_path / "family.gguf")
    language_model(width=16).write(tmp_path / "other-lm.gguf")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    (tmp_path / "folder.gguf").mkdir()
    (tmp_path / "notes.txt").write_text("no model")
    found = _core.find_model_files(lm)
    assert found["vision"] == str(right)
    broken, family, wide = found["notes"]
    assert "broken.gguf" in broken
    assert "type 'gemma3', which was not made for a language model of architecture 'qwen2'" in family
    assert "rows of width 16" in wide
    monkeypatch.chdir(tmp_path)
    assert _core.find_model_files(lm.name)["vision"] == "z.gguf"

    projector().write(tmp_path / "y.gguf")
    with pytest.raises(ValueError, match=r"2 projector files .*y\.gguf', '.*z\.gguf'; pass mmproj"):
        _core.find_model_files(lm)
    assert _core.find_model_files(lm, right)["vision"] == str(right)


def test_wrong_pairs_are_explained(tmp_path: Path) -> None:
    lm = language_model().write(tmp_path / "lm.gguf")
    wide = projector(width=16).write(tmp_path / "wide.gguf")
    whole = combined().write(tmp_path / "whole.gguf")
    with pytest.raises(ValueError, match=r"is a projector .mmproj. file, expected a language model"):
        _core.find_model_files(wide)
    with pytest.raises(ValueError, match=r"is a projector .mmproj. file, expected a language model"):
        _core.find_model_files(wide, lm)
    with pytest.raises(ValueError, match=r"mmproj .*lm.gguf' is a language model without a vision part"):
        _core.find_model_files(lm, lm)
    with pytest.raises(ValueError, match=r"mmproj .*whole.gguf' is a whole model; leave mmproj out"):
        _core.find_model_files(lm, whole)
    width = (
        r"wide\.gguf' produces rows of width 16, but the language model in '.*lm\.gguf' takes rows of width 8"
    )
    with pytest.raises(ValueError, match=width):
        _core.find_model_files(lm, wide)
    with pytest.raises(OSError, match=r"absent\.gguf"):
        _core.find_model_files(lm, tmp_path / "absent.gguf")
    audio = projector()
    audio.tensors = [t for t in audio.tensors if not t.name.startswith("v.")]
    with pytest.raises(UnsupportedError, match="holds no vision tower"):
        _core.find_model_files(lm, audio.write(tmp_path / "audio.gguf"))


def test_combined_file_that_does_not_fit_itself(tmp_path: Path) -> None:
    raw = combined()
    raw.keys = [key if key.name != "llama.embedding_length" else Key(key.name, U32, 16) for key in raw.keys]
    with pytest.raises(ModelFormatError, match=r"rows of width 8, .* rows of width 16; the file is damaged"):
        _core.find_model_files(raw.write(tmp_path / "m.gguf"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ([], "key 'general.architecture' is missing, expected a string"),
        ([Key("general.architecture", U32, 1)], "'general.architecture' is the integer 1, expected a string"),
        (
            [Key("general.architecture", STRING, "x")],
            "key 'x.embedding_length' is missing, expected an integer",
        ),
        (
            [Key("general.architecture", STRING, "x"), Key("x.embedding_length", U32, 0)],
            "key 'x.embedding_length' is the integer 0, expected an integer from 1 to",
        ),
    ],
)
def test_language_model_without_a_width(tmp_path: Path, keys: list[Key], message: str) -> None:
    lm = RawGguf(keys, language_model().tensors).write(tmp_path / "lm.gguf")
    with pytest.raises(ModelFormatError, match=message):
        _core.find_model_files(lm, projector().write(tmp_path / "p.gguf"))


def test_ollama_files_are_recognised(tmp_path: Path) -> None:
    raw = language_model(arch="gemma3")
    raw.keys.append(Key("gemma3.vision.block_count", U32, 27))
    raw.tensors.append(Tensor("v.patch_embedding.weight", (2,), 0, f32(1, 2)))
    path = raw.write(tmp_path / "blob.gguf")
    assert _core.GgufFile(path).kind == "ollama"
    with pytest.raises(UnsupportedError, match=r"is an Ollama single-file model .*'gemma3.vision'"):
        _core.find_model_files(path)


def test_unusual_pair_of_the_same_width_is_noted(tmp_path: Path) -> None:
    lm = language_model().write(tmp_path / "lm.gguf")
    notes = _core.find_model_files(lm, projector(family="gemma3").write(tmp_path / "p.gguf"))["notes"]
    assert len(notes) == 1
    assert "type 'gemma3', which was not made for a language model of architecture 'llama'" in notes[0]


@pytest.mark.parametrize(
    ("tensors", "width"),
    [
        ([("mm.0.weight", (4, 6))], 6),
        ([("mm.0.weight", (4, 6)), ("mm.10.weight", (6, 9)), ("mm.2.weight", (6, 8))], 9),
        ([("mm.0.weight", (4, 6)), ("mm.1.weight", (6,)), ("mm.3.weight", (6, 8)), ("mm.4.weight", (8,))], 8),
        ([("mm.soft_emb_norm.weight", (4,)), ("mm.input_projection.weight", (8, 4))], 8),
        ([("mm.model.fc.weight", (16, 8))], 8),
        (
            [
                ("mm.model.mlp.0.weight", (16,)),
                ("mm.model.mlp.1.weight", (16, 8)),
                ("mm.model.mlp.3.weight", (8, 7)),
            ],
            7,
        ),
        ([("mm.model.mb_block.0.weight", (4, 4))], 0),
    ],
)
def test_width_of_each_family(tmp_path: Path, tensors: list[tuple[str, tuple[int, ...]]], width: int) -> None:
    raw = RawGguf(tensors=[Tensor(name, ne, 0, bytes(4 * math.prod(ne))) for name, ne in tensors])
    assert _core.GgufFile(raw.write(tmp_path / "p.gguf")).projector_width == width


@pytest.mark.parametrize(
    ("keys", "family"),
    [
        ([Key("clip.projector_type", STRING, "idefics3")], "idefics3"),
        ([Key("clip.vision.projector_type", STRING, "qwen2.5o")], "qwen2.5vl_merger"),
        ([Key("clip.has_qwen2vl_merger", BOOL, True)], "qwen2vl_merger"),
        ([Key("clip.has_llava_projector", BOOL, True)], "mlp"),
        ([], "mlp"),  # by its tensors
    ],
)
def test_projector_type(tmp_path: Path, keys: list[Key], family: str) -> None:
    raw = projector()
    raw.keys = [raw.keys[0], *keys]
    assert _core.GgufFile(raw.write(tmp_path / "p.gguf")).projector_type == family


def test_fixture_pairs(fixtures: Path) -> None:
    folders = sorted(path.parent for path in fixtures.glob("*/lm.gguf"))
    assert len(folders) >= 8
    for folder in folders:
        found = _core.find_model_files(folder / "lm.gguf")
        assert found["vision"] == str(folder / "mmproj.gguf")
        assert found["notes"] == []


# --- tools -----------------------------------------------------------------------------------------------


def assert_merged(merged: Path, lm: Path, vision: Path) -> None:
    """By the gguf package's reader: nothing of the code under test is asked."""
    out, a, b = (gguf.GGUFReader(path) for path in (merged, lm, vision))

    def raw(reader: gguf.GGUFReader, keep: Any) -> dict[str, bytes]:
        return {
            name: b"".join(part.tobytes() for part in field.parts)
            for name, field in reader.fields.items()
            if not name.startswith("GGUF.") and keep(name)
        }

    assert raw(out, lambda _: True) == raw(a, lambda _: True) | raw(b, lambda name: name.startswith("clip."))
    tensors = [*a.tensors, *b.tensors]
    assert [t.name for t in out.tensors] == [t.name for t in tensors]
    for ours, theirs in zip(out.tensors, tensors, strict=True):
        assert ours.tensor_type == theirs.tensor_type
        assert ours.shape.tolist() == theirs.shape.tolist()
        assert ours.data.tobytes() == theirs.data.tobytes()


@pytest.mark.parametrize("family", ["gemma3", "llava16", "qwen3vl"])
def test_merge_of_fixtures_equals_its_sources(fixtures: Path, tmp_path: Path, family: str) -> None:
    lm, vision, out = fixtures / family / "lm.gguf", fixtures / family / "mmproj.gguf", tmp_path / "out.gguf"
    assert gguf_tools.merge(lm, vision, out) == []
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
    assert_merged(out, lm, vision)
    assert _core.find_model_files(out)["combined"] is True


def test_merge_keeps_odd_content(tmp_path: Path) -> None:
    raw = language_model(alignment=64)
    raw.keys += [
        Key("general.alignment", U32, 64),
        Key("tokenizer.ggml.tokens", ARRAY, (STRING, [b"\xff\xfe", "a\0b", ""])),
        Key("llama.none", ARRAY, (I32, [])),
    ]
    raw.tensors.append(Tensor("blk.0.ffn_up.weight", (256, 2), 12, bytes(range(256)) + bytes(32)))
    lm = raw.write(tmp_path / "lm.gguf")
    second = projector()
    second.keys.append(Key("strange.key", U32, 1))
    vision = second.write(tmp_path / "p.gguf")
    notes = gguf_tools.merge(lm, vision, tmp_path / "out.gguf")
    assert [("'llama.none'" in note, "'strange.key'" in note) for note in notes] == [
        (True, False),
        (False, True),
    ]
    raw.keys = [key for key in raw.keys if key.name != "llama.none"]
    assert_merged(tmp_path / "out.gguf", raw.write(tmp_path / "expected.gguf"), vision)


def test_merge_refuses(tmp_path: Path) -> None:
    lm, vision = language_model().write(tmp_path / "lm.gguf"), projector().write(tmp_path / "p.gguf")
    wide, whole = projector(width=9).write(tmp_path / "w.gguf"), combined().write(tmp_path / "c.gguf")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="width 9"):
        gguf_tools.merge(lm, wide, tmp_path / "out.gguf")
    with pytest.raises(ValueError, match="already holds a vision tower"):
        gguf_tools.merge(whole, vision, tmp_path / "out.gguf")
    with pytest.raises(ValueError, match="one of the files to merge"):
        gguf_tools.merge(lm, vision, lm, overwrite=True)
    with pytest.raises(FileExistsError, match="exists"):
        gguf_tools.merge(lm, vision, wide)
    with pytest.raises(OSError, match="No such file"):
        gguf_tools.merge(lm, vision, tmp_path / "no" / "such" / "folder.gguf")
    clash = language_model()
    clash.tensors.append(Tensor("mm.2.weight", (1,), 0, f32(1)))
    with pytest.raises(ValueError, match=r"'mm.2.weight'"):
        gguf_tools.merge(clash.write(tmp_path / "lm.gguf"), vision, tmp_path / "out.gguf")
    language_model().write(tmp_path / "lm.gguf")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    gguf_tools.merge(lm, vision, wide, overwrite=True)
    assert_merged(wide, lm, vision)


def test_merge_of_shards_makes_one_file(tmp_path: Path) -> None:
    whole = language_model()
    for no, tensor in enumerate(whole.tensors):
        split = [Key("split.no", U32, no), Key("split.count", U32, 2), Key("split.tensors.count", I32, 2)]
        RawGguf([*(whole.keys if no == 0 else []), *split], [tensor]).write(
            tmp_path / f"m-0000{no + 1}-of-00002.gguf"
        )
    (tmp_path / "vision").mkdir()
    vision = projector().write(tmp_path / "vision" / "p.gguf")
    gguf_tools.merge(tmp_path / "m-00001-of-00002.gguf", vision, tmp_path / "out.gguf")
    assert_merged(tmp_path / "out.gguf", whole.write(tmp_path / "expected.gguf"), vision)


def test_inspect_dict(tmp_path: Path) -> None:
    raw = combined()
    raw.keys += [Key("llama.long", ARRAY, (I32, list(range(100)))), Key("llama.text", STRING, "x" * 200)]
    raw.keys.append(Key("tokenizer.ggml.tokens", ARRAY, (STRING, [b"\xff\xfe", "a\0b"])))
    raw.tensors.append(Tensor("odd", (256, 2), 16, bytes(132)))
    path = raw.write(tmp_path / "m.gguf")
    info = gguf_tools.inspect_dict(path)
    assert json.loads(json.dumps(info, ensure_ascii=False).encode()) == info
    assert info["metadata"]["tokenizer.ggml.tokens"]["value"] == ["\\xff\\xfe", "a\0b"]
    assert (info["kind"], info["architecture"], info["projector"]) == ("combined", "llama", "mlp")
    assert info["metadata"]["llama.long"] == {"type": "int32[100]", "value": [0, 1, 2, 3, 4, 5], "count": 100}
    assert info["metadata"]["llama.text"]["value"] == "x" * 200
    assert info["tensors"][-1] == {"name": "odd", "shape": [2, 256], "type": "IQ2_XXS", "bytes": 132}
    assert info["types"]["IQ2_XXS"] == {"tensors": 1, "bytes": 132}
    assert sum(total["bytes"] for total in info["types"].values()) == sum(t["bytes"] for t in info["tensors"])
    assert info["unsupported"] == ["type IQ2_XXS as a weight: 1 tensors, the first is 'odd'"]


def test_inspect_names_what_is_unsupported(tmp_path: Path) -> None:
    lm, vision = language_model(arch="mamba7"), projector(family="resampler")
    assert gguf_tools.inspect_dict(lm.write(tmp_path / "a.gguf"))["unsupported"] == [
        "language model architecture 'mamba7'"
    ]
    assert gguf_tools.inspect_dict(vision.write(tmp_path / "b.gguf"))["unsupported"] == [
        "projector type 'resampler'"
    ]


def test_inspect_text(tmp_path: Path) -> None:
    raw = language_model()
    raw.keys.append(Key("general.name", STRING, "evil\x1b[2Jname"))
    raw.keys.append(Key("llama.eps", 6, 1e-5))
    raw.keys.append(Key("tokenizer.ggml.tokens", ARRAY, (STRING, [f"t{i}" for i in range(50)])))
    text = gguf_tools.inspect_text(raw.write(tmp_path / "m.gguf"))
    assert "\x1b" not in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert 'general.name string "evil\\x1b[2Jname"' in lines
    assert "llama.eps float32 1e-05" in lines
    assert 'tokenizer.ggml.tokens string[50] ["t0", "t1", "t2", "t3", "t4", "t5", ...]' in lines
    assert "token_embd.weight 3 x 8 F32 96 B" in lines
    assert "language model, architecture llama (Llama 1-3, Mistral, Vicuna, SmolLM2)" in lines
    assert "F32 2 tensors 128 B" in lines
    assert "unsupported: none" in lines
