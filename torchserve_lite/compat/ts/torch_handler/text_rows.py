"""The text in one request, and the known n-grams in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ts.torch_handler.rows import value_of
from ts.utils.util import InvalidRow

UNKNOWN = "<unk>"


class NGram(NamedTuple):
    """An id of the vocabulary and the words it stands for, as a slice of the tokens."""

    id: int
    words: slice


def text_of(request: Any, row: int) -> str:
    """Text as such, as UTF-8 bytes, or as the codes of its characters (how KServe's v2 samples send text)."""
    value = value_of(request)
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        return value
    if value is None:
        raise InvalidRow(row, 'The request has no text: it is expected under "data" or as the body.')
    if isinstance(value, list) and any(isinstance(entry, str | bytes | bytearray) for entry in value):
        raise InvalidRow(row, f"The request has {len(value)} texts, where one is expected: send a request for each.")
    if not isinstance(value, bytes | bytearray | memoryview | list):
        raise InvalidRow(row, f"The text must be a string or UTF-8 bytes; this is of type {type(value).__name__}.")
    try:
        return bytes(value).decode()
    except UnicodeDecodeError as error:
        raise InvalidRow(row, f"The text is not UTF-8: {error.reason} at byte {error.start}.") from error
    except (TypeError, ValueError) as error:
        raise InvalidRow(row, "The list must hold the text's UTF-8 bytes as whole numbers from 0 to 255.") from error


def known_ngrams(tokens: Sequence[str], vocabulary: Any, longest: int) -> list[NGram]:
    """Single words first, then pairs, and so on. An unknown one gets the id of `<unk>`, or is left out without one."""
    ngrams = []
    for length in range(1, longest + 1):
        for start in range(len(tokens) - length + 1):
            words = slice(start, start + length)
            known = _id_of(" ".join(tokens[words]), vocabulary)
            if known is not None:
                ngrams.append(NGram(known, words))
    return ngrams


def _id_of(ngram: str, vocabulary: Any) -> int | None:
    """A dict says KeyError for what it does not know, a vocabulary of torchtext RuntimeError."""
    try:
        known: int = vocabulary[ngram]
        return known
    except (KeyError, RuntimeError):
        return vocabulary.get(UNKNOWN) if isinstance(vocabulary, Mapping) else None
