"""How a worker's output says at which level a line was logged, and for which requests.

A line that was logged begins with ``RS level US``. ``RS R ids US`` says whose the output is from there on, logged or
printed, until the next such mark; no ids: nobody's. Where a mark stands behind text, that text was half a line. These
control characters do not stand in text: what a handler prints has others in their place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_MARK = re.compile(rb"\x1e(\d{1,3}|R[^\x1e\x1f\n]*)\x1f")
_NO_PART_OF_A_MARK = re.compile(r"[^!-~]|[,+]")  # nor of a log line
_MOST_IDS = 32  # of a batch: some 1 KiB once for each that prints
_LONGEST_ID = 64
_SHOWN = 3


class RequestIds(NamedTuple):
    """The first ids of a batch's requests, and how many more it has."""

    ids: tuple[str, ...] = ()
    more: int = 0

    @classmethod
    def of(cls, ids: Sequence[str]) -> RequestIds:
        return cls(tuple(ids[:_MOST_IDS]), max(0, len(ids) - _MOST_IDS))

    def __str__(self) -> str:
        """``request a``, ``requests a, b, c and 13 more``; empty when there is none."""
        if not self.ids:
            return ""
        more = len(self.ids) + self.more - _SHOWN
        shown = ", ".join(self.ids[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"request{'s' if len(self.ids) > 1 else ''} {shown}"


class Part(NamedTuple):
    """Of a line. ``level``: None for what was printed. ``requests``: whose it and all that follows is, None: whose
    the output was before."""

    level: int | None
    requests: RequestIds | None
    text: bytes


def marked(level: int, text: str) -> str:
    """The text with each of its lines marked."""
    mark = f"\x1e{level}\x1f"
    return "\n".join(mark + line for line in without_marks(text).split("\n"))


def without_marks(text: str) -> str:
    return text.replace("\x1e", "\\x1e") if "\x1e" in text else text


def request_mark(requests: RequestIds) -> str:
    ids = [_NO_PART_OF_A_MARK.sub("?", one[:_LONGEST_ID]) for one in requests.ids]
    return f"\x1eR{','.join(ids)}{f'+{requests.more}' if requests.more else ''}\x1f"


def last_request_mark(output: bytes) -> RequestIds | None:
    """Whose the output is after all this. None: whose it was before."""
    begun = output.rfind(b"\x1eR")
    found = _MARK.match(output, begun) if begun >= 0 else None
    return _requests(found[1]) if found else None


def unmarked(line: bytes, *, ended: bool = True) -> Iterator[Part]:
    """The parts that one line of output holds, each of which was meant as a line. ``ended``: its end has come; else
    nothing behind a mark is no empty line."""
    first, *marks = _MARK.split(line)
    if first or not marks:
        yield Part(None, None, first)
    requests: RequestIds | None = None
    for index, (mark, text) in enumerate(zip(marks[::2], marks[1::2], strict=True)):
        is_last = 2 * index + 2 == len(marks)
        if not mark.startswith(b"R"):
            yield Part(int(mark), requests, text)
            continue
        requests = _requests(mark)
        if text or (is_last and ended and not first):
            yield Part(None, requests, text)


def _requests(mark: bytes) -> RequestIds:
    ids, _, more = mark[1:].decode("ascii", "replace").partition("+")
    return RequestIds(tuple(ids.split(",")) if ids else (), int(more) if more.isdecimal() else 0)


def printable(line: str) -> str:
    """Control characters made visible: a handler's output must not forge log lines or drive a terminal."""
    return line if line.isprintable() else "".join(c if c.isprintable() or c == "\t" else repr(c)[1:-1] for c in line)


def safe_lines(line: str) -> str:
    """A record's line and those that follow it, a traceback's, such that no other record can be read into them: they
    begin with blanks, and what drives a terminal or ends a line for some reader is shown as an escape."""
    return line if line.isprintable() else "\n    ".join(printable(part) for part in line.split("\n"))
