"""Tokenizers: real vocabularies with known ids, and equality with naive code (text_reference.py)."""

from __future__ import annotations

import codecs
import functools
import json
import random
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from gguf_writer import ARRAY, I32, Key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from text_reference import (
    BREAKER,
    BYTE_CHARS,
    CONTROL,
    NORMAL,
    REGEXES,
    UNKNOWN,
    UNUSED,
    USER,
    Vocab,
    bpe_vocab,
    encode_bpe,
    encode_spm,
    key_flag,
    key_id,
    partition,
    split,
    spm_vocab,
)

from trimtok_cpp import _core
from trimtok_cpp.errors import ModelFormatError

ROOT = Path(__file__).resolve().parent.parent
VOCABULARIES = ["gpt-2", "llama-bpe", "llama-spm", "phi-3", "qwen2", "starcoder"]
FAMILIES = ["gemma3", "internvl3", "llava15", "llava16", "qwen25vl", "qwen2vl", "qwen3vl", "smolvlm"]
RELAXED = settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=150)

# Everything that regexes treat differently, with the characters that tempt them to backtrack.
CHARS = "aZz'sStTreVElLdDmM  \t\n\r\u00a0\u3000\u2028\x1c\x85 019\u00b2\u0663\u2167.,!-/_`$+<=>^~|"
CHARS += "\u00e9\u0301\u0308\u01c5\u02b0\u00aa\u4e2d\u6587\u3042\u30ab\uac00\u0430\u042f\u03a9\u05d0"
CHARS += "\u00a9\u20ac\U0001f600"
CHARS += "\ufe0f\u200d\u201c\u3002\uff01\uff5e\u1f7d\u10d0\u2126\u212a\U00010400\U0001d7d8\x00\ufffd"
TEXT = st.text(st.one_of(st.sampled_from(CHARS), st.sampled_from(CHARS), st.characters(codec="utf-8")))


def load(vocab: Vocab, folder: Path, **kwargs: Any) -> Any:
    return _core.Tokenizer(vocab.write(folder), **kwargs)


@pytest.fixture(scope="module")
def real(fixtures: Path) -> Any:
    """Opens the tokenizer of a fixture folder or vocabulary, once."""
    cache: dict[str, Any] = {}

    def get(name: str) -> Any:
        path = fixtures / name / "lm.gguf"
        if name in VOCABULARIES:
            path = fixtures / "tokenizers" / f"ggml-vocab-{name}.gguf"
        if name not in cache:
            cache[name] = _core.Tokenizer(str(path))
        return cache[name]

    return get


# --- known answers


@pytest.mark.parametrize("name", VOCABULARIES)
def test_vectors(name: str, real: Any, fixtures: Path) -> None:
    base = fixtures / "tokenizers" / f"ggml-vocab-{name}.gguf"
    texts = Path(f"{base}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{base}.out").read_text().splitlines()
    assert len(texts) == len(lines) + 1 == 47  # the last separator ends the file
    tokenizer = real(name)
    for text, line in zip(texts, lines, strict=False):
        expected = [int(n) for n in line.split()]
        assert tokenizer.encode(text, parse_special=False) == expected, text
        assert tokenizer.decode(expected) == text


@pytest.mark.parametrize("name", FAMILIES)
def test_golden_prompts(name: str, real: Any, fixtures: Path) -> None:
    golden = json.loads((fixtures / name / "golden.json").read_text())
    tokenizer = real(name)
    n_checked = 0
    for case in golden["cases"].values():
        for segment in case["segments"]:
            if "text" not in segment:
                continue
            text, ids = segment["text"], list(segment["ids"])
            if name.startswith("llava") and ids[0] == tokenizer.bos:
                text, ids = text.removeprefix("<s> "), ids[1:]  # that decoder writes the prefix space out
            assert tokenizer.encode(text) == ids
            n_checked += 1
    assert n_checked >= 8


def test_spot_checks(real: Any) -> None:
    assert real("qwen2").encode("<|im_start|>") == [151644]
    assert real("gemma3").encode("a\n\n\nb")[1] == real("gemma3").find("\n\n\n") == 12
    assert real("smolvlm").encode("\n\n") == [real("smolvlm").find("\u010a\u010a")]
    assert real("llama-spm").encode("Hello", add_bos=True) == [1, 15043]


def test_properties_of_real_vocabularies(real: Any) -> None:
    expected = {
        "llama-spm": ("llama", "default", 1, 2, True, {2}),
        "llama-bpe": ("gpt2", "llama-bpe", 128000, 128001, True, {128001, 128009}),
        "qwen2": ("gpt2", "qwen2", 151643, 151643, False, {151643, 151645, 128247}),
        "gemma3": ("llama", "default", 2, 1, True, {1, 9}),
        "internvl3": ("gpt2", "qwen2", -1, 1638, False, {1636, 1638, 1655, 1656, 1657}),
        "smolvlm": ("gpt2", "smollm", 1, 1466, False, {0, 2, 4, 1466}),
    }
    for name, (model, pre, bos, eos, add_bos, eog) in expected.items():
        t = real(name)
        assert (t.model, t.pre, t.bos, t.eos, t.add_bos) == (model, pre, bos, eos, add_bos), name
        assert {i for i in range(t.n_tokens) if t.is_eog(i)} == eog, name
        assert t.suppressed == []
        # Qwen's "</s>" is an ordinary token of HTML there; everything else is clean.
        assert len(t.warnings) == (name == "qwen2"), t.warnings


# --- properties on real vocabularies


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe", "gpt-2", "smolvlm"])
def test_bpe_round_trip(name: str, real: Any) -> None:
    tokenizer = real(name)

    @RELAXED
    @given(TEXT.map(lambda s: s.replace(BREAKER, "")))
    def check(text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text, parse_special=False)) == text

    check()


@pytest.mark.parametrize("name", ["llama-spm", "gemma3", "llava16"])
def test_spm_round_trip(name: str, real: Any) -> None:
    tokenizer = real(name)

    @RELAXED
    @given(TEXT.map(lambda s: s.replace(BREAKER, "").replace("\u2581", "")))
    def check(text: str) -> None:
        assert tokenizer.decode(tokenizer.encode(text, parse_special=False)) == text

    check()


@pytest.mark.parametrize("name", ["qwen2", "gpt-2", "llama-spm", "gemma3", "smolvlm"])
def test_stream_is_decode(name: str, real: Any) -> None:
    tokenizer = real(name)
    by_byte = [tokenizer.find(f"<0x{b:02X}>") for b in range(256)]
    if min(by_byte) < 0:
        by_byte = [tokenizer.find(c) for c in BYTE_CHARS]
    ids = st.one_of(st.integers(0, tokenizer.n_tokens - 1), st.sampled_from(by_byte))

    @RELAXED
    @given(st.lists(ids, max_size=60))
    def check(tokens: list[int]) -> None:
        stream = _core.StreamDecoder(tokenizer)
        reference = codecs.getincrementaldecoder("utf-8")("replace")
        text = expected = ""
        for i in tokens:
            text += stream.push(i)  # a str: the binding refuses broken UTF-8
            expected += reference.decode(tokenizer.piece(i))
            # CPython waits for a third byte after ED A0, although no character can come of it.
            assert text.startswith(expected)
            assert text[len(expected) :] in ("", "\ufffd\ufffd")
        text += stream.finish()
        assert text == b"".join(tokenizer.piece(i) for i in tokens).decode("utf-8", "replace")
        whole = tokenizer.decode(tokens)
        assert text in (whole, " " + whole)
        if tokenizer.model == "gpt2" or name == "gemma3":
            assert text == whole

    check()


def test_stream_gives_characters_early_and_whole(real: Any) -> None:
    tokenizer = real("gpt-2")
    ids = [tokenizer.find(BYTE_CHARS[b]) for b in b"\xf0\x9f\x98\x80\xe2\x82A\xff\xc3"]
    stream = _core.StreamDecoder(tokenizer)
    assert [stream.push(i) for i in ids] == ["", "", "", "\U0001f600", "", "", "\ufffdA", "\ufffd", ""]
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""
    assert tokenizer.piece(ids[0]) == b"\xf0"


def test_invalid_utf8_becomes_replacement_characters(real: Any) -> None:
    rng = random.Random(3)
    pool = [b"a", b" ", b"\x80", b"\xc0", b"\xc3", b"\xa9", b"\xe0\x80", b"\xe2\x82", b"\xac"]
    pool += [b"\xed\xa0\x80", b"\xf0\x9f", b"\x98\x80", b"\xf4\x90", b"\xf8", b"\xff"]
    for name in ("qwen2", "llama-spm"):
        for _ in range(300):
            raw = b"".join(rng.choices(pool, k=rng.randrange(1, 12)))
            assert real(name).encode(raw) == real(name).encode(raw.decode("utf-8", "replace"))


# --- pre-tokenizers


@functools.cache
def known_characters() -> frozenset[str]:
    """Those that the tables and the `regex` package, which has a newer Unicode, put into one category."""
    regex = pytest.importorskip("regex", reason="the regex package runs the \\p{..} expressions")
    if f'kUnicodeVersion[] = "{unicodedata.unidata_version}"' not in tables_header():
        pytest.skip("this Python's unicodedata has another Unicode version than the tables")
    by_category: dict[str, list[str]] = {}
    for c in map(chr, [*range(0xD800), *range(0xE000, 0x110000)]):
        by_category.setdefault(unicodedata.category(c), []).append(c)
    del by_category["Cn"], by_category["Co"]
    found: set[str] = set()
    for category, members in by_category.items():
        found.update(regex.findall(rf"\p{{{category}}}", "".join(members)))
    return frozenset(found)


def tables_header() -> str:
    return (ROOT / "engine" / "text" / "unicode_tables.h").read_text()


@pytest.mark.parametrize("pre", REGEXES)
def test_pre_tokenizer_is_its_regex(pre: str) -> None:
    known = known_characters()

    @settings(RELAXED, max_examples=500)
    @given(TEXT.map(lambda s: "".join(filter(known.__contains__, s))))
    def check(text: str) -> None:
        assert _core.pre_tokenize(pre, text) == split(pre, text)

    check()


@pytest.mark.parametrize("pre", REGEXES)
def test_pre_tokenizer_on_every_character(pre: str) -> None:
    """Each one alone, doubled, and next to a letter, a space, a digit and a newline."""
    characters = sorted(known_characters())
    assert len(characters) > 140_000
    # Of the many CJK ideographs, all alike, some are enough.
    characters = [c for i, c in enumerate(characters) if unicodedata.name(c, "")[:3] != "CJK" or i % 50 == 0]
    text = "".join(f"{c}a{c}{c} {c}1 {c}\n" for c in characters)
    assert _core.pre_tokenize(pre, text) == split(pre, text)


def test_known_pieces() -> None:
    assert _core.pre_tokenize("gpt-2", "a\tb   c") == ["a", "\t", "b", "  ", " c"]
    assert _core.pre_tokenize("llama-bpe", "12345 I'LL") == ["123", "45", " I", "'LL"]
    assert _core.pre_tokenize("qwen2", "x  \n\n y") == ["x", "  \n\n", " y"]
    assert _core.pre_tokenize("tekken", "HelloWORLDabc") == ["Hello", "WORLDabc"]
    assert _core.pre_tokenize("deepseek-llm", "a   ") == ["a", "   "]
    assert _core.pre_tokenize("qwen2", "") == []
    with pytest.raises(ValueError, match="no known pre-tokenizer"):
        _core.pre_tokenize("nonesuch", "x")


@pytest.mark.subprocess
def test_unicode_tables_are_what_the_generator_writes() -> None:
    if f'kUnicodeVersion[] = "{unicodedata.unidata_version}"' not in tables_header():
        pytest.skip(f"this Python has Unicode {unicodedata.unidata_version}, the tables another one")
    script = ROOT / "tools" / "make_unicode_tables.py"
    subprocess.run([sys.executable, str(script), "--check"], check=True)


@pytest.mark.parametrize("pre", [None, "nonesuch", "default", "x" * 5000 + "%s%n"])
def test_unknown_pre_tokenizer_is_default_with_a_warning(pre: str | None, tmp_path: Path) -> None:
    merges = ["1 2", "12 3", "a b", ". ."]
    tokenizer = load(bpe_vocab(merges, {"<eos>": CONTROL}, pre=pre), tmp_path)
    assert [w for w in tokenizer.warnings if "default" in w and len(w) < 400] == tokenizer.warnings != []
    text = "ab1234.. 12"
    assert tokenizer.encode(text) == encode_bpe(bpe_vocab(merges, {"<eos>": CONTROL}, pre="default"), text)


# --- equality with the naive algorithms


def random_merges(rng: random.Random, alphabet: str, n: int) -> list[str]:
    """Merges each of which joins two texts that exist by then."""
    known, merges = list(alphabet), []
    for _ in range(n):
        left, right = rng.choice(known), rng.choice(known)
        if len(left + right) <= 8:
            merges.append(f"{left} {right}")
            known.append(left + right)
    return merges


@pytest.mark.parametrize("seed", range(12))
def test_bpe_is_the_naive_algorithm(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("regex", reason="the reference cuts text with the regex package")
    rng = random.Random(seed)
    merges = random_merges(rng, "abc\u0120\u010a1.", 60)
    rng.shuffle(merges)  # some then need symbols whose own merge has a higher rank
    # No merge leads to a special token here: "a\n" is spelled otherwise in merges.
    vocab = bpe_vocab(merges, {"<s>": CONTROL, "<s": CONTROL, "a\n": USER, "b>": USER, "<unk>": UNKNOWN})
    vocab.pre = rng.choice(["gpt-2", "dbrx", "qwen2", "smollm", "default"])
    tokenizer = load(vocab, tmp_path)
    for _ in range(150):
        text = "".join(rng.choices(["a", "b", "c", " ", "\n", "1", ".", "<s", ">", "<unk>", "\u00e9"], k=40))
        parse_special = rng.random() < 0.5
        assert tokenizer.encode(text, parse_special) == encode_bpe(vocab, text, parse_special), text


@pytest.mark.parametrize("seed", range(8))
def test_bpe_on_long_pieces_with_many_merges(seed: int, tmp_path: Path) -> None:
    """Two letters and dense merges: queued pairs go stale all the time."""
    pytest.importorskip("regex", reason="the reference cuts text with the regex package")
    rng = random.Random(seed)
    vocab = bpe_vocab(rng.sample(merges := random_merges(rng, "ab", 50), len(merges)))
    tokenizer = load(vocab, tmp_path)
    for _ in range(60):
        text = "".join(rng.choices("ab", k=rng.randrange(2, 90)))
        assert tokenizer.encode(text) == encode_bpe(vocab, text), text


def test_ignore_merges(tmp_path: Path) -> None:
    merges = ["a b", "c d"]
    vocab = bpe_vocab(merges, pre="llama-bpe")
    vocab.tokens.append("abcd")
    vocab.types = None
    tokenizer = load(vocab, tmp_path)
    assert tokenizer.encode("abcd") == [vocab.tokens.index("abcd")]
    assert tokenizer.encode("abcda") == [vocab.tokens.index(t) for t in ("ab", "cd", "a")]
    vocab.pre = "gpt-2"
    assert load(vocab, tmp_path).encode("abcd") == [vocab.tokens.index(t) for t in ("ab", "cd")]


@pytest.mark.parametrize("seed", range(12))
def test_spm_is_the_naive_algorithm(seed: int, tmp_path: Path) -> None:
    rng = random.Random(100 + seed)
    chars = "abc\u2581\u00e9"
    texts = {"".join(rng.choices(chars, k=rng.choice([1, 2, 2, 2, 3, 3, 4, 5]))) for _ in range(70)}
    # Few distinct scores: ties are what goes wrong.
    scored = {text: float(-rng.randrange(8)) for text in sorted(texts)}
    specials = {"<x>": CONTROL, "<x": CONTROL, "x>": USER, "  ": USER, "bb bb": USER, "aab": UNUSED}
    specials = {t: k for t, k in specials.items() if t not in scored}
    prefix = bool(seed % 2)
    vocab = spm_vocab(scored, specials, keys=[key_flag("add_space_prefix", prefix)])
    tokenizer = load(vocab, tmp_path)
    for _ in range(150):
        parts = ["a", "b", "c", " ", "\u00e9", "<x", ">", "</s>", "\U0001f600", "\n"]
        text = "".join(rng.choices(parts, k=30))
        parse_special = rng.random() < 0.5
        assert tokenizer.encode(text, parse_special) == encode_spm(vocab, text, parse_special, prefix), text


@pytest.mark.parametrize("seed", range(20))
def test_special_tokens_are_split_as_if_one_after_the_other(seed: int, tmp_path: Path) -> None:
    """Overlapping, nested and periodic tokens over two letters, where the order of splitting matters most."""
    rng = random.Random(seed)
    texts = sorted({"".join(rng.choices("ab", k=rng.randrange(2, 8))) for _ in range(rng.randrange(2, 14))})
    specials = {text: rng.choice([CONTROL, USER, UNKNOWN]) for text in rng.sample(texts, len(texts))}
    vocab = bpe_vocab([], specials)
    tokenizer = load(vocab, tmp_path)
    for _ in range(300):
        text = "".join(rng.choices(["a", "b", BREAKER], weights=[6, 6, 1], k=rng.randrange(40)))
        for parse_special in (False, True):
            expected: list[int] = []
            for part in partition(vocab, text, parse_special):
                expected += [part] if isinstance(part, int) else [vocab.tokens.index(c) for c in part]
            assert tokenizer.encode(text, parse_special) == expected


# --- rules


def test_longer_special_token_wins_over_an_earlier_one(tmp_path: Path) -> None:
    vocab = bpe_vocab([], {"ab": USER, "bcd": USER})
    ids = load(vocab, tmp_path).encode("abcd")
    assert [vocab.tokens[i] for i in ids] == ["a", "bcd"]


def test_breaker_keeps_special_tokens_from_matching(real: Any) -> None:
    tokenizer = real("qwen2")
    plain = tokenizer.encode("<|im_end|>", parse_special=False)
    assert len(plain) > 1
    assert tokenizer.encode(f"<{BREAKER}|im_end|>") == plain
    assert tokenizer.encode(f"{BREAKER}{BREAKER}") == []
    assert real("llama-spm").encode(BREAKER) == []
    assert tokenizer.encode("<|im_end|>") == [151645]


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_raw_text_never_becomes_a_control_token(model: str, tmp_path: Path) -> None:
    """Even where merges lead to one."""
    if model == "gpt2":
        vocab = bpe_vocab(["< /", "</ /", "<// >"])
        vocab.types = [CONTROL if t == "<//>" else NORMAL for t in vocab.tokens]
    else:
        vocab = spm_vocab({"<": -1.0, "</": -1.0, "<//": -1.0, "/": -1.0, ">": -1.0}, {"<//>": CONTROL})
    tokenizer = load(vocab, tmp_path)
    assert tokenizer.encode("a<//>")[-1] == vocab.tokens.index("<//>")
    ids = tokenizer.encode("a<//>", parse_special=False)
    assert [vocab.tokens[i] for i in ids[-2:]] == ["<//", ">"]
    assert tokenizer.encode(f"a<{BREAKER}//>") == ids


def test_special_token_that_is_not_utf8_never_cuts_a_character(tmp_path: Path) -> None:
    vocab = bpe_vocab([])
    vocab.tokens.append(b"\xf0\x9f")
    vocab.types = [NORMAL] * 256 + [USER]
    tokenizer = load(vocab, tmp_path)
    four = [vocab.tokens.index(BYTE_CHARS[b]) for b in "\U0001f600".encode()]
    assert tokenizer.encode("\U0001f600") == four
    assert any("not valid UTF-8" in w for w in tokenizer.warnings)
    assert tokenizer.decode([256]) == "\ufffd"


@pytest.mark.parametrize("name", ["Phi-3 mini", "LLaVA-PHI3", "other"])
def test_phi3_special_tokens_swallow_white_space(name: str, tmp_path: Path) -> None:
    specials = {"<|user|>": CONTROL, "<|endoftext|>": CONTROL}
    vocab = spm_vocab({"a": -1.0}, specials, name=name, keys=[key_flag("add_space_prefix", False)])
    tokenizer = load(vocab, tmp_path)
    user, end = (vocab.tokens.index(t) for t in specials)
    a, space, newline = vocab.tokens.index("a"), [3 + b for b in "\u2581".encode()], 3 + 10
    kept = [newline, *space]
    assert tokenizer.encode("<|user|>\n <|user|>\n a") == (
        [user, *kept, user, *kept, a] if name == "other" else [user, user, a]
    )
    assert tokenizer.encode("<|endoftext|>\n a") == [end, *kept, a]
    assert tokenizer.encode("<s>\n a") == [1, *kept, a]


def test_spm_space_prefix(real: Any) -> None:
    tokenizer = real("llama-spm")
    hello = [15043]
    assert tokenizer.encode("Hello") == hello
    assert tokenizer.encode("</s>Hello<s>Hello") == [2, *hello, 1, *hello]
    assert tokenizer.encode("") == []
    assert tokenizer.encode("", add_bos=True) == [1]
    # One space goes, and only where encode put one: not behind BOS.
    assert tokenizer.decode(hello) == "Hello"
    assert tokenizer.decode([1, *hello]) == " Hello"
    assert tokenizer.decode([1, *hello], print_special=True) == "<s> Hello"
    assert tokenizer.decode(tokenizer.encode("  two")) == "  two"
    assert real("gemma3").decode(real("gemma3").encode("  two")) == "  two"


def test_missing_byte_tokens_become_unknown(tmp_path: Path) -> None:
    vocab = Vocab("llama", ["<unk>", "a", "</s>"], [UNKNOWN, NORMAL, CONTROL], [0.0] * 3, pre=None)
    vocab.keys = [key_flag("add_space_prefix", False), key_id("eos", 2)]
    tokenizer = load(vocab, tmp_path)
    assert tokenizer.encode("a\u00e9") == [1, 0, 0]
    assert any("256 of 256 byte tokens are missing" in w for w in tokenizer.warnings)
    vocab.tokens[0], vocab.types = "<pad>", [CONTROL, NORMAL, CONTROL]
    assert load(vocab, tmp_path).encode("a\u00e9") == [1]


# --- special ids, ends of generation


def test_end_of_generation(tmp_path: Path) -> None:
    specials = dict.fromkeys(["<|im_end|>", "<end_of_turn>", "<|x|>", "<|y|>", "z"], CONTROL)
    specials["<end_of_turn>"] = NORMAL
    vocab = bpe_vocab([], specials)
    first = 256
    vocab.keys = [key_id("eot", first + 2), key_id("eom", first + 3), key_id("eos", first + 2)]
    tokenizer = load(vocab, tmp_path)
    assert [tokenizer.is_eog(first + k) for k in range(5)] == [True, True, True, True, False]
    # Mistyped as normal: promoted, hence hidden in decoded text.
    assert tokenizer.decode([first + 1]) == ""
    assert tokenizer.decode([first + 1], print_special=True) == "<end_of_turn>"
    assert len([w for w in tokenizer.warnings if "<end_of_turn>" in w]) == 1


@pytest.mark.parametrize(
    ("others", "is_end"),
    [
        ([], True),
        (["<|return|>"], True),
        (["<|return|>", "<|call|>"], False),
        (["<|calls|>", "<|flush|>"], False),
    ],
)
def test_end_of_a_message_is_not_the_end(others: list[str], is_end: bool, tmp_path: Path) -> None:
    tokenizer = load(bpe_vocab([], dict.fromkeys(["<|end|>", *others], CONTROL)), tmp_path)
    assert tokenizer.is_eog(256) is is_end
    assert all(tokenizer.is_eog(257 + k) for k in range(len(others)))


def test_default_special_ids(tmp_path: Path) -> None:
    spm = load(spm_vocab({"a": -1.0}), tmp_path)
    assert (spm.bos, spm.eos, spm.add_bos, spm.add_eos) == (1, 2, True, False)
    # 11 is Falcon's end token; where it is a comma, it must not end anything.
    bpe = load(bpe_vocab([]), tmp_path)
    assert (bpe.bos, bpe.eos, bpe.add_bos) == (-1, -1, False)
    assert not any(bpe.is_eog(i) for i in range(bpe.n_tokens))
    assert any("no token that ends a generation" in w for w in bpe.warnings)
    with pytest.raises(ValueError, match="no BOS"):
        bpe.encode("a", add_bos=True)
    vocab = bpe_vocab([])
    vocab.types = [CONTROL if i == 11 else NORMAL for i in range(256)]
    falcon = load(vocab, tmp_path)
    assert (falcon.bos, falcon.eos, falcon.is_eog(11)) == (11, 11, True)


@pytest.mark.parametrize("bad", [256, 2**31, 2**32 - 1])
def test_special_ids_out_of_range_are_ignored(bad: int, tmp_path: Path) -> None:
    names = ["bos", "eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"]
    keys = [key_id(n, bad) for n in names]
    keys.append(Key("tokenizer.ggml.suppress_tokens", ARRAY, (I32, [3, -1, 256, 3, 0])))
    keys.append(key_flag("add_bos_token", True))
    tokenizer = load(bpe_vocab([], keys=keys), tmp_path)
    assert (tokenizer.bos, tokenizer.eos, tokenizer.add_bos) == (-1, -1, False)
    for name in names:
        assert len([w for w in tokenizer.warnings if f".{name}_token_id is {bad}" in w]) == 1
    assert tokenizer.suppressed == [0, 3]
    assert any("2 ids of tokenizer.ggml.suppress_tokens" in w for w in tokenizer.warnings)


def test_rows_of_the_embedding_bound_the_tokens(tmp_path: Path) -> None:
    vocab = bpe_vocab(["a b"], {"<eos>": CONTROL})
    ab, eos = vocab.tokens.index("ab"), vocab.tokens.index("<eos>")
    cut = load(vocab, tmp_path, n_rows=ab)
    assert cut.n_tokens == ab
    assert cut.encode("ab<eos>", parse_special=False)[:2] == [vocab.tokens.index(c) for c in "ab"]
    assert max(cut.encode("ab<eos>")) < ab
    assert any("are not used" in w for w in cut.warnings)
    assert load(vocab, tmp_path, n_rows=eos + 4).suppressed == [eos + 1, eos + 2, eos + 3]
    for n_rows in (0, -1, 2**31):
        with pytest.raises(ModelFormatError, match="rows"):
            load(vocab, tmp_path, n_rows=n_rows)


@pytest.mark.parametrize("call", ["piece", "text", "is_eog"])
def test_ids_outside_the_vocabulary(call: str, real: Any) -> None:
    for bad in (-1, real("gpt-2").n_tokens, 2**31 - 1, -(2**31)):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            getattr(real("gpt-2"), call)(bad)
        with pytest.raises(ValueError, match="outside the vocabulary"):
            real("gpt-2").decode([0, bad])
        with pytest.raises(ValueError, match="outside the vocabulary"):
            _core.StreamDecoder(real("gpt-2")).push(bad)


# --- size


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2", "gpt-2", "llama-spm", "gemma3"])
@pytest.mark.parametrize("unit", ["a", " ", "\U0001f600", "\n", "\u4e2d", "Hello, w\u00f6rld 123!\n\n"])
def test_a_megabyte_takes_seconds(name: str, unit: str, real: Any) -> None:
    text = unit * (1_000_000 // len(unit.encode()))
    start = time.monotonic()
    ids = real(name).encode(text)
    assert real(name).decode(ids) == text
    assert time.monotonic() - start < 20
