"""The metrics of a worker, optionally prepared from the ``model_metrics`` of a ``metrics.yaml``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import yaml
from ts.metrics import metric_cache_errors as merrors
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.metric_cache_abstract import MetricCacheAbstract
from ts.metrics.metric_type_enum import MetricTypes


class MetricsCacheYamlImpl(MetricCacheAbstract):
    """Without a file the cache starts empty: a metric exists from its first use."""

    def initialize_cache(self) -> None:
        if self.config_file_path is None:
            return
        for kind, entry in self._model_metrics(self.config_file_path):
            self.add_metric_to_cache(entry["name"], entry["unit"], entry["dimensions"], kind)

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        self._check_type(metric_name, str, "`metric_name` must be a str")
        self._check_type(unit, str, "`unit` must be a str")
        self._check_type(metric_type, MetricTypes, "`metric_type` must be a MetricTypes enum")
        metric = CachingMetric(metric_name, unit, list(dimension_names or []), metric_type)
        self.cache.setdefault(metric_type, {})[metric_name] = metric
        return metric

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        self._check_type(metric_name, str, "`metric_name` must be a str")
        self._check_type(metric_type, MetricTypes, "`metric_type` must be a MetricTypes enum")
        try:
            return self.cache[metric_type][metric_name]
        except KeyError:
            raise merrors.MetricsCacheKeyError(f"There is no {metric_type.value} named {metric_name!r}") from None

    def cache_keys(self) -> list[str]:
        return [f"{kind.value}:{name}" for kind, metrics in self.cache.items() for name in metrics]

    def _model_metrics(self, path: str) -> Iterator[tuple[MetricTypes, dict[str, Any]]]:
        try:
            with open(path, encoding="utf-8") as file:
                parsed = yaml.safe_load(file)
        except OSError as error:
            raise merrors.MetricsCacheIOError(f"Cannot read the metrics file: {error}") from error
        except yaml.YAMLError as error:
            raise merrors.MetricsCachePyYamlError(f"{path} is not valid YAML: {error}") from error
        self._check_type(parsed, dict, f"{path} must hold a mapping")
        section = parsed.get("model_metrics")
        if not section:
            raise merrors.MetricsCacheKeyError(f"{path} has no 'model_metrics'")
        for kind in MetricTypes:
            for entry in section.get(kind.value) or ():
                for key in ("name", "unit", "dimensions"):
                    if key not in entry or (key != "dimensions" and not entry[key]):
                        raise merrors.MetricsCacheKeyError(f"{path}: a metric lacks {key!r}: {entry}")
                yield kind, entry
