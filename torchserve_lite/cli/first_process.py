"""What process 1 of a container has to do besides: hand signals on, and take in processes that nobody waits for.

The kernel drops a signal to process 1 that it has no handler for, so a SIGTERM in the first moments of a start would be
lost; and a process whose parent has ended becomes its child, and stays a zombie until it is waited for. Small programs
do this (tini, dumb-init), which an image may lack and its ``command:`` may pass by.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

_HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def behind_first_process(serve: Callable[[], int]) -> int:
    """The result of ``serve``. As process 1 we run it in a child, and return when that has ended."""
    if os.getpid() != 1:
        return serve()
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDED_ON)  # until there is somebody to hand them on to
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # a terminal's Ctrl-C comes from us, and not from the terminal as well
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)
        return serve()

    def hand_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    for number in _HANDED_ON:
        signal.signal(number, hand_on)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDED_ON)
    ended = status = 0
    while ended != child:
        ended, status = os.wait()
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code  # as a shell has it
