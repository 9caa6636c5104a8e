"""TorchServe's inference service: Ping, Predictions, StreamPredictions and StreamPredictions2."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc

from torchserve_lite.core.models import SequenceHeaders
from torchserve_lite.core.requests import InferenceRequest, InferenceResponse, Part, Verb
from torchserve_lite.core.streams import Buffer
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import AnswerTooLarge, BadRequest, ServingError
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import grpc_reply_to
from torchserve_lite.protocols.grpc.calls import Call, Service, log_unexpected
from torchserve_lite.protocols.grpc.messages import Messages
from torchserve_lite.protocols.health import Health

_PACKAGE = "org.pytorch.serve.grpc.inference"
_MOST_AT_ONCE = 100  # requests of one stream; the client's next ones wait in its connection


class InferenceService:
    """``max_response_size``: bytes of an answer that a handler streams and a client wants in one piece."""

    def __init__(
        self,
        plane: DataPlane,
        health: Health,
        messages: Messages,
        max_response_size: int,
        sequence_headers: SequenceHeaders,
    ) -> None:
        self._plane = plane
        self._health = health
        self._max_response_size = max_response_size
        self._sequence_headers = sequence_headers
        self._answer = messages.named(f"{_PACKAGE}.PredictionResponse")
        self._health_answer = messages.named(f"{_PACKAGE}.TorchServeHealthResponse")
        self._status = messages.named("google.rpc.Status")
        self._error_info = messages.named("google.rpc.ErrorInfo")

    @property
    def service(self) -> Service:
        return Service(
            name=f"{_PACKAGE}.InferenceAPIsService",
            methods={
                "Ping": self.ping,
                "Predictions": self.predictions,
                "StreamPredictions": self.stream_predictions,
                "StreamPredictions2": self.stream_predictions2,
            },
            door=Door.INFERENCE,
            open_methods=frozenset({"Ping"}),
        )

    async def ping(self, request: Any, call: Call) -> Any:
        """The body of /ping. The status of the call is OK whatever it says, as in TorchServe."""
        found = await self._health.server()
        status = "Healthy" if found.ready else "Unhealthy"
        return self._health_answer(health=json.dumps({"status": status, **found.causes}, indent=2))

    async def predictions(self, request: Any, call: Call) -> Any:
        response = await self._plane.infer(self._inference_request(request, call, call.request_id))
        call.tell_headers(response.headers)
        if response.stream is None:
            return self._answer(prediction=bytes(response.body))
        whole = bytearray()
        async for piece in _pieces(response):
            whole += piece
            if len(whole) > self._max_response_size:
                raise AnswerTooLarge(
                    f"The streamed answer is larger than max_response_size={self._max_response_size} bytes. "
                    "StreamPredictions has no such limit."
                )
        return self._answer(prediction=bytes(whole))

    async def stream_predictions(self, request: Any, call: Call) -> None:
        response = await self._plane.infer(self._inference_request(request, call, call.request_id))
        call.tell_headers(response.headers)
        async with aclosing(_pieces(response)) as pieces:
            async for piece in pieces:
                await call.send(self._answer(prediction=bytes(piece)))

    async def stream_predictions2(self, requests: AsyncIterator[Any], call: Call) -> None:
        """Requests of one sequence are run one after another, those of several at the same time. When the client is
        done (TorchServe: at once), or the server stops, the call ends with the last answer."""
        sequences = _Sequences()
        room = asyncio.Semaphore(_MOST_AT_ONCE)
        broken: ServingError | None = None

        async def answer(request: Any) -> None:
            try:
                async with sequences.turn_of(request.sequence_id):
                    await self._answer_in_sequence(request, call)
            finally:
                room.release()

        async with asyncio.TaskGroup() as tasks:
            try:
                await room.acquire()
                async for request in requests:
                    tasks.create_task(answer(request))
                    await room.acquire()
            except ServingError as error:  # no more can be read; what has been is answered
                broken = error
        if broken is not None:
            raise broken

    async def _answer_in_sequence(self, request: Any, call: Call) -> None:
        """What fails is told in a message, because the stream goes on."""
        sequence = request.sequence_id
        request_id, code = call.begin_message(), grpc.StatusCode.OK.value[0]
        try:
            if not sequence:
                raise BadRequest("Parameter sequenceId is required.")
            response = await self._plane.infer(self._inference_request(request, call, request_id))
            async with aclosing(_pieces(response)) as pieces:
                async for piece in pieces:
                    await call.send(self._answer(prediction=bytes(piece), sequence_id=sequence))
        except Exception as error:
            if not isinstance(error, ServingError):
                log_unexpected("A request of StreamPredictions2", error, call.request_id)
            status = self._status_of(error)
            code = status.code
            await call.send(self._answer(sequence_id=sequence, status=status))
        call.end_message(request_id, code)

    def _inference_request(self, request: Any, call: Call, request_id: str) -> InferenceRequest:
        """The handler gets each input as bytes. The sequence's id is a header, as it is over HTTP."""
        if not request.model_name:
            raise BadRequest("Parameter model_name is required.")
        said, inputs = call.metadata, request.input
        headers, encoded = said.headers, said.encoded_headers
        if request.sequence_id:
            own = self._sequence_headers
            flags = [(name, bytes(inputs[name]).decode("latin-1")) for name in (own.start, own.end) if name in inputs]
            others = [pair for pair in headers if pair[0] != own.id.lower()]
            headers, encoded = (*others, (own.id, request.sequence_id), *flags), b""
        return InferenceRequest(
            request_id,
            request.model_name,
            request.model_version or None,
            Verb.PREDICT,
            tuple([Part(name, inputs[name]) for name in inputs]),  # items() costs twice as much
            headers,
            timeout=call.timeout,
            trace_context=said.trace_context,
            encoded_headers=encoded,
        )

    def _status_of(self, error: Exception) -> Any:
        reply = grpc_reply_to(error)
        status = self._status(code=grpc.StatusCode[reply.code].value[0], message=reply.message)
        status.details.add().Pack(self._error_info(reason=reply.type))
        return status


class _Sequences:
    """Gives the requests of each sequence their turns, in the order in which they ask."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def turn_of(self, sequence: str) -> AsyncIterator[None]:
        self._users[sequence] += 1
        try:
            async with self._locks.setdefault(sequence, asyncio.Lock()):
                yield
        finally:
            self._users[sequence] -= 1
            if not self._users[sequence]:
                del self._users[sequence], self._locks[sequence]


async def _pieces(response: InferenceResponse) -> AsyncGenerator[Buffer, None]:
    """One, unless the handler streams; an empty first one of several is left out."""
    if response.stream is None:
        yield response.body
        return
    async with response.stream as pieces:
        if response.body:
            yield response.body
        async for piece in pieces:
            yield piece
