"""``Metric``: a value with its unit and labels, from before metrics were kept by name."""

from __future__ import annotations

import socket
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from ts.metrics import caching_metric
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import Units, unit_word

MetricUnit = Units()


class Metric:
    """``update`` adds to a counter (``metric_method="counter"``), replaces any other value, and emits what it got."""

    def __init__(
        self,
        name: str,
        value: float,
        unit: str | None,
        dimensions: Sequence[Dimension],
        request_id: str | None = None,
        metric_method: str | MetricTypes | None = None,
    ) -> None:
        self.name = name
        self.unit = unit_word(unit)
        self.dimensions = dimensions
        self.request_id = request_id
        self.metric_method = metric_method
        self.value = value
        self.metric_type = MetricTypes.GAUGE if metric_method is None else MetricTypes(metric_method)

    def update(self, value: float) -> None:
        self.value = self.value + value if self.metric_type is MetricTypes.COUNTER else value
        self.emit(value)

    def reset(self) -> None:
        self.value = 0

    def emit(self, value: float | None = None) -> None:
        labels = [(dimension.name, str(dimension.value)) for dimension in self.dimensions]
        number = self.value if value is None else value
        caching_metric.emit(self.name, self.metric_type, self.unit, number, labels, self.request_id or "")

    def __str__(self) -> str:
        dimensions = ",".join(map(str, self.dimensions))
        stamp = ",".join(filter(None, [socket.gethostname(), str(int(time.time())), self.request_id]))
        return f"{self.name}.{self.unit}:{self.value}|#{dimensions}|#hostname:{stamp}"

    def to_dict(self) -> OrderedDict[str, Any]:
        return OrderedDict(
            MetricName=self.name,
            Value=self.value,
            Unit=self.unit,
            Dimensions=self.dimensions,
            Timestamp=int(time.time()),
            HostName=socket.gethostname(),
            RequestId=self.request_id,
        )
