"""Micro batching gives what the handler gives without it, and always gives something."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from ts.context import Context, RequestProcessor
from ts.handler_utils.micro_batching import HANDLER_METHODS, MicroBatching
from ts.metrics.metrics_store import MetricsStore
from ts.utils.util import InvalidRow


class Doubling:
    """A handler of three steps; `faults` maps a step's name to what it raises when it meets the value 3."""

    handle: MicroBatching
    context: Context

    def __init__(self, **faults: BaseException) -> None:
        self.faults = faults
        self.slices: list[list[int]] = []
        self.indices: list[int | None] = []

    def preprocess(self, data: list[dict[str, int]]) -> list[int]:
        values = [row["body"] for row in data]
        self.slices.append(values)
        self.indices.append(self.handle.get_micro_batch_idx())
        return self._pass("preprocess", values)

    def inference(self, values: list[int]) -> list[int]:
        return [2 * value for value in self._pass("inference", values)]

    def postprocess(self, values: list[int]) -> list[int]:
        return self._pass("postprocess", values)

    def _pass(self, step: str, values: list[int]) -> list[int]:
        if step in self.faults and (3 in values or 6 in values):
            raise self.faults[step]
        return values

    def _is_explain(self) -> bool:
        return bool(self.context.get_request_header(0, "explain") == "True")

    def _is_describe(self) -> bool:
        return bool(self.context.get_request_header(0, "describe") == "True")

    def explain_handle(self, prepared: list[int], raw: list[Any]) -> list[str]:
        return [f"explained {prepared} of {len(raw)}"]

    def describe_handle(self) -> str:
        return "described"


@contextmanager
def micro_batching(handler: Doubling, size: int = 2, **options: Any) -> Iterator[MicroBatching]:
    handler.handle = MicroBatching(handler, size, **options)
    try:
        yield handler.handle
    finally:
        handler.handle.shutdown()


def context(**headers: str) -> Context:
    made = Context("m", ".", {}, 1, None, "0.12.0", metrics=MetricsStore({0: "r"}, "m"))
    made.request_processor = [RequestProcessor(headers)]
    return made


def rows(count: int) -> list[dict[str, int]]:
    return [{"body": value} for value in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_answers_are_complete_and_in_order(count: int) -> None:
    handler = Doubling()
    with micro_batching(handler, parallelism={"preprocess": 3, "inference": 2}) as call:
        assert call(rows(count), context()) == [2 * value for value in range(count)]
    assert sorted(handler.slices) == [list(range(start, min(start + 2, count))) for start in range(0, count, 2)]
    assert sorted(handler.indices, key=lambda index: index or 0) == list(range(len(handler.slices)))


@pytest.mark.parametrize("step", HANDLER_METHODS)
def test_exception_in_a_step_reaches_the_caller(step: str) -> None:
    """In 0.12 it killed the step's thread, and every batch from then on waited until the worker was shot."""
    with micro_batching(Doubling(**{step: ValueError("three")})) as call:
        with pytest.raises(ValueError, match="three"):
            call(rows(5), context())
        assert call(rows(2), context()) == [0, 2]


def test_exit_in_a_step_reaches_the_caller() -> None:
    with micro_batching(Doubling(inference=SystemExit(3))) as call, pytest.raises(SystemExit):
        call(rows(4), context())


def test_invalid_row_is_counted_from_the_start_of_the_batch() -> None:
    with (
        micro_batching(Doubling(preprocess=InvalidRow(1, "three"))) as call,
        pytest.raises(InvalidRow) as raised,
    ):
        call(rows(5), context())
    assert raised.value.row == 3


def test_explanation_and_description_are_not_cut_into_slices() -> None:
    with micro_batching(Doubling()) as call:
        assert call(rows(3), context(explain="True")) == ["explained [0, 1, 2] of 3"]
        assert call([{}], context(describe="True")) == ["described"]


def test_duration_of_the_whole_batch_is_a_metric() -> None:
    with micro_batching(Doubling()) as call:
        served = context()
        call(rows(3), served)
    assert [metric.name for metric in served.metrics.store] == ["HandlerTime"]


def threads_of(step: str) -> int:
    return sum(thread.name == f"micro-batching-{step}" for thread in threading.enumerate())


def test_threads_follow_the_parallelism_and_end_with_shutdown() -> None:
    with micro_batching(Doubling()) as call:
        assert [threads_of(step) for step in HANDLER_METHODS] == [1, 1, 1]
        call.parallelism = {"inference": 4}
        assert threads_of("inference") == 4
        call.parallelism = {"inference": 2}
        assert threads_of("inference") == 2
        assert call(rows(5), context()) == [0, 2, 4, 6, 8]
    assert [threads_of(step) for step in HANDLER_METHODS] == [0, 0, 0]


def test_unknown_step_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"no such step \['infer'\]"):
        MicroBatching(Doubling(), parallelism={"infer": 2})


def test_index_is_none_outside_of_a_step() -> None:
    with micro_batching(Doubling()) as call:
        assert call.get_micro_batch_idx() is None
