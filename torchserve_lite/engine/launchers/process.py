"""A worker that is a process: one socket for messages, two pipes for its output, one page for its stage marker."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import msgspec

from torchserve_lite.archive.config_message import to_message
from torchserve_lite.config.settings import WorkerConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelSpec
from torchserve_lite.engine.interface import ModelLocator, Worker
from torchserve_lite.engine.launchers.worker_logs import LineReader, LogPipe
from torchserve_lite.engine.slot import Slot
from torchserve_lite.errors import LoadFailed, LoadOutOfMemory, WorkerDied, WorkerKilled
from torchserve_lite.ipc.frames import AsyncFrames, Frame
from torchserve_lite.ipc.messages import (
    Answers,
    Call,
    Cancel,
    FromWorker,
    Load,
    Loaded,
    LoadFailure,
    Predict,
    SentPart,
    decode_from_worker,
    encode,
)
from torchserve_lite.ipc.stages import StageMarker

_STOP_GRACE = 5.0  # seconds a worker gets to end by itself after its link is closed
_DRAIN = 2.0
_LOADING = 0  # stands for a batch number before the first batch
_UNREAD = 4  # messages of a batch that wait for its reader before the worker has to

log = logging.getLogger(__name__)


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
"""Starts the process of a worker. The descriptors stay the caller's, who closes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessSetup:
    """What every launcher is told. ``threads``: intra-op threads for a worker of a model from now on."""

    config: WorkerConfig
    locate: ModelLocator
    threads: Callable[[ModelSpec], int]
    metric_line_parser: LineReader

    def interpreter(self, spec: ModelSpec) -> str:
        """The Python that must run the model's workers; empty: any."""
        return self.locate(spec).python or self.config.python


@asynccontextmanager
async def loaded_worker(setup: ProcessSetup, spec: ModelSpec, slot: Slot, start: StartChild) -> AsyncIterator[Worker]:
    """The whole of a launcher but how a process is started: entered, its handler is loaded; left, it is gone."""
    files, config = setup.locate(spec), setup.config
    message = Load(
        model_name=spec.key.name,
        model_version=spec.key.version,
        model_dir=files.folder,
        handler=spec.handler,
        manifest=None if spec.manifest is None else dict(spec.manifest),
        model_config=dict(to_message(spec.model_config)),
        envelope=spec.envelope,
        batch_size=spec.batch.size,
        gpu_id=slot.gpu_id,
        limit_max_image_pixels=config.limit_max_image_pixels,
        decode_input_request=config.decode_input_request,
        v2_output_names=config.v2_output_names,
        max_response_size=config.max_response_size,
        threads=setup.threads(spec),
        python_path=files.python_path,
        hidden_environment=config.hidden_environment,
    )
    process = ProcessWorker(
        f"W-{slot.id}-{spec.key}",
        start,
        threads=lambda: setup.threads(spec),
        metric_line_parser=setup.metric_line_parser,
        start_timeout=spec.startup_timeout,
    )
    async with process as worker:
        await worker.load(message, spec.startup_timeout)
        yield worker


class ProcessWorker:
    """The parent's view of one worker process. Use as an async context manager: left means gone."""

    def __init__(
        self,
        name: str,
        start: StartChild,
        *,
        threads: Callable[[], int] = lambda: 0,
        metric_line_parser: LineReader = lambda line: False,
        start_timeout: float = 120.0,
    ) -> None:
        self._name = name
        self._start = start
        self._threads = threads
        self._metric_line_parser = metric_line_parser
        self._start_timeout = start_timeout
        self._frames = AsyncFrames(self._arrived, self._link_closed)
        self._inboxes: dict[int, asyncio.Queue[FromWorker | None]] = {_LOADING: asyncio.Queue()}
        self._places: dict[Job, tuple[int, int]] = {}  # running jobs: batch and index in it
        self._unbegun: set[Job] = set()  # jobs of a batch that it did not live to take up
        self._resources = AsyncExitStack()
        self._died: asyncio.Future[WorkerDied] = asyncio.get_running_loop().create_future()
        self._stopped_for = ""  # why we killed it, when we did
        self._grace: asyncio.TimerHandle | None = None
        self._paused = False
        self._batch = 0
        self.pid: int | None = None

    async def __aenter__(self) -> ProcessWorker:
        """LoadFailed when there is no such interpreter, no memory or descriptors left, or no answer in time."""
        async with AsyncExitStack() as resources:
            try:
                await self._open(resources)
            except TimeoutError:
                limit = f"startupTimeout={self._start_timeout:g} s"
                raise LoadFailed(f"The worker's process did not start within {limit}.") from None
            except (OSError, EOFError) as error:
                raise LoadFailed(f"The worker's process could not be started: {error}") from error
            self._resources = resources.pop_all()
        return self

    async def _open(self, resources: AsyncExitStack) -> None:
        self._stage = StageMarker.create()
        resources.callback(self._stage.close)
        self._stdout = LogPipe(f"{self._name}-stdout", logging.INFO, self._metric_line_parser)
        resources.callback(self._stdout.close)
        self._stderr = LogPipe(f"{self._name}-stderr", logging.WARNING, self._metric_line_parser)
        resources.callback(self._stderr.close)
        await self._stdout.open()
        await self._stderr.open()
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                await asyncio.get_running_loop().create_connection(lambda: self._frames, sock=ours)
            except BaseException:
                ours.close()
                raise
            resources.callback(self._frames.close)
            async with asyncio.timeout(self._start_timeout):
                self._child = await self._start(theirs, self._stage, self._stdout, self._stderr)
        self.pid = self._child.pid
        self._stdout.close_write_end()
        self._stderr.close_write_end()
        self._exit_report = asyncio.create_task(self._report_exit())  # ends with the process

    async def __aexit__(self, *exc_info: object) -> None:
        async with self._resources:
            self._frames.close()
            try:
                await asyncio.wait([self._child.exit_code], timeout=_STOP_GRACE if exc_info[0] is None else 0)
            finally:
                self._child.kill()
                await self._exit_report
                if self._grace is not None:
                    self._grace.cancel()

    async def load(self, message: Load, timeout: float) -> None:
        """LoadFailed with the handler's traceback, or when ``timeout`` seconds pass."""
        try:
            pieces = encode(message)
        except (OverflowError, RecursionError, TypeError, ValueError) as error:
            raise LoadFailed(f"model-config.yaml holds a value that workers cannot be given: {error}") from error
        self._frames.send(pieces)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._next_message(_LOADING)
        except TimeoutError:
            stage = self._stage.read().name
            raise LoadFailed(f"The model did not load within startupTimeout={timeout:g} s (it was {stage}).") from None
        except WorkerDied as death:
            last = "; ".join(line for line in self._stderr.last_lines()[-3:] if line.strip())
            failure = LoadOutOfMemory if isinstance(death, WorkerKilled) else LoadFailed
            raise failure(f"The worker ended while loading the model: {death.cause} {last}".rstrip()) from None
        if isinstance(answer, LoadFailure):
            raise (LoadOutOfMemory if answer.out_of_memory else LoadFailed)(answer.cause, answer.traceback)
        assert isinstance(answer, Loaded)

    async def predict(self, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        self._batch += 1
        number = self._batch
        self._inboxes[number] = asyncio.Queue()
        self._places.update({job: (number, index) for index, job in enumerate(batch)})
        now = asyncio.get_running_loop().time()
        self._frames.send(encode(Predict(number, tuple([_call(job, now) for job in batch]), self._threads())))
        unanswered = set(range(len(batch)))
        try:
            while True:
                message = await self._next_message(number)
                assert isinstance(message, Answers)
                if error := _protocol_error(message, batch, unanswered):
                    self._refuse(error)
                    continue
                for answer in message.answers:
                    if answer.last:
                        unanswered.remove(answer.index)
                        self._places.pop(batch[answer.index], None)
                yield message
                if message.done is not None:
                    return
        finally:
            if self._died.done() and self._stage.read().batch < number:
                self._unbegun.update(batch)
            del self._inboxes[number]
            for job in batch:
                self._places.pop(job, None)
            self._keep_pace()

    def unwanted(self, job: Job) -> None:
        """As the holder of running jobs: the worker need not go on for this one."""
        if job in self._places:
            self._frames.send(encode(Cancel(*self._places[job])))

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

    def _arrived(self, frame: Frame) -> None:
        try:
            message = decode_from_worker(frame)
        except msgspec.DecodeError as error:
            self._refuse(str(error))
            return
        inbox = self._inboxes.get(message.batch if isinstance(message, Answers) else _LOADING)
        if inbox is not None:  # nobody waits for what a stopped batch still sends
            inbox.put_nowait(message)
            self._keep_pace()

    def _keep_pace(self) -> None:
        """Takes nothing more from the worker while the reader of one of its batches is behind."""
        behind = not self._died.done() and any(inbox.qsize() > _UNREAD for inbox in self._inboxes.values())
        if behind != self._paused:
            self._paused = behind
            (self._frames.pause if behind else self._frames.resume)()

    def _refuse(self, error: str) -> None:
        log.error("%s sent a message that cannot be used (%s) and is stopped", self._name, error)
        self._stop(f"It sent a message that cannot be used ({error}) and was stopped.")

    def _link_closed(self, error: str) -> None:
        """Its process has ended or soon will. One that lives on without its link is of no use."""
        if error:
            self._refuse(error)
        elif self.pid is not None and not self._child.exit_code.done():
            why = "It closed its link to the server and was stopped."
            self._grace = asyncio.get_running_loop().call_later(_STOP_GRACE, self._stop, why)

    def _stop(self, why: str) -> None:
        if self.pid is not None and not self._child.exit_code.done():
            self._stopped_for = why
            self._child.kill()

    async def _next_message(self, number: int) -> FromWorker:
        """WorkerDied when nothing more will come; what arrived before the end is still given."""
        inbox = self._inboxes[number]
        if inbox.empty() and self._died.done():
            raise self._died.result()
        message = await inbox.get()
        self._keep_pace()
        if message is None:
            raise self._died.result()
        return message

    async def _report_exit(self) -> None:
        code = await self._child.exit_code
        if self._paused:  # what it sent before its end counts, and there is no more of it than a socket holds
            self._frames.resume()
        await asyncio.gather(self._stdout.drained(_DRAIN), self._stderr.drained(_DRAIN))
        self._frames.close()
        died = WorkerKilled if code == -signal.SIGKILL and not self._stopped_for else WorkerDied
        self._died.set_result(died(self._stopped_for or self._cause(code)))
        for inbox in self._inboxes.values():
            inbox.put_nowait(None)

    def _cause(self, code: int) -> str:
        if code >= 0:
            return f"Its process {self.pid} exited with code {code} while at {self.doing()}."
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        hint = "; the kernel does this when memory runs out" if code == -signal.SIGKILL else ""
        return f"Its process {self.pid} was ended by {name} while at {self.doing()}{hint}."


def _protocol_error(message: Answers, batch: Sequence[Job], unanswered: set[int]) -> str:
    """What is wrong with a message for a batch whose calls ``unanswered`` are open; a handler may have written to the
    link itself. Calls that nobody waits for need no answer."""
    left = set(unanswered)
    for answer in message.answers:
        if answer.index not in left:
            return f"an answer for request {answer.index}, which is not open"
        if answer.last:
            left.remove(answer.index)
    if message.done is not None and (missing := sum(batch[index].wanted for index in left)):
        return f"the end of a batch of which {missing} requests have no answer"
    return ""


def _call(job: Job, now: float) -> Call:
    request = job.request
    return Call(
        request.id,
        request.verb,
        tuple([SentPart(part.name, part.data, part.content_type) for part in request.parts]),
        request.headers,
        request.envelope,
        job.remaining(now),
        request.trace_context,
    )
