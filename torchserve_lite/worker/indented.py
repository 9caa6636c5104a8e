"""JSON in the layout of ``json.dumps(value, indent=2)``, which TorchServe answers in, without its encoder.

The standard library lays JSON out in Python, a generator step for each token, because its encoder in C knows no
indentation (before Python 3.14). What handlers usually return takes a tenth of that time here.
"""

from __future__ import annotations

from collections.abc import Callable
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

import msgspec

_MANY = 8  # numbers in a list, from which on it pays to have them written at once

_unindented = msgspec.json.Encoder().encode


def indented(value: Any) -> str | None:
    """The text, byte for byte that of ``json.dumps(value, indent=2)``, of a value of JSON's own types.

    None when there is anything else in it (a subclass of one, a tuple, a key that is no text, a cycle): the standard
    library then has its say, and its exceptions.
    """
    try:
        return _laid_out(value, "\n")
    except (LookupError, TypeError, ValueError, RecursionError):
        return None


def _laid_out(value: Any, line: str) -> str:
    """``line``: the line break before this value's own closing bracket."""
    kind = type(value)
    if kind is dict and value:
        inner = line + "  "
        entries = f",{inner}".join([f"{quoted(name)}: {_laid_out(entry, inner)}" for name, entry in value.items()])
        return f"{{{inner}{entries}{line}}}"
    if kind is list and value:
        inner = line + "  "
        numbers = _floats(value, f",{inner}") if len(value) >= _MANY else None
        entries = numbers or f",{inner}".join([_laid_out(entry, inner) for entry in value])
        return f"[{inner}{entries}{line}]"
    return _SIMPLE[kind](value)


def _floats(values: list[Any], separator: str) -> str | None:
    """A list of nothing but floats; None when Python writes one of them in another way.

    Both write the fewest digits that give the same number. They differ in what is not finite, in exponents, and in
    which numbers are small enough to have one.
    """
    if set(map(type, values)) != {float}:
        return None
    text = _unindented(values).decode()[1:-1]
    return None if "n" in text or "e" in text or "0.0000" in text else text.replace(",", separator)


def _float(value: float) -> str:
    text = float.__repr__(value)
    return _NOT_FINITE.get(text, text)


_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

_SIMPLE: dict[type, Callable[[Any], str]] = {
    str: quoted,
    int: int.__repr__,
    float: _float,
    bool: {True: "true", False: "false"}.__getitem__,
    type(None): {None: "null"}.__getitem__,
    dict: lambda value: "{}",  # the empty ones
    list: lambda value: "[]",
}
