"""The seams of the engine: what the data plane asks of it, and what its pools ask of a queue, a worker, a launcher."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Literal, Protocol

from torchserve_lite.core.jobs import Job, JobHolder
from torchserve_lite.core.memory import Memory
from torchserve_lite.core.models import ModelKey, ModelSpec, ModelStatus
from torchserve_lite.core.requests import InferenceRequest
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import ServingError, WorkerDied, WorkerFailure
from torchserve_lite.ipc.messages import Answer, Answers, BatchDone, Metric

Release = Literal["full", "clients", "delay", "alone"]
"""Why a batch goes: it is full, all clients are in it that can be expected, its time is over, or its one job must be
alone."""


class Engine(Protocol):
    """Takes jobs for any model and owns the pools that run them."""

    async def load(self, spec: ModelSpec, workers: int, warm_up: InferenceRequest | None = None) -> None:
        """Starts ``workers`` workers and returns when all of them are ready; WorkerFailure at the first failure.

        A version that is served already is replaced when the new workers are ready and have answered ``warm_up``, and
        not before. Whatever is raised then, and when the call is cancelled, the old workers serve on.
        """

    async def scale(self, key: ModelKey, workers: int) -> None:
        """As ``load``, for a pool that exists; fewer workers are retired between batches."""

    async def unload(self, key: ModelKey, grace: float) -> None:
        """Takes no more jobs, answers those that it has, and ends all workers. DrainTimeout when that was not done
        after ``grace`` seconds: the workers have then been killed, and what they had is answered with WorkerDied."""

    def submit(self, job: Job) -> None:
        """Queues the job, or raises QueueFull, NoWorkers, WorkerRestarting, ModelFailed, ModelLoading (no ``load`` so
        far)."""

    def memory_for(self, length: int) -> Memory:
        """To receive a body of so many bytes into: where workers can take it from, if it is large and there is room.
        What it holds before that is arbitrary. Whoever runs the request may write the answer over it."""

    def status(self, key: ModelKey) -> ModelStatus:
        """Also of a model that has not begun to load: it has no workers."""


class EngineEvents:
    """What pools report while they work; this one ignores everything. Telemetry and tests override it."""

    def batch_done(
        self, spec: ModelSpec, batch: Sequence[Job], done: BatchDone, seconds: float, release: Release
    ) -> None: ...

    def work_wasted(self, spec: ModelSpec, reason: str) -> None:
        """A worker runs a job for which nobody waits any more: ``client_left`` or ``deadline``."""

    def worker_loaded(self, spec: ModelSpec, worker_id: str, seconds: float, metrics: Sequence[Metric]) -> None: ...

    def worker_failed(self, spec: ModelSpec, worker_id: str, error: WorkerFailure) -> None: ...


class JobQueue(JobHolder, Protocol):
    """The jobs of one model version that wait for a worker.

    ``running`` jobs have been taken and are not finished; ``workers`` take from here, the pool keeps it up to date.
    A batch has at most ``batch_size`` jobs; ``release`` says why the last one went. ``by_sequence``: what may go
    depends on which worker is asked for, and is changed by what answers say.
    """

    by_sequence: bool
    batch_size: int
    release: Release
    capacity: int
    running: int
    workers: int

    def __len__(self) -> int: ...

    def put(self, job: Job) -> bool:
        """Whether a batch has become full by it. QueueFull when there is no room."""

    @property
    def full_batches(self) -> int:
        """How many batches wait that no further job could join."""

    def due(self, slot: Slot) -> float:
        """When the next batch should go to this slot if it is idle: a reading of the event loop's clock, one that has
        passed for now, infinite when nothing waits for it."""

    def next_batch(self, slot: Slot) -> Sequence[Job]:
        """Takes a batch for this slot. It may be empty: jobs whose deadline has passed are answered instead."""

    def replied(self, answers: Sequence[Answer]) -> None:
        """Of a queue ``by_sequence``, before ``finished``: what the jobs of a batch have been answered."""

    def finished(self, jobs: Sequence[Job]) -> None:
        """Jobs that were taken have ended, well or badly, or are put back."""

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Jobs that were taken and have not been run after all: they are the next ones again."""

    def move_to(self, other: JobQueue, moved: Callable[[], None]) -> None:
        """Hands over all waiting jobs; those for which the other has no room are told so. ``moved`` is called when they
        are there, and again when what still runs here has kept some of them from being next and has ended."""

    def fail_all(self, error: ServingError) -> None:
        """Answers every waiting job: there will be no worker for it."""

    def worker_came(self, slot: Slot) -> None:
        """It will ask for batches."""

    def worker_left(self, slot: Slot) -> None:
        """It will ask for none any more, and perhaps it never has."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies unpacked on this machine, and what runs it. ``python``: an interpreter other than ours."""

    folder: str
    python: str = ""
    python_path: tuple[str, ...] = ()


class Worker(JobHolder, Protocol):
    """One loaded handler. As the holder of its jobs it is told when nobody waits for one of them any more."""

    @property
    def pid(self) -> int | None: ...

    @property
    def load_metrics(self) -> Sequence[Metric]:
        """What its handler has counted while it loaded."""

    def run(self, batch: Sequence[Job], told: Callable[[Answers], None]) -> None:
        """Sends a batch. ``told`` gets its answers as they come, but not before this call has returned; the last ones
        with ``done``. Nothing more comes when the worker dies. Batches beyond those that it can run wait in it.
        """

    def pause(self) -> None:
        """Takes no answers from it until ``resume``: a handler that streams then waits."""

    def resume(self) -> None: ...

    def hold(self, job: Job, on: bool) -> None:
        """Asks it to wait before it makes the next piece of this job's answer, or to go on. What it runs beside it
        goes on in any case; whether a handler can wait is its own affair."""

    def never_began(self, job: Job) -> bool:
        """Whether it died before it took up the batch of this job, which may therefore run elsewhere. To be asked when
        it is gone."""

    def doing(self) -> str:
        """What it is at, or was at last, for a message: ``handle (row 3 of its batch)``."""

    async def watch(self) -> None:
        """Waits; raises WorkerDied when the worker is gone."""

    @property
    def death(self) -> WorkerDied | None:
        """Why it died, once it has."""


WorkerLauncher = Callable[[ModelSpec, Slot], AbstractAsyncContextManager[Worker]]
"""Starts a worker of a model for a slot. Entered: loaded and ready; LoadFailed when it cannot. Left: gone."""

ModelLocator = Callable[[ModelSpec], ModelFiles]
"""Finds the unpacked files of a model on this machine."""
