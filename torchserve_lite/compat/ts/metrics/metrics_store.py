"""``MetricsStore``: a list of metrics to emit together, the collection of handlers' older unit tests."""

from __future__ import annotations

from collections.abc import Sequence

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric

TIME_UNITS = ("ms", "s")
SIZE_UNITS = ("MB", "kB", "GB", "B")


class MetricsStore:
    """Metrics in ``store``, one for each name, unit and request; ``ts.service.emit_metrics(store)`` emits them."""

    def __init__(self, request_ids: dict[int, str] | None, model_name: str) -> None:
        self.store: list[Metric] = []
        self.request_ids = request_ids
        self.model_name = model_name
        self.cache: dict[tuple[str, str | None, str | None], Metric] = {}

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        self._add_or_update(name, value, self._get_req(idx), "count", "counter", dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        if unit not in TIME_UNITS:
            raise ValueError(f"add_time({name!r}): the unit must be one of {TIME_UNITS}, not {unit!r}")
        self._add_or_update(name, value, self._get_req(idx), unit, None, dimensions)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        if unit not in SIZE_UNITS:
            raise ValueError(f"add_size({name!r}): the unit must be one of {SIZE_UNITS}, not {unit!r}")
        self._add_or_update(name, value, self._get_req(idx), unit, None, dimensions)

    def add_percent(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        self._add_or_update(name, value, self._get_req(idx), "percent", None, dimensions)

    def add_error(self, name: str, value: float, dimensions: Sequence[Dimension] | None = None) -> None:
        dimensions = [*(dimensions or ()), Dimension("Level", "Error")]
        self._store(Metric(name, value, "", dimensions, None, "counter"))

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        self._add_or_update(name, value, self._get_req(idx), unit, None, dimensions)

    def _add_or_update(
        self,
        name: str,
        value: float,
        req_id: str | None,
        unit: str | None,
        metrics_method: str | None = None,
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """A second update of a counter adds to it; of anything else, replaces it."""
        known = self.cache.get((name, unit, req_id))
        if known is not None:
            known.value = known.value + value if metrics_method == "counter" else value
            return
        dimensions = [*(dimensions or ()), Dimension("ModelName", self.model_name), Dimension("Level", "Model")]
        metric = Metric(name, value, unit, dimensions, req_id, metrics_method)
        self.cache[name, unit, req_id] = metric
        self._store(metric)

    def _store(self, metric: Metric) -> None:
        self.store.append(metric)

    def _get_req(self, idx: int | None) -> str | None:
        if not isinstance(self.request_ids, dict):
            return self.request_ids
        if idx in self.request_ids:
            return self.request_ids[idx]
        return ",".join(self.request_ids.values())
