"""Random tiny language models against a plain numpy forward pass (tiny_decoder.py)."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_decoder import (
    N_VOCAB,
    QTYPE,
    Array,
    Spec,
    TinyModel,
    make_model,
    numpy_logits,
    round_to,
    write_model,
)

from trimtok_cpp import _core
from trimtok_cpp.errors import ModelFormatError, UnsupportedError

TOLERANCE = 2e-5  # of the largest |logit|; plain f32 loops come to 3e-7

YARN = (
    ("rope.scaling.type", "yarn"),
    ("rope.scaling.factor", 4.0),
    ("rope.scaling.original_context_length", 2048),
)
# The ramp starts at the first pair here.
YARN_SHORT = (*YARN[:2], ("rope.scaling.original_context_length", 64))
YARN_ALL_KEYS = (
    *YARN,
    ("rope.scaling.yarn_beta_fast", 12.0),
    ("rope.scaling.yarn_beta_slow", 3.0),
    ("rope.scaling.yarn_ext_factor", 0.6),
    ("rope.scaling.yarn_attn_factor", 0.9),
    ("rope.scaling.yarn_log_multiplier", 0.7),
    ("rope.scaling.attn_factor", 1.2),
)
SPECS = {
    "llama-f32": Spec(),
    "llama-f16-tied": Spec(qtype="F16", tied=True, n_kv_heads=4),
    "llama-q8_0-gqa": Spec(qtype="Q8_0", n_heads=6, n_kv_heads=1, n_embd=96),
    "llama-biases": Spec(qkv_bias=True, other_bias=True),
    "llama-tied-bias": Spec(tied=True, other_bias=True),
    "llama-fused-qkv": Spec(qtype="Q8_0", fused_qkv=True, qkv_bias=True),
    "llama-rope-freqs": Spec(rope_freqs=True),
    "llama-linear": Spec(extra_keys=(("rope.scaling.factor", 2.5),)),
    "llama-linear-legacy": Spec(extra_keys=(("rope.scale_linear", 2.5),)),
    "llama-scaling-none": Spec(extra_keys=(("rope.scaling.type", "none"), ("rope.scaling.factor", 2.5))),
    "llama-yarn": Spec(head_dim=32, extra_keys=YARN),
    "llama-yarn-all-keys": Spec(head_dim=32, extra_keys=YARN_ALL_KEYS),
    "llama-wide-heads": Spec(
        head_dim=32, extra_keys=(("attention.key_length", 32), ("attention.value_length", 32))
    ),
    "llama-partial-rope": Spec(extra_keys=(("rope.dimension_count", 8), ("rope.freq_base", 500000.0))),
    "llama-attention-scale": Spec(extra_keys=(("attention.scale", 0.1),)),
    "llama-old-mistral": Spec(extra_keys=(("attention.sliding_window", 3),)),
    "llama-arrays": Spec(
        extra_keys=(
            ("attention.head_count", [4] * 3),
            ("attention.head_count_kv", [2] * 3),
            ("feed_forward_length", [96] * 3),
        )
    ),
    "qwen2-f32": Spec(arch="qwen2", qkv_bias=True, extra_keys=(("rope.freq_base", 1e6),)),
    "qwen2-f16-tied": Spec(arch="qwen2", qtype="F16", qkv_bias=True, tied=True),
    "qwen2-q8_0": Spec(arch="qwen2", qtype="Q8_0", qkv_bias=True, fused_qkv=True, n_kv_heads=1),
    "qwen2-yarn": Spec(arch="qwen2", head_dim=32, qkv_bias=True, extra_keys=YARN_SHORT),
}


def relative_error(actual: Array, expected: Array) -> float:
    assert actual.shape == expected.shape
    error = float(np.abs(actual - expected).max() / np.abs(expected).max())
    return error if math.isfinite(error) else math.inf


def prompt_ids(n: int = 70, seed: int = 7) -> Array:
    return np.random.default_rng(seed).integers(0, N_VOCAB, n)


def embed(model: TinyModel, ids: Array) -> Array:
    table = model.weight("token_embd.weight")
    assert table is not None
    return table[ids]


def engine_logits(core: Any, ids: Array, positions: Array | None = None, chunk: int = 512) -> Array:
    rows = core.embed(ids.tolist())
    positions = np.arange(len(ids), dtype=np.int32) if positions is None else positions.astype(np.int32)
    return core.logits(rows, positions, n_last=len(ids), chunk=chunk)


# --- right answers


@pytest.mark.parametrize("name", SPECS)
def test_logits_match_numpy(name: str, tmp_path: Path) -> None:
    model = make_model(SPECS[name])
    core = _core.Model(write_model(model, tmp_path / "tiny.gguf"), kv_dtype="f32", compute="f32", n_threads=2)
    ids = prompt_ids()
    expected = numpy_logits(model, embed(model, ids), np.arange(len(ids)))
    for chunk in (1, 7, 64, 512):
        assert relative_error(engine_logits(core, ids, chunk=chunk), expected) < TOLERANCE, f"chunk {chunk}"


@pytest.mark.parametrize("name", ["llama-f32", "qwen2-f32"])
def test_logits_match_numpy_at_positions_with_gaps(name: str, tmp_path: Path) -> None:
    """Pruned prompts keep their positions: sequence index and position are different things."""
    model = make_model(SPECS[name])
    core = _core.Model(write_model(model, tmp_path / "tiny.gguf"), kv_dtype="f32", compute="f32", n_threads=1)
    ids = prompt_ids(30)
    positions = np.sort(np.random.default_rng(3).choice(5000, len(ids), replace=False))
    expected = numpy_logits(model, embed(model, ids), positions)
    assert (
        relative_error(numpy_logits(model, embed(model, ids), np.arange(len(ids))), expected)
        > 100 * TOLERANCE
    )
    for chunk in (1, 11, 64):
        assert relative_error(engine_logits(core, ids, positions, chunk), expected) < TOLERANCE


@pytest.mark.parametrize("name", ["llama-f32", "llama-q8_0-gqa", "qwen2-f16-tied"])
def test_every_isa(name: str, isa: str, tmp_path: Path) -> None:
    model = make_model(SPECS[name])
    core = _core.Model(write_model(model, tmp_path / "tiny.gguf"), kv_dtype="f32", compute="f32", n_threads=2)
    assert core.info()["isa"] == isa
    ids = prompt_ids()
    expected = numpy_logits(model, embed(model, ids), np.arange(len(ids)))
    for chunk in (1, 64):
        assert relative_error(engine_logits(core, ids, chunk=chunk), expected) < TOLERANCE


KV_QTYPES = {"f16": QTYPE.F16, "bf16": QTYPE.BF16, "q8_0": QTYPE.Q8_0}


@pytest.mark.parametrize("kv_dtype", KV_QTYPES)
@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_kv_dtypes(arch: str, kv_dtype: str, tmp_path: Path) -> None:
    """Rounded keys and values are part of the result, so the numpy pass rounds them too.

    A value next to a rounding boundary may fall to the other side in f32 arithmetic: that is allowed to
    explain half of what the rounding itself changes, which a cache of another type exceeds.
    """
    model = make_model(Spec(arch=arch, head_dim=32, qkv_bias=True))
    core = _core.Model(
        write_model(model, tmp_path / "tiny.gguf"), kv_dtype=kv_dtype, compute="f32", n_threads=1
    )
    rows = embed(model, prompt_ids())
    positions = np.arange(len(rows))
    exact = numpy_logits(model, rows, positions)
    rounded = numpy_logits(model, rows, positions, kv_round=lambda x: round_to(x, KV_QTYPES[kv_dtype]))
    for chunk in (1, 64):
        actual = engine_logits(core, prompt_ids(), chunk=chunk)
        assert rms(actual - rounded) < 0.5 * rms(exact - rounded)


def rms(x: Array) -> float:
    return math.sqrt(float((x.astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize(
    "name",
    [
        "llama-biases",
        "llama-rope-freqs",
        "llama-linear",
        "llama-yarn",
        "llama-yarn-all-keys",
        "llama-partial-rope",
        "llama-attention-scale",
    ],
)
def test_numpy_logits_depend_on_what_a_spec_adds(name: str) -> None:
    """A feature that hardly moves the logits could not be tested by comparing them."""
    spec = SPECS[name]
    model = make_model(spec)
    rows = embed(model, prompt_ids())
    expected = numpy_logits(model, rows, np.arange(len(rows)))
    without = TinyModel(spec, dict(model.keys), dict(model.tensors))
    kept = {"attention.key_length", "attention.value_length"}
    for key, _ in spec.extra_keys:
        if key not in kept:
            del without.keys[f"{spec.arch}.{key}"]
    for tensor in [t for t in without.tensors if t.endswith(".bias") or t == "rope_freqs.weight"]:
        del without.tensors[tensor]
    assert relative_error(numpy_logits(without, rows, np.arange(len(rows))), expected) > 30 * TOLERANCE


@pytest.mark.parametrize("name", ["llama-f32", "qwen2-f32"])
def test_numpy_logits_depend_on_rope_pairs(name: str) -> None:
    model = make_model(SPECS[name])
    rows = embed(model, prompt_ids())
    expected = numpy_logits(model, rows, np.arange(len(rows)))
    swapped = numpy_logits(model, rows, np.arange(len(rows)), adjacent=SPECS[name].arch != "llama")
    assert relative_error(swapped, expected) > 1000 * TOLERANCE


@pytest.mark.parametrize("qtype", ["F32", "F16", "Q8_0"])
def test_embed_returns_the_stored_rows(qtype: str, tmp_path: Path) -> None:
    model = make_model(Spec(qtype=qtype))
    core = _core.Model(write_model(model, tmp_path / "tiny.gguf"), n_threads=1)
    ids = np.array([0, 5, N_VOCAB - 1, 5])
    np.testing.assert_array_equal(core.embed(ids.tolist()), embed(model, ids).astype(np.float32))


def test_n_last_returns_the_last_rows(tmp_path: Path) -> None:
    model = make_model(SPECS["llama-f32"])
    core = _core.Model(write_model(model, tmp_path / "tiny.gguf"), kv_dtype="f32", compute="f32", n_threads=1)
    ids = prompt_ids(20)
    rows, positions = core.embed(ids.tolist()), np.arange(20, dtype=np.int32)
    expected = numpy_logits(model, embed(model, ids), positions)
    for n_last, chunk in ((1, 512), (3, 2), (9, 7), (0, 5)):
        actual = core.logits(rows, positions, n_last=n_last, chunk=chunk)
        assert actual.shape == (n_last, N_VOCAB)
        assert n_last == 0 or relative_error(actual, expected[20 - n_last :]) < TOLERANCE


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_decoding_one_token_at_a_time_continues_the_prefill(arch: str, tmp_path: Path) -> None:
    """600 steps: longer than what any caller reserves ahead, so the cache has to grow with its contents."""
    model = make_model(
        Spec(arch=arch, qkv_bias=True, other_bias=True, extra_keys=(("context_length", 2048),))
    )
    model.tensors["output.bias"][0][2] = -100.0  # never ends by itself
    core = _core.Model(write_model(model, tmp_path / "tiny.gguf"), kv_dtype="f32", compute="f32", n_threads=1)
    prompt = "seven small words"
    generation = core.generate(
        prompt,
        [],
        max_tokens=600,
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
    answer = result["token_ids"]
    assert len(answer) == 600
    ids = np.array([*core.tokenize(prompt), *answer])
    bos = result["usage"]["prompt_tokens"] - (len(ids) - 600)
    ids = np.concatenate([[1] * bos, ids])
    logits = numpy_logits(model, embed(model, ids), np.arange(len(ids)))[-601:-1]
    behind = logits.max(1) - logits[np.arange(600), answer]
    assert behind.max() < TOLERANCE * np.abs(logits).max()
    assert len(set(answer)) > 20, "a loop of few tokens would show little"


# --- wrong requests


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return _core.Model(
        write_model(make_model(Spec()), tmp_path_factory.mktemp("small") / "tiny.gguf"), n_threads=1
    )


@pytest.mark.parametrize("bad_id", [-1, N_VOCAB, 2**31 - 1])
def test_embed_refuses_ids_outside_the_vocabulary(small: Any, bad_id: int) -> None:
    with pytest.raises(ValueError, match=str(bad_id)):
        small.embed([3, bad_id])


@pytest.mark.parametrize(
    ("shape", "positions"),
    [((4, 63), 4), ((4, 65), 4), ((4, 64), 3), ((4, 64), 5), ((4, 64), 12), ((4, 64), 0)],
    ids=["narrow", "wide", "few-positions", "many-positions", "m-rope-positions", "no-positions"],
)
def test_logits_refuses_rows_that_do_not_fit(small: Any, shape: tuple[int, int], positions: int) -> None:
    with pytest.raises(ValueError, match="64"):
        small.logits(np.zeros(shape, np.float32), np.arange(positions, dtype=np.int32))


def test_logits_refuses_negative_positions(small: Any) -> None:
    with pytest.raises(ValueError, match="position"):
        small.logits(np.zeros((2, 64), np.float32), np.array([0, -3], np.int32))


@pytest.mark.parametrize("head_dim", [16, 48])
def test_q8_0_cache_needs_whole_blocks(head_dim: int, tmp_path: Path) -> None:
    """Blocks hold 32 values: neither a row (1 x 48) nor a head in a row (2 x 48, 2 x 16) may cut one."""

    def load_and_run(n_kv_heads: int) -> None:
        model = make_model(Spec(head_dim=head_dim, n_heads=2, n_kv_heads=n_kv_heads))
        path = write_model(model, tmp_path / f"{n_kv_heads}.gguf")
        engine_logits(_core.Model(path, kv_dtype="q8_0", n_threads=1), prompt_ids(3))

    for n_kv_heads in (1, 2):
        with pytest.raises(UnsupportedError, match=r"(?i)q8_0.*32.*f16"):
            load_and_run(n_kv_heads)


def test_unknown_kv_dtype_lists_the_known(tmp_path: Path) -> None:
    path = write_model(make_model(Spec()), tmp_path / "tiny.gguf")
    with pytest.raises(ValueError, match=r"q4_0.*f16, bf16, q8_0, f32"):
        _core.Model(path, kv_dtype="q4_0")


# --- broken files


def set_key(name: str, value: Any) -> Callable[[TinyModel], None]:
    def apply(model: TinyModel) -> None:
        if value is None:
            del model.keys[f"llama.{name}"]
        else:
            model.keys[f"llama.{name}"] = value

    return apply


def set_tensor(name: str, values: Array | None) -> Callable[[TinyModel], None]:
    def apply(model: TinyModel) -> None:
        if values is None:
            del model.tensors[name]
        else:
            model.tensors[name] = (np.asarray(values, np.float32), QTYPE.F32)

    return apply


REQUIRED_KEYS = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.layer_norm_rms_epsilon",
]
REQUIRED_TENSORS = [
    "token_embd.weight",
    "output_norm.weight",
    *(
        f"blk.1.{name}.weight"
        for name in (
            "attn_norm",
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_norm",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        )
    ),
]
BAD_VALUES: list[tuple[str, Any]] = [
    ("attention.head_count", 0),
    ("attention.head_count", [4, 0, 4]),
    ("attention.head_count_kv", 0),
    ("attention.head_count_kv", 3),
    ("attention.head_count_kv", 8),
    ("attention.key_length", 0),
    ("rope.dimension_count", 7),
    ("rope.dimension_count", 0),
    ("rope.dimension_count", 18),
    ("rope.freq_base", 0.0),
    ("rope.freq_base", math.nan),
    ("rope.freq_base", math.inf),
    ("rope.scaling.factor", 0.0),
    ("rope.scaling.factor", -2.0),
    ("block_count", 0),
    ("block_count", 513),
    ("block_count", 2**32 - 1),
    ("embedding_length", 0),
    ("embedding_length", 2**32 - 1),
    ("feed_forward_length", 0),
    ("feed_forward_length", [96, 96]),
    ("context_length", 0),
    ("attention.layer_norm_rms_epsilon", 0.0),
    ("attention.layer_norm_rms_epsilon", -1e-5),
    ("attention.layer_norm_rms_epsilon", math.nan),
    ("attention.scale", math.inf),
]
BAD_TENSORS: list[tuple[str, Array, str]] = [
    ("blk.0.attn_k.weight", np.zeros((16, 64)), "16"),
    ("blk.2.ffn_down.weight", np.zeros((96, 64)), "96"),  # transposed
    ("blk.0.attn_norm.weight", np.ones(63), "63"),
    ("blk.0.attn_q.bias", np.zeros(32), "32"),
    ("output.weight", np.zeros((N_VOCAB, 32)), "32"),
    ("output.weight", np.zeros((N_VOCAB - 1, 64)), str(N_VOCAB - 1)),
    ("token_embd.weight", np.zeros((N_VOCAB, 60)), "60"),
    ("rope_freqs.weight", np.ones(16), "16"),
    ("rope_freqs.weight", np.zeros(8), "0"),
    ("rope_freqs.weight", np.full(8, -1.0), "-1"),
    ("output_norm.weight", np.full(64, np.nan), "nan|finite"),
]


def load_broken(tmp_path: Path, change: Callable[[TinyModel], None], **kwargs: Any) -> None:
    model = make_model(Spec())
    change(model)
    _core.Model(write_model(model, tmp_path / "broken.gguf", **kwargs), n_threads=1)


@pytest.mark.parametrize("key", REQUIRED_KEYS)
def test_missing_key_is_named(key: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=f"llama.{key}"):
        load_broken(tmp_path, set_key(key, None))


@pytest.mark.parametrize("name", REQUIRED_TENSORS)
def test_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=name):
        load_broken(tmp_path, set_tensor(name, None))


def test_missing_qwen2_bias_is_named(tmp_path: Path) -> None:
    path = write_model(make_model(Spec(arch="qwen2")), tmp_path / "tiny.gguf")
    with pytest.raises(ModelFormatError, match=r"blk\.0\.attn_q\.bias"):
        _core.Model(path)


@pytest.mark.parametrize(("key", "value"), BAD_VALUES)
def test_bad_value_is_named(key: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=f"llama.{key}"):
        load_broken(tmp_path, set_key(key, value))


@pytest.mark.parametrize(("name", "values", "says"), BAD_TENSORS)
def test_bad_tensor_is_named(name: str, values: Array, says: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match=rf"(?si){name}.*({says})"):
        load_broken(tmp_path, set_tensor(name, values))


def test_more_layers_than_tensors_names_the_gap(tmp_path: Path) -> None:
    """512 is the most that block_count may say; the report of what is missing stays readable."""
    with pytest.raises(ModelFormatError, match=r"blk\.3\.attn_norm\.weight") as caught:
        load_broken(tmp_path, set_key("block_count", 512))
    assert len(str(caught.value)) < 20000


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("expert_count", 8, "8: mixtures of experts"),
        ("attention.value_length", 32, "key_length 16"),
        ("attention.head_count", [4, 4, 2], "layers"),
        ("rope.scaling.type", "longrope", "longrope.*none, linear, yarn"),
    ],
)
def test_legal_but_unsupported(key: str, value: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=rf"llama\.{key} .*{says}"):
        load_broken(tmp_path, set_key(key, value))


@pytest.mark.parametrize("arch", ["gptj", "llama4", "LLAMA", "clip2"])
def test_unknown_architecture_lists_the_supported(arch: str, tmp_path: Path) -> None:
    def rename(model: TinyModel) -> None:
        model.keys = {name.replace("llama.", f"{arch}.", 1): value for name, value in model.keys.items()}

    with pytest.raises(UnsupportedError, match=rf"general.architecture is '{arch}'.*llama, qwen2"):
        load_broken(tmp_path, rename, arch=arch)
