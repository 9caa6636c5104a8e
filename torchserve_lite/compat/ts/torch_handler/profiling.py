"""One batch under torch's profiler, when `ENABLE_TORCH_PROFILER` is set."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from torch.profiler import ProfilerActivity, profile, record_function, tensorboard_trace_handler

logger = logging.getLogger(__name__)

TRACE_FOLDER = "/tmp/pytorch_profiler"

Region = Callable[[str], Any]
"""Opens a named region of the profile: ``with region("inference"): ...``"""


def profiled(run: Callable[[Region], Any], arguments: dict[str, Any], model_name: str) -> tuple[Any, Any]:
    """Runs one batch; returns its result and the profile. The ten costliest operators go to the log."""
    arguments = arguments or {
        "activities": [ProfilerActivity.CPU, ProfilerActivity.CUDA],
        "record_shapes": True,
        "on_trace_ready": tensorboard_trace_handler(f"{TRACE_FOLDER}/{model_name}"),
    }
    with profile(**arguments) as profiler:
        result = run(record_function)
    logger.info("%s", profiler.key_averages().table(sort_by="cpu_time_total", row_limit=10))
    return result, profiler
