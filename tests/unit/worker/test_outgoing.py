"""The answers of a batch go out before its end, and none to a call that has had its last one."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from torchserve_lite.ipc.frames import BlockingFrames
from torchserve_lite.ipc.messages import Answer, Answers, BatchDone, InSlab, Reply, decode_from_worker
from torchserve_lite.ipc.slabs import SlabFile, Slabs, slabs
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


@pytest.fixture
def shared() -> Iterator[Slabs]:
    with slabs() as made:
        yield made


def large(index: int, body: bytes, *, last: bool = True) -> list[Answer]:
    return [Answer(index, Reply(body), last)]


async def test_large_answer_is_written_over_its_request(
    links: tuple[BlockingFrames, BlockingFrames], shared: Slabs
) -> None:
    request, file = shared.new(100_000), SlabFile(os.dup(shared.fd))
    assert request is not None
    begin, room = shared.place_of(request) or (0, 0)
    place = InSlab(1, 0, begin, 100_000, room)
    outgoing = OutgoingAnswers(1, links[0], lambda index: False, slabs=file, in_slabs={1: place})
    outgoing.end([*large(0, b"x" * 50_000), *large(1, b"y" * 60_000)], BatchDone())
    file.close()
    frame = links[1].receive_now()
    assert frame is not None
    message = decode_from_worker(frame)
    assert isinstance(message, Answers)
    assert [answer.reply.body for answer in message.answers] == [b"x" * 50_000, b""]
    assert message.in_slabs == ((1, 60_000),)
    assert bytes(shared.over(request, 60_000) or b"") == b"y" * 60_000


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([*large(0, b"y" * 200_000)], id="longer than the room"),
        pytest.param([*large(0, b"y" * 1000)], id="short"),
        pytest.param([*large(0, b"y" * 50_000, last=False), *large(0, b"y" * 60_000)], id="after a piece"),
        pytest.param([*large(0, b"y" * 50_000, last=False)], id="a piece"),
    ],
)
async def test_other_answers_go_over_the_link(
    answers: list[Answer], links: tuple[BlockingFrames, BlockingFrames], shared: Slabs
) -> None:
    """When a piece comes, the client may still be behind with the one before, which would be overwritten."""
    request, file = shared.new(100_000), SlabFile(os.dup(shared.fd))
    assert request is not None
    request[:] = b"x" * 100_000
    begin, room = shared.place_of(request) or (0, 0)
    in_slabs = {0: InSlab(0, 0, begin, 100_000, room)}
    outgoing = OutgoingAnswers(1, links[0], lambda index: False, slabs=file, in_slabs=in_slabs)

    def send_all() -> None:
        for answer in answers:
            outgoing.send([answer])

    telling = threading.Thread(target=send_all)
    telling.start()
    bodies: list[bytes] = []
    while len(bodies) < len(answers) and (frame := links[1].receive()) is not None:
        message = decode_from_worker(frame)
        assert isinstance(message, Answers)
        assert message.in_slabs == ()
        bodies += [bytes(answer.reply.body) for answer in message.answers if not isinstance(answer.reply.body, int)]
    telling.join()
    file.close()
    assert [set(body) for body in bodies] == [{ord("y")}] * len(answers)
    assert request == b"x" * 100_000
