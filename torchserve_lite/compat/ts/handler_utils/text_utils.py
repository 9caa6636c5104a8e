"""Tokens and n-grams for the text handlers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Literal, overload

_SPACED = re.compile(r"(['.,()!?])")
_BLANK = re.compile(r"<br />|[;:]")


def ngrams_iterator(token_list: list[str], ngrams: int) -> Iterator[str]:
    """All single tokens, then all pairs, and so on up to ``ngrams``, each joined by blanks."""
    for length in range(1, ngrams + 1):
        for start in range(len(token_list) - length + 1):
            yield " ".join(token_list[start : start + length])


@overload
def get_tokenizer(tokenizer: Literal["basic_english"] | None, language: str = "en") -> Callable[[str], list[str]]: ...


@overload
def get_tokenizer(tokenizer: str | None, language: str = "en") -> Callable[[str], list[str]] | None: ...


def get_tokenizer(tokenizer: str | None, language: str = "en") -> Callable[[str], list[str]] | None:
    """``basic_english``, or None for a split at blanks. Other names are not known here."""
    if tokenizer is None:
        return str.split
    return basic_english if tokenizer == "basic_english" else None


def basic_english(line: str) -> list[str]:
    """Lower case; punctuation marks become tokens of their own; double quotes, ``<br />``, ``;`` and ``:`` go."""
    text = _BLANK.sub(" ", line.lower()).replace('"', "")
    return _SPACED.sub(r" \1 ", text).split()
