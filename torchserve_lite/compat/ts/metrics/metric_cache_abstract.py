"""``context.metrics`` as handlers know it: ``add_counter``, ``add_time`` and the rest, over metrics kept by name."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from ts.metrics import metric_cache_errors as merrors
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes

TIME_UNITS = ("ms", "s")
SIZE_UNITS = ("MB", "kB", "GB", "B")


class MetricCacheAbstract(abc.ABC):
    """Metrics by (kind, name). The first use of a name fixes its labels; later ones must bring as many values.

    The labels ``ModelName`` and ``Level`` are added to those given. Nothing is ever added to the caller's own list.
    """

    def __init__(self, config_file_path: str | None = None) -> None:
        self.cache: dict[MetricTypes, dict[str, CachingMetric]] = {}
        self.request_ids: dict[int, str] | str | None = None
        self.model_name: str | None = None
        self.config_file_path = config_file_path

    @abc.abstractmethod
    def initialize_cache(self) -> None:
        """Take over the metrics of the configuration file."""

    @abc.abstractmethod
    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """A new metric, or one in place of an equal one. Nothing is emitted."""

    @abc.abstractmethod
    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        """The metric of that name and kind, else ``MetricsCacheKeyError``."""

    def set_request_ids(self, request_ids: dict[int, str] | str | None) -> None:
        self.request_ids = request_ids

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self._update(name, value, unit, self._request_id(idx), self._with_model(dimensions), metric_type)

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        self.add_metric(name, value, "count", idx, dimensions)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        if unit not in TIME_UNITS:
            raise merrors.MetricsCacheValueError(
                f"add_time({name!r}): the unit must be one of {TIME_UNITS}, not {unit!r}"
            )
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        if unit not in SIZE_UNITS:
            raise ValueError(f"add_size({name!r}): the unit must be one of {SIZE_UNITS}, not {unit!r}")
        self.add_metric(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        self.add_metric(name, value, "percent", idx, dimensions, metric_type)

    def add_error(self, name: str, value: float, dimensions: Sequence[Dimension] | None = None) -> None:
        """An error belongs to the model, not to a request: no request id and the one label ``Level:Error``."""
        dimensions = [*(dimensions or ()), Dimension("Level", "Error")]
        self._update(name, value, "", "", dimensions, MetricTypes.COUNTER)

    def _update(
        self, name: str, value: float, unit: str, request_id: str, dimensions: list[Dimension], metric_type: MetricTypes
    ) -> None:
        try:
            metric = self.get_metric(name, metric_type)
        except merrors.MetricsCacheKeyError:
            names = [dimension.name for dimension in dimensions]
            metric = self.add_metric_to_cache(name, unit, names, metric_type)
        values = {dimension.name: dimension.value for dimension in dimensions}
        if len(values) == len(dimensions) and values.keys() == set(metric.dimension_names):
            in_order = [values[label] for label in metric.dimension_names]  # whoever defined it chose the order
        else:
            in_order = [dimension.value for dimension in dimensions]
        metric.add_or_update(value, in_order, request_id)

    def _with_model(self, dimensions: Sequence[Dimension] | None) -> list[Dimension]:
        given = list(dimensions or ())
        names = {dimension.name for dimension in given}
        ours = (Dimension("ModelName", self.model_name), Dimension("Level", "Model"))
        return given + [dimension for dimension in ours if dimension.name not in names]

    def _request_id(self, idx: int | None) -> str:
        """The id of request ``idx``; those of the whole batch when there is no such request."""
        if not isinstance(self.request_ids, dict):
            return self.request_ids or ""
        if idx in self.request_ids:
            return self.request_ids[idx]
        return ",".join(self.request_ids.values())

    @staticmethod
    def _check_type(value: Any, expected: type, text: str) -> None:
        if not isinstance(value, expected):
            raise merrors.MetricsCacheTypeError(text)
