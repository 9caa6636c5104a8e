"""What an answer's Server-Timing says."""

from __future__ import annotations

import pytest

from tests.conftest import KEY
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceRequest, Verb
from torchserve_lite.ipc.messages import BatchDone
from torchserve_lite.telemetry.server_timing import ServerTiming

STEPS = (("preprocess", 0.001, 0.0), ("inference", 0.007, 0.001), ("postprocess", 0.0001, 0.008))


def job(report: BatchDone | None) -> Job:
    made = Job(InferenceRequest("id", "tiny", None, Verb.PREDICT, ()), KEY, 0.0)
    made.waited, made.report = 0.0005, report
    return made


@pytest.mark.parametrize(
    ("report", "said"),
    [
        pytest.param(
            BatchDone(0.0085, stages=STEPS),
            "preprocess;dur=1.00, inference;dur=7.00, postprocess;dur=0.10, handler;dur=8.50, ",
            id="of steps",
        ),
        pytest.param(BatchDone(0.002), "handler;dur=2.00, ", id="of a handler that marks none"),
        pytest.param(
            BatchDone(0.002, stages=(("a\r\nb: c", 1.0, 0.0),)), "handler;dur=2.00, ", id="not of made-up ones"
        ),
        pytest.param(None, "", id="before the batch has ended"),
    ],
)
def test_answer_says_what_its_batch_took(report: BatchDone | None, said: str) -> None:
    timing = ServerTiming()
    timing.value(job(BatchDone(9.0)), 10.0)
    assert timing.value(job(report), 0.01).decode() == f"queue;dur=0.50, {said}total;dur=10.00"


@pytest.mark.parametrize(("seconds", "said"), [(0.0, "0.00"), (0.01999, "19.99"), (0.02, "20.00"), (61.5, "61500.00")])
def test_any_duration_is_said_in_milliseconds(seconds: float, said: str) -> None:
    assert ServerTiming().value(job(None), seconds).decode().endswith(f"total;dur={said}")
