"""What the project promises of its speed and memory, held against the results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.rounds import median_ratio, values

Results = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Promise:
    """A target's figure to another's, at least ``least`` or at most ``most``; with neither, it is only told. Without
    another the figure itself is promised, in its own unit."""

    scenario: str
    series: int
    figure: str
    other: str = ""
    target: str = "ours"
    least: float | None = None
    most: float | None = None

    def holds(self, ratio: float) -> bool:
        return (self.least is None or ratio >= self.least) and (self.most is None or ratio <= self.most)

    @property
    def goal(self) -> str:
        if self.least is not None:
            return f">= {self.least:g}x"
        return "" if self.most is None else f"<= {self.most:g}x"

    def measured(self, results: Results) -> float | None:
        rounds = rounds_of(results, self.scenario, self.series)
        if self.other:
            return median_ratio(rounds, self.figure, self.target, self.other)
        found = values(rounds, self.target, self.figure)
        return median(found) if found else None


def at_least(scenario: str, series: int, figure: str, other: str, least: float) -> Promise:
    return Promise(scenario=scenario, series=series, figure=figure, other=other, least=least)


def at_most(scenario: str, series: int, figure: str, other: str, most: float) -> Promise:
    return Promise(scenario=scenario, series=series, figure=figure, other=other, most=most)


def itself_at_most(scenario: str, series: int, figure: str, most: float) -> Promise:
    return Promise(scenario=scenario, series=series, figure=figure, most=most)


PROMISES = (
    at_least("noop", 32, "rate", "mosec", 0.95),
    at_most("noop", 32, "cpu_seconds", "mosec", 1.1),
    at_least("noop", 128, "rate", "mosec", 1.0),
    at_least("noop", 32, "rate", "torchserve", 4.0),
    at_most("noop", 1, "p50", "mosec", 0.15),
    at_most("noop", 1, "p50", "torchserve", 0.35),
    at_most("noop-single", 1, "p50", "torchserve", 0.35),
    *(
        promise
        for form in ("mnist-png", "mnist-json")
        for promise in (
            at_least(form, 32, "rate", "torchserve", 3.0),
            at_least(form, 32, "rate", "torchserve-omp1", 1.6),
            at_most(form, 32, "p99", "mosec", 1.0),
            *(at_least(form, clients, "rate", "mosec", 0.9) for clients in (32, 128)),
            *(
                Promise(scenario=form, series=clients, figure="rate", target="ours-affinity", other="mosec", least=1.0)
                for clients in (32, 128)
            ),
            *(Promise(scenario=form, series=clients, figure="rate", other="loop") for clients in (32, 128)),
        )
    ),
    at_least("bert", 32, "rate", "loop", 0.95),
    at_least("echo-100k", 4, "rate", "torchserve", 5.0),
    at_least("echo-1m", 4, "rate", "mosec", 1.0),
    at_least("echo-10m", 4, "rate", "mosec", 1.0),
    at_least("echo-10m", 4, "rate", "torchserve", 2.0),
    itself_at_most("echo-1m", 4, "peak_payloads", 1.5),
    itself_at_most("echo-10m", 4, "peak_payloads", 1.5),
    itself_at_most("idle", 1000, "connection_memory", 20 * 1024),
    at_most("many-models", 32, "rate", "ours-500-models", 1.05),
    at_most("memory", 1, "start_seconds", "torchserve", 0.5),
)
MOST_MEMORY_OF_FOUR_WORKERS = 1.3  # to one worker's


def rounds_of(results: Results, scenario: str, series: int) -> list[dict[str, dict[str, float]]]:
    found: list[dict[str, dict[str, float]]]
    found = results.get(scenario, {}).get("series", {}).get(str(series), {}).get("rounds", [])
    return found


def checked(results: Results) -> Iterator[tuple[Promise, float]]:
    """Each promise that was measured, and the ratio."""
    for promise in PROMISES:
        if (ratio := promise.measured(results)) is not None:
            yield promise, ratio


def memory_of_four_workers(results: Results) -> float | None:
    """Ours with four workers of the large model to ours with one; started one by one, they share no round."""
    one, four = (values(rounds_of(results, "memory", workers), "ours", "memory") for workers in (1, 4))
    return median(four) / median(one) if one and four else None
