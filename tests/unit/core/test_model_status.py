"""What management and readiness conclude from the states of a model's workers."""

from __future__ import annotations

import pytest

from torchserve_lite.core.models import ModelKey, ModelStatus, WorkerState, WorkerStatus

READY, STARTING, FAILED, STOPPING = (
    WorkerState.READY,
    WorkerState.STARTING,
    WorkerState.FAILED,
    WorkerState.STOPPING,
)


def status(wanted: int, *states: WorkerState) -> ModelStatus:
    workers = tuple(
        WorkerStatus(id=str(number), state=state, started=0.0, last_failure="shot" if state is FAILED else "")
        for number, state in enumerate(states)
    )
    return ModelStatus(key=ModelKey("m", "1.0"), workers=workers, wanted=wanted, queued=0, queue_size=100)


@pytest.mark.parametrize(
    ("wanted", "states", "ready", "failed"),
    [
        pytest.param(0, [], False, False, id="no workers asked for"),
        pytest.param(2, [READY, READY], True, False, id="all up"),
        pytest.param(2, [READY, STARTING], False, False, id="one on its way"),
        pytest.param(2, [READY, FAILED], False, False, id="one given up"),
        pytest.param(2, [FAILED, FAILED], False, True, id="all given up"),
        pytest.param(1, [READY, STOPPING], True, False, id="one leaving"),
    ],
)
def test_model_is_ready_when_all_its_workers_are(
    wanted: int, states: list[WorkerState], ready: bool, failed: bool
) -> None:
    assert (status(wanted, *states).ready, status(wanted, *states).failed) == (ready, failed)


def test_last_failure_is_that_of_any_worker() -> None:
    assert status(2, READY, FAILED).last_failure == "shot"
    assert status(1, READY).last_failure == ""


def test_versions_are_text() -> None:
    assert ModelKey("m", "1.0") != ModelKey("m", "1")
    assert str(ModelKey("m", "1.0")) == "m_1.0"
