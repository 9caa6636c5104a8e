"""The answers of a batch go out before its end, and none to a call that has had its last one."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from torchserve_lite.ipc.frames import BlockingFrames
from torchserve_lite.ipc.messages import Answer, Answers, BatchDone, Reply, decode_from_worker
from torchserve_lite.worker.outgoing import OutgoingAnswers


@pytest.fixture
def links() -> Iterator[tuple[BlockingFrames, BlockingFrames]]:
    """The worker's end and the parent's."""
    theirs, ours = socket.socketpair()
    with ours, theirs:
        yield BlockingFrames(theirs), BlockingFrames(ours)


def received(parent: BlockingFrames) -> list[tuple[int, bytes, bool]]:
    """What has arrived so far: index, body, and whether it was the last."""
    told = []
    while (frame := parent.receive_now()) is not None:
        message = decode_from_worker(frame)
        assert isinstance(message, Answers)
        told += [(answer.index, bytes(answer.reply.body), answer.last) for answer in message.answers]
    return told


def piece(index: int, *, last: bool = False) -> list[Answer]:
    return [Answer(index, Reply(b"piece"), last)]


def test_piece_for_a_call_that_has_been_answered_is_refused(links: tuple[BlockingFrames, BlockingFrames]) -> None:
    """The parent ends a worker that sends one."""
    outgoing = OutgoingAnswers(1, links[0], lambda index: False)
    outgoing.send(piece(0))
    outgoing.send(piece(0, last=True))
    with pytest.raises(ValueError, match="nothing more can be sent"):
        outgoing.send(piece(0))
    outgoing.send(piece(1))
    assert received(links[1]) == [(0, b"piece", False), (0, b"piece", True), (1, b"piece", False)]


def test_nothing_is_sent_after_the_end(links: tuple[BlockingFrames, BlockingFrames]) -> None:
    looks: list[str] = []
    outgoing = OutgoingAnswers(1, links[0], lambda index: False, lambda: looks.append("ahead"))
    outgoing.end(piece(0, last=True), BatchDone())
    with pytest.raises(ValueError, match="nothing more can be sent"):
        outgoing.send(piece(1))
    assert (received(links[1]), looks) == ([(0, b"piece", True)], [])


def test_cancellation_that_has_just_arrived_counts(links: tuple[BlockingFrames, BlockingFrames]) -> None:
    cancelled: set[int] = set()
    outgoing = OutgoingAnswers(1, links[0], cancelled.__contains__, lambda: cancelled.add(0))
    outgoing.send([*piece(0), *piece(1)])
    assert received(links[1]) == [(1, b"piece", False)]
