"""The worker's life: receive the model, load it, answer batches until the parent lets go."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import sys
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from torchserve_lite.ipc.frames import BlockingFrames, Frame
from torchserve_lite.ipc.messages import (
    BatchDone,
    Cancel,
    FromWorker,
    Hold,
    Load,
    Loaded,
    LoadFailure,
    Metric,
    Predict,
    ToWorker,
    decode_to_worker,
    encode,
)
from torchserve_lite.ipc.slabs import SlabFile
from torchserve_lite.ipc.stages import StageMarker
from torchserve_lite.worker import indented as indented  # which needs our msgspec, and a model may bring its own
from torchserve_lite.worker.fork_server import ForkServer
from torchserve_lite.worker.handlers import Handler, load_handler
from torchserve_lite.worker.log_lines import report
from torchserve_lite.worker.metrics import CollectedMetrics
from torchserve_lite.worker.outgoing import OutgoingAnswers
from torchserve_lite.worker.process import prepare_process, prepare_thread
from torchserve_lite.worker.stage_times import StageTimes
from torchserve_lite.worker.tracebacks import explain_failure, is_out_of_memory

if TYPE_CHECKING:
    from torchserve_lite.worker.batch import BatchRunner


def run(
    link: socket.socket,
    stage_fd: int,
    slabs_fd: int,
    *,
    own_process: bool = True,
    forks: socket.socket | None = None,
) -> None:
    """``own_process`` False: in a thread of the server, where the process' folder, signals and logging are not ours.
    ``forks``: requests for workers come over it, if what the handler has become can be forked; else it is closed."""
    with link, closing(StageMarker(stage_fd)) as marker, closing(SlabFile(slabs_fd)) as slabs:
        fork_server = None if forks is None else ForkServer(forks, link)
        WorkerLoop(BlockingFrames(link), marker, slabs, own_process=own_process, fork_server=fork_server).run()


class _OpenBatch:
    """One of many that run concurrently. ``wanted``: its calls that somebody waits for."""

    def __init__(self, wanted: set[int]) -> None:
        self.wanted = wanted
        self.task: asyncio.Task[None] | None = None  # once it has begun
        self._held: dict[int, asyncio.Event] = {}

    def is_cancelled(self, index: int) -> bool:
        return index not in self.wanted

    def room(self, index: int) -> Awaitable[Any] | None:
        """To be awaited before the next piece of this call's answer is made, when its reader is behind."""
        return self._held[index].wait() if index in self._held else None

    def hear(self, message: Cancel | Hold) -> None:
        if isinstance(message, Cancel):
            self.wanted.discard(message.index)
            if not self.wanted and self.task is not None:
                self.task.cancel()
        elif message.on:
            self._held[message.index] = asyncio.Event()
        elif message.index in self._held:
            self._held.pop(message.index).set()


class WorkerLoop:
    """One handler, one thread. One batch at a time, or many at once for a handler that is a coroutine function."""

    def __init__(
        self,
        frames: BlockingFrames,
        marker: StageMarker,
        slabs: SlabFile,
        *,
        own_process: bool,
        fork_server: ForkServer | None = None,
    ) -> None:
        self._frames = frames
        self._marker = marker
        self._slabs = slabs
        self._stage_times = StageTimes(marker.mark)
        self._own_process = own_process
        self._fork_server = fork_server
        self._cancelled: defaultdict[int, set[int]] = defaultdict(set)  # calls, by the number of their batch
        self._open: dict[int, _OpenBatch] = {}  # those that run concurrently
        self._waiting: deque[tuple[Predict, float]] = deque()  # with the time at which they were read
        self._metrics = CollectedMetrics()
        self._load_metrics: tuple[Metric, ...] = ()
        self._threads = 0

    def run(self) -> None:
        load = self._receive()
        if not isinstance(load, Load):
            return
        with closing(asyncio.new_event_loop()) as events:
            asyncio.set_event_loop(events)  # handlers may run coroutines on it in initialize
            runner = self._load(load)
            if runner is None:
                return
            if self._fork_server is not None and self._fork_server.usable:
                self._marker.mark("idle")
                self._fork_server.serve(partial(self._serve_in_fork, runner.handler))
            self._serve(runner, events)

    def _serve_in_fork(self, handler: Handler, link: socket.socket, stage_fd: int, slabs_fd: int) -> None:
        """The life of a worker whose handler has been loaded by the process that it was forked from."""
        from torchserve_lite.worker.batch import BatchRunner

        self._marker.close()
        self._slabs.close()
        begun = time.monotonic()
        with (
            link,
            closing(StageMarker(stage_fd)) as self._marker,
            closing(SlabFile(slabs_fd)) as self._slabs,
            closing(asyncio.new_event_loop()) as events,
        ):
            asyncio.set_event_loop(events)
            self._frames = BlockingFrames(link)
            load = self._receive()
            if not isinstance(load, Load):
                return
            self._marker.mark("loading")
            self._stage_times = StageTimes(self._marker.mark)
            handler.context.mark_stage = self._stage_times.mark
            self._send(Loaded(time.monotonic() - begun, self._load_metrics))
            self._serve(BatchRunner(handler, load, self._marker.mark, self._stage_times.end), events)

    def _serve(self, runner: BatchRunner, events: asyncio.AbstractEventLoop) -> None:
        if runner.is_continuous:
            self._serve_continuously(runner)
        elif runner.handler.is_async:
            events.run_until_complete(self._serve_many(runner))
        else:
            self._serve_one_by_one(runner)

    def _load(self, load: Load) -> BatchRunner | None:
        self._marker.mark("loading")
        begun = time.monotonic()
        try:
            if self._own_process:
                prepare_process(load)
            else:
                prepare_thread(load)
            if self._fork_server is None:
                self._use_threads(load.threads)
            else:
                self._fork_server.loading(load.threads)
            handler = load_handler(load, self._metrics.add, self._stage_times.mark, own_process=self._own_process)
        except (SystemExit, KeyboardInterrupt) as error:
            failure = explain_failure(error, load.spec.key.name, load.model_dir)
            report(logging.ERROR, f"The handler ends its worker while it is loaded: {failure.cause} ({failure.place})")
            raise
        except BaseException as error:
            failure = explain_failure(error, load.spec.key.name, load.model_dir, whole=load.whole_tracebacks)
            self._send(LoadFailure(failure.cause, failure.traceback, is_out_of_memory(error)))
            return None
        gc.collect()
        gc.freeze()  # the model stays for the life of the process; the collector need not walk it again
        self._load_metrics = self._metrics.take()
        if self._fork_server is not None:
            self._fork_server.loaded(handler)
            self._threads = load.threads
        self._send(Loaded(time.monotonic() - begun, self._load_metrics))
        from torchserve_lite.worker.batch import BatchRunner  # not before loading has made ``ts`` importable

        return BatchRunner(handler, load, self._marker.mark, self._stage_times.end)

    def _serve_one_by_one(self, runner: BatchRunner) -> None:
        self._stage_times.take()  # of what initialize may have tried out
        for predict, arrived in self._batches():
            self._use_threads(predict.threads)
            self._marker.begin(predict.batch)
            begun = time.monotonic()
            is_cancelled = self._cancelled[predict.batch].__contains__
            outgoing = self._outgoing(predict, is_cancelled, self._read_ahead)
            answers = runner.predict(predict.calls, outgoing.send, is_cancelled, arrived)
            outgoing.end(
                answers, BatchDone(time.monotonic() - begun, self._metrics.take(), self._stage_times.take(begun))
            )
            for batch in [batch for batch in self._cancelled if batch <= predict.batch]:
                del self._cancelled[batch]

    def _serve_continuously(self, runner: BatchRunner) -> None:
        """Requests join those that the handler is working at, and leave, between two calls of it."""
        from torchserve_lite.worker.continuous import ContinuousBatch

        live = ContinuousBatch(runner, self._metrics.take, self._frames.together)
        while live.batches or self._batch_has_come():
            self._read_ahead()
            while self._waiting:
                predict, arrived = self._waiting.popleft()
                self._use_threads(predict.threads)
                self._marker.begin(predict.batch)
                is_cancelled = self._cancelled[predict.batch].__contains__
                live.join(predict, arrived, self._outgoing(predict, is_cancelled), is_cancelled)
            live.step()
            for batch in self._cancelled.keys() - live.batches - {predict.batch for predict, _ in self._waiting}:
                del self._cancelled[batch]

    async def _serve_many(self, runner: BatchRunner) -> None:
        # A thread of its own waits for the socket: the handler's blocking code, and what it does in the loop's threads,
        # must not keep it from being read. All that has come is handed over at once: where each turn of the event loop
        # takes long, a message a turn would leave requests unread until the parent takes the worker for hung.
        receiver = ThreadPoolExecutor(1, "link")
        receive = partial(asyncio.get_running_loop().run_in_executor, receiver, self._receive_all)
        try:
            async with asyncio.TaskGroup() as batches:
                while messages := await receive():
                    for message in messages:
                        if isinstance(message, Predict):
                            self._open[message.batch] = _OpenBatch(set(range(len(message.calls))))
                            batches.create_task(self._answer_concurrently(runner, message))
                        elif isinstance(message, Cancel | Hold) and message.batch in self._open:
                            self._open[message.batch].hear(message)
        finally:
            receiver.shutdown(wait=False)  # a handler's sys.exit leaves it waiting

    async def _answer_concurrently(self, runner: BatchRunner, predict: Predict) -> None:
        self._use_threads(predict.threads)
        self._marker.begin(predict.batch)
        begun = time.monotonic()
        batch = self._open[predict.batch]
        batch.task = asyncio.current_task()
        outgoing = self._outgoing(predict, batch.is_cancelled)
        stage_times = StageTimes(self._marker.mark)
        answers = await runner.predict_concurrently(
            predict.calls, outgoing.send, batch.is_cancelled, room=batch.room, stage_times=stage_times
        )
        del self._open[predict.batch]
        outgoing.end(answers, BatchDone(time.monotonic() - begun, self._metrics.take(), stage_times.take(begun)))

    def _batches(self) -> Iterator[tuple[Predict, float]]:
        """Each batch with the time at which it was read.

        What was sent while another batch ran lies in the socket until that ends, so all that has arrived is read before
        a batch begins: calls of it that nobody waits for any more never reach the handler. Those whose time ran out in
        the socket are among them. When they arrived there nobody here can know, but the parent, which has each
        request's timer, cancels a request when its time is over.
        """
        while self._batch_has_come():
            self._read_ahead()
            yield self._waiting.popleft()

    def _batch_has_come(self) -> bool:
        """Waits for one; False when the parent has let go."""
        self._marker.mark("idle")
        while not self._waiting:
            message = self._receive()
            if message is None:
                return False
            self._note(message)
        return True

    def _read_ahead(self) -> None:
        """Takes in what the parent has sent meanwhile: cancellations count at once, the next batch waits."""
        while (frame := self._frames.receive_now()) is not None:
            self._note(self._decoded(frame))

    def _note(self, message: ToWorker) -> None:
        if isinstance(message, Cancel):
            self._cancelled[message.batch].add(message.index)
        elif isinstance(message, Predict):
            self._waiting.append((message, time.monotonic()))

    def _receive(self) -> ToWorker | None:
        frame = self._frames.receive()
        return None if frame is None else self._decoded(frame)

    def _receive_all(self) -> list[ToWorker]:
        """Waits for a message, and takes those that have come behind it; none at all when the parent has let go."""
        message = self._receive()
        messages = [] if message is None else [message]
        while messages and (frame := self._frames.receive_now()) is not None:
            messages.append(self._decoded(frame))
        return messages

    def _decoded(self, frame: Frame) -> ToWorker:
        """With the payloads that lie in slabs."""
        message = decode_to_worker(frame)
        if isinstance(message, Predict):
            for place in message.in_slabs:
                message.calls[place.call].parts[place.part].data = self._slabs.read(place.begin, place.length)
                self._frames.keep_memory(place.length)
        return message

    def _outgoing(
        self, predict: Predict, is_cancelled: Callable[[int], bool], look_ahead: Callable[[], None] = lambda: None
    ) -> OutgoingAnswers:
        places = {place.call: place for place in predict.in_slabs if place.part == 0}
        return OutgoingAnswers(
            predict.batch, self._frames, is_cancelled, look_ahead, slabs=self._slabs, in_slabs=places
        )

    def _send(self, message: FromWorker) -> None:
        self._frames.send(encode(message))

    def _use_threads(self, threads: int) -> None:
        if threads and threads != self._threads and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
            self._threads = threads
