"""How long the texts may be that clients and logs are told. Whoever raises an exception may put any text into it."""

from __future__ import annotations

MESSAGE = 8_000  # characters of what a client is told
REPORT = 64_000  # of one report in a log, traceback included


def shortened(text: str, most: int) -> str:
    """``text``, or its beginning and its end, which say the most, around the number of characters left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} [... {len(text) - 2 * half} characters are left out here ...] {text[-half:]}"
