"""The process of a worker: what it is given, what it writes, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from torchserve_lite.engine.launchers.worker_logs import LineReader, LogPipe
from torchserve_lite.errors import LoadFailed, WorkerDied, WorkerKilled
from torchserve_lite.ipc.frames import AsyncFrames
from torchserve_lite.ipc.stages import Stage, StageMarker

_STOP_GRACE = 5.0  # seconds a worker gets to end by itself after its link is closed
_DRAIN = 2.0


def signal_name(number: int) -> str:
    return signal.Signals(number).name if number in signal.valid_signals() else f"signal {number}"


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


class ChildProcess:
    """An async context manager: entered, the process runs, with ``frames`` as its link; left, it is gone.

    ``died`` is settled when it has ended and all that it wrote has been read.
    """

    def __init__(
        self,
        name: str,
        start: StartChild,
        frames: AsyncFrames,
        metric_line_parser: LineReader,
        start_timeout: float,
        start_waits_for: Callable[[], str],
    ) -> None:
        self.pid: int | None = None
        self.died: asyncio.Future[WorkerDied] = asyncio.get_running_loop().create_future()
        self._name = name
        self._start = start
        self._frames = frames
        self._metric_line_parser = metric_line_parser
        self._start_timeout = start_timeout
        self._start_waits_for = start_waits_for
        self._resources = AsyncExitStack()
        self._stopped_for = ""  # why we killed it, when we did
        self._grace: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> ChildProcess:
        """LoadFailed when there is no such interpreter, no memory or descriptors left, or no answer in time."""
        async with AsyncExitStack() as resources:
            try:
                await self._open(resources)
            except TimeoutError:
                limit = f"startupTimeout={self._start_timeout:g} s"
                why = f" ({reason})" if (reason := self._start_waits_for()) else ""
                raise LoadFailed(f"The worker's process did not start within {limit}{why}.") from None
            except (OSError, EOFError) as error:
                raise LoadFailed(f"The worker's process could not be started: {error}") from error
            self._resources = resources.pop_all()
        return self

    async def _open(self, resources: AsyncExitStack) -> None:
        self._marker = StageMarker.create()
        resources.callback(self._marker.close)
        self._stdout = LogPipe(f"{self._name}-stdout", logging.INFO, self._metric_line_parser)
        resources.callback(self._stdout.close)
        self._stderr = LogPipe(f"{self._name}-stderr", logging.WARNING, self._metric_line_parser)
        resources.callback(self._stderr.close)
        self._stdout.open()
        self._stderr.open()
        ours, theirs = socket.socketpair()
        with theirs:
            resources.callback(self._frames.close)
            await self._connect(ours)
            async with asyncio.timeout(self._start_timeout):
                self._child = await self._start(theirs, self._marker, self._stdout, self._stderr)
        self.pid = self._child.pid
        self._stdout.close_write_end()
        self._stderr.close_write_end()
        self._exit_report = asyncio.create_task(self._report_exit())  # ends with the process

    async def _connect(self, link: socket.socket) -> None:
        """Done when left, even when cancelled: half way, only the event loop knows whether it has closed ``link``.

        A descriptor that is closed twice may be somebody else's by then: uvloop has aborted the server for that.
        """
        made = asyncio.create_task(asyncio.get_running_loop().create_connection(lambda: self._frames, sock=link))
        cancelled: asyncio.CancelledError | None = None
        while not made.done():
            try:
                await asyncio.wait([made])
            except asyncio.CancelledError as error:
                cancelled = error
        if made.exception() is not None:
            link.close()
        if cancelled is not None:
            raise cancelled
        made.result()

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

    @property
    def running(self) -> bool:
        return self.pid is not None and not self._child.exit_code.done()

    def stop(self, why: str) -> None:
        if self.running:
            self._stopped_for = why
            self._child.kill()

    def link_closed(self) -> None:
        """It has ended or soon will. One that lives on without its link is of no use."""
        if self.running:
            why = "It closed its link to the server and was stopped."
            self._grace = asyncio.get_running_loop().call_later(_STOP_GRACE, self.stop, why)

    def stage(self) -> Stage:
        """What it is doing, or did last."""
        return self._marker.read()

    def doing(self) -> str:
        """The same, for a message: ``handle (row 3 of its batch)``."""
        stage = self.stage()
        return stage.name if stage.row < 0 else f"{stage.name} (row {stage.row} of its batch)"

    def last_lines(self) -> list[str]:
        """Of what it wrote to stderr."""
        return self._stderr.last_lines()

    async def _report_exit(self) -> None:
        code = await self._child.exit_code
        self._frames.resume()  # what it sent before its end counts, and there is no more of it than a socket holds
        await asyncio.gather(self._stdout.drained(_DRAIN), self._stderr.drained(_DRAIN))
        self._frames.close()
        died = WorkerKilled if code == -signal.SIGKILL and not self._stopped_for else WorkerDied
        self.died.set_result(died(self._stopped_for or self._cause(code)))

    def _cause(self, code: int) -> str:
        if code >= 0:
            return f"Its process {self.pid} exited with code {code} while at {self.doing()}."
        hint = "; the kernel does this when memory runs out" if code == -signal.SIGKILL else ""
        return f"Its process {self.pid} was ended by {signal_name(-code)} while at {self.doing()}{hint}."
