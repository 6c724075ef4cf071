"""Scores of the evaluation, expected values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trimtok_cpp.eval import match_choice, rouge_l, score
from trimtok_cpp.eval.scoring import words

ANIMALS = ["cat", "dog", "a red bird", "bird"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, World!", ["hello", "world"]),
        ("1,000 and -3.50", ["1000", "and", "-3.50"]),
        ("1,2,3", ["1", "2", "3"]),
        ("7-3 \u22125", ["7", "3", "-5"]),
        ("It ends with 5.", ["it", "ends", "with", "5"]),
        ("STRASSE stra\u00dfe", ["strasse", "strasse"]),
        ("+", ["+"]),
        (" \n", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "picked"),
    [
        # Letters.
        ("B", 1),
        ("b", 1),
        ("(B)", 1),
        ("B.", 1),
        (" b)\n", 1),
        ("Answer: B", 1),
        ("The answer is (B).", 1),
        ("The answer is B because it barks", 1),
        ("Option D", 3),
        ("B. It barks.", 1),
        ("**B**", 1),
        ("\\boxed{B}", 1),
        ("B\n\nExplanation: it barks.", 1),
        ("B\n\nExplanation: it is a cat.", None),
        ("I think (C) fits", 2),
        ("E", None),
        ("(E)", None),
        # Texts.
        ("Dog", 1),
        ("a dog!", 1),
        ("It is a DOG.", 1),
        ("a red bird", 2),
        ("it is a red bird", 2),
        ("red", None),
        ("birds", None),
        ("hotdogs", None),
        ("concatenate", None),
        # Letter and text.
        ("B. dog", 1),
        ("(b) Dog, not a cat", 1),
        ("Answer: B. dog", 1),
        # Contradictions and lists of everything.
        ("A. dog", None),
        ("The answer is A, the dog", None),
        ("cat dog bird", None),
        ("A. cat\nB. dog\nC. a red bird\nD. bird\nYour answer is:", None),  # an echo of the list
        ("The answer is B. dog, not A", 1),
        ("cat or dog", None),
        ("(A) or (B)", None),
        # An article is no letter.
        ("A bird", 3),
        ("The answer is a bird", 3),
        ("Answer: a", 0),
        ("", None),
        ("...", None),
        ("\ufdd0", None),
    ],
)
def test_a_choice_must_point_to_one_option(text: str, picked: int | None) -> None:
    assert match_choice(text, ANIMALS) == picked


def test_numbers_as_choices_are_whole_numbers() -> None:
    counts = ["1", "10", "2", "12"]
    assert [match_choice(text, counts) for text in ["10", "1", "There are 12.", "112"]] == [1, 0, 3, None]


def test_the_text_of_an_option_wins_over_its_letter() -> None:
    assert match_choice("A", ["C", "A", "B"]) == 1
    assert match_choice("B. A", ["C", "A", "B"]) == 1


def test_choice_score() -> None:
    assert score("(b)", "dog", "choice", "words", ANIMALS) == 1.0
    assert score("(c)", "dog", "choice", "words", ANIMALS) == 0.0
    assert score("", "cat", "choice", "words", ANIMALS) == 0.0


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("police kill the gunman", "police killed the gunman", 0.75),  # Lin (2004), section 3: 3 of 4
        ("the gunman kill police", "police killed the gunman", 0.5),  # "the gunman": 2 of 4
        ("a b c d e f", "b d f", 6 / 9),  # 2 * 3 / (6 + 3)
        ("a", "a b c", 0.5),  # 2 * 1 / (1 + 3)
        ("a a a a", "a", 0.4),  # repeating does not help: 2 * 1 / (4 + 1)
        ("x y", "a b", 0.0),
        ("", "a b", 0.0),
        ("THE Cat, sat!", "the cat sat", 1.0),
    ],
)
def test_rouge_l_by_hand(text: str, answer: str, expected: float) -> None:
    assert score(text, answer, "open", "words") == pytest.approx(expected, abs=1e-12)


def test_rouge_l_equals_the_textbook_table() -> None:
    def lcs(a: list[str], b: list[str]) -> int:
        if not a or not b:
            return 0
        return lcs(a[1:], b[1:]) + 1 if a[0] == b[0] else max(lcs(a[1:], b), lcs(a, b[1:]))

    rng = np.random.default_rng(5)
    for _ in range(200):
        a, b = (list(rng.choice(list("abcd"), rng.integers(1, 8))) for _ in range(2))
        assert rouge_l(a, b) == 2 * lcs(a, b) / (len(a) + len(b))


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("The secret word is Xylophone.", "xylophone", 1),
        ("12", "12", 1),
        ("112", "12", 0),
        ("12.5", "12", 0),
        ("it reads 12.", "12", 1),
        ("new york city", "New York", 1),
        ("new old york", "New York", 0),
        ("xylophones", "xylophone", 0),
        ("", "12", 0),
    ],
)
def test_needle(text: str, answer: str, found: int) -> None:
    assert score(text, answer, "needle", "words") == found


def test_contained() -> None:
    assert score("xylophones", "Xylophone!", "contained", "words") == 1
    assert score("xylo phone", "xylophone", "contained", "words") == 0


@pytest.mark.parametrize(
    ("text", "answer", "choices", "expected"),
    [
        ("B", "dog", ANIMALS, 1),
        ("B. dog", "dog", ANIMALS, 1),
        ("(B) dog", "dog", ANIMALS, 1),
        ("The dog.", "dog", ANIMALS, 1),
        # The oddities that the published rules have.
        ("concatenate", "cat", ANIMALS, 1),  # options are looked for inside words
        ("cat dog", "cat", ANIMALS, 1),  # the first of several counts
        ("dog cat", "cat", ANIMALS, 0),
        ("10", "10", ["1", "10"], 0),  # "1" is found first
        ("3.5", "3.5", ["3.5", "4"], 0),  # compared with an escaped pattern
        ("A. 3.5", "3.5", ["3.5", "4"], 1),
        ("", "two", ["one", "two", "three"], 0),
        ("", "three", ["one", "two", "three"], 1),  # silence is C
        ("The answer is B", "two", ["one", "two"], 0),  # letters of all words are collected: "AB"
        ("on which I think B", "two", ["one", "two"], 1),
        ("AA", "x26", [f"x{k}" for k in range(28)], 1),
    ],
)
def test_milebench_choice(text: str, answer: str, choices: list[str], expected: int) -> None:
    assert score(text, answer, "choice", "milebench", choices) == expected


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        ("a a a a", "a", 1.0),  # every different word counts once
        ("a b", "a b c", 0.8),  # p 1, r 2/3
        ("b a", "a b", 0.5),
        ("", "a", 0.0),
    ],
)
def test_milebench_rouge_l(text: str, answer: str, expected: float) -> None:
    assert score(text, answer, "open", "milebench") == pytest.approx(expected, abs=1e-7)


def test_milebench_needle_wants_a_word_and_mmcoqa_a_part() -> None:
    assert score("It is 12.", "12", "needle", "milebench") == 1
    assert score("It is 112.", "12", "needle", "milebench") == 0
    assert score("It is 112.", "12", "contained", "milebench") == 1
