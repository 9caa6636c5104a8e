"""What models did in a span of time, from the totals at its two ends: for ``torchserve-lite top`` and the console."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

Version = tuple[str, str]  # a model's name and version


@dataclass(slots=True)
class Totals:
    """A version's counts, since the server's start or in a span of time, and how it is at this moment."""

    answered: float = 0
    errors: float = 0
    batches: float = 0
    batched: float = 0  # jobs in all batches
    buckets: dict[float, float] = field(default_factory=dict)  # upper bound in seconds -> answers that took no longer
    queued: int = 0
    running: int = 0
    workers: dict[str, int] = field(default_factory=dict)  # state -> how many
    memory: float = 0  # bytes of all workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Rates are per second; None: nothing was answered that could be measured."""

    rate: float
    errors: float
    latencies: tuple[float, float, float] | None  # seconds: median, 95 and 99 in a hundred
    batch_size: float | None
    queued: int
    running: int
    workers: Mapping[str, int]
    memory: float  # bytes


def since(before: Totals, now: Totals) -> Totals:
    """What was counted in between; everything, when the server was started anew. What is no count is as it is now."""
    if now.answered < before.answered:
        return now
    buckets: dict[float, float] = {}
    if now.answered > before.answered:  # else all would be 0, as those of most models are most of the time
        buckets = {bound: count - before.buckets.get(bound, 0) for bound, count in now.buckets.items()}
    return replace(
        now,
        answered=now.answered - before.answered,
        errors=now.errors - before.errors,
        batches=now.batches - before.batches,
        batched=now.batched - before.batched,
        buckets=buckets,
    )


def summed(counted: Iterable[Totals]) -> Totals:
    """Of several versions together."""
    total = Totals()
    for one in counted:
        total.answered += one.answered
        total.errors += one.errors
        total.batches += one.batches
        total.batched += one.batched
        total.queued += one.queued
        total.running += one.running
        total.memory += one.memory
        for bound, count in one.buckets.items():
            total.buckets[bound] = total.buckets.get(bound, 0) + count
        for state, number in one.workers.items():
            total.workers[state] = total.workers.get(state, 0) + number
    return total


def figures(counted: Totals, seconds: float) -> Figures:
    """``counted`` in so many seconds."""
    buckets = sorted(counted.buckets.items())
    return Figures(
        rate=counted.answered / seconds,
        errors=counted.errors / seconds,
        latencies=(percentile(buckets, 0.5), percentile(buckets, 0.95), percentile(buckets, 0.99))
        if buckets and buckets[-1][1] > 0
        else None,
        batch_size=counted.batched / counted.batches if counted.batches > 0 else None,
        queued=counted.queued,
        running=counted.running,
        workers={state: number for state, number in counted.workers.items() if number},
        memory=counted.memory,
    )


def percentile(buckets: Sequence[tuple[float, float]], share: float) -> float:
    """As Prometheus reckons it: within a bucket, answers are taken to lie evenly. ``buckets``: (upper bound, answers
    that took no longer), ascending; beyond the last finite bound all that is known is that bound."""
    wanted = buckets[-1][1] * share
    low, below = 0.0, 0.0
    for high, count in buckets:
        if count >= wanted and count > below:
            return low if high == float("inf") else low + (high - low) * (wanted - below) / (count - below)
        low, below = high, count
    return low
