"""One request in flight: from its acceptance to its one answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Protocol

from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Verb
from torchserve_lite.core.streams import AnswerStream
from torchserve_lite.errors import DeadlineExceeded, ServingError

Outcome = InferenceResponse | ServingError
"""How a request ends: with its answer (a streamed one from its first piece on), or with why there is none."""

Told = Callable[[Outcome], None]


_PREDICT = Verb.PREDICT  # each look for a member of an enum costs as much as five of other names (Python 3.11)


class JobHolder(Protocol):
    """Who has a job at the moment: the queue that it waits in, or the worker that runs it."""

    def unwanted(self, job: Job) -> None:
        """Called once: nobody waits for (more of) its answer."""


class BatchReport(Protocol):
    """What a worker says of a batch at its end: ``stages`` are those that the handler marks, with their seconds and
    when each began, in seconds since the worker took the batch up."""

    @property
    def handler_seconds(self) -> float: ...

    @property
    def stages(self) -> tuple[tuple[str, float, float], ...]: ...


class Job:
    """A request, its deadline and its answer. The first answer counts, later ones are ignored.

    ``arrived`` and ``deadline`` are readings of the event loop's clock, which may count in milliseconds only; ``made``
    and ``ended_at`` (it has its whole answer, or never will) are readings of the performance counter. ``waited``: the
    seconds from ``made`` until it left the queue. ``timer`` answers it at its deadline, when it has one; it ends with
    the job. ``batch_size``: of the batch that it was sent in; ``report``: what that batch's worker said at its end.
    """

    __slots__ = (
        "_abandoned",
        "_answer",
        "_outcome",
        "_stream",
        "_told",
        "arrived",
        "batch_size",
        "batchable",
        "deadline",
        "ended_at",
        "holder",
        "key",
        "made",
        "put_back",
        "report",
        "request",
        "timer",
        "waited",
    )

    def __init__(self, request: InferenceRequest, key: ModelKey, arrived: float, deadline: float | None = None) -> None:
        self.request = request
        # Explanations and descriptions run alone: handlers look at the first request's headers to tell them apart. What
        # is profiled is to be seen alone.
        self.batchable = request.verb is _PREDICT and not request.profile
        self.key = key
        self.arrived = arrived
        self.made = perf_counter()
        self.deadline = deadline
        self.ended_at = 0.0
        self.waited = 0.0
        self.batch_size = 0
        self.report: BatchReport | None = None
        self.put_back = False  # a worker died before it took up the batch of this job, which then waited again
        self.holder: JobHolder | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._outcome: Outcome | None = None
        self._abandoned = False
        self._told: Told | None = None
        self._answer: asyncio.Future[InferenceResponse] | None = None
        self._stream: AnswerStream | None = None

    def tell(self, told: Told) -> None:
        """Has ``told`` called once with the outcome, and never before this call has returned; not at all when the job
        is abandoned first."""
        self._told = told
        if self._outcome is not None:
            asyncio.get_running_loop().call_soon(self._tell)

    @property
    def answer(self) -> asyncio.Future[InferenceResponse]:
        """The outcome for those who await it; cancelled when the job is abandoned. Made when it is first asked for,
        since a future and the wake-up of its task cost more than all else about a job."""
        if self._answer is None:
            self._answer = asyncio.get_running_loop().create_future()
            self._settle_answer()
        return self._answer

    @property
    def is_open(self) -> bool:
        """It has no outcome yet, and somebody waits for it."""
        return self._outcome is None and not self._abandoned

    @property
    def wanted(self) -> bool:
        """Somebody still waits for (more of) the answer."""
        return self.is_open if self._stream is None else not self._stream.ended

    @property
    def error(self) -> ServingError | None:
        """Why it has no answer, when that is known."""
        return self._outcome if isinstance(self._outcome, ServingError) else None

    @property
    def given_up(self) -> str:
        """Why nobody waits any more, although its answer may yet come: ``client_left``, ``deadline``; empty when it is
        none of these."""
        if self._abandoned:
            return "client_left"
        return "deadline" if isinstance(self._outcome, DeadlineExceeded) else ""

    def succeed(self, response: InferenceResponse) -> None:
        """The whole answer, or the last piece of a streamed one."""
        if self._stream is None:
            self._settle(response)
        elif not self._stream.ended:
            self._stream.put(response.body)
            self._stream.end()
            self.ended_at = perf_counter()
        if self.holder is not None:
            self._tell_holder()

    def fail(self, error: ServingError) -> None:
        if self._stream is None:
            self._settle(error)
        else:
            self._stream.end(error)
            self.ended_at = perf_counter()
        if self.holder is not None:
            self._tell_holder()

    def abandon(self) -> None:
        """The client has gone: nothing that comes now is wanted."""
        self._abandoned = True
        self._told = None
        self.ended_at = perf_counter()
        self._end_timer()
        if self._answer is not None:
            self._answer.cancel()
        if self._stream is not None:
            self._stream.end()
        self._tell_holder()

    def add_piece(self, response: InferenceResponse) -> None:
        """A piece of a streamed answer: the first one carries status and headers and is the outcome."""
        if not self.wanted:
            return
        if self._stream is None:
            self._stream = AnswerStream(self.abandon)
            self._settle(replace(response, stream=self._stream))
        else:
            self._stream.put(response.body)

    @property
    def behind(self) -> bool:
        """The reader of its streamed answer does not keep up."""
        return self._stream is not None and self._stream.full

    @property
    def far_behind(self) -> bool:
        """More of its answer waits for the reader than should be kept for one."""
        return self._stream is not None and self._stream.overflowing

    def when_read(self, tell: Callable[[], None]) -> None:
        """Has ``tell`` called once when a reader who is ``behind`` has caught up, or has gone."""
        assert self._stream is not None
        self._stream.when_read(tell)

    def _settle(self, outcome: Outcome) -> None:
        if self._outcome is not None or self._abandoned:
            return
        self._outcome = outcome
        if self.timer is not None:
            self._end_timer()
        if self._answer is not None:
            self._settle_answer()
        told, self._told = self._told, None
        if told is not None:
            told(outcome)

    def _settle_answer(self) -> None:
        assert self._answer is not None
        if self._answer.done():
            return
        if isinstance(self._outcome, ServingError):
            self._answer.set_exception(self._outcome)
        elif self._outcome is not None:
            self._answer.set_result(self._outcome)
        elif self._abandoned:
            self._answer.cancel()

    def _tell(self) -> None:
        told, self._told = self._told, None
        if told is not None and self._outcome is not None:
            told(self._outcome)

    def _end_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def _tell_holder(self) -> None:
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.unwanted(self)
