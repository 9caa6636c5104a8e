"""Unpacks .mar and .tar.gz archives so that nothing escapes the folder given, whatever the archive says.

Every step of a path is opened under the folder before it without following links, every file is created anew, and
what is refused leaves nothing behind.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import threading
import unicodedata
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from io import BufferedReader
from pathlib import Path

from torchserve_lite.archive.unpacking.entries import CHUNK, ArchiveError, Entry, UnpackLimits, checked_parts, shown
from torchserve_lite.archive.unpacking.tar import tar_entries
from torchserve_lite.archive.unpacking.zip import zip_entries
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import InvalidArchive, NoRoom

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAKE_ROOM = "Make room there, or set TMPDIR to a folder on a larger file system."
_NO_ROOM = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: "Raise the limit on the size of files (ulimit -f), or set TMPDIR to a folder on another file system.",
}
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def unpack(
    archive: Path,
    target: Path,
    limits: UnpackLimits | None = None,
    interruption: Interruption | None = None,
    *,
    digest_wanted: bool = True,
) -> str:
    """Makes the folder ``target`` from ``archive`` and returns the archive's SHA-256, or nothing where it is not
    wanted. When that fails, nothing is left at ``target``.

    The digest and the content come from one open file, and the file must not have changed in between.
    """
    limits, interruption = limits or UnpackLimits(), interruption or Interruption()
    interruption.check()
    with _as_invalid_archive(archive, target), _opened(archive) as file, _new_folder(target) as root:
        before = _fingerprint(file)
        allowance = limits.allowance(os.fstat(file.fileno()).st_size)
        extraction = Extraction(root, limits, allowance, interruption)
        hashing = _digest_meanwhile(file.fileno(), interruption) if digest_wanted else nullcontext()
        with hashing as digest:
            for entry in _entries(file, limits, allowance):
                extraction.add(entry)
        unpacked = "" if digest is None else digest.result()
        if _fingerprint(file) != before:
            raise ArchiveError("was changed while it was being unpacked. Register it again")
    return unpacked


def digest_of(archive: Path, interruption: Interruption) -> str:
    """SHA-256, as ``unpack`` returns it. OSError or ArchiveError when the file cannot be read."""
    with _opened(archive) as file:
        return _digest(file.fileno(), interruption, threading.Event())


@contextmanager
def _digest_meanwhile(descriptor: int, interruption: Interruption) -> Iterator[Future[str]]:
    """In a thread of its own: hashing takes a sixth of the time that inflating takes, and both let go of the
    interpreter. Left, it is done, or given up with what failed."""
    given_up = threading.Event()
    with ThreadPoolExecutor(1, "digest") as thread:
        try:
            yield thread.submit(_digest, descriptor, interruption, given_up)
        except BaseException:
            given_up.set()
            raise


def _digest(descriptor: int, interruption: Interruption, given_up: threading.Event) -> str:
    digest, position = hashlib.sha256(), 0
    while not given_up.is_set() and (chunk := os.pread(descriptor, CHUNK, position)):
        interruption.check()
        digest.update(chunk)
        position += len(chunk)
    return digest.hexdigest()


class Extraction:
    """Writes entries below the folder open as ``root``, and nowhere else."""

    def __init__(self, root: int, limits: UnpackLimits, allowance: int, interruption: Interruption) -> None:
        self._root = root
        self._limits = limits
        self._allowance = allowance
        self._interruption = interruption
        self._taken: dict[str, str] = {}  # path as a case-blind file system sees it -> path
        self._folders: set[str] = set()

    def add(self, entry: Entry) -> None:
        parts = checked_parts(entry.name)
        if entry.folder:
            self._make_folders(parts)
        elif parts:
            self._make_folders(parts[:-1])
            self._write(entry, parts)
        else:
            raise ArchiveError(f"its entry {shown(entry.name)} has no name of its own")

    def _make_folders(self, parts: tuple[str, ...]) -> None:
        for depth, name in enumerate(parts):
            path = "/".join(parts[: depth + 1])
            if path not in self._folders:
                self._take(path)
                self._folders.add(path)
                with self._folder(parts[:depth]) as parent:
                    os.mkdir(name, 0o755, dir_fd=parent)

    def _write(self, entry: Entry, parts: tuple[str, ...]) -> None:
        self._take("/".join(parts))
        self._allowance -= entry.size
        if self._allowance < 0:
            raise ArchiveError(
                "unpacks to far more than an archive of its size may (a decompression bomb?). "
                "If its content is meant to be that empty, pack it with --archive-format zip-store"
            )
        with self._folder(parts[:-1]) as parent:
            mode = 0o755 if entry.executable else 0o644  # never setuid, never writable by others
            with open(os.open(parts[-1], _CREATE_FILE, mode, dir_fd=parent), "wb") as file:
                written = 0
                for chunk in entry.chunks():
                    self._interruption.check()
                    written += file.write(chunk)
        if written != entry.size:
            raise ArchiveError(f"its entry {shown(entry.name)} should have {entry.size:,} bytes and has {written:,}")

    def _take(self, path: str) -> None:
        """Two entries of one name, or of names that some file systems hold for one, have no single meaning."""
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
        if other := self._taken.get(folded):
            same = "twice" if other == path else f"beside {shown(other)}, which is the same name on some file systems"
            raise ArchiveError(f"has the entry {shown(path)} {same}")
        self._taken[folded] = path
        if len(self._taken) > self._limits.entries:
            raise ArchiveError(f"has more than {self._limits.entries:,} files and folders")

    @contextmanager
    def _folder(self, parts: tuple[str, ...]) -> Iterator[int]:
        with ExitStack() as opened:
            folder = self._root
            for name in parts:
                folder = os.open(name, _OPEN_FOLDER, dir_fd=folder)
                opened.callback(os.close, folder)
            yield folder


def _entries(file: BufferedReader, limits: UnpackLimits, allowance: int) -> Iterator[Entry]:
    """By what the file is, not by its suffix: TorchServe goes by ``.mar``, which says nothing else about a file."""
    file.seek(0)
    start = file.read(256)
    file.seek(0)
    if start.startswith((b"PK\3\4", b"PK\5\6")):
        return zip_entries(file, limits)
    if start.startswith(b"\x1f\x8b"):
        return tar_entries(file, allowance)
    likeness = f"it begins with {start[:8]!r}"
    if not start:
        likeness = "it is empty"
    elif start.startswith(b"version https://git-lfs"):
        likeness = "it is a Git LFS pointer. Fetch the file itself with 'git lfs pull'"
    elif start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        likeness = "it is a web page. Was an error page downloaded?"
    raise ArchiveError(f"is neither a zip (.mar) nor a gzip-compressed tar (.tar.gz): {likeness}")


@contextmanager
def _as_invalid_archive(archive: Path, target: Path) -> Iterator[None]:
    """Says of every refusal which archive it is about."""
    try:
        yield
    except ArchiveError as error:
        raise InvalidArchive(archive.name, str(error)) from error
    except OSError as error:
        problem = f"cannot be unpacked in {target.parent}: {error.strerror}."
        if error.errno in _NO_ROOM:
            raise NoRoom(archive.name, f"{problem} {_NO_ROOM[error.errno]}") from error
        raise InvalidArchive(archive.name, problem) from error


@contextmanager
def _new_folder(target: Path) -> Iterator[int]:
    """Open, and gone again when what happens in it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.mkdir(mode=0o700)
    root = os.open(target, _OPEN_FOLDER)
    try:
        yield root
    except BaseException:  # a cancelled start must not leave gigabytes behind either
        shutil.rmtree(target, ignore_errors=True)
        raise
    finally:
        os.close(root)


@contextmanager
def _opened(archive: Path) -> Iterator[BufferedReader]:
    descriptor = os.open(archive, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a named pipe must not hold us
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ArchiveError("is not a regular file")
        yield file


def _fingerprint(file: BufferedReader) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
