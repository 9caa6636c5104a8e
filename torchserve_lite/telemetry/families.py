"""Counters, gauges and histograms, and their text forms (Prometheus exposition format 0.0.4, OpenMetrics 1.0).

The stock client library is not used here: it appends ``_total`` to every counter and adds ``_created`` series, while
dashboards made for TorchServe ask for ``Requests2XX`` and ``ts_inference_latency_microseconds``. Its parser checks our
output in the tests.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from typing import Generic, TypeVar

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

Sample = tuple[str, tuple[tuple[str, str], ...], float, str]  # suffix, more labels, value, OpenMetrics' exemplar


class Value:
    """A counter's or a gauge's figure for one set of labels."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def set(self, value: float) -> None:
        self.value = value

    def samples(self) -> Iterator[Sample]:
        yield "", (), self.value, ""


class Distribution:
    """A histogram for one set of labels; ``bounds`` are inclusive upper edges."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._exemplars: dict[float, str] = {}  # by upper edge
        self.sum = 0.0

    def observe(self, value: float, trace_id: str = "") -> None:
        """``trace_id``: of the trace that tells how this value came about; the last one of each bucket is kept."""
        bucket = bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self.sum += value
        if trace_id:
            bound = self._bounds[bucket] if bucket < len(self._bounds) else float("inf")
            self._exemplars[bound] = f' # {{trace_id="{trace_id}"}} {_number(value)} {time.time():.3f}'

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """(upper edge, how many values were no larger), the last one with all of them."""
        total = 0
        for bound, count in zip((*self._bounds, float("inf")), self._counts, strict=True):
            total += count
            yield bound, total

    def samples(self) -> Iterator[Sample]:
        total = 0
        for bound, total in self.cumulative():
            yield "_bucket", (("le", _number(bound)),), total, self._exemplars.get(bound, "")
        yield "_sum", (), self.sum, ""
        yield "_count", (), total, ""


Kind = TypeVar("Kind", bound=Value | Distribution)


class Family(Generic[Kind]):
    """All label sets of one metric. ``of`` gives the figure for one of them; keep it where it is updated often."""

    def __init__(self, name: str, kind: str, unit: str, labels: Sequence[str], make: Callable[[], Kind]) -> None:
        self.name = name
        self.kind = kind
        self.labels = tuple(labels)
        self.unit = unit
        self._make = make
        self._figures: dict[tuple[str, ...], Kind] = {}

    def of(self, *values: str) -> Kind:
        figure = self._figures.get(values)
        if figure is None:
            if len(values) != len(self.labels):
                raise ValueError(f"{self.name} has the labels {self.labels}, not {len(values)} values")
            figure = self._figures[values] = self._new(values)
        return figure

    def _new(self, values: tuple[str, ...]) -> Kind:
        return self._make()

    def clear(self) -> None:
        self._figures.clear()

    def drop(self, is_gone: Callable[[Mapping[str, str]], bool]) -> None:
        """All label sets of which that is said. Figures that somebody has kept are counted on and not shown."""
        for values in list(self._figures):
            if is_gone(dict(zip(self.labels, values, strict=True))):
                del self._figures[values]

    def keep_newest(self, most: int) -> None:
        for values in list(self._figures)[:-most]:
            del self._figures[values]

    def lines(self, named: Set[str]) -> Iterator[str]:
        """All samples when the family (or nothing at all) is named, else those that are."""
        whole = not named or self.name in named
        samples = [line for name, line, _ in self._samples() if whole or name in named]
        if whole or samples:
            unit = self.unit.replace("\\", "\\\\").replace("\n", "\\n")
            yield f"# HELP {self.name} Torchserve prometheus {self.kind} metric with unit: {unit}"
            yield f"# TYPE {self.name} {self.kind}"
            yield from samples

    def openmetrics(self, named: Set[str]) -> Iterator[str]:
        """The whole family when it, any of its samples, or nothing at all is named.

        A counter's name has to end in ``_total`` there. TorchServe's do not, and Prometheus asks for this form before
        the other: so that dashboards find them in both, they are of the type that nothing is known of.
        """
        samples = list(self._samples())
        if named and self.name not in named and not any(name in named for name, _, _ in samples):
            return
        name, kind = self.name, self.kind
        if kind == "counter":
            name, kind = (name.removesuffix("_total"), kind) if name.endswith("_total") else (name, "unknown")
        unit = self.unit.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        yield f"# TYPE {name} {kind}"
        yield f"# HELP {name} Torchserve prometheus {self.kind} metric with unit: {unit}"
        for _, line, exemplar in samples:
            yield f"{line}{exemplar}"

    def _samples(self) -> Iterator[tuple[str, str, str]]:
        """Name, line, and the exemplar that only OpenMetrics has."""
        for values, figure in self._figures.items():
            own = tuple(zip(self.labels, values, strict=True))
            for suffix, more, value, exemplar in figure.samples():
                name = f"{self.name}{suffix}"
                pairs = []
                for label, text in (*own, *more):
                    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
                    pairs.append(f'{label}="{escaped}"')
                labels = f"{{{','.join(pairs)}}}" if pairs else ""
                yield name, f"{name}{labels} {_number(value)}", exemplar


class Registry:
    """Every family. ``before_render`` functions bring gauges up to date when somebody looks.

    ``exposed``: the endpoint shows these alone; None: all.
    """

    def __init__(self, exposed: Set[str] | None = None) -> None:
        self._exposed = exposed
        self._families: dict[str, Family[Value] | Family[Distribution]] = {}
        self.before_render: list[Callable[[], None]] = []

    def counter(self, name: str, unit: str, labels: Sequence[str]) -> Family[Value]:
        return self.add(Family(name, "counter", unit, labels, Value))

    def gauge(self, name: str, unit: str, labels: Sequence[str]) -> Family[Value]:
        return self.add(Family(name, "gauge", unit, labels, Value))

    def histogram(self, name: str, unit: str, labels: Sequence[str], bounds: Sequence[float]) -> Family[Distribution]:
        family = Family(name, "histogram", unit, labels, lambda: Distribution(bounds))
        self._families[name] = family
        return family

    def drop(self, is_gone: Callable[[Mapping[str, str]], bool]) -> None:
        for family in self._families.values():
            family.drop(is_gone)

    def get(self, name: str) -> Family[Value] | Family[Distribution] | None:
        return self._families.get(name)

    def names(self) -> Sequence[str]:
        return tuple(self._families)

    def render(self, names: Iterable[str] = (), *, openmetrics: bool = False) -> str:
        """The exposition text; ``names``: only these samples, or all of these families (everything when empty).
        ``openmetrics``: in the form of that name (https://prometheus.io/docs/specs/om/), with exemplars."""
        for refresh in self.before_render:
            refresh()
        named = set(names)
        lines: list[str] = []
        for family in self._families.values():
            if self._exposed is None or family.name in self._exposed:
                lines.extend(family.openmetrics(named) if openmetrics else family.lines(named))
        if openmetrics:
            lines.append("# EOF")
        return "\n".join(lines) + "\n" if lines else ""

    def add(self, family: Family[Value]) -> Family[Value]:
        self._families[family.name] = family
        return family


def exposed_name(name: str) -> str:
    """As the text format allows it; handlers choose names with ``-`` and ``.``, and one bad name spoils the page."""
    allowed = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return allowed if allowed[:1].strip("0123456789") else f"_{allowed}"


def _number(value: float) -> str:
    return "+Inf" if value == float("inf") else repr(float(value))
