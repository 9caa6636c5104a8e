"""What a worker measures of its handler's stages."""

from __future__ import annotations

import pytest

from torchserve_lite.worker import stage_times
from torchserve_lite.worker.stage_times import StageTimes


class Clock:
    """In place of the module ``time``: goes on when the test says so."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stage_times, "time", clock)
    return clock


def test_stage_lasts_until_the_next_one_or_the_handlers_return(clock: Clock) -> None:
    marked: list[tuple[str, int]] = []
    times = StageTimes(lambda stage, row: marked.append((stage, row)))
    for stage, row, seconds in (
        ("preprocess", -1, 1.0),
        ("preprocess", 0, 2.0),
        ("inference", -1, 4.0),
        ("explain", 0, 8.0),
        ("explain", 1, 16.0),
    ):
        times.mark(stage, row)
        clock.now += seconds
    times.end()
    clock.now += 100.0
    assert times.take() == (("preprocess", 3.0, 0.0), ("inference", 4.0, 3.0), ("explain", 24.0, 7.0))
    assert times.take() == ()
    assert marked[1] == ("preprocess", 0)


def test_stages_of_several_calls_in_a_batch_are_added_up_and_unknown_ones_left_out(clock: Clock) -> None:
    times = StageTimes(lambda stage, row: None)
    clock.now = 5.0
    for stage in ("my own", "inference", "my own", "inference"):
        times.mark(stage)
        clock.now += 1.0
    assert times.take(5.0) == (("inference", 2.0, 1.0),)
