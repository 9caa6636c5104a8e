"""How many workers a model should have between its ``minWorkers`` and ``maxWorkers``.

``seen_of`` sums up what the engine reports and ``wanted`` decides by it; both are pure, and ``autoscaler.py`` does what
they say. A model grows while requests wait for busy workers, at most doubling at a time and only as far as memory is
left, and gives up one drained worker at a time when fewer would do.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, replace

from torchserve_lite.core.models import ModelStatus

WAITING = 0.5  # seconds for which requests must have waited, without a pause, before it grows (again)
CALM = 5.0  # seconds without a waiting request before it shrinks; also the memory of the mean load
STEP = 1.0  # seconds between two workers that are given up
FULL = 0.7  # share of their time that workers may be busy without a queue forming
COMES_BACK = 1.5  # seconds within which clients come again whose requests were refused: they are told to after 1
AFTER_FAILURE = 30.0  # seconds until it is tried again after new workers could not be started


class Reason(enum.StrEnum):
    """Why the number of workers changes, or does not though requests wait. Also the label of the metric."""

    NONE = "none"
    WAITING = "requests_wait"
    IDLE = "idle"
    BOUNDS = "bounds"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What has been seen of a model up to ``at``. All times are readings of one clock, in seconds.

    ``load``: the mean number of busy workers lately. ``waiting_since``: since when requests have waited while all
    workers were busy, or have been refused again and again because they may not wait. ``refused``: how many have been
    since the pool began, ``turned_away``: those of the last look at which there were some, for as long as their clients
    may come again. ``room``: for how many more workers there is memory; None when that is not known.
    """

    at: float
    workers: int
    ready: int
    queued: int
    batch_size: int
    busy_seconds: float
    load: float
    waiting_since: float | None
    waited_at: float
    changed_at: float
    refused: int = 0
    refused_at: float = -math.inf
    turned_away: int = 0
    failed_at: float = -math.inf
    room: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    workers: int
    reason: Reason


def seen_of(status: ModelStatus, batch_size: int, before: Seen | None, now: float) -> Seen:
    """``before``: what was seen until then."""
    waits = status.queued > 0 and status.busy >= status.ready_workers > 0
    if before is None:
        since = now if waits else None
        return Seen(
            at=now,
            workers=status.wanted,
            ready=status.ready_workers,
            queued=status.queued,
            batch_size=batch_size,
            busy_seconds=status.busy_seconds,
            load=float(status.busy),
            waiting_since=since,
            waited_at=now,
            changed_at=now,
            refused=status.refused,
        )
    turned_away = max(status.refused - before.refused, 0)  # less than before in a pool that has just begun
    refused_at = now if turned_away else before.refused_at
    if not turned_away and now - refused_at <= COMES_BACK:
        turned_away = before.turned_away
    waits = waits or turned_away > 0
    passed = max(now - before.at, 1e-9)
    busy = min(max(status.busy_seconds - before.busy_seconds, 0.0) / passed, float(status.wanted))
    weight = -math.expm1(-passed / CALM)
    return replace(
        before,
        at=now,
        workers=status.wanted,
        ready=status.ready_workers,
        queued=status.queued,
        batch_size=batch_size,  # of another archive, perhaps
        busy_seconds=status.busy_seconds,
        load=before.load + weight * (busy - before.load),
        waiting_since=(before.waiting_since if before.waiting_since is not None else now) if waits else None,
        waited_at=now if status.queued or turned_away else before.waited_at,
        changed_at=before.changed_at if status.wanted == before.workers else now,
        refused=status.refused,
        refused_at=refused_at,
        turned_away=turned_away,
    )


def wanted(bounds: Bounds, seen: Seen, now: float) -> Wanted:
    """As many as there are, unless there is a reason for another number.

    A model that has been scaled to none keeps none; of one that has some, the last is not given up.
    """
    if seen.workers == 0:
        return Wanted(workers=0, reason=Reason.NONE)
    inside = min(max(seen.workers, bounds.low, 1), bounds.high)
    if inside != seen.workers:
        return Wanted(workers=inside, reason=Reason.BOUNDS)
    waits = seen.waiting_since is not None and now - max(seen.waiting_since, seen.changed_at) >= WAITING
    waits = waits and (seen.queued > 0 or seen.refused_at == seen.at)  # else they have not come again so far
    if waits and seen.ready == seen.workers < bounds.high and now - seen.failed_at >= AFTER_FAILURE:
        batches = math.ceil(max(seen.queued, seen.turned_away) / seen.batch_size)
        useful = min(batches, seen.workers, bounds.high - seen.workers)
        more = useful if seen.room is None else min(useful, seen.room)
        if more <= 0:
            return Wanted(workers=seen.workers, reason=Reason.MEMORY)
        return Wanted(workers=seen.workers + more, reason=Reason.WAITING)
    fewer_would_do = seen.load <= FULL * (seen.workers - 1)
    calm = now - seen.waited_at >= CALM and now - seen.changed_at >= STEP
    if fewer_would_do and calm and seen.workers > max(bounds.low, 1):
        return Wanted(workers=seen.workers - 1, reason=Reason.IDLE)
    return Wanted(workers=seen.workers, reason=Reason.NONE)
