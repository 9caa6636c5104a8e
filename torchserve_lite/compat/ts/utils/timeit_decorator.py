"""``timeit``: prints how long a function took."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any


def timeit(func: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(func)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return func(*args, **kwargs)
        finally:
            print(f"func: {func.__name__} took {(time.perf_counter() - start) * 1000:.2f} ms")

    return wrapper
