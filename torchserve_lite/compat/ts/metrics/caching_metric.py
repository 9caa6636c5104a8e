"""One metric of a handler: takes updates and hands each to whoever collects them.

Inside a worker that is the sink of ``emit_to``: updates travel with the answers, so that names with ``-`` or ``.``,
labels with ``:`` and large values arrive as they are. Without a sink (a user's own test, a script) each update is
printed as the ``[METRICS]`` line that TorchServe prints.
"""

from __future__ import annotations

import logging
import socket
import sys
import time
from collections.abc import Callable, Sequence

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import unit_word

Labels = list[tuple[str, str]]
Sink = Callable[[str, str, str, float, Labels, str], None]

logger = logging.getLogger(__name__)
_sink: Sink | None = None


def emit_to(sink: Sink | None) -> None:
    """From now on ``sink(name, kind, unit, value, labels, request_ids)`` gets every update; None: they are printed.

    ``kind`` is counter, gauge or histogram; ``unit`` a word (``Milliseconds``); ``request_ids`` joined by commas.
    """
    global _sink
    _sink = sink


def emit(name: str, kind: MetricTypes, unit: str, value: float, labels: Labels, request_ids: str) -> None:
    if _sink is not None:
        _sink(name, kind.value, unit, value, labels, request_ids)
        return
    dimensions = ",".join(f"{label}:{text}" for label, text in labels)
    stamp = ",".join(filter(None, [socket.gethostname(), str(int(time.time())), request_ids]))
    # The line's readers know no "+" in a number: 1e+25 would be lost.
    number = str(value).replace("e+", "e")
    print_line(f"{name}.{unit}:{number}|#{dimensions}|#type:{kind.name}|#hostname:{stamp}")


def print_line(line: str) -> None:
    """To stdout in one write, whatever the handler has done to logging: lines of several threads stay whole."""
    sys.stdout.write(f"[METRICS]{line}\n")
    sys.stdout.flush()


class CachingMetric:
    """A metric with its name, unit, kind and the names of its labels; the values come with each update.

    A refused update (wrong number of labels, a counter that would go down) is a logged error and not an exception:
    a metric must not cost a prediction.
    """

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: list[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self.metric_name = metric_name
        self.unit = unit_word(unit)
        self.dimension_names = list(dimension_names or [])
        self.metric_type = metric_type

    def add_or_update(self, value: float, dimension_values: Sequence[object] = (), request_id: str = "") -> None:
        labels: Labels = []
        number = 0.0
        shown: object = value
        try:
            problem = self._problem(value, dimension_values)
            if not problem:
                labels = list(zip(self.dimension_names, map(str, dimension_values), strict=True))
                number = value if isinstance(value, int) and abs(value) < 2**63 else float(value)
        except Exception as error:  # the value, or that of a label, is of a class that cannot be converted
            problem, shown = f"it cannot be converted ({type(error).__name__})", f"a {type(value).__name__}"
        if problem:
            logger.error("Metric %s not updated with %s: %s", self.metric_name, shown, problem)
            return
        emit(self.metric_name, self.metric_type, self.unit, number, labels, request_id or "")

    def update(self, value: float, request_id: str = "", dimensions: Sequence[Dimension] = ()) -> None:
        """The older form: ``dimensions`` bring their own names, which replace the metric's."""
        self.dimension_names = [dimension.name for dimension in dimensions]
        self.add_or_update(value, [dimension.value for dimension in dimensions], request_id)

    def _problem(self, value: float, dimension_values: Sequence[object]) -> str:
        if not hasattr(value, "__float__"):
            return f"a value must be a number, not {type(value).__name__}"
        if self.metric_type is MetricTypes.COUNTER and not value >= 0:
            return "a counter only goes up"
        if len(dimension_values) != len(self.dimension_names):
            return f"values {list(dimension_values)} do not match the dimensions {self.dimension_names}"
        return ""
