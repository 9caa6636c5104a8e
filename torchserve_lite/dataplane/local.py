"""What happens to a request between its protocol and the engine: version, deadline, job, figures."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import perf_counter

from torchserve_lite.core.jobs import Job, Outcome, Told
from torchserve_lite.core.memory import Memory
from torchserve_lite.core.requests import Envelope, InferenceRequest, InferenceResponse, Verb
from torchserve_lite.core.trace_context import trace_context
from torchserve_lite.dataplane.interface import ModelMetadata, ModelSummary, Readiness
from torchserve_lite.dataplane.served_models import ServedModels
from torchserve_lite.dataplane.v2_parameters import obeyed
from torchserve_lite.engine.interface import Engine
from torchserve_lite.errors import DeadlineExceeded, ModelLoading, ServingError
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.ended_requests import RequestWatch
from torchserve_lite.telemetry.profiles import Profiles
from torchserve_lite.telemetry.server_timing import ServerTiming

_DESCRIBE, _KSERVE_V2 = Verb.DESCRIBE, Envelope.KSERVE_V2  # as in core/jobs.py: looked up once


def _recorded_in(request: InferenceRequest) -> str:
    """The id of the trace that has this request, if somebody records one."""
    said = trace_context(request.trace_context)
    return said.trace_id if said is not None and said.sampled else ""


class LocalDataPlane:
    """A ``DataPlane`` over the engine of this process."""

    def __init__(
        self,
        engine: Engine,
        registry: ModelRegistry,
        metrics: ServerMetrics,
        watch: RequestWatch | None = None,
        *,
        server_timing: bool = True,
        profiles: Profiles | None = None,
    ) -> None:
        """``watch`` is told which requests begin. ``server_timing``: answers say where their time went. ``profiles``:
        of requests whose clients ask for one."""
        self._engine = engine
        self._watch = watch or RequestWatch()
        self._profiles = profiles
        self._timing = ServerTiming() if server_timing else None
        self._registry = registry
        self._served = ServedModels(engine, registry)
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        metrics.registry.before_render += [
            lambda: metrics.show(engine.status(deployment.key) for deployment in registry),
            lambda: metrics.show_readiness(self._served.each_readiness()),
        ]
        registry.forgotten.append(metrics.forget)

    def begin(self, request: InferenceRequest, told: Told) -> Job:
        deployment = self._registry.resolve(request.model, request.version)
        spec = deployment.spec
        if request.envelope is _KSERVE_V2:
            request = obeyed(request, spec.sequences)
        # A question of management is in no figure of the model.
        figures = None if request.verb is _DESCRIBE else self._metrics.model(spec.key)
        if figures is not None:
            figures.requests.value += 1
        arrived = self._loop.time()
        timeout = request.timeout
        if timeout is None or (spec.client_timeout is not None and spec.client_timeout < timeout):
            timeout = spec.client_timeout
        if self._profiles is not None:
            self._profiles.begin(request, spec)
        job = Job(request, spec.key, arrived, None if timeout is None else arrived + timeout)

        if self._watch.listeners:
            self._watch.begun(job)

        def ended(outcome: Outcome) -> None:
            job.ended_at = perf_counter()
            if figures is not None:
                if isinstance(outcome, ServingError):
                    figures.failed(type(outcome).__name__)
                else:
                    seconds = job.ended_at - job.made
                    figures.answered(job.waited, seconds, _recorded_in(request) if request.trace_context else "")
                    if self._timing is not None:
                        outcome.timing = self._timing.value(job, seconds)
                    if self._profiles is not None and request.profile:
                        self._profiles.tell(request, outcome)
            told(outcome)

        try:
            self._engine.submit(job)
        except ServingError as error:
            unready = self._served.unreadiness(deployment) if isinstance(error, ModelLoading) else None
            refusal = unready or error
            if figures is not None:
                figures.failed(type(refusal).__name__)
            job.fail(refusal)  # for those who watch it
            raise refusal from None
        if timeout is not None and job.is_open:
            job.timer = self._loop.call_later(timeout, job.fail, DeadlineExceeded(timeout))
        job.tell(ended)
        return job

    def memory_for(self, length: int) -> Memory:
        return self._engine.memory_for(length)

    async def infer(self, request: InferenceRequest) -> InferenceResponse:
        answer: asyncio.Future[InferenceResponse] = self._loop.create_future()

        def told(outcome: Outcome) -> None:
            if answer.done():  # cancelled, and whoever waited has not run yet
                return
            if isinstance(outcome, ServingError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        job = self.begin(request, told)
        try:
            return await answer
        except asyncio.CancelledError:
            job.abandon()
            raise

    async def check_known(self, name: str, version: str | None) -> None:
        self._registry.resolve(name, version)

    async def readiness(self, name: str, version: str | None) -> Readiness:
        return self._served.readiness(name, version)

    async def metadata(self, name: str, version: str | None) -> ModelMetadata:
        return self._served.metadata(name, version)

    async def models(self) -> Sequence[ModelSummary]:
        return self._served.models()

    async def server_ready(self) -> Readiness:
        return self._served.server_ready()
