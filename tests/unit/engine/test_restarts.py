"""How long to wait before a dead worker is tried again, and when to give up."""

from __future__ import annotations

import pytest

from torchserve_lite.core.models import RecoveryPolicy
from torchserve_lite.engine.restarts import Restarts


def delays_of(restarts: Restarts, attempts: int, lived: float) -> list[float | None]:
    """The answers to so many failures, each as soon as the wait before it is over."""
    now, delays = 100.0, []
    for _ in range(attempts):
        delay = restarts.failed(now, lived)
        delays.append(delay)
        now += (delay or 0.0) + lived
    return delays


def test_failed_loads_wait_as_torchserve_does_until_the_window_has_passed() -> None:
    restarts = Restarts(RecoveryPolicy(window=300))
    assert delays_of(restarts, 14, lived=0.0) == [1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, None, None]


@pytest.mark.parametrize(
    ("lived", "delays"),
    [
        pytest.param(0.0, [1, 1, 2, 3], id="never ready"),
        pytest.param(1.0, [0, 1, 2, 3], id="crash loop"),
        pytest.param(10.0, [0, 0, 0, 0], id="proven by its age"),
    ],
)
def test_first_death_of_a_worker_that_was_ready_is_mended_at_once(lived: float, delays: list[float]) -> None:
    assert delays_of(Restarts(RecoveryPolicy()), 4, lived) == delays


def test_answered_batch_ends_a_row_of_failures() -> None:
    restarts = Restarts(RecoveryPolicy(window=5))
    delays_of(restarts, 3, lived=1.0)
    restarts.proven()
    assert restarts.failed(1000.0, lived=1.0) == 0
    assert restarts.count == 4


def test_window_begins_with_the_first_failure_of_a_row() -> None:
    restarts = Restarts(RecoveryPolicy(window=10))
    assert restarts.failed(100.0, lived=0.0) == 1
    assert restarts.failed(110.0, lived=0.0) == 1
    assert restarts.failed(110.1, lived=0.0) is None
