"""``MicroBatching``: a batch in slices through preprocess, inference and postprocess, so that the steps overlap."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Queue
from typing import Any

from ts.utils.util import InvalidRow

HANDLER_METHODS = ["preprocess", "inference", "postprocess"]


@dataclass(frozen=True)
class Slice:
    """Some rows of a batch on their way through the steps. After an ``error`` the remaining steps leave it alone."""

    index: int
    first_row: int
    value: Any
    done: Queue[Slice]
    error: BaseException | None = None


@dataclass(frozen=True)
class WorkerThread:
    """A thread of one step. It ends when it takes None from its queue."""

    thread: threading.Thread


def execute_call(
    in_queue: Queue[Slice | None],
    out_queue: Queue[Slice | None] | None,
    handle: Callable[[Any], Any],
    thread_local_data: threading.local,
) -> None:
    """One step's loop: every slice that comes in goes out, with a result or with the error that the step raised."""
    while (piece := in_queue.get()) is not None:
        thread_local_data.micro_batch_idx = piece.index
        if piece.error is None:
            try:
                piece = replace(piece, value=handle(piece.value))
            except BaseException as error:
                # SystemExit too: it has to reach the thread that answers, or the batch would wait for ever.
                piece = replace(piece, value=None, error=error)
        (out_queue or piece.done).put(piece)


class MicroBatching:
    """Replaces a handler's ``handle``: ``self.handle = MicroBatching(self, micro_batch_size)``.

    ``parallelism`` says how many threads a step has (one, unless given) and may be set at any time. The result is the
    same as without; an exception in a step is raised to the caller once the batch's other slices are through.
    """

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: dict[str, int] | None = None
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self.thread_local_data = threading.local()
        self.queues: dict[str, Queue[Slice | None]] = {name: Queue() for name in HANDLER_METHODS}
        self.thread_groups: dict[str, list[WorkerThread]] = {name: [] for name in HANDLER_METHODS}
        self.parallelism = parallelism or {}

    @property
    def parallelism(self) -> dict[str, int]:
        return self._parallelism

    @parallelism.setter
    def parallelism(self, parallelism: dict[str, int]) -> None:
        unknown = sorted(set(parallelism) - set(HANDLER_METHODS))
        if unknown:
            raise ValueError(f"parallelism: no such step {unknown}; the steps are {HANDLER_METHODS}")
        self._parallelism = parallelism
        for name in HANDLER_METHODS:
            self._resize(name, parallelism.get(name, 1))

    def __call__(self, data: list[Any], context: Any) -> list[Any]:
        start = time.perf_counter()
        self.handler.context = context
        if self.handler._is_describe():
            return [self.handler.describe_handle()]
        answer: list[Any]
        if self.handler._is_explain():
            answer = self.handler.explain_handle(self.handler.preprocess(data), data)
        else:
            answer = self.handle(data)
        context.metrics.add_time("HandlerTime", round((time.perf_counter() - start) * 1000, 2), None, "ms")
        return answer

    def handle(self, data: list[Any]) -> list[Any]:
        done: Queue[Slice] = Queue()
        starts = range(0, len(data), self.micro_batch_size)
        for index, row in enumerate(starts):
            rows = data[row : row + self.micro_batch_size]
            self.queues["preprocess"].put(Slice(index, row, rows, done))
        slices = sorted((done.get() for _ in starts), key=lambda piece: piece.index)
        for piece in slices:
            if isinstance(piece.error, InvalidRow):
                piece.error.row += piece.first_row  # the step counted from the start of its slice
            if piece.error is not None:
                raise piece.error
        return [row for piece in slices for row in piece.value]

    def get_micro_batch_idx(self) -> int | None:
        """Inside a step: the index of the slice that this thread works on."""
        return getattr(self.thread_local_data, "micro_batch_idx", None)

    def shutdown(self) -> None:
        """Ends all threads. Setting ``parallelism`` starts them again."""
        for name in HANDLER_METHODS:
            self._resize(name, 0)

    def _resize(self, name: str, count: int) -> None:
        """Any of a step's threads may take the None that ends one, so for fewer all end and some start again."""
        group = self.thread_groups[name]
        if len(group) > count:
            for _ in group:
                self.queues[name].put(None)
            while group:
                group.pop().thread.join()
        while len(group) < count:
            group.append(self._start_thread(name))

    def _start_thread(self, name: str) -> WorkerThread:
        step = HANDLER_METHODS.index(name)
        following = self.queues[HANDLER_METHODS[step + 1]] if step + 1 < len(HANDLER_METHODS) else None

        def run_step(value: Any) -> Any:
            return getattr(self.handler, name)(value)  # looked up each time: a handler may exchange its methods

        arguments = (self.queues[name], following, run_step, self.thread_local_data)
        thread = threading.Thread(target=execute_call, args=arguments, name=f"micro-batching-{name}", daemon=True)
        thread.start()
        return WorkerThread(thread)
