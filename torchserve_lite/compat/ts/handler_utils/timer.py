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
        if not _wants_profile(getattr(self.context, "model_yaml_config", None)):
            return func(self, *args, **kwargs)
        clock = _CudaClock if _cuda_in_use() else _WallClock
        timer = clock()
        result = func(self, *args, **kwargs)
        self.context.metrics.add_time(f"ts_handler_{func.__name__}", timer.milliseconds())
        return result

    return cast(_Step, wrapper)


def _wants_profile(model_config: dict[str, Any] | None) -> bool:
    return bool(((model_config or {}).get("handler") or {}).get("profile", False))


def _cuda_in_use() -> bool:
    """A handler that has not imported torch has nothing on a GPU, and need not pay for the import."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_available()


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
