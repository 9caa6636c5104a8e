"""How a batch meets a handler: calls become rows, rows go through the handler once, results become one reply a call."""

from __future__ import annotations

import asyncio
import copy
import importlib
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torchserve_lite.ipc.messages import Call, FailureKind, Load, Reply
from torchserve_lite.worker.handlers import Envelopes, Handler, StageMark
from torchserve_lite.worker.inputs import headers_of, row_of
from torchserve_lite.worker.outputs import Unserialisable, reply_of
from torchserve_lite.worker.tracebacks import explain_failure, is_out_of_memory

log = logging.getLogger(__name__)

SendChunk = Callable[[int, Reply], None]
Finish = Callable[[Awaitable[Any]], Awaitable[Any]]


@dataclass(slots=True)
class _Request:
    """One call on its way through the worker. ``rows`` are its entries in the handler's batch."""

    index: int
    call: Call
    processor: Any
    arrived: float
    envelope: Any = None
    rows: list[Any] = field(default_factory=list)
    reply: Reply | None = None

    @property
    def alone(self) -> bool:
        """Its rows belong together (several input tensors of one request): no other request may share the call."""
        return bool(getattr(self.envelope, "alone", False))

    @property
    def expired(self) -> bool:
        return self.call.remaining is not None and time.monotonic() - self.arrived >= self.call.remaining


class Service:
    """Runs batches through one handler. A request that is bad fails alone; a failing handler fails its batch."""

    def __init__(self, handler: Handler, load: Load, mark_stage: StageMark) -> None:
        self.handler = handler
        self.load = load
        self.mark_stage = mark_stage
        self.envelopes = Envelopes(load.v2_output_names)
        context, util = importlib.import_module("ts.context"), importlib.import_module("ts.utils.util")
        self.new_processor = context.RequestProcessor
        self.new_headers = context.RequestHeaders
        self.prediction_exception: type[Exception] = util.PredictionException
        self.invalid_row: type[Exception] = util.InvalidRow

    def predict(self, calls: Sequence[Call], send_chunk: SendChunk) -> tuple[Reply, ...]:
        """One reply for each call, in order."""
        run = _BatchRun(self, self.handler.context, send_chunk, _run_to_end)
        return _without_waiting(run.replies(calls))

    async def predict_beside_others(self, calls: Sequence[Call], send_chunk: SendChunk) -> tuple[Reply, ...]:
        """As ``predict``, for a handler whose entry point is a coroutine function: many batches may be under way.

        What the handler hangs on its context is shared by all of them; what belongs to requests is each one's own.
        """
        context = copy.copy(self.handler.context)
        context.metrics = copy.copy(context.metrics)
        return await _BatchRun(self, context, send_chunk, _as_it_is).replies(calls)


class _BatchRun:
    """One batch on its way: calls become rows, the handler answers them, results become replies."""

    def __init__(self, service: Service, context: Any, send_chunk: SendChunk, finish: Finish) -> None:
        self._service = service
        self._context = context
        self._send_chunk = send_chunk
        self._finish = finish

    async def replies(self, calls: Sequence[Call]) -> tuple[Reply, ...]:
        self._service.mark_stage("unpacking", -1)
        arrived = time.monotonic()
        requests = [self._request(index, call, arrived) for index, call in enumerate(calls)]
        for request in requests:
            self._unpack(request)
        for group in _groups([request for request in requests if request.reply is None]):
            await self._answer(group)
        return tuple(request.reply or _failed("No reply was made.") for request in requests)

    def _request(self, index: int, call: Call, arrived: float) -> _Request:
        processor = self._service.new_processor(self._service.new_headers(headers_of(call)))
        request = _Request(index, call, processor, arrived)
        if request.expired:
            request.reply = _failed(
                "The request's time limit passed before the handler could start.", FailureKind.DEADLINE
            )
        return request

    def _unpack(self, request: _Request) -> None:
        if request.reply is not None:
            return
        load = self._service.load
        name = request.call.envelope or load.envelope
        if request.call.verb == "describe":
            request.rows = [{}]
            return
        row = row_of(request.call, decode=load.decode_input_request and not request.call.envelope)
        if not name:
            request.rows = [row]
            return
        try:
            self._show_context([request])
            request.envelope = self._service.envelopes.new(name)
            request.rows = request.envelope.unpack(row, self._context, 0)
        except self._service.prediction_exception as fault:
            request.reply = _refused(_message(fault), _code(fault))

    async def _answer(self, group: list[_Request]) -> None:
        """One call of the handler for all rows of the group; again without a request whose row it refuses."""
        while group:
            try:
                results = await self._call_handler(group)
            except self._service.invalid_row as fault:
                group = self._without_bad_row(group, fault)
                continue
            except (Exception, asyncio.CancelledError) as error:  # a task that the handler waited for was cancelled
                self._fail(group, error)
                return
            self._pack(group, results)
            return

    async def _call_handler(self, group: list[_Request]) -> Any:
        rows = [row for request in group for row in request.rows]
        self._show_context(group)
        self._service.mark_stage("handle", 0 if len(rows) == 1 else -1)
        result = self._service.handler.entry_point(rows, self._context)
        return await self._finish(result) if inspect.isawaitable(result) else result

    def _show_context(self, group: list[_Request]) -> None:
        """The context speaks of rows: those of one request share its id, headers and response."""
        owners = [request for request in group for _ in (request.rows or [None])]
        self._context.request_ids = {row: request.call.id for row, request in enumerate(owners)}
        self._context.request_processor = [request.processor for request in owners]
        self._context.metrics.set_request_ids(self._context.request_ids)
        self._context.send = self._sender(owners)

    def _sender(self, owners: list[_Request]) -> Callable[[int, Any], None]:
        def send(row: int, value: Any) -> None:
            request = owners[row]
            self._send_chunk(request.index, reply_of(value, request.processor))

        return send

    def _pack(self, group: list[_Request], results: Any) -> None:
        self._service.mark_stage("packing", -1)
        rows = sum(len(request.rows) for request in group)
        fault = _shape_fault(results, rows, exact=not group[0].alone)
        if fault:
            log.error("%s", fault[1])
            _answer_all(group, _failed(fault[0]))
            return
        start = 0
        for request in group:
            end = start + len(request.rows)
            request.reply = self._reply(request, results[start:end])
            start = end

    def _reply(self, request: _Request, results: list[Any]) -> Reply:
        try:
            if request.envelope is None:
                reply = reply_of(results[0], request.processor)
            else:
                self._show_context([request])
                packed = request.envelope.pack(results, self._context, 0)
                reply = reply_of(packed, request.processor, enveloped=True)
        except Unserialisable as fault:
            log.error("The handler's result has no wire form: %s", fault)
            return _failed("Unsupported model output data type.")
        except self._service.prediction_exception as fault:
            return _failed(_message(fault), FailureKind.CODE, _code(fault))
        return _within_limit(reply, self._service.load.max_response_size)

    @staticmethod
    def _without_bad_row(group: list[_Request], fault: Any) -> list[_Request]:
        """Nothing has been inferred when a row is refused, so the others may start again without its owner."""
        owners = [request for request in group for _ in request.rows]
        owner = owners[fault.row]
        where = f"instance {fault.row - owners.index(owner)}: " if len(owner.rows) > 1 else ""
        owner.reply = _refused(f"{where}{_message(fault)}", _code(fault))
        return [request for request in group if request is not owner]

    def _fail(self, group: list[_Request], error: BaseException) -> None:
        if isinstance(error, self._service.prediction_exception):
            _answer_all(group, _failed(_message(error), FailureKind.CODE, _code(error)))
            return
        ids = ", ".join(request.call.id for request in group)
        log.error("The handler failed for request %s\n%s", ids, explain_failure(error).traceback)
        reply = (
            _failed("Out of resources", FailureKind.MEMORY) if is_out_of_memory(error) else _failed("Prediction failed")
        )
        _answer_all(group, reply)


def _run_to_end(result: Awaitable[Any]) -> Awaitable[Any]:
    """A coroutine from a handler that is called like any other runs on the worker's own event loop."""
    done = asyncio.get_event_loop().run_until_complete(result)
    return _as_it_is(done)


async def _as_it_is(result: Any) -> Any:
    return await result if inspect.isawaitable(result) else result


def _without_waiting(steps: Coroutine[Any, Any, tuple[Reply, ...]]) -> tuple[Reply, ...]:
    """Runs a coroutine that never waits: the batch's way is written once, for handlers of both kinds."""
    try:
        steps.send(None)
    except StopIteration as end:
        return cast("tuple[Reply, ...]", end.value)
    raise RuntimeError("a batch of a handler that is no coroutine function waited for something")


def _answer_all(group: list[_Request], reply: Reply) -> None:
    for request in group:
        request.reply = reply


def _within_limit(reply: Reply, limit: int) -> Reply:
    assert not isinstance(reply.body, int)
    if len(reply.body) <= limit:
        return reply
    return _failed(
        f"The answer has {len(reply.body)} bytes, more than max_response_size={limit}.", FailureKind.TOO_LARGE
    )


def _groups(requests: list[_Request]) -> list[list[_Request]]:
    """The calls of the handler that a batch takes: one for all requests, and one for each that must be alone."""
    together = [request for request in requests if not request.alone]
    return [*([together] if together else []), *([request] for request in requests if request.alone)]


def _shape_fault(results: Any, rows: int, *, exact: bool) -> tuple[str, str] | None:
    """TorchServe's message for the client, and what to tell the log."""
    if not isinstance(results, list):
        return (
            "Invalid model predict output",
            f"The handler returned {type(results).__name__}, not a list with one result a row.",
        )
    if len(results) == rows or (not exact and 0 < len(results) < rows):
        return None
    return "number of batch response mismatched", f"The handler returned {len(results)} results for {rows} rows."


def _failed(message: str, kind: FailureKind = FailureKind.HANDLER, code: int = 0) -> Reply:
    return Reply(message.encode("utf-8", "replace"), code, failure=kind)


def _refused(message: str, code: int) -> Reply:
    """An envelope of the user's own may have chosen another code than a bad request's."""
    return (
        _failed(message)
        if code == 503
        else _failed(message, FailureKind.REFUSED if code == 400 else FailureKind.CODE, code)
    )


def _message(fault: Any) -> str:
    return str(getattr(fault, "message", fault))


def _code(fault: Any) -> int:
    return int(getattr(fault, "error_code", 500))
