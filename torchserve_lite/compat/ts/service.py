"""``Service``: a loaded handler with its context. The worker's own loop calls the entry point and encodes answers."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

from ts.context import Context, RequestProcessor
from ts.metrics import caching_metric
from ts.metrics.metric import Metric
from ts.protocol.otf_message_handler import create_predict_response
from ts.utils.util import PredictionException, get_yaml_config
from ts.version import __version__

__all__ = [
    "PREDICTION_METRIC",
    "Context",
    "PredictionException",
    "RequestProcessor",
    "Service",
    "create_predict_response",
    "emit_metrics",
    "get_yaml_config",
]

PREDICTION_METRIC = "PredictionTime"
logger = logging.getLogger(__name__)


class Service:
    """What ``TsModelLoader.load`` gives: ``context`` and the entry point to call as ``(data, context)``."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: dict[str, Any] | None,
        entry_point: Callable[[list[Any] | None, Context], Any],
        gpu: int | None,
        batch_size: int | None,
        limit_max_image_pixels: bool | None = True,
        metrics_cache: Any = None,
    ) -> None:
        config_file = ((manifest or {}).get("model") or {}).get("configFile")
        self._context = Context(
            model_name,
            model_dir,
            manifest,
            batch_size,
            gpu,
            __version__,
            limit_max_image_pixels,
            metrics_cache,
            get_yaml_config(os.path.join(model_dir, config_file)) if config_file else {},
        )
        self._entry_point = entry_point

    @property
    def context(self) -> Context:
        return self._context


def emit_metrics(metrics: Iterable[Any] | None) -> None:
    """Send each of the metrics, a ``Metric`` or a text in the form of its line, on its way."""
    for metric in metrics or ():
        if isinstance(metric, Metric):
            metric.emit()
        else:
            caching_metric.print_line(str(metric))
