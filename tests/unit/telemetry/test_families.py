"""The metrics page, read by the parser of Prometheus' own client library."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from torchserve_lite.telemetry.families import Registry


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """(name, labels) -> value of every sample on the page. The parser puts ``_total`` behind a counter's name."""
    return {
        (sample.name.removesuffix("_total"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counter_keeps_its_name_without_a_suffix() -> None:
    """TorchServe's dashboards ask for Requests2XX; the stock client would make Requests2XX_total of it."""
    registry = Registry()
    registry.counter("Requests2XX", "Count", ("Level",)).of("Host").inc()
    assert registry.render().splitlines() == [
        "# HELP Requests2XX Torchserve prometheus counter metric with unit: Count",
        "# TYPE Requests2XX counter",
        'Requests2XX{Level="Host"} 1.0',
    ]


def test_counter_adds_and_gauge_replaces() -> None:
    registry = Registry()
    counter, gauge = registry.counter("c", "Count", ()).of(), registry.gauge("g", "Count", ()).of()
    for figure in (counter, gauge):
        figure.inc(2)
        figure.inc()
    gauge.set(7)
    assert samples(registry.render()) == {("c", ()): 3, ("g", ()): 7}


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        pytest.param(0.05, (1, 1, 1), id="below the first bound"),
        pytest.param(0.1, (1, 1, 1), id="bounds are inclusive"),
        pytest.param(0.5, (0, 1, 1), id="between"),
        pytest.param(9.0, (0, 0, 1), id="above all"),
    ],
)
def test_histogram_counts_into_cumulative_buckets(value: float, counts: tuple[int, ...]) -> None:
    registry = Registry()
    registry.histogram("h", "Seconds", ("model",), (0.1, 1.0)).of("m").observe(value)
    found = samples(registry.render())
    buckets = [found["h_bucket", (("le", bound), ("model", "m"))] for bound in ("0.1", "1.0", "+Inf")]
    assert tuple(buckets) == counts
    assert (found["h_sum", (("model", "m"),)], found["h_count", (("model", "m"),)]) == (value, 1)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")))
def test_label_values_arrive_whatever_is_in_them(value: str) -> None:
    """Model names come from users: a quote or a line break in one must not add samples to the page.

    (The characters left out are line breaks to Python, in which the parser is written, and to nobody else.)
    """
    registry = Registry()
    registry.gauge("g", "Count", ("name",)).of(value).set(1)
    assert samples(registry.render()) == {("g", (("name", value),)): 1}


@pytest.mark.parametrize("value", [1e25, 1e-9, math.inf, -math.inf, 0.1 + 0.2])
def test_values_arrive_exactly(value: float) -> None:
    registry = Registry()
    registry.gauge("g", "Count", ()).of().set(value)
    assert samples(registry.render()) == {("g", ()): value}


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        pytest.param([], {"a", "b", "h"}, id="none named"),
        pytest.param(["a"], {"a"}, id="one"),
        pytest.param(["a", "h"], {"a", "h"}, id="several"),
        pytest.param(["unknown"], set(), id="unknown"),
    ],
)
def test_name_filter_keeps_what_is_named(names: list[str], shown: set[str]) -> None:
    registry = Registry()
    registry.counter("a", "Count", ()).of().inc()
    registry.gauge("b", "Count", ()).of().inc()
    registry.histogram("h", "Seconds", (), (1.0,)).of().observe(1)
    assert {family.name for family in text_string_to_metric_families(registry.render(names))} == shown


def test_name_filter_keeps_single_samples_of_a_histogram() -> None:
    registry = Registry()
    registry.histogram("h", "Seconds", (), (1.0,)).of().observe(0.5)
    assert samples(registry.render(["h_count"])) == {("h_count", ()): 1}


def test_page_of_nothing_is_empty() -> None:
    assert Registry().render() == ""


def test_family_without_figures_still_says_what_it_is() -> None:
    registry = Registry()
    registry.counter("c", "Count", ("model",))
    assert "# TYPE c counter" in registry.render()


def test_wrong_number_of_label_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="model"):
        Registry().counter("c", "Count", ("model", "version")).of("m")


def test_gauges_are_brought_up_to_date_when_somebody_looks() -> None:
    registry = Registry()
    figure = registry.gauge("g", "Count", ()).of()
    registry.before_render.append(figure.inc)
    registry.render()
    assert samples(registry.render()) == {("g", ()): 2}
