"""What the project promises, computed from the results of one run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

Results = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """``value`` is what was measured; at most ``most``, or at least ``least``."""

    text: str
    value: float
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def met(self) -> bool:
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def goal(self) -> str:
        return f">= {self.least:.3g}{self.unit}" if self.least is not None else f"<= {self.most:.3g}{self.unit}"


def figures(results: Results, section: str, contender: str, figure: str) -> list[float]:
    """One figure of every round; empty when that was not measured."""
    rounds = results.get(section, {}).get("rounds", {}).get(contender, [])
    return [one[figure] for one in rounds]


def ratios(results: Results, section: str, figure: str, ours: str, theirs: str) -> list[float]:
    """Ours to theirs, round by round, so that what troubled the machine in a round troubled both."""
    pairs = zip(figures(results, section, ours, figure), figures(results, section, theirs, figure), strict=False)
    return [one / other for one, other in pairs]


def targets(results: Results) -> list[Target]:
    return [*load_targets(results), *start_targets(results)]


def load_targets(results: Results) -> Iterator[Target]:
    for section, figure, other, text, least, most in (
        ("noop32", "rate", "torchserve", "no-op, 32 clients: throughput to TorchServe's", 4.0, None),
        ("noop32", "cpu_seconds", "torchserve", "no-op, 32 clients: CPU a request to TorchServe's", None, 0.25),
        ("noop1", "p50", "torchserve", "no-op, 1 client: p50 to TorchServe's", None, 1 / 3),
        ("mnist", "rate", "torchserve", "MNIST: throughput to TorchServe's as installed", 3.0, None),
        ("mnist", "rate", "torchserve-omp1", "MNIST: throughput to TorchServe's with OMP_NUM_THREADS=1", 1.3, None),
        ("mnist", "rate", "ceiling", "MNIST: throughput to the plain loop's", 0.8, None),
    ):
        if found := ratios(results, section, figure, "ours", other):
            yield Target(text=text, value=median(found), least=least, most=most, unit="x")


def start_targets(results: Results) -> Iterator[Target]:
    for scenario in results.get("startup", {}).values():
        starts, model = scenario["starts"], scenario["model"]
        if starts.get("ours"):
            yield from own_start_targets(model, starts, scenario["model_load_seconds"])
        if starts.get("ours") and starts.get("torchserve"):
            yield from relative_start_targets(model, starts)


def middle(starts: Results, contender: str, figure: str) -> float:
    return float(median(start[figure] for start in starts[contender]))


def own_start_targets(model: str, starts: Results, load_seconds: float) -> Iterator[Target]:
    yield Target(
        text=f"{model}: first answer",
        value=middle(starts, "ours", "seconds"),
        most=middle(starts, "import torch", "seconds") + 0.8,
        unit=" s",
    )
    yield Target(
        text=f"{model}: one more worker",
        value=middle(starts, "ours", "scale_up_seconds") * 1000,
        most=300 + load_seconds * 1000,
        unit=" ms",
    )


def relative_start_targets(model: str, starts: Results) -> Iterator[Target]:
    for text, figure, most in (("first answer", "seconds", 1.0), ("memory", "memory", 0.6)):
        value = middle(starts, "ours", figure) / middle(starts, "torchserve", figure)
        yield Target(text=f"{model}: {text} to TorchServe's", value=value, most=most, unit="x")
