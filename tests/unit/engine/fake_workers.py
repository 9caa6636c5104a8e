"""Workers without processes: they obey a test, and note what happens to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelSpec
from torchserve_lite.core.streams import Buffer
from torchserve_lite.engine.interface import EngineEvents, Release
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import LoadFailed, WorkerDied, WorkerFailure
from torchserve_lite.ipc.messages import Answer, Answers, BatchDone, Metric, Reply

Script = Callable[["FakeWorker", Sequence[Job]], AsyncGenerator[Answers, None]]


class FakeWorker:
    """Answers each job with its own body after ``seconds``, unless the launcher has another script."""

    def __init__(self, script: Script, pid: int, *, one_by_one: bool = True) -> None:
        self._one_by_one = one_by_one
        self._turn = asyncio.Lock()
        self.pid: int | None = pid
        self.load_metrics: tuple[Metric, ...] = (Metric("Loads", "counter", "Count", 1, ()),)
        self.batches: list[list[Buffer]] = []
        self.cancelled: list[Buffer] = []
        self.held: list[Buffer] = []
        self.released = asyncio.Event()
        self.running: set[Job] = set()
        self.began = True
        self.begun: Sequence[Job] | None = None  # the last batch that it took up, where a script says so
        self._script = script
        self._died: asyncio.Future[WorkerDied] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._may_send = asyncio.Event()
        self._may_send.set()

    def run(self, batch: Sequence[Job], told: Callable[[Answers], None]) -> None:
        self.batches.append([body_of(job) for job in batch])
        self.running.update(batch)
        self._tasks.add(asyncio.create_task(self._run(batch, told)))

    async def _run(self, batch: Sequence[Job], told: Callable[[Answers], None]) -> None:
        async with self._turn if self._one_by_one else nullcontext():
            with suppress(WorkerDied):
                async with aclosing(self._script(self, batch)) as updates:
                    async for update in updates:
                        await self._may_send.wait()
                        self.running.difference_update(batch[answer.index] for answer in update.answers if answer.last)
                        told(update)

    def pause(self) -> None:
        self._may_send.clear()

    def resume(self) -> None:
        self._may_send.set()

    def hold(self, job: Job, on: bool) -> None:
        if on:
            self.held.append(body_of(job))
        else:
            self.released.set()

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()

    def unwanted(self, job: Job) -> None:
        if job in self.running:
            self.cancelled.append(body_of(job))

    def never_began(self, job: Job) -> bool:
        return not self.began or (self.begun is not None and job not in self.begun)

    def doing(self) -> str:
        return "inference"

    async def watch(self) -> None:
        raise await asyncio.shield(self._died)

    @property
    def death(self) -> WorkerDied | None:
        return self._died.result() if self._died.done() else None

    def die(self, cause: str = "It was shot.") -> None:
        if not self._died.done():
            self._died.set_result(WorkerDied(cause))


def echo_after(seconds: float) -> Script:
    async def script(worker: FakeWorker, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        await asyncio.sleep(seconds)
        yield result(*(body_of(job) for job in batch))

    return script


def result(*bodies: Buffer) -> Answers:
    return Answers(1, tuple(Answer(index, Reply(body)) for index, body in enumerate(bodies)), BatchDone())


def chunk(body: bytes, index: int = 0) -> Answers:
    return Answers(1, (Answer(index, Reply(body, 201, content_type="text/plain"), last=False),))


def body_of(job: Job) -> Buffer:
    return job.request.parts[0].data


class FakeLauncher:
    """Starts fake workers: the first runs the first script and so on, the last script is for all that follow.

    ``failures`` says which of the first loads fail, ``load_seconds`` how long the n-th takes; a worker dies ``life``
    seconds after its start.
    """

    def __init__(
        self,
        *scripts: Script,
        failures: Iterable[bool] = (),
        load_seconds: Callable[[int], float] = lambda attempt: 0.0,
        life: float | None = None,
    ) -> None:
        self.workers: list[FakeWorker] = []
        self.alive: list[FakeWorker] = []
        self.attempts: list[float] = []
        self._scripts = list(scripts) or [echo_after(1.0)]
        self._failures = iter(failures)
        self._load_seconds = load_seconds
        self._life = life

    @asynccontextmanager
    async def __call__(self, spec: ModelSpec, slot: Slot) -> AsyncIterator[FakeWorker]:
        loop = asyncio.get_running_loop()
        self.attempts.append(loop.time())
        await asyncio.sleep(self._load_seconds(len(self.attempts)))
        if next(self._failures, False):
            raise LoadFailed("no such weights", "Traceback of the handler")
        worker = self._new_worker(spec)
        if self._life is not None:
            loop.call_later(self._life, worker.die)
        try:
            yield worker
        finally:
            worker.close()
            self.alive.remove(worker)

    def _new_worker(self, spec: ModelSpec) -> FakeWorker:
        script = self._scripts[min(len(self.workers), len(self._scripts) - 1)]
        worker = FakeWorker(script, pid=len(self.attempts), one_by_one=spec.lanes == 1)
        self.workers.append(worker)
        self.alive.append(worker)
        return worker

    @property
    def delays(self) -> list[float]:
        """Seconds between the attempts."""
        return [later - earlier for earlier, later in zip(self.attempts, self.attempts[1:], strict=False)]


class NotedEvents(EngineEvents):
    def __init__(self) -> None:
        self.batches: list[int] = []
        self.releases: list[Release] = []
        self.wasted: list[str] = []
        self.loaded: list[str] = []
        self.load_metrics: list[Metric] = []
        self.failed: list[WorkerFailure] = []

    def batch_done(
        self, spec: ModelSpec, batch: Sequence[Job], done: BatchDone, seconds: float, release: Release
    ) -> None:
        self.batches.append(len(batch))
        self.releases.append(release)

    def work_wasted(self, spec: ModelSpec, reason: str) -> None:
        self.wasted.append(reason)

    def worker_loaded(self, spec: ModelSpec, worker_id: str, seconds: float, metrics: Sequence[Metric]) -> None:
        self.loaded.append(worker_id)
        self.load_metrics.extend(metrics)

    def worker_failed(self, spec: ModelSpec, worker_id: str, error: WorkerFailure) -> None:
        self.failed.append(error)
