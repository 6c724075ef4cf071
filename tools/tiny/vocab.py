"""The byte-level BPE vocabulary (pre-tokenizer `gpt-2`), trained on the words of the task texts.

The merges are learnt until every word of the templates, with and without a blank in front, is one token. What
is read from pictures is never among the training words: it stays one token a sign. " 1" to " 32" are single
tokens, so the number of an image is something that the model can copy.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections import Counter

import scenes as sc

BOS, EOS = "<s>", "</s>"
MAX_IMAGES = 32
# Only what the texts of the tasks need of the pre-tokenizer: ASCII.
_SPLIT = re.compile(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+")

_TEXTS = (
    "User: Assistant: Image Options: What Which How Are Is Describe",
    "Which image has a text? What text is in image? How many times is there a? Are the same? and",
    "What changed from image to image? What colour is the? What shape is the object in image? the images",
    "Which way does the move? Which is seen first, a or a? different others",
    "yes no nothing colour shape position left right up down text blank",
    " ".join((*sc.SHAPES, *sc.COLOUR_NAMES)),
)


def byte_symbols() -> list[str]:
    """The printable stand-in of each byte, as GPT-2 has them."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols, extra = {b: chr(b) for b in plain}, 0
    for b in range(256):
        if b not in symbols:
            symbols[b] = chr(256 + extra)
            extra += 1
    return [symbols[b] for b in range(256)]


def _map(text: str) -> str:
    table = byte_symbols()
    return "".join(table[b] for b in text.encode())


def _words() -> list[str]:
    words: set[str] = set()
    for text in _TEXTS:
        for piece in _SPLIT.findall(text):
            words |= {piece.strip(), " " + piece.strip()} if piece.strip() else set()
    words |= {f" {n}" for n in range(MAX_IMAGES + 1)} | {f" {sign}" for sign in sc.SIGNS}
    return sorted(_map(w) for w in words)


@functools.cache
def train() -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """(tokens in the order of their ids, merges in the order of their ranks)."""
    words = [list(w) for w in _words()]
    merges: list[tuple[str, str]] = []
    while True:
        pairs: Counter[tuple[str, str]] = Counter()
        for word in words:
            pairs.update(itertools.pairwise(word))
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        words = [_merge(word, best) for word in words]
    tokens = [BOS, EOS, *byte_symbols()]
    tokens += [a + b for a, b in merges]
    if len(set(tokens)) != len(tokens):
        raise ValueError("two merges give the same token")
    return tuple(tokens), tuple(merges)


def _merge(word: list[str], pair: tuple[str, str]) -> list[str]:
    out: list[str] = []
    for symbol in word:
        if out and (out[-1], symbol) == pair:
            out[-1] = "".join(pair)
        else:
            out.append(symbol)
    return out


@functools.cache
def _ids() -> dict[str, int]:
    return {token: i for i, token in enumerate(train()[0])}


@functools.cache
def _ranks() -> dict[tuple[str, str], int]:
    return {pair: rank for rank, pair in enumerate(train()[1])}


@functools.cache
def _encode_piece(piece: str) -> tuple[int, ...]:
    word, ranks = list(_map(piece)), _ranks()
    while len(word) > 1:
        pair = min(itertools.pairwise(word), key=lambda p: ranks.get(p, 1 << 30))
        if pair not in ranks:
            break
        word = _merge(word, pair)
    return tuple(_ids()[symbol] for symbol in word)


def encode(text: str) -> list[int]:
    return [i for piece in _SPLIT.findall(text) for i in _encode_piece(piece)]


def decode(ids: list[int]) -> str:
    back = {symbol: b for b, symbol in enumerate(byte_symbols())}
    tokens = train()[0]
    return bytes(back[c] for i in ids if i > 1 for c in tokens[i]).decode(errors="replace")


# Written into the model file. It numbers the images itself: users only write the question.
CHAT_TEMPLATE = (
    "{%- set ns = namespace(n=0) -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}{{ 'Assistant:' }}{%- else -%}{{ 'User:\n' }}{%- endif -%}"
    "{%- if message['content'] is string -%}{{ message['content'] }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{%- set ns.n = ns.n + 1 -%}"
    "{{ 'Image ' ~ ns.n ~ ':' }}{{ '<image>' }}{{ '\n' }}"
    "{%- else -%}{{ part['text'] }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- if message['role'] == 'assistant' -%}{{ '</s>' }}{%- else -%}{{ '\n' }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ 'Assistant:' }}{%- endif -%}"
)


def head() -> list[int]:
    return [0, *encode("User:\n")]


def before_image(number: int) -> list[int]:
    return encode(f"Image {number}:")


def after_image() -> list[int]:
    return encode("\n")


def question(text: str) -> list[int]:
    return encode(text + "\nAssistant:")


def answer(text: str) -> list[int]:
    return [*encode(" " + text), 1]
