"""How the answers to a batch leave the worker, whichever of the handler's threads they come from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from torchserve_lite.ipc.frames import BlockingFrames
from torchserve_lite.ipc.messages import Answer, Answers, BatchDone, InSlab, encode
from torchserve_lite.ipc.slabs import LEAST, SlabFile


class OutgoingAnswers:
    """Sends what is known of one batch: pieces and answers as they come, and the end of the batch.

    A thread that the handler started may be sending while the batch ends. Its piece goes out before the last answer of
    that call or not at all: one that came later would be garbage to the parent, which ends a worker for it.
    """

    def __init__(
        self,
        batch: int,
        frames: BlockingFrames,
        is_cancelled: Callable[[int], bool],
        look_ahead: Callable[[], None] = lambda: None,
        *,
        slabs: SlabFile | None = None,
        in_slabs: Mapping[int, InSlab] | None = None,
    ) -> None:
        """``look_ahead`` is called before something is sent: cancellations that have arrived count at once.
        ``in_slabs``: where the requests lie, by index, that are in one of the ``slabs``: their answers may be written
        over them."""
        self._batch = batch
        self._frames = frames
        self._slabs = slabs
        self._in_slabs = dict(in_slabs or {})
        self._is_cancelled = is_cancelled
        self._look_ahead = look_ahead
        self._answered: set[int] = set()
        self._ended = False
        self._in_turn = threading.Lock()

    def send(self, answers: Sequence[Answer]) -> None:
        """ValueError when a call among them has had its last answer. What nobody waits for is left out. No answers at
        all: the handler has not hung, and the parent's response timeout counts anew."""
        with self._in_turn:
            if self._ended or any(answer.index in self._answered for answer in answers):
                raise ValueError("The request has been answered: nothing more can be sent to it.")
            self._look_ahead()
            self._answered.update(answer.index for answer in answers if answer.last)
            wanted = tuple([answer for answer in answers if not self._is_cancelled(answer.index)])
            if wanted or not answers:
                self._send(Answers(self._batch, wanted))

    def end(self, answers: Sequence[Answer], done: BatchDone) -> None:
        with self._in_turn:
            self._ended = True
            self._send(Answers(self._batch, tuple(answers), done))

    def _send(self, message: Answers) -> None:
        if self._in_slabs:
            message.in_slabs = tuple(self._written_over(message.answers))
        self._frames.send(encode(message))

    def _written_over(self, answers: Sequence[Answer]) -> Iterator[tuple[int, int]]:
        """Those that fit where their requests lie, with their lengths. Of an answer in pieces none does: the client may
        be behind with the one before."""
        assert self._slabs is not None
        for answer in answers:
            place, reply = self._in_slabs.pop(answer.index, None), answer.reply
            assert not isinstance(reply.body, int)
            if place is not None and answer.last and LEAST <= (length := len(reply.body)) <= place.room:
                self._slabs.write(place.begin, reply.body)
                reply.body = b""
                yield answer.index, length
