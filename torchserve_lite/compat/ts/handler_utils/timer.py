"""``timed``: the duration of a handler's step as a metric, when the model's config asks for it."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

_Step = TypeVar("_Step", bound=Callable[..., Any])


def timed(func: _Step) -> _Step:
    """With ``handler: {profile: true}`` in model-config.yaml, each call sets the gauge ``ts_handler_<method>`` (ms)."""

    @functools.wraps(func)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        model_config = getattr(self.context, "model_yaml_config", None) or {}
        if not (model_config.get("handler") or {}).get("profile", False):
            return func(self, *args, **kwargs)
        # A handler that has not imported torch has nothing on a GPU, and need not pay for the import.
        torch = sys.modules.get("torch")
        timer = _CudaClock() if torch is not None and torch.cuda.is_available() else _WallClock()
        result = func(self, *args, **kwargs)
        self.context.metrics.add_time(f"ts_handler_{func.__name__}", timer.milliseconds())
        return result

    return cast(_Step, wrapper)


class _WallClock:
    def __init__(self) -> None:
        self._start = time.perf_counter()

    def milliseconds(self) -> float:
        return (time.perf_counter() - self._start) * 1000


class _CudaClock:
    """Kernels run behind the Python code's back: the GPU's own events know when they began and ended."""

    def __init__(self) -> None:
        self._torch = sys.modules["torch"]
        self._start = self._event()

    def milliseconds(self) -> float:
        end = self._event()
        self._torch.cuda.synchronize()
        milliseconds: float = self._start.elapsed_time(end)
        return milliseconds

    def _event(self) -> Any:
        event = self._torch.cuda.Event(enable_timing=True)
        event.record()
        return event
