"""The time that a stop may take, and how it ends work that blocks."""

from __future__ import annotations

import asyncio
import threading

from torchserve_lite.errors import ShuttingDown


class Shutdown:
    """One deadline for the whole stop, ``grace`` seconds after it began: all parts of the server share it."""

    def __init__(self, grace: float = 25.0) -> None:
        self._grace = grace
        self._deadline: float | None = None
        self.begun = asyncio.Event()

    def begin(self) -> None:
        """Whichever part begins to stop first calls it; the others' calls change nothing."""
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._grace
            self.begun.set()

    def remaining(self) -> float:
        """Seconds until the deadline, 0 after it."""
        if self._deadline is None:
            return self._grace
        return max(0.0, self._deadline - asyncio.get_running_loop().time())


class Interruption:
    """Ends blocking work in threads, which cannot be cancelled: the work asks at each of its steps."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def interrupt(self) -> None:
        self._event.set()

    def check(self) -> None:
        """ShuttingDown when the work should end."""
        if self._event.is_set():
            raise ShuttingDown

    def wait(self, seconds: float) -> None:
        """As ``check``, after ``seconds`` or when interrupted."""
        self._event.wait(seconds)
        self.check()
