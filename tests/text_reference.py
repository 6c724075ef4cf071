"""What tokenizers must compute, written in the plainest way: quadratic, with the `regex` package."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

from gguf_writer import ARRAY, BOOL, F32, I32, STRING, U32, Key, RawGguf

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = range(1, 7)
BREAKER = "\ufdd0"

G = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
C = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TAIL_M = r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
SLASH = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
FIRST = r"[^\r\n\p{L}\p{N}]?"
LLAMA3 = [C + rf"|{FIRST}\p{{L}}+|\p{{N}}{{1,3}}" + TAIL]
DEEPSEEK3 = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
# The class of deepseek-llm's tokenizer.json, characters that look alike written as escapes.
DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    "\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf"
    "\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d"
    "\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4"
    "\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17"
    "\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb"
    "\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# By tokenizer.ggml.pre: regexes applied one after the other to what is left in one piece.
REGEXES = {
    "gpt-2": [G],
    "smollm": [r"\p{N}", G],
    "llama-bpe": LLAMA3,
    "dbrx": LLAMA3,
    "qwen2": [C + rf"|{FIRST}\p{{L}}+|\p{{N}}" + TAIL],
    "qwen35": [C + rf"|{FIRST}[\p{{L}}\p{{M}}]+|\p{{N}}" + TAIL_M],
    "tekken": [rf"{FIRST}{UP}*{LOW}+|{FIRST}{UP}+{LOW}*|\p{{N}}" + SLASH],
    "gpt-4o": [rf"{FIRST}{UP}*{LOW}+{C}?|{FIRST}{UP}+{LOW}*{C}?|\p{{N}}{{1,3}}" + SLASH],
    "deepseek-llm": [
        r"[\r\n]",
        rf"\s?[{DEEPSEEK_LETTERS}]+",
        "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
        r"\s+$",
        DEEPSEEK_CJK,
        r"\p{N}+",
    ],
    "deepseek-v3": [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", DEEPSEEK3],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK, r"\p{N}"],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", G, r"[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", G, r"\p{N}+", r"[0-9][0-9][0-9]"],
}


def split(pre: str, text: str) -> list[str]:
    """Pieces of a text by the regexes of a pre-tokenizer."""
    import regex

    pieces = [text] if text else []
    for pattern in REGEXES[pre]:
        # The package's own \s follows str.isspace, which counts four separators that are no White_Space.
        exact = pattern.replace(r"[^\s", r"[^\p{White_Space}").replace(r"\S", r"\P{White_Space}")
        compiled = regex.compile(exact.replace(r"\s", r"\p{White_Space}"), regex.V0)
        cut = []
        for piece in pieces:
            end = 0
            for match in compiled.finditer(piece):
                cut += [piece[end : match.start()], match.group()]
                end = match.end()
            cut.append(piece[end:])
        pieces = [piece for piece in cut if piece]
    return pieces


def byte_chars() -> list[str]:
    """The character that stands for each byte in byte-level BPE."""
    own = [b for b in range(256) if 33 <= b <= 126 or 161 <= b <= 172 or b >= 174]
    rest = [b for b in range(256) if b not in own]
    return [chr(b) if b in own else chr(256 + rest.index(b)) for b in range(256)]


BYTE_CHARS = byte_chars()


def mapped(text: str) -> str:
    """Text as byte-level BPE vocabularies spell it."""
    return "".join(BYTE_CHARS[b] for b in text.encode())


@dataclasses.dataclass
class Vocab:
    """A vocabulary and, through write(), a GGUF file with it."""

    model: str
    tokens: list[Any]
    types: list[int] | None = None
    scores: list[float] | None = None
    merges: list[str] | None = None
    pre: str | None = "gpt-2"
    name: str | None = None
    keys: list[Key] = dataclasses.field(default_factory=list)

    def raw(self) -> RawGguf:
        """The file to be."""
        keys = [Key("general.architecture", STRING, "llama"), Key("tokenizer.ggml.model", STRING, self.model)]
        if self.pre is not None:
            keys.append(Key("tokenizer.ggml.pre", STRING, self.pre))
        if self.name is not None:
            keys.append(Key("general.name", STRING, self.name))
        keys.append(Key("tokenizer.ggml.tokens", ARRAY, (STRING, self.tokens)))
        if self.types is not None:
            keys.append(Key("tokenizer.ggml.token_type", ARRAY, (I32, self.types)))
        if self.scores is not None:
            keys.append(Key("tokenizer.ggml.scores", ARRAY, (F32, self.scores)))
        if self.merges is not None:
            keys.append(Key("tokenizer.ggml.merges", ARRAY, (STRING, self.merges)))
        return RawGguf([*keys, *self.keys])

    def write(self, folder: Path, name: str = "vocab.gguf") -> str:
        """Path of the written file."""
        return str(self.raw().write(folder / name))


def key_id(name: str, value: int) -> Key:
    """`tokenizer.ggml.<name>_token_id`."""
    return Key(f"tokenizer.ggml.{name}_token_id", U32, value)


def key_flag(name: str, value: bool) -> Key:
    """`tokenizer.ggml.<name>`, a bool."""
    return Key(f"tokenizer.ggml.{name}", BOOL, value)


def bpe_vocab(
    merges: list[str] | None = None, specials: dict[str, int] | None = None, **kwargs: Any
) -> Vocab:
    """All bytes, the results of merges, then special tokens (text -> type)."""
    tokens = list(BYTE_CHARS)
    for merge in merges or []:
        token = merge.replace(" ", "")
        if token not in tokens:
            tokens.append(token)
    types = [NORMAL] * len(tokens) + list((specials or {}).values())
    return Vocab("gpt2", [*tokens, *(specials or {})], types, merges=merges or [], **kwargs)


def spm_vocab(scored: dict[str, float], specials: dict[str, int] | None = None, **kwargs: Any) -> Vocab:
    """<unk>, <s>, </s>, all bytes, scored tokens, then special tokens (text -> type)."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *scored, *(specials or {})]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(scored), *(specials or {}).values()]
    scores = [0.0] * 259 + list(scored.values()) + [0.0] * len(specials or {})
    return Vocab("llama", tokens, types, scores, pre=None, **kwargs)


def partition(vocab: Vocab, text: str, parse_special: bool) -> list[str | int]:
    """Raw fragments and special ids, by repeated splitting: longest token first, then lowest id."""
    assert vocab.types is not None
    wanted = {USER, CONTROL, UNKNOWN} if parse_special else {USER}
    chosen = [i for i, kind in enumerate(vocab.types) if kind in wanted]
    parts: list[str | int] = [text]
    for token_id in sorted(chosen, key=lambda i: (-len(vocab.tokens[i].encode()), i)):
        split_up: list[str | int] = []
        for part in parts:
            if isinstance(part, int):
                split_up.append(part)
                continue
            for k, fragment in enumerate(part.split(vocab.tokens[token_id])):
                split_up += ([token_id] if k else []) + [fragment]
        parts = split_up
    return [part.replace(BREAKER, "") if isinstance(part, str) else part for part in parts]


def merge_naively(symbols: list[str], order: dict[Any, float], joined: bool) -> list[str]:
    """Merges the pair of the lowest order (leftmost among equals) until there is none.

    `order` is looked up by the joined text if `joined`, else by the pair.
    """
    while True:
        pairs = [
            (order[key], i)
            for i, pair in enumerate(itertools.pairwise(symbols))
            if (key := pair[0] + pair[1] if joined else pair) in order
        ]
        if not pairs:
            return symbols
        _, i = min(pairs)
        symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :]]


def encode_bpe(vocab: Vocab, text: str, parse_special: bool = False) -> list[int]:
    """Ids by the naive algorithm."""
    assert vocab.merges is not None
    assert vocab.pre is not None
    ranks: dict[Any, float] = {}
    for rank, line in enumerate(vocab.merges):
        ranks.setdefault(tuple(line.split(" ")), rank)
    ids = []
    for part in partition(vocab, text, parse_special):
        if isinstance(part, int):
            ids.append(part)
            continue
        for piece in split(vocab.pre, part):
            ids += [vocab.tokens.index(s) for s in merge_naively(list(mapped(piece)), ranks, joined=False)]
    return ids


def encode_spm(vocab: Vocab, text: str, parse_special: bool = False, prefix: bool = True) -> list[int]:
    """Ids by the naive algorithm."""
    assert vocab.scores is not None
    assert vocab.types is not None
    index = {t: i for i, t in enumerate(vocab.tokens) if vocab.types[i] in (NORMAL, USER, UNUSED)}
    order: dict[Any, float] = {t: -vocab.scores[i] for t, i in index.items()}
    ids = []
    for part in partition(vocab, text, parse_special):
        if isinstance(part, int):
            ids.append(part)
        elif part:
            escaped = (" " * prefix + part).replace(" ", "\u2581")
            for symbol in merge_naively(list(escaped), order, joined=True):
                fallback = [vocab.tokens.index(f"<0x{b:02X}>") for b in symbol.encode()]
                ids += [index[symbol]] if symbol in index else fallback
    return ids
