"""Updates of metrics as lines of TorchServe's metrics logs, one for each (``metrics_mode=log`` and ``legacy``)."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterable, Sequence

from torchserve_lite.telemetry.families import Distribution, Family, Value

SERVER_LINES = logging.getLogger("TS_METRICS")
HANDLER_LINES = logging.getLogger("MODEL_METRICS")

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")  # a handler chooses labels, a client chooses request ids


def metric_line(
    family: Family[Value] | Family[Distribution],
    value: float,
    labels: Iterable[tuple[str, str]],
    hostname: str,
    request_ids: str = "",
) -> str:
    """``Requests2XX.Count:1.0|#Level:Host|#hostname:vm,timestamp:1795350759``. ``labels`` without the host's name."""
    dimensions = ",".join([f"{name}:{text}" for name, text in labels])
    stamp = f"{hostname},requestID:{request_ids}" if request_ids else hostname
    line = f"{family.name}.{family.unit}:{float(value)}|#{dimensions}|#hostname:{stamp},timestamp:{int(time.time())}"
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], line)


class LoggedFamily(Family[Value]):
    """One of the server's own metrics, whose last label is the host's name. Each update is a line of TS_METRICS: what
    a counter has grown by, what a gauge has become."""

    def __init__(self, name: str, kind: str, unit: str, labels: Sequence[str]) -> None:
        super().__init__(name, kind, unit, labels, Value)

    def _new(self, values: tuple[str, ...]) -> Value:
        return _LoggedValue(self, values)


class _LoggedValue(Value):
    """Looks like any other to those who update it: what they do many times a second costs nothing without a log."""

    __slots__ = ("_family", "_kept", "_values")

    def __init__(self, family: Family[Value], values: tuple[str, ...]) -> None:
        self._family = family
        self._values = values
        self._kept = 0.0

    @property
    def value(self) -> float:
        return self._kept

    @value.setter
    def value(self, value: float) -> None:
        told = round(value - self._kept, 3) if self._family.kind == "counter" else value
        self._kept = value
        *labels, (_, hostname) = zip(self._family.labels, self._values, strict=True)
        SERVER_LINES.info("%s", metric_line(self._family, told, labels, hostname))
