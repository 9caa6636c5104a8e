"""The verbs that change and show what is served."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import psutil

from torchserve_lite.archive.dependencies import Environment, install
from torchserve_lite.archive.store import Archive, ModelStore
from torchserve_lite.config.settings import DownloadConfig, ModelsConfig, WorkerConfig
from torchserve_lite.core.models import ModelKey, ModelSpec, ModelStatus
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.progress import StartupProgress
from torchserve_lite.engine.interface import Engine, ModelFiles
from torchserve_lite.errors import Conflict, ModelNotFound, ModelNotRegistered, NoRoom, ServingError, WorkerFailure
from torchserve_lite.management.fetching import ArchiveFetcher
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.management.specs import build_spec, features_to_come, file_stem, model_key

T = TypeVar("T")

_INTERRUPTED_WITHIN = 5.0  # seconds; a disk that does not answer must not hold up the stop

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """All that management shows of a model version. Lists run beside ``status.workers``; memory is in bytes."""

    spec: ModelSpec
    status: ModelStatus
    min_workers: int
    max_workers: int
    start_times: Sequence[str]
    memory: Sequence[int]


class UnpackedModels:
    """Where each served version lies unpacked on this machine, and what runs it."""

    def __init__(self) -> None:
        self._unpacked: dict[tuple[ModelKey, int], tuple[Archive, Environment | None]] = {}

    def add(self, spec: ModelSpec, archive: Archive, environment: Environment | None) -> None:
        self._unpacked[spec.key, spec.generation] = (archive, environment)

    def remove(self, spec: ModelSpec) -> None:
        """Of a generation that has no workers any more."""
        archive, _ = self._unpacked.pop((spec.key, spec.generation))
        archive.close()

    def locate(self, spec: ModelSpec) -> ModelFiles:
        archive, environment = self._unpacked[spec.key, spec.generation]
        if environment is None:
            return ModelFiles(str(archive.path))
        return ModelFiles(str(archive.path), environment.python, environment.python_path)

    def close(self) -> None:
        for archive, _ in self._unpacked.values():
            archive.close()
        self._unpacked.clear()


class ModelManager:
    """Registers models from the store, scales and describes them. Use as an async context manager."""

    def __init__(
        self,
        engine: Engine,
        store: ModelStore,
        registry: ModelRegistry,
        unpacked: UnpackedModels,
        workers: WorkerConfig,
        *,
        default_workers: int,
        environments: Path,
        downloads: DownloadConfig | None = None,
    ) -> None:
        """``environments``: the folder that virtual environments of models are kept in, over restarts."""
        self.registry = registry
        self.failed: dict[str, str] = {}  # models that were to be served and could not be registered: name -> cause
        self.opening = True  # until every model that is served from the start has been registered or has failed
        self._engine = engine
        self._store = store
        self._fetcher = ArchiveFetcher(store, downloads)
        self._unpacked = unpacked
        self._workers = workers
        self._default_workers = default_workers
        self._environments = environments
        self._scaled: dict[ModelKey, tuple[int, int]] = {}
        self._asked: dict[ModelKey, tuple[ServingOptions, ServingOptions | None]] = {}  # as asked for, and its override
        self._background = asyncio.TaskGroup()
        self._scaling: set[asyncio.Task[None]] = set()
        self._blocking: set[asyncio.Future[Any]] = set()

    async def __aenter__(self) -> ModelManager:
        await self._fetcher.__aenter__()
        await self._background.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._store.interruption.interrupt()
        for task in self._scaling:
            task.cancel()
        await self._background.__aexit__(None, None, None)
        if self._blocking:  # whoever waited for them may have been cancelled; what they unpack is removed after us
            await asyncio.wait(self._blocking, timeout=_INTERRUPTED_WITHIN)
        await self._fetcher.__aexit__()

    async def _in_thread(self, work: Callable[..., T], *args: object, **options: object) -> T:
        """What blocks, and is interrupted when we are left."""
        future = asyncio.get_running_loop().run_in_executor(None, partial(work, *args, **options))
        self._blocking.add(future)
        future.add_done_callback(self._blocking.discard)
        return await asyncio.shield(future)

    async def load_initial_models(self, config: ModelsConfig, progress: StartupProgress) -> None:
        """Every model on its own: one that fails is told, and the others are served."""
        wanted = list(config.startup)
        if config.load_all:
            manifest_needed = not self._workers.service_handler
            names = await self._in_thread(self._store.all_archives, manifest_needed=manifest_needed)
            wanted = [ServingOptions(url=name) for name in names]
        progress.loading([_asked_as(model) for model in wanted])
        archives = await asyncio.gather(*(self._open(model) for model in wanted))
        for index, archive in enumerate(archives):
            if isinstance(archive, NoRoom):  # one that never fits took the room of others, which is free again
                archives[index] = await self._open(wanted[index])
        # One after the other, in the order they were asked for: of two with one name and version the first is served.
        opened = [await self._register(*pair, config, progress) for pair in zip(wanted, archives, strict=True)]
        self.opening = False
        await asyncio.gather(*(self._start(spec, progress) for spec in opened if spec is not None))

    async def _open(self, wanted: ServingOptions) -> Archive | ServingError:
        try:
            return await self._fetcher.open(wanted.url, s3_sse_kms=wanted.s3_sse_kms)
        except ServingError as error:
            return error

    async def _register(
        self, wanted: ServingOptions, archive: Archive | ServingError, config: ModelsConfig, progress: StartupProgress
    ) -> ModelSpec | None:
        """Puts its spec into the registry, so that all specs are known before workers share the cores."""
        name = _asked_as(wanted)
        try:
            if isinstance(archive, ServingError):
                raise archive
            return await self._adopt(archive, wanted, config)
        except ServingError as error:
            if isinstance(archive, Archive) and model_key(archive, wanted).name not in self.registry.names():
                name = model_key(archive, wanted).name  # its clients ask for it by this one
            self.failed[name] = str(error)
            log.error("Model %s cannot be served: %s", name, error)
            progress.model_failed(name, str(error))
            return None

    async def _adopt(self, archive: Archive, wanted: ServingOptions, config: ModelsConfig) -> ModelSpec:
        try:
            key = model_key(archive, wanted)
            override = config.overrides.get((key.name, key.version))
            spec, environment = await self._prepared(archive, wanted, override)
            self.registry.add(spec, default=wanted.default_version)
        except BaseException:
            await self._fetcher.remove(archive)
            raise
        self._asked[spec.key] = (wanted, override)
        self._unpacked.add(spec, archive, environment)
        return spec

    async def _prepared(
        self, archive: Archive, wanted: ServingOptions, override: ServingOptions | None
    ) -> tuple[ModelSpec, Environment | None]:
        """The archive's spec, and its own packages where the operator allows their installation."""
        for warning in (*archive.warnings, *features_to_come(archive.config)):
            log.warning("%s: %s", archive.url, warning)
        spec = build_spec(archive, wanted, override, self._workers, self._default_workers)
        if not self._workers.install_dependencies or not archive.manifest.requirements_file:
            return spec, None  # a virtual environment without packages would equal the interpreter it is made from
        python, cache, interruption = self._workers.python, self._environments, self._store.interruption
        return spec, await self._in_thread(install, archive, python=python, cache=cache, interruption=interruption)

    async def reload_changed(self, names: Collection[str]) -> None:
        """Reloads the models whose archive is one of these files or folders of the store."""
        for spec in list(self.registry):
            if Path(spec.archive_url).name in names:
                await self._reload(spec)

    async def _reload(self, old: ModelSpec) -> None:
        """The old workers serve on until the new ones are ready; when those cannot load, the old ones stay."""
        try:
            archive = await self._fetcher.reopen(old.archive_url)
        except ServingError as error:
            log.error("Model %s has changed but cannot be read; the old one is served on. %s", old.key, error)
            return
        try:
            await self._swap(old, archive)
        except ServingError as error:
            archive.close()
            log.error("Model %s has changed but does not load; the old one is served on. %s", old.key, error)

    async def _swap(self, old: ModelSpec, archive: Archive) -> None:
        spec, environment = await self._prepared(archive, *self._asked[old.key])
        if spec.key != old.key:
            raise Conflict(f"Its manifest now says {spec.key}, which is another model: restart to serve it.")
        spec = replace(spec, generation=old.generation + 1)
        self._unpacked.add(spec, archive, environment)
        try:
            await self._engine.load(spec, self._engine.status(old.key).wanted)
        except ServingError:
            self._unpacked.remove(spec)
            raise
        self.registry.replace(spec)
        self._unpacked.remove(old)
        log.info("Model %s has changed and is reloaded (generation %d).", spec.key, spec.generation)

    async def _start(self, spec: ModelSpec, progress: StartupProgress) -> None:
        begun = time.monotonic()
        self._scaled[spec.key] = (spec.min_workers, spec.max_workers)
        try:
            await self._engine.load(spec, spec.min_workers)
        except ServingError as error:
            if not isinstance(error, WorkerFailure):  # what its workers have to say is in its status
                self.failed[spec.key.name] = str(error)
            progress.model_failed(spec.key.name, str(error))
        else:
            progress.model_ready(spec.key.name, spec.key.version, spec.min_workers, time.monotonic() - begun)

    def list_models(self) -> list[tuple[str, str]]:
        """Name and archive URL of each default version, by name."""
        return [(spec.key.name, spec.archive_url) for spec in self.registry.defaults()]

    async def scale(self, name: str, version: str | None, low: int, high: int) -> int:
        """Brings the workers between ``low`` and ``high``; returns how many there are. LoadFailed when one cannot."""
        key = self._resolve(name, version).key
        wanted = self._engine.status(key).wanted
        self._scaled[key] = (low, high)
        wanted = min(max(wanted, low), high)
        await self._engine.scale(key, wanted)
        return wanted

    def scale_in_background(self, name: str, version: str | None, low: int, high: int) -> None:
        self._resolve(name, version)
        task = self._background.create_task(self._scale_and_report(name, version, low, high))
        self._scaling.add(task)
        task.add_done_callback(self._scaling.discard)

    async def _scale_and_report(self, name: str, version: str | None, low: int, high: int) -> None:
        try:
            await self.scale(name, version, low, high)
        except ServingError as error:
            log.error("Scaling model %s to %d workers failed: %s", name, low, error)

    async def describe(self, name: str, version: str | None) -> list[ModelDescription]:
        """``version`` may be ``all``."""
        spec = self._resolve(name, None if version == "all" else version)
        specs = self.registry.versions(name) if version == "all" else [spec]
        descriptions = []
        for spec in specs:
            status = self._engine.status(spec.key)
            low, high = self._scaled.get(spec.key, (spec.min_workers, spec.max_workers))
            description = ModelDescription(
                spec=spec,
                status=status,
                min_workers=low,
                max_workers=high,
                start_times=[_local_time(worker.started) for worker in status.workers],
                memory=[_resident(worker.pid) for worker in status.workers],
            )
            descriptions.append(description)
        return descriptions

    def _resolve(self, name: str, version: str | None) -> ModelSpec:
        """Where something is wrong with the model itself, that is told."""
        failure = self.failed.get(name)
        try:
            spec = self.registry.resolve(name, version)
        except ModelNotFound:
            if failure is None:
                raise
            raise ModelNotRegistered(name, failure) from None
        if failure is not None and not self._engine.status(spec.key).begun:
            raise ModelNotRegistered(name, failure)
        return spec


def _asked_as(wanted: ServingOptions) -> str:
    """What to call a model before its archive has been opened."""
    return wanted.name or file_stem(wanted.url)


def _local_time(seconds: float) -> str:
    """Local time with a literal Z, as TorchServe writes it."""
    fraction = int(seconds % 1 * 1000)
    return time.strftime(f"%Y-%m-%dT%H:%M:%S.{fraction:03d}Z", time.localtime(seconds))


def _resident(pid: int | None) -> int:
    """Resident bytes of a process; 0 when there is none."""
    try:
        return psutil.Process(pid).memory_info().rss if pid is not None else 0
    except psutil.Error:
        return 0
