"""Puts fetched archives into the model store: whole or not at all, and never over somebody else's file.

Everything here blocks.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from torchserve_lite.archive.unpacking.entries import MIB, ArchiveError
from torchserve_lite.archive.unpacking.unpack import digest_of
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import Conflict, InvalidArchive, NoRoom

_PREFIX = ".torchserve-lite-download-"  # of folders; hidden, so that nothing takes them for models

log = logging.getLogger(__name__)


class PartFile:
    """A file below a folder of its own in the store, on its way to ``folder / name``. It is locked for as long as this
    process lives, so that other servers can tell it from what a crash has left. To be closed also when ``open`` has
    failed or nobody has waited for it."""

    _file: IO[bytes]

    def __init__(self, folder: Path, name: str) -> None:
        self._target = folder / name
        self.path = folder / f"{_PREFIX}{uuid.uuid4().hex}" / name
        self._undo = ExitStack()

    def open(self) -> None:
        self.path.parent.mkdir(mode=0o700)
        self._undo.callback(shutil.rmtree, self.path.parent, ignore_errors=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._file = self._undo.enter_context(os.fdopen(descriptor, "wb"))
        with suppress(OSError):  # a file system without locks
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def check_room(self, size: int) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if size > free:
            problem = (
                f"has {megabytes(size)}, and the model store {self._target.parent} has room for {megabytes(free)}."
            )
            raise NoRoom(self.path.name, problem)

    def write(self, data: bytes, digest: hashlib._Hash) -> None:
        with as_disk_problem(self.path.name, self._target.parent):
            self._file.write(data)
        digest.update(data)

    def finish(self) -> None:
        with as_disk_problem(self.path.name, self._target.parent):
            self._file.flush()
            os.fsync(self._file.fileno())

    def publish(self, digest: str, told: str, interruption: Interruption) -> bool:
        """Gives it its name unless a file of the same content has it, which is False then. Never replaces anything."""
        try:
            os.link(self.path, self._target)
        except FileExistsError:
            return self._is_there(digest, told, interruption)
        except OSError:  # a file system without hard links: the name is taken first, and then filled
            try:
                os.close(os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
            except FileExistsError:
                return self._is_there(digest, told, interruption)
            os.replace(self.path, self._target)
        directory = os.open(self._target.parent, os.O_RDONLY)
        try:
            with suppress(OSError):  # not every file system lets folders be synchronised
                os.fsync(directory)
        finally:
            os.close(directory)
        return True

    def _is_there(self, digest: str, told: str, interruption: Interruption) -> bool:
        with suppress(OSError, ArchiveError):
            if digest_of(self._target, interruption) == digest:
                return False
        raise Conflict(
            f"The model store already has {self._target.name}, and it is not what {told} sends (SHA-256 {digest}). "
            "Give the archive a file name of its own, or remove the other one."
        )

    def close(self) -> None:
        with suppress(OSError):  # what the disk did not take when it was written has been told then
            self._undo.close()


@dataclass(frozen=True, slots=True)
class AddedFile:
    """A file that we have put into the store, as it was then: another one under its name is not ours to delete."""

    path: Path
    identity: tuple[int, int, int, int]

    @classmethod
    def at(cls, path: Path) -> AddedFile:
        return cls(path, _identity(path))

    def remove(self) -> bool:
        try:
            if _identity(self.path) != self.identity:
                return False
            self.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("%s, which was downloaded, cannot be deleted: %s.", self.path, error.strerror)
            return False
        return True


def remove_leftovers(store: Path) -> None:
    """Of servers that were killed. Process ids would not tell: containers that share a volume have the same."""
    for folder in store.glob(f"{_PREFIX}*"):
        for part in folder.glob("*"):
            with suppress(OSError), part.open("r+b") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def as_disk_problem(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoRoom(
                name, f"cannot be kept in the model store {folder}: {error.strerror}. Make room there."
            ) from error
        problem = f"cannot be kept in the model store {folder}: {error.strerror}. Fetched archives are kept there."
        raise InvalidArchive(name, problem) from error


def megabytes(size: int) -> str:
    return f"{size / MIB:,.1f} MB" if size >= MIB // 10 else f"{size:,} bytes"


def _identity(path: Path) -> tuple[int, int, int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
