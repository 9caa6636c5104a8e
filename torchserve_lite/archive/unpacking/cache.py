"""Keeps archives for the next start, packed once more without compression: copying 400 MB takes a fifth of the time
that inflating them takes.

An archive is one file, named by its SHA-256 and its own. So there is never half an entry: it takes its name when it is
whole, and whatever has happened to it since shows in its digest. Models are unpacked from it into folders of their own,
so what a handler writes reaches neither the cache nor another server; and as it is only read while it is being
unpacked, any server may remove it at any time.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import logging
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from torchserve_lite.archive.unpacking.entries import CHUNK, MIB, ArchiveError, UnpackLimits
from torchserve_lite.archive.unpacking.unpack import digest_of, unpack
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import InvalidArchive, NoRoom

_WORTH_KEEPING = 8 * MIB  # what is smaller is inflated in a twentieth of a second
_WORTH_SHRINKING = 1.02  # an archive that is so much smaller than its content takes time to inflate

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveCache:
    """``folder`` is ours alone. It is brought below ``most_bytes`` whenever something is added to it: what has not been
    used for longest goes first. A cache that cannot be read or written costs time, not models."""

    folder: Path
    most_bytes: int

    def unpack(self, archive: Path, target: Path, limits: UnpackLimits, interruption: Interruption) -> str:
        """As ``unpacking.unpack``, with the same errors."""
        with suppress(OSError, ArchiveError):  # unpacking tells it better
            if archive.stat().st_size < _WORTH_KEEPING:
                return unpack(archive, target, limits, interruption)
            digest = digest_of(archive, interruption)
            for kept in self.folder.glob(f"{digest}.*.mar"):
                if self._unpack_kept(kept, target, limits, interruption):
                    return digest
        digest = unpack(archive, target, limits, interruption)
        try:
            self._keep(digest, target, archive, interruption)
        except OSError as error:
            log.warning("%s is not kept in archive_cache=%s: %s.", archive.name, self.folder, error.strerror)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            raise
        return digest

    def _unpack_kept(self, kept: Path, target: Path, limits: UnpackLimits, interruption: Interruption) -> bool:
        """False, with nothing at ``target``, when it is not what it was."""
        try:
            if unpack(kept, target, limits, interruption) == kept.name.split(".")[1]:
                with suppress(OSError):
                    os.utime(kept)  # it was of use just now
                return True
            problem = "its SHA-256 is not that in its name"
            shutil.rmtree(target, ignore_errors=True)
        except NoRoom:
            return False  # unpacking the archive itself says so under its name
        except InvalidArchive as error:
            problem = str(error)
        if kept.exists():  # another server may have removed it
            log.warning("%s is damaged and not used: %s", kept, problem)
            with suppress(OSError):
                kept.unlink()
        return False

    def _keep(self, digest: str, unpacked: Path, archive: Path, interruption: Interruption) -> None:
        paths = sorted(unpacked.rglob("*"))
        size = sum(path.stat().st_size for path in paths if path.is_file())
        if size < _WORTH_SHRINKING * archive.stat().st_size:
            return  # it is not compressed itself
        if size > self.most_bytes:
            log.warning("%s is not kept: it unpacks to %d bytes, more than archive_cache_size.", archive.name, size)
            return
        self._remove_leftovers()
        with _unfinished(self.folder) as part:
            with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as packed:
                for path in paths:
                    # Without the time, so that two servers that keep an archive at once make the same file of it.
                    name = path.relative_to(unpacked).as_posix()
                    info = zipfile.ZipInfo(name if path.is_file() else f"{name}/")
                    info.external_attr = path.stat().st_mode << 16
                    info.file_size = path.stat().st_size if path.is_file() else 0
                    with packed.open(info, "w") as copy, _content(path) as source:
                        while chunk := source.read(CHUNK):
                            interruption.check()
                            copy.write(chunk)
            with part.open("rb") as file:
                own_digest = hashlib.file_digest(file, "sha256").hexdigest()
            part.rename(self.folder / f"{digest}.{own_digest}.mar")
        self._make_room()

    def _make_room(self) -> None:
        """Several servers may do so at once."""
        found = []
        for path in self.folder.glob("*.mar"):
            with suppress(FileNotFoundError):
                status = path.stat()
                found.append((status.st_mtime, path, status.st_size))
        left = sum(size for _, _, size in found)
        for _, path, size in sorted(found)[:-1]:  # the last has just been added
            if left > self.most_bytes:
                path.unlink(missing_ok=True)
                left -= size

    def _remove_leftovers(self) -> None:
        """Of servers that were killed. Process ids would not tell: containers that share a volume have the same."""
        for part in self.folder.glob("*.part"):
            with suppress(OSError), part.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    """A new file, locked as long as somebody writes it, and gone afterwards unless it has been renamed."""
    descriptor, name = tempfile.mkstemp(dir=folder, suffix=".part")
    with open(descriptor, "rb") as lock:
        with suppress(OSError):  # no file system without locks keeps us from caching
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)


def _content(path: Path) -> IO[bytes]:
    return path.open("rb") if path.is_file() else io.BytesIO()
