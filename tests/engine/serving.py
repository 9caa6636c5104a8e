"""A model of ``tests/engine/models`` served by a real engine, with workers from any launcher."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.conftest import job_maker
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey, ModelSpec, RecoveryPolicy
from torchserve_lite.core.streams import Buffer
from torchserve_lite.engine.devices import Devices
from torchserve_lite.engine.interface import EngineEvents, ModelFiles, Release, Worker
from torchserve_lite.engine.local import LocalEngine
from torchserve_lite.errors import WorkerFailure
from torchserve_lite.ipc.messages import BatchDone, Metric
from torchserve_lite.ipc.slabs import slabs

MODELS = Path(__file__).parent / "models"


class Noted(EngineEvents):
    """What the pool reported."""

    def __init__(self) -> None:
        self.done: list[BatchDone] = []
        self.load_metrics: list[Metric] = []
        self.failures: list[WorkerFailure] = []
        self.failed = asyncio.Event()

    def batch_done(
        self, spec: ModelSpec, batch: Sequence[Job], done: BatchDone, seconds: float, release: Release
    ) -> None:
        self.done.append(done)

    def worker_loaded(self, spec: ModelSpec, worker_id: str, seconds: float, metrics: Sequence[Metric]) -> None:
        self.load_metrics.extend(metrics)

    def worker_failed(self, spec: ModelSpec, worker_id: str, error: WorkerFailure) -> None:
        self.failures.append(error)
        self.failed.set()


class Served:
    """An engine with one model."""

    def __init__(self, engine: LocalEngine, spec: ModelSpec, events: Noted) -> None:
        self.engine = engine
        self.spec = spec
        self.events = events
        self._new_job = job_maker()

    def submit(self, body: Buffer, **facts: Any) -> Job:
        job = self._new_job(body, key=self.spec.key, **facts)
        self.engine.submit(job)
        return job

    async def ask(self, body: Buffer, **facts: Any) -> Buffer:
        return (await self.submit(body, **facts).answer).body

    async def surroundings(self) -> dict[str, Any]:
        """What the handler sees around it."""
        told: dict[str, Any] = json.loads(bytes(await self.ask(b"surroundings")))
        return told

    @property
    def pids(self) -> list[int | None]:
        return [worker.pid for worker in self.engine.status(self.spec.key).workers]

    @property
    def worker(self) -> Worker:
        """The first worker itself, to learn how it ended when the engine is no more."""
        pool = self.engine._pools[self.spec.key].pool
        worker = pool._supervisor._slots[0].worker
        assert worker is not None
        return worker


@asynccontextmanager
async def engine_of(
    launcher: str,
    model: str | Path,
    *,
    files: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
    **facts: Any,
) -> AsyncIterator[LocalEngine]:
    """``files``, ``config`` and ``facts`` complete what ``ModelFiles``, ``WorkerConfig`` and the engine are told."""
    located = ModelFiles(str(MODELS / model), **(files or {}))
    worker_config = WorkerConfig(launcher=launcher, **(config or {}))
    with slabs() as shared:
        told = {"cores": 1, "slabs": shared, **facts}
        async with LocalEngine(worker_config, lambda spec: located, Devices(0), **told) as engine:
            yield engine


def spec_for(model: str | Path, **facts: Any) -> ModelSpec:
    """A failed load is not tried again, so that its test ends at once."""
    name = Path(model).name
    wanted = {"handler": f"{name}.py", "recovery": RecoveryPolicy(window=-1), "response_timeout": 60.0, **facts}
    return ModelSpec(key=ModelKey(name, "1.0"), archive_url=name, **wanted)


@asynccontextmanager
async def served(
    launcher: str,
    model: str | Path = "obedient",
    *,
    workers: int = 1,
    engine: dict[str, Any] | None = None,
    **facts: Any,
) -> AsyncIterator[Served]:
    """Entered: ``workers`` workers are ready. ``facts`` are for the spec, ``engine`` for ``engine_of``."""
    events, spec = Noted(), spec_for(model, **facts)
    async with engine_of(launcher, model, events=events, **(engine or {})) as running, asyncio.timeout(100):
        await running.load(spec, workers)
        yield Served(running, spec, events)


async def pieces_of(job: Job) -> list[bytes]:
    """The whole of a streamed answer, or the one piece of another."""
    response = await job.answer
    pieces = [bytes(response.body)]
    if response.stream is not None:
        async with response.stream as rest:
            pieces += [bytes(piece) async for piece in rest]
    return pieces
