"""A worker's place in its pool, which outlives the worker's process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from torchserve_lite.core.models import WorkerState, WorkerStatus
from torchserve_lite.engine.restarts import Restarts
from torchserve_lite.errors import LoadFailed, WorkerFailure

if TYPE_CHECKING:
    from torchserve_lite.core.jobs import Job
    from torchserve_lite.engine.interface import Worker


class Slot:
    """Holds the jobs that its worker runs. ``failure``: what ended the last worker or kept it from starting; None while
    one is ready."""

    def __init__(self, slot_id: str, gpu_id: int | None, restarts: Restarts) -> None:
        self.id = slot_id
        self.gpu_id = gpu_id
        self.restarts = restarts
        self.state = WorkerState.STARTING
        self.started = time.time()
        self.worker: Worker | None = None
        self.ready_since = 0.0
        self.failure: WorkerFailure | None = None
        self.retired = False
        self.task: asyncio.Task[None] | None = None
        self.running: set[Job] = set()  # which the worker has not answered yet
        self._idle: set[asyncio.Task[None]] = set()  # lanes that wait for a batch

    @property
    def promising(self) -> bool:
        """Jobs may wait for this slot: it has a worker, starts its first one, or restarts one that did load.

        Not after a start that failed: its clients learn the cause at once, while starting is tried again behind them.
        """
        if self.retired or self.state is WorkerState.FAILED:
            return False
        return self.worker is not None or not isinstance(self.failure, LoadFailed)

    def retire(self) -> None:
        """Stop between batches. Anything but running a batch that somebody waits for may be interrupted."""
        self.retired = True
        self.state = WorkerState.STOPPING
        if self.worker is None and self.task is not None:
            self.task.cancel()
        for lane in self._idle:
            lane.cancel()
        self._leave_if_nobody_waits()

    def unwanted(self, job: Job) -> None:
        """As the holder of running jobs: the worker need not go on for this one."""
        if self.worker is not None:
            self.worker.unwanted(job)
        self._leave_if_nobody_waits()

    def _leave_if_nobody_waits(self) -> None:
        if self.retired and self.running and self.task is not None and not any(job.wanted for job in self.running):
            self.task.cancel()

    @contextmanager
    def idle(self) -> Iterator[None]:
        """While the calling task waits for a batch."""
        lane = cast("asyncio.Task[None]", asyncio.current_task())
        self._idle.add(lane)
        try:
            yield
        finally:
            self._idle.discard(lane)

    def status(self) -> WorkerStatus:
        return WorkerStatus(
            id=self.id,
            state=self.state,
            started=self.started,
            pid=self.worker.pid if self.worker is not None else None,
            gpu_id=self.gpu_id,
            failures=self.restarts.count,
            last_failure=str(self.failure or ""),
        )
