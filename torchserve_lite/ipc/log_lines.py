"""How lines of a worker's output carry the level they were logged at: each begins with ``RS level US``.

Control characters that text does not hold, so that what a handler prints is never taken for a mark, and a mark is found
behind half a line that was printed without its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

_MARK = re.compile(rb"\x1e(\d{1,3})\x1f")


def marked(level: int, text: str) -> str:
    """The text with each of its lines marked."""
    mark = f"\x1e{level}\x1f"
    return "\n".join(mark + line for line in text.replace("\x1e", "\\x1e").split("\n"))


def unmarked(line: bytes) -> Iterator[tuple[int | None, bytes]]:
    """The lines that one line of output holds, each with its level; None for what was printed."""
    printed, *logged = _MARK.split(line)
    if printed or not logged:
        yield None, printed
    for level, text in zip(logged[::2], logged[1::2], strict=True):
        yield int(level), text
