"""Which figures the server keeps, and where each event of the server goes in them.

Names and labels of TorchServe's metrics are kept. Ours fill what it does not tell: distributions instead of running
sums, errors by model, queue depth, batch size and the state of workers.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterable

from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.core.models import ModelKey, ModelStatus, WorkerState
from torchserve_lite.ipc.messages import Metric
from torchserve_lite.telemetry.families import SECONDS, SIZES, Distribution, Family, Registry, Value, exposed_name

log = logging.getLogger(__name__)

_MODEL = ("model_name", "model_version")
_HANDLER_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PRINTED = re.compile(  # a metric that a handler printed by hand, in the worker's text form
    r"\[METRICS\](?P<name>[^:|]+)\.(?P<unit>[^.:|]*):(?P<value>[^|]+)\|#(?P<dims>[^|]*)(?:\|#type:(?P<kind>\w+))?\|#hostname:"
)


class ModelFigures:
    """The figures of one model version, looked up once."""

    __slots__ = ("batch_size", "latency", "latency_sum", "queue_sum", "queue_time", "requests")

    def __init__(self, metrics: ServerMetrics, key: ModelKey) -> None:
        labels = (key.name, key.version)
        self.requests = metrics.requests.of(*labels, metrics.hostname)
        self.latency_sum = metrics.latency_sum.of(*labels, metrics.hostname)
        self.queue_sum = metrics.queue_sum.of(*labels, metrics.hostname)
        self.latency = metrics.latency.of(*labels)
        self.queue_time = metrics.queue_time.of(*labels)
        self.batch_size = metrics.batch_size.of(*labels)


class ServerMetrics:
    """All families of the server in one place."""

    def __init__(self, config: MetricsConfig) -> None:
        self.hostname = socket.gethostname()
        self.registry = registry = Registry()
        self._auto_detect = config.auto_detect
        host = ("Level", "Hostname")
        self._by_class = [
            registry.counter(f"Requests{group}XX", "Count", host).of("Host", self.hostname) for group in (2, 4, 5)
        ]
        torchserve = (*_MODEL, "hostname")
        self.requests = registry.counter("ts_inference_requests_total", "Count", torchserve)
        self.latency_sum = registry.counter("ts_inference_latency_microseconds", "Microseconds", torchserve)
        self.queue_sum = registry.counter("ts_queue_latency_microseconds", "Microseconds", torchserve)
        self._last_queue_time = registry.gauge("QueueTime", "Milliseconds", host).of("Host", self.hostname)
        self._load_time = registry.gauge("WorkerLoadTime", "Milliseconds", ("WorkerName", *host))
        self.latency = registry.histogram("ts_inference_seconds", "Seconds", _MODEL, SECONDS)
        self.queue_time = registry.histogram("ts_queue_seconds", "Seconds", _MODEL, SECONDS)
        self.batch_size = registry.histogram("ts_batch_size", "Count", _MODEL, SIZES)
        self._errors = registry.counter("ts_inference_errors_total", "Count", (*_MODEL, "code"))
        self._queued = registry.gauge("ts_queue_length", "Count", _MODEL)
        self._running = registry.gauge("ts_running_requests", "Count", _MODEL)
        self._workers = registry.gauge("ts_workers", "Count", (*_MODEL, "state"))
        self._restarts = registry.counter("ts_worker_failures_total", "Count", _MODEL)
        handler = ("ModelName", "Level", "Hostname")
        for name in ("HandlerTime", "PredictionTime"):
            registry.gauge(name, "ms", handler)
        self._figures: dict[ModelKey, ModelFigures] = {}

    def model(self, key: ModelKey) -> ModelFigures:
        figures = self._figures.get(key)
        if figures is None:
            figures = self._figures[key] = ModelFigures(self, key)
        return figures

    def count_response(self, status: int) -> None:
        self._by_class[0 if 200 <= status < 300 else 1 if 400 <= status < 500 else 2].inc()

    def answered(self, key: ModelKey, waited: float, total: float) -> None:
        """A successful answer: seconds in the queue, seconds from arrival to answer."""
        figures = self.model(key)
        figures.queue_sum.inc(waited * 1e6)
        figures.latency_sum.inc(total * 1e6)
        figures.queue_time.observe(waited)
        figures.latency.observe(total)
        self._last_queue_time.set(int(waited * 1000))

    def failed(self, key: ModelKey, code: str) -> None:
        self._errors.of(key.name, key.version, code).inc()

    def worker_loaded(self, key: ModelKey, worker_id: str, seconds: float) -> None:
        self._load_time.of(f"W-{worker_id}-{key}", "Host", self.hostname).set(round(seconds * 1000))

    def worker_failed(self, key: ModelKey) -> None:
        self._restarts.of(key.name, key.version).inc()

    def show(self, statuses: Iterable[ModelStatus]) -> None:
        """Brings the gauges of queues and workers up to date."""
        for status in statuses:
            labels = (status.key.name, status.key.version)
            self._queued.of(*labels).set(status.queued)
            self._running.of(*labels).set(status.running)
            for state in WorkerState:
                count = sum(worker.state is state for worker in status.workers)
                self._workers.of(*labels, state.lower()).set(count)

    def prediction_time(self, key: ModelKey, seconds: float) -> None:
        self.handler_metric(
            Metric("PredictionTime", "gauge", "ms", seconds * 1000, (("ModelName", key.name), ("Level", "Model")))
        )

    def handler_metric(self, metric: Metric) -> None:
        """A metric of a handler. One that the catalogue does not know is kept only with model_metrics_auto_detect."""
        family = self.registry.get(exposed_name(metric.name))
        if family is None:
            if not self._auto_detect:
                return
            family = self._detect(metric)
        try:
            figure = family.of(*(value for _, value in metric.labels), self.hostname)
        except ValueError as error:
            log.warning("The handler metric is dropped: %s", error)
            return
        _update(figure, metric)

    def printed_metric(self, line: str) -> bool:
        """Whether a printed line was a metric; if so, it has been taken."""
        match = _PRINTED.match(line)
        if match is None:
            return False
        pairs = (pair.split(":", 1) for pair in match["dims"].split(",") if ":" in pair)
        labels = tuple((name, value) for name, value in pairs)
        try:
            value = float(match["value"])
        except ValueError:
            return False
        kind = (match["kind"] or "counter").lower()
        self.handler_metric(Metric(match["name"], kind, match["unit"], value, labels))
        return True

    def _detect(self, metric: Metric) -> Family[Value] | Family[Distribution]:
        name = exposed_name(metric.name)
        labels = list(dict.fromkeys([*(exposed_name(label) for label, _ in metric.labels), "Hostname"]))
        if metric.kind == "histogram":
            return self.registry.histogram(name, metric.unit, labels, _HANDLER_BUCKETS)
        if metric.kind == "gauge":
            return self.registry.gauge(name, metric.unit, labels)
        return self.registry.counter(name, metric.unit, labels)


def _update(figure: Value | Distribution, metric: Metric) -> None:
    if isinstance(figure, Distribution):
        figure.observe(metric.value)
    elif metric.kind == "gauge":
        figure.set(metric.value)
    else:
        figure.inc(metric.value)
