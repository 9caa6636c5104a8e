"""The modes ``log`` and ``legacy``: which updates become lines, and what is left for the endpoint."""

from __future__ import annotations

import logging
import re

import pytest

from tests.unit.telemetry.test_catalogue import KEY, batch
from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.core.metrics import MetricDefinition
from torchserve_lite.ipc.messages import BatchDone, Metric
from torchserve_lite.telemetry.catalogue import ServerMetrics


@pytest.fixture(autouse=True)
def kept(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


def metrics(mode: str, *model_metrics: MetricDefinition) -> ServerMetrics:
    shown = ServerMetrics(MetricsConfig(mode=mode, model_metrics=model_metrics or MetricsConfig().model_metrics))
    shown.hostname = "vm"
    return shown


def lines(caplog: pytest.LogCaptureFixture, logger: str) -> list[str]:
    """Without the time and the name of this machine, which end them all."""
    return [
        re.sub(r"\|#hostname:[^,]+((?:,requestID:[^ ]+)?),timestamp:\d{10}$", r"\1", record.getMessage())
        for record in caplog.records
        if record.name == logger
    ]


def test_each_request_is_a_line_for_each_of_its_figures(caplog: pytest.LogCaptureFixture) -> None:
    shown = metrics("log")
    for status in (200, 200, 503):
        shown.count_response(status)
    for waited, total in ((0.25, 1.5), (0.5, 1.0)):
        shown.model(KEY).requests.value += 1
        shown.model(KEY).answered(waited, total)
    shown.registry.render()
    of_the_model = "#model_name:m,model_version:1.0"
    assert lines(caplog, "TS_METRICS") == [
        "Requests2XX.Count:1.0|#Level:Host",
        "Requests2XX.Count:1.0|#Level:Host",
        "Requests5XX.Count:1.0|#Level:Host",
        f"ts_inference_requests_total.Count:1.0|{of_the_model}",
        "QueueTime.Milliseconds:250.0|#Level:Host",
        f"ts_queue_latency_microseconds.Microseconds:250000.0|{of_the_model}",
        f"ts_inference_latency_microseconds.Microseconds:1500000.0|{of_the_model}",
        f"ts_inference_requests_total.Count:1.0|{of_the_model}",
        "QueueTime.Milliseconds:500.0|#Level:Host",
        f"ts_queue_latency_microseconds.Microseconds:500000.0|{of_the_model}",
        f"ts_inference_latency_microseconds.Microseconds:1000000.0|{of_the_model}",
    ]


def test_batch_and_its_handlers_metrics_are_lines_with_their_requests(caplog: pytest.LogCaptureFixture) -> None:
    visits = MetricDefinition("Visits", "counter", "count", ("Shelf", "Place"))
    shown = metrics("log", visits, *MetricsConfig().model_metrics)
    own = Metric("Visits", "counter", "count", 2, (("Place", "left"), ("Shelf", "top")), "b")
    shown.batch_done(KEY, batch("a", "b"), BatchDone(0.5, (own, own)), 0.75, "full")
    assert lines(caplog, "TS_METRICS") == ["WorkerThreadTime.Milliseconds:250.0|#Level:Host"]
    assert lines(caplog, "MODEL_METRICS") == [
        "PredictionTime.ms:500.0|#ModelName:m,Level:Model,requestID:a,b",
        *2 * ["Visits.count:2.0|#Shelf:top,Place:left,requestID:b"],
    ]


def test_machine_and_load_time_are_lines(caplog: pytest.LogCaptureFixture) -> None:
    shown = metrics("log")
    shown.worker_loaded(KEY, "9000", 0.25)
    shown.show_machine([("CPUUtilization", (("Level", "Host"),), 12.5)])
    assert lines(caplog, "TS_METRICS") == [
        "WorkerLoadTime.Milliseconds:250.0|#WorkerName:W-9000-m_1.0,Level:Host",
        "CPUUtilization.Percent:12.5|#Level:Host",
    ]


def test_line_cannot_be_forged_by_a_handlers_label(caplog: pytest.LogCaptureFixture) -> None:
    shown = metrics("log")
    shown.handler_metric(Metric("HandlerTime", "gauge", "ms", 1, (("ModelName", "a\r\nb\x1b\u2028"), ("Level", "x"))))
    assert lines(caplog, "MODEL_METRICS") == [r"HandlerTime.ms:1.0|#ModelName:a\r\nb\x1b\u2028,Level:x"]


@pytest.mark.parametrize(
    ("mode", "exposed"),
    [
        ("log", set()),
        (
            "legacy",
            {"ts_inference_requests_total", "ts_inference_latency_microseconds", "ts_queue_latency_microseconds"},
        ),
    ],
)
def test_endpoint_shows_what_the_logs_do_not(mode: str, exposed: set[str], caplog: pytest.LogCaptureFixture) -> None:
    shown = metrics(mode)
    shown.model(KEY).requests.value += 1
    shown.model(KEY).answered(0.25, 1.5)
    shown.batch_done(KEY, batch("a"), BatchDone(0.5), 0.75, "full")
    assert set(re.findall(r"# TYPE (\w+)", shown.registry.render())) == exposed
    assert exposed.isdisjoint(line.partition(".")[0] for line in lines(caplog, "TS_METRICS"))
    assert len(lines(caplog, "MODEL_METRICS")) == 1


def test_nothing_is_logged_where_the_endpoint_shows_it_all(caplog: pytest.LogCaptureFixture) -> None:
    shown = metrics("prometheus")
    shown.count_response(200)
    shown.model(KEY).answered(0.25, 1.5)
    shown.batch_done(KEY, batch("a"), BatchDone(0.5), 0.75, "full")
    assert caplog.records == []
