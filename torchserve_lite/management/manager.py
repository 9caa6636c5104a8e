"""The verbs that change and show what is served."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import psutil

from torchserve_lite.archive.dependencies import install
from torchserve_lite.archive.store import Archive, ModelStore, last_part
from torchserve_lite.config.settings import DownloadConfig, ModelsConfig, WorkerConfig
from torchserve_lite.core.models import ModelSpec, ModelStatus
from torchserve_lite.core.options import ServingOptions
from torchserve_lite.core.progress import StartupProgress
from torchserve_lite.engine.interface import Engine
from torchserve_lite.errors import (
    Conflict,
    DrainTimeout,
    LoadFailed,
    LoadOutOfMemory,
    ModelNotFound,
    ModelNotRegistered,
    NoRoom,
    ServingError,
    UnregisteredMeanwhile,
    WorkerFailure,
)
from torchserve_lite.management.deployments import Deployment, DeploymentState, Revision
from torchserve_lite.management.fetching import ArchiveFetcher
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.management.samples import sample_request
from torchserve_lite.management.specs import build_spec, features_to_come, file_stem, model_key
from torchserve_lite.management.turns import Turns

T = TypeVar("T")

# What the log says when a change fails: of which model, and why.
_NOT_LOADED = "Loading model %s failed: %s"
_NOT_SCALED = "Scaling model %s failed: %s"
_NOT_UPDATED = "Updating model %s failed, and what was served is served on: %s"
_NOT_ROLLED_BACK = "Rolling model %s back failed, and what was served is served on: %s"
_NOT_ADJUSTED = "Autoscaling model %s failed: %s"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription:
    """All that management shows of a model version. Lists run beside ``status.workers``; memory is in bytes."""

    spec: ModelSpec
    status: ModelStatus
    min_workers: int
    max_workers: int
    is_default: bool = False
    start_times: Sequence[str]
    memory: Sequence[int]


class ModelManager:
    """Registers, scales, updates, unregisters and describes models. Use as an async context manager.

    Changes of one deployment take turns; those of different ones do not wait for one another. A change that has begun
    goes on when whoever asked for it has gone. ``changed`` is called after each of them, and ``recorded`` is waited for
    before it is answered.
    """

    def __init__(
        self,
        engine: Engine,
        store: ModelStore,
        registry: ModelRegistry,
        workers: WorkerConfig,
        *,
        default_workers: int,
        environments: Path,
        downloads: DownloadConfig | None = None,
    ) -> None:
        """``environments``: the folder that virtual environments of models are kept in, over restarts."""
        self.registry = registry
        registry.opening = True
        self.changed: list[Callable[[], None]] = []
        self.recorded: Callable[[], Awaitable[None]] = _at_once
        self._engine = engine
        self._store = store
        self._fetcher: ArchiveFetcher[Archive] = ArchiveFetcher(store, downloads)
        self._workers = workers
        self.default_workers = default_workers
        self._environments = environments
        self._overrides = ModelsConfig().overrides
        self._generations = itertools.count()
        self._turns = Turns()

    async def __aenter__(self) -> ModelManager:
        await self._fetcher.__aenter__()
        await self._turns.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._store.interruption.interrupt()
        await self._turns.__aexit__(*exc_info)
        await self._fetcher.__aexit__()

    async def load_initial_models(self, config: ModelsConfig, progress: StartupProgress) -> None:
        """Every model on its own: one that fails is told, and the others are served."""
        self._overrides = config.overrides
        wanted = list(config.startup)
        if config.load_all:
            manifest_needed = not self._workers.service_handler
            names = await self._turns.in_thread(self._store.all_archives, manifest_needed=manifest_needed)
            wanted = [ServingOptions(url=name) for name in names]
        deployments = [Deployment(name=_asked_as(options), options=options) for options in wanted]
        for deployment in deployments:
            await deployment.lock.acquire()  # until it serves, or has failed: whoever wants to change it waits
        self.registry.unopened += deployments
        progress.loading([deployment.name for deployment in deployments])
        archives = await asyncio.gather(*(self._open_or_tell(options) for options in wanted))
        for index, archive in enumerate(archives):
            if isinstance(archive, NoRoom):  # one that never fits took the room of others, which is free again
                archives[index] = await self._open_or_tell(wanted[index])
        # One after the other, in the order they were asked for: of two with one name and version the first is served.
        # All specs are known before workers share the cores.
        for deployment, archive in zip(deployments, archives, strict=True):
            await self._adopt_initial(deployment, archive, progress)
        self.registry.opening = False
        self._tell_change()
        await asyncio.gather(*(self._serve_initial(one, progress) for one in deployments if one.revision is not None))

    async def _open_or_tell(self, wanted: ServingOptions) -> Archive | ServingError:
        try:
            if wanted.loaded_at_startup is False:  # of a snapshot: what was downloaded then is in the store
                return await self._fetcher.reopen(wanted.url)
            return await self._open(wanted)
        except ServingError as error:
            return error

    async def _adopt_initial(
        self, deployment: Deployment, archive: Archive | ServingError, progress: StartupProgress
    ) -> None:
        try:
            if isinstance(archive, ServingError):
                raise archive
            key = model_key(archive, deployment.options)
            if not self.registry.versions(key.name):
                deployment.name = key.name  # its clients ask for it by this one
            if deployment.options.version not in (None, key.version):
                log.warning(
                    "The snapshot has version %s of model %s; its archive %s is version %s now, and is served as that.",
                    deployment.options.version,
                    key.name,
                    archive.name,
                    key.version,
                )
            await self._adopt(deployment, await self._prepared(archive, deployment.options))
        except ServingError as error:
            deployment.failed(error)
            deployment.lock.release()
            log.error("Model %s cannot be served: %s", deployment.name, error)
            progress.model_failed(deployment.name, str(error))

    async def _serve_initial(self, deployment: Deployment, progress: StartupProgress) -> None:
        name, version = deployment.key
        begun = time.monotonic()
        workers = deployment.initial_workers
        deployment.work = cast("asyncio.Task[None]", asyncio.current_task())
        try:
            if deployment.is_draining:
                raise UnregisteredMeanwhile(name)
            await self._load(deployment)
        except ServingError as error:
            progress.model_failed(name, str(error))
        except asyncio.CancelledError:
            if not deployment.is_draining:
                raise
            progress.model_failed(name, str(UnregisteredMeanwhile(name)))
        else:
            progress.model_ready(name, version, workers, time.monotonic() - begun)
        finally:
            deployment.work = None
            deployment.lock.release()

    async def register_pulled(self, name: str) -> Deployment:
        """Serves what KServe's agent has pulled under this name, with the workers that a model gets at the start of the
        server. ModelNotFound."""
        path = await self._turns.in_thread(self._store.locate_pulled, name)
        if path is None:
            raise ModelNotFound(name)
        archive = await self._fetcher.open_pulled(path)
        return await self.register(ServingOptions(url=path.name, name=name), archive=archive, with_workers=True)

    async def archives_in_store(self) -> dict[str, str]:
        """The names of the store's archives, by the names of the models that they would be."""
        names = await self._turns.in_thread(self._store.archives, manifest_needed=not self._workers.service_handler)
        return {file_stem(name): name for name in names}

    async def register(
        self,
        wanted: ServingOptions,
        *,
        synchronous: bool = True,
        archive: Archive | None = None,
        with_workers: bool = False,
    ) -> Deployment:
        """Serves another model version, with ``wanted.min_workers`` workers if its archive does not say how many.
        ``with_workers``: where nobody says it, as many as a model gets at the start of the server.

        Raises what opening its archive raises; Conflict when that version is registered. ``synchronous``: returns when
        its workers are ready, or raises LoadFailed, and it is not registered. Otherwise it stays registered whatever
        comes of its workers, and is tried again as at the start of the server. ``archive``: one that is open already,
        and comes from no store.
        """
        archive = archive or await self._open(wanted)
        wanted = replace(wanted, loaded_at_startup=False)
        default_workers = self.default_workers if with_workers else self._workers.workers_per_model
        revision = await self._prepared(archive, wanted, default_workers)
        deployment = Deployment(name=revision.spec.key.name, options=wanted)
        await self._adopt(deployment, revision)
        self.registry.dismiss(deployment.name)
        origin = revision.archive.name or f"workflow {wanted.workflow}"
        log.info("Model %s is registered from %s.", deployment.key, origin)
        if not synchronous:
            self._turns.in_background(deployment, partial(self._load, deployment), _NOT_LOADED)
            self._tell_change()
            await self.recorded()
            return deployment
        await self._turns.owned(self._load_or_withdraw(deployment))
        await self.recorded()
        return deployment

    async def _load_or_withdraw(self, deployment: Deployment) -> None:
        """What cannot be served is as if it had never been registered."""
        name, version = deployment.key
        try:
            await self._turns.take(deployment, partial(self._load, deployment))
        except ServingError as error:
            if not deployment.is_draining:  # else somebody has unregistered it meanwhile
                log.error("Model %s is not registered, because it does not load: %s", deployment.key, error)
                self.registry.remove(deployment, even_the_default=True)
                self._tell_change()
                await self._discard(deployment)
            if not isinstance(error, WorkerFailure):
                raise
            kind = LoadOutOfMemory if isinstance(error, LoadOutOfMemory) else LoadFailed
            raise kind(f"Failed to start workers for model {name} version: {version}. {error}") from error

    async def unregister(self, name: str, version: str | None = None) -> None:
        """Returns when the last of its requests has been answered and its workers have gone. DrainTimeout when they had
        to be ended; DefaultVersionKept. One that could not be served from the start is no longer told of."""
        try:
            deployment = self.registry.resolve(name, version)
        except ModelNotRegistered:
            self.registry.dismiss(name)
            self._tell_change()
            await self.recorded()
            return
        self.registry.remove(deployment)  # ModelLoading while its archive is still being opened
        self._tell_change()
        log.info("Model %s is unregistered.", deployment.key)
        if deployment.work is not None:
            deployment.work.cancel()
        await self._turns.owned(self._discard(deployment))
        await self.recorded()

    async def _discard(self, deployment: Deployment) -> None:
        try:
            await self._end(deployment)
        finally:
            await self._remove_archives(deployment)

    async def _end(self, deployment: Deployment) -> None:
        """Of one that has been removed from the registry."""
        async with deployment.lock:
            try:
                if self._engine.status(deployment.key).begun:
                    await self._engine.unload(deployment.key, self._workers.unregister_timeout)
            finally:
                self.registry.forget(deployment)

    async def set_default(self, name: str, version: str) -> None:
        """Requests that have been accepted are answered by the version that was the default then, and those that come
        while the new one loads as well: it becomes the default when it has loaded or its load has failed."""
        found = [one for one in self.registry.versions(name) if one.key.version == version]
        if found and found[0].state is DeploymentState.LOADING:
            with suppress(ServingError):  # it has been withdrawn meanwhile, or unregistered: the registry says so
                await self._turns.in_turn(found[0], _at_once)
        self.registry.set_default(name, version)
        log.info("Version %s is the default of model %s.", version, name)
        self._tell_change()
        await self.recorded()

    async def scale(self, name: str, version: str | None, low: int, high: int) -> int:
        """Brings the workers between ``low`` and ``high``; returns how many there are. LoadFailed when one cannot."""
        deployment = self.registry.resolve(name, version)
        workers = await self._turns.in_turn(deployment, partial(self._scale, deployment, low, high), _NOT_SCALED)
        await self.recorded()
        return workers

    def scale_in_background(self, name: str, version: str | None, low: int, high: int) -> None:
        deployment = self.registry.resolve(name, version)
        self._turns.in_background(deployment, partial(self._scale, deployment, low, high), _NOT_SCALED)

    async def _scale(self, deployment: Deployment, low: int, high: int) -> int:
        workers = min(max(self._engine.status(deployment.key).wanted, low), high)
        deployment.min_workers, deployment.max_workers = low, high
        self._tell_change()
        await self._engine.scale(deployment.key, workers)
        return workers

    def adjust_in_background(
        self, deployment: Deployment, workers: int, told: Callable[[Deployment, bool], None]
    ) -> None:
        """Another number of workers within the bounds, for the load's sake. ``told``: whether that failed; there are as
        many as before then."""

        async def adjust() -> None:
            before = self._engine.status(deployment.key).wanted
            within = min(max(workers, deployment.min_workers), deployment.max_workers)
            try:
                await self._engine.scale(deployment.key, within)
            except ServingError:
                told(deployment, True)
                await self._engine.scale(deployment.key, min(before, within))
                raise
            told(deployment, False)

        self._turns.in_background(deployment, adjust, _NOT_ADJUSTED)

    async def update(self, name: str, version: str | None, wanted: ServingOptions) -> Deployment:
        """Serves ``wanted.url`` in the place of a version, without a moment in which there is nobody to answer.

        The new workers are loaded beside the old, and have answered the archive's sample request if it has one, before
        requests go to them; the old ones answer what they have, and are kept for ``rollback``. On any error the old
        ones serve on. An archive of another version takes the old one's place under its own.
        """
        deployment = self.registry.resolve(name, version)
        updated = await self._turns.in_turn(deployment, partial(self._update, deployment, wanted), _NOT_UPDATED)
        await self.recorded()
        return updated

    def update_in_background(self, name: str, version: str | None, wanted: ServingOptions) -> None:
        deployment = self.registry.resolve(name, version)
        self._turns.in_background(deployment, partial(self._update, deployment, wanted), _NOT_UPDATED)

    async def _update(self, deployment: Deployment, wanted: ServingOptions) -> Deployment:
        options = replace(wanted, name=deployment.spec.key.name).over(deployment.shown_options)
        return await self._switch(deployment, await self._prepared(await self._open(options), options))

    async def rollback(self, name: str, version: str | None) -> Deployment:
        """Serves what was served before the last update, in the same way. Conflict when there is none."""
        deployment = self.registry.resolve(name, version)
        returned = await self._turns.in_turn(deployment, partial(self._roll_back, deployment), _NOT_ROLLED_BACK)
        await self.recorded()
        return returned

    async def _roll_back(self, deployment: Deployment) -> Deployment:
        previous, deployment.previous = deployment.previous, None
        if previous is None:
            raise Conflict(
                f"Model {deployment.key} has not been updated since it was registered or rolled back, or was served "
                "from a folder: there is nothing to go back to."
            )
        again = replace(previous, spec=replace(previous.spec, generation=next(self._generations)))
        try:
            return await self._switch(deployment, again, remove_if_failed=False)
        except UnregisteredMeanwhile:  # and its archive with it
            raise
        except BaseException:
            deployment.previous = previous
            raise

    async def _switch(self, deployment: Deployment, revision: Revision, *, remove_if_failed: bool = True) -> Deployment:
        """Loads another revision beside the one that is served, and lets it take over."""
        workers = self._engine.status(deployment.key).wanted
        try:
            if revision.spec.key != deployment.key:
                return await self._succeed(deployment, revision, workers)
            deployment.candidate = revision
            await self._engine.load(revision.spec, workers, sample_request(revision.archive, revision.spec.key))
        except UnregisteredMeanwhile:
            raise
        except BaseException:
            deployment.candidate = None
            if remove_if_failed:
                await self._fetcher.remove(revision.archive)
            raise
        deployment.work = None  # it ends soon: whoever unregisters it now waits for that
        served, deployment.revision, deployment.candidate = deployment.revision, revision, None
        await self._keep_for_rollback(deployment, served)
        log.info("Model %s is served from %s now.", deployment.key, revision.archive.name)
        self._tell_change()
        return deployment

    async def _succeed(self, deployment: Deployment, revision: Revision, workers: int) -> Deployment:
        """The new revision is of another version, which is served under its own name; then the old version ends."""
        successor = Deployment(name=deployment.name, options=deployment.options, revision=revision)
        successor.min_workers, successor.max_workers = deployment.min_workers, deployment.max_workers
        successor.state = DeploymentState.LOADING
        self.registry.add(successor)
        try:
            async with successor.lock:
                successor.work = deployment.work  # whoever unregisters either of them ends the update
                await self._engine.load(revision.spec, workers, sample_request(revision.archive, revision.spec.key))
                successor.work, successor.state = None, DeploymentState.SERVING
        except BaseException:
            if successor.is_draining:  # whoever unregistered it removes its archive
                raise UnregisteredMeanwhile(str(successor.key)) from None
            self.registry.remove(successor, even_the_default=True)
            await self._end(successor)
            raise
        if self.registry.is_default(deployment):
            self.registry.set_default(*successor.key)
        self.registry.remove(deployment)
        log.info("Model %s takes the place of %s.", successor.key, deployment.key)
        self._tell_change()
        try:
            await self._engine.unload(deployment.key, self._workers.unregister_timeout)
        except DrainTimeout as error:
            log.error("%s", error)
        finally:
            self.registry.forget(deployment)
            if successor.revision is revision:  # else that has been updated or unregistered meanwhile
                await self._keep_for_rollback(successor, deployment.take_revision())
            await self._remove_archives(deployment)
        return successor

    async def _keep_for_rollback(self, deployment: Deployment, served: Revision | None) -> None:
        """In the place of what was kept before. Not what is served from a folder: its content has changed by now."""
        dropped, deployment.previous = deployment.previous, served
        if served is not None and served.archive.is_folder:
            deployment.previous = None
            await self._fetcher.remove(served.archive)
        if dropped is not None:
            await self._fetcher.remove(dropped.archive)

    async def _remove_archives(self, deployment: Deployment) -> None:
        """Of one that is served no more."""
        revisions = deployment.revisions
        deployment.take_revision()
        deployment.previous = deployment.candidate = None
        for revision in revisions:
            await self._fetcher.remove(revision.archive)

    async def reload_changed(self, names: Collection[str]) -> None:
        """Reloads the models whose archive is one of these files or folders of the store, and serves those that could
        not even be opened at the start of the server."""
        for unopened in [one for one in self.registry.unopened if one.failure is not None]:
            if last_part(unopened.options.url) not in names:
                continue
            try:
                deployment = await self.register(unopened.options, with_workers=True)
            except ServingError as error:
                log.error("Model %s has changed but cannot be served: %s", unopened.name, error)
            else:
                self.registry.dismiss(unopened.name)
                log.info("Model %s has changed and is served now.", deployment.key, extra={"is_awaited": True})
        for deployment in list(self.registry):
            if last_part(deployment.spec.archive_url) not in names:
                continue
            try:
                await self._turns.in_turn(deployment, partial(self._reload, deployment))
            except ServingError as error:
                log.error(
                    "Model %s has changed but does not load; the old one is served on. %s", deployment.name, error
                )

    async def _reload(self, deployment: Deployment) -> None:
        options = deployment.shown_options
        archive = await self._fetcher.reopen(deployment.spec.archive_url)
        if archive.digest and deployment.revision and archive.digest == deployment.revision.archive.digest:
            await self._fetcher.remove(archive)  # it has only been written: fetching it does that
            return
        revision = await self._prepared(archive, options)
        if revision.spec.key != deployment.key:
            await self._fetcher.remove(archive)
            raise Conflict(
                f"Its manifest now says {revision.spec.key}, which is another model: update or register it to serve it."
            )
        await self._switch(deployment, revision)
        told = "Model %s has changed and is reloaded (generation %d)."
        log.info(told, deployment.key, revision.spec.generation, extra={"is_awaited": True})

    def list_models(self) -> list[tuple[str, str]]:
        """Name and archive URL of each default version, by name."""
        found = [(deployment.name, deployment.spec.archive_url) for deployment in self.registry.defaults()]
        return [(name, url) for name, url in found if url]  # functions of workflows have none

    async def describe(self, name: str, version: str | None) -> list[ModelDescription]:
        """``version`` may be ``all``."""
        opened = self.registry.versions(name) if version == "all" else []
        asked = opened or [self.registry.resolve(name, None if version == "all" else version)]
        descriptions = []
        for deployment in asked:
            spec = deployment.spec
            status = self._engine.status(spec.key)
            if deployment.state is DeploymentState.FAILED and not status.begun:
                raise deployment.refusal()
            description = ModelDescription(
                spec=spec,
                status=status,
                min_workers=deployment.min_workers,
                max_workers=deployment.max_workers,
                is_default=self.registry.is_default(deployment),
                start_times=[_local_time(worker.started) for worker in status.workers],
                memory=[_resident(worker.pid) for worker in status.workers],
            )
            descriptions.append(description)
        return descriptions

    async def _open(self, wanted: ServingOptions) -> Archive:
        return await self._fetcher.open(wanted.url, s3_sse_kms=wanted.s3_sse_kms)

    async def _prepared(self, archive: Archive, wanted: ServingOptions, default_workers: int | None = None) -> Revision:
        """What the archive says, and its own packages where the operator allows their installation.

        ``default_workers``: how many there are when nobody says it. The archive is closed when it cannot be served.
        """
        try:
            for warning in (*archive.warnings, *features_to_come(archive.config)):
                log.warning("%s: %s", archive.name, warning)
            fewest = self.default_workers if default_workers is None else default_workers
            override = self._overrides.get(model_key(archive, wanted))
            spec = build_spec(archive, wanted, override, self._workers, fewest)
            spec = replace(spec, generation=next(self._generations))
            if not self._workers.install_dependencies or not archive.manifest.requirements_file:
                # A virtual environment without packages would equal the interpreter it is made from.
                return Revision(spec=spec, options=wanted, archive=archive)
            python, cache, interruption = self._workers.python, self._environments, self._store.interruption
            environment = await self._turns.in_thread(
                install, archive, python=python, cache=cache, interruption=interruption
            )
            return Revision(spec=spec, options=wanted, archive=archive, environment=environment)
        except BaseException:
            await self._fetcher.remove(archive)
            raise

    async def _adopt(self, deployment: Deployment, revision: Revision) -> None:
        """Puts it into the registry. Conflict when its version is there; its archive is removed then."""
        deployment.revision = revision
        try:
            self.registry.add(deployment, default=deployment.options.default_version)
        except ServingError:
            deployment.revision = None
            await self._fetcher.remove(revision.archive)
            raise
        deployment.name = revision.spec.key.name
        deployment.min_workers, deployment.max_workers = revision.spec.min_workers, revision.spec.max_workers
        deployment.state = DeploymentState.LOADING

    async def _load(self, deployment: Deployment) -> None:
        """Of one that is in the registry and has no workers yet."""
        try:
            await self._engine.load(deployment.spec, deployment.initial_workers)
        except WorkerFailure:
            deployment.state = DeploymentState.SERVING  # the engine tries again; its status says what the matter is
            raise
        except ServingError as error:
            deployment.failed(error)
            raise
        else:
            deployment.state = DeploymentState.SERVING
        finally:
            self._tell_change()

    def _tell_change(self) -> None:
        for tell in self.changed:
            tell()


async def _at_once() -> None:
    """Where there is nothing to wait for, or no more than one's turn."""


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
