"""The metrics of a handler, on their way to the server."""

from __future__ import annotations

from collections import deque

from torchserve_lite.ipc.messages import Metric
from torchserve_lite.worker.tracebacks import sendable_text


class CollectedMetrics:
    """Those that have been emitted since they were last taken. Any thread may add to them."""

    def __init__(self) -> None:
        self._metrics: deque[Metric] = deque()

    def add(self, name: str, kind: str, unit: str, value: float, labels: list[tuple[str, str]], ids: str) -> None:
        texts = [(sendable_text(label), sendable_text(text)) for label, text in labels]
        name, unit, ids = sendable_text(name), sendable_text(unit), sendable_text(ids)
        self._metrics.append(Metric(name, kind, unit, float(value), tuple(texts), ids))

    def take(self) -> tuple[Metric, ...]:
        """Those so far. Threads of the handler may add others meanwhile."""
        return tuple([self._metrics.popleft() for _ in range(len(self._metrics))])
