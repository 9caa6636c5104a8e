"""Requests that have ended, for whoever wants to know: what was asked, how it ended, and where its time went.

While nobody listens, nothing is kept, and a request pays for one look at an empty list.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.requests import InferenceRequest, Verb

_DESCRIBE = Verb.DESCRIBE  # as in core/jobs.py: looked up once


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step of the handler in seconds: ``began`` counts from when the handler had the batch."""

    name: str
    began: float
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRun:
    """What one model did for a request. Times are seconds, ``arrived`` counted from the request's beginning.

    ``seconds``, from its arrival to its answer, are ``queue`` (it waited for a worker, and for others to share a batch
    with), ``way`` (to the worker and back, and behind another batch in it) and ``handler`` (its worker had the batch in
    hand; ``steps`` are known for handlers that mark them). ``batch_size`` 0: no worker has had it.
    """

    request: InferenceRequest
    model: ModelKey
    arrived: float
    seconds: float
    queue: float
    way: float
    handler: float
    steps: tuple[Step, ...]
    batch_size: int
    error: str  # the name of the exception, empty when there was none


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedRequest:
    """A request of a client for a prediction or an explanation, whatever became of it.

    ``asked`` and ``peer``: as in the access log. ``status``: of HTTP, or the number of gRPC's; None when the client has
    left before its answer. ``began``: seconds since 1970. ``seconds``: until its answer was written. ``runs``: one, or
    one for each node of a workflow that was tried.
    """

    id: str
    asked: str
    peer: str
    status: int | None
    began: float
    seconds: float
    runs: tuple[ModelRun, ...]

    @property
    def error(self) -> str:
        return next((run.error for run in reversed(self.runs) if run.error), "")


class RequestListener(Protocol):
    def begins(self, request: InferenceRequest) -> bool:
        """Whether it wants to hear of this one's end. What it sets as ``trace_context`` goes to the worker."""

    def ended(self, ended: EndedRequest) -> None: ...


class RequestWatch:
    """Tells its ``listeners``. The data plane says what has begun, the exit of each protocol what is over, unless none
    is ``open``: of a busy server's requests listeners want a few.

    Each request that has begun is told to be over, or it is kept for ever: whoever makes one that has no exit of its
    own says by ``part_of`` to which it belongs.
    """

    __slots__ = ("listeners", "open")

    def __init__(self) -> None:
        self.listeners: list[RequestListener] = []
        self.open: dict[str, tuple[list[RequestListener], list[Job]]] = {}

    def begun(self, job: Job) -> None:
        request = job.request
        if request.verb is _DESCRIBE:  # a question of management
            return
        for listener in tuple(self.listeners):  # one may have enough with this request, and leave
            if listener.begins(request):
                wanting, jobs = self.open.setdefault(request.part_of or request.id, ([], []))
                if listener not in wanting:
                    wanting.append(listener)
                if job not in jobs:
                    jobs.append(job)

    def ended(self, request_id: str, asked: str, peer: str, status: int | None, seconds: float) -> None:
        found = self.open.pop(request_id, None)
        if found is None:
            return
        wanting, jobs = found
        now = perf_counter()
        ended = EndedRequest(
            id=request_id,
            asked=asked,
            peer=peer,
            status=status,
            began=time.time() - seconds,
            seconds=seconds,
            runs=tuple([_run(job, now - seconds, now) for job in jobs]),
        )
        for listener in wanting:
            listener.ended(ended)


def _run(job: Job, began: float, now: float) -> ModelRun:
    """``began`` and ``now``: of the whole request, as the performance counter read."""
    seconds = max(0.0, (job.ended_at or now) - job.made)
    queue = min(job.waited if job.batch_size else seconds, seconds)
    report = job.report
    handler = 0.0 if report is None else min(report.handler_seconds, seconds - queue)
    return ModelRun(
        request=job.request,
        model=job.key,
        arrived=max(0.0, job.made - began),
        seconds=seconds,
        queue=queue,
        way=seconds - queue - handler,
        handler=handler,
        steps=()
        if report is None
        else tuple([Step(name=name, began=since, seconds=spent) for name, spent, since in report.stages]),
        batch_size=job.batch_size,
        error="" if job.error is None else type(job.error).__name__,
    )
