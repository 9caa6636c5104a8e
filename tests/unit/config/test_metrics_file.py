"""`metrics_config`: which metrics there are. A file that is wrong stops the start with what is wrong, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchserve_lite.config.loading import load_config
from torchserve_lite.config.metrics_file import read_metrics_file
from torchserve_lite.config.settings import Config
from torchserve_lite.core.metrics import MODEL_METRICS, SERVER_METRICS, MetricDefinition
from torchserve_lite.errors import ConfigurationError

OWN = """
dimensions:
  - &model "ModelName"
ts_metrics:
  counter:
    - {name: Requests2XX, unit: Answers, dimensions: [Tier, Machine]}
  gauge:
model_metrics:
  counter:
    - {name: Visits, unit: count, dimensions: []}
  histogram:
    - name: Weight
      unit: kB
      dimensions: [*model, Shelf]
"""


def configured(folder: Path, text: str) -> Config:
    (folder / "metrics.yaml").write_text(text)
    (folder / "config.properties").write_text("metrics_config=metrics.yaml\n")
    return load_config(folder / "config.properties", {}, {})


def test_file_beside_the_configuration_defines_the_metrics_of_server_and_workers(tmp_path: Path) -> None:
    config = configured(tmp_path, OWN)
    own = (
        MetricDefinition("Visits", "counter", "count", ()),
        MetricDefinition("Weight", "histogram", "kB", ("ModelName", "Shelf")),
    )
    assert config.metrics.model_metrics == config.workers.model_metrics == own
    assert config.metrics.server_metrics == (
        MetricDefinition("Requests2XX", "counter", "Answers", ("Tier", "Machine")),
    )


def test_without_a_file_or_a_section_the_built_in_metrics_are_there(tmp_path: Path) -> None:
    nothing = load_config(None, {}, {"TS_METRICS_CONFIG": "not asked for"})
    server_only = configured(tmp_path, "ts_metrics: {}")
    assert (nothing.metrics.server_metrics, nothing.workers.model_metrics) == (SERVER_METRICS, MODEL_METRICS)
    assert (server_only.metrics.server_metrics, server_only.workers.model_metrics) == ((), MODEL_METRICS)


def metric(**changes: str) -> str:
    """A file with one gauge of handlers, some of whose fields are these YAML texts (empty: left out)."""
    fields = {"name": "Own", "unit": "ms", "dimensions": "[Level]"} | changes
    inside = ", ".join(f"{field}: {value}" for field, value in fields.items() if value)
    return f"model_metrics: {{gauge: [{{{inside}}}]}}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        pytest.param("", "the file: expected a mapping with .*model_metrics, not nothing", id="empty"),
        pytest.param("- a", r"the file: expected a mapping .*not \['a'\]", id="list"),
        pytest.param("a: [", r"the file is not valid YAML: .*line 2", id="no YAML"),
        pytest.param("a: !!python/name:os.system x", "only plain values", id="object"),
        pytest.param("model_metric: {}", "the file: expected .*model_metrics, not 'model_metric'", id="section's name"),
        pytest.param("model_metrics:", "model_metrics: expected a mapping .*not nothing", id="empty section"),
        pytest.param("ts_metrics: {gauges: []}", "ts_metrics: expected counter, gauge, .*not 'gauges'", id="kind"),
        pytest.param("ts_metrics: {1: []}", "ts_metrics: expected counter, gauge, .*not 1", id="kind's type"),
        pytest.param("model_metrics: {gauge: Own}", "model_metrics.gauge: expected a list.*not 'Own'", id="no list"),
        pytest.param("model_metrics: {gauge: [Own]}", r"model_metrics.gauge\[0\]: expected a mapping", id="bare name"),
        pytest.param(metric(name=""), r"gauge\[0\].name: expected a text .*not nothing", id="no name"),
        pytest.param(metric(name="7"), r"gauge\[0\].name: expected a text .*not 7", id="number for a name"),
        pytest.param(metric(unit=""), r"gauge\[0\].unit: expected a text .*not nothing", id="no unit"),
        pytest.param(metric(unit="' '"), r"gauge\[0\].unit: expected a text .*not ' '", id="blank unit"),
        pytest.param(metric(units="s"), r"gauge\[0\]: expected name, unit, dimensions, not 'units'", id="field"),
        pytest.param(metric(dimensions=""), r"\(Own\).dimensions: expected a list.*not nothing", id="no dimensions"),
        pytest.param(metric(dimensions="Level"), r"\(Own\).dimensions: expected a list.*not 'Level'", id="one"),
        pytest.param(metric(dimensions="[1]"), r"\(Own\).dimensions: expected a list.*not \[1\]", id="numbers"),
        pytest.param(metric(dimensions="[a, a]"), "expected each name once", id="dimension twice"),
        pytest.param(metric(dimensions="[Hostname]"), "expected no Hostname, which the server adds", id="Hostname"),
        pytest.param(
            metric(name="QueueTime"), "expected another name than QueueTime: ts_metrics.gauge has it", id="taken"
        ),
        pytest.param(
            metric(name="a.b").removesuffix("}") + ", counter: [{name: a-b, unit: s, dimensions: []}]}",
            "model_metrics.counter: expected another name than a-b: model_metrics.gauge has it",
            id="names that are one on the page",
        ),
        pytest.param(
            "ts_metrics: {gauge: [{name: Requests4XX, unit: Count, dimensions: [a, b]}]}",
            r"\(Requests4XX\): expected it under ts_metrics.counter",
            id="server's metric of another kind",
        ),
        pytest.param(
            "ts_metrics: {gauge: [{name: QueueTime, unit: ms, dimensions: [a]}]}",
            r"\(QueueTime\).dimensions: expected 2 names for \['Level', 'Hostname'\], not \['a'\]",
            id="server's metric with other dimensions",
        ),
    ],
)
def test_wrong_file_stops_the_start_and_is_told(text: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"metrics_config=.*metrics\.yaml \(.*properties\): .*{complaint}"):
        configured(tmp_path, text)


@pytest.mark.parametrize("name", [pytest.param("missing.yaml", id="missing"), pytest.param(".", id="folder")])
def test_file_that_cannot_be_read_stops_the_start(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text(f"metrics_config={tmp_path / name}\n")
    with pytest.raises(ConfigurationError, match=r"metrics_config=.*: the file cannot be read"):
        load_config(tmp_path / "config.properties", {}, {})


@pytest.mark.parametrize("key", ["metrics_config", "model_store"])
@pytest.mark.parametrize("name", ["a\\u0000b", "a\\ud800b"])
def test_path_that_no_file_can_have_stops_the_start(key: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text(f"{key}={name}\n")
    with pytest.raises(ConfigurationError, match=rf"{key}=.*expected a path"):
        load_config(tmp_path / "config.properties", {}, {})


def test_name_that_the_server_does_not_measure_is_told_with_the_nearest_one(tmp_path: Path) -> None:
    config = configured(tmp_path, "ts_metrics: {counter: [{name: Request2XX, unit: Count, dimensions: [a, b]}]}")
    assert any("Request2XX" in notice and "Did you mean Requests2XX?" in notice for notice in config.notices)


def test_aliases_that_stand_for_billions_are_refused(tmp_path: Path) -> None:
    levels = [f"  - &a{n + 1} [*a{n}, *a{n}, *a{n}, *a{n}, *a{n}, *a{n}, *a{n}, *a{n}]" for n in range(12)]
    (tmp_path / "m.yaml").write_text("\n".join(["dimensions:", "  - &a0 x", *levels]))
    with pytest.raises(ValueError, match="stands for more than"):
        read_metrics_file(tmp_path / "m.yaml")
