"""Texts and names use the field's standard terms: words of a private idiom are found with file and line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Not locks, checksums, licences, recorded data or drawings.
TEXTS = re.compile(
    r"\.(py|md|ya?ml|toml|tpl|txt|sh|cff|go)$|(^|/)(Makefile|Dockerfile)$|^\.ci/|\.schema\.json$|/(dashboards|grafana)/"
)
# A class of one letter in each pattern keeps the words out of this file.
WORDS = ("t[o]ld", "t[e]ll", "t[e]lls", "t[e]lling", "unt[o]ld", "an[e]w", "h[e]ar", "h[e]ars", "h[e]ard")
WORDS += ("gl[a]nce", "gl[a]nces")
PHRASES = ("on p[a]per", "what b[e]comes of", "how-m[a]nieth")
# All but letters and digits bounds a word, so that it is also found within a snake_case name.
WORD = rf"(?<![^\W_])(?:{'|'.join(WORDS)})(?![^\W_])"
PHRASE = r"\b(?:" + "|".join(phrase.replace(" ", r"[\s_#]+") for phrase in PHRASES) + r")\b"
PRIVATE = re.compile(f"{WORD}|{PHRASE}", re.IGNORECASE)


def findings(name: str, text: str) -> Iterator[str]:
    """`file:line: word` for each private word of a text; a phrase may be broken over two lines."""
    for match in PRIVATE.finditer(text):
        yield f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"


def test_texts_have_no_private_words(tracked: dict[Path, str]) -> None:
    names = [str(path) for path in tracked if TEXTS.search(str(path))]
    assert {"Makefile", "README.md", "tests/repo/test_repository.py"} < set(names)
    found = [one for name in names for one in findings(name, (ROOT / name).read_text(encoding="utf-8"))]
    assert not found, "use a standard term:\n" + "\n".join(found)


def plain(pattern: str) -> str:
    """The word that a pattern stands for."""
    return re.sub(r"[\[\]]", "", pattern)


@pytest.mark.parametrize("pattern", [*WORDS, *PHRASES])
def test_each_private_word_is_found_with_its_line(pattern: str) -> None:
    word = plain(pattern)
    assert list(findings("a.py", f"first\nsecond, {word.capitalize()}.\n")) == [
        f"a.py:2: {word.capitalize()}"
    ]


@pytest.mark.parametrize("pattern", WORDS)
@pytest.mark.parametrize("name", ["_{}", "{}_first", "is_{}_later"])
def test_a_part_of_a_name_is_found(name: str, pattern: str) -> None:
    word = plain(pattern)
    assert list(findings("a.py", f"{name.format(word)} = 1")) == [f"a.py:1: {word}"]


def test_a_phrase_over_two_comment_lines_is_found() -> None:
    first, second = plain(PHRASES[0]).split()
    assert list(findings("a.py", f"# It is {first}\n# {second}.")) == [f"a.py:1: {first}\n# {second}"]


def test_longer_words_are_others() -> None:
    assert list(findings("a.py", "An intelligent satellite, newspapers, the heart, teller, hearing")) == []
