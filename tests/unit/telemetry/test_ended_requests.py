"""Who is told of requests that have ended, and what."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from tests.conftest import KEY
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Verb
from torchserve_lite.errors import QueueFull
from torchserve_lite.ipc.messages import BatchDone
from torchserve_lite.telemetry import ended_requests
from torchserve_lite.telemetry.ended_requests import EndedRequest, RequestWatch, Step


@dataclass
class Ears:
    """A listener that keeps what it is told, of all requests or of none."""

    wants: bool = True
    heard: list[EndedRequest] = field(default_factory=list)

    def begins(self, request: InferenceRequest) -> bool:
        return self.wants

    def ended(self, ended: EndedRequest) -> None:
        self.heard.append(ended)


def job(name: str = "id", verb: Verb = Verb.PREDICT, part_of: str = "") -> Job:
    return Job(InferenceRequest(name, "tiny", None, verb, (), part_of=part_of), KEY, 0.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ended_requests, "perf_counter", lambda: 100.0)
    monkeypatch.setattr(ended_requests, "time", SimpleNamespace(time=lambda: 5000.0))


@pytest.mark.usefixtures("clock")
def test_time_from_arrival_to_answer_is_split_without_a_rest() -> None:
    ears, watch, answered = Ears(), RequestWatch(), job()
    watch.listeners.append(ears)
    watch.begun(answered)
    answered.made, answered.waited, answered.ended_at, answered.batch_size = 91.0, 2.0, 99.0, 4
    answered.report = BatchDone(5.0, stages=(("inference", 3.0, 0.5),))
    answered.succeed(InferenceResponse(b""))
    watch.ended("id", "POST / HTTP/1.1", "/127.0.0.1:1", 200, 10.0)
    (ended,) = ears.heard
    (run,) = ended.runs
    assert (ended.began, ended.seconds, ended.status, ended.error) == (4990.0, 10.0, 200, "")
    assert (run.arrived, run.seconds, run.queue, run.way, run.handler) == (1.0, 8.0, 2.0, 1.0, 5.0)
    assert run.steps == (Step(name="inference", began=0.5, seconds=3.0),)
    assert run.batch_size == 4


@pytest.mark.usefixtures("clock")
def test_request_that_never_came_to_a_worker_is_told_with_its_error() -> None:
    ears, watch, refused = Ears(), RequestWatch(), job()
    watch.listeners.append(ears)
    watch.begun(refused)
    refused.fail(QueueFull("tiny", 1))
    watch.ended("id", "", "", 503, 1.0)
    (ended,) = ears.heard
    assert (ended.error, ended.runs[0].batch_size, ended.runs[0].handler) == ("QueueFull", 0, 0.0)


def test_requests_that_are_part_of_another_are_told_with_it() -> None:
    ears, watch = Ears(), RequestWatch()
    watch.listeners.append(ears)
    watch.begun(job("a", part_of="whole"))
    watch.begun(job("b", part_of="whole"))
    watch.ended("whole", "", "", 200, 1.0)
    assert [run.request.id for run in ears.heard[0].runs] == ["a", "b"]


def test_each_request_is_told_once_and_to_those_alone_who_want_it() -> None:
    keen, bored, watch = Ears(), Ears(wants=False), RequestWatch()
    watch.listeners += [keen, bored]
    watch.begun(job())
    for _ in range(2):
        watch.ended("id", "", "", 200, 1.0)
    assert (len(keen.heard), len(bored.heard)) == (1, 0)


def test_what_management_asks_of_a_model_is_told_to_nobody() -> None:
    ears, watch = Ears(), RequestWatch()
    watch.listeners.append(ears)
    watch.begun(job(verb=Verb.DESCRIBE))
    watch.ended("id", "", "", 200, 1.0)
    assert ears.heard == []
