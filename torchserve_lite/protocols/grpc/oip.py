"""The Open Inference Protocol (KServe's V2) over gRPC, under the names of two packages."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

import grpc

from torchserve_lite import __version__
from torchserve_lite.core.requests import Envelope, InferenceRequest, InferenceResponse, Verb
from torchserve_lite.core.streams import AnswerStream, Buffer
from torchserve_lite.dataplane.interface import DataPlane
from torchserve_lite.errors import HandlerError, InvalidAnswer, ServingError
from torchserve_lite.management.access import Door
from torchserve_lite.protocols.errors import ErrorForm, grpc_reply_to
from torchserve_lite.protocols.grpc.calls import Call, Service
from torchserve_lite.protocols.grpc.messages import Messages
from torchserve_lite.protocols.grpc.oip_codec import fill_piece, fill_response, parts_of
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.kserve import EXTENSIONS, PLATFORM, KServeRepository
from torchserve_lite.protocols.tensors import TENSORS

_KSERVE = "inference"
_PACKAGES = (_KSERVE, "org.pytorch.serve.grpc.openinference")
_AHEAD = 32  # requests of one stream that are under way or answered, while an earlier one is not
_LONGEST_DETAIL = 1000
_OK = int(grpc.StatusCode.OK.value[0])

_Begun = tuple[Any, str, asyncio.Task[InferenceResponse | ServingError]]
"""A request of a stream, its id, and its answer on the way."""


class OpenInference:
    """The messages of both packages have the same bytes, so that KServe's classes stand for both."""

    def __init__(self, plane: DataPlane, health: Health, repository: KServeRepository, messages: Messages) -> None:
        self._plane = plane
        self._health = health
        self._repository = repository
        self._messages = messages

    @property
    def services(self) -> tuple[Service, ...]:
        methods = {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelInfer": self.model_infer,
            "ModelStreamInfer": self.model_stream_infer,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.load,
            "RepositoryModelUnload": self.unload,
        }
        of_management = ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload")
        return tuple(
            Service(
                name=f"{package}.GRPCInferenceService",
                methods=methods,
                door=Door.INFERENCE,
                open_methods=frozenset({"ServerLive", "ServerReady", "ModelReady"}),
                doors=dict.fromkeys(of_management, Door.MANAGEMENT),
                form=ErrorForm.KSERVE,
            )
            for package in _PACKAGES
        )

    async def server_live(self, request: Any, call: Call) -> Any:
        return self._new("ServerLiveResponse", live=True)

    async def server_ready(self, request: Any, call: Call) -> Any:
        return self._new("ServerReadyResponse", ready=(await self._health.server()).ready)

    async def model_ready(self, request: Any, call: Call) -> Any:
        found = await self._health.model(request.name, request.version or None)
        return self._new("ModelReadyResponse", ready=found.ready)

    async def server_metadata(self, request: Any, call: Call) -> Any:
        return self._new("ServerMetadataResponse", name="torchserve-lite", version=__version__, extensions=EXTENSIONS)

    async def model_metadata(self, request: Any, call: Call) -> Any:
        """Without a signature there are no inputs and outputs, which the protocol allows."""
        found = await self._plane.metadata(request.name, request.version or None)
        signature = found.signature
        return self._new(
            "ModelMetadataResponse",
            name=request.name,
            versions=found.versions,
            platform=signature.platform or PLATFORM,
            inputs=[asdict(tensor) for tensor in signature.inputs],
            outputs=[asdict(tensor) for tensor in signature.outputs],
        )

    async def model_infer(self, request: Any, call: Call) -> Any:
        answer = await self._ask(request, call, call.request_id)
        call.tell_headers(tuple((name, value) for name, value in answer.headers if name != TENSORS))
        _check_status(answer)
        return self._response_of(request, answer)

    async def model_stream_infer(self, requests: Any, call: Call) -> None:
        """The requests of a stream run concurrently, so that they may share a batch, and are answered in their order.
        What fails is told in its turn, and the stream goes on."""
        begun: asyncio.Queue[_Begun | ServingError | None] = asyncio.Queue(_AHEAD)
        streams: set[AnswerStream] = set()
        try:
            async with asyncio.TaskGroup() as tasks:

                async def begin(request: Any, request_id: str) -> InferenceResponse | ServingError:
                    try:
                        answer = await self._ask(request, call, request_id, in_pieces=True)
                        _check_status(answer)
                    except ServingError as error:
                        return error
                    if answer.stream is not None:
                        streams.add(answer.stream)
                    return answer

                async def read() -> None:
                    end: ServingError | None = None
                    try:
                        async for request in requests:
                            request_id = call.begin_message()
                            await begun.put((request, request_id, tasks.create_task(begin(request, request_id))))
                    except ServingError as error:  # told when what came before it has been answered
                        end = error
                    await begun.put(end)

                tasks.create_task(read())
                while isinstance(one := await begun.get(), tuple):
                    request, request_id, answering = one
                    call.end_message(request_id, await self._send(request, await answering, call))
        finally:
            for stream in streams:  # what nobody reads any more leaves its worker free
                stream.close()
        if one is not None:
            raise one

    async def _send(self, request: Any, outcome: InferenceResponse | ServingError, call: Call) -> int:
        """Each piece of an answer is a message; the last one has what the handler returned. Gives gRPC's number of how
        it went."""
        try:
            if isinstance(outcome, ServingError):
                raise outcome
            if outcome.stream is None:
                await self._send_response(call, self._response_of(request, outcome))
                return _OK
            async with outcome.stream:
                await self._send_response(call, self._piece_of(request, outcome.body))
                async for piece in outcome.stream:
                    await self._send_response(call, self._piece_of(request, piece))
        except ServingError as error:
            failed = self._new("ModelStreamInferResponse", error_message=str(error))
            failed.infer_response.id = request.id
            await call.send(failed)
            return int(grpc.StatusCode[grpc_reply_to(error, ErrorForm.KSERVE).code].value[0])
        return _OK

    async def _send_response(self, call: Call, response: Any) -> None:
        await call.send(self._new("ModelStreamInferResponse", infer_response=response))

    async def repository_index(self, request: Any, call: Call) -> Any:
        models = await self._repository.index(ready_only=request.ready)
        return self._new("RepositoryIndexResponse", models=[asdict(model) for model in models])

    async def load(self, request: Any, call: Call) -> Any:
        name = _model_named(request)
        await self._repository.load(name)
        return self._new("RepositoryModelLoadResponse", model_name=name, isLoaded=True)

    async def unload(self, request: Any, call: Call) -> Any:
        name = _model_named(request)
        await self._repository.unload(name)
        return self._new("RepositoryModelUnloadResponse", model_name=name, isUnloaded=True)

    async def _ask(self, request: Any, call: Call, request_id: str, *, in_pieces: bool = False) -> InferenceResponse:
        name, version = request.model_name, request.model_version or None
        await self._plane.check_known(name, version)
        parts = parts_of(request)
        said = call.metadata
        facts = (Envelope.KSERVE_V2, call.timeout, said.trace_context, said.encoded_headers)
        asked = InferenceRequest(
            request_id, name, version, Verb.PREDICT, parts, said.headers, *facts, in_pieces=in_pieces
        )
        return await self._plane.infer(asked)

    def _response_of(self, request: Any, answer: InferenceResponse) -> Any:
        return fill_response(self._new("ModelInferResponse"), answer, raw=bool(request.raw_input_contents))

    def _piece_of(self, request: Any, piece: Buffer) -> Any:
        """What a handler sends before its result is in no envelope."""
        try:
            return self._response_of(request, InferenceResponse(piece))
        except InvalidAnswer:
            named = {"model_name": request.model_name, "model_version": request.model_version, "id": request.id}
            raw = bool(request.raw_input_contents)
            return fill_piece(self._new("ModelInferResponse", **named), piece, raw=raw)

    def _new(self, message: str, /, **fields: Any) -> Any:
        return self._messages.named(f"{_KSERVE}.{message}")(**fields)


def _check_status(answer: InferenceResponse) -> None:
    if answer.status < 400:
        return
    if answer.stream is not None:
        answer.stream.close()
    text = bytes(answer.body[:_LONGEST_DETAIL]).decode(errors="replace")
    raise HandlerError(f"The handler answered with the status {answer.status}: {text}", answer.status)


def _model_named(request: Any) -> str:
    """Triton's clients write it into the second field, KServe's into the first."""
    name: str = request.model_name or request.repository_name
    return name
