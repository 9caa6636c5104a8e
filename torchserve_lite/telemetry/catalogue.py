"""Which figures the server keeps, and where each event of the server goes in them.

Names and labels of TorchServe's metrics are kept. Ours fill what it does not tell: distributions instead of running
sums, errors by model, queue depth, batch size and the state of workers.
"""

from __future__ import annotations

import logging
import platform
import re
import socket
from collections.abc import Iterable, Mapping, Sequence

from torchserve_lite import __version__
from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.metrics import SERVER_METRICS, MetricDefinition
from torchserve_lite.core.models import ModelKey, ModelStatus, WorkerState
from torchserve_lite.errors import ConfigurationError, WorkerFailure
from torchserve_lite.ipc.messages import BatchDone, Metric
from torchserve_lite.telemetry.families import SECONDS, SIZES, Distribution, Family, Registry, Value, exposed_name
from torchserve_lite.telemetry.metric_lines import HANDLER_LINES, LoggedFamily, metric_line
from torchserve_lite.telemetry.rates import Totals

log = logging.getLogger(__name__)

_MODEL = ("model_name", "model_version")
_EXPOSED = {  # by metrics_mode: what the endpoint shows. The others of TorchServe's metrics go to its logs
    "prometheus": None,
    "log": frozenset[str](),
    "legacy": frozenset(
        {"ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds"}
    ),
}
_RELEASES = ("full", "clients", "delay", "alone")
# A counter that appears with its first event has, to Prometheus, never grown by it. So these are there from the start.
_REASONS = {
    "ts_inference_errors_total": (
        "AnswerTooLarge", "DeadlineExceeded", "HandlerError", "InvalidInput", "ModelFailed", "ModelLoading",
        "NoWorkers", "OutOfMemory", "PredictionFailed", "QueueFull", "ResponseTimeout", "WorkerDied", "WorkerKilled",
        "WorkerRestarting",
    ),
    "ts_worker_failures_total": (
        "LoadFailed", "LoadOutOfMemory", "ResponseTimeout", "SlotFailed", "WorkerDied", "WorkerKilled",
    ),
    "ts_wasted_requests_total": ("client_left", "deadline"),
    "ts_autoscaling_decisions_total": ("requests_wait", "idle", "memory", "bounds"),
}  # fmt: skip
_MOST_LOAD_TIMES = 1000  # each worker has a label of its own, and autoscaling starts ever new ones
_HANDLER_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_PRINTED = re.compile(  # a metric that a handler printed by hand, in the worker's text form
    r"\[METRICS\](?P<name>[^:|]+)\.(?P<unit>[^.:|]*):(?P<value>[^|]+)\|#(?P<dims>[^|]*)(?:\|#type:(?P<kind>\w+))?\|#hostname:"
)

MachineFigure = tuple[str, tuple[tuple[str, str], ...], float]
"""One of TorchServe's metrics of the machine: its name, its labels without the host's name, its value."""

_MACHINE = (
    "CPUUtilization", "MemoryUsed", "MemoryAvailable", "MemoryUtilization", "DiskUsage", "DiskUtilization",
    "DiskAvailable", "GPUMemoryUtilization", "GPUMemoryUsed", "GPUUtilization",
)  # fmt: skip


class ModelFigures:
    """The figures of one model version, looked up once."""

    __slots__ = (
        "_errors",
        "_handler_steps",
        "_labels",
        "_last_queue_time",
        "_latency",
        "_latency_sum",
        "_logged",
        "_queue_sum",
        "_queue_time",
        "batch_size",
        "failures",
        "handler_time",
        "released",
        "requests",
    )

    def __init__(self, metrics: ServerMetrics, key: ModelKey) -> None:
        self._labels = labels = (key.name, key.version)
        self.requests = metrics.requests.of(*labels, metrics.hostname)
        self.batch_size = metrics.batch_size.of(*labels)
        self.handler_time = metrics.handler_time.of(*labels)
        self.released = {why: metrics.batches.of(*labels, why) for why in _RELEASES}
        self._handler_steps = metrics.handler_steps
        self._latency_sum = metrics.latency_sum.of(*labels, metrics.hostname)
        self._queue_sum = metrics.queue_sum.of(*labels, metrics.hostname)
        self._latency = metrics.latency.of(*labels)
        self._queue_time = metrics.queue_time.of(*labels)
        self._last_queue_time = metrics.last_queue_time
        self._errors = metrics.errors
        self.failures = 0  # the sum of its errors, for who would have to look through those of all models
        self._logged = metrics.mode == "log"
        for counter in (metrics.errors, metrics.failures, metrics.wasted, metrics.scalings):
            for reason in _REASONS[counter.name]:
                counter.of(*labels, reason)

    def answered(self, waited: float, total: float, trace_id: str = "") -> None:
        """A successful answer: seconds in the queue, seconds from arrival to answer, and in which trace it is told."""
        self._queue_time.observe(waited, trace_id)
        self._latency.observe(total, trace_id)
        self._last_queue_time.value = int(waited * 1000)
        if self._logged:
            self.show_sums()

    def show_sums(self) -> None:
        """TorchServe's running sums, which our distributions keep anyway."""
        self._queue_sum.set(self._queue_time.sum * 1e6)
        self._latency_sum.set(self._latency.sum * 1e6)

    def step(self, name: str, seconds: float) -> None:
        self._handler_steps.of(*self._labels, name).observe(seconds)

    def failed(self, code: str) -> None:
        self._errors.of(*self._labels, code).inc()
        self.failures += 1


class ServerMetrics:
    """All families of the server in one place."""

    def __init__(self, config: MetricsConfig) -> None:
        self.hostname = socket.gethostname()
        self.mode = config.mode
        self._exposed = _EXPOSED[config.mode]
        self.registry = registry = Registry(self._exposed)
        self._config = config
        self._by_class = [self._torchserve(f"Requests{group}XX").of("Host", self.hostname) for group in (2, 4, 5)]
        self.requests = self._torchserve("ts_inference_requests_total")
        self.latency_sum = self._torchserve("ts_inference_latency_microseconds")
        self.queue_sum = self._torchserve("ts_queue_latency_microseconds")
        self.last_queue_time = self._torchserve("QueueTime").of("Host", self.hostname)
        self._around_handler = self._torchserve("WorkerThreadTime").of("Host", self.hostname)
        self._load_time = self._torchserve("WorkerLoadTime")
        self._machine = {name: self._torchserve(name) for name in _MACHINE} if config.system_metrics else {}
        self.latency = registry.histogram("ts_inference_seconds", "Seconds", _MODEL, SECONDS)
        self.queue_time = registry.histogram("ts_queue_seconds", "Seconds", _MODEL, SECONDS)
        self.batch_size = registry.histogram("ts_batch_size", "Count", _MODEL, SIZES)
        self.handler_time = registry.histogram("ts_handler_seconds", "Seconds", _MODEL, SECONDS)
        self.handler_steps = registry.histogram("ts_handler_step_seconds", "Seconds", (*_MODEL, "step"), SECONDS)
        self.batches = registry.counter("ts_batches_total", "Count", (*_MODEL, "reason"))
        self.wasted = registry.counter("ts_wasted_requests_total", "Count", (*_MODEL, "reason"))
        self.errors = registry.counter("ts_inference_errors_total", "Count", (*_MODEL, "code"))
        self._queued = registry.gauge("ts_queue_length", "Count", _MODEL)
        self._running = registry.gauge("ts_running_requests", "Count", _MODEL)
        self._ready = registry.gauge("ts_model_ready", "Boolean", _MODEL)
        self._workers = registry.gauge("ts_workers", "Count", (*_MODEL, "state"))
        self.failures = registry.counter("ts_worker_failures_total", "Count", (*_MODEL, "reason"))
        self._memory = registry.gauge("ts_process_memory_bytes", "Bytes", (*_MODEL, "worker"))
        build = registry.gauge("ts_build_info", "Info", ("version", "python"))
        build.of(__version__, platform.python_version()).set(1)
        self.scalings = registry.counter("ts_autoscaling_decisions_total", "Count", (*_MODEL, "reason"))
        self._of_handlers: dict[str, Family[Value] | Family[Distribution]] = {}
        self._dropped: set[str] = set()  # handler metrics of which a warning has told that they cannot be kept
        for definition in config.model_metrics:
            if self._define(definition) is None:
                raise ConfigurationError(
                    f"metrics_config: model_metrics.{definition.kind}: expected another name than {definition.name}, "
                    "which is one of the server's own metrics."
                )
        self._figures: dict[ModelKey, ModelFigures] = {}
        if self.mode != "log":
            registry.before_render.append(self._show_sums)

    def model(self, key: ModelKey) -> ModelFigures:
        figures = self._figures.get(key)
        if figures is None:
            figures = self._figures[key] = ModelFigures(self, key)
        return figures

    def forget(self, key: ModelKey) -> None:
        """It has been unregistered, and its last request answered. A server that lives long sees many versions."""
        self._figures.pop(key, None)
        is_last = not any(other.name == key.name for other in self._figures)
        worker_name = re.compile(rf"W-\d+-{re.escape(str(key))}")

        def is_gone(labels: Mapping[str, str]) -> bool:
            if "model_name" in labels:
                return (labels["model_name"], labels.get("model_version")) == key
            if "WorkerName" in labels:
                return worker_name.fullmatch(labels["WorkerName"]) is not None
            return is_last and labels.get("ModelName") == key.name  # of handlers, whose metrics have no version

        self.registry.drop(is_gone)

    def totals(self, status: ModelStatus) -> Totals:
        """A version's figures at this moment, for whoever compares two moments."""
        now = Totals(queued=status.queued, running=status.running)
        if (figures := self._figures.get(status.key)) is not None:
            now.buckets = dict(self.latency.of(*status.key).cumulative())
            now.answered = now.buckets[float("inf")]
            *_, (_, now.batches) = figures.batch_size.cumulative()
            now.batched = figures.batch_size.sum
            now.errors = figures.failures
        return now

    def _show_sums(self) -> None:
        for figures in self._figures.values():
            figures.show_sums()

    def count_response(self, status: int) -> None:
        self._by_class[0 if 200 <= status < 300 else 1 if 400 <= status < 500 else 2].value += 1

    def worker_loaded(self, key: ModelKey, worker_id: str, seconds: float) -> None:
        self.model(key)  # whose figures are there before the first request: a rate begins with the second sample
        self._load_time.of(f"W-{worker_id}-{key}", "Host", self.hostname).set(round(seconds * 1000))
        self._load_time.keep_newest(_MOST_LOAD_TIMES)

    def worker_failed(self, key: ModelKey, error: WorkerFailure) -> None:
        self.model(key)
        self.failures.of(key.name, key.version, type(error).__name__).inc()

    def show_machine(self, figures: Iterable[MachineFigure]) -> None:
        for name, labels, value in figures:
            if name in self._machine:
                _update(self._machine[name], (*labels, ("Hostname", self.hostname)), value)

    def show_memory(self, server: float, workers: Iterable[tuple[ModelKey, str, float]]) -> None:
        """Bytes that the server's own process holds (it has no model and no worker's name), and each worker's."""
        self._memory.clear()
        self._memory.of("", "", "").set(server)
        for key, worker, size in workers:
            self._memory.of(key.name, key.version, f"W-{worker}-{key}").set(size)

    def autoscaled(self, key: ModelKey, reason: str) -> None:
        self.scalings.of(key.name, key.version, reason).inc()

    def show_readiness(self, models: Iterable[tuple[str, str, bool]]) -> None:
        """Name and version of each model that should be served, and whether it is; the version is empty when its
        archive could not be opened."""
        self._ready.clear()
        for name, version, is_ready in models:
            self._ready.of(name, version).set(is_ready)

    def show(self, statuses: Iterable[ModelStatus]) -> None:
        """Brings the gauges of queues and workers up to date: those of all models that there are, and of no others."""
        for gauge in (self._queued, self._running, self._workers):
            gauge.clear()
        for status in statuses:
            labels = (status.key.name, status.key.version)
            self._queued.of(*labels).set(status.queued)
            self._running.of(*labels).set(status.running)
            for state in WorkerState:
                count = sum(worker.state is state for worker in status.workers)
                self._workers.of(*labels, state.lower()).set(count)

    def work_wasted(self, key: ModelKey, reason: str) -> None:
        self.wasted.of(key.name, key.version, reason).inc()

    def batch_done(self, key: ModelKey, batch: Sequence[Job], done: BatchDone, seconds: float, release: str) -> None:
        """A batch took ``seconds``, from its sending to its last answer. ``release``: why it went."""
        figures = self.model(key)
        figures.batch_size.observe(len(batch))
        figures.handler_time.observe(done.handler_seconds)
        figures.released[release].value += 1
        for step, spent, _ in done.stages:
            figures.step(step, spent)
        self._around_handler.set(round((seconds - done.handler_seconds) * 1000))
        labels = (("ModelName", key.name), ("Level", "Model"))
        ids = "" if self._exposed is None else ",".join([job.request.id for job in batch])
        self.handler_metric(Metric("PredictionTime", "gauge", "ms", done.handler_seconds * 1000, labels, ids))
        for metric in done.metrics:
            self.handler_metric(metric)

    def handler_metric(self, metric: Metric) -> None:
        """A metric of a handler, by its name alone: kind and labels are those it was defined with.

        One that is not defined is kept only with model_metrics_auto_detect.
        """
        family = self._of_handlers.get(metric.name) or self._of_handlers.get(exposed_name(metric.name))
        if family is None and not self._config.auto_detect:
            return
        problem = "a metric of the server's own has this name"
        try:
            family = family or self._define(
                MetricDefinition(metric.name, metric.kind, metric.unit, tuple(label for label, _ in metric.labels))
            )
            if family is not None:
                values = _update(family, (*metric.labels, ("Hostname", self.hostname)), metric.value)
                if self._exposed is not None:
                    labels = [pair for pair in zip(family.labels, values, strict=True) if pair[0] != "Hostname"]
                    line = metric_line(family, metric.value, labels, self.hostname, metric.request_ids)
                    HANDLER_LINES.info("%s", line)
                return
        except ValueError as error:
            problem = str(error)
        if metric.name not in self._dropped:
            self._dropped.add(metric.name)
            log.warning(
                "The handler metric %s=%s is dropped, and such ones to come: %s", metric.name, metric.value, problem
            )

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

    def _torchserve(self, name: str) -> Family[Value]:
        """One of TorchServe's own metrics. One that metrics_config leaves out is counted, but not shown."""
        shown = {definition.name: definition for definition in self._config.server_metrics}
        if definition := shown.get(name):
            labels = [exposed_name(label) for label in definition.dimensions]
            if self._exposed is None or name in self._exposed:
                return self.registry.add(Family(name, definition.kind, definition.unit, labels, Value))
            return self.registry.add(LoggedFamily(name, definition.kind, definition.unit, labels))
        built_in = next(definition for definition in SERVER_METRICS if definition.name == name)
        return Family(name, built_in.kind, built_in.unit, built_in.dimensions, Value)

    def _define(self, definition: MetricDefinition) -> Family[Value] | Family[Distribution] | None:
        """A metric of handlers; None when its name is one of ours."""
        name = exposed_name(definition.name)
        if self.registry.get(name) is not None:
            return None
        labels = list(dict.fromkeys([*(exposed_name(label) for label in definition.dimensions), "Hostname"]))
        family: Family[Value] | Family[Distribution]
        if definition.kind == "histogram":
            family = self.registry.histogram(name, definition.unit, labels, _HANDLER_BUCKETS)
        elif definition.kind == "gauge":
            family = self.registry.gauge(name, definition.unit, labels)
        else:
            family = self.registry.counter(name, definition.unit, labels)
        self._of_handlers[name] = family
        return family


def _update(
    family: Family[Value] | Family[Distribution], labels: Sequence[tuple[str, str]], value: float
) -> Sequence[str]:
    """As its kind has it, whatever the handler took it for; labels of the same names in any order. Returns their values
    in the family's order. ValueError when it has other labels or goes no such way."""
    values = [value for _, value in labels]
    if tuple([name for name, _ in labels]) != family.labels:
        named = {exposed_name(name): value for name, value in reversed(labels)}
        if named.keys() == set(family.labels):
            values = [named[label] for label in family.labels]
    figure = family.of(*values)
    if isinstance(figure, Distribution):
        figure.observe(value)
    elif family.kind == "gauge":
        figure.set(value)
    elif value >= 0:
        figure.inc(value)
    else:
        raise ValueError(f"{family.name} is a counter, which only goes up")
    return values
