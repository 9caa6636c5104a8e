"""How a batch meets a handler: calls become rows, rows go through the handler once, results become one reply a call.

Imported when ``compat.install`` has made ``ts`` importable, and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import inspect
import logging
import math
import time
from collections.abc import Awaitable, Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ts.context import Context
from ts.torch_handler.request_envelope.base import calls_of, owners_of, requests_shown, results_of
from ts.utils.util import InvalidRow, PredictionException

from torchserve_lite.ipc.messages import Answer, Call, FailureKind, Load, Reply
from torchserve_lite.worker import steps, streaming
from torchserve_lite.worker.failures import Failures, chosen, failed, refused
from torchserve_lite.worker.handlers import Envelopes, Handler, StageMark
from torchserve_lite.worker.inputs import row_of
from torchserve_lite.worker.log_lines import report, working_at
from torchserve_lite.worker.outputs import JSON, reply_of
from torchserve_lite.worker.pieces import KeptPieces, PieceTooLarge, excess_of, piece_sender
from torchserve_lite.worker.profiling import profiled
from torchserve_lite.worker.requests import Request
from torchserve_lite.worker.stage_times import StageTimes
from torchserve_lite.worker.tracebacks import class_name

Emit = Callable[[Sequence[Answer]], None]
Room = Callable[[int], Awaitable[Any] | None]
"""What to wait for before a call's next piece is made; None when its client keeps up."""


_NOT_AGAIN = "Another request of the batch was refused when a part of this answer had been sent."


_NOT_PROFILED = contextlib.nullcontext()


class _Unusable(Exception):
    """What the handler returned is no list of results. The text is for the client, ``why`` for the log."""

    def __init__(self, told: str, why: str) -> None:
        super().__init__(told)
        self.why = why


def _always_room(index: int) -> None:
    return None


@dataclass(slots=True)
class Delivery:
    """How the answers of one batch leave, and what is known of its clients. ``stage_times``: its own, where other
    batches run on the same event loop. ``silence``: seconds for which the parent need not hear of a handler that is at
    work."""

    emit: Emit
    is_cancelled: Callable[[int], bool]
    room: Room = _always_room
    stage_times: StageTimes | None = None
    silence: float = math.inf
    told: float = field(default_factory=time.monotonic)

    @property
    def concurrent(self) -> bool:
        return self.stage_times is not None

    def has_stepped(self) -> None:
        """The handler has taken a step, of which there may be nothing to send. One that takes many has not hung."""
        now = time.monotonic()
        if now - self.told > self.silence:
            self.told = now
            self.emit(())

    def emit_known(self, requests: Sequence[Request]) -> None:
        """The replies that there are, and that have not gone out."""
        known = [request for request in requests if request.reply is not None and not request.emitted]
        for request in known:
            request.emitted = True
        if known:
            self.emit([Answer(request.index, request.reply) for request in known if request.reply is not None])


class BatchRunner:
    """Runs batches through one handler. A request that is bad fails alone; a failing handler fails its batch.

    Nothing that a client sends or a handler does gets past it, but for what ends a process on purpose: a handler's
    ``sys.exit`` ends its worker, as in TorchServe.
    """

    def __init__(
        self, handler: Handler, load: Load, mark_stage: StageMark, handler_returned: Callable[[], None] = lambda: None
    ) -> None:
        self.handler = handler
        self.max_response_size = load.max_response_size
        self._load = load
        self._mark_stage = mark_stage
        self._handler_returned = handler_returned
        self._envelopes = Envelopes(load.v2_output_names, load.spec.signature)
        self._failures = Failures(load.spec.key.name, load.model_dir, whole_tracebacks=load.whole_tracebacks)

    @property
    def silence(self) -> float:
        """Seconds for which nothing need be said of a batch: well below the response timeout, after which the parent
        takes a worker for hung."""
        return self._load.spec.response_timeout / 4

    @property
    def is_continuous(self) -> bool:
        """Its handler is called with a request until it says that this one is finished."""
        return self._load.spec.continuous

    def predict(
        self, calls: Sequence[Call], emit: Emit, is_cancelled: Callable[[int], bool], arrived: float | None = None
    ) -> Sequence[Answer]:
        """Answers every call, but for cancelled ones: the first through ``emit`` as they come, the rest is returned.

        ``arrived``: the reading of the monotonic clock from which the calls' remaining seconds count; None: now.
        """
        return steps.run(self._batch(calls, Delivery(emit, is_cancelled, silence=self.silence), arrived))

    async def predict_concurrently(
        self,
        calls: Sequence[Call],
        emit: Emit,
        is_cancelled: Callable[[int], bool],
        arrived: float | None = None,
        room: Room = _always_room,
        stage_times: StageTimes | None = None,
    ) -> Sequence[Answer]:
        """As ``predict``, for a handler whose entry point is a coroutine function: many batches may be under way, each
        with the ``stage_times`` of its own.

        What the handler hangs on its context is shared by all of them; what belongs to requests is each one's own.
        """
        stage_times = stage_times or StageTimes(self._mark_stage)
        delivery = Delivery(emit, is_cancelled, room, stage_times, silence=self.silence)
        return await steps.run_concurrently(self._batch(calls, delivery, arrived))

    def _batch(self, calls: Sequence[Call], delivery: Delivery, arrived: float | None) -> steps.Steps:
        """One batch: the same text for handlers that are awaited and for those that are not."""
        arrived = time.monotonic() if arrived is None else arrived
        is_cancelled = delivery.is_cancelled
        requests = [Request(index, call, arrived) for index, call in enumerate(calls) if not is_cancelled(index)]
        working_at(requests, concurrent=delivery.concurrent)
        with self.own_failures_told(requests):
            context = self.handler.context
            if delivery.stage_times is not None:
                context = copy.copy(context)
                context.metrics = copy.copy(context.metrics)
                context.mark_stage = delivery.stage_times.mark
            self.unpack(requests, context)
            groups = list(calls_of([request for request in requests if request.reply is None]))
            profile = calls[0].profile if len(calls) == 1 else ""
            with profiled(profile, context) if profile else _NOT_PROFILED:
                while groups:
                    group = [
                        one
                        for one in groups.pop(0)
                        if not is_cancelled(one.index) and (one.deadline is None or not _has_expired(one))
                    ]
                    if group:
                        delivery.emit_known(requests)
                        if left := (yield from self.call_handler(group, context, delivery, self._pack)):
                            groups[:0] = calls_of(left)
        working_at((), concurrent=delivery.concurrent)
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

    @contextlib.contextmanager
    def own_failures_told(self, requests: Sequence[Request]) -> Iterator[None]:
        """What is raised in our own code, which a handler or its envelope has led astray, is the requests' reply."""
        try:
            yield
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            for request in requests:
                request.reply = request.reply or self._failures.of_ours(request.call.id, "could not be answered", error)

    def unpack(self, requests: Sequence[Request], context: Context) -> None:
        self._mark_stage("unpacking", -1)
        with _requests_kept(context):
            for request in requests:
                self._unpack(request, context)

    def _unpack(self, request: Request, context: Context) -> None:
        """Finds the request's rows, or its reply when there is something wrong with it."""
        call = request.call
        if request.deadline is not None and _has_expired(request):
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

    def call_handler(
        self,
        group: list[Request],
        context: Context,
        delivery: Delivery,
        pack: Callable[[list[Request], list[Any], Context], None],
    ) -> Generator[Awaitable[Any], Any, list[Request]]:
        """One call for all rows of the group; ``pack`` makes replies of the results. Returned are requests that are to
        start again. When the handler refuses a row, only that row's request is answered, and these are the others: as a
        rule nothing has been inferred yet. One whose client has a part of its answer cannot start again, and fails.
        When the handler fails with requests that should not have shared a call, these are all of them, and each of
        those is ``alone`` from then on."""
        rows = [row for request in group for row in request.rows]
        owners = owners_of(group)
        kept: dict[int, KeptPieces] = {}
        failure: Reply
        context.send = piece_sender(
            owners, delivery.emit, self.max_response_size, delivery.is_cancelled, kept, delivery.has_stepped
        )
        self._mark_stage("handle", 0 if len(rows) == 1 else -1)
        try:
            with requests_shown(owners, context):
                context.metrics.set_request_ids(context.request_ids)
                results = self.handler.entry_point(rows, context)
                if type(results) is not list and inspect.isawaitable(results):
                    results = yield results
                if type(results) is not list and streaming.is_generator(results):
                    results = yield from self._read_together(results, owners, context, delivery)
                results = _listed(results, len(rows), alone=group[0].alone)
                if streaming.any_in_steps(results):
                    results = yield from self._read_each(results, owners, context, delivery)
                if kept:
                    results = [kept[row].whole(last) if row in kept else last for row, last in enumerate(results)]
        except PredictionException as error:
            if (row := _refused_row(error, owners)) is not None:
                self._refuse(row, error, owners, group)
                delivery.emit_known(group)
                return [request for request in group if request.reply is None]
            failure = self.failure_of(group, error, delivery)
        except _Unusable as error:
            self._failures.tell_of_results(error.why, self.handler.entry_point)
            failure = failed(str(error))
        except (SystemExit, KeyboardInterrupt) as error:
            self._failures.tell_of_exit(error)
            raise
        except BaseException as error:  # CancelledError among them: a task that the handler waited for was cancelled
            failure = self.failure_of(group, error, delivery)
        else:
            if delivery.stage_times is None:
                self._handler_returned()
            else:
                delivery.stage_times.end()
            self._mark_stage("packing", -1)
            pack(group, results, context)
            return []
        if _set_apart(group):
            return group
        _answer_all(group, failure)
        return []

    def _refuse(
        self, row: int, error: PredictionException, owners: Sequence[Request], group: Sequence[Request]
    ) -> None:
        """Answers the request of this row, and those that cannot start again because of it."""
        owner = owners[row]
        where = f"instance {row - owners.index(owner)}: " if len(owner.rows) > 1 else ""
        owner.reply = refused(error, where)
        for request in group:
            # With a continuous handler the pieces are those of earlier calls, of which this one is the next.
            if request.reply is None and request.answer_begun and not self.is_continuous:
                request.reply = failed(_NOT_AGAIN)

    def _read_together(
        self, steps_of_all: Any, owners: Sequence[Request], context: Context, delivery: Delivery
    ) -> Generator[Awaitable[Any], Any, list[Any]]:
        """Of a handler that is a generator: sends its pieces, and returns what comes last in each row."""
        readers = self._readers(owners, context, delivery)
        check = partial(_listed, rows=len(owners), alone=False)
        yield from streaming.read_together(steps_of_all, readers, check, give_way=delivery.concurrent)
        return [reader.result for reader in readers]

    def _read_each(
        self, results: list[Any], owners: Sequence[Request], context: Context, delivery: Delivery
    ) -> Generator[Awaitable[Any], Any, list[Any]]:
        """The same of results some of which are generators. There may be fewer results than rows."""
        readers = self._readers(owners, context, delivery)
        yield from streaming.read(results, readers, give_way=delivery.concurrent)
        return [
            reader.result if streaming.comes_in_steps(result) else result
            for reader, result in zip(readers, results, strict=False)
        ]

    def _readers(self, owners: Sequence[Request], context: Context, delivery: Delivery) -> list[_RowReader]:
        return [_RowReader(self, row, owner, context, delivery) for row, owner in enumerate(owners)]

    def failure_of(self, group: Sequence[Request], error: BaseException, delivery: Delivery) -> Reply:
        if isinstance(error, PredictionException):
            return chosen(error)
        if isinstance(error, PieceTooLarge):
            return failed(str(error), FailureKind.TOO_LARGE)
        if isinstance(error, asyncio.CancelledError) and all(delivery.is_cancelled(one.index) for one in group):
            return failed("The client has left.")  # for nobody: that is why the handler was stopped
        return self._failures.of_handler([request.call.id for request in group], error)

    def _pack(self, group: list[Request], results: list[Any], context: Context) -> None:
        with _requests_kept(context):
            for request, own in results_of(group, results):
                if request.reply is None:  # else its result came in steps, and has ended
                    self.answer(request, own, context)

    def answer(self, request: Request, results: list[Any], context: Context) -> None:
        try:
            request.reply = self._reply(request, results, context)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            request.reply = self._failures.of_result(request.call.id, error, self.handler.entry_point)

    def _reply(self, request: Request, results: list[Any], context: Context) -> Reply:
        if request.envelope is None:
            reply = reply_of(results[0], request.processor)
        else:
            _show_alone(request, context)
            request.envelope.answer_begun = request.answer_begun
            packed = request.envelope.pack(results, context, 0)
            reply = reply_of(packed, request.processor, enveloped=True)
            if request.is_one_document and reply.content_type.startswith("text/event-stream"):
                reply.content_type = JSON  # the handler meant its pieces, which are in the document now
        too_large = excess_of(reply, self.max_response_size)
        return failed(too_large, FailureKind.TOO_LARGE) if too_large else reply


class _RowReader:
    """Takes the pieces of one row's result, and sends them as a handler does by itself. ``result`` is what comes last,
    where the answer is one document."""

    def __init__(self, runner: BatchRunner, row: int, owner: Request, context: Context, delivery: Delivery) -> None:
        self._runner = runner
        self._row = row
        self._owner = owner
        self._context = context
        self._delivery = delivery
        self.result: Any = b""

    def wants_more(self) -> bool:
        return self._owner.reply is None and not self._delivery.is_cancelled(self._owner.index)

    def room(self) -> Awaitable[Any] | None:
        return self._delivery.room(self._owner.index)

    def has_stepped(self) -> None:
        self._delivery.has_stepped()

    def piece(self, value: Any) -> None:
        assert self._context.send is not None
        self._context.send(self._row, value, "")

    def end(self, value: Any) -> None:
        self.result = b"" if value is None else value
        if self._owner.envelope is None and self._owner.reply is None:
            self._runner.answer(self._owner, [self.result], self._context)
            self._delivery.emit_known([self._owner])

    def fail(self, error: BaseException) -> None:
        if self._owner.reply is None:
            self._owner.reply = self._runner.failure_of([self._owner], error, self._delivery)
            self._delivery.emit_known([self._owner])


def _has_expired(request: Request) -> bool:
    """Whether the time of a request with a deadline is over; it is answered then."""
    assert request.deadline is not None
    if time.monotonic() < request.deadline:
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


def _listed(results: Any, rows: int, *, alone: bool) -> list[Any]:
    """The handler's results, one for each row; requests that are ``alone`` may have fewer."""
    kind = class_name(results)
    if not issubclass(type(results), list):
        raise _Unusable(
            "Invalid model predict output", f"The handler returned {kind}, not a list with one result a row"
        )
    listed: list[Any] = list(results)
    if not (0 < len(listed) <= rows if alone else len(listed) == rows):
        why = f"The handler returned {len(listed)} results for {rows} rows, and must return one a row"
        raise _Unusable("number of batch response mismatched", why)
    return listed


def _refused_row(error: PredictionException, owners: Sequence[Request]) -> int | None:
    """Which row the handler has refused, if it was one."""
    row = getattr(error, "row", None) if isinstance(error, InvalidRow) else None
    return row if type(row) is int and 0 <= row < len(owners) else None


def _set_apart(group: Sequence[Request]) -> bool:
    """Whether the group may be called again, because the tensors of some of its requests, taken for a batch, may have
    belonged together. So it was not noticed while each had a call for itself."""
    if len(group) == 1 or any(request.answer_begun or request.reply is not None for request in group):
        return False
    apart = [request for request in group if request.envelope is not None and request.envelope.set_apart()]
    for request in apart:
        request.alone = True
    if apart:
        names = ", ".join(apart[0].envelope.input_names[:5])
        report(
            logging.WARNING,
            f"A call that requests of several tensors shared has failed. It is made again for each of them, and those "
            f"with tensors of the names {names} share no call any more. Where each tensor is a row of a batch, say so "
            "by a tensorSignature of one input in model-config.yaml.",
        )
    return bool(apart)


def _answer_all(group: Sequence[Request], reply: Reply) -> None:
    for request in group:
        request.reply = copy.copy(reply)
