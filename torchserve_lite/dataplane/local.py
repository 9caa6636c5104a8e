"""What happens to a request between its protocol and the engine: version, deadline, job, figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey, ModelSpec
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Verb
from torchserve_lite.dataplane.interface import ModelSummary, Readiness
from torchserve_lite.engine.interface import Engine
from torchserve_lite.errors import (
    DeadlineExceeded,
    ModelFailed,
    ModelLoading,
    ModelNotFound,
    ModelNotRegistered,
    NoWorkers,
    ServingError,
    Unavailable,
    WorkerRestarting,
)
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.telemetry.catalogue import ServerMetrics


class LocalDataPlane:
    """A ``DataPlane`` over the engine of this process. ``failed_models``: names that could not be registered, and why.
    ``opening``: whether some have not been looked at yet."""

    def __init__(
        self,
        engine: Engine,
        registry: ModelRegistry,
        metrics: ServerMetrics,
        failed_models: Callable[[], dict[str, str]] = dict,
        opening: Callable[[], bool] = lambda: False,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._metrics = metrics
        self._failed_models = failed_models
        self._opening = opening
        self._loop = asyncio.get_running_loop()
        metrics.registry.before_render.append(lambda: metrics.show(engine.status(spec.key) for spec in registry))

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        spec = self._resolve(request.model, request.version)
        inference = request.verb is not Verb.DESCRIBE  # a question of management is in no figure of the model
        if inference:
            self._metrics.model(spec.key).requests.inc()
        begun = perf_counter()
        arrived = self._loop.time()
        timeout = min((t for t in (request.timeout, spec.client_timeout) if t is not None), default=None)
        job = Job(request, spec.key, arrived, None if timeout is None else arrived + timeout)
        try:
            response = await self._answer(job, timeout)
        except ServingError as error:
            if inference:
                self._metrics.failed(spec.key, type(error).__name__)
            raise
        if inference:
            self._metrics.answered(spec.key, job.waited, perf_counter() - begun)
        return response

    async def _answer(self, job: Job, timeout: float | None) -> InferenceResponse:
        try:
            self._engine.submit(job)
        except ModelLoading as loading:
            raise self._unreadiness(job.key) or loading from None
        timer = None
        if timeout is not None:
            timer = self._loop.call_later(timeout, job.fail, DeadlineExceeded(timeout))
        try:
            return await job.answer
        except asyncio.CancelledError:
            job.abandon()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def check_known(self, name: str, version: str | None) -> None:
        self._resolve(name, version)

    async def readiness(self, name: str, version: str | None) -> Readiness:
        try:
            key = self._resolve(name, version).key
        except ModelNotRegistered as error:
            return Readiness(models={name: error})
        cause = self._unreadiness(key)
        return Readiness(models={} if cause is None else {name: cause})

    async def models(self) -> Sequence[ModelSummary]:
        return [
            ModelSummary(
                name=name,
                versions=tuple(spec.key.version for spec in self._registry.versions(name)),
                loaded_at_startup=any(spec.loaded_at_startup for spec in self._registry.versions(name)),
            )
            for name in self._registry.names()
        ]

    async def server_ready(self) -> Readiness:
        failed = self._failed_models()
        causes: dict[str, ServingError] = {name: ModelNotRegistered(name, why) for name, why in failed.items()}
        for spec in self._registry.defaults():
            error = self._unreadiness(spec.key, every_worker=True)
            if error is not None and not isinstance(error, NoWorkers):
                causes.setdefault(spec.key.name, error)
        opening = Unavailable("The server is still opening archives.") if self._opening() else None
        return Readiness(models=causes, server=opening)

    def _resolve(self, name: str, version: str | None) -> ModelSpec:
        try:
            return self._registry.resolve(name, version)
        except ModelNotFound:
            if name in self._failed_models():
                raise ModelNotRegistered(name, self._failed_models()[name]) from None
            raise

    def _unreadiness(self, key: ModelKey, *, every_worker: bool = False) -> ServingError | None:
        """What keeps a registered model from being served, or from having every worker it should have."""
        status = self._engine.status(key)
        if status.failed:
            return ModelFailed(key.name, status.last_failure)
        if not status.begun:
            failure = self._failed_models().get(key.name)
            return ModelLoading(key.name) if failure is None else ModelNotRegistered(key.name, failure)
        if status.wanted == 0:
            return NoWorkers(key.name)
        if status.ready_workers >= (max(1, status.wanted) if every_worker else 1):
            return None
        return WorkerRestarting(key.name, status.last_failure) if status.last_failure else ModelLoading(key.name)
