"""The workers of one model version as processes: as many as are wanted, each in a slot that outlives it, restarted when
they die."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from torchserve_lite.core.models import ModelSpec, WorkerState, WorkerStatus
from torchserve_lite.engine.interface import EngineEvents, Worker, WorkerLauncher
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import (
    LoadFailed,
    ModelFailed,
    NoWorkers,
    ServingError,
    SlotFailed,
    WorkerFailure,
    WorkerRestarting,
)

log = logging.getLogger(__name__)


class Supervisor:
    """``run`` is the task in which the slots live, until ``close`` has been called and all have gone.

    ``serve`` is given each worker that is ready, ``gone`` is told when its process has ended, and ``changed`` of each
    change of a slot."""

    def __init__(
        self,
        spec: ModelSpec,
        launch: WorkerLauncher,
        new_slot: Callable[[ModelSpec], Slot],
        events: EngineEvents,
        serve: Callable[[Worker, Slot], Awaitable[None]],
        gone: Callable[[Slot], None],
        changed: Callable[[], None],
    ) -> None:
        self.wanted = 0
        self.promising = False  # jobs may wait: some slot has a worker, or will soon have one
        self._spec = spec
        self._launch = launch
        self._new_slot = new_slot
        self._events = events
        self._serve = serve
        self._gone = gone
        self._tell = changed
        self._slots: list[Slot] = []
        self._tasks = asyncio.TaskGroup()  # entered by ``run``
        self._opened = asyncio.Event()
        self._closing = asyncio.Event()
        self._watchers: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def run(self) -> None:
        async with self._tasks:
            self._opened.set()
            await self._closing.wait()

    async def opened(self) -> None:
        """Waits until ``run`` has begun, and slots can be made."""
        await self._opened.wait()

    def close(self) -> None:
        """Lets ``run`` end when no slot is left."""
        self._closing.set()

    def kill(self) -> None:
        for slot in self._slots:
            if slot.task is not None:
                slot.task.cancel()

    def scale(self, workers: int) -> None:
        """Starts or retires workers; the newest go first. A slot that has given up is replaced."""
        for slot in [slot for slot in self._slots if slot.state is WorkerState.FAILED]:
            self._slots.remove(slot)
        self.wanted = workers
        active = [slot for slot in self._slots if not slot.retired]
        for slot in active[workers:]:
            slot.retire()
        for _ in range(workers - len(active)):
            slot = self._new_slot(self._spec)
            self._slots.append(slot)
            slot.task = self._tasks.create_task(self._supervise(slot), name=f"worker {slot.id}")
            slot.task.add_done_callback(partial(self._slot_ended, slot))  # also when cancelled before its first step
        self._changed()

    async def until_scaled(self) -> None:
        """Waits until the pool has what ``scale`` asked for; WorkerFailure at the first start that fails meanwhile."""
        failures = {slot.id: slot.restarts.count for slot in self._slots}
        while not self._is_scaled():
            for slot in self._slots:
                hopeless = isinstance(slot.failure, LoadFailed) or slot.state is WorkerState.FAILED
                if hopeless and slot.failure is not None and slot.restarts.count > failures.get(slot.id, 0):
                    raise slot.failure
            await self._change()

    def workers(self) -> tuple[WorkerStatus, ...]:
        return tuple(slot.status() for slot in self._slots)

    def refusal(self) -> ServingError:
        """Why a job cannot wait here, when no slot is promising."""
        name = self._spec.key.name
        failed = [slot for slot in self._slots if not slot.retired and slot.failure is not None]
        if not failed:
            return NoWorkers(name)
        trying = [slot for slot in failed if slot.state is not WorkerState.FAILED]
        return WorkerRestarting(name, str(trying[0].failure)) if trying else ModelFailed(name, str(failed[0].failure))

    async def _supervise(self, slot: Slot) -> None:
        """The slot's task: one worker after another, until the slot is retired or has given up.

        Whatever goes wrong in our own code ends here, as a slot that has failed: its jobs are answered, the other slots
        go on, and the next scaling puts a new slot in its place.
        """
        try:
            while not slot.retired:
                failure = await self._live_once(slot)
                if failure is None or not await self._wait_to_restart(slot, failure):
                    return
        except asyncio.CancelledError:
            if not slot.retired:
                raise
        except Exception as error:
            while isinstance(error, ExceptionGroup):
                error = error.exceptions[0]
            log.error("The code around worker %s failed", self._name(slot), exc_info=error)
            slot.worker = None
            slot.restarts.count += 1
            self._give_up(slot, SlotFailed(error))

    def _slot_ended(self, slot: Slot, task: asyncio.Task[None]) -> None:
        if slot.retired and slot in self._slots:
            self._slots.remove(slot)
        self._changed()

    async def _live_once(self, slot: Slot) -> WorkerFailure | None:
        """One worker of this slot, from its start to its end; None when it ended because the slot was retired."""
        begun = self._loop.time()
        failure: WorkerFailure | None = None
        try:
            async with self._launch(self._spec, slot) as worker, asyncio.TaskGroup() as life:
                self._ready(slot, worker, self._loop.time() - begun)
                watcher = life.create_task(worker.watch())  # an idle worker's death must not cost the next job
                await self._serve(worker, slot)
                watcher.cancel()
        except* WorkerFailure as failures:
            first: BaseException = failures
            while isinstance(first, BaseExceptionGroup):
                first = first.exceptions[0]
            assert isinstance(first, WorkerFailure)
            failure = first
        finally:
            self._gone(slot)
        return failure

    def _ready(self, slot: Slot, worker: Worker, seconds: float) -> None:
        slot.worker = worker
        slot.state = WorkerState.STOPPING if slot.retired else WorkerState.READY
        slot.started = time.time()
        slot.ready_since = self._loop.time()
        slot.failure = None
        self._events.worker_loaded(self._spec, slot.id, seconds, worker.load_metrics)
        log.info("%s is ready (pid %s, loaded in %.2f s)", self._name(slot), worker.pid, seconds)
        self._changed()

    async def _wait_to_restart(self, slot: Slot, error: WorkerFailure) -> bool:
        """False when the slot has given up, or is wanted no more."""
        lived = self._loop.time() - slot.ready_since if slot.worker is not None else 0.0
        slot.worker = None
        known = str(slot.failure) == str(error)
        slot.failure = error
        delay = None if slot.retired else slot.restarts.failed(self._loop.time(), lived)
        if isinstance(error, LoadFailed) and error.traceback and not known:  # the same failure once in full
            log.error("%s could not load its model:\n%s", self._name(slot), error.traceback)
        then = "it is not tried again" if delay is None else f"next attempt in {delay:g} s"
        log.error("%s failed: %s %s (failure %d)", self._name(slot), error, then, slot.restarts.count)
        self._events.worker_failed(self._spec, slot.id, error)
        if delay is None:
            self._give_up(slot, error)
            return False
        slot.state = WorkerState.RESTARTING if lived else WorkerState.STARTING
        self._changed()
        await asyncio.sleep(delay)
        return True

    def _give_up(self, slot: Slot, error: WorkerFailure) -> None:
        slot.failure = error
        if not slot.retired:
            slot.state = WorkerState.FAILED
        self._changed()

    def _is_scaled(self) -> bool:
        active = [slot for slot in self._slots if not slot.retired]
        return len(self._slots) == len(active) == self.wanted and all(s.state is WorkerState.READY for s in active)

    def _name(self, slot: Slot) -> str:
        return f"W-{slot.id}-{self._spec.key}"

    async def _change(self) -> None:
        news: asyncio.Future[None] = self._loop.create_future()
        self._watchers.add(news)
        try:
            await news
        finally:
            self._watchers.discard(news)

    def _changed(self) -> None:
        self.promising = any(slot.promising for slot in self._slots)
        self._tell()
        for watcher in self._watchers:
            if not watcher.done():
                watcher.set_result(None)
