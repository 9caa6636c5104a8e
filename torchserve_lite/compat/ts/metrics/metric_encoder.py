"""JSON for metrics and their dimensions."""

from json import JSONEncoder
from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric


class MetricEncoder(JSONEncoder):
    def default(self, obj: Any) -> Any:
        if isinstance(obj, Metric | Dimension):
            return obj.to_dict()
        return super().default(obj)
