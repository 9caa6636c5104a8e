"""Looks at the load of each model that may have more or fewer workers, and scales it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

import psutil

from torchserve_lite.core.models import ModelKey
from torchserve_lite.engine.interface import Engine
from torchserve_lite.management.autoscaling import Bounds, Reason, Seen, seen_of, wanted
from torchserve_lite.management.deployments import Deployment, DeploymentState
from torchserve_lite.management.manager import ModelManager

PERIOD = 0.25  # seconds between two looks
SPARED = 0.1  # share of the container's memory that is left alone

_CGROUP = Path("/sys/fs/cgroup")  # version 2; of version 1 it has the folder "memory"

log = logging.getLogger(__name__)


class Autoscaler:
    """``decided`` is told of each decision: for which model, and why."""

    def __init__(
        self,
        manager: ModelManager,
        engine: Engine,
        decided: Callable[[ModelKey, Reason], None] = lambda key, reason: None,
        room: Callable[[Sequence[int]], Awaitable[int | None]] | None = None,
    ) -> None:
        """``room``: for how many more workers there is memory, by the processes of those that there are."""
        self._manager = manager
        self._engine = engine
        self._decided = decided
        self._room = room or _room_for_workers
        self._loop = asyncio.get_running_loop()
        self._short_of_memory: set[ModelKey] = set()  # of whom that has been told

    async def run(self) -> None:
        """Until cancelled. A mistake of ours in it must not cost anybody a request."""
        try:
            while True:
                await asyncio.sleep(PERIOD)
                await self._look_at_all()
        except Exception:
            log.exception(
                "Autoscaling has ended, since its own code failed; models are served on by the workers they have"
            )

    async def _look_at_all(self) -> None:
        for deployment in list(self._manager.registry):
            if deployment.state is not DeploymentState.SERVING or deployment.lock.locked():
                continue  # somebody is changing it, or has unregistered it
            if deployment.min_workers < deployment.max_workers and deployment.spec.autoscale:
                await self._look_at(deployment)
            else:
                deployment.seen = None

    async def _look_at(self, deployment: Deployment) -> None:
        key, now = deployment.key, self._loop.time()
        status = self._engine.status(key)
        seen = deployment.seen = seen_of(status, deployment.spec.batch.size, deployment.seen, now)
        bounds = Bounds(low=deployment.min_workers, high=deployment.max_workers)
        decision = wanted(bounds, seen, now)
        if decision.reason is Reason.WAITING:
            pids = [worker.pid for worker in status.workers if worker.pid is not None]
            room = await self._room(pids)
            decision = wanted(bounds, replace(seen, room=room), now)
        if decision.reason is Reason.NONE:
            self._short_of_memory.discard(key)
        elif decision.reason is not Reason.MEMORY:
            self._short_of_memory.discard(key)
            log.info(
                "Model %s goes from %d to %d workers: %s.",
                key,
                seen.workers,
                decision.workers,
                _explained(decision.reason, seen, bounds),
            )
            self._decided(key, decision.reason)
            self._manager.adjust_in_background(deployment, decision.workers, self._adjusted)
        elif key not in self._short_of_memory:
            self._short_of_memory.add(key)
            log.warning("Model %s stays at %d workers: %s.", key, seen.workers, _explained(Reason.MEMORY, seen, bounds))
            self._decided(key, decision.reason)

    def _adjusted(self, deployment: Deployment, failed: bool) -> None:
        if failed and deployment.seen is not None:
            deployment.seen = replace(deployment.seen, failed_at=self._loop.time())


async def _room_for_workers(pids: Sequence[int]) -> int | None:
    return await asyncio.to_thread(room_for_workers, pids)


def room_for_workers(pids: Sequence[int], cgroup: Path = _CGROUP) -> int | None:
    """For how many more workers like these there is memory in the container; None when it cannot be told.

    A worker is as large as the largest of them without what they share. Files that the kernel merely keeps count as
    free. Source: the kernel's documentation of cgroups, ``memory.max``, ``memory.current`` and ``memory.stat``.
    """
    sizes = []
    for pid in pids:
        try:
            sizes.append(psutil.Process(pid).memory_full_info().uss)
        except (psutil.Error, AttributeError):  # it has gone, or it is another user's
            continue
    machine = psutil.virtual_memory()
    limit, left = machine.total, machine.available
    of_container = _memory_of(cgroup, "memory.max", "memory.current") or _memory_of(
        cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
    )
    if of_container is not None and of_container[0] < limit:
        limit, left = of_container[0], min(left, of_container[1])
    if not sizes or not max(sizes):
        return None
    return max(0, int((left - SPARED * limit) // max(sizes)))


def _memory_of(folder: Path, limit_file: str, used_file: str) -> tuple[int, int] | None:
    """Limit and what is left of it, in bytes; None where there is none."""
    try:
        limit, used = int((folder / limit_file).read_text()), int((folder / used_file).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # "max": no limit
        return None
    kept_files = int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))
    return limit, max(0, limit - used + kept_files)


def _explained(reason: Reason, seen: Seen, bounds: Bounds) -> str:
    waits = f"{seen.queued} requests wait" if seen.queued else "requests are refused that may not wait (useJobTicket)"
    if reason is Reason.WAITING:
        return f"{waits}, and all workers are busy (maxWorkers={bounds.high})"
    if reason is Reason.IDLE:
        return f"on average {seen.load:.1f} of them were busy, and no request waited (minWorkers={bounds.low})"
    if reason is Reason.MEMORY:
        return f"{waits}, but there is no memory for another worker (maxWorkers={bounds.high})"
    return f"minWorkers={bounds.low}, maxWorkers={bounds.high}"
