"""A worker's place in its pool, which outlives the worker's process."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from torchserve_lite.core.models import WorkerState, WorkerStatus
from torchserve_lite.engine.restarts import Restarts
from torchserve_lite.errors import LoadFailed, WorkerFailure

if TYPE_CHECKING:
    from torchserve_lite.engine.interface import Worker
    from torchserve_lite.engine.seats import Seat


class Slot:
    """``seat``: of its worker, from when that is ready until it is gone. ``failure``: what ended the last worker or
    kept it from starting; None while one is ready."""

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
        self.seat: Seat | None = None

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
        if self.seat is not None:
            self.seat.retire()
        elif self.worker is None and self.task is not None:
            self.task.cancel()

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
