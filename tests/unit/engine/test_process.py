"""The parent's side of a worker process, with a child that is a coroutine at the other end of the link."""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest

from tests.conftest import NO_SLABS, NewJob, spec_of
from tests.virtual_time import virtual_time
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey
from torchserve_lite.engine.launchers.child import ChildHandle, StartChild
from torchserve_lite.engine.launchers.process import ProcessWorker
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.errors import LoadFailed, LoadOutOfMemory, WorkerDied, WorkerKilled
from torchserve_lite.ipc.frames import Frame, FrameDecoder, frame_of
from torchserve_lite.ipc.messages import (
    Answer,
    Answers,
    BatchDone,
    Cancel,
    FromWorker,
    Load,
    Loaded,
    LoadFailure,
    Payload,
    Predict,
    Reply,
    ToWorker,
    decode_to_worker,
    encode,
)
from torchserve_lite.ipc.stages import StageMarker

LOAD = Load(spec=spec_of(key=ModelKey("tiny", "1.0"), handler="tiny"), model_dir=".")


class Child:
    """What a child does: its end of the link, its output, its stage marker. Its script returns the exit code."""

    def __init__(self, link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> None:
        self.stage = stage
        self.stdout, self.stderr = os.dup(stdout.write_end), os.dup(stderr.write_end)
        self._link = link.dup()
        self._link.setblocking(False)
        self._decoder = FrameDecoder()
        self._received: list[Frame] = []

    async def receive(self) -> ToWorker | None:
        """None at the end of the link."""
        while not self._received:
            count = await asyncio.get_running_loop().sock_recv_into(self._link, self._decoder.room())
            if not count:
                return None
            self._received += self._decoder.received(count)
        return decode_to_worker(self._received.pop(0))

    async def send(self, message: FromWorker | bytes) -> None:
        pieces = [message] if isinstance(message, bytes) else encode(copy.deepcopy(message))
        await asyncio.get_running_loop().sock_sendall(self._link, b"".join(frame_of(pieces)))

    def print(self, text: bytes, after: float) -> None:
        descriptor = os.dup(self.stderr)

        def write() -> None:
            os.write(descriptor, text)
            os.close(descriptor)

        asyncio.get_running_loop().call_later(after, write)

    def close_link(self) -> None:
        self._link.close()

    def close(self) -> None:
        self._link.close()
        os.close(self.stdout)
        os.close(self.stderr)


Script = Callable[[Child], Awaitable[int]]


class Handle(ChildHandle):
    """``killed``: whether SIGKILL was sent."""

    def __init__(self, life: asyncio.Task[int], exit_code: asyncio.Future[int]) -> None:
        super().__init__(4711, exit_code)
        self.killed = False
        self._life = life

    def kill(self) -> None:
        if not self.exit_code.done():
            self.killed = True
            self._life.cancel()


class Launched:
    """Starts a child with ``script``; ``handle`` and ``child`` are there once it runs."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.handle: Handle
        self.child: Child

    async def start(self, link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
        self.child = Child(link, stage, stdout, stderr)
        code = asyncio.get_running_loop().create_future()
        self.handle = Handle(asyncio.create_task(self._live(code)), code)
        return self.handle

    async def _live(self, code: asyncio.Future[int]) -> int:
        result = -signal.SIGKILL
        try:
            result = await self._script(self.child)
        finally:
            self.child.close()
            code.set_result(result)
        return result


def worker_of(start: StartChild, threads: int = 1) -> ProcessWorker:
    return ProcessWorker("W-tiny_1.0", start, NO_SLABS, threads=lambda: threads)


@asynccontextmanager
async def loaded(script: Script) -> AsyncIterator[tuple[ProcessWorker, Launched]]:
    """A worker that has loaded its model; ``script`` goes on from there."""

    async def live(child: Child) -> int:
        await child.receive()
        await child.send(Loaded(0.0))
        return await script(child)

    launched = Launched(live)
    async with worker_of(launched.start) as worker:
        await worker.load(LOAD, 60)
        yield worker, launched


async def answers(worker: ProcessWorker, *jobs: Job) -> list[Answers]:
    """All to a batch of these. WorkerDied when the worker dies before their end."""
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    updates: list[Answers] = []

    def hear(update: Answers) -> None:
        updates.append(update)
        if update.done is not None:
            ended.set_result(None)

    worker.run(jobs, hear)
    assert updates == []
    watching = asyncio.create_task(worker.watch())
    await asyncio.wait([ended, watching], return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        await watching
    watching.cancel()
    return updates


def result(batch: int, *bodies: Payload) -> Answers:
    return Answers(batch, tuple(Answer(index, Reply(body)) for index, body in enumerate(bodies)), BatchDone())


def piece(batch: int, index: int, body: bytes = b"") -> Answers:
    return Answers(batch, (Answer(index, Reply(body), last=False),))


def in_slab(length: int) -> Answers:
    return Answers(1, (Answer(0, Reply(b"")),), in_slabs=((0, length),))


def of_status(status: int) -> Answers:
    return Answers(1, (Answer(0, Reply(b"", status)), Answer(1, Reply(b""))), BatchDone())


async def until_let_go(child: Child) -> int:
    while await child.receive() is not None:
        pass
    return 0


def now() -> float:
    return asyncio.get_running_loop().time()


@virtual_time
async def test_batch_goes_out_and_its_answers_come_back(new_job: NewJob) -> None:
    async def script(child: Child) -> int:
        predict = await child.receive()
        assert isinstance(predict, Predict)
        await child.send(piece(predict.batch, 0, b"first"))
        await child.send(result(predict.batch, *(call.parts[0].data for call in predict.calls)))
        return await until_let_go(child)

    async with loaded(script) as (worker, _):
        updates = await answers(worker, new_job(b"1"), new_job(b"2"))
    assert updates == [piece(1, 0, b"first"), result(1, b"1", b"2")]


@virtual_time
async def test_worker_is_told_threads_and_the_seconds_that_remain(new_job: NewJob) -> None:
    """Never a clock reading: the clock of another process is its own."""
    seen: list[ToWorker | None] = []

    async def script(child: Child) -> int:
        seen.append(await child.receive())
        await child.send(result(1, b"", b""))
        return await until_let_go(child)

    async with loaded(script) as (worker, _):
        urgent, patient = new_job(within=5), new_job()
        await asyncio.sleep(2)
        await answers(worker, urgent, patient)
    assert isinstance(seen[0], Predict)
    assert (seen[0].threads, [call.remaining for call in seen[0].calls]) == (1, [3.0, None])


@virtual_time
async def test_cancelling_names_the_batch_and_the_place_in_it(new_job: NewJob) -> None:
    seen: list[ToWorker | None] = []

    async def script(child: Child) -> int:
        await child.receive()
        seen.append(await child.receive())
        await child.send(result(1, b"", b""))
        return await until_let_go(child)

    async with loaded(script) as (worker, _):
        stays, leaves = new_job(), new_job()
        running = asyncio.create_task(answers(worker, stays, leaves))
        await asyncio.sleep(1)
        worker.unwanted(leaves)
        await running
        worker.unwanted(leaves)  # has ended: nothing to tell
    assert seen == [Cancel(1, 1)]


@virtual_time
async def test_batches_beside_one_another_get_their_own_answers_in_any_order(new_job: NewJob) -> None:
    async def script(child: Child) -> int:
        for _ in range(2):
            await child.receive()
        await child.send(result(2, b"two"))
        await child.send(result(1, b"one"))
        return await until_let_go(child)

    async with loaded(script) as (worker, _):
        both = await asyncio.gather(answers(worker, new_job()), answers(worker, new_job()))
    assert list(both) == [[result(1, b"one")], [result(2, b"two")]]


@virtual_time
async def test_answer_to_no_running_batch_is_ignored(new_job: NewJob) -> None:
    async def script(child: Child) -> int:
        await child.receive()
        await child.send(result(99, b"whose?"))
        await child.send(result(1, b"mine"))
        await child.send(result(1, b"twice"))
        await child.receive()
        await child.send(result(2, b"next"))
        return await until_let_go(child)

    async with loaded(script) as (worker, _):
        assert await answers(worker, new_job()) == [result(1, b"mine")]
        assert await answers(worker, new_job()) == [result(2, b"next")]


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\xc1 no msgpack", id="no message"),
        pytest.param(b"", id="empty"),
        pytest.param(msgspec.msgpack.encode(result(1)), id="too few answers"),
        pytest.param(msgspec.msgpack.encode(result(1, b"", b"", b"")), id="too many answers"),
        pytest.param(msgspec.msgpack.encode(piece(1, 2)), id="piece for nobody"),
        pytest.param(msgspec.msgpack.encode(piece(1, -1)), id="piece before the first"),
        pytest.param(msgspec.msgpack.encode(piece(0, 0)), id="answer to no batch"),
        pytest.param(b"\x81\xa4type\xa7\xffnswers", id="text that is no UTF-8"),
        pytest.param(msgspec.msgpack.encode(of_status(99)), id="status below all others"),
        pytest.param(msgspec.msgpack.encode(of_status(100)), id="status of no final answer"),
        pytest.param(msgspec.msgpack.encode(of_status(-1)), id="negative status"),
        pytest.param(msgspec.msgpack.encode(of_status(600)), id="status above all others"),
        pytest.param(msgspec.msgpack.encode(in_slab(40_000)), id="in a slab, where the request is in none"),
        pytest.param(msgspec.msgpack.encode(in_slab(-1)), id="less than nothing in a slab"),
        pytest.param(msgspec.msgpack.encode(Answers(1, (), in_slabs=((0, 1),))), id="in a slab, and no answer"),
    ],
)
@virtual_time
async def test_worker_that_sends_garbage_is_stopped_and_its_jobs_hear_why(garbage: bytes, new_job: NewJob) -> None:
    async def script(child: Child) -> int:
        await child.receive()
        await child.send(garbage)
        return await until_let_go(child)

    async with loaded(script) as (worker, launched):
        with pytest.raises(WorkerDied, match="a message that cannot be used") as death:
            await answers(worker, new_job(), new_job())
        assert launched.handle.killed
    assert type(death.value) is WorkerDied  # not the WorkerKilled of a process that the kernel has killed


@virtual_time
async def test_worker_that_answers_before_it_has_loaded_is_stopped() -> None:
    """A handler's module may write to the link itself: no assertion of ours may fail for that."""

    async def live(child: Child) -> int:
        await child.receive()
        await child.send(result(0, b"too early"))
        return await until_let_go(child)

    launched = Launched(live)
    async with worker_of(launched.start) as worker:
        with pytest.raises(LoadFailed, match="a message that cannot be used"):
            await worker.load(LOAD, 60)
    assert launched.handle.killed


@virtual_time
async def test_worker_that_goes_on_saying_that_it_has_loaded_is_heard_all_the_same(new_job: NewJob) -> None:
    """They waited for nobody's reading, until nothing was taken from the worker any more."""

    async def script(child: Child) -> int:
        for _ in range(20):
            await child.send(Loaded(0.0))
        await child.receive()
        await child.send(result(1, b"mine"))
        return await until_let_go(child)

    async with loaded(script) as (worker, _):
        assert await answers(worker, new_job()) == [result(1, b"mine")]


@virtual_time
async def test_frame_of_impossible_length_stops_the_worker(new_job: NewJob) -> None:
    async def script(child: Child) -> int:
        await child.receive()
        await asyncio.get_running_loop().sock_sendall(child._link, b"\xff" * 8)
        return await until_let_go(child)

    async with loaded(script) as (worker, launched):
        with pytest.raises(WorkerDied, match="4294967295 pieces"):
            await answers(worker, new_job())
        assert launched.handle.killed
    assert now() == 1000


@pytest.mark.parametrize(
    ("code", "told", "kind"),
    [
        pytest.param(3, "exited with code 3", WorkerDied, id="exit"),
        pytest.param(0, "exited with code 0", WorkerDied, id="exit without an error"),
        pytest.param(-signal.SIGSEGV, "ended by SIGSEGV", WorkerDied, id="segfault"),
        pytest.param(-signal.SIGKILL, "ended by SIGKILL", WorkerKilled, id="out of memory"),
        pytest.param(-99, "ended by signal 99", WorkerDied, id="no signal of this system"),
    ],
)
@virtual_time
async def test_death_names_the_cause_and_what_it_was_doing(code: int, told: str, kind: type, new_job: NewJob) -> None:
    async def script(child: Child) -> int:
        await child.receive()
        child.stage.mark("inference", 3)
        return code

    async with loaded(script) as (worker, _):
        with pytest.raises(WorkerDied, match=rf"{told} while at inference \(row 3 of its batch\)") as death:
            await answers(worker, new_job())
        assert worker.death is death.value
    assert type(death.value) is kind


@virtual_time
async def test_what_a_worker_sent_before_it_died_still_counts(new_job: NewJob) -> None:
    async def script(child: Child) -> int:
        await child.receive()
        await child.send(result(1, b"last words"))
        return 1

    async with loaded(script) as (worker, _):
        assert await answers(worker, new_job()) == [result(1, b"last words")]
        with pytest.raises(WorkerDied):
            await worker.watch()
        with pytest.raises(WorkerDied):
            await answers(worker, new_job())


@virtual_time
async def test_output_is_logged_before_the_death_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    async def script(child: Child) -> int:
        child.print(b"Traceback of the handler\n", after=0.0)
        child.print(b"ValueError: boom", after=1.0)  # by a process of its own that outlives it
        return 1

    async with loaded(script) as (worker, _):
        with pytest.raises(WorkerDied):
            await worker.watch()
        assert caplog.messages == ["Traceback of the handler", "ValueError: boom"]


@virtual_time
async def test_grandchild_that_holds_the_output_delays_the_report_only_briefly() -> None:
    held: list[int] = []

    async def script(child: Child) -> int:
        held.extend([os.dup(child.stdout), os.dup(child.stderr)])
        return 1

    async with loaded(script) as (worker, _):
        with pytest.raises(WorkerDied):
            await worker.watch()
        assert now() <= 1002
    for descriptor in held:
        os.close(descriptor)


@virtual_time
async def test_leaving_lets_the_child_end_by_itself() -> None:
    """Closing the link once killed every worker at the next turn of the loop, whatever grace was meant for it."""

    async def script(child: Child) -> int:
        await until_let_go(child)
        await asyncio.sleep(3)
        return 0

    async with loaded(script) as (_, launched):
        pass
    assert (now(), launched.handle.killed) == (1003, False)


@virtual_time
async def test_child_that_does_not_end_is_killed_after_a_grace_time() -> None:
    async def script(child: Child) -> int:
        await asyncio.sleep(1000)
        return 0

    async with loaded(script) as (_, launched):
        pass
    assert (now(), launched.handle.killed) == (1005, True)


@virtual_time
async def test_leaving_after_a_failure_gives_no_grace() -> None:
    async def script(child: Child) -> int:
        await asyncio.sleep(1000)
        return 0

    with pytest.raises(LoadFailed):
        async with loaded(script) as (_, launched):
            raise LoadFailed("hung")
    assert (now(), launched.handle.killed) == (1000, True)


@virtual_time
async def test_child_that_closes_its_link_is_stopped(new_job: NewJob) -> None:
    async def script(child: Child) -> int:
        await child.receive()
        child.close_link()
        await asyncio.sleep(1000)
        return 0

    async with loaded(script) as (worker, launched):
        with pytest.raises(WorkerDied, match="closed its link") as death:
            await answers(worker, new_job())
        assert launched.handle.killed
    assert type(death.value) is WorkerDied


@virtual_time
async def test_failed_load_carries_the_handlers_traceback() -> None:
    async def script(child: Child) -> int:
        await child.receive()
        await child.send(LoadFailure("ImportError: x", "Traceback of the handler", out_of_memory=True))
        return 0

    async with worker_of(Launched(script).start) as worker:
        with pytest.raises(LoadOutOfMemory, match="ImportError: x") as failure:
            await worker.load(LOAD, 60)
    assert failure.value.traceback == "Traceback of the handler"


@virtual_time
async def test_death_while_loading_tells_the_cause_and_the_last_lines() -> None:
    async def script(child: Child) -> int:
        child.stage.mark("loading")
        child.print(b"CUDA driver too old\n", after=0.0)
        return 1

    async with worker_of(Launched(script).start) as worker:
        with pytest.raises(LoadFailed, match=r"exited with code 1 while at loading\. CUDA driver too old"):
            await worker.load(LOAD, 60)


@virtual_time
async def test_load_that_takes_too_long_tells_the_limit_and_the_stage() -> None:
    async def script(child: Child) -> int:
        await child.receive()
        child.stage.mark("loading")
        return await until_let_go(child)

    async with worker_of(Launched(script).start) as worker:
        with pytest.raises(LoadFailed, match=r"startupTimeout=60 s \(it was loading\)"):
            await worker.load(LOAD, 60)
    assert now() == 1060


@pytest.mark.parametrize("fault", [FileNotFoundError("no such python"), EOFError("no fork server")])
@virtual_time
async def test_process_that_cannot_be_started_is_a_failed_load_and_leaks_nothing(fault: Exception) -> None:
    """It was an unexpected error once: the pool's task ended, and the start waited for the worker for ever."""

    async def start(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
        raise fault

    before = sorted(os.listdir("/dev/fd"))
    with pytest.raises(LoadFailed, match=str(fault)):
        async with worker_of(start):
            pass
    await asyncio.sleep(0.1)
    assert sorted(os.listdir("/dev/fd")) == before


@virtual_time
async def test_start_that_is_cancelled_leaks_nothing() -> None:
    async def start(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
        raise asyncio.CancelledError

    before = sorted(os.listdir("/dev/fd"))
    with pytest.raises(asyncio.CancelledError):
        async with worker_of(start):
            pass
    await asyncio.sleep(0.1)
    assert sorted(os.listdir("/dev/fd")) == before


@virtual_time
async def test_model_config_that_no_message_can_hold_is_a_failed_load() -> None:
    load = msgspec.structs.replace(LOAD, spec=spec_of(model_config={"seed": 2**70}))
    async with worker_of(Launched(until_let_go).start) as worker:
        with pytest.raises(LoadFailed, match=r"model-config\.yaml"):
            await worker.load(load, 60)


@virtual_time
async def test_lifetime_leaves_no_descriptor_open(new_job: NewJob) -> None:
    before = sorted(os.listdir("/dev/fd"))
    async with loaded(until_let_go):
        pass
    await asyncio.sleep(0.1)
    assert sorted(os.listdir("/dev/fd")) == before


@virtual_time
async def test_process_that_does_not_start_in_time_is_a_failed_load_and_leaks_nothing() -> None:
    async def start(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
        await asyncio.sleep(1000)
        raise AssertionError

    before = sorted(os.listdir("/dev/fd"))
    with pytest.raises(LoadFailed, match=r"did not start within startupTimeout=7 s"):
        async with ProcessWorker("W-tiny_1.0", start, NO_SLABS, start_timeout=7):
            pass
    assert now() == 1007
    await asyncio.sleep(0.1)
    assert sorted(os.listdir("/dev/fd")) == before


@virtual_time
async def test_call_that_nobody_waits_for_needs_no_answer(new_job: NewJob) -> None:
    async def script(child: Child) -> int:
        await child.receive()
        await child.receive()  # the Cancel
        await child.send(Answers(1, (Answer(0, Reply(b"mine")),), BatchDone()))
        return await until_let_go(child)

    async with loaded(script) as (worker, _):
        stays, leaves = new_job(), new_job()
        leaves.holder = worker
        running = asyncio.create_task(answers(worker, stays, leaves))
        await asyncio.sleep(1)
        leaves.abandon()
        assert len(await running) == 1


@virtual_time
async def test_worker_has_to_wait_while_nobody_takes_its_answers(new_job: NewJob) -> None:
    sent: list[int] = []

    async def script(child: Child) -> int:
        await child.receive()
        for number in range(1000):
            await child.send(piece(1, 0, b"x" * 100_000))
            sent.append(number)
        await child.send(result(1, b"end"))
        return await until_let_go(child)

    async with loaded(script) as (worker, _):
        updates: list[Answers] = []

        def hear(update: Answers) -> None:
            updates.append(update)
            if len(updates) == 1:
                worker.pause()

        worker.run([new_job()], hear)
        await asyncio.sleep(60)
        assert len(sent) < 50
        worker.resume()
        await asyncio.sleep(60)
        assert len(updates) == 1001


@pytest.mark.parametrize(
    ("last_begun", "put_back"),
    [pytest.param(0, b"12", id="neither"), pytest.param(1, b"2", id="the first"), pytest.param(2, b"", id="both")],
)
@virtual_time
async def test_jobs_of_batches_that_a_dead_worker_never_took_up_are_known(
    last_begun: int, put_back: bytes, new_job: NewJob
) -> None:
    """The second batch waits in the worker while the first one runs."""

    async def script(child: Child) -> int:
        await child.receive()
        await child.receive()
        child.stage.begin(last_begun)
        child.stage.mark("handle")
        return 1

    async with loaded(script) as (worker, _):
        jobs = [new_job(b"1"), new_job(b"2")]
        for job in jobs:
            worker.run([job], lambda update: None)
        assert not any(worker.never_began(job) for job in jobs)  # it may still begin them
        with pytest.raises(WorkerDied):
            await worker.watch()
    assert b"".join(bytes(job.request.parts[0].data) for job in jobs if worker.never_began(job)) == put_back


@pytest.mark.parametrize(
    ("limit", "most", "told"),
    [pytest.param(90_000, 16, "bytes", id="bytes"), pytest.param(1 << 30, 2, "large parts", id="parts")],
)
@virtual_time
async def test_batch_that_is_more_than_a_worker_takes_is_refused_and_the_next_one_runs(
    limit: int, most: int, told: str, new_job: NewJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker ended of it, and so did the next one; from 4 GiB on, the slot failed."""

    async def script(child: Child) -> int:
        message = await child.receive()
        assert isinstance(message, Predict)
        await child.send(result(message.batch, b"small"))
        return await until_let_go(child)

    async with loaded(script) as (worker, _):
        monkeypatch.setattr("torchserve_lite.ipc.frames.FRAME_LIMIT", limit)
        monkeypatch.setattr("torchserve_lite.ipc.frames._MOST_PIECES", most)
        (refused,) = await answers(worker, new_job(b"x" * 50_000), new_job(b"y" * 50_000))
        assert [(answer.index, answer.last, answer.reply.status) for answer in refused.answers] == [
            (0, True, 413),
            (1, True, 413),
        ]
        assert told.encode() in bytes(refused.answers[0].reply.body)
        (answered,) = await answers(worker, new_job(b"z"))
        assert answered.answers[0].reply.body == b"small"
