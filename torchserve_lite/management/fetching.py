"""The one door to archives: a name in the model store, a folder, or a URL becomes an opened archive."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import stat
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar
from weakref import WeakValueDictionary

from aiohttp.abc import AbstractResolver

from torchserve_lite.archive.store import is_url, last_part
from torchserve_lite.archive.unpacking.entries import CHUNK
from torchserve_lite.config.settings import DownloadConfig
from torchserve_lite.core.shutdown import Interruption
from torchserve_lite.errors import ArchiveNotFound, DownloadFailed, InvalidArchive
from torchserve_lite.management.allowed_urls import AllowedUrls, shown
from torchserve_lite.management.downloads import Content, Downloads
from torchserve_lite.management.store_files import AddedFile, PartFile, as_disk_problem, megabytes, remove_leftovers

T = TypeVar("T")
Source = Callable[[], AbstractAsyncContextManager[Content]]

_LONGEST_NAME = 200  # bytes
_PROGRESS_EVERY = 5.0  # seconds
_CLOSED_WITHIN = 5.0  # seconds; a disk that does not answer must not hold up the stop

log = logging.getLogger(__name__)


class Opened(Protocol):
    """An archive that has been unpacked, of a model or of something else."""

    @property
    def url(self) -> str: ...

    @property
    def digest(self) -> str: ...

    def close(self) -> None: ...


Found = TypeVar("Found", bound=Opened)


class Store(Protocol[Found]):
    """A folder of archives, as ``ModelStore`` is one of models. Its verbs block."""

    @property
    def folder(self) -> Path | None: ...

    @property
    def interruption(self) -> Interruption: ...

    def interrupted_by(self, interruption: Interruption) -> Store[Found]: ...

    def locate(self, url: str) -> Path: ...

    def open(self, url: str) -> Found: ...

    def open_at(self, url: str, path: Path) -> Found: ...


class ArchiveFetcher(Generic[Found]):
    """Use as an async context manager.

    An archive from a URL is kept in the model store under the URL's file name, as TorchServe keeps it, so that a
    restart finds it. It appears there when it is whole and has been unpacked: what fails leaves nothing behind.
    ``resolver`` is for tests.
    """

    def __init__(
        self,
        store: Store[Found],
        config: DownloadConfig | None = None,
        resolver: Callable[[], AbstractResolver] | None = None,
    ) -> None:
        self._store = store
        self._config = config or DownloadConfig()
        self._allowed = AllowedUrls(self._config)
        self._downloads = Downloads(self._config, self._allowed, resolver)
        self._users: Counter[str] = Counter()  # by name in the store: archives that are open and not removed again
        self._added: dict[str, AddedFile] = {}  # by name: what we have put into the store
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by name
        self._blocking: set[asyncio.Future[Any]] = set()
        self._unpacking = ThreadPoolExecutor(thread_name_prefix="unpacking")

    async def __aenter__(self) -> ArchiveFetcher[Found]:
        if self._store.folder is not None:
            await self._in_thread(remove_leftovers, self._store.folder)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Downloads are part of the tasks that asked for them, and are cancelled with them; threads are left."""
        self._store.interruption.interrupt()
        if self._blocking:
            await asyncio.wait(self._blocking, timeout=_CLOSED_WITHIN)
        self._unpacking.shutdown(wait=False)

    async def open(self, url: str, *, s3_sse_kms: bool = False) -> Found:
        """The archive that ``url`` stands for. It goes to ``remove`` when no model is served from it any more; one that
        is only closed leaves its file in the store, for the next start."""
        return await self._counted(url, self._open(url, last_part(url), s3_sse_kms=s3_sse_kms))

    async def reopen(self, url: str) -> Found:
        """As ``open``, for a model whose file in the store has changed: nothing is fetched that is there."""
        kept = self._store.folder / last_part(url) if is_url(url) and self._store.folder is not None else None
        if kept is None or not await self._in_thread(kept.is_file):
            return await self.open(url)
        return await self._counted(url, self._opened(url, kept))

    async def open_pulled(self, path: Path) -> Found:
        """What the store's ``locate_pulled`` has found."""
        return await self._counted(path.name, self._opened(path.name, path))

    async def _counted(self, url: str, opening: Coroutine[Any, Any, Found]) -> Found:
        """Whoever opens a file counts as its user from the beginning, so that nobody deletes it meanwhile."""
        name = last_part(url)
        self._users[name] += 1
        try:
            return await opening
        except BaseException:
            await self._leave(name)
            raise

    async def remove(self, archive: Found) -> None:
        """Closes it, and deletes its file in the store if that was downloaded for it and nobody else uses it."""
        await self._in_thread(archive.close)
        if archive.url:  # else somebody else has opened it, and it is of no store
            await self._leave(last_part(archive.url))

    async def _leave(self, name: str) -> None:
        self._users[name] -= 1
        if self._users[name] > 0:
            return
        async with self._turn(name):
            if self._users[name] > 0:
                return
            del self._users[name]
            added = self._added.pop(name, None)
            if added is not None and await self._in_thread(added.remove):
                log.info("Deleted %s: no model is served from it any more, and it had been downloaded.", added.path)

    async def _open(self, url: str, name: str, *, s3_sse_kms: bool) -> Found:
        if not is_url(url):
            return await self._opened(url, await self._in_thread(self._located, url))
        if ".." in url or self._store.folder is None:
            return self._store.open(url)  # which refuses it
        if url[:7].lower() == "file://":
            path = await self._in_thread(self._allowed.local_path, url)
            if await self._in_thread(os.path.isdir, path):
                return await self._opened(url, path)
            return await self._kept(url, url, name, partial(self._file, url, path))
        web = self._allowed.web_url(url)
        return await self._kept(url, shown(web), name, partial(self._downloads.content, web, signed=s3_sse_kms))

    def _located(self, url: str) -> Path:
        """In the store by its name, else where an absolute path leads, if ``allowed_urls`` has that."""
        try:
            return self._store.locate(url)
        except ArchiveNotFound as error:
            if not url.startswith("/") or ".." in url or self._store.folder is None:
                raise
            with suppress(ArchiveNotFound, OSError):
                path = self._allowed.local_path(url)
                if path.is_dir() or path.is_file():
                    return path
            raise ArchiveNotFound(
                f"{error}. A path outside the model store can be loaded if allowed_urls matches file:// and that path."
            ) from None

    async def _kept(self, url: str, told: str, name: str, source: Source) -> Found:
        """``told``: the URL as it may stand in logs and errors."""
        folder = self._store.folder
        assert folder is not None
        if problem := _why_no_name(name):
            raise DownloadFailed(told, f"it is kept in the model store under its last part, which {problem}.")
        async with self._turn(name):
            part = PartFile(folder, name)
            try:
                with as_disk_problem(name, folder):
                    await self._in_thread(part.open)
                async with source() as content:
                    digest = await self._receive(content, told, part)
                archive = await self._opened(url, part.path)
                try:
                    if archive.digest != digest:
                        raise InvalidArchive(name, "was changed by somebody while it was being fetched.")
                    with as_disk_problem(name, folder):
                        added = await self._in_thread(part.publish, digest, told, self._store.interruption)
                except BaseException:
                    archive.close()
                    raise
            finally:
                await self._in_thread(part.close)
            if added:
                self._added[name] = AddedFile.at(folder / name)
        return archive

    async def _receive(self, content: Content, told: str, part: PartFile) -> str:
        """Returns the SHA-256 of what has come and is on the disk."""
        clock = asyncio.get_running_loop().time
        name, most = part.path.name, self._config.max_size
        if content.size is not None and content.size > most:
            raise _too_large(told, content.size, most)
        if content.size is not None:
            await self._in_thread(part.check_room, content.size)
        of_all = f" of {megabytes(content.size)}" if content.size is not None else ""
        log.info("Downloading %s from %s (%s).", name, told, of_all[4:] or "of unknown size")
        begun, tell_at = clock(), clock() + _PROGRESS_EVERY
        digest, received, waiting = hashlib.sha256(), 0, bytearray()
        async for piece in content.pieces:
            received += len(piece)
            if received > most:
                raise _too_large(told, received, most)
            waiting += piece
            if len(waiting) >= CHUNK:
                await self._in_thread(part.write, bytes(waiting), digest)
                waiting.clear()
            if clock() >= tell_at:
                log.info("Downloading %s: %s%s.", name, megabytes(received), of_all)
                tell_at = clock() + _PROGRESS_EVERY
        await self._in_thread(part.write, bytes(waiting), digest)
        await self._in_thread(part.finish)
        log.info(
            "Downloaded %s: %s in %.1f s, SHA-256 %s.", name, megabytes(received), clock() - begun, digest.hexdigest()
        )
        return digest.hexdigest()

    @asynccontextmanager
    async def _file(self, url: str, path: Path) -> AsyncIterator[Content]:
        """Another file of this machine. Its links have been followed before the place was checked, so none are now."""
        try:
            file = await self._in_thread(_opened_file, path)
        except OSError as error:
            raise DownloadFailed(url, f"{path} cannot be read ({error.strerror}).") from error
        with file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise DownloadFailed(url, f"{path} is not a file.")
            yield Content(status.st_size, self._pieces(file))

    async def _pieces(self, file: IO[bytes]) -> AsyncIterator[bytes]:
        while piece := await self._in_thread(file.read, CHUNK):
            yield piece

    async def _opened(self, url: str, path: Path) -> Found:
        """Unpacks it, in threads of our own: the loop's look up names, which must not wait for that.

        When nobody waits for it any more, it is interrupted, and what has come of it is closed.
        """
        given_up = _GivenUp(self._store.interruption)
        work = partial(self._store.interrupted_by(given_up).open_at, url, path)
        future = self._tracked(asyncio.get_running_loop().run_in_executor(self._unpacking, work))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            given_up.interrupt()
            future.add_done_callback(_close_unwanted)
            await asyncio.wait([future])
            raise

    async def _in_thread(self, work: Callable[..., T], *args: object) -> T:
        """A thread cannot be cancelled: it is waited for, so that nobody takes away what it works on."""
        future = self._tracked(asyncio.get_running_loop().run_in_executor(None, partial(work, *args)))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise

    def _tracked(self, future: asyncio.Future[T]) -> asyncio.Future[T]:
        self._blocking.add(future)
        future.add_done_callback(self._blocking.discard)
        return future

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        """Of two who register what has one name, the second waits, and then finds the file of the first."""
        lock = self._turns.setdefault(name, asyncio.Lock())
        async with lock:
            yield


class _GivenUp(Interruption):
    """Of one archive; the store's own counts as well."""

    def __init__(self, all_of_them: Interruption) -> None:
        super().__init__()
        self._all = all_of_them

    def check(self) -> None:
        self._all.check()
        super().check()


def _too_large(url: str, size: int, most: int) -> DownloadFailed:
    return DownloadFailed(url, f"it is larger than max_download_size={most} bytes ({size} or more).")


def _opened_file(path: Path) -> IO[bytes]:
    return open(
        os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
    )  # a pipe must not hold us


def _why_no_name(name: str) -> str:
    if not name:
        return "is empty"
    if name.startswith("."):
        return "begins with a dot"
    if len(os.fsencode(name)) > _LONGEST_NAME:
        return f"is longer than {_LONGEST_NAME} bytes"
    return "has characters that a file name should not have" if re.search(r"[\x00-\x1f\x7f-\x9f\\/]", name) else ""


def _close_unwanted(opened: asyncio.Future[Found]) -> None:
    if not opened.cancelled() and opened.exception() is None:
        opened.result().close()
