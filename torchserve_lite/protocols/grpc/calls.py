"""The one exit of gRPC: what a service answers or raises goes out with the status and log line that all calls have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError

from torchserve_lite.core.requests import Headers
from torchserve_lite.errors import AnswerNotTaken, BadRequest, ServingError, ShuttingDown
from torchserve_lite.ipc.log_lines import RequestIds
from torchserve_lite.management.access import Access, Door
from torchserve_lite.protocols.errors import ErrorForm, grpc_reply_to
from torchserve_lite.protocols.grpc.messages import Messages
from torchserve_lite.protocols.grpc.metadata import ClientMetadata, client_metadata, told_to_client
from torchserve_lite.protocols.http.access_log import AccessLog
from torchserve_lite.protocols.http.answers import new_request_id
from torchserve_lite.telemetry.ended_requests import RequestWatch

log = logging.getLogger(__name__)

Method = Callable[[Any, "Call"], Awaitable[Any]]
"""What a service does for one method: it takes the request (where the client streams: an iterator of them) and the
call, and gives the answer. Where the server streams it gives nothing, and sends each message through the call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service of the descriptors: its full ``name``, and what each of its ``methods`` does. A key has to open
    ``door``, but for ``open_methods`` and for the methods that have other ``doors``."""

    name: str
    methods: Mapping[str, Method]
    door: Door = Door.OPEN
    open_methods: frozenset[str] = field(default=frozenset())
    doors: Mapping[str, Door] = field(default_factory=dict)
    form: ErrorForm = ErrorForm.TORCHSERVE


def log_unexpected(what: str, error: Exception, request_id: str) -> None:
    """An error that is none of ours: clients are told nothing of it, so the log has to."""
    about = {"request_ids": RequestIds.of([request_id])}
    log.error("%s failed unexpectedly (request %s)", what, request_id, exc_info=error, extra=about)


@dataclass(frozen=True, slots=True)
class Pace:
    """At which a client has to take what is streamed to it: ``rate`` bytes a second over ``window`` seconds, as over
    HTTP. 0: it may take its time."""

    window: float
    rate: float

    def seconds_for(self, size: int) -> float | None:
        return max(self.window, size / self.rate) if self.rate else None


class Call:
    """One call of a client. ``metadata`` is what it says besides its message, ``trailing`` what it is told so."""

    # fmt: off
    __slots__ = (
        "_asked", "_begun", "_context", "_messages", "_pace", "_request_class", "_sending", "_stopping", "_task",
        "_watch", "failure", "metadata", "request_id", "trailing",
    )
    # fmt: on

    def __init__(
        self,
        context: grpc.aio.ServicerContext[Any, Any],
        request_class: Any,
        stopping: asyncio.Event,
        pace: Pace,
        task: asyncio.Task[Any],
        asked: str,
        watch: RequestWatch,
    ) -> None:
        """``task``: in which the call is answered. Where it is cancelled because of a ``failure``, the client is told
        that. ``asked``: as the access log has it."""
        self._begun = perf_counter()
        self._asked = asked
        self._watch = watch
        self._messages: dict[str, float] = {}  # requests in a stream of them: when each began, by its id
        self.failure: ServingError | None = None
        self.request_id = new_request_id()
        self.metadata: ClientMetadata = client_metadata(context.invocation_metadata())
        self.trailing = [("x-request-id", self.request_id)]
        self._context = context
        self._request_class = request_class
        self._stopping = stopping
        self._pace = pace
        self._task = task
        self._sending: asyncio.Lock | None = None  # made for those who stream

    @property
    def timeout(self) -> float | None:
        """Seconds that the client is ready to wait, for the job, which is not begun after them: until its deadline, or
        as many as it says by ``x-request-timeout-ms``, as over HTTP. That the call itself ends at the deadline, gRPC
        sees to."""
        remaining: float | None = self._context.time_remaining()
        said = self.metadata.seconds
        return said if remaining is None or (said is not None and said < remaining) else remaining

    def tell_headers(self, headers: Headers) -> None:
        """Those that the handler set, with the end of the call."""
        if headers:
            self.trailing += told_to_client(headers)

    def begin_message(self) -> str:
        """The id for a request that comes in a stream of them. It is over with ``end_message``, or with the call."""
        request_id = new_request_id()
        self._messages[request_id] = perf_counter()
        return request_id

    def end_message(self, request_id: str, code: int) -> None:
        """``code``: gRPC's number of how it ended."""
        seconds = perf_counter() - self._messages.pop(request_id)
        if self._watch.open:
            self._watch.ended(request_id, self._asked, self.peer, code, seconds)

    def end(self, code: grpc.StatusCode, access_log: AccessLog) -> None:
        """What all calls leave behind."""
        seconds = perf_counter() - self._begun
        access_log.add(self.peer, self._asked, code.value[0], seconds, self.request_id)
        for request_id in list(self._messages):
            self.end_message(request_id, code.value[0])
        if self._watch.open:
            status = None if code is grpc.StatusCode.CANCELLED else code.value[0]
            self._watch.ended(self.request_id, self._asked, self.peer, status, seconds)

    @property
    def stopping(self) -> asyncio.Event:
        """Set when the server stops: what would go on for ever ends."""
        return self._stopping

    @property
    def peer(self) -> str:
        """As the access log has it."""
        peer = self._context.peer()
        if peer.startswith("ipv4:"):
            return f"/{peer[5:]}"
        kind, _, address = unquote(peer).partition(":")
        return f"/{address.replace('[', '').replace(']', '')}" if kind == "ipv6" else "127.0.0.1"

    def parse(self, request: bytes) -> Any:
        try:
            return self._request_class.FromString(request)
        except DecodeError as error:
            name = self._request_class.DESCRIPTOR.full_name
            raise BadRequest(f"The request is no message of the type {name}.") from error

    async def send(self, message: Any) -> None:
        """One message of a streamed answer. Waits while the client does not keep up. Several tasks may send.

        Once the client has gone, the call is cancelled; whoever sends just before that hears the same. So it is when
        the client does not take the message for too long.
        """
        if self._sending is None:
            self._sending = asyncio.Lock()
        async with self._sending:
            data = message.SerializeToString()
            seconds = self._pace.seconds_for(len(data))
            try:
                async with asyncio.timeout(seconds):
                    await self._context.write(data)
            except grpc.aio.InternalError as error:
                raise asyncio.CancelledError from error
            except TimeoutError as error:
                self.failure = AnswerNotTaken(len(data), seconds or 0.0)
                about = {"request_ids": RequestIds.of([self.request_id])}
                log.warning("%s is cut off, request %s. %s", self.peer, self.request_id, self.failure, extra=about)
                if asyncio.current_task() is not self._task:  # else it ends by this exception
                    self._task.cancel()
                raise asyncio.CancelledError from error

    async def requests(self) -> AsyncIterator[Any]:
        """Those that the client streams, until it is done; ShuttingDown when the server stops meanwhile."""
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            while True:
                reading = asyncio.ensure_future(self._context.read())
                try:
                    await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
                    if not reading.done():
                        raise ShuttingDown
                    request: Any = await reading
                finally:
                    reading.cancel()
                if request is grpc.aio.EOF:
                    return
                yield self.parse(request)
        finally:
            stopping.cancel()


class Calls:
    """Answers the calls of one listener. ``shared``: it serves inference and management, see ``Access.admits``."""

    def __init__(
        self,
        messages: Messages,
        access: Access,
        access_log: AccessLog,
        stopping: asyncio.Event,
        pace: Pace,
        watch: RequestWatch,
        *,
        shared: bool = False,
    ) -> None:
        self._messages = messages
        self._watch = watch
        self._access = access
        self._access_log = access_log
        self._stopping = stopping
        self._pace = pace
        self._shared = shared
        self._running: set[asyncio.Task[Any]] = set()  # gRPC's: they end when the client has been sent the last of it
        self._refusing = False

    async def end(self, patience: Callable[[], float]) -> None:
        """Waits for the calls that have begun, ``patience()`` seconds at most. New ones are answered meanwhile, since
        clients on open connections know no other server yet; then they are refused."""
        await self._ended(patience())
        self._refusing = True
        await self._ended(patience())
        await self._ended(patience())  # those that were refused

    async def _ended(self, patience: float) -> None:
        """All that run now."""
        if self._running:
            await asyncio.wait(set(self._running), timeout=patience)

    def handlers(self, service: Service) -> grpc.GenericRpcHandler:
        """Requests and answers pass through gRPC as bytes, so that a request that is none is answered by us, too."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        described = self._messages.pool.FindServiceByName(service.name)
        for method in described.methods:
            if method.name not in service.methods:
                continue  # UNIMPLEMENTED, which gRPC answers
            answer = self._answering(service, method.name, self._messages.named(method.input_type.full_name))
            kind = {
                (False, False): grpc.unary_unary_rpc_method_handler,
                (False, True): grpc.unary_stream_rpc_method_handler,
                (True, False): grpc.stream_unary_rpc_method_handler,
                (True, True): grpc.stream_stream_rpc_method_handler,
            }[(method.client_streaming, method.server_streaming)]
            handlers[method.name] = kind(answer)
        return grpc.method_handlers_generic_handler(service.name, handlers)

    def _answering(self, service: Service, name: str, request_class: Any) -> Any:
        method = service.methods[name]
        door = Door.OPEN if name in service.open_methods else service.doors.get(name, service.door)
        asked = f"gRPC {service.name}/{name} HTTP/2.0"

        async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> bytes | None:  # noqa: RET503
            task = asyncio.current_task()
            assert task is not None
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            call = Call(context, request_class, self._stopping, self._pace, task, asked, self._watch)
            code = grpc.StatusCode.OK
            try:
                if self._refusing:
                    raise ShuttingDown
                self._access.check(door, call.metadata.authorization, shared=self._shared)
                try:
                    answered = await method(
                        call.parse(request) if isinstance(request, bytes) else call.requests(), call
                    )
                except asyncio.CancelledError:
                    if call.failure is None:
                        raise
                    task.uncancel()
                    raise call.failure from None
                context.set_trailing_metadata(tuple(call.trailing))
                return None if answered is None else answered.SerializeToString()
            except asyncio.CancelledError:  # the client has gone, its deadline has passed, or a stop took too long
                code = grpc.StatusCode.CANCELLED
                raise
            except Exception as error:
                if not isinstance(error, ServingError):
                    log_unexpected(asked, error, call.request_id)
                reply = grpc_reply_to(error, service.form)
                code = grpc.StatusCode[reply.code]
                if reply.retry_after is not None:
                    call.trailing.append(("retry-after", str(reply.retry_after)))
                details = reply.details if service.form is ErrorForm.TORCHSERVE else reply.message
            finally:  # before the client knows
                call.end(code, self._access_log)
            if call.failure is not None:  # a client that takes nothing does not take this, either
                self._running.discard(task)
            await context.abort(code, details, tuple(call.trailing))

        return answer
