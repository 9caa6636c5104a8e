"""Continuous batching: a handler that is called again and again with every request that it has not finished.

Between two calls requests join and leave. Imported when ``compat.install`` has made ``ts`` importable, and not before.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from ts.context import Context
from ts.torch_handler.request_envelope.base import calls_of, results_of

from torchserve_lite.ipc.messages import Answer, BatchDone, FailureKind, Metric, Predict
from torchserve_lite.worker import steps
from torchserve_lite.worker.batch import BatchRunner, Delivery
from torchserve_lite.worker.failures import failed
from torchserve_lite.worker.log_lines import working_at
from torchserve_lite.worker.outgoing import OutgoingAnswers
from torchserve_lite.worker.outputs import reply_of
from torchserve_lite.worker.pieces import KeptPieces, check_piece
from torchserve_lite.worker.requests import Request

_ONE_ROW = "A model with continuousBatching takes one instance a request: send each in a request of its own."


@dataclass(slots=True)
class _Place:
    """Where a request's answers go: to call ``index`` of the batch that it came in."""

    request: Request
    outgoing: OutgoingAnswers
    index: int
    is_cancelled: Callable[[int], bool]
    kept: KeptPieces

    @property
    def is_over(self) -> bool:
        return self.request.emitted or self.is_cancelled(self.index)

    @property
    def last_answer(self) -> Answer | None:
        """What is still to be sent of it, when the handler is done."""
        reply = self.request.reply
        return None if reply is None or self.is_over else Answer(self.index, reply)


@dataclass(slots=True)
class _Joined:
    """A batch as it was sent, of one request as a rule."""

    batch: int
    outgoing: OutgoingAnswers
    delivery: Delivery
    begun: float
    places: list[_Place]


class ContinuousBatch:
    """The requests that the handler is working at.

    On its first call a request's row is whole, and empty afterwards: the handler keeps what it needs by request id.
    ``context.stopping_criteria`` says of each result, when it is called with it, whether more follows (False), whether
    it is the last piece (True) or the whole answer (None). A result of None is no piece, if more follows.
    """

    def __init__(
        self,
        runner: BatchRunner,
        take_metrics: Callable[[], tuple[Metric, ...]],
        together: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """``together``: what is sent meanwhile leaves the worker at once. Each request is a batch of its own, and a
        message for each at every step would wake the parent as often."""
        self._runner = runner
        self._together = together
        self._take_metrics = take_metrics
        self._numbers = itertools.count()
        self._places: dict[int, _Place] = {}  # by a number that stands for the request's index while it is here
        self._joined: list[_Joined] = []
        self._delivery = Delivery(self._emit, self._is_over)

    @property
    def batches(self) -> set[int]:
        """Those that have not ended."""
        return {joined.batch for joined in self._joined}

    def join(
        self, predict: Predict, arrived: float, outgoing: OutgoingAnswers, is_cancelled: Callable[[int], bool]
    ) -> None:
        delivery = Delivery(outgoing.send, is_cancelled, silence=self._runner.silence)
        joined = _Joined(predict.batch, outgoing, delivery, time.monotonic(), [])
        for index, call in enumerate(predict.calls):
            request = Request(next(self._numbers), call, arrived)
            place = self._places[request.index] = _Place(request, outgoing, index, is_cancelled, KeptPieces())
            joined.places.append(place)
            if not place.is_over:
                working_at([request])
                self._runner.unpack([request], self._runner.handler.context)
                request.alone = call.verb != "predict"
                if request.reply is None and len(request.rows) != 1:
                    request.reply = failed(_ONE_ROW, FailureKind.REFUSED)
                self._delivery.emit_known([request])
        working_at(())
        self._joined.append(joined)

    def step(self) -> None:
        """Calls the handler once with all requests (once more for each that must be alone), and ends the batches whose
        requests have been answered, or have no client any more."""
        steps.run(self._step())
        with self._together():
            self._end_answered()

    def _end_answered(self) -> None:
        for joined in list(self._joined):
            if all(place.is_over or place.request.reply is not None for place in joined.places):
                self._joined.remove(joined)
                for place in joined.places:
                    del self._places[place.request.index]
                # Together: to a client that has its answer the request is over, and so is a sequence that ends with it.
                last = [answer for place in joined.places if (answer := place.last_answer) is not None]
                joined.outgoing.end(last, BatchDone(time.monotonic() - joined.begun, self._take_metrics()))
                continue
            self._delivery.emit_known([place.request for place in joined.places])
            joined.delivery.has_stepped()

    def _step(self) -> steps.Steps:
        context = self._runner.handler.context
        requests = [place.request for place in self._places.values() if not place.is_over]
        working_at(requests)
        with self._runner.own_failures_told(requests):
            for group in calls_of(requests):
                while group:
                    context.stopping_criteria = None
                    group = yield from self._runner.call_handler(group, context, self._delivery, self._settle)
        working_at(())
        for request in requests:
            request.rows = [{}]
            for part in request.call.parts:
                part.data = b""
        return ()

    def _settle(self, group: Sequence[Request], results: list[Any], context: Context) -> None:
        """What the handler has returned goes out, or is kept."""
        criteria = context.stopping_criteria
        with self._together():
            for row, (request, own) in enumerate(results_of(group, results)):
                if request.reply is None:  # else it has ended within this call
                    try:
                        is_last = None if criteria is None else criteria[row](own[0])
                        self._take(request, own[0], context, is_last)
                    except (SystemExit, KeyboardInterrupt):
                        raise
                    except BaseException as error:
                        request.reply = self._runner.failure_of([request], error, self._delivery)

    def _take(self, request: Request, result: Any, context: Context, is_last: bool | None) -> None:
        place = self._places[request.index]
        if is_last or is_last is None:
            if is_last and request.is_one_document:
                result = place.kept.whole(result)
            self._runner.answer(request, [b"" if result is None else result], context)
        elif result is not None:
            reply = reply_of(result, request.processor)
            check_piece(reply, self._runner.max_response_size)
            if request.is_one_document:
                assert not isinstance(reply.body, int)
                place.kept.add(result, len(reply.body), self._runner.max_response_size)
            else:
                request.answer_begun = True
                self._emit([Answer(request.index, reply, last=False)])

    def _is_over(self, number: int) -> bool:
        return number not in self._places or self._places[number].is_over

    def _emit(self, answers: Sequence[Answer]) -> None:
        """Also for threads of the handler, which may be late."""
        for answer in answers:
            place = self._places.get(answer.index)
            if place is None:
                raise ValueError("The request has been answered: nothing more can be sent to it.")
            place.outgoing.send([Answer(place.index, answer.reply, answer.last)])
