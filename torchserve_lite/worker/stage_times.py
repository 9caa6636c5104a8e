"""How long a handler is at its stages, which it marks by itself (``BaseHandler`` does)."""

from __future__ import annotations

import time
from collections.abc import Callable

_TIMED = frozenset({"preprocess", "inference", "postprocess", "explain"})  # each is a label of a metric


class StageTimes:
    """Of one batch after the other. A handler that marks no stage pays for two calls that do nothing."""

    def __init__(self, mark: Callable[[str, int], None]) -> None:
        self._mark = mark
        self._stage = ""
        self._since = 0.0
        self._seconds: dict[str, float] = {}
        self._begun: dict[str, float] = {}  # when each stage began for the first time

    def mark(self, stage: str, row: int = -1) -> None:
        """The handler's ``context.mark_stage``."""
        self._mark(stage, row)
        if stage != self._stage:
            self.end()
            if stage in _TIMED:
                self._stage, self._since = stage, time.monotonic()
                self._begun.setdefault(stage, self._since)

    def end(self) -> None:
        """The handler has returned: its last stage is over."""
        if self._stage:
            seconds = time.monotonic() - self._since
            self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + seconds
            self._stage = ""

    def take(self, begun: float = 0.0) -> tuple[tuple[str, float, float], ...]:
        """Those since the last time: name, seconds, and when it began after ``begun``, a reading of the monotonic
        clock. One that came several times is added up, and began with the first."""
        self.end()
        if not self._seconds:
            return ()
        taken = tuple([(stage, seconds, self._begun[stage] - begun) for stage, seconds in self._seconds.items()])
        self._seconds, self._begun = {}, {}
        return taken
