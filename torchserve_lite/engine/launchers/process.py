"""A worker that is a process, as its pool sees it: jobs go to it as messages over a link, and answers come back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from torchserve_lite.core.jobs import Job
from torchserve_lite.engine.launchers.child import ChildProcess, StartChild
from torchserve_lite.engine.launchers.protocol import protocol_error, refusal_of
from torchserve_lite.engine.launchers.worker_logs import LineReader
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
    Metric,
    Predict,
    SentPart,
    decode_from_worker,
    encode,
)

_LOADING = 0  # stands for a batch number before the first batch
_UNREAD = 4  # messages of a batch that wait for its reader before the worker has to

log = logging.getLogger(__name__)


class ProcessWorker:
    """A ``Worker``. Use as an async context manager: entered, its process runs (LoadFailed when it cannot be started);
    left, it is gone."""

    def __init__(
        self,
        name: str,
        start: StartChild,
        *,
        threads: Callable[[], int] = lambda: 0,
        metric_line_parser: LineReader = lambda line: False,
        start_timeout: float = 120.0,
        start_waits_for: Callable[[], str] = lambda: "",
    ) -> None:
        self._name = name
        self._threads = threads
        self._frames = AsyncFrames(self._arrived, self._link_closed)
        self._process = ChildProcess(name, start, self._frames, metric_line_parser, start_timeout, start_waits_for)
        self._process.died.add_done_callback(self._wake_readers)
        self._inboxes: dict[int, asyncio.Queue[FromWorker | None]] = {_LOADING: asyncio.Queue()}
        self._places: dict[Job, tuple[int, int]] = {}  # running jobs: batch and index in it
        self._unbegun: set[Job] = set()  # jobs of a batch that it did not live to take up
        self._paused = False
        self._batch = 0
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
                answer = await self._next_message(_LOADING)
        except TimeoutError:
            stage = self._process.stage().name
            raise LoadFailed(f"The model did not load within startupTimeout={timeout:g} s (it was {stage}).") from None
        except WorkerDied as death:
            last = "; ".join(line for line in self._process.last_lines()[-3:] if line.strip())
            failure = LoadOutOfMemory if isinstance(death, WorkerKilled) else LoadFailed
            raise failure(f"The worker ended while loading the model: {death.cause} {last}".rstrip()) from None
        finally:
            del self._inboxes[_LOADING]  # nobody waits for what it says of its loading once more
            self._keep_pace()
        if isinstance(answer, LoadFailure):
            raise (LoadOutOfMemory if answer.out_of_memory else LoadFailed)(answer.cause, answer.traceback)
        assert isinstance(answer, Loaded)
        self.load_metrics = answer.metrics

    async def predict(self, batch: Sequence[Job]) -> AsyncGenerator[Answers, None]:
        self._batch += 1
        number = self._batch
        self._inboxes[number] = asyncio.Queue()
        self._places.update({job: (number, index) for index, job in enumerate(batch)})
        now = asyncio.get_running_loop().time()
        pieces = encode(Predict(number, tuple([_call(job, now) for job in batch]), self._threads()))
        refusal = refusal_of(number, len(batch), pieces)
        if refusal is None:
            self._frames.send(pieces)
        unanswered = set(range(len(batch)))
        try:
            if refusal is not None:
                yield refusal
                return
            while True:
                message = await self._next_message(number)
                assert isinstance(message, Answers)
                if error := protocol_error(message, batch, unanswered):
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
            if self._process.died.done() and self._process.stage().batch < number:
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
        if isinstance(message, Answers) and message.batch == _LOADING:
            self._refuse("answers to a batch that there is not")
            return
        inbox = self._inboxes.get(message.batch if isinstance(message, Answers) else _LOADING)
        if inbox is not None:  # nobody waits for what a stopped batch still sends
            inbox.put_nowait(message)
            self._keep_pace()

    def _keep_pace(self) -> None:
        """Takes nothing more from the worker while the reader of one of its batches is behind."""
        behind = self._process.running and any(inbox.qsize() > _UNREAD for inbox in self._inboxes.values())
        if behind != self._paused:
            self._paused = behind
            (self._frames.pause if behind else self._frames.resume)()

    def _refuse(self, error: str) -> None:
        log.error("%s sent a message that cannot be used (%s) and is stopped", self._name, error)
        self._process.stop(f"It sent a message that cannot be used ({error}) and was stopped.")

    def _link_closed(self, error: str) -> None:
        if error:
            self._refuse(error)
        else:
            self._process.link_closed()

    async def _next_message(self, number: int) -> FromWorker:
        """WorkerDied when nothing more will come; what arrived before the end is still given."""
        inbox = self._inboxes[number]
        if inbox.empty() and self._process.died.done():
            raise self._process.died.result()
        message = await inbox.get()
        self._keep_pace()
        if message is None:
            raise self._process.died.result()
        return message

    def _wake_readers(self, died: asyncio.Future[WorkerDied]) -> None:
        for inbox in self._inboxes.values():
            inbox.put_nowait(None)


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
