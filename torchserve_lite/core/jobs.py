"""One request in flight: from its acceptance to its one answer."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Protocol

from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Verb
from torchserve_lite.core.streams import AnswerStream
from torchserve_lite.errors import ServingError


class JobHolder(Protocol):
    """Who has a job at the moment: the queue that it waits in, or the worker that runs it."""

    def unwanted(self, job: Job) -> None:
        """Called once: nobody waits for (more of) its answer."""


class Job:
    """A request, its deadline and its answer. The first answer counts, later ones are ignored.

    ``arrived`` and ``deadline`` are readings of the event loop's clock, ``waited`` the seconds it spent in the queue.
    """

    __slots__ = (
        "_stream",
        "answer",
        "arrived",
        "deadline",
        "holder",
        "key",
        "put_back",
        "queued_at",
        "request",
        "waited",
    )

    def __init__(self, request: InferenceRequest, key: ModelKey, arrived: float, deadline: float | None = None) -> None:
        self.request = request
        self.key = key
        self.arrived = arrived
        self.deadline = deadline
        self.queued_at = 0.0  # a perf_counter reading: the event loop's clock may count in milliseconds only
        self.waited = 0.0
        self.put_back = False  # a worker died before it took up the batch of this job, which then waited again
        self.answer: asyncio.Future[InferenceResponse] = asyncio.get_running_loop().create_future()
        self.holder: JobHolder | None = None
        self._stream: AnswerStream | None = None

    @property
    def batchable(self) -> bool:
        """Explanations and descriptions run alone: handlers look at the first request's headers to tell them apart."""
        return self.request.verb is Verb.PREDICT

    @property
    def wanted(self) -> bool:
        """Somebody still waits for (more of) the answer."""
        return not self.answer.done() if self._stream is None else not self._stream.ended

    def remaining(self, now: float) -> float | None:
        return None if self.deadline is None else self.deadline - now

    def succeed(self, response: InferenceResponse) -> None:
        """The whole answer, or the last piece of a streamed one."""
        if not self.wanted:
            return
        if self._stream is None:
            self.answer.set_result(response)
        else:
            self._stream.put(response.body)
            self._stream.end()
        self._tell_holder()

    def fail(self, error: ServingError) -> None:
        if not self.wanted:
            return
        if self._stream is None:
            self.answer.set_exception(error)
        else:
            self._stream.end(error)
        self._tell_holder()

    def abandon(self) -> None:
        """The client has gone: nothing that comes now is wanted."""
        self.answer.cancel()
        if self._stream is not None:
            self._stream.end()
        self._tell_holder()

    def add_piece(self, response: InferenceResponse) -> None:
        """A piece of a streamed answer: the first one carries status and headers and settles ``answer``."""
        if not self.wanted:
            return
        if self._stream is None:
            self._stream = AnswerStream(self.abandon)
            self.answer.set_result(replace(response, stream=self._stream))
        else:
            self._stream.put(response.body)

    async def room(self) -> None:
        """Waits while the reader of a streamed answer is behind."""
        if self._stream is not None and not self._stream.ended:
            await self._stream.room()

    def _tell_holder(self) -> None:
        holder, self.holder = self.holder, None
        if holder is not None:
            holder.unwanted(self)
