"""From an answer and the expected one to a score in [0, 1].

Two sets of rules. "words" is ours: whole words count, and an answer that points to several options is wrong.
"milebench" repeats the scorer published with MileBench (evaluate.py of github.com/MileBench/MileBench), with
its oddities, for numbers that are to be compared with published ones. docs/eval.md lists the differences.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

__all__ = ["KINDS", "MATCHINGS", "match_choice", "rouge_l", "score", "words"]

KINDS: Final = ("choice", "open", "needle", "contained")
MATCHINGS: Final = ("words", "milebench")

# A minus belongs to a number unless it joins it to something ("7-3"); "1,000" is a number, "1,2" are two.
_NUMBER: Final = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
_WORD = re.compile(rf"(?<![\w-])-{_NUMBER}|{_NUMBER}|[^\W_]+")
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def score(text: str, answer: str, kind: str, matching: str, choices: Sequence[str] = ()) -> float:
    """Score of the answer `text`: 0 or 1, for kind "open" a ROUGE-L F measure in [0, 1]."""
    milebench = matching == "milebench"
    if kind == "choice":
        if milebench:
            return float(_milebench_letter(text, choices) == _milebench_key(answer, choices))
        picked = match_choice(text, choices)
        return float(picked is not None and choices[picked] == answer)
    if kind == "open":
        return _milebench_rouge_l(text, answer) if milebench else rouge_l(words(text), words(answer))
    if milebench:
        given, wanted = _milebench_text(text), _milebench_text(answer)
        return float(wanted in (given.split() if kind == "needle" else given))
    if kind == "needle":
        return float(bool(_spans(words(text), words(answer))))
    return float(" ".join(words(answer)) in " ".join(words(text)))


def check_answer(answer: str, kind: str, matching: str) -> bool:
    """Whether anything is left of an expected answer to compare with."""
    return (
        bool(_milebench_text(answer)) if matching == "milebench" and kind != "choice" else bool(words(answer))
    )


def words(text: str) -> list[str]:
    """Words and numbers, case folded, without punctuation; "1,000" is "1000", "-3.50" stays.

    A text of punctuation alone is one word, so that "+" and "-" can be options.
    """
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2212", "-").strip()
    found = [word.replace(",", "") for word in _WORD.findall(folded)]
    return found or ([folded] if folded else [])


def match_choice(text: str, choices: Sequence[str]) -> int | None:
    """The option that `text` picks by letter or by its words; None when it picks none or several.

    In this order: the text of an option alone; a letter alone, marked or not ("b", "(B)", "Answer: B."); a
    marked letter with the text of its option behind it ("B. two cats"); otherwise every option that is named
    anywhere by text or by a marked letter counts. In both exactly one must be.
    """
    given = words(text)
    options = [words(choice) for choice in choices]
    letters = _LETTERS[: len(choices)]
    if given in options:
        return options.index(given)
    alone = _ALONE.fullmatch(text)
    if alone and (letter := alone[1].upper()) in letters:
        return letters.index(letter)
    paired = _paired(text, options, letters)
    if paired:
        return paired.pop() if len(paired) == 1 else None
    named = _named(given, options) | {
        letters.index(letter) for letter in _marked_letters(text) if letter in letters
    }
    return named.pop() if len(named) == 1 else None


_ALONE = re.compile(
    r"\s*(?:the\s+)?(?:(?:answer|option|choice)\b)?(?:\s+is\b)?[^\w]*([a-z])[\W_]*", re.IGNORECASE
)
# A letter with a mark behind it, which sets it apart from the article "A"; a small one only in front.
_MARKED = re.compile(r"^\s*\(?([A-Za-z])\s*[).:](?!\w)|(?<!\w)\(?([A-Z])\s*[).:](?!\w)")
_SAID = re.compile(r"\b(?:answer|option|choice)\b(?:\s+is)?[^\w\n]*([A-Z])\b(?!')", re.IGNORECASE)
_BRACKETED = re.compile(r"[({]([A-Z])[)}]")


def _paired(text: str, options: Sequence[Sequence[str]], letters: str) -> set[int]:
    """Options whose marked letter has their own text behind it."""
    found: set[int] = set()
    for mark in _MARKED.finditer(text):
        index = letters.find((mark[1] or mark[2]).upper())
        if index >= 0 and words(text[mark.end() :])[: len(options[index])] == options[index]:
            found.add(index)
    return found


def _marked_letters(text: str) -> set[str]:
    head = _MARKED.match(text)
    found = {(head[1] or head[2]).upper()} if head else set()
    if first := _ALONE.fullmatch(text.strip().partition("\n")[0]):
        found.add(first[1].upper())
    # Small letters behind "answer is" are articles as a rule: "the answer is a cat".
    found |= {letter for letter in _SAID.findall(text) if letter.isupper()}
    return found | set(_BRACKETED.findall(text))


def _named(given: Sequence[str], options: Sequence[Sequence[str]]) -> set[int]:
    """Options whose words occur in a row; one inside a longer one ("red" in "red car") is not meant."""
    spans = [(start, start + len(own), k) for k, own in enumerate(options) for start in _spans(given, own)]
    return {
        k
        for start, end, k in spans
        if not any(a <= start and end <= b and b - a > end - start for a, b, _ in spans)
    }


def _spans(given: Sequence[str], wanted: Sequence[str]) -> list[int]:
    n = len(wanted)
    return [i for i in range(len(given) - n + 1) if list(given[i : i + n]) == list(wanted)] if n else []


def rouge_l(given: Sequence[str], wanted: Sequence[str]) -> float:
    """F measure of the longest common subsequence of two lists of words: 2 LCS / (len + len).

    Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004), section 3, with beta 1.
    """
    if not given or not wanted:
        return 0.0
    return 2 * _lcs_length(given, wanted) / (len(given) + len(wanted))


def _lcs_length(a: Sequence[str], b: Sequence[str]) -> int:
    # One big integer is a row of the table, a 0 bit a step in it (Hyyro, "Bit-parallel LCS-length", 2004).
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        common = row & places.get(word, 0)
        row = ((row + common) | (row - common)) & full
    return len(a) - row.bit_count()


# --- The published rules ---------------------------------------------------------------------------------

_PUNCTUATION: Final = ';/[]"{}()=+\\_-><@`,?!'
_SPECIAL: Final = "\\.^$*+?{}[]|()"


def _milebench_text(text: str) -> str:
    text = text.replace("\n", " ").replace("\t", " ").strip()
    grouped = re.search(r"\d,\d", text) is not None
    # A mark beside a space vanishes everywhere, any other becomes a space; a grouped number makes all vanish.
    table = {ord(p): "" if grouped or f"{p} " in text or f" {p}" in text else " " for p in _PUNCTUATION}
    # 32: the original passes a flag where the number of replacements belongs.
    text = re.sub(r"\.(?!\d)", "", text.translate(table), count=32)
    return text.strip("'").strip('"').strip().lower()


def _milebench_keys(n: int) -> list[str]:
    return [prefix + letter for prefix in ("", "A", "B") for letter in _LETTERS][:n]


def _milebench_key(answer: str, choices: Sequence[str]) -> str:
    index = [_milebench_text(choice) for choice in choices].index(_milebench_text(answer))
    keys = _milebench_keys(len(choices))
    return keys[index] if index < len(keys) else f"option {index}"


def _milebench_letter(text: str, choices: Sequence[str]) -> str:
    text = _milebench_text(text)
    if not text:
        return "C"
    # strict=False: options after the 78th have no key and cannot be picked.
    options = {
        key: _milebench_text(choice) for key, choice in zip(_milebench_keys(78), choices, strict=False)
    }
    found = _first(text, (_milebench_text(f"{key} {option}") for key, option in options.items()))
    if found is not None:
        return found[:1].upper()
    # Normalised a second time, as in the original: it strips another layer of quotes.
    bare = {key: _milebench_text(option).replace(" ", "") for key, option in options.items()}
    found = _first(text.replace(" ", ""), bare.values())
    if found is not None:
        for key, option in bare.items():
            # The original compares with a pattern, so options with a special character never match here.
            if option == found.strip() and not any(special in option for special in _SPECIAL):
                return key
    if len(text) <= 2 and text.upper() in options:
        return text.upper()
    return "".join(letter.upper() for letter in text if letter.upper() in options)


def _first(text: str, options: Iterable[str]) -> str | None:
    """The option that begins first in `text`; of two at one place the one listed first."""
    found = re.search("|".join(map(re.escape, options)), text)
    return None if found is None else found[0]


def _milebench_rouge_l(text: str, answer: str) -> float:
    """As the package `rouge` 1.0.1: sentences end at "."; every different word counts once."""
    given, wanted = ([s.split() for s in _milebench_text(t).split(".") if s.strip()] for t in (text, answer))
    if not given or not wanted:
        return 0.0
    common = {word for ours in wanted for theirs in given for word in _lcs(ours, theirs)}
    recall = len(common) / len({word for sentence in wanted for word in sentence})
    precision = len(common) / len({word for sentence in given for word in sentence})
    return 2 * precision * recall / (precision + recall + 1e-8)


def _lcs(a: Sequence[str], b: Sequence[str]) -> list[str]:
    """The words of a longest common subsequence; of several the one that leaves the end of `b` out first."""
    table = [[0] * (len(b) + 1)]
    for word in a:
        last, row = table[-1], [0]
        for j, other in enumerate(b):
            row.append(last[j] + 1 if word == other else max(last[j + 1], row[j]))
        table.append(row)
    i, j = len(a), len(b)
    found: list[str] = []
    while i and j:
        if a[i - 1] == b[j - 1]:
            found.append(a[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
