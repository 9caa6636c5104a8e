"""What happens to a request between its protocol and the engine: version, deadline, job, figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Verb
from torchserve_lite.dataplane.interface import ModelSummary, Readiness
from torchserve_lite.dataplane.served_models import ServedModels
from torchserve_lite.engine.interface import Engine
from torchserve_lite.errors import DeadlineExceeded, ModelLoading, ServingError
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
        self._served = ServedModels(engine, registry, failed_models, opening)
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        metrics.registry.before_render.append(lambda: metrics.show(engine.status(spec.key) for spec in registry))

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        spec = self._served.resolve(request.model, request.version)
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
            raise self._served.unreadiness(job.key) or loading from None
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
        self._served.resolve(name, version)

    async def readiness(self, name: str, version: str | None) -> Readiness:
        return self._served.readiness(name, version)

    async def models(self) -> Sequence[ModelSummary]:
        return self._served.models()

    async def server_ready(self) -> Readiness:
        return self._served.server_ready()
