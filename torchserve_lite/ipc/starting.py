"""A process that starts others at its parent's request, and ends all of them when that parent has gone.

Two of them run beneath a server, the second a child of the first. The first has imported nothing: it executes
interpreters for workers, and forks the second. That one has imported torch, and forks workers. Each is a single thread
around one socket: requests with descriptors come in, reports of what has started and ended go out.

Whatever descends from it is its to end. As a "subreaper" (Linux) it becomes the parent of processes whose own parent
has ended, of those as well that have made themselves daemons; so nothing can get out of its sight.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import NamedTuple, NoReturn

_REQUEST = struct.Struct("=q?II")  # number, whether it is for a fork, length of the words, count of descriptors
_REPORT = struct.Struct("=iqi")
_MOST_DESCRIPTORS = 8
_MOST_TEXT = 100_000  # bytes of a request's words: a socket takes so much at once
_SET_DEATH_SIGNAL, _SET_SUBREAPER = 1, 36  # of Linux' prctl()

READY, STARTED, REFUSED, ENDED, LOADED = range(5)  # what a report says
Become = Callable[[int, Sequence[int]], NoReturn]
"""What a forked child does with its life; it is told its parent's process id and the descriptors of the request."""


class Report(NamedTuple):
    """READY; STARTED or REFUSED: the number of the request, and a process id or errno; ENDED: process id, exit code;
    LOADED: the number of the request for a fork, and which of its modules we have loaded."""

    what: int
    subject: int = 0
    value: int = 0


def request_program(control: socket.socket, number: int, command: Sequence[str], descriptors: Sequence[int]) -> None:
    """Asks for a program with ``descriptors``.

    It gets stdout and stderr, the last two, as its own. The others, and its parent's process id, are appended to its
    command as numbers.
    """
    _send(control, number, False, command, descriptors)


def request_fork(
    control: socket.socket, number: int, descriptors: Sequence[int], unless_loaded: Sequence[str] = ()
) -> None:
    """Asks for a fork with ``descriptors``. The answer is LOADED when it would have one of those modules.

    Only the process that forks knows what it has loaded: it depends on what is installed.
    """
    _send(control, number, True, unless_loaded, descriptors)


def _send(control: socket.socket, number: int, forks: bool, words: Sequence[str], descriptors: Sequence[int]) -> None:
    text = b"\0".join(os.fsencode(word) for word in words)
    if len(text) > _MOST_TEXT:
        raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
    message = _REQUEST.pack(number, forks, len(text), len(descriptors)) + text
    if socket.send_fds(control, [message], list(descriptors)) != len(message):
        raise BlockingIOError(errno.EAGAIN, "it has not taken its earlier requests yet")


class ReportReader:
    """Cuts what the socket gives into reports."""

    def __init__(self) -> None:
        self._unread = b""

    def feed(self, data: bytes) -> list[Report]:
        self._unread += data
        whole = len(self._unread) - len(self._unread) % _REPORT.size
        reports, self._unread = self._unread[:whole], self._unread[whole:]
        return [Report(*fields) for fields in _REPORT.iter_unpack(reports)]


class StartingProcess:
    """This process from now on. ``become``: what its forks do."""

    def __init__(self, control: socket.socket, become: Become) -> None:
        self._control = control
        self._become = become
        self._children: set[int] = set()
        self._woken, self._wake = os.pipe()  # a byte for each signal, so that poll() hears of them

    def serve(self, prepare: Callable[[], object] = lambda: None) -> NoReturn:
        """Requests wait until ``prepare`` has returned."""
        code = 1
        try:
            self._set_up()
            prepare()
            self._report(READY)
            poll = select.poll()
            poll.register(self._control, select.POLLIN)
            poll.register(self._woken, select.POLLIN)
            wanted = True
            while wanted:
                descriptors = [descriptor for descriptor, _ in poll.poll()]
                if self._woken in descriptors:
                    os.read(self._woken, 1024)
                    self._reap()
                if self._control.fileno() in descriptors:
                    wanted = self._answer_request()
            code = 0
        except ConnectionError:  # nobody is left to hear a report
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            self._end_descendants()
            os._exit(code)

    def _set_up(self) -> None:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_SET_SUBREAPER, 1, 0, 0, 0)
        self._control.set_inheritable(False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        # A service manager's SIGTERM reaches us as well: requests in flight must still be answered. Handlers that do
        # nothing, because ignored signals would be inherited by programs.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stay)
        # By SIGHUP the server opens its log files anew. Where it is ignored (nohup) it stays so, for workers too.
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, stay)

    def _answer_request(self) -> bool:
        """False when the parent has gone."""
        descriptors: list[int] = []
        try:
            header, descriptors, _, _ = socket.recv_fds(self._control, _REQUEST.size, _MOST_DESCRIPTORS)
            if not header:
                return False
            number, forks, length, count = _REQUEST.unpack(header)
            text = self._control.recv(length, socket.MSG_WAITALL) if length else b""
            for descriptor in descriptors:
                os.set_inheritable(descriptor, False)
            try:
                if len(descriptors) != count:
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
                words = [os.fsdecode(word) for word in text.split(b"\0")]
                if loaded := [index for index, word in enumerate(words) if forks and word in sys.modules]:
                    self._report(LOADED, number, loaded[0])
                    return True
                pid = self._fork(descriptors) if forks else _execute(words, descriptors)
            except OSError as error:
                self._report(REFUSED, number, error.errno or errno.EIO)
            else:
                self._children.add(pid)
                self._report(STARTED, number, pid)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _fork(self, descriptors: Sequence[int]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        try:  # the child leaves nothing of what this process has set up for itself
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if signal.getsignal(signal.SIGHUP) is stay:
                signal.signal(signal.SIGHUP, signal.SIG_DFL)
            self._control.close()
            os.close(self._woken)
            os.close(self._wake)
            os.setsid()
            self._become(parent, descriptors)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if pid in self._children:
                    self._children.remove(pid)
                    with suppress(ProcessLookupError, PermissionError):
                        os.killpg(pid, signal.SIGKILL)  # what a worker has started goes with it
                self._report(ENDED, pid, os.waitstatus_to_exitcode(status))

    def _end_descendants(self) -> None:
        """Those whose parents end here become ours, so at last none is left."""
        for pid in self._children:
            kill_group(pid)
        with suppress(ChildProcessError):
            while True:
                for pid in children_of(os.getpid()):
                    with suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                os.waitpid(-1, 0)

    def _report(self, what: int, subject: int = 0, value: int = 0) -> None:
        self._control.sendall(_REPORT.pack(what, subject, value))


def kill_group(leader: int) -> None:
    """SIGKILL for a process and the group that it leads or is just about to lead."""
    for kill in (os.kill, os.killpg):
        with suppress(ProcessLookupError, PermissionError):
            kill(leader, signal.SIGKILL)


def signalled_at_the_end_of(parent: int, number: signal.Signals) -> None:
    """The kernel will send us that signal when our parent ends, be it by SIGKILL. Linux only."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, int(number), 0, 0, 0)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), number)


def _execute(command: Sequence[str], descriptors: Sequence[int]) -> int:
    *named, stdout, stderr = descriptors
    for descriptor in named:
        os.set_inheritable(descriptor, True)  # they are closed here before anything else is executed
    return os.posix_spawnp(
        command[0],
        [*command, *map(str, named), str(os.getpid())],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, stdout, 1),
            (os.POSIX_SPAWN_DUP2, stderr, 2),
        ],
        setsid=True,
        setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # which Python ignores
    )


def children_of(parent: int) -> list[int]:
    children = []
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        with suppress(OSError):
            if name.isdigit():
                with open(f"/proc/{name}/stat", "rb") as file:
                    # The name of the program comes before, in parentheses, and may hold anything.
                    if int(file.read().rpartition(b")")[2].split()[1]) == parent:
                        children.append(int(name))
    return children


def stay(number: int, frame: FrameType | None) -> None:
    """A handler of signals that are not to end us."""
