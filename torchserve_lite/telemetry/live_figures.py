"""The last minutes of what every model did, a sample a second, for whoever looks at a running server."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torchserve_lite.core.models import ModelStatus
from torchserve_lite.telemetry.catalogue import ServerMetrics
from torchserve_lite.telemetry.rates import Figures, Totals, Version, figures, since, summed

_LEAST = 0.001  # seconds between two looks; a rate of less would be of nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """``at``: wall-clock seconds since the epoch, the end of the time that it is of. ``models``: those that did
    something or have something to do."""

    at: float
    total: Figures
    models: Mapping[Version, Figures]


class LiveFigures:
    """Keeps the last ``kept`` samples. Requests cost nothing more by it: a sample is the difference between two looks
    at what is counted anyway."""

    def __init__(self, metrics: ServerMetrics, statuses: Callable[[], Iterable[ModelStatus]], kept: int) -> None:
        self.samples: deque[Sample] = deque(maxlen=kept)
        self._metrics = metrics
        self._statuses = statuses
        self._looked = time.monotonic()
        self._before: dict[
            Version, Totals
        ] = {}  # also of versions that have gone: they may come back with their counts

    def look(self) -> Sample:
        """The sample of the time since the last look."""
        now = time.monotonic()
        seconds, self._looked = max(now - self._looked, _LEAST), now
        counted: dict[Version, Totals] = {}
        for status in self._statuses():
            totals = self._metrics.totals(status)
            counted[status.key] = since(self._before.get(status.key, Totals()), totals)
            self._before[status.key] = totals
        sample = Sample(
            at=time.time(),
            total=figures(summed(counted.values()), seconds),
            models={version: figures(one, seconds) for version, one in counted.items() if _is_busy(one)},
        )
        self.samples.append(sample)
        return sample


def _is_busy(counted: Totals) -> bool:
    return bool(counted.answered or counted.errors or counted.batches or counted.queued or counted.running)
