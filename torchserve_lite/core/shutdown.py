"""The time that a stop may take."""

from __future__ import annotations

import asyncio


class Shutdown:
    """One deadline for the whole stop, ``grace`` seconds after it began: all parts of the server share it."""

    def __init__(self, grace: float = 25.0) -> None:
        self._grace = grace
        self._deadline: float | None = None

    def begin(self) -> None:
        if self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + self._grace

    def remaining(self) -> float:
        """Seconds until the deadline, 0 after it; asking begins the stop."""
        self.begin()
        assert self._deadline is not None
        return max(0.0, self._deadline - asyncio.get_running_loop().time())
