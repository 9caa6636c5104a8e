"""What comes over a worker's link: any bytes into both decoders, and a hostile worker before the parent's side."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from typing import Any

import msgspec

from tests.conftest import NO_SLABS, job_maker, spec_of
from tests.fuzz.target import Choices, Target
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey
from torchserve_lite.engine.launchers.child import ChildHandle
from torchserve_lite.engine.launchers.process import ProcessWorker
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.errors import LoadFailed, WorkerDied
from torchserve_lite.ipc.frames import Frame, FrameDecoder, FrameError, frame_of
from torchserve_lite.ipc.messages import (
    Answer,
    Answers,
    BatchDone,
    Call,
    Cancel,
    FromWorker,
    Load,
    Loaded,
    LoadFailure,
    Metric,
    Predict,
    Reply,
    SentPart,
    ToWorker,
    decode_from_worker,
    decode_to_worker,
    encode,
)
from torchserve_lite.ipc.stages import StageMarker

_LOAD = Load(spec=spec_of(key=ModelKey("m", "1.0"), handler="h"), model_dir=".")
_NUMBERS = (0, 1, 2, -1, 7, 200, 99, 100, 600, 2**31, 2**63 - 1, -(2**63))
_TEXTS = ("", "a", "handler", "code", "refused", "a\r\nb: c", "\0", "é", "x" * 300)
_SIZES = (0, 1, 5, 4096, 40_000)
_loop = asyncio.new_event_loop()
_new_job = job_maker()


def check(data: bytes) -> None:
    """The first byte chooses: bytes for a decoder, what a worker sends, or a frame that must come back."""
    form = Choices(data[:1]).below(4)
    choices = Choices(data[1:])
    if form == 0:
        _check_decoders(choices)
    elif form == 1:
        _check_round_trip(choices)
    else:
        _loop.run_until_complete(_serve(_said_by_worker(choices) if form == 2 else choices.rest()))


def _check_decoders(choices: Choices) -> None:
    step = choices.below(300) + 1
    frames = _decoded(choices.rest(), step)
    for frame in frames:
        for decode in (decode_from_worker, decode_to_worker):
            try:
                encode(decode(frame))
            except msgspec.DecodeError as error:
                assert str(error)


def _decoded(data: bytes, step: int) -> list[Frame]:
    """What a decoder makes of ``data`` until it refuses the rest, given so many bytes at a time."""
    decoder, frames = FrameDecoder(), list[Frame]()
    view = memoryview(data)
    while len(view):
        room = decoder.room()
        assert len(room)
        count = min(step, len(room), len(view))
        room[:count] = view[:count]
        del room
        try:
            frames += decoder.received(count)
        except FrameError as error:
            assert str(error)
            break
        view = view[count:]
    return frames


def _check_round_trip(choices: Choices) -> None:
    pieces = [
        [choices.some(choices.below(8)) * choices.one_of(_SIZES) for _ in range(choices.below(4) + 1)] for _ in range(3)
    ]
    sent = b"".join(part for frame in pieces for part in frame_of(frame))
    assert [[bytes(piece) for piece in frame] for frame in _decoded(sent, choices.below(70_000) + 1)] == pieces


class _Child(ChildHandle):
    """Ends when it is told to, as a process would."""

    def kill(self) -> None:
        self.end(-9)

    def end(self, code: int = 0) -> None:
        if not self.exit_code.done():
            self.exit_code.set_result(code)


async def _serve(said: bytes) -> None:
    """One life of a worker that says this, whatever it is asked. It must end, and each job with it."""
    talking: list[asyncio.Task[None]] = []

    async def start(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
        child = _Child(4711, _loop.create_future())
        talking.append(_loop.create_task(_say(link.dup(), said, child)))
        return child

    jobs = [_new_job(b"1"), _new_job(b"2")]
    async with asyncio.timeout(60):
        try:
            async with ProcessWorker("W", start, NO_SLABS) as worker:
                await worker.load(_LOAD, 30)
                told: list[Answers] = []
                worker.run(jobs, told.append)
                with contextlib.suppress(WorkerDied):
                    await worker.watch()
                answers = [answer for update in told for answer in update.answers]
                for answer in answers:
                    _check_answer(answer, jobs)
                if told and told[-1].done is not None:
                    assert {answer.index for answer in answers if answer.last} == {0, 1}
        except (LoadFailed, WorkerDied) as error:
            assert str(error).encode()
        await talking[0]


async def _say(link: socket.socket, said: bytes, child: _Child) -> None:
    """Until it has been killed at the latest: what nobody reads cannot be sent."""
    link.setblocking(False)
    sending = _loop.create_task(_loop.sock_sendall(link, said))
    child.exit_code.add_done_callback(lambda code: sending.cancel())
    with link, contextlib.suppress(OSError, asyncio.CancelledError):
        await sending
    child.end()


def _check_answer(answer: Answer, jobs: Sequence[Job]) -> None:
    reply = answer.reply
    assert 0 <= answer.index < len(jobs)
    assert isinstance(reply.body, bytes | bytearray)
    assert reply.failure or 200 <= reply.status <= 599, reply


def _said_by_worker(choices: Choices) -> bytes:
    messages: list[FromWorker] = [] if choices.chance(6) else [Loaded(0.1)]
    for _ in range(choices.below(7)):
        messages.append(_message(choices))
    said = b"".join(b"".join(frame_of(encode(message))) for message in messages)
    for _ in range(choices.below(4) if choices.chance() else 0):  # and a little of it is changed
        at = choices.below(len(said) + 1)
        said = said[:at] + choices.some(choices.below(5)) + said[at + choices.below(5) :]
    return said


def _message(choices: Choices) -> FromWorker:
    kind = choices.below(8)
    if kind == 0:
        return Loaded(float(choices.one_of(_NUMBERS)))
    if kind == 1:
        return LoadFailure(choices.one_of(_TEXTS), choices.one_of(_TEXTS), choices.chance())
    answers = tuple(_answer(choices) for _ in range(choices.below(4)))
    done = _done(choices) if choices.chance() else None
    return Answers(choices.one_of(_NUMBERS) if choices.chance(4) else 1, answers, done)


def _answer(choices: Choices) -> Answer:
    headers = tuple((choices.one_of(_TEXTS), choices.one_of(_TEXTS)) for _ in range(choices.below(3)))
    status = choices.one_of(_NUMBERS) if choices.chance(4) else 200
    failure = choices.one_of(_TEXTS) if choices.chance(4) else ""
    body = choices.some(2) * choices.one_of(_SIZES)
    reply = Reply(body, status, choices.one_of(_TEXTS), choices.one_of(_TEXTS), headers, failure)
    return Answer(choices.one_of(_NUMBERS) if choices.chance(6) else choices.below(2), reply, not choices.chance(3))


def _done(choices: Choices) -> BatchDone:
    metric = Metric(choices.one_of(_TEXTS), choices.one_of(_TEXTS), "", float(choices.one_of(_NUMBERS)), (("a", "b"),))
    return BatchDone(float(choices.one_of(_NUMBERS)), (metric,) * choices.below(3))


def _framed(message: FromWorker | ToWorker) -> bytes:
    return b"".join(frame_of(encode(message)))


def _seeds() -> list[bytes]:
    call = Call("id", "predict", (SentPart("body", b"1"), SentPart("b", b"2" * 17_000)), (("A", "b"),))
    to_worker: list[Any] = [_LOAD, Predict(1, (call,)), Cancel(1, 0)]
    reply = Reply(b"x" * 17_000, 200, "", "text/plain", (("A", "b"),))
    answers = Answers(
        1, (Answer(0, reply), Answer(1, Reply(b"2"))), BatchDone(0.1, (Metric("m", "counter", "", 1.0, ()),))
    )
    streamed = Answers(1, (Answer(0, Reply(b"part"), False),))
    failed = Answers(
        1, (Answer(0, Reply(b"no", 0, failure="code")), Answer(1, Reply(b"no", failure="refused"))), BatchDone()
    )
    from_worker = [_framed(message) for message in (Loaded(0.1), LoadFailure("a", "b"), streamed, answers, failed)]
    seeds = [b"\0\7\0" + _framed(message) for message in to_worker] + [b"\0\7\0" + said for said in from_worker]
    seeds += [b"\3" + from_worker[0] + said for said in from_worker] + [b"\3" + said for said in from_worker]
    seeds += [b"\0\1\0\0\0\0\1\x3f\xff\xff\xff", b"\0\1\0\0\0\x40\0" + b"\0" * 64, b"\3\0\0\0\1\x3f\xff\xff\xff"]
    seeds += [bytes([1 + i % 2]) + bytes([i % 7, 3, i, i // 2, 2, 5, i % 3]) * 9 for i in range(0, 250, 9)]
    return seeds


TARGETS = {
    "frames": Target(
        check=check,
        seeds=_seeds(),
        words=[
            b"\0\0\0\1", b"\0\0\0\2", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x3f\xff\xff\xff", b"\0\0\x40\0",
            b"\xa4type", b"\xa6Loaded",
            b"\xa7Answers", b"\xabLoadFailure", b"\xa7Predict", b"\xa6Cancel", b"\xa4Load", b"\xa5batch",
            b"\xa7answers", b"\xa4done",
            b"\xc0", b"\xc2", b"\xc3", b"\xcf" + b"\xff" * 8, b"\xcb\x7f\xf8" + b"\0" * 6, b"\xdf\xff\xff\xff\xff",
            b"\xdd\x7f\xff\xff\xff",
            b"\x90", b"\x80", b"\xd3\x80" + b"\0" * 7,
        ],
        longest=20_000,
    )
}  # fmt: skip
