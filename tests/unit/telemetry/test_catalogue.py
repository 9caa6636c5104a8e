"""Which figure each event of the server changes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from torchserve_lite import errors
from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.metrics import MetricDefinition
from torchserve_lite.core.models import ModelKey, ModelStatus, WorkerState, WorkerStatus
from torchserve_lite.core.requests import InferenceRequest, Verb
from torchserve_lite.errors import ConfigurationError, LoadFailed, ServingError, WorkerDied
from torchserve_lite.ipc.messages import BatchDone, Metric
from torchserve_lite.management.autoscaling import Reason
from torchserve_lite.telemetry.catalogue import _REASONS, ServerMetrics

KEY = ModelKey("m", "1.0")
MODEL = {"model_name": "m", "model_version": "1.0"}


def batch(*ids: str) -> list[Job]:
    return [Job(InferenceRequest(one, "m", None, Verb.PREDICT, ()), KEY, arrived=0.0) for one in ids]


def metrics(*, auto_detect: bool = False) -> ServerMetrics:
    return ServerMetrics(MetricsConfig(auto_detect=auto_detect))


def figure(shown: ServerMetrics, name: str, **labels: str) -> float | None:
    """The sample with this name and (at least) these labels. The parser puts ``_total`` behind a counter's name."""
    for family in text_string_to_metric_families(shown.registry.render()):
        for sample in family.samples:
            if sample.name in (name, f"{name}_total") and labels.items() <= sample.labels.items():
                return sample.value
    return None


@pytest.mark.parametrize(
    ("status", "name"),
    [(200, "Requests2XX"), (204, "Requests2XX"), (404, "Requests4XX"), (503, "Requests5XX"), (304, "Requests5XX")],
)
def test_response_is_counted_by_the_class_of_its_status(status: int, name: str) -> None:
    shown = metrics()
    shown.count_response(status)
    counts = {count: figure(shown, count, Level="Host") for count in ("Requests2XX", "Requests4XX", "Requests5XX")}
    assert counts == {"Requests2XX": 0, "Requests4XX": 0, "Requests5XX": 0} | {name: 1}


def test_answer_counts_its_waiting_and_its_whole_time() -> None:
    shown = metrics()
    shown.model(KEY).answered(waited=0.25, total=1.5)
    assert figure(shown, "ts_queue_latency_microseconds", **MODEL) == 250_000
    assert figure(shown, "ts_inference_latency_microseconds", **MODEL) == 1_500_000
    assert figure(shown, "ts_inference_seconds_sum", **MODEL) == 1.5
    assert figure(shown, "ts_queue_seconds_bucket", **MODEL, le="0.25") == 1
    assert figure(shown, "QueueTime") == 250


def test_failure_is_counted_by_model_and_kind() -> None:
    shown = metrics()
    shown.model(KEY).failed("QueueFull")
    assert figure(shown, "ts_inference_errors_total", **MODEL, code="QueueFull") == 1


def test_queue_and_workers_are_shown_as_they_are() -> None:
    shown = metrics()
    workers = tuple(
        WorkerStatus(id=str(n), state=state, started=0.0)
        for n, state in enumerate([WorkerState.READY, WorkerState.READY, WorkerState.FAILED])
    )
    shown.show([ModelStatus(key=KEY, workers=workers, wanted=3, queued=5, queue_size=100, running=2)])
    assert figure(shown, "ts_queue_length", **MODEL) == 5
    assert figure(shown, "ts_running_requests", **MODEL) == 2
    states = {state: figure(shown, "ts_workers", **MODEL, state=state) for state in ("ready", "failed", "starting")}
    assert states == {"ready": 2, "failed": 1, "starting": 0}


def test_model_that_has_gone_has_no_queue_and_no_workers() -> None:
    """Its last figures stayed, and an alarm on its queue could not be silenced."""
    shown = metrics()
    shown.show([ModelStatus(key=KEY, workers=(), wanted=0, queued=7, queue_size=100)])
    shown.show([])
    assert figure(shown, "ts_queue_length", **MODEL) is None
    assert figure(shown, "ts_workers", state="ready", **MODEL) is None


def test_load_times_do_not_grow_without_end_as_workers_come_and_go() -> None:
    shown = metrics()
    for worker in range(1500):
        shown.worker_loaded(KEY, str(worker), 1.0)
    assert shown.registry.render().count("WorkerLoadTime{") == 1000


def test_model_that_has_loaded_has_its_counters_before_its_first_request() -> None:
    """A counter that appears with its first request has, to Prometheus, never grown by it."""
    shown = metrics()
    shown.worker_loaded(KEY, "9000", 0.25)
    names = ("ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_inference_seconds_count")
    assert [figure(shown, name, **MODEL) for name in names] == [0, 0, 0]


def _with_every_figure(shown: ServerMetrics, key: ModelKey) -> None:
    """Whatever a version can have on the page."""
    labels = (("ModelName", key.name), ("Level", "Model"))
    shown.worker_loaded(key, "9000", 0.25)
    shown.model(key).answered(waited=0.25, total=1.5)
    shown.model(key).failed("SequenceTimeout")
    shown.batch_done(key, batch("a"), BatchDone(0.5, (), (("inference", 0.25, 0.0),)), 0.75, "full")
    shown.handler_metric(Metric("HandlerTime", "gauge", "ms", 12.5, labels))
    shown.work_wasted(key, "deadline")
    shown.worker_failed(key, WorkerDied("It was shot."))
    shown.autoscaled(key, "idle")
    shown.show_memory(7.0, [(key, "9000", 9.0)])


def test_version_that_is_unregistered_leaves_nothing_on_the_page() -> None:
    """Its figures stayed for as long as the server ran, and a server that lives long sees many versions."""
    shown = metrics()
    before = shown.registry.render()
    _with_every_figure(shown, KEY)
    shown.forget(KEY)
    left = [line for line in shown.registry.render().splitlines() if line not in before.splitlines()]
    assert [line for line in left if '"m"' in line or "m_1.0" in line] == []


def test_other_versions_and_models_keep_their_figures_when_one_is_unregistered() -> None:
    shown = metrics()
    second, longer = ModelKey("m", "2.0"), ModelKey("x-m", "1.0")
    for key in (KEY, second, longer):
        _with_every_figure(shown, key)
    shown.forget(KEY)
    labels = [{"model_name": key.name, "model_version": key.version} for key in (second, longer)]
    assert [figure(shown, "ts_inference_seconds_count", **one) for one in labels] == [1, 1]
    assert [figure(shown, "PredictionTime", ModelName=name) for name in ("m", "x-m")] == [500, 500]
    loaded = [figure(shown, "WorkerLoadTime", WorkerName=f"W-9000-{key}") for key in (KEY, second, longer)]
    assert loaded == [None, 250, 250]


def test_reasons_that_may_come_are_on_the_page_before_they_do() -> None:
    """A counter that appears with its first event has, to Prometheus, never grown by it: the first refusals of a full
    queue raised no alarm."""
    shown = metrics()
    shown.worker_loaded(KEY, "9000", 0.25)
    assert figure(shown, "ts_inference_errors_total", code="QueueFull", **MODEL) == 0
    assert figure(shown, "ts_worker_failures_total", reason="WorkerDied", **MODEL) == 0
    assert figure(shown, "ts_wasted_requests_total", reason="deadline", **MODEL) == 0
    for reason in set(Reason) - {Reason.NONE}:
        assert figure(shown, "ts_autoscaling_decisions_total", reason=reason, **MODEL) == 0


@pytest.mark.parametrize("codes", [_REASONS["ts_inference_errors_total"], _REASONS["ts_worker_failures_total"]])
def test_reasons_that_may_come_are_names_of_errors(codes: tuple[str, ...]) -> None:
    assert [code for code in codes if not issubclass(getattr(errors, code), ServingError)] == []


def test_worker_events_are_counted() -> None:
    shown = metrics()
    shown.worker_loaded(KEY, "9000", 0.25)
    for error in (WorkerDied("It was shot."), LoadFailed("no such file"), LoadFailed("no such file")):
        shown.worker_failed(KEY, error)
    assert figure(shown, "WorkerLoadTime", WorkerName="W-9000-m_1.0", Level="Host") == 250
    assert figure(shown, "ts_worker_failures_total", reason="WorkerDied", **MODEL) == 1
    assert figure(shown, "ts_worker_failures_total", reason="LoadFailed", **MODEL) == 2


def test_handlers_known_metric_gets_the_hostname_added() -> None:
    shown = metrics()
    shown.handler_metric(Metric("HandlerTime", "gauge", "ms", 12.5, (("ModelName", "m"), ("Level", "Model"))))
    assert figure(shown, "HandlerTime", ModelName="m", Level="Model", Hostname=shown.hostname) == 12.5


def test_batch_counts_its_size_and_the_time_in_and_around_its_handler() -> None:
    shown = metrics()
    shown.batch_done(KEY, batch("a", "b", "c"), BatchDone(0.5), 0.75, "full")
    assert figure(shown, "PredictionTime", ModelName="m", Level="Model") == 500
    assert figure(shown, "WorkerThreadTime", Level="Host") == 250
    assert figure(shown, "ts_batch_size_sum", **MODEL) == 3


def test_batch_counts_why_it_went_and_the_steps_of_its_handler() -> None:
    shown = metrics()
    done = BatchDone(0.5, stages=(("preprocess", 0.125, 0.0), ("inference", 0.25, 0.125)))
    for release in ("delay", "delay", "alone"):
        shown.batch_done(KEY, batch("a"), done, 0.75, release)
    reasons = {
        why: figure(shown, "ts_batches_total", **MODEL, reason=why) for why in ("full", "clients", "delay", "alone")
    }
    assert reasons == {"full": 0, "clients": 0, "delay": 2, "alone": 1}
    assert figure(shown, "ts_handler_seconds_sum", **MODEL) == 1.5
    assert figure(shown, "ts_handler_step_seconds_sum", **MODEL, step="inference") == 0.75
    assert figure(shown, "ts_handler_step_seconds_count", **MODEL, step="preprocess") == 3
    assert figure(shown, "ts_handler_step_seconds_count", **MODEL, step="postprocess") is None


def test_wasted_work_is_counted_by_its_reason() -> None:
    shown = metrics()
    for reason in ("client_left", "deadline", "client_left"):
        shown.work_wasted(KEY, reason)
    assert figure(shown, "ts_wasted_requests_total", **MODEL, reason="client_left") == 2


def test_unknown_metric_of_a_handler_is_shown_only_with_auto_detection() -> None:
    own = Metric("MyCounter", "counter", "Count", 3, (("ModelName", "m"),))
    silent, curious = metrics(), metrics(auto_detect=True)
    for shown in (silent, curious):
        shown.handler_metric(own)
        shown.handler_metric(own)
    assert (figure(silent, "MyCounter"), figure(curious, "MyCounter", ModelName="m")) == (None, 6)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [("counter", "Own", 3), ("gauge", "Own", 2), ("histogram", "Own_sum", 3)],
)
def test_detected_metric_has_the_kind_its_handler_gave_it(kind: str, name: str, value: float) -> None:
    shown = metrics(auto_detect=True)
    for amount in (1, 2):
        shown.handler_metric(Metric("Own", kind, "Count", amount, ()))
    assert figure(shown, name) == value


@pytest.mark.parametrize(
    "metric",
    [
        pytest.param(Metric("my-metric.of mine", "counter", "Count", 1, ()), id="name"),
        pytest.param(Metric("1st", "gauge", "Count", 1, ()), id="name that begins with a digit"),
        pytest.param(Metric("own", "counter", "Count", 1, (("my-label", "x"),)), id="label"),
        pytest.param(Metric("own", "counter", "Count\nforged 1", 1, ()), id="unit"),
        pytest.param(Metric("own", "counter", "Count", 1, (("Hostname", "x"),)), id="our label"),
        pytest.param(Metric("own", "counter", "Count", 1, (("a", "x"), ("a", "y"))), id="label twice"),
    ],
)
def test_odd_names_of_a_handlers_metric_leave_the_page_readable(metric: Metric) -> None:
    """One sample that Prometheus cannot parse would cost all figures of the server."""
    shown = metrics(auto_detect=True)
    shown.handler_metric(metric)
    shown.count_response(200)
    assert figure(shown, "Requests2XX") == 1
    assert figure(shown, "forged") is None


OWN = (
    MetricDefinition("Visits", "counter", "count", ("Shelf",)),
    MetricDefinition("Weight", "histogram", "kB", ()),
)


def test_metric_of_the_metrics_file_is_shown_before_its_first_value() -> None:
    shown = ServerMetrics(MetricsConfig(model_metrics=OWN))
    page = shown.registry.render()
    assert "# HELP Visits Torchserve prometheus counter metric with unit: count\n# TYPE Visits counter\n" in page
    assert "# TYPE Weight histogram" in page
    assert "PredictionTime" not in page


def test_metric_is_what_the_metrics_file_says_whatever_the_handler_takes_it_for() -> None:
    """TorchServe looks metrics up by their name alone, and knows labels by their place."""
    shown = ServerMetrics(MetricsConfig(model_metrics=OWN))
    for value in (2.0, 3.0):
        shown.handler_metric(Metric("Visits", "gauge", "ms", value, (("Rack", "top"),)))
        shown.handler_metric(Metric("Weight", "counter", "kB", value, ()))
    assert figure(shown, "Visits", Shelf="top", Hostname=shown.hostname) == 5
    assert (figure(shown, "Weight_sum"), figure(shown, "Weight_count")) == (5, 2)


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param((("ModelName", "m"), ("Level", "Model")), id="in another order"),
        pytest.param((("Level", "Model"), ("ModelName", "m")), id="in the file's order"),
        pytest.param((("Hostname", "here"), ("ModelName", "m"), ("Level", "Model")), id="with one of ours"),
    ],
)
def test_labels_are_told_apart_by_their_names(labels: tuple[tuple[str, str], ...]) -> None:
    shown = ServerMetrics(
        MetricsConfig(model_metrics=(MetricDefinition("Time", "gauge", "ms", ("Level", "ModelName")),))
    )
    shown.handler_metric(Metric("Time", "gauge", "ms", 7.0, labels))
    assert figure(shown, "Time", Level="Model", ModelName="m") == 7


def test_time_of_a_prediction_has_its_labels_whatever_the_order_of_the_file() -> None:
    definition = MetricDefinition("PredictionTime", "gauge", "ms", ("Level", "ModelName"))
    shown = ServerMetrics(MetricsConfig(model_metrics=(definition,)))
    shown.batch_done(KEY, batch("a"), BatchDone(0.5), 0.6, "full")
    assert figure(shown, "PredictionTime", Level="Model", ModelName="m") == 500


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_counter_never_goes_down(value: float, caplog: pytest.LogCaptureFixture) -> None:
    shown = ServerMetrics(MetricsConfig(model_metrics=OWN))
    for amount in (3.0, value):
        shown.handler_metric(Metric("Visits", "gauge", "count", amount, (("Shelf", "top"),)))
    assert figure(shown, "Visits") == 3
    assert "Visits" in caplog.text


def test_metric_that_is_dropped_again_and_again_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    shown = ServerMetrics(MetricsConfig(model_metrics=OWN))
    for _ in range(5):
        shown.handler_metric(Metric("Visits", "counter", "count", 1, ()))
    assert len(caplog.records) == 1


def test_handler_cannot_change_the_servers_own_figures(caplog: pytest.LogCaptureFixture) -> None:
    shown = metrics(auto_detect=True)
    shown.handler_metric(Metric("Requests2XX", "counter", "Count", 5, (("Level", "Host"),)))
    assert figure(shown, "Requests2XX") == 0
    assert "Requests2XX" in caplog.text


def test_metrics_file_cannot_give_handlers_a_name_of_the_servers_own() -> None:
    with pytest.raises(ConfigurationError, match=r"model_metrics\.gauge: expected another name than ts_queue_length"):
        ServerMetrics(MetricsConfig(model_metrics=(MetricDefinition("ts_queue_length", "gauge", "Count"),)))


def test_server_metrics_are_shown_as_the_file_names_them_and_only_those() -> None:
    names = (MetricDefinition("Requests2XX", "counter", "Answers", ("Tier", "Machine")),)
    shown = ServerMetrics(MetricsConfig(server_metrics=names))
    for status in (200, 404):
        shown.count_response(status)
    assert figure(shown, "Requests2XX", Tier="Host", Machine=shown.hostname) == 1
    assert "Requests4XX" not in shown.registry.render()
    assert "unit: Answers" in shown.registry.render()


def test_metric_with_other_labels_than_before_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    shown = metrics(auto_detect=True)
    shown.handler_metric(Metric("Own", "counter", "Count", 1, (("a", "1"),)))
    shown.handler_metric(Metric("Own", "counter", "Count", 1, ()))
    assert figure(shown, "Own", a="1") == 1
    assert "Own" in caplog.text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        pytest.param(
            "[METRICS]HandlerTime.Milliseconds:1.5|#ModelName:m,Level:Model|#type:GAUGE|#hostname:h,1700000000,id",
            {"ModelName": "m", "Level": "Model"},
            id="as printed by torchserve",
        ),
        pytest.param(
            "[METRICS]HandlerTime.ms:1.5|#ModelName:m,Level:Model|#hostname:h,1700000000",
            {"ModelName": "m", "Level": "Model"},
            id="without a type",
        ),
    ],
)
def test_printed_metric_is_taken(line: str, expected: dict[str, Any]) -> None:
    shown = metrics()
    assert shown.printed_metric(line)
    assert figure(shown, "HandlerTime", **expected) == 1.5


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("loading weights", id="plain"),
        pytest.param("[METRICS]", id="nothing"),
        pytest.param("[METRICS]HandlerTime.ms:fast|#ModelName:m|#hostname:h", id="no number"),
        pytest.param("see [METRICS]HandlerTime.ms:1|#ModelName:m|#hostname:h", id="in the middle"),
    ],
)
def test_line_that_is_no_metric_is_left_to_the_log(line: str) -> None:
    assert not metrics().printed_metric(line)


def test_every_metric_is_in_the_documentation_and_no_other() -> None:
    text = (Path(__file__).parents[3] / "docs" / "metrics.md").read_text()
    tables = text[: text.index("## With Prometheus")]
    first_columns = [line.split("|")[1] for line in tables.splitlines() if line.startswith("|")]
    documented = [name for column in first_columns for name in re.findall(r"`(\w+)`", column)]
    assert sorted(documented) == sorted(metrics().registry.names())
