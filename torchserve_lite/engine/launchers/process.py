"""A worker that is a process: one socket for messages, two pipes for its output, one page for its stage marker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

import msgspec

from torchserve_lite.core.jobs import Job
from torchserve_lite.engine.interface import Update
from torchserve_lite.engine.launchers.worker_logs import LineReader, LogPipe
from torchserve_lite.errors import LoadFailed, WorkerDied
from torchserve_lite.ipc.frames import AsyncFrames
from torchserve_lite.ipc.messages import Call, Cancel, Chunk, FromWorker, Load, Loaded, LoadFailure, Predict, Result
from torchserve_lite.ipc.stages import StageMarker

_STOP_GRACE = 5.0  # seconds a worker gets to end by itself after its link is closed
_DRAIN = 2.0
_LOADING = 0  # stands for a batch number before the first batch

log = logging.getLogger(__name__)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(FromWorker).decode


class ChildHandle:
    """What a launcher knows about the process it started."""

    def __init__(self, pid: int, exit_code: asyncio.Future[int]) -> None:
        self.pid = pid
        self.exit_code = exit_code  # negative: the signal that ended it

    def kill(self) -> None:
        if not self.exit_code.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


StartChild = Callable[[socket.socket, StageMarker, LogPipe, LogPipe], Awaitable[ChildHandle]]


class ProcessWorker:
    """The parent's view of one worker process. Use as an async context manager: left means gone."""

    def __init__(self, name: str, start: StartChild, threads: Callable[[], int], special_line: LineReader) -> None:
        self._name = name
        self._start = start
        self._threads = threads
        self._frames = AsyncFrames(self._arrived, self._link_closed)
        self._inboxes: dict[int, asyncio.Queue[FromWorker | None]] = {_LOADING: asyncio.Queue()}
        self._places: dict[Job, tuple[int, int]] = {}  # running jobs: batch and index in it
        self._unbegun: set[Job] = set()  # jobs of a batch that it did not live to take up
        self._stage = StageMarker.create()
        self._stdout = LogPipe(f"{name}-stdout", logging.INFO, special_line)
        self._stderr = LogPipe(f"{name}-stderr", logging.WARNING, special_line)
        self._child: ChildHandle | None = None
        self._died: asyncio.Future[WorkerDied] = asyncio.get_running_loop().create_future()
        self._obituary: asyncio.Task[None] | None = None
        self._stopped_for = ""  # why we killed it, when we did
        self._grace: asyncio.TimerHandle | None = None
        self._batch = 0
        self.pid: int | None = None

    async def __aenter__(self) -> ProcessWorker:
        try:
            self._child = await self._started()
        except BaseException as error:
            self._release()
            if isinstance(error, OSError | EOFError):  # no such interpreter, no memory or descriptors, no fork server
                raise LoadFailed(f"The worker's process could not be started: {error}") from error
            raise
        self.pid = self._child.pid
        self._stdout.child_has_it()
        self._stderr.child_has_it()
        self._obituary = asyncio.create_task(self._write_obituary(self._child))  # ends with the process
        return self

    async def _started(self) -> ChildHandle:
        ours, theirs = socket.socketpair()
        with theirs:
            await self._stdout.open()
            await self._stderr.open()
            await asyncio.get_running_loop().create_connection(lambda: self._frames, sock=ours)
            return await self._start(theirs, self._stage, self._stdout, self._stderr)

    async def __aexit__(self, *exc_info: object) -> None:
        assert self._child is not None
        self._frames.close()
        try:
            await asyncio.wait([self._child.exit_code], timeout=_STOP_GRACE if exc_info[0] is None else 0)
        finally:
            self._child.kill()
            if self._obituary is not None:
                await self._obituary
            self._release()

    async def load(self, message: Load, timeout: float) -> None:
        """LoadFailed with the handler's traceback, or when ``timeout`` seconds pass."""
        self._frames.send(_encoded(message))
        try:
            async with asyncio.timeout(timeout):
                answer = await self._next_message(_LOADING)
        except TimeoutError:
            stage = self._stage.read().name
            raise LoadFailed(f"The model did not load within startupTimeout={timeout:g} s (it was {stage}).") from None
        except WorkerDied as death:
            last = "; ".join(line for line in self._stderr.last_lines()[-3:] if line.strip())
            fault = f"The worker ended while loading the model: {death.cause} {last}".rstrip()
            raise LoadFailed(fault, out_of_memory=death.status == 507) from None
        if isinstance(answer, LoadFailure):
            raise LoadFailed(answer.fault, answer.traceback, out_of_memory=answer.out_of_memory)
        assert isinstance(answer, Loaded)

    async def predict(self, batch: Sequence[Job]) -> AsyncGenerator[Update, None]:
        number = self._begin(batch)
        try:
            while True:
                update = await self._next_message(number)
                if fault := _misfit(update, len(batch)):
                    self._refuse(fault)
                    continue
                if isinstance(update, Chunk | Result):
                    yield update
                if isinstance(update, Result):
                    return
        finally:
            if self._died.done() and self._stage.read().batch < number:
                self._unbegun.update(batch)
            del self._inboxes[number]
            for job in batch:
                del self._places[job]

    def _begin(self, batch: Sequence[Job]) -> int:
        self._batch += 1
        self._inboxes[self._batch] = asyncio.Queue()
        self._places.update({job: (self._batch, index) for index, job in enumerate(batch)})
        now = asyncio.get_running_loop().time()
        self._frames.send(_encode(Predict(self._batch, tuple([_call(job, now) for job in batch]), self._threads())))
        return self._batch

    def cancel(self, job: Job) -> None:
        if job in self._places:
            self._frames.send(_encode(Cancel(*self._places[job])))

    def never_began(self, job: Job) -> bool:
        return job in self._unbegun

    async def watch(self) -> None:
        raise await asyncio.shield(self._died)

    @property
    def death(self) -> WorkerDied | None:
        return self._died.result() if self._died.done() else None

    def doing(self) -> str:
        """What the worker was doing last, for a message: ``running inference (row 3 of its batch)``."""
        stage = self._stage.read()
        row = f" (row {stage.row} of its batch)" if stage.row >= 0 else ""
        return f"{stage.name}{row}"

    def _arrived(self, payload: bytes) -> None:
        try:
            message = _decode(payload)
        except msgspec.DecodeError as fault:
            self._refuse(str(fault))
            return
        number = message.batch if isinstance(message, Chunk | Result) else _LOADING
        inbox = self._inboxes.get(number)
        if inbox is not None:  # nobody waits for what a stopped batch still sends
            inbox.put_nowait(message)

    def _refuse(self, fault: str) -> None:
        log.error("%s sent a message that cannot be used (%s) and is stopped", self._name, fault)
        self._stop(f"It sent a message that cannot be used ({fault}) and was stopped.")

    def _link_closed(self, fault: str) -> None:
        """Its process has ended or soon will. One that lives on without its link is of no use."""
        if fault:
            self._refuse(fault)
        elif self._child is not None and not self._child.exit_code.done():
            why = "It closed its link to the server and was stopped."
            self._grace = asyncio.get_running_loop().call_later(_STOP_GRACE, self._stop, why)

    def _stop(self, why: str) -> None:
        if self._child is not None and not self._child.exit_code.done():
            self._stopped_for = why
            self._child.kill()

    async def _next_message(self, number: int) -> FromWorker:
        """WorkerDied when nothing more will come; what arrived before the end is still given."""
        inbox = self._inboxes[number]
        if inbox.empty() and self._died.done():
            raise self._died.result()
        message = await inbox.get()
        if message is None:
            raise self._died.result()
        return message

    async def _write_obituary(self, child: ChildHandle) -> None:
        code = await child.exit_code
        await asyncio.gather(self._stdout.drained(_DRAIN), self._stderr.drained(_DRAIN))
        self._frames.close()  # not earlier: what it sent before its end counts
        killed_by_kernel = code == -signal.SIGKILL and not self._stopped_for
        self._died.set_result(WorkerDied(self._stopped_for or self._cause(code), out_of_memory=killed_by_kernel))
        for inbox in self._inboxes.values():
            inbox.put_nowait(None)

    def _cause(self, code: int) -> str:
        if code >= 0:
            return f"Its process {self.pid} exited with code {code} while at {self.doing()}."
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        hint = "; the kernel does this when memory runs out" if code == -signal.SIGKILL else ""
        return f"Its process {self.pid} was ended by {name} while at {self.doing()}{hint}."

    def _release(self) -> None:
        if self._grace is not None:
            self._grace.cancel()
        self._frames.close()
        self._stdout.close()
        self._stderr.close()
        self._stage.close()


def _encoded(message: Load) -> bytes:
    try:
        return _encode(message)
    except (OverflowError, RecursionError, TypeError, ValueError) as fault:
        raise LoadFailed(f"model-config.yaml holds a value that workers cannot be given: {fault}") from fault


def _misfit(update: FromWorker, calls: int) -> str:
    """What is wrong with an update for a batch of so many calls; a handler may have written to the link itself."""
    if isinstance(update, Chunk) and not 0 <= update.index < calls:
        return f"a chunk for request {update.index} of {calls}"
    if isinstance(update, Result) and len(update.replies) != calls:
        return f"{len(update.replies)} answers for {calls} requests"
    return ""


def _call(job: Job, now: float) -> Call:
    request = job.request
    return Call(
        request.id,
        request.verb,
        request.parts,
        request.headers,
        request.envelope,
        job.remaining(now),
        request.trace_context,
    )
