"""One request in flight: from its acceptance to its one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Verb
from torchserve_lite.errors import ServingError


class Job:
    """A request, its deadline and its answer. The first answer counts, later ones are ignored.

    ``arrived`` and ``deadline`` are readings of the event loop's clock, ``waited`` the seconds it spent in the queue.
    ``on_settled`` is set by whoever holds the job (queue or pool) and is called once, when nobody waits for it more.
    """

    __slots__ = ("_chunks", "answer", "arrived", "deadline", "key", "on_settled", "queued_at", "request", "waited")

    def __init__(self, request: InferenceRequest, key: ModelKey, arrived: float, deadline: float | None = None) -> None:
        self.request = request
        self.key = key
        self.arrived = arrived
        self.deadline = deadline
        self.queued_at = 0.0  # a perf_counter reading: the event loop's clock may count in milliseconds only
        self.waited = 0.0
        self.answer: asyncio.Future[InferenceResponse] = asyncio.get_running_loop().create_future()
        self.on_settled: Callable[[Job], None] | None = None
        self._chunks: asyncio.Queue[bytes | ServingError | None] | None = None

    @property
    def batchable(self) -> bool:
        """Explanations and descriptions run alone: handlers look at the first request's headers to tell them apart."""
        return self.request.verb is Verb.PREDICT

    @property
    def wanted(self) -> bool:
        """Somebody still waits for (more of) the answer."""
        return not self.answer.done() or self._chunks is not None

    def remaining(self, now: float) -> float | None:
        return None if self.deadline is None else self.deadline - now

    def succeed(self, response: InferenceResponse) -> None:
        if self._chunks is not None:
            self._finish_stream(response.body)
        elif not self.answer.done():
            self.answer.set_result(response)
            self._settled()

    def fail(self, error: ServingError) -> None:
        if self._chunks is not None:
            self._finish_stream(error)
        elif not self.answer.done():
            self.answer.set_exception(error)
            self._settled()

    def abandon(self) -> None:
        """The client has gone: nothing that comes now is wanted."""
        self._chunks = None
        self.answer.cancel()
        self._settled()

    def add_chunk(self, response: InferenceResponse) -> None:
        """A piece of a streamed answer: the first one carries status and headers and settles ``answer``."""
        if self._chunks is not None:
            self._chunks.put_nowait(response.body)
        elif not self.answer.done():
            self._chunks = asyncio.Queue()
            self.answer.set_result(replace(response, more=self._stream(self._chunks)))

    def _finish_stream(self, last: bytes | ServingError) -> None:
        assert self._chunks is not None
        self._chunks.put_nowait(last)
        self._chunks.put_nowait(None)
        self._chunks = None
        self._settled()

    def _settled(self) -> None:
        if self.on_settled is not None:
            callback, self.on_settled = self.on_settled, None
            callback(self)

    async def _stream(self, chunks: asyncio.Queue[bytes | ServingError | None]) -> AsyncGenerator[bytes, None]:
        try:
            while (chunk := await chunks.get()) is not None:
                if isinstance(chunk, ServingError):
                    raise chunk
                yield chunk
        finally:
            if self._chunks is not None:  # the reader went away in the middle
                self.abandon()
