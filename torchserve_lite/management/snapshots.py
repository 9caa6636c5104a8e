"""Saves what is served, so that the next start can serve it again: TorchServe's snapshots.

A file is written under another name, and gets its own when it is complete and on the disk: whenever the server is
killed, the newest snapshot is a whole one. One task writes; what changes while it does is in the next file.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psutil

from torchserve_lite import __version__
from torchserve_lite.archive.store import is_url, last_part
from torchserve_lite.config.properties import properties_text
from torchserve_lite.config.settings import SnapshotConfig
from torchserve_lite.config.snapshots import WRITTEN_BY, snapshot_files, snapshot_name
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.engine.interface import Engine
from torchserve_lite.management.deployments import Deployment
from torchserve_lite.management.registry import ModelRegistry

_KEPT = 20  # snapshots, and the newest that a start has saved
_COMMENT = f"Snapshot of {WRITTEN_BY}"  # by which we know what we may delete
_UNFINISHED = re.compile(r"\.snapshot-(\d+)\.tmp", re.ASCII)
_WAITED = 5.0  # seconds that an answer waits for a disk that does not

log = logging.getLogger(__name__)

Models = dict[str, dict[str, dict[str, Any]]]


class Snapshots:
    """Use as an async context manager. Entered: each change that it is told of is saved. Left: the last state is.

    What cannot be written is one line in the log, and nobody's request fails for it.
    """

    def __init__(self, config: SnapshotConfig, registry: ModelRegistry, engine: Engine, shutdown: Shutdown) -> None:
        self._registry = registry
        self._engine = engine
        self._shutdown = shutdown
        self._folder = SnapshotFolder(config)
        self._told = 0  # changes
        self._saved = 0  # of them
        self._news = asyncio.Event()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._started = False
        self._stopping = False
        self._problem = ""

    async def __aenter__(self) -> Snapshots:
        self._task = asyncio.create_task(self._save_changes())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._stopping = True
        self._news.set()
        await asyncio.wait([self._task], timeout=min(_WAITED, max(1.0, self._shutdown.remaining())))
        self._task.cancel()  # of no effect, unless the disk does not answer
        await asyncio.gather(self._task, return_exceptions=True)

    def changed(self) -> None:
        """Something about what is served has changed."""
        self._told += 1
        self._news.set()

    async def written(self) -> None:
        """Returns when the changes so far are on the disk, or cannot get there: before a change is answered."""
        if self._saved >= self._told or self._task.done():
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append((self._told, waiter))
        with suppress(TimeoutError):
            await asyncio.wait_for(waiter, _WAITED)

    async def _save_changes(self) -> None:
        """Those that come while a file is written are together in the next one."""
        while not self._stopping:
            await self._news.wait()
            self._news.clear()
            if not self._stopping:
                await self._save("snapshot")
        await self._save("shutdown")

    async def _save(self, kind: str) -> None:
        if self._registry.opening and not self._registry.unopened:
            return  # the models that are to be served from the start are not known yet, and must not be forgotten
        if not self._started and not self._registry.opening and kind == "snapshot":
            self._started, kind = True, "startup"
        told = self._told
        try:
            await asyncio.to_thread(self._folder.write, kind, saved_models(self._registry, self._engine))
            problem = ""
        except OSError as error:
            problem = error.strerror or str(error)
        except Exception as error:  # one model that cannot be written must not end the task that owns the folder
            log.exception("What is served cannot be put into a snapshot")
            problem = self._problem or str(error)
        if problem and problem != self._problem:
            log.error(
                "Snapshots cannot be written into %s (%s): a restart will not know of changes since the last one. "
                "Serving goes on, and so do the attempts.",
                self._folder.path,
                problem,
            )
        elif self._problem and not problem:
            log.info("Snapshots are written into %s again.", self._folder.path)
        self._problem, self._saved = problem, told
        for change, waiter in self._waiting:
            if change <= told and not waiter.done():
                waiter.set_result(None)
        self._waiting = [(change, waiter) for change, waiter in self._waiting if not waiter.done()]


def saved_models(registry: ModelRegistry, engine: Engine) -> Models:
    """What is served, by name and version; and what was to be, when its archive cannot be opened at the moment."""
    missing_defaults = {one.name for one in registry.unopened if one.options.default_version}
    models: Models = {}
    for deployment in registry:
        if deployment.workflow:
            continue  # registered again with its workflow
        name, version = deployment.key
        is_default = registry.is_default(deployment) and name not in missing_defaults
        models.setdefault(name, {})[version] = _served(deployment, engine, is_default=is_default)
    for deployment in registry.unopened:
        versions = models.setdefault(deployment.name, {})
        file = last_part(deployment.options.url)
        version = deployment.options.version or "1.0"
        versions[file if version in versions else version] = _asked(deployment.options)
    return models


def _served(deployment: Deployment, engine: Engine, *, is_default: bool) -> dict[str, Any]:
    spec = deployment.spec
    status = engine.status(spec.key)
    workers = status.wanted if status.begun else deployment.initial_workers
    numbers = ServingOptions(
        min_workers=deployment.min_workers,
        max_workers=deployment.max_workers,
        workers=min(max(workers, deployment.min_workers), deployment.max_workers),
        batch_size=spec.batch.size,
        batch_delay=spec.batch.delay,
        response_timeout=spec.response_timeout,
        startup_timeout=spec.startup_timeout,
        parallel_level=spec.parallel_level or None,
        runtime=spec.runtime,
        handler=deployment.shown_options.handler,
        url=spec.archive_url,
    )
    return _fields(numbers, is_default=is_default)


def _asked(options: ServingOptions) -> dict[str, Any]:
    """Only what was said: the archive, once it is there, may say the rest."""
    fields = _fields(options, is_default=options.default_version)
    return fields if options.name else fields | {"nameFromArchive": True}


def _fields(options: ServingOptions, *, is_default: bool) -> dict[str, Any]:
    """TorchServe's fields, and below them what it loses. It takes whole numbers; a timeout that is none can only come
    from default_response_timeout or default_startup_timeout, which the snapshot has as well."""
    file, url = last_part(options.url), _without_secrets(options.url)
    delay = options.batch_delay
    fields = {
        "defaultVersion": is_default,
        "marName": file,
        "minWorkers": options.min_workers,
        "maxWorkers": options.max_workers,
        "batchSize": options.batch_size,
        "maxBatchDelay": None if delay is None else round(delay * 1000),
        "responseTimeout": _whole(options.response_timeout),
        "startupTimeout": _whole(options.startup_timeout),
        "runtimeType": options.runtime,
        "parallelLevel": options.parallel_level,
        "workers": options.workers if options.workers != options.min_workers else None,
        "handler": options.handler,
        "modelUrl": url if url != file else None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _whole(seconds: float | None) -> int | None:
    return None if seconds is None or seconds % 1 else int(seconds)


def _without_secrets(url: str) -> str:
    """A URL's user and query, which may be a password and a signature, are not kept: its file is in the store."""
    if not is_url(url):
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class SnapshotFolder:
    """The files. Its verbs block, and are called by one thread at a time."""

    def __init__(self, config: SnapshotConfig) -> None:
        self.path = config.folder
        self._properties = config.properties
        self._unfinished = self.path / f".snapshot-{os.getpid()}.tmp"
        self._swept = False
        self._last: tuple[Path, Models] | None = None
        self._foreign: set[Path] = set()  # named as ours are, but written by TorchServe

    def write(self, kind: str, models: Models) -> None:
        """Returns when the snapshot is on the disk. OSError when it cannot get there; nothing is left of it then."""
        if self._last is not None and kind == "snapshot":
            path, saved = self._last
            if saved == models and path.exists():
                return
        self.path.mkdir(parents=True, exist_ok=True)
        self._remove_unfinished()
        path = self.path / snapshot_name(self._next_time(), kind)
        try:
            with open(self._unfinished, "w", encoding="ascii") as file:
                file.write(properties_text(self._texts(path.name, models), _COMMENT))
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._unfinished, path)
        except BaseException:
            self._unfinished.unlink(missing_ok=True)
            raise
        self._last = (path, models)
        _flush_folder(self.path)
        self._remove_old()

    def _next_time(self) -> datetime:
        """Later than that of all there are: a clock may have been set back, and local time is once a year."""
        now = datetime.now()
        files = snapshot_files(self.path)
        return max(now, files[0].saved + timedelta(milliseconds=1)) if files else now

    def _texts(self, name: str, models: Models) -> Mapping[str, str]:
        count = sum(len(versions) for versions in models.values())
        snapshot = {"name": name, "modelCount": count, "created": int(time.time() * 1000), "models": models}
        # $$NAME$$ would be taken for a variable; a dollar sign can only be in a string, where JSON has another way.
        text = json.dumps(snapshot, indent=2).replace("$", "\\u0024")
        return {**self._properties, "version": f"{WRITTEN_BY} {__version__}", "model_snapshot": text}

    def _remove_unfinished(self) -> None:
        """Of servers that were killed."""
        if self._swept:
            return
        self._swept = True
        for path in self.path.iterdir():
            match = _UNFINISHED.fullmatch(path.name)
            if match and (path == self._unfinished or not psutil.pid_exists(int(match[1]))):
                path.unlink(missing_ok=True)

    def _remove_old(self) -> None:
        """Only what this program has written: TorchServe's are named in the same way, and somebody may return to it."""
        files = [file for file in snapshot_files(self.path) if file.path not in self._foreign]
        starts = [file for file in files if file.kind == "startup"]
        for file in files[_KEPT:]:
            if file in starts[:1]:
                continue
            with suppress(OSError), open(file.path, "rb") as opened:
                if _COMMENT.encode() in opened.readline(200):
                    file.path.unlink()
                else:
                    self._foreign.add(file.path)


def _flush_folder(path: Path) -> None:
    """So that the new name is on the disk too, where the system can be asked for it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
