"""How a batch meets a handler: calls become rows, rows go through the handler once, results become one reply a call.

Imported when ``compat.install`` has made ``ts`` importable, and not before.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from typing import Any

from ts.context import Context
from ts.torch_handler.request_envelope.base import calls_of, owners_of, requests_shown, results_of
from ts.utils.util import InvalidRow, PredictionException

from torchserve_lite.ipc.messages import Answer, Call, FailureKind, Load, Reply
from torchserve_lite.worker import steps
from torchserve_lite.worker.failures import Failures, chosen, failed, refused
from torchserve_lite.worker.handlers import Envelopes, Handler, StageMark
from torchserve_lite.worker.inputs import row_of
from torchserve_lite.worker.log_lines import report
from torchserve_lite.worker.outputs import reply_of
from torchserve_lite.worker.pieces import excess_of, piece_sender
from torchserve_lite.worker.requests import Request
from torchserve_lite.worker.tracebacks import class_name

Emit = Callable[[Sequence[Answer]], None]


class BatchRunner:
    """Runs batches through one handler. A request that is bad fails alone; a failing handler fails its batch.

    Nothing that a client sends or a handler does gets past it, but for what ends a process on purpose: a handler's
    ``sys.exit`` ends its worker, as in TorchServe.
    """

    def __init__(self, handler: Handler, load: Load, mark_stage: StageMark) -> None:
        self.handler = handler
        self._load = load
        self._mark_stage = mark_stage
        self._envelopes = Envelopes(load.v2_output_names)
        self._failures = Failures(load.spec.key.name, load.model_dir)

    def predict(
        self, calls: Sequence[Call], emit: Emit, is_cancelled: Callable[[int], bool], arrived: float | None = None
    ) -> Sequence[Answer]:
        """Answers every call, but for cancelled ones: the first through ``emit`` as they come, the rest is returned.

        ``arrived``: the reading of the monotonic clock from which the calls' remaining seconds count; None: now.
        """
        return steps.run(self._batch(calls, emit, is_cancelled, arrived, concurrent=False))

    async def predict_concurrently(
        self, calls: Sequence[Call], emit: Emit, is_cancelled: Callable[[int], bool], arrived: float | None = None
    ) -> Sequence[Answer]:
        """As ``predict``, for a handler whose entry point is a coroutine function: many batches may be under way.

        What the handler hangs on its context is shared by all of them; what belongs to requests is each one's own.
        """
        return await steps.run_concurrently(self._batch(calls, emit, is_cancelled, arrived, concurrent=True))

    def _batch(
        self,
        calls: Sequence[Call],
        emit: Emit,
        is_cancelled: Callable[[int], bool],
        arrived: float | None,
        *,
        concurrent: bool,
    ) -> steps.Steps:
        """One batch: the same text for handlers that are awaited and for those that are not."""
        arrived = time.monotonic() if arrived is None else arrived
        requests = [Request(index, call, arrived) for index, call in enumerate(calls) if not is_cancelled(index)]
        try:
            context = self.handler.context
            if concurrent:
                context = copy.copy(context)
                context.metrics = copy.copy(context.metrics)
            self._mark_stage("unpacking", -1)
            with _requests_kept(context):
                for request in requests:
                    self._unpack(request, context)
            for group in calls_of([request for request in requests if request.reply is None]):
                group = [request for request in group if not is_cancelled(request.index) and not _has_expired(request)]
                if group:
                    _emit_known(requests, emit)
                while group:
                    group = yield from self._call_handler(group, context, emit)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # in our own code, which a handler or its envelope has led astray
            for request in requests:
                request.reply = request.reply or self._failures.of_ours(request.call.id, "could not be answered", error)
        for request in requests:  # the context knows them until the next batch; what they hold is free at once
            request.rows = []
        for call in calls:
            for part in call.parts:
                part.data = b""
        return [
            Answer(request.index, request.reply)
            for request in requests
            if request.reply is not None and not request.emitted
        ]

    def _unpack(self, request: Request, context: Context) -> None:
        """Finds the request's rows, or its reply when there is something wrong with it."""
        call = request.call
        if _has_expired(request):
            return
        if call.verb == "describe":
            request.rows = [{}]
            return
        try:
            row = row_of(call, decode=self._load.decode_input_request and not call.envelope)
            name = call.envelope or self._load.spec.envelope
            request.rows = [row]
            if name:
                request.envelope = self._envelopes.new(name)
                _show_alone(request, context)
                request.unpack(row, context, 0)
        except PredictionException as error:
            request.reply = refused(error)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            request.reply = self._failures.of_ours(call.id, "could not be prepared for the handler", error)

    def _call_handler(
        self, group: list[Request], context: Context, emit: Emit
    ) -> Generator[Awaitable[Any], Any, list[Request]]:
        """One call for all rows of the group, whose replies it makes. When the handler refuses a row, only that row's
        request is answered, and the others are returned: nothing has been inferred yet, so they may start again."""
        rows = [row for request in group for row in request.rows]
        owners = owners_of(group)
        context.send = piece_sender(owners, emit, self._load.max_response_size)
        self._mark_stage("handle", 0 if len(rows) == 1 else -1)
        try:
            with requests_shown(owners, context):
                context.metrics.set_request_ids(context.request_ids)
                results = self.handler.entry_point(rows, context)
                if type(results) is not list and inspect.isawaitable(results):
                    results = yield results
        except PredictionException as error:
            row = getattr(error, "row", None) if isinstance(error, InvalidRow) else None
            if type(row) is int and 0 <= row < len(owners):
                owner = owners[row]
                where = f"instance {row - owners.index(owner)}: " if len(owner.rows) > 1 else ""
                owner.reply = refused(error, where)
                _emit_known([owner], emit)
                return [request for request in group if request is not owner]
            _answer_all(group, chosen(error))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # CancelledError among them: a task that the handler waited for was cancelled
            _answer_all(group, self._failures.of_handler([request.call.id for request in group], error))
        else:
            self._mark_stage("packing", -1)
            self._pack(group, results, len(rows), context)
        return []

    def _pack(self, group: list[Request], results: Any, rows: int, context: Context) -> None:
        kind = class_name(results)
        if not issubclass(type(results), list):
            report(logging.ERROR, f"The handler returned {kind}, not a list with one result a row.")
            _answer_all(group, failed("Invalid model predict output"))
            return
        results = list(results)
        enough = 0 < len(results) <= rows if group[0].alone else len(results) == rows
        if not enough:
            report(logging.ERROR, f"The handler returned {len(results)} results for {rows} rows.")
            _answer_all(group, failed("number of batch response mismatched"))
            return
        with _requests_kept(context):
            for request, own in results_of(group, results):
                try:
                    request.reply = self._reply(request, own, context)
                except (SystemExit, KeyboardInterrupt):
                    raise
                except BaseException as error:
                    request.reply = self._failures.of_result(request.call.id, error)

    def _reply(self, request: Request, results: list[Any], context: Context) -> Reply:
        if request.envelope is None:
            reply = reply_of(results[0], request.processor)
        else:
            _show_alone(request, context)
            packed = request.envelope.pack(results, context, 0)
            reply = reply_of(packed, request.processor, enveloped=True)
        too_large = excess_of(reply, self._load.max_response_size)
        return failed(too_large, FailureKind.TOO_LARGE) if too_large else reply


def _has_expired(request: Request) -> bool:
    """Whether its time is over; it is answered then."""
    if request.deadline is None or time.monotonic() < request.deadline:
        return False
    request.reply = failed("Its time limit passed before the handler could start.", FailureKind.DEADLINE)
    return True


@contextlib.contextmanager
def _requests_kept(context: Context) -> Iterator[None]:
    """Whatever envelopes are shown meanwhile, the context is afterwards about the requests that it was about."""
    ids, processors = context.request_ids, context.request_processor
    try:
        yield
    finally:
        context.request_ids, context.request_processor = ids, processors


def _show_alone(request: Request, context: Context) -> None:
    """While its envelope works, the context is about this request alone."""
    context.request_ids = {0: request.call.id}
    context.request_processor = [request.processor]


def _emit_known(requests: Sequence[Request], emit: Emit) -> None:
    known = [request for request in requests if request.reply is not None and not request.emitted]
    for request in known:
        request.emitted = True
    if known:
        emit([Answer(request.index, request.reply) for request in known if request.reply is not None])


def _answer_all(group: Sequence[Request], reply: Reply) -> None:
    for request in group:
        request.reply = copy.copy(reply)
