"""The benchmark's arithmetic: what its ratios are taken of, and which figures it refuses."""

from __future__ import annotations

import pytest

from benchmarks.load import Failed, Load
from benchmarks.promises import PROMISES, Promise, at_least, at_most, itself_at_most
from benchmarks.report import COLUMNS, page, table
from benchmarks.rounds import median_ratio, orders, ratios
from benchmarks.scenarios import SCENARIOS
from benchmarks.servers import same_answer

# The machine was slow in the second round. The medians are 200 and 100, but within each round the ratio is another.
ROUNDS = [
    {"ours": {"rate": 300.0}, "other": {"rate": 100.0}},
    {"ours": {"rate": 30.0}, "other": {"rate": 10.0}},
    {"ours": {"rate": 200.0}, "other": {"rate": 200.0}},
]


def test_order_is_reversed_each_round() -> None:
    assert list(orders("ABC", 3)) == [["A", "B", "C"], ["C", "B", "A"], ["A", "B", "C"]]


def test_ratio_is_the_median_of_those_within_a_round() -> None:
    assert ratios(ROUNDS, "rate", "ours", "other") == [3, 3, 1]
    assert median_ratio(ROUNDS, "rate", "ours", "other") == 3


def test_rounds_are_not_mixed_when_a_target_misses_one() -> None:
    rounds = [ROUNDS[0], {"ours": {"rate": 5.0}}, ROUNDS[2]]
    assert ratios(rounds, "rate", "ours", "other") == [3, 1]
    assert median_ratio(rounds, "rate", "ours", "nobody") is None


def test_table_tells_median_spread_and_ratio() -> None:
    lines = list(table([{"ours": one["ours"], "mosec": one["other"]} for one in ROUNDS]))
    assert lines[2] == "| torchserve-lite | 200 (30 to 300) |  |"
    assert lines[3] == "| mosec | 100 (10 to 200) | 3.00x |"


@pytest.mark.parametrize(
    "load",
    [
        pytest.param(Load(requests=0, seconds=1), id="no_answer"),
        pytest.param(Load(requests=9, seconds=1, bytes=900, refused=1), id="an_answer_was_no_success"),
        pytest.param(Load(requests=9, seconds=1, bytes=900, broken=1), id="a_request_broke_off"),
        pytest.param(Load(requests=9, seconds=1, bytes=900, short=1), id="an_answer_was_too_short"),
        pytest.param(Load(requests=9, seconds=1, bytes=9 * 80), id="answers_are_too_short_in_the_mean"),
    ],
)
def test_figures_are_refused_when_requests_failed(load: Load) -> None:
    with pytest.raises(Failed):
        load.check(answer_bytes=100)


def test_figures_are_taken_when_all_answers_are_right() -> None:
    Load(requests=9, seconds=1, bytes=9 * 98).check(answer_bytes=100)


@pytest.mark.parametrize(
    ("answer", "right", "same"),
    [
        pytest.param(b'{\n  "predictions": [2]\n}', b'{"predictions":[2]}', True, id="layout_of_json"),
        pytest.param(b"2", b"7", False, id="other_digit"),
        pytest.param(b"", b"ok", False, id="nothing"),
        pytest.param(b"no", b"ok", False, id="neither_is_json"),
    ],
)
def test_answers_are_the_same_when_they_say_the_same(answer: bytes, right: bytes, same: bool) -> None:
    assert same_answer(answer, right) is same


def test_promise_holds_on_its_own_side_only() -> None:
    more, less = at_least("noop", 32, "rate", "mosec", 0.95), at_most("noop", 32, "p50", "mosec", 0.95)
    assert [more.holds(1), more.holds(0.9), less.holds(1), less.holds(0.9)] == [True, False, False, True]


def test_promise_of_a_figure_itself_is_told_in_the_unit_of_its_column() -> None:
    rounds = [{"ours": {"connection_memory": kib * 1024.0}} for kib in (9, 10, 30)]
    series = {"1000": {"rounds": rounds, "void": {}, "measured": ""}}
    section = {"title": "Idle", "series_name": "connections", "series": series}
    assert itself_at_most("idle", 1000, "connection_memory", 20.0 * 1024).measured({"idle": section}) == 10 * 1024
    row = list(page({"idle": section}))[-1]
    assert row == "| Idle, 1000 connections | KiB an idle connection (PSS) |  | 10.0 | <= 20.0 | yes |"


def test_promise_may_be_of_another_target_of_ours() -> None:
    rounds = {"noop": {"series": {"32": {"rounds": ROUNDS}}}}
    promise = Promise(scenario="noop", series=32, figure="rate", target="other", other="ours")
    assert promise.measured(rounds) == pytest.approx(1 / 3)
    assert promise.holds(0)  # without a bound it is only told
    assert promise.goal == ""


def test_every_promise_can_be_measured() -> None:
    """By a scenario's own targets and clients, as a figure that is shown."""
    for promise in PROMISES:
        scenario = SCENARIOS[promise.scenario]
        assert promise.series in scenario.series
        assert {promise.target, promise.other} <= {*scenario.targets, ""}
        assert promise.figure in {column.figure for column in COLUMNS}
