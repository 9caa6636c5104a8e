"""Processes for workers, asked for and heard of: the server's end of ``ipc/starting.py``.

All of them descend from one process, which ends them when the server has gone. The server is the parent of none, so it
is told of their ends, and when it cannot be told, it sees them by itself.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

import psutil

from torchserve_lite.engine.launchers.child import ChildHandle, signal_name
from torchserve_lite.ipc.preloading import PRELOADING, StarterProcess, start_preloading
from torchserve_lite.ipc.starting import (
    ENDED,
    LOADED,
    READY,
    REFUSED,
    STARTED,
    Report,
    ReportReader,
    kill_group,
    request_fork,
    request_program,
)

_REPORT_COMES_WITHIN = 1.0  # seconds after a process has ended; else its parent is stopped, or has ended as well
_UNKNOWN = 255

log = logging.getLogger(__name__)


@cache
def processes() -> Processes:
    """Those of this process."""
    return Processes(start_preloading())


class AlreadyLoaded(Exception):
    """A fork would have one of the modules that it must not have: that with this ``index``."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class Starter:
    """A process that starts others, and who waits for its answers."""

    def __init__(self, name: str, control: socket.socket, pid: int | None = None) -> None:
        self.name = name
        self.control = control
        self.pid = pid  # None: not known yet
        self.ready = False
        self.lost = False
        self.explained = False
        self.reports = ReportReader()
        self.waiting: dict[int, asyncio.Future[StartedProcess]] = {}

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})" if self.pid else self.name

    def fail(self, cause: str) -> None:
        """Those who wait are told, and the log."""
        if not self.explained:
            log.error("%s. Its workers end with it, and are started again.", cause[:1].upper() + cause[1:])
            self.refuse(cause)

    def refuse(self, cause: str) -> None:
        """Those who wait are told."""
        self.explained = True
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_exception(EOFError(cause))
        self.waiting.clear()


class StartedProcess(ChildHandle):
    """A process that leads a group of its own, which is killed with it."""

    def __init__(self, pid: int, parent: Starter) -> None:
        self._loop = asyncio.get_running_loop()
        super().__init__(pid, self._loop.create_future())
        self.parent = parent
        self._killed = False
        self._end: int | None = None
        with suppress(OSError, AttributeError):  # it has ended already; not on every platform
            self._end = os.pidfd_open(pid)
            self._loop.add_reader(self._end, self._seen_to_end)

    def kill(self) -> None:
        if not self.exit_code.done():
            self._killed = True
            kill_group(self.pid)

    def kill_orphan(self) -> None:
        """Its parent has ended, and perhaps nobody will tell us more of it."""
        self.kill()
        self._seen_to_end()

    def ended(self, code: int) -> None:
        self._stop_looking()
        if not self.exit_code.done() and not self._loop.is_closed():  # else nobody waits for it
            self.exit_code.set_result(code)

    def _seen_to_end(self) -> None:
        self._stop_looking()
        self._loop.call_later(_REPORT_COMES_WITHIN, self._end_unreported)

    def _end_unreported(self) -> None:
        self.ended(-signal.SIGKILL if self._killed else _UNKNOWN)

    def _stop_looking(self) -> None:
        if self._end is not None:
            if not self._loop.is_closed():
                self._loop.remove_reader(self._end)
            os.close(self._end)
            self._end = None


class Processes:
    """Executes programs and forks workers. What it needs for that is started again when it has ended."""

    def __init__(self, running: StarterProcess) -> None:
        self._running = running
        self._numbers = itertools.count(PRELOADING + 1)
        self._children: dict[int, StartedProcess] = {}
        self._preloading: dict[int, Starter] = {}  # by process id, until it is known how it ended
        self._fork_servers: list[Starter] = []
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that tells us of reports
        self._take_up()

    async def execute(self, command: Sequence[str], descriptors: Sequence[int]) -> ChildHandle:
        """A program, as ``request_program`` describes it. OSError when it cannot be executed."""
        self._begin_again_if_lost()
        starter = self._executing
        try:
            return await self._ask(
                starter, lambda number: request_program(starter.control, number, command, descriptors)
            )
        except OSError as error:
            raise OSError(error.errno, error.strerror, command[0]) from None

    async def fork(
        self, descriptors: Sequence[int], unless_loaded: Sequence[str] = (), of: Starter | None = None
    ) -> ChildHandle:
        """A fork of the process that has torch in memory, or ``of`` a fork server. OSError when that cannot be,
        EOFError when it dies, AlreadyLoaded when it would have one of these modules."""
        self._begin_again_if_lost()
        starter = of or self._forking
        return await self._ask(
            starter, lambda number: request_fork(starter.control, number, descriptors, unless_loaded)
        )

    def fork_server(self, name: str, control: socket.socket, pid: int | None) -> Starter:
        """Takes requests for forks until ``leave``. It is ``lost`` when it has gone or forks none."""
        starter = Starter(name, control, pid)
        self._fork_servers.append(starter)
        while self._read(starter):
            pass
        return starter

    def is_there(self, starter: Starter) -> bool:
        while self._read(starter):
            pass
        return not starter.lost

    def waits_for(self, starter: Starter) -> str:
        """Why a fork of it is not there yet."""
        return _slow(starter)

    def leave(self, starter: Starter) -> None:
        """It ends, with all that it has started."""
        self._stop_listening(starter)
        self._fork_servers.remove(starter)
        starter.lost = True
        starter.control.close()
        starter.refuse(f"{starter} has ended")

    def executing_waits_for(self) -> str:
        """Why a program has not been executed yet."""
        return _slow(self._executing)

    def forking_waits_for(self) -> str:
        """Why a fork is not there yet."""
        return _slow(self._executing if self._forking.pid is None else self._forking)

    async def _ask(self, starter: Starter, send: Callable[[int], None]) -> ChildHandle:
        number = next(self._numbers)
        answer: asyncio.Future[StartedProcess] = asyncio.get_running_loop().create_future()
        if starter.lost:
            raise EOFError(f"{starter} has ended")
        try:
            send(number)
        except BlockingIOError as error:
            raise OSError(error.errno, f"{starter} has not taken earlier requests yet") from error
        starter.waiting[number] = answer
        self._listen()
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                answer.result().kill()
            raise

    def _take_up(self) -> None:
        pid = self._running.process.pid
        self._executing = Starter("the process that starts workers", self._running.control, pid)
        self._forking = Starter("the process that workers are forked from", self._running.forks)

    def _begin_again_if_lost(self) -> None:
        for starter in self._starters():
            while self._read(starter):
                pass
        if self._executing.lost:
            self._running.begin()
            self._take_up()
        elif self._forking.lost:
            self._running.preload()
            self._forking = Starter(self._forking.name, self._running.forks)

    def _starters(self) -> list[Starter]:
        return [self._executing, self._forking, *self._fork_servers]

    def _listen(self) -> None:
        self._loop = asyncio.get_running_loop()
        for starter in self._starters():
            if not starter.lost:
                self._loop.add_reader(starter.control.fileno(), self._read, starter)

    def _stop_listening(self, starter: Starter) -> None:
        if self._loop is not None and not self._loop.is_closed() and not starter.lost:
            self._loop.remove_reader(starter.control.fileno())

    def _read(self, starter: Starter) -> bool:
        """Takes in what has been reported; False when there is nothing more now."""
        if starter.lost:
            return False
        try:
            data = starter.control.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        for report in starter.reports.feed(data):
            self._note(starter, report)
        if not data:
            self._lose(starter)
        if not (self._children or any(each.waiting for each in self._starters())):
            for each in self._starters():  # there is nothing to hear, and the loop may end
                self._stop_listening(each)
        return bool(data)

    def _note(self, starter: Starter, report: Report) -> None:
        what, subject, value = report
        if what == READY:
            starter.ready = True
        elif what == STARTED and subject == PRELOADING:
            self._forking.pid = value
            self._preloading[value] = self._forking
        elif what == STARTED:
            child = self._children[value] = StartedProcess(value, starter)
            child.exit_code.add_done_callback(lambda _: self._forget(value, child))
            answer = starter.waiting.pop(subject)
            if answer.done():  # whoever asked has given up
                child.kill()
            else:
                answer.set_result(child)
        elif what == REFUSED and subject == PRELOADING:
            self._lose(self._forking, os.strerror(value))
        elif what == REFUSED:
            answer = starter.waiting.pop(subject)
            if not answer.done():
                answer.set_exception(OSError(value, os.strerror(value)))
        elif what == LOADED:
            answer = starter.waiting.pop(subject)
            if not answer.done():
                answer.set_exception(AlreadyLoaded(value))
        elif what == ENDED:
            if forking := self._preloading.pop(subject, None):
                self._lose(forking, _how_it_ended(forking, value))
            if ended := self._children.pop(subject, None):  # one whose parent has ended is reported by the next above
                ended.ended(value)

    def _forget(self, pid: int, child: StartedProcess) -> None:
        if self._children.get(pid) is child:  # another process may have its number by now
            del self._children[pid]

    def _lose(self, starter: Starter, how: str = "") -> None:
        """It has ended, and so do its children; they are replaced. ``how`` is known a little later."""
        if starter is self._forking:
            while self._read(self._executing):  # which process it was has been reported before
                pass
        if not starter.lost:
            self._stop_listening(starter)
            starter.lost = True
            starter.control.close()
            for child in self._children.values():
                if child.parent is starter:
                    child.kill_orphan()
            if starter is self._executing:
                self._running.process.kill()
                how = _how_it_ended(starter, self._running.process.wait())
                self._lose(self._forking, f"{self._forking} ended with its parent: {how}")
            asyncio.get_running_loop().call_later(_REPORT_COMES_WITHIN, starter.fail, f"{starter} has ended")
        if how:
            starter.fail(how)


def _how_it_ended(starter: Starter, code: int) -> str:
    when = "" if starter.ready else " before it had finished its imports"
    if code >= 0:
        return f"{starter} exited with code {code}{when}"
    return f"{starter} was ended by {signal_name(-code)}{when}"


def _slow(starter: Starter) -> str:
    with suppress(psutil.Error):
        if starter.pid and psutil.Process(starter.pid).status() == psutil.STATUS_STOPPED:
            return f"{starter} is stopped; kill -CONT {starter.pid} lets it go on"
    return f"{starter} {'does not answer' if starter.ready else 'has not finished its imports'}"
