"""Updates metrics that the server's metrics file defines, fetched by name, and one under labels in another order."""

from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes


class DefinedMetrics:
    def initialize(self, context: Any) -> None:
        context.metrics.get_metric("CompatLoads").add_or_update(1, [context.model_name])

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        metrics = context.metrics
        metrics.get_metric("CompatRows", MetricTypes.GAUGE).add_or_update(len(data), ["first", "second"])
        metrics.get_metric("CompatWeight", MetricTypes.HISTOGRAM).add_or_update(0.3, [])
        metrics.add_counter("CompatPlain", 2, 0)
        metrics.add_counter("CompatShelf", 3, 0, [Dimension("Shelf", "top")])
        metrics.add_counter("CompatUndefined", 1, 0)
        metrics.add_time("CompatKind", 4, 0, "ms", [Dimension("Shelf", "top")])
        try:
            metrics.get_metric("CompatWeight")
        except KeyError:
            return [sorted(key for key in metrics.cache_keys() if "Compat" in key) for _ in data]
        return ["a histogram is no counter" for _ in data]
