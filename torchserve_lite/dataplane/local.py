"""What happens to a request between its protocol and the engine: version, deadline, job, figures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey, ModelSpec, ModelStatus
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse
from torchserve_lite.engine.interface import Engine
from torchserve_lite.errors import DeadlineExceeded, ModelFailed, ModelLoading, ServingError
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.telemetry.catalogue import ServerMetrics


class DataPlane:
    """Answers requests and says what is ready. ``failed_models``: names that could not be registered, and why.
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
        metrics.registry.before_render.append(lambda: metrics.show(self.status(spec.key) for spec in registry))

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        """Any ServingError of the way comes out of here; cancelling the call takes the job out of the queue."""
        spec = self._registry.resolve(request.model, request.version)
        self._metrics.model(spec.key).requests.inc()
        begun = perf_counter()
        arrived = self._loop.time()
        timeout = _shorter(request.timeout, spec.client_timeout)
        job = Job(request, spec.key, arrived, None if timeout is None else arrived + timeout)
        try:
            response = await self._answer(job, timeout)
        except ServingError as error:
            self._metrics.failed(spec.key, type(error).__name__)
            raise
        self._metrics.answered(spec.key, job.waited, perf_counter() - begun)
        return response

    async def _answer(self, job: Job, timeout: float | None) -> InferenceResponse:
        self._engine.submit(job)
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

    def status(self, key: ModelKey) -> ModelStatus:
        return self._engine.status(key)

    def spec(self, name: str, version: str | None = None) -> ModelSpec:
        return self._registry.resolve(name, version)

    def only_startup_model(self) -> str | None:
        """The model that requests without a name mean, when there is just one that was loaded at start."""
        names = {spec.key.name for spec in self._registry if spec.loaded_at_startup}
        return names.pop() if len(names) == 1 else None

    def names(self) -> list[str]:
        return self._registry.names()

    def versions(self, name: str) -> list[str]:
        return [spec.key.version for spec in self._registry.versions(name)]

    def check_ready(self, name: str, version: str | None = None) -> None:
        """Raises what keeps the model from being served: unknown, failed, still loading."""
        if version is None and name in self._failed_models():
            raise ModelFailed(name, self._failed_models()[name])
        status = self.status(self._registry.resolve(name, version).key)
        if status.failed:
            raise ModelFailed(name, status.last_failure)
        if not status.ready_workers:
            raise ModelLoading(name)

    def all_ready(self) -> bool:
        """Every model has all its workers, and every model that was to be loaded is here."""
        if self._opening() or self._failed_models():
            return False
        return all(self.status(spec.key).ready for spec in self._registry.defaults())


def _shorter(first: float | None, second: float | None) -> float | None:
    if first is None or second is None:
        return second if first is None else first
    return min(first, second)
