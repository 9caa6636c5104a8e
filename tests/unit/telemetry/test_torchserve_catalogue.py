"""What dashboards made for TorchServe 0.12 ask for is on our page: names, types, label names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.unit.telemetry.test_catalogue import KEY, batch
from torchserve_lite.config.settings import MetricsConfig
from torchserve_lite.ipc.messages import BatchDone, Metric
from torchserve_lite.telemetry.catalogue import ServerMetrics

_FILE = Path(__file__).parents[2] / "data" / "metrics" / "torchserve-0.12.txt"
RECORDED = [
    (name, kind, tuple(labels))
    for name, kind, *labels in (
        line.split() for line in _FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")
    )
]


@pytest.fixture(scope="module")
def page() -> str:
    """After everything has happened that has a metric of TorchServe's."""
    shown = ServerMetrics(MetricsConfig())
    for status in (200, 404, 503):
        shown.count_response(status)
    shown.model(KEY).requests.value += 1
    shown.model(KEY).answered(0.25, 1.5)
    shown.worker_loaded(KEY, "9000", 0.25)
    own = Metric("HandlerTime", "gauge", "ms", 1.0, (("ModelName", "m"), ("Level", "Model")))
    shown.batch_done(KEY, batch("a"), BatchDone(0.5, (own,)), 0.75, "full")
    host = (("Level", "Host"),)
    shown.show_machine(
        [
            (name, (*host, ("DeviceId", "0")) if "DeviceId" in labels else host, 1.0)
            for name, _, labels in RECORDED
            if name.startswith(("CPU", "Memory", "Disk", "GPU"))
        ]
    )
    return shown.registry.render()


@pytest.mark.parametrize(("name", "kind", "labels"), [pytest.param(*one, id=one[0]) for one in RECORDED])
def test_metric_of_torchserves_has_its_type_and_labels(
    page: str, name: str, kind: str, labels: tuple[str, ...]
) -> None:
    assert f"\n# TYPE {name} {kind}\n" in f"\n{page}"
    (sample,) = re.findall(rf"^{name}{{(.*)}} ", page, re.MULTILINE)
    assert tuple(re.findall(r'(\w+)="', sample)) == labels
