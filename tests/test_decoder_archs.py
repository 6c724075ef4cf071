"""Random tiny models of internlm2, phi3 and smollm3 against plain numpy (tiny_decoder.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_decoder import TOLERANCE, embed, engine_logits, prompt_ids, relative_error
from tiny_decoder import QTYPE, Spec, TinyModel, make_model, numpy_logits, write_model

from trimtok_cpp import _core
from trimtok_cpp.errors import ModelFormatError, UnsupportedError


def phi3(*keys: tuple[str, Any], **options: Any) -> Spec:
    return Spec(arch="phi3", fused_qkv=True, fused_ffn=True, extra_keys=keys, **options)


WINDOW = ("attention.sliding_window", 9)
ORIGINAL = "rope.scaling.original_context_length"
SPECS = {
    "internlm2": Spec(arch="internlm2", extra_keys=(("rope.freq_base", 1e6),)),
    "internlm2-q8_0-mqa": Spec(arch="internlm2", qtype="Q8_0", n_kv_heads=1),
    "internlm2-biases": Spec(arch="internlm2", qkv_bias=True, other_bias=True, fused_qkv=True),
    "internlm2-linear": Spec(arch="internlm2", extra_keys=(("rope.scaling.factor", 2.0),)),
    "smollm3": Spec(arch="smollm3", n_layers=9, tied=True, extra_keys=(("rope.freq_base", 5e6),)),
    "smollm3-q8_0": Spec(arch="smollm3", n_layers=4, qtype="Q8_0", n_heads=6, n_kv_heads=2, n_embd=96),
    "phi3": phi3(),
    "phi3-q8_0": phi3(qtype="Q8_0", n_heads=6, n_kv_heads=3, n_embd=96),
    "phi3-separate": Spec(arch="phi3", qtype="F16"),
    "phi3-window": phi3(WINDOW),
    "phi3-window-of-one": phi3(("attention.sliding_window", 1)),
    "phi3-wide-window": phi3(("attention.sliding_window", 2**18)),
    "phi3-short": phi3((ORIGINAL, 128), longrope=True),
    "phi3-long": phi3((ORIGINAL, 32), longrope=True),
    "phi3-border": phi3((ORIGINAL, 70), longrope=True),
    "phi3-attn-factor": phi3(
        (ORIGINAL, 64), ("rope.scaling.attn_factor", 1.19), ("rope.scaling.type", "longrope"), longrope=True
    ),
    "phi3-partial": phi3(
        (ORIGINAL, 32), ("rope.dimension_count", 12), WINDOW, longrope=True, tied=True, qtype="F16"
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_logits_match_numpy(name: str, tmp_path: Path) -> None:
    model = make_model(SPECS[name], seed=len(name))
    core = _core.Model(write_model(model, tmp_path / "tiny.gguf"), kv_dtype="f32", compute="f32", n_threads=2)
    ids = prompt_ids()
    expected = numpy_logits(model, embed(model, ids), np.arange(len(ids)))
    for chunk in (1, 7, 64, 512):
        assert relative_error(engine_logits(core, ids, chunk=chunk), expected) < TOLERANCE, f"chunk {chunk}"


@pytest.mark.parametrize("name", ["internlm2", "smollm3", "phi3-partial"])
def test_every_isa(name: str, isa: str, tmp_path: Path) -> None:
    model = make_model(SPECS[name])
    core = _core.Model(write_model(model, tmp_path / "tiny.gguf"), kv_dtype="f32", compute="f32", n_threads=2)
    assert core.info()["isa"] == isa
    ids = prompt_ids()
    expected = numpy_logits(model, embed(model, ids), np.arange(len(ids)))
    for chunk in (1, 64):
        assert relative_error(engine_logits(core, ids, chunk=chunk), expected) < TOLERANCE


@pytest.mark.parametrize("name", ["internlm2", "smollm3", "phi3-window", "phi3-long"])
def test_positions_with_gaps(name: str, tmp_path: Path) -> None:
    """Pruned prompts keep their positions. The window counts the rows that are left, as transformers does."""
    model = make_model(SPECS[name])
    core = _core.Model(write_model(model, tmp_path / "tiny.gguf"), kv_dtype="f32", compute="f32", n_threads=1)
    ids = prompt_ids(30)
    positions = np.sort(np.random.default_rng(3).choice(5000, len(ids), replace=False))
    expected = numpy_logits(model, embed(model, ids), positions)
    dense = numpy_logits(model, embed(model, ids), np.arange(len(ids)))
    assert relative_error(dense, expected) > 100 * TOLERANCE
    for chunk in (1, 11, 64):
        assert relative_error(engine_logits(core, ids, positions, chunk), expected) < TOLERANCE


def test_numpy_logits_depend_on_what_a_spec_adds() -> None:
    """A feature that hardly moves the logits could not be tested by comparing them."""
    ids = prompt_ids()
    positions = np.arange(len(ids))
    model = make_model(SPECS["phi3-window"])
    wide = make_model(phi3(("attention.sliding_window", 10)))
    expected = numpy_logits(model, embed(model, ids), positions)
    assert relative_error(numpy_logits(wide, embed(model, ids), positions), expected) > 100 * TOLERANCE
    model = make_model(SPECS["phi3-long"])
    rows = embed(model, ids)
    expected = numpy_logits(model, rows, positions)
    assert relative_error(numpy_logits(model, rows, positions, reach=32), expected) > 100 * TOLERANCE
    without = TinyModel(model.spec, model.keys | {"phi3.rope.scaling.attn_factor": 1.0}, model.tensors)
    assert relative_error(numpy_logits(without, rows, positions), expected) > 100 * TOLERANCE
    model = make_model(SPECS["smollm3"])
    expected = numpy_logits(model, embed(model, ids), positions)
    as_llama = TinyModel(make_model(Spec(arch="llama", n_layers=9, tied=True)).spec, {}, model.tensors)
    as_llama.keys = {name.replace("smollm3", "llama"): value for name, value in model.keys.items()}
    assert relative_error(numpy_logits(as_llama, embed(model, ids), positions), expected) > 100 * TOLERANCE


@pytest.mark.parametrize(("max_tokens", "long"), [(20, False), (60, True)])
def test_the_limit_of_the_answer_chooses_the_divisors(max_tokens: int, long: bool, tmp_path: Path) -> None:
    """From the first row on, whatever the prompt alone reaches: keys in the cache keep their angles."""
    model = make_model(phi3((ORIGINAL, 48), WINDOW, longrope=True, other_bias=True))
    model.tensors["output.bias"][0][2] = -100.0  # never ends by itself
    core = _core.Model(write_model(model, tmp_path / "tiny.gguf"), kv_dtype="f32", compute="f32", n_threads=1)
    prompt = "seven small words"
    ids = core.tokenize(prompt)
    generation = core.generate(
        prompt,
        [],
        max_tokens=max_tokens,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        repeat_penalty=1.0,
        seed=0,
        stop=[],
    )
    while generation.next() is not None:
        pass
    result = generation.result()
    n_prompt = result["usage"]["prompt_tokens"]
    assert n_prompt < 28
    assert (n_prompt + max_tokens > 48) == long
    answer = result["token_ids"]
    full = np.array([*[1] * (n_prompt - len(ids)), *ids, *answer])
    logits = {
        reach: numpy_logits(model, embed(model, full), np.arange(len(full)), reach=reach)[n_prompt - 1 : -1]
        for reach in (48, 49)
    }
    behind = {
        reach: (values.max(1) - values[np.arange(len(answer)), answer]).max()
        for reach, values in logits.items()
    }
    limit = TOLERANCE * np.abs(logits[48]).max()
    assert behind[49 if long else 48] < limit
    assert behind[48 if long else 49] > 10 * limit


# --- broken files


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("phi3", {"attention.sliding_window": 2**32 - 1}, "sliding_window"),
        ("phi3-long", {ORIGINAL: 0}, "original_context_length"),
        ("phi3-long", {"rope.scaling.attn_factor": 0.0}, "attn_factor"),
        ("phi3-attn-factor", {"rope.scaling.attn_factor": float("nan")}, "attn_factor"),
        ("phi3", {"feed_forward_length": 95}, r"ffn_up\.weight"),
        ("smollm3", {"block_count": 10}, r"blk\.9\."),
        ("internlm2", {"attention.head_count": 5}, "head_count_kv is 2"),
    ],
)
def test_bad_values(name: str, keys: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = make_model(SPECS[name])
    model.keys |= {f"{model.spec.arch}.{key}": value for key, value in keys.items()}
    with pytest.raises(ModelFormatError, match=message):
        _core.Model(write_model(model, tmp_path / "tiny.gguf"), n_threads=1)


@pytest.mark.parametrize(
    ("name", "tensor", "values", "message"),
    [
        ("phi3-long", "rope_factors_long.weight", None, r"rope_factors_long\.weight' is missing"),
        ("phi3-long", "rope_factors_short.weight", None, r"rope_factors_short\.weight' is missing"),
        ("phi3-long", "rope_factors_short.weight", np.ones(9), "9"),
        ("phi3-long", "rope_factors_long.weight", np.zeros(8), r"rope_factors_long\.weight: element 0"),
        ("phi3", "blk.1.ffn_up.weight", np.zeros((96, 64)), "192"),
        ("phi3", "blk.1.attn_qkv.weight", np.zeros((127, 64)), "128"),
        ("phi3", "blk.1.attn_qkv.weight", None, r"blk\.1\.attn_q\.weight"),
    ],
)
def test_bad_tensors(name: str, tensor: str, values: Any, message: str, tmp_path: Path) -> None:
    model = make_model(SPECS[name])
    del model.tensors[tensor]
    if values is not None:
        model.tensors[tensor] = (np.asarray(values, np.float32), QTYPE.F32)
    with pytest.raises(ModelFormatError, match=message):
        _core.Model(write_model(model, tmp_path / "tiny.gguf"), n_threads=1)


def test_scaling_of_another_kind_is_refused(tmp_path: Path) -> None:
    for arch in ("phi3", "internlm2", "smollm3"):
        model = make_model(Spec(arch=arch, extra_keys=(("rope.scaling.type", "dynamic"),)))
        with pytest.raises(UnsupportedError, match="'dynamic'"):
            _core.Model(write_model(model, tmp_path / f"{arch}.gguf"), n_threads=1)
