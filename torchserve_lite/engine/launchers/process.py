"""A worker that is a process, as its pool sees it: jobs go to it as messages over a link, and answers come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

import msgspec

from torchserve_lite.core.jobs import Job
from torchserve_lite.engine.launchers.child import ChildProcess, StartChild
from torchserve_lite.engine.launchers.protocol import refusal_of, settle
from torchserve_lite.engine.launchers.worker_logs import LineReader
from torchserve_lite.errors import LoadFailed, LoadOutOfMemory, WorkerDied, WorkerKilled
from torchserve_lite.ipc.frames import AsyncFrames, Frame
from torchserve_lite.ipc.messages import (
    Answers,
    Call,
    Cancel,
    Hold,
    InSlab,
    Load,
    Loaded,
    LoadFailure,
    Metric,
    Predict,
    SentPart,
    decode_from_worker,
    encode,
)
from torchserve_lite.ipc.slabs import Slabs

log = logging.getLogger(__name__)


class ProcessWorker:
    """A ``Worker``. Use as an async context manager: entered, its process runs (LoadFailed when it cannot be started);
    left, it is gone."""

    def __init__(
        self,
        name: str,
        start: StartChild,
        slabs: Slabs,
        *,
        threads: Callable[[], int] = lambda: 0,
        metric_line_parser: LineReader = lambda line: False,
        start_timeout: float = 120.0,
        start_waits_for: Callable[[], str] = lambda: "",
    ) -> None:
        self._name = name
        self._slabs = slabs
        self._threads = threads
        self._frames = AsyncFrames(self._arrived, self._link_closed)
        self._process = ChildProcess(name, start, self._frames, metric_line_parser, start_timeout, start_waits_for)
        self._process.died.add_done_callback(self._note_death)
        self._loop = asyncio.get_running_loop()
        self._loaded: asyncio.Future[Loaded | LoadFailure | None] = self._loop.create_future()  # None: it died
        self._batch = 0  # number of the last one
        self._running: dict[int, _RunningBatch] = {}
        self._last_begun: int | None = None  # number of the last batch that it took up, once it is dead
        self.load_metrics: tuple[Metric, ...] = ()

    async def __aenter__(self) -> ProcessWorker:
        await self._process.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._process.__aexit__(*exc_info)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    async def load(self, message: Load, timeout: float) -> None:
        """LoadFailed with the handler's traceback, or when ``timeout`` seconds pass."""
        try:
            pieces = encode(message)
        except (OverflowError, RecursionError, TypeError, ValueError) as error:
            raise LoadFailed(f"model-config.yaml holds a value that workers cannot be given: {error}") from error
        self._frames.send(pieces)
        try:
            async with asyncio.timeout(timeout):
                answer = await self._loaded
        except TimeoutError:
            stage = self._process.stage().name
            raise LoadFailed(f"The model did not load within startupTimeout={timeout:g} s (it was {stage}).") from None
        if answer is None:
            death = self._process.died.result()
            last = "; ".join(line for line in self._process.last_lines()[-3:] if line.strip())
            failure = LoadOutOfMemory if isinstance(death, WorkerKilled) else LoadFailed
            raise failure(f"The worker ended while loading the model: {death.cause} {last}".rstrip())
        if isinstance(answer, LoadFailure):
            raise (LoadOutOfMemory if answer.out_of_memory else LoadFailed)(answer.cause, answer.traceback)
        self.load_metrics = answer.metrics

    def run(self, batch: Sequence[Job], told: Callable[[Answers], None]) -> None:
        self._batch += 1
        now = self._loop.time()
        calls = tuple([_call(job, now) for job in batch])
        places = _left_in(self._slabs, calls) if self._slabs.in_use else ()
        pieces = encode(Predict(self._batch, calls, self._threads(), places))
        if (refusal := refusal_of(self._batch, len(batch), pieces)) is not None:
            self._loop.call_soon(told, refusal)
            return
        self._running[self._batch] = _RunningBatch(batch, told)
        self._frames.send(pieces)

    def pause(self) -> None:
        self._frames.pause()

    def resume(self) -> None:
        if self._process.running:
            self._frames.resume()

    def hold(self, job: Job, on: bool) -> None:
        for number, index in self._places(job):
            self._frames.send(encode(Hold(number, index, on)))

    def unwanted(self, job: Job) -> None:
        """As the holder of running jobs: the worker need not go on for this one."""
        for number, index in self._places(job):
            self._frames.send(encode(Cancel(number, index)))

    def _places(self, job: Job) -> Sequence[tuple[int, int]]:
        """The number of its batch and its index there, while the worker works at it."""
        return [
            (number, running.jobs.index(job))
            for number, running in self._running.items()
            if job in running.jobs and running.jobs.index(job) in running.unanswered
        ]

    def never_began(self, job: Job) -> bool:
        if self._last_begun is None:
            return False
        return any(job in running.jobs for number, running in self._running.items() if number > self._last_begun)

    def doing(self) -> str:
        return self._process.doing()

    async def watch(self) -> None:
        raise await asyncio.shield(self._process.died)

    @property
    def death(self) -> WorkerDied | None:
        return self._process.died.result() if self._process.died.done() else None

    def _arrived(self, frame: Frame) -> None:
        try:
            message = decode_from_worker(frame)
        except msgspec.DecodeError as error:
            self._refuse(str(error))
            return
        if not isinstance(message, Answers):
            if not self._loaded.done():  # nobody waits for what it says of its loading once more
                self._loaded.set_result(message)
            return
        if message.batch == 0:
            self._refuse("answers to a batch that there is not")
            return
        running = self._running.get(message.batch)
        if running is None:  # nobody waits for what a stopped batch still sends
            return
        if problem := settle(message, running.jobs, running.unanswered) or self._take_from_slabs(message, running):
            self._refuse(problem)
            return
        if message.done is not None:
            del self._running[message.batch]
        running.told(message)

    def _take_from_slabs(self, message: Answers, running: _RunningBatch) -> str:
        """Puts bodies into answers that lie over their requests. What is returned is wrong with them, as of
        ``settle``."""
        for index, length in message.in_slabs:
            answer = next((answer for answer in message.answers if answer.index == index and answer.last), None)
            parts = running.jobs[index].request.parts if answer is not None else ()
            body = self._slabs.over(parts[0].data, length) if parts else None
            if answer is None or body is None:
                return f"an answer of {length} bytes over request {index}, where there is no such room"
            answer.reply.body = body
        return ""

    def _refuse(self, error: str) -> None:
        log.error("%s sent a message that cannot be used (%s) and is stopped", self._name, error)
        self._process.stop(f"It sent a message that cannot be used ({error}) and was stopped.")

    def _link_closed(self, error: str) -> None:
        if error:
            self._refuse(error)
        else:
            self._process.link_closed()

    def _note_death(self, died: asyncio.Future[WorkerDied]) -> None:
        self._last_begun = self._process.stage().batch
        if not self._loaded.done():
            self._loaded.set_result(None)


class _RunningBatch:
    """``unanswered``: the places of the jobs that have not had their last answer."""

    def __init__(self, jobs: Sequence[Job], told: Callable[[Answers], None]) -> None:
        self.jobs = jobs
        self.told = told
        self.unanswered = set(range(len(jobs)))


def _left_in(slabs: Slabs, calls: Sequence[Call]) -> tuple[InSlab, ...]:
    """Takes what lies in slabs out of the calls, and tells where it is."""
    places = []
    for number, call in enumerate(calls):
        for index, part in enumerate(call.parts):
            assert not isinstance(part.data, int)
            if (place := slabs.place_of(part.data)) is not None:
                begin, room = place
                places.append(InSlab(number, index, begin, len(part.data), room))
                part.data = b""
    return tuple(places)


def _call(job: Job, now: float) -> Call:
    request = job.request
    parts = request.parts
    if len(parts) == 1:  # most have one, and a comprehension costs more than all else here
        sent: tuple[SentPart, ...] = (SentPart(parts[0].name, parts[0].data, parts[0].content_type),)
    else:
        sent = tuple([SentPart(part.name, part.data, part.content_type) for part in parts])
    return Call(
        request.id,
        request.verb,
        sent,
        msgspec.Raw(request.encoded_headers) if request.encoded_headers else request.headers,
        request.envelope,
        None if job.deadline is None else job.deadline - now,
        request.trace_context,
        request.in_pieces,
        request.profile,
    )
