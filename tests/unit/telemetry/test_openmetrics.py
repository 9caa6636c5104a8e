"""The metrics page as OpenMetrics, read by the parser of Prometheus' own client library."""

from __future__ import annotations

import pytest
from prometheus_client.metrics_core import Metric as ReadMetric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.conftest import KEY
from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.core.metrics import MetricDefinition
from torchserve_lite.ipc.messages import Metric
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.families import Registry

TRACE = "0af7651916cd43dd8448eb211c80319c"


def families(text: str) -> dict[str, ReadMetric]:
    return {family.name: family for family in text_string_to_metric_families(text)}  # type: ignore[no-untyped-call]


def test_bucket_has_the_trace_of_its_last_value() -> None:
    registry = Registry()
    histogram = registry.histogram("h", "Seconds", ("model",), (0.1, 1.0)).of("m")
    for value, trace_id in ((0.05, ""), (0.5, "a" * 32), (0.6, TRACE), (0.7, ""), (5.0, "b" * 32)):
        histogram.observe(value, trace_id)
    buckets = [sample for sample in families(registry.render(openmetrics=True))["h"].samples if "le" in sample.labels]
    told = {sample.labels["le"]: sample.exemplar and dict(sample.exemplar.labels) for sample in buckets}
    assert told == {"0.1": None, "1.0": {"trace_id": TRACE}, "+Inf": {"trace_id": "b" * 32}}
    assert [sample.exemplar.value for sample in buckets if sample.exemplar] == [0.6, 5.0]


def test_plain_page_has_no_exemplars() -> None:
    registry = Registry()
    registry.histogram("h", "Seconds", (), (0.1,)).of().observe(0.05, TRACE)
    assert "#" not in "".join(line for line in registry.render().splitlines() if not line.startswith("# "))


def test_every_sample_has_one_name_on_both_pages() -> None:
    """Prometheus prefers OpenMetrics, and dashboards made for TorchServe ask for ``Requests2XX``: there, a counter is
    called ``..._total`` or it is none."""
    shown = ServerMetrics(MetricsConfig(auto_detect=True))
    shown.count_response(200)
    shown.worker_loaded(KEY, "9000", 0.25)
    shown.model(KEY).answered(waited=0.25, total=1.5, trace_id=TRACE)
    shown.handler_metric(Metric("own", "counter", 'a "unit"\\', 1.0, (("ModelName", 'a"b\\c\nd'),)))
    plain, openmetrics = (shown.registry.render(openmetrics=wanted) for wanted in (False, True))
    names = [
        {line.partition("{")[0].partition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
        for text in (plain, openmetrics)
    ]
    assert names[0] == names[1]
    read = families(openmetrics)
    assert read["Requests2XX"].type == "unknown"
    assert read["ts_batches"].type == "counter"
    assert openmetrics.endswith("\n# EOF\n")


def test_named_samples_bring_their_whole_family() -> None:
    registry = Registry()
    registry.counter("a_total", "Count", ()).of().inc()
    registry.histogram("h", "Seconds", (), (0.1,)).of().observe(0.05)
    assert set(families(registry.render(["h_sum"], openmetrics=True))) == {"h"}
    assert set(families(registry.render(["a_total"], openmetrics=True))) == {"a"}
    assert registry.render(["nothing"], openmetrics=True) == "# EOF\n"


@pytest.mark.parametrize("kind", ["counter", "gauge", "histogram"])
def test_metrics_of_handlers_are_read(kind: str) -> None:
    definition = MetricDefinition("own metric", kind, "Count", ("Level",))
    shown = ServerMetrics(MetricsConfig(model_metrics=(definition,)))
    shown.handler_metric(Metric("own metric", kind, "Count", 1.0, (("Level", "Model"),)))
    assert "own_metric" in families(shown.registry.render(openmetrics=True))
