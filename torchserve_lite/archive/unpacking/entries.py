"""What an archive holds, entry by entry, and the rules that names and amounts must keep before anything is written.

Zip and tar readers yield the same ``Entry``, so that one extractor with one set of rules serves both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB
CHUNK = MIB

_DRIVE = re.compile(r"[A-Za-z]:")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # what a name that is no UTF-8 decodes to
_LONGEST_PART = 255  # bytes; what file systems allow
_LONGEST_NAME = 1024  # bytes; leaves room below PATH_MAX for the folder we unpack to
_DEEPEST = 64


DESKTOP_FOLDER = "__MACOSX"
_DESKTOP_FILES = frozenset({DESKTOP_FOLDER, ".DS_Store", "Thumbs.db", "desktop.ini"})


class ArchiveError(Exception):
    """What is wrong with an archive and how to mend it; ``unpack`` adds which archive and raises InvalidArchive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file or folder of an archive. ``chunks`` reads the content, once, before the next entry is asked for."""

    name: str
    size: int = 0
    folder: bool = False
    executable: bool = False
    chunks: Callable[[], Iterator[bytes]] = lambda: iter(())


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackLimits:
    """How much an archive may unpack to: ``ratio`` times its own size, but at least ``floor`` and at most ``total``.

    Deflate shrinks zeros a thousandfold, while float weights lose a few percent, sparse ones perhaps nine tenths and
    vocabularies nineteen twentieths: a hundredfold leaves honest archives five times the room they need. Below half
    a gibibyte no ratio counts, so that small archives of zero-filled weights (tests, placeholders) still load, and a
    bomb costs no more than any machine that serves models has to spare. An archive that is stored, not deflated,
    never meets these limits.
    """

    entries: int = 100_000
    ratio: int = 100
    floor: int = 512 * MIB
    total: int = 1024 * 1024 * MIB

    def allowance(self, archive_size: int) -> int:
        return min(self.total, max(self.floor, self.ratio * archive_size))


def checked_parts(name: str) -> tuple[str, ...]:
    """The folders and the file that ``name`` means below the model's folder; empty for that folder itself."""
    if problem := name_problem(name):
        raise ArchiveError(f"its entry {shown(name)} {problem}")
    return tuple(part for part in name.split("/") if part not in ("", "."))


def name_problem(name: str) -> str:
    """Why ``name`` cannot be that of a file in an archive; "" when it can."""
    if _SURROGATE.search(name):
        return "has a name that is not UTF-8"
    if _UNPRINTABLE.search(name):
        return "has control characters in its name"
    if "\\" in name:
        return "has a backslash in its name (packed on Windows by hand? torch-model-archiver writes slashes)"
    if name.startswith("/"):
        return "is an absolute path; it must lie below the archive's root"
    if _DRIVE.match(name):
        return "names a drive; it must lie below the archive's root"
    parts = name.split("/")
    if ".." in parts:
        return "leads out of the archive ('..'); it must lie below the archive's root"
    if any(len(part.encode()) > _LONGEST_PART for part in parts):
        return f"has a part longer than {_LONGEST_PART} bytes"
    if len(name.encode()) > _LONGEST_NAME:
        return f"has a name longer than {_LONGEST_NAME} bytes"
    return f"lies more than {_DEEPEST} folders deep" if len(parts) > _DEEPEST else ""


def is_desktop_file(name: str) -> bool:
    """Whether macOS or Windows puts a file or folder of this name beside what it packs."""
    return name in _DESKTOP_FILES or name.startswith("._")


def shown(name: str) -> str:
    """A name as it may stand in a message or a log: quoted, escaped and short."""
    return ascii(name if len(name) <= 80 else f"{name[:60]}...{name[-15:]}")
