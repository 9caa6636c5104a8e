"""`context.metrics`: what handlers add arrives once, whole and with the right labels."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ts.metrics import caching_metric, system_metrics
from ts.metrics.caching_metric import CachingMetric
from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric
from ts.metrics.metric_cache_errors import MetricsCacheIOError, MetricsCachePyYamlError
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.metrics.metric_encoder import MetricEncoder
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.metrics_store import MetricsStore
from ts.metrics.unit import Units
from ts.service import emit_metrics

MODEL = [("ModelName", "m"), ("Level", "Model")]


@pytest.fixture
def updates() -> Iterator[list[tuple[Any, ...]]]:
    """Everything that reaches the sink."""
    seen: list[tuple[Any, ...]] = []
    caching_metric.emit_to(lambda *update: seen.append(update))
    yield seen
    caching_metric.emit_to(None)


@pytest.fixture
def cache() -> MetricsCacheYamlImpl:
    made = MetricsCacheYamlImpl()
    made.model_name = "m"
    made.set_request_ids({0: "r0", 1: "r1"})
    return made


@pytest.mark.parametrize(
    ("add", "kind", "unit"),
    [
        pytest.param(lambda c: c.add_counter("X", 2), "counter", "Count", id="counter"),
        pytest.param(lambda c: c.add_time("X", 2), "gauge", "Milliseconds", id="time"),
        pytest.param(lambda c: c.add_time("X", 2, unit="s"), "gauge", "Seconds", id="seconds"),
        pytest.param(lambda c: c.add_size("X", 2), "gauge", "Megabytes", id="size"),
        pytest.param(lambda c: c.add_size("X", 2, None, "kB"), "gauge", "Kilobytes", id="kilobytes"),
        pytest.param(lambda c: c.add_percent("X", 2), "gauge", "Percent", id="percent"),
        pytest.param(lambda c: c.add_metric("X", 2, "widgets"), "counter", "widgets", id="own-unit"),
        pytest.param(lambda c: c.add_metric("X", 2, ""), "counter", "unit", id="no-unit"),
        pytest.param(
            lambda c: c.add_metric("X", 2, "s", metric_type=MetricTypes.HISTOGRAM),
            "histogram",
            "Seconds",
            id="histogram",
        ),
    ],
)
def test_update_carries_kind_unit_and_model(
    updates: list[Any], cache: MetricsCacheYamlImpl, add: Any, kind: str, unit: str
) -> None:
    add(cache)
    assert updates == [("X", kind, unit, 2, MODEL, "r0,r1")]


def test_error_has_its_own_level_and_no_request(updates: list[Any], cache: MetricsCacheYamlImpl) -> None:
    cache.add_error("Bad", 1, [Dimension("Step", "load")])
    assert updates == [("Bad", "counter", "unit", 1, [("Step", "load"), ("Level", "Error")], "")]


@pytest.mark.parametrize(("idx", "ids"), [(0, "r0"), (1, "r1"), (None, "r0,r1"), (9, "r0,r1"), ("0", "r0,r1")])
def test_index_picks_the_request(updates: list[Any], cache: MetricsCacheYamlImpl, idx: Any, ids: str) -> None:
    cache.add_counter("X", 1, idx)
    assert updates[0][-1] == ids


def test_labels_do_not_leak_from_one_call_into_the_next(updates: list[Any], cache: MetricsCacheYamlImpl) -> None:
    """0.12 collected labels in a default list that all calls shared: an add_error first, and add_counter was lost."""
    cache.add_error("Bad", 1)
    cache.add_counter("X", 1)
    assert updates[1][4] == MODEL


def test_callers_own_list_of_dimensions_is_left_alone(cache: MetricsCacheYamlImpl, updates: list[Any]) -> None:
    mine = [Dimension("Kind", "a")]
    cache.add_counter("X", 1, dimensions=mine)
    cache.add_error("Y", 1, mine)
    assert [dimension.name for dimension in mine] == ["Kind"]
    assert updates[0][4] == [("Kind", "a"), *MODEL]


def test_given_model_and_level_are_not_added_again(cache: MetricsCacheYamlImpl, updates: list[Any]) -> None:
    cache.add_counter("X", 1, dimensions=[Dimension("Level", "Mine"), Dimension("ModelName", "other")])
    assert updates[0][4] == [("Level", "Mine"), ("ModelName", "other")]


def test_labels_are_there_when_no_request_runs(updates: list[Any], cache: MetricsCacheYamlImpl) -> None:
    cache.set_request_ids(None)
    cache.add_counter("LoadedFiles", 3)
    assert updates == [("LoadedFiles", "counter", "Count", 3, MODEL, "")]


@pytest.mark.parametrize("value", [1e25, 0.5, 3])
def test_names_labels_and_values_arrive_as_they_are(
    updates: list[Any], cache: MetricsCacheYamlImpl, value: float
) -> None:
    """Names with `-` or `.`, labels with `:` and values like 1e+25 never got through 0.12's parser."""
    cache.add_counter("my-model.hits", value, dimensions=[Dimension("Url", "http://a:1")])
    assert updates == [("my-model.hits", "counter", "Count", value, [("Url", "http://a:1"), *MODEL], "r0,r1")]


class Odd:
    """A number with neither a value nor a text."""

    def __float__(self) -> float:
        return 1 / 0

    def __str__(self) -> str:
        return str(1 / 0)

    __repr__ = __str__


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        pytest.param(lambda c: c.add_counter("X", -1), "a counter only goes up", id="negative-counter"),
        pytest.param(lambda c: c.add_counter("X", float("nan")), "a counter only goes up", id="nan-counter"),
        pytest.param(lambda c: c.add_counter("X", 1, dimensions=[Dimension("a", 1)]), "do not match", id="more-labels"),
        pytest.param(lambda c: c.add_time("T", "soon"), "must be a number, not str", id="text"),
        pytest.param(lambda c: c.add_time("T", None), "must be a number, not NoneType", id="none"),
        pytest.param(lambda c: c.add_time("T", 10**400), "cannot be converted (OverflowError)", id="beyond-floats"),
        pytest.param(lambda c: c.add_time("T", Odd()), "cannot be converted (ZeroDivisionError)", id="odd-number"),
        pytest.param(
            lambda c: c.get_metric("X").add_or_update(1, ["a", Odd()]), "(ZeroDivisionError)", id="odd-label-text"
        ),
    ],
)
def test_refused_update_is_logged_and_does_not_raise(
    updates: list[Any],
    cache: MetricsCacheYamlImpl,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    update: Any,
    reason: str,
) -> None:
    """0.12 logged such an error behind the prefix [METRICS], so that its own parser failed on it once more."""
    cache.add_metric_to_cache("X", "count", ["ModelName", "Level"])
    update(cache)
    assert updates == []
    assert reason in caplog.text
    assert "[METRICS]" not in caplog.text + capsys.readouterr().out


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda c: c.add_time("X", 1, unit="h"), id="time"),
        pytest.param(lambda c: c.add_size("X", 1, unit="TB"), id="size"),
    ],
)
def test_unit_of_another_kind_is_a_value_error(cache: MetricsCacheYamlImpl, call: Any) -> None:
    with pytest.raises(ValueError, match="the unit must be one of"):
        call(cache)


def test_wrong_types_are_type_errors(cache: MetricsCacheYamlImpl) -> None:
    with pytest.raises(TypeError, match="metric_name"):
        cache.add_metric_to_cache(1, "count")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unit"):
        cache.add_metric_to_cache("X", None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="MetricTypes"):
        cache.add_metric_to_cache("X", "count", [], "counter")  # type: ignore[arg-type]


def test_cached_metric_is_found_by_name_and_kind(cache: MetricsCacheYamlImpl, updates: list[Any]) -> None:
    added = cache.add_metric_to_cache("Q", "ms", ["queue"], MetricTypes.GAUGE)
    assert cache.get_metric("Q", MetricTypes.GAUGE) is added
    assert cache.cache_keys() == ["gauge:Q"]
    assert updates == []
    with pytest.raises(KeyError, match="no counter named 'Q'"):
        cache.get_metric("Q")


def test_caching_metric_takes_values_in_the_order_of_its_names(updates: list[Any]) -> None:
    CachingMetric("Q", "ms", ["queue", "size"], MetricTypes.GAUGE).add_or_update(5, ["fast", 3], "r9")
    assert updates == [("Q", "gauge", "Milliseconds", 5, [("queue", "fast"), ("size", "3")], "r9")]


def test_older_update_brings_its_own_names(updates: list[Any]) -> None:
    CachingMetric("Q", "ms", ["queue"]).update(5, "r9", [Dimension("Kind", "a")])
    assert updates == [("Q", "counter", "Milliseconds", 5, [("Kind", "a")], "r9")]


def test_scalar_of_another_library_becomes_a_float(updates: list[Any], cache: MetricsCacheYamlImpl) -> None:
    torch = pytest.importorskip("torch")
    cache.add_time("X", torch.tensor(1.5))
    assert type(updates[0][3]) is float


@pytest.mark.parametrize(
    ("value", "ids", "line"),
    [
        pytest.param(
            2, {0: "r0", 1: "r1"}, "Hits.Count:2|#ModelName:m,Level:Model|#type:COUNTER|#hostname:H,0,r0,r1", id="ids"
        ),
        pytest.param(1e25, None, "Hits.Count:1e25|#ModelName:m,Level:Model|#type:COUNTER|#hostname:H,0", id="large"),
    ],
)
def test_line_is_printed_when_nobody_collects(
    cache: MetricsCacheYamlImpl,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    ids: dict[int, str] | None,
    line: str,
) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "H")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    cache.set_request_ids(ids)
    cache.add_counter("Hits", value)
    assert capsys.readouterr().out == f"[METRICS]{line}\n"


YAML = """
dimensions:
  - &model_name "ModelName"
  - &level "Level"
ts_metrics:
  counter: []
model_metrics:
  gauge:
    - name: HandlerTime
      unit: ms
      dimensions: [*model_name, *level]
"""


def test_metrics_of_the_file_are_known_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "metrics.yaml").write_text(YAML)
    cache = MetricsCacheYamlImpl(str(tmp_path / "metrics.yaml"))
    cache.initialize_cache()
    assert cache.get_metric("HandlerTime", MetricTypes.GAUGE).dimension_names == ["ModelName", "Level"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        pytest.param(None, MetricsCacheIOError, id="missing"),
        pytest.param("a: [", MetricsCachePyYamlError, id="no-yaml"),
        pytest.param("- a", TypeError, id="a-list"),
        pytest.param("ts_metrics: {}", KeyError, id="no-model-metrics"),
        pytest.param("model_metrics: {gauge: [{name: x, unit: '', dimensions: []}]}", KeyError, id="no-unit"),
    ],
)
def test_unusable_file_is_an_error_that_names_it(tmp_path: Path, text: str | None, error: type[Exception]) -> None:
    path = tmp_path / "metrics.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=r"metrics\.yaml"):
        MetricsCacheYamlImpl(str(path)).initialize_cache()


def test_store_adds_to_counters_and_replaces_the_rest(updates: list[Any]) -> None:
    store = MetricsStore({0: "r0"}, "m")
    for value in (1, 2):
        store.add_counter("Hits", value)
        store.add_time("Took", value)
    assert [(metric.name, metric.value) for metric in store.store] == [("Hits", 3), ("Took", 2)]


@pytest.mark.parametrize("add", ["add_time", "add_size", "add_percent"])
def test_store_keeps_the_dimensions_it_is_given(updates: list[Any], add: str) -> None:
    """0.12 passed them in the wrong place: they were dropped."""
    store = MetricsStore({0: "r0"}, "m")
    getattr(store, add)("X", 1, dimensions=[Dimension("Kind", "a")])
    assert str(store.store[0].dimensions[0]) == "Kind:a"


def test_metrics_of_a_store_are_emitted_together(updates: list[Any]) -> None:
    store = MetricsStore({0: "r0"}, "m")
    store.add_counter("Hits", 1)
    store.add_error("Bad", 2)
    emit_metrics(store.store)
    assert updates == [
        ("Hits", "counter", "Count", 1, MODEL, "r0"),
        ("Bad", "counter", "unit", 2, [("Level", "Error")], ""),
    ]


def test_metric_is_updated_and_shown_as_a_line(updates: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "H")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    metric = Metric("Took", 1, "ms", [Dimension("a", "b")], "r0")
    metric.update(5)
    assert updates == [("Took", "gauge", "Milliseconds", 5, [("a", "b")], "r0")]
    assert str(metric) == "Took.Milliseconds:5|#a:b|#hostname:H,0,r0"
    metric.reset()
    assert metric.value == 0


def test_metric_encodes_to_json() -> None:
    encoded = json.loads(json.dumps(Metric("Took", 1, "s", [Dimension("a", "b")], "r0"), cls=MetricEncoder))
    assert encoded.items() >= {"MetricName": "Took", "Value": 1, "Unit": "Seconds", "RequestId": "r0"}.items()
    assert encoded["Dimensions"] == [{"Name": "a", "Value": "b"}]


def test_unit_table_has_the_usual_ones() -> None:
    assert (Units().units["ms"], Units().units[None]) == ("Milliseconds", "unit")


def test_figures_of_the_machine_are_collected_and_cleared(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        system_metrics.collect_all(system_metrics, 0)
    assert "CPUUtilization.Percent" in caplog.text
    assert "DiskAvailable.Gigabytes" in caplog.text
    assert system_metrics.system_metrics == []
