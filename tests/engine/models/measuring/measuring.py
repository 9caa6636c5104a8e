"""Counts in metrics that the server's configuration defines, from its initialisation on."""

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes


class Measuring:
    def initialize(self, context):
        context.metrics.get_metric("Loads").add_or_update(1, [context.model_name])

    def handle(self, data, context):
        context.metrics.get_metric("Rows", MetricTypes.HISTOGRAM).add_or_update(len(data), [])
        shelf, place = Dimension("Shelf", "top"), Dimension("Place", "left")
        context.metrics.add_metric("Shelves", 2, "count", 0, [shelf, place], MetricTypes.GAUGE)
        return sorted(context.metrics.cache_keys())[: len(data)]
