"""Opens every part of the server in order; closes them in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import psutil

from torchserve_lite.archive.store import ModelStore
from torchserve_lite.archive.unpacking.cache import ArchiveCache
from torchserve_lite.config.console import why_closed
from torchserve_lite.config.descriptors import raise_descriptor_limit
from torchserve_lite.config.settings import Config, LogConfig, ModelsConfig, TracingConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.memory import keep_freed
from torchserve_lite.core.models import ModelKey, ModelSpec, ModelStatus
from torchserve_lite.core.progress import StartupProgress
from torchserve_lite.core.shutdown import Shutdown
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.dataplane.local import LocalDataPlane
from torchserve_lite.engine.affinity import WorkerAffinity, cores_to_share_out
from torchserve_lite.engine.devices import Devices, count_gpus, usable_cores
from torchserve_lite.engine.interface import EngineEvents, Release
from torchserve_lite.engine.local import LocalEngine
from torchserve_lite.errors import ConfigurationError, WorkerFailure
from torchserve_lite.ipc.messages import BatchDone, Metric
from torchserve_lite.ipc.preloading import start_preloading
from torchserve_lite.ipc.slabs import slabs
from torchserve_lite.logs import access_lines, logging_to
from torchserve_lite.management.access import KEY_FILE, Access
from torchserve_lite.management.autoscaler import Autoscaler
from torchserve_lite.management.fetching import ArchiveFetcher
from torchserve_lite.management.manager import ModelManager
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.management.snapshots import Snapshots
from torchserve_lite.management.watching import reload_on_changes
from torchserve_lite.protocols.certificates import Certificates
from torchserve_lite.protocols.http.access_log import AccessLog
from torchserve_lite.protocols.http.console_feed import FAILURES_KEPT, ConsoleFeed
from torchserve_lite.protocols.http.listeners import HttpFrontEnd
from torchserve_lite.signals import hangups, stop_signals
from torchserve_lite.systemd import ServiceManager, ToldProgress
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.ended_requests import RequestWatch
from torchserve_lite.telemetry.machine import MachineFigures, nvidia_gpus
from torchserve_lite.telemetry.profiles import Profiles
from torchserve_lite.telemetry.recent import Recent, SeenFailure, seen_failure
from torchserve_lite.workflows.archive import WorkflowStore
from torchserve_lite.workflows.manager import WorkflowManager
from torchserve_lite.workflows.runner import WorkflowRunner

if TYPE_CHECKING:
    from torchserve_lite.protocols.grpc.server import GrpcFrontEnd

log = logging.getLogger(__name__)

_LOOK_AGAIN = 0.1  # seconds between two looks at what is not ready yet
_FLUSH_TRACES = 5.0  # seconds that a stop waits for a collector at most, if there is as much time
_LEAST_TO_FLUSH = 0.5  # and where there is none
_SCRATCH = "torchserve-lite-models-"


def run(config: Config, progress: StartupProgress, console: logging.Handler) -> int:
    """Serves until a stop signal; returns the exit code. ConfigurationError when a socket cannot be opened."""
    keep_freed()
    with logging_to(config.logs, console) as reopen_logs, asyncio.Runner(loop_factory=_loop_factory()) as runner:
        service_manager = ServiceManager(config.service_manager)
        runner.run(serve(config, ToldProgress(progress, service_manager), reopen_logs, service_manager))
    return 0


async def _watch(config: Config, manager: ModelManager) -> None:
    if config.models.watch and config.models.store is not None:
        written = (config.logs.folder, config.logs.metrics_folder, Path(KEY_FILE))
        await reload_on_changes(config.models.store, manager, unless_in=[path for path in written if path is not None])


@dataclass(frozen=True, slots=True)
class Core:
    """The parts behind the listeners: whoever has them can serve without HTTP."""

    manager: ModelManager
    plane: DataPlane
    metrics: ServerMetrics
    workflows: WorkflowManager
    autoscaler: Autoscaler
    machine: MachineFigures
    watch: RequestWatch
    status: Callable[[ModelKey], ModelStatus]


async def serve(
    config: Config, progress: StartupProgress, reopen_logs: Callable[[], None], service_manager: ServiceManager
) -> None:
    async with AsyncExitStack() as stack:
        stop = stack.enter_context(stop_signals(signal.SIGINT, signal.SIGTERM))
        stack.enter_context(hangups(service_manager.reloading(reopen_logs), stop))
        await stack.enter_async_context(service_manager.kept_informed())
        start_preloading()  # before the limit is raised: workers are to find it as the operator set it
        importing = asyncio.create_task(asyncio.to_thread(_import_grpc))
        descriptors = raise_descriptor_limit()
        shutdown = Shutdown(config.http.shutdown_grace)
        certificates = Certificates(config.tls, (*config.http.encrypted_hosts, *config.grpc.encrypted_hosts))
        await stack.enter_async_context(certificates.kept_fresh())
        failures: Recent[SeenFailure] = Recent(FAILURES_KEPT)
        core = await stack.enter_async_context(serving_core(config, shutdown, failures))
        log_lines = AccessLog(access_lines, as_json=config.logs.form == "json")
        access = Access(config.access)
        console = _console_feed(config, core, failures)
        if console is not None:
            stack.enter_context(console.lines.listening())
        front = HttpFrontEnd(
            config.http,
            core.plane,
            core.manager,
            core.metrics,
            log_lines,
            shutdown,
            access=access,
            most_clients=descriptors.for_http,
            workflows=core.workflows,
            certificates=certificates,
            watch=core.watch,
            console=console,
        )
        await importing
        grpc = _grpc_front_end(config, core, log_lines, shutdown, access, certificates, descriptors.for_grpc)
        await stack.enter_async_context(grpc.serving())
        await stack.enter_async_context(front.serving())
        await stack.enter_async_context(access.keys_in_file())  # now that no other server can be in this one's place
        progress.listening({**front.addresses, **{f"gRPC {role}": where for role, where in grpc.addresses.items()}})
        stack.callback(progress.stopping)
        gc.freeze()  # what imports have made stays, and is never looked through
        gc.enable()
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(core.autoscaler.run())]
            if console is not None:
                running.append(tasks.create_task(console.run()))
            if config.metrics.system_metrics:
                running.append(tasks.create_task(core.machine.run()))
            await _unless_stopped(core.manager.load_initial_models(config.models, progress), stop)
            progress.started(time.time() - psutil.Process().create_time())
            gc.collect()
            gc.freeze()  # what start-up made stays; collections then look at requests only
            running.append(tasks.create_task(_watch(config, core.manager)))
            if config.http.kserve is not None or config.grpc.kserve_port is not None:
                await _unless_stopped(_first_readiness(core.plane), stop)
                if not stop.is_set():
                    await _open_for_kserve(config, front, grpc)
            await stop.wait()
            shutdown.begin()
            for task in running:
                task.cancel()


@asynccontextmanager
async def serving_core(
    config: Config, shutdown: Shutdown, failures: Recent[SeenFailure] | None = None
) -> AsyncIterator[Core]:
    """Entered: models can be loaded and asked. Left: batches have ended, workers and unpacked archives are gone.
    ``failures``: where workers' are kept, if anywhere."""
    async with AsyncExitStack() as stack:
        scratch = stack.enter_context(_scratch_folder())
        watch = RequestWatch()
        if config.tracing.exporter == "otlp" and not config.tracing.disabled:
            await stack.enter_async_context(_tracing(config.tracing, watch, shutdown))
        metrics = ServerMetrics(config.metrics)
        registry = ModelRegistry()
        stack.callback(registry.close)
        there = await asyncio.to_thread(count_gpus, config.workers.visible_gpus)  # a driver may take its time
        wanted = config.workers.number_of_gpu
        devices = Devices(there if wanted is None else min(there, wanted))
        engine = await stack.enter_async_context(
            LocalEngine(
                config.workers,
                registry.locate,
                devices,
                cores=usable_cores(),
                slabs=stack.enter_context(slabs()),
                share_threads=config.workers.share_threads,
                affinity=WorkerAffinity(cores_to_share_out() if config.workers.affinity == "auto" else ()),
                events=_Events(metrics, failures),
                metric_line_parser=metrics.printed_metric,
                shutdown=shutdown,
            )
        )
        manager = ModelManager(
            engine,
            ModelStore(
                folder=config.models.store,
                scratch=scratch,
                pulled=config.models.pulled,
                cache=_archive_cache(config.models),
                digests=config.models.watch or bool(config.downloads.allowed_urls),
                projects=config.models.projects,
            ),
            registry,
            config.workers,
            default_workers=config.workers.workers_per_model or devices.gpus or usable_cores(),
            environments=_environments_folder(),
            downloads=config.downloads,
        )
        await stack.enter_async_context(manager)
        if config.snapshots is not None:
            saved = await stack.enter_async_context(Snapshots(config.snapshots, registry, engine, shutdown))
            manager.changed.append(saved.changed)
            manager.recorded = saved.written
        plane = LocalDataPlane(
            engine, registry, metrics, watch, server_timing=config.http.server_timing, profiles=_profiles(config.logs)
        )
        workflow_store = WorkflowStore(folder=config.models.workflow_store or config.models.store, scratch=scratch)
        workflows = WorkflowManager(
            manager,
            ArchiveFetcher(workflow_store, config.downloads),
            WorkflowRunner(plane, max_response_size=config.workers.max_response_size),
            drain_timeout=config.workers.unregister_timeout,
        )
        await stack.enter_async_context(workflows)
        autoscaler = Autoscaler(manager, engine, metrics.autoscaled)
        gpus = stack.enter_context(nvidia_gpus(there if config.metrics.system_metrics else 0))
        machine = MachineFigures(
            metrics,
            config.metrics.interval,
            lambda: [engine.status(deployment.key) for deployment in registry],
            gpus,
        )
        yield Core(manager, plane, metrics, workflows, autoscaler, machine, watch, engine.status)


class _Events(EngineEvents):
    """What pools report, turned into figures."""

    def __init__(self, metrics: ServerMetrics, failures: Recent[SeenFailure] | None) -> None:
        self._metrics = metrics
        self._failures = failures

    def batch_done(
        self, spec: ModelSpec, batch: Sequence[Job], done: BatchDone, seconds: float, release: Release
    ) -> None:
        self._metrics.batch_done(spec.key, batch, done, seconds, release)

    def work_wasted(self, spec: ModelSpec, reason: str) -> None:
        self._metrics.work_wasted(spec.key, reason)

    def worker_loaded(self, spec: ModelSpec, worker_id: str, seconds: float, metrics: Sequence[Metric]) -> None:
        self._metrics.worker_loaded(spec.key, worker_id, seconds)
        for metric in metrics:
            self._metrics.handler_metric(metric)

    def worker_failed(self, spec: ModelSpec, worker_id: str, error: WorkerFailure) -> None:
        self._metrics.worker_failed(spec.key, error)
        if self._failures is not None:
            self._failures.add(seen_failure(spec.key, worker_id, error))


def _console_feed(config: Config, core: Core, failures: Recent[SeenFailure]) -> ConsoleFeed | None:
    if why_closed(config.http, tokens=config.access.tokens):
        return None
    return ConsoleFeed(
        core.metrics,
        core.manager.registry,
        core.status,
        failures,
        core.watch,
        tokens=config.access.tokens,
        model_api=config.access.model_api,
    )


def _profiles(config: LogConfig) -> Profiles | None:
    return Profiles(config.folder / "profiles") if config.profiles and config.folder is not None else None


def _tracing(config: TracingConfig, watch: RequestWatch, shutdown: Shutdown) -> AbstractAsyncContextManager[None]:
    try:
        from torchserve_lite.telemetry.tracing import tracing
    except ImportError as error:
        raise ConfigurationError(
            f"tracing=otlp needs OpenTelemetry, of which {error.name} is missing: "
            "pip install 'torchserve-lite[traces]', or set tracing=off."
        ) from error
    if config.protocol not in ("", "http/protobuf"):
        log.warning(
            "OTEL_EXPORTER_OTLP_PROTOCOL=%s is not what traces are sent by: they go over HTTP as protobuf, which "
            "collectors take on port 4318.",
            config.protocol,
        )
    return tracing(config, watch, lambda: min(_FLUSH_TRACES, max(shutdown.remaining(), _LEAST_TO_FLUSH)))


def _import_grpc() -> None:
    """In a thread, while the rest is set up: it takes a tenth of a second."""
    import torchserve_lite.protocols.grpc.server  # noqa: F401


def _grpc_front_end(
    config: Config,
    core: Core,
    log_lines: AccessLog,
    shutdown: Shutdown,
    access: Access,
    certificates: Certificates,
    most_clients: int,
) -> GrpcFrontEnd:
    from torchserve_lite.protocols.grpc.server import GrpcFrontEnd, Limits

    limits = Limits(
        max_request_size=config.http.max_request_size,
        max_response_size=config.workers.max_response_size,
        linger=config.http.shutdown_linger,
        most_clients=most_clients,
        handshake=config.http.slow_header_seconds,
        slow_client_seconds=config.http.slow_client_seconds,
        slow_client_rate=config.http.slow_client_rate,
    )
    return GrpcFrontEnd(
        config.grpc,
        limits,
        core.plane,
        core.manager,
        log_lines,
        shutdown,
        access=access,
        certificates=certificates,
        sequence_headers=config.workers.sequence_headers,
        watch=core.watch,
    )


async def _unless_stopped(work: Coroutine[object, object, None], stop: asyncio.Event) -> None:
    """A stop signal must not wait for a model that takes minutes to load."""
    doing = asyncio.ensure_future(work)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([doing, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopped.cancel()
        if not doing.done():
            doing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await doing


async def _first_readiness(plane: DataPlane) -> None:
    """Returns when every model is ready; at once when there is none, since a neighbour in the pod then brings them.

    Nothing tells of readiness, which is made up from many states, so it is looked at again and again.
    """
    told = False
    while not (found := await plane.server_ready()).ready:
        if found.models and not told:
            causes = " ".join(str(cause) for cause in found.models.values())
            log.warning("KServe's ports stay closed until every model is ready: %s", causes)
            told = True
        await asyncio.sleep(_LOOK_AGAIN)


async def _open_for_kserve(config: Config, front: HttpFrontEnd, grpc: GrpcFrontEnd) -> None:
    """To a probe that only connects, as KServe's is by default, an open port is a ready server: so not before.

    What another container of the pod has is left to it: a transformer, on port 8080.
    """
    for listener in (front, grpc):
        try:
            await listener.open_for_kserve()
        except ConfigurationError as error:
            log.warning(
                "%s. If another container of this pod has the port, all is well, and it reaches this server by %s; "
                "otherwise name another port.",
                error,
                listener.addresses["inference"],
            )
        else:
            if address := listener.addresses.get("kserve"):
                log.info("Every model is ready: KServe's requests are taken on %s.", address)


@contextmanager
def _scratch_folder() -> Iterator[Path]:
    """Where archives are unpacked: ours alone, and gone when we are."""
    _sweep_after_crashes()
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{_SCRATCH}{os.getpid()}-"))
    except OSError as error:
        raise _unusable(Path(tempfile.gettempdir()), error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep_after_crashes() -> None:
    """Removes what servers of this user left that were killed before they could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*-*"):
        pid = folder.name.removeprefix(_SCRATCH).partition("-")[0]
        with contextlib.suppress(OSError, OverflowError):  # another server sweeps too; any number may stand there
            if pid.isdigit() and not psutil.pid_exists(int(pid)) and folder.stat().st_uid == os.getuid():
                shutil.rmtree(folder, ignore_errors=True)


def _environments_folder() -> Path:
    """Outlives the server, so that a restart installs nothing."""
    return _folder_of_our_own(Path(tempfile.gettempdir()) / f"torchserve-lite-environments-{os.getuid()}", "TMPDIR")


def _archive_cache(config: ModelsConfig) -> ArchiveCache | None:
    """In a folder below the configured one, which may be a volume that belongs to another user."""
    if config.cache is None:
        return None
    folder = _folder_of_our_own(config.cache / f"torchserve-lite-archives-{os.getuid()}", "archive_cache")
    return ArchiveCache(folder=folder, most_bytes=config.cache_size)


def _folder_of_our_own(folder: Path, setting: str) -> Path:
    """One that outlives the server, which nobody else may have made. ``setting``: what to set when it is unusable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(folder, error, setting) from error
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        message = f"{folder} belongs to another user: remove it, or set {setting} to a folder of your own."
        raise ConfigurationError(message)
    return folder


def _unusable(folder: Path, error: OSError, setting: str = "TMPDIR") -> ConfigurationError:
    return ConfigurationError(
        f"{folder} cannot be used ({error.strerror}). Set {setting} to a folder that can be written."
    )


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # not on every platform
        return asyncio.new_event_loop
    return cast("Callable[[], asyncio.AbstractEventLoop]", uvloop.new_event_loop)
