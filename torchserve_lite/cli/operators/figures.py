"""What happened between two looks at a server's metrics, for each model version."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

_SAMPLE = re.compile(r"(?P<name>[A-Za-z_:][\w:]*)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Version = tuple[str, str]  # a model's name and version


@dataclass(frozen=True, slots=True)
class Look:
    """A metrics page, and when it was read (seconds of a clock that does not go back)."""

    at: float
    page: str

    def samples(self) -> Iterator[tuple[str, Mapping[str, str], float]]:
        for line in self.page.splitlines():
            if (found := _SAMPLE.fullmatch(line)) and line.startswith("ts_"):
                labels = {name: _unescaped(text) for name, text in _LABEL.findall(found["labels"] or "")}
                yield found["name"], labels, float(found["value"])


@dataclass(slots=True)
class _Totals:
    """One version's figures on one page."""

    sums: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    buckets: dict[float, float] = field(default_factory=dict)  # upper bound -> answers that took no longer
    workers: dict[str, int] = field(default_factory=dict)


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


def between(before: Look, now: Look) -> dict[Version, Figures]:
    earlier, later = _totals(before), _totals(now)
    seconds = max(now.at - before.at, 1e-9)
    return {
        version: _figures(_since(earlier.get(version, _Totals()), totals), totals, seconds)
        for version, totals in sorted(later.items())
    }


def server_memory(look: Look) -> float:
    return sum(
        value
        for name, labels, value in look.samples()
        if name == "ts_process_memory_bytes" and not labels.get("model_name")
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


def _totals(look: Look) -> dict[Version, _Totals]:
    found: dict[Version, _Totals] = {}
    for name, labels, value in look.samples():
        version = labels.get("model_name", ""), labels.get("model_version", "")
        if not version[0]:
            continue
        totals = found.setdefault(version, _Totals())
        if name == "ts_inference_seconds_bucket":
            totals.buckets[float(labels["le"])] = value
        elif name == "ts_workers":
            totals.workers[labels["state"]] = int(value)
        else:
            totals.sums[name] += value
    return {version: totals for version, totals in found.items() if totals.workers}


def _since(before: _Totals, now: _Totals) -> _Totals:
    """What was counted in between; everything, when the server was started anew."""
    if now.sums["ts_inference_seconds_count"] < before.sums["ts_inference_seconds_count"]:
        return now
    return _Totals(
        defaultdict(float, {name: value - before.sums[name] for name, value in now.sums.items()}),
        {bound: count - before.buckets.get(bound, 0) for bound, count in now.buckets.items()},
    )


def _figures(counted: _Totals, now: _Totals, seconds: float) -> Figures:
    buckets, batches = sorted(counted.buckets.items()), counted.sums["ts_batch_size_count"]
    return Figures(
        rate=counted.sums["ts_inference_seconds_count"] / seconds,
        errors=counted.sums["ts_inference_errors_total"] / seconds,
        latencies=(percentile(buckets, 0.5), percentile(buckets, 0.95), percentile(buckets, 0.99))
        if buckets and buckets[-1][1] > 0
        else None,
        batch_size=counted.sums["ts_batch_size_sum"] / batches if batches > 0 else None,
        queued=int(now.sums["ts_queue_length"]),
        running=int(now.sums["ts_running_requests"]),
        workers={state: number for state, number in now.workers.items() if number},
        memory=now.sums["ts_process_memory_bytes"],
    )


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: "\n" if found[1] == "n" else found[1], text)
