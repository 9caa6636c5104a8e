"""Metrics of every kind, added, fetched and emitted through the context."""

from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes
from ts.service import emit_metrics


class CustomMetrics:
    def initialize(self, context: Any) -> None:
        self.calls = context.metrics.add_metric_to_cache(
            metric_name="CompatCalls", unit="count", dimension_names=["Kind"], metric_type=MetricTypes.COUNTER
        )

    def handle(self, data: list[Any], context: Any) -> list[Any]:
        metrics = context.metrics
        metrics.add_counter("CompatCounter", 2, 0)
        metrics.add_time("CompatTime", 12.5, 0, "ms")
        metrics.add_size("CompatSize", 3, 0, "kB")
        metrics.add_percent("CompatPercent", 50, 0)
        metrics.add_error("CompatError", 1)
        metrics.add_metric("CompatGauge", 7, "count", 0, [Dimension("Shelf", "top")], MetricTypes.GAUGE)
        self.calls.add_or_update(1, ["first"])
        return [{"dimension": str(Dimension("Shelf", "top")), "refused": refusals(metrics)} for _ in data]


def refusals(metrics: Any) -> list[str]:
    attempts = [
        lambda: metrics.add_counter("CompatNegative", -1, 0),
        lambda: metrics.add_percent("CompatWord", "many", 0),
        lambda: metrics.add_size("CompatUnit", 1, 0, "bushel"),
        lambda: metrics.get_metric("CompatUnknown"),
        lambda: metrics.add_error("CompatWord", "broken cup"),
        lambda: emit_metrics({}),
    ]
    return [outcome(attempt) for attempt in attempts]


def outcome(attempt: Any) -> str:
    try:
        attempt()
    except Exception as error:
        return type(error).__name__
    return "accepted"
