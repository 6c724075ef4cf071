"""Tokenizers with vocabularies that lie and inputs chosen to be slow."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

import pytest
from gguf_writer import ARRAY, STRING, U8, Key
from text_reference import BYTE, CONTROL, NORMAL, REGEXES, USER, Vocab, bpe_vocab, key_flag, key_id, spm_vocab

from trimtok_cpp import _core
from trimtok_cpp.errors import ModelFormatError, UnsupportedError


def load(vocab: Vocab, folder: Path, **kwargs: Any) -> Any:
    return _core.Tokenizer(vocab.write(folder), **kwargs)


def test_duplicate_and_empty_tokens(tmp_path: Path) -> None:
    vocab = spm_vocab({"a": -1.0}, keys=[key_flag("add_space_prefix", False)])
    assert vocab.types is not None
    assert vocab.scores is not None
    vocab.tokens += ["a", "", "", "</s>"]
    vocab.types += [NORMAL, NORMAL, CONTROL, CONTROL]
    vocab.scores += [5.0, 0.0, 0.0, 0.0]
    tokenizer = load(vocab, tmp_path)
    assert tokenizer.encode("aa</s>") == [259, 259, 2]
    assert tokenizer.text(261) == b"[EMPTY_261]"
    assert any("2 tokens repeat" in w for w in tokenizer.warnings)
    assert any("2 tokens are empty" in w for w in tokenizer.warnings)


HOSTILE: dict[str, tuple[Vocab, str]] = {
    "no tokens": (Vocab("llama", [], [], []), "missing or empty"),
    "types too short": (Vocab("llama", ["a", "b"], [1], [0.0, 0.0]), "token_type has 1 entries for 2"),
    "scores too short": (Vocab("llama", ["a", "b"], [1, 1], [0.0]), "scores has 1 entries for 2"),
    "nan score": (Vocab("llama", ["a", "b"], [1, 1], [0.0, float("nan")]), "score of token 1 is NaN"),
    "merges missing": (Vocab("gpt2", ["a"], [1]), "merges is missing"),
    "merge without space": (Vocab("gpt2", ["a"], [1], merges=["ab"]), "merge 0 is not of the form"),
    "merge without right": (Vocab("gpt2", ["a"], [1], merges=["a "]), "merge 0 is not of the form"),
    "empty merge": (Vocab("gpt2", ["a"], [1], merges=[""]), "merge 0 is not of the form"),
    "long token": (Vocab("llama", ["x" * 65536], [1], [0.0]), "65536 bytes long"),
}
for byte_text in ("<0x-1>", "<0x1>", "<0xGG>", "<0x000>", "0x41", "<0xab>", ""):
    bad_byte = Vocab("llama", ["a", byte_text], [NORMAL, BYTE], [0.0, 0.0])
    HOSTILE[f"byte token {byte_text}"] = (bad_byte, "token 1 is a byte token but reads")


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_vocabularies_are_refused(case: str, tmp_path: Path) -> None:
    vocab, message = HOSTILE[case]
    with pytest.raises(ModelFormatError, match=message):
        load(vocab, tmp_path)


@pytest.mark.parametrize("key", ["tokens", "scores", "token_type", "merges", "suppress_tokens"])
def test_arrays_of_a_wrong_type_are_refused(key: str, tmp_path: Path) -> None:
    vocab = bpe_vocab(["a b"])
    raw = vocab.raw()
    raw.keys = [k for k in raw.keys if k.name != f"tokenizer.ggml.{key}"]
    wrong = (U8, [1] * 300) if key in ("tokens", "merges") else (STRING, ["x"] * 300)
    raw.keys.append(Key(f"tokenizer.ggml.{key}", ARRAY, wrong))
    with pytest.raises(ModelFormatError, match=key):
        _core.Tokenizer(str(raw.write(tmp_path / "wrong.gguf")))


def test_other_models_are_unsupported(tmp_path: Path) -> None:
    for model in ("bert", "%s%n" * 100, ""):
        with pytest.raises(UnsupportedError, match="supported are"):
            load(Vocab(model, ["a"], [1], [0.0], merges=[]), tmp_path)
    raw = Vocab("llama", ["a"], [1], [0.0]).raw()
    raw.keys = [k for k in raw.keys if k.name != "tokenizer.ggml.model"]
    with pytest.raises(ModelFormatError, match=r"tokenizer\.ggml\.model"):
        _core.Tokenizer(str(raw.write(tmp_path / "nomodel.gguf")))


def test_too_much_special_text_is_refused(tmp_path: Path) -> None:
    tokens = [f"{i:05d}" + "x" * 60000 for i in range(140)]
    with pytest.raises(UnsupportedError, match="special tokens are"):
        load(Vocab("gpt2", tokens, [USER] * 140, merges=[]), tmp_path)


def test_random_vocabularies_never_break(tmp_path: Path) -> None:
    """Any tokens, types, scores and merges: an answer or a refusal, ids in range, decodable."""
    rng = random.Random(5)
    pool = ["", "a", "b", "\u2581", "</s>", "<0x0A>", "\n", "ab", "\u0120", "aa", "<|end|>", " "]
    pool += [b"\xff", "x" * 300]
    n_loaded = 0
    for round_number in range(300):
        n = rng.randrange(1, 20)
        model = rng.choice(["llama", "gpt2"])
        vocab = Vocab(model, rng.choices(pool, k=n), pre=rng.choice([None, "qwen2", "tekken", "falcon"]))
        vocab.types = rng.choice([None, rng.choices([-5, 0, 1, 2, 3, 4, 5, 7, 99], k=n)])
        vocab.scores = rng.choice([None, rng.choices([0.0, -1.0, 3e38, float("inf"), -float("inf")], k=n)])
        vocab.merges = [f"{rng.choice('ab</s')} {rng.choice(['a', 'b', ' ', '/', 'aa'])}" for _ in range(9)]
        vocab.keys = [key_id("unknown", rng.randrange(30)), key_id("bos", rng.randrange(30))]
        tokenizer = load(vocab, tmp_path, n_rows=rng.choice([None, n, n + 3, max(1, n - 2)]))
        n_loaded += 1
        for text in ("ab</s>aab \n", "a" * round_number, "\u00e9\u2581<|end|>"):
            ids = tokenizer.encode(text, parse_special=bool(round_number % 2))
            assert all(0 <= i < tokenizer.n_tokens for i in ids)
            assert isinstance(tokenizer.decode(ids, print_special=True), str)
    assert n_loaded == 300


# --- size


@pytest.mark.parametrize("pre", REGEXES)
@pytest.mark.parametrize(
    "unit", [" ", "\t", "A", "Aa", "a\u0301", "\u4e2dA", "'", " \n", "1", "\u0301", " .", "\x00"]
)
def test_no_pre_tokenizer_is_quadratic(pre: str, unit: str) -> None:
    text = unit * (400_000 // len(unit)) + "x"
    start = time.monotonic()
    assert "".join(_core.pre_tokenize(pre, text)) == text
    assert time.monotonic() - start < 10


def test_thousands_of_nested_special_tokens(tmp_path: Path) -> None:
    """Runs of one letter of every length up to 2000, on a long run: every position matches all of them."""
    vocab = bpe_vocab([], {"a" * n: USER for n in range(2, 2001)})
    tokenizer = load(vocab, tmp_path)
    start = time.monotonic()
    ids = tokenizer.encode("a" * 1_000_003 + "b")
    longest = vocab.tokens.index("a" * 2000)
    assert ids == [longest] * 500 + [vocab.tokens.index("aaa"), vocab.tokens.index("b")]
    assert time.monotonic() - start < 20
