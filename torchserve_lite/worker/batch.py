"""How a batch meets a handler: calls become rows, rows go through the handler once, results become one reply a call.

Imported when ``compat.install`` has made ``ts`` importable, and not before.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any

from ts.context import Context, RequestHeaders, RequestProcessor
from ts.torch_handler.request_envelope.base import OpenedRequest, calls_of, requests_shown, results_of
from ts.utils.util import InvalidRow, PredictionException

from torchserve_lite.ipc.messages import Answer, Call, FailureKind, Load, Reply
from torchserve_lite.worker.handlers import Envelopes, Handler, StageMark
from torchserve_lite.worker.inputs import headers_of, row_of
from torchserve_lite.worker.log_lines import report
from torchserve_lite.worker.outputs import Unserialisable, reply_of
from torchserve_lite.worker.tracebacks import explain_failure, is_out_of_memory, text_of

Emit = Callable[[Sequence[Answer]], None]
Steps = Generator[Awaitable[Any], Any, Sequence[Answer]]
"""Yields what must be awaited for the batch to go on, is sent what that came to, and returns its last answers."""


class BatchRunner:
    """Runs batches through one handler. A request that is bad fails alone; a failing handler fails its batch."""

    def __init__(self, handler: Handler, load: Load, mark_stage: StageMark) -> None:
        self.handler = handler
        self._load = load
        self._mark_stage = mark_stage
        self._envelopes = Envelopes(load.v2_output_names)

    def predict(self, calls: Sequence[Call], emit: Emit, is_cancelled: Callable[[int], bool]) -> Sequence[Answer]:
        """Answers every call, but for cancelled ones: the first through ``emit`` as they come, the rest is returned."""
        steps = self._batch(calls, self.handler.context, emit, is_cancelled)
        try:
            awaitable = next(steps)
            while True:
                try:
                    result = asyncio.get_event_loop().run_until_complete(_awaited(awaitable))
                except (Exception, asyncio.CancelledError) as error:
                    awaitable = steps.throw(error)
                else:
                    awaitable = steps.send(result)
        except StopIteration as end:
            return _answers(end)

    async def predict_concurrently(
        self, calls: Sequence[Call], emit: Emit, is_cancelled: Callable[[int], bool]
    ) -> Sequence[Answer]:
        """As ``predict``, for a handler whose entry point is a coroutine function: many batches may be under way.

        What the handler hangs on its context is shared by all of them; what belongs to requests is each one's own.
        """
        context = copy.copy(self.handler.context)
        context.metrics = copy.copy(context.metrics)
        steps = self._batch(calls, context, emit, is_cancelled)
        try:
            awaitable = next(steps)
            while True:
                try:
                    result = await awaitable
                except (Exception, asyncio.CancelledError) as error:
                    awaitable = steps.throw(error)
                else:
                    awaitable = steps.send(result)
        except StopIteration as end:
            return _answers(end)

    def _batch(self, calls: Sequence[Call], context: Context, emit: Emit, is_cancelled: Callable[[int], bool]) -> Steps:
        """One batch: the same text for handlers that are awaited and for those that are not."""
        self._mark_stage("unpacking", -1)
        requests = [_Request(index, call) for index, call in enumerate(calls)]
        for request in requests:
            self._unpack(request, context)
        answers = _taken_answers(requests)
        for group in calls_of([request for request in requests if request.reply is None]):
            if answers:
                emit(answers)
            group = [request for request in group if not is_cancelled(request.index)]
            while group and any(request.reply is None for request in group):
                group = yield from self._call_handler(group, context, emit)
            answers = _taken_answers(group)
        return answers

    def _unpack(self, request: _Request, context: Context) -> None:
        """Finds the request's rows, or its reply when there is something wrong with it."""
        call = request.call
        try:
            if request.expired:
                request.reply = _failed("Its time limit passed before the handler could start.", FailureKind.DEADLINE)
            elif call.verb == "describe":
                request.rows = [{}]
            else:
                row = row_of(call, decode=self._load.decode_input_request and not call.envelope)
                name = call.envelope or self._load.envelope
                request.rows = [row]
                if name:
                    request.envelope = self._envelopes.new(name)
                    with _one_request_shown(request, context):
                        request.rows = request.envelope.unpack(row, context, 0)
        except PredictionException as error:
            request.reply = _refused(text_of(error.message), _code(error))
        except Exception as error:
            self._report(f"The input of request {call.id} could not be prepared", error)
            request.reply = _failed("The input could not be prepared; the model's log says why.")

    def _call_handler(
        self, group: list[_Request], context: Context, emit: Emit
    ) -> Generator[Awaitable[Any], Any, list[_Request]]:
        """One call for all rows of the group, whose replies it makes. Returns the group without a request whose row
        the handler has refused, and which is answered: the others have no reply then, and may start again."""
        rows = [row for request in group for row in request.rows]
        owners = [request for request in group for _ in request.rows]
        context.send = lambda row, value: emit(
            [Answer(owners[row].index, reply_of(value, owners[row].processor), last=False)]
        )
        self._mark_stage("handle", 0 if len(rows) == 1 else -1)
        try:
            with requests_shown(group, context):
                context.metrics.set_request_ids(context.request_ids)
                results = self.handler.entry_point(rows, context)
                if inspect.isawaitable(results):
                    results = yield results
        except InvalidRow as error:
            owner = owners[error.row]
            where = f"instance {error.row - owners.index(owner)}: " if len(owner.rows) > 1 else ""
            owner.reply = _refused(f"{where}{text_of(error.message)}", _code(error))
            emit(_taken_answers([owner]))
            return [request for request in group if request is not owner]
        except PredictionException as error:
            _answer_all(group, _failed(text_of(error.message), FailureKind.CODE, _code(error)))
        except (Exception, asyncio.CancelledError) as error:  # a task that the handler waited for was cancelled
            self._report(f"The handler failed for request {', '.join(request.call.id for request in group)}", error)
            out_of_memory = _failed("Out of resources", FailureKind.MEMORY)
            _answer_all(group, out_of_memory if is_out_of_memory(error) else _failed("Prediction failed"))
        else:
            self._mark_stage("packing", -1)
            self._pack(group, results, len(rows), context)
        return group

    def _pack(self, group: list[_Request], results: Any, rows: int, context: Context) -> None:
        if not isinstance(results, list):
            report(logging.ERROR, f"The handler returned {type(results).__name__}, not a list with one result a row.")
            _answer_all(group, _failed("Invalid model predict output"))
            return
        enough = 0 < len(results) <= rows if group[0].alone else len(results) == rows
        if not enough:
            report(logging.ERROR, f"The handler returned {len(results)} results for {rows} rows.")
            _answer_all(group, _failed("number of batch response mismatched"))
            return
        for request, own in results_of(group, results):
            try:
                request.reply = self._reply(request, own, context)
            except Unserialisable as error:
                report(logging.ERROR, f"The handler's result for request {request.call.id} has no wire form: {error}")
                request.reply = _failed("Unsupported model output data type.")
            except PredictionException as error:
                request.reply = _failed(text_of(error.message), FailureKind.CODE, _code(error))
            except Exception as error:
                self._report(f"The handler's result for request {request.call.id} could not be sent", error)
                request.reply = _failed("The handler's result could not be sent; the model's log says why.")

    def _reply(self, request: _Request, results: list[Any], context: Context) -> Reply:
        if request.envelope is None:
            reply = reply_of(results[0], request.processor)
        else:
            with _one_request_shown(request, context):
                packed = request.envelope.pack(results, context, 0)
            reply = reply_of(packed, request.processor, enveloped=True)
        assert not isinstance(reply.body, int)
        limit = self._load.max_response_size
        if len(reply.body) <= limit:
            return reply
        message = f"The answer has {len(reply.body)} bytes, more than max_response_size={limit}."
        return _failed(message, FailureKind.TOO_LARGE)

    def _report(self, what: str, error: BaseException) -> None:
        """In the model's log: what failed, in which of the handler's methods and where, then the traceback."""
        failure = explain_failure(error, self._load.model_name, self._load.model_dir)
        stage = f" in {failure.stage}" if failure.stage else ""
        place = f" ({failure.place})" if failure.place else ""
        report(logging.ERROR, f"{what}{stage}: {failure.cause}{place}\n{failure.traceback}")


class _Request(OpenedRequest):  # type: ignore[misc]  # mypy does not read ts
    """One call on its way through the worker."""

    def __init__(self, index: int, call: Call) -> None:
        super().__init__(call.id, RequestProcessor(RequestHeaders(headers_of(call))), None)
        self.index = index
        self.call = call
        self.arrived = time.monotonic()
        self.reply: Reply | None = None

    @property
    def expired(self) -> bool:
        return self.call.remaining is not None and time.monotonic() - self.arrived >= self.call.remaining


def _one_request_shown(request: _Request, context: Context) -> Any:
    """While its envelope works, the context is about this request alone."""
    lone = OpenedRequest(request.request_id, request.processor, None)
    return requests_shown([lone], context)


def _taken_answers(requests: Sequence[_Request]) -> list[Answer]:
    return [Answer(request.index, request.reply) for request in requests if request.reply is not None]


async def _awaited(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


def _answers(end: StopIteration) -> Sequence[Answer]:
    answers: Sequence[Answer] = end.value
    return answers


def _answer_all(group: Sequence[_Request], reply: Reply) -> None:
    for request in group:
        request.reply = copy.copy(reply)


def _failed(message: str, kind: FailureKind = FailureKind.HANDLER, code: int = 0) -> Reply:
    return Reply(message.encode("utf-8", "replace"), code, failure=kind)


def _refused(message: str, code: int) -> Reply:
    """An envelope of the user's own may have chosen another code than a bad request's."""
    return _failed(message, FailureKind.REFUSED if code == 400 else FailureKind.CODE, code)


def _code(error: PredictionException) -> int:
    """Its code, where that can be the status of an answer."""
    try:
        code = int(error.error_code)
    except (TypeError, ValueError, OverflowError):
        return 500
    return code if 200 <= code <= 599 else 500
