"""What a worker does between batches: it reads what has arrived before it begins the next one."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import NO_SLABS, spec_of
from torchserve_lite.ipc.frames import BlockingFrames
from torchserve_lite.ipc.messages import (
    Answers,
    Call,
    Cancel,
    FailureKind,
    Load,
    Loaded,
    Predict,
    SentPart,
    ToWorker,
    decode_from_worker,
    encode,
)
from torchserve_lite.ipc.slabs import SlabFile
from torchserve_lite.ipc.stages import StageMarker
from torchserve_lite.worker.loop import WorkerLoop

HANDLER = """
import time

def handle(data, context):
    if data is None:
        return None
    rows = [bytes(row["body"]).decode() for row in data]
    for index, row in enumerate(rows):
        if row == "stream":
            context.send(index, "piece")
        if row == "slow":
            time.monotonic.advance(10)
    return [f"{row} of {len(rows)}" for row in rows]

async def concurrently(data, context):
    return [steps()]

def steps():
    yield from ["piece"] * 3
"""

Told = Callable[..., list[Answers]]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    """``told(messages, function="handle")``: what a worker answers to which all of them were sent before it began."""
    monkeypatch.syspath_prepend(str(tmp_path))  # undone afterwards
    (tmp_path / "handler_of_the_loop.py").write_text(HANDLER)

    def told(messages: Sequence[ToWorker], function: str = "handle") -> list[Answers]:
        load = Load(spec=spec_of(handler=f"handler_of_the_loop.py:{function}"), model_dir=str(tmp_path))
        theirs, ours = socket.socketpair()
        with theirs, ours:
            parent = BlockingFrames(ours)
            for message in [load, *messages]:
                parent.send(encode(message))
            ours.shutdown(socket.SHUT_WR)
            marker = StageMarker.create()
            loop = WorkerLoop(BlockingFrames(theirs), marker, SlabFile(NO_SLABS.fd), own_process=False)
            thread = threading.Thread(target=loop.run)  # an event loop of its own
            thread.start()
            thread.join(60)
            marker.close()
            answers = []
            while (frame := parent.receive_now()) is not None:
                answer = decode_from_worker(frame)
                if isinstance(answer, Answers):
                    answers.append(answer)
                else:
                    assert isinstance(answer, Loaded)
            return answers

    return told


def batch(number: int, *bodies: str, remaining: float | None = None) -> Predict:
    calls = [Call(body, "predict", (SentPart("body", body.encode()),), (), "", remaining) for body in bodies]
    return Predict(number, tuple(calls))


def ends(answers: Sequence[Answers]) -> list[dict[int, str]]:
    """The answers of each batch, by index."""
    return [
        {answer.index: answer.reply.failure or bytes(answer.reply.body).decode() for answer in message.answers}
        for message in answers
        if message.done is not None
    ]


def test_call_that_was_cancelled_while_its_batch_waited_never_reaches_the_handler(told: Told) -> None:
    """The cancellation lay behind the batch in the socket, and was read when the handler had done the work."""
    answers = told([batch(1, "a"), batch(2, "b", "c"), Cancel(2, 0), batch(3, "d")])
    assert ends(answers) == [{0: "a of 1"}, {1: "c of 1"}, {0: "d of 1"}]


def test_batch_that_nobody_waits_for_any_more_ends_without_the_handler(told: Told) -> None:
    answers = told([batch(1, "stream"), batch(2, "slow"), Cancel(2, 0)])
    assert ends(answers) == [{0: "stream of 1"}, {}]


def test_cancellation_of_a_batch_that_has_ended_means_no_later_one(told: Told) -> None:
    answers = told([batch(1, "a"), Cancel(1, 0), batch(2, "b")])
    assert ends(answers)[-1] == {0: "b of 1"}


def test_all_that_has_come_is_read_before_a_coroutine_handler_takes_a_step(told: Told) -> None:
    """Read one a turn of the event loop, messages would lie there for longer the longer such a step takes."""
    messages = [message for number in range(1, 6) for message in (batch(number, "a"), Cancel(number, 0))]
    answers = told([*messages, batch(6, "a")], "concurrently")
    assert [answer.batch for answer in answers if answer.answers and answer.done is None] == [6] * 4
    assert sorted(answer.batch for answer in answers if answer.done is not None) == list(range(1, 7))


class Clock:
    """Stands for ``time.monotonic``; a handler of these tests advances it."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def test_time_that_a_call_has_left_runs_while_its_batch_waits_for_the_one_before(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", Clock())
    answers = told([batch(1, "slow"), batch(2, "a", remaining=5.0), batch(3, "b", remaining=15.0)])
    assert ends(answers) == [{0: "slow of 1"}, {0: FailureKind.DEADLINE}, {0: "b of 1"}]
