"""An engine without workers: it answers as a test says, and notes what it was asked."""

from __future__ import annotations

from collections.abc import Callable

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.memory import Memory
from torchserve_lite.core.models import ModelKey, ModelSpec, ModelStatus, WorkerState, WorkerStatus
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse
from torchserve_lite.errors import ServingError

Answer = Callable[[Job], None]


def echo(job: Job) -> None:
    job.succeed(InferenceResponse(job.request.parts[0].data, content_type="text/plain"))


def silence(job: Job) -> None:
    """The answer never comes."""


class FakeEngine:
    """``answer`` gets each job; ``refusal`` is raised instead when it is set. Models are ready unless ``states`` says
    otherwise; ``failures`` are raised when a model is loaded or scaled.
    ``warm_ups``: the requests that new workers were asked."""

    def __init__(self, answer: Answer = echo) -> None:
        self.answer = answer
        self.refusal: ServingError | None = None
        self.failures: dict[str, ServingError] = {}
        self.states: dict[ModelKey, WorkerState] = {}
        self.jobs: list[Job] = []
        self.workers: dict[ModelKey, int] = {}
        self.warm_ups: list[InferenceRequest] = []

    async def load(self, spec: ModelSpec, workers: int, warm_up: InferenceRequest | None = None) -> None:
        await self.scale(spec.key, workers)
        if warm_up is not None:
            self.warm_ups.append(warm_up)

    async def scale(self, key: ModelKey, workers: int) -> None:
        if key.name in self.failures:
            raise self.failures[key.name]
        self.workers[key] = workers

    async def unload(self, key: ModelKey, grace: float) -> None:
        self.workers.pop(key, None)

    def memory_for(self, length: int) -> Memory:
        return memoryview(bytearray(length))

    def submit(self, job: Job) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.jobs.append(job)
        self.answer(job)

    def status(self, key: ModelKey) -> ModelStatus:
        state = self.states.get(key, WorkerState.READY)
        worker = WorkerStatus(
            id="9000", state=state, started=0.0, last_failure="shot" if state is WorkerState.FAILED else ""
        )
        wanted = self.workers.get(key, 1)
        return ModelStatus(key=key, workers=(worker,) * wanted, wanted=wanted, queued=2, queue_size=100)
