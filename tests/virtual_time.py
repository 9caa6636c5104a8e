"""Tests in virtual time: an event loop that jumps to its next timer instead of sleeping until it.

``@virtual_time`` above an async test runs it on such a loop; "59 s later" is then ``await asyncio.sleep(59)`` and takes
no time. A test in which nothing can happen any more fails at once instead of hanging.
"""

from __future__ import annotations

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """``time()`` starts at 1000 s, so that no test takes zero for "never", and moves only when all tasks wait."""

    def __init__(self) -> None:
        self._now = 1000.0
        super().__init__(_JumpingSelector(self._sleep))

    def time(self) -> float:
        return self._now

    def _sleep(self, seconds: float) -> None:
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, sleep: Callable[[float], None]) -> None:
        super().__init__()
        self._sleep = sleep

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if ready := super().select(0):  # sockets and pipes whose other end is in this test, too
            return ready
        if timeout is None:
            raise AssertionError("Every task waits for something that nobody will do: in real time this would hang.")
        self._sleep(max(timeout, 0))
        return []


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            return runner.run(test(*args, **kwargs))

    return run
