"""One request under torch's profiler, because its client asks for that."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

from torchserve_lite.worker.log_lines import report

_free = threading.Lock()  # torch has one profiler a process, and a coroutine handler may be at several requests


@contextlib.contextmanager
def profiled(file: str, context: Any) -> Iterator[None]:
    """What runs meanwhile is profiled, with a region for each step that the handler marks, and ``file`` has it at the
    end in the form that Chrome's tracing, Perfetto and TensorBoard read. A request that cannot be profiled is answered
    all the same."""
    reason = ""
    if os.environ.get("ENABLE_TORCH_PROFILER"):  # then BaseHandler has the profiler
        reason = "ENABLE_TORCH_PROFILER profiles all requests."
    elif not _free.acquire(blocking=False):
        reason = "another one of this worker is just now."
    if reason:
        report(logging.WARNING, f"The request is not profiled: {reason}")
        yield
        return
    from torch.profiler import profile, record_function  # hardly any request is

    mark = context.mark_stage
    try:
        with contextlib.ExitStack() as region, profile(record_shapes=True) as profiler:

            def mark_region(stage: str, row: int = -1) -> None:
                mark(stage, row)
                region.close()
                region.enter_context(record_function(stage))

            context.mark_stage = mark_region
            try:
                yield
            finally:
                context.mark_stage = mark
                region.close()
        profiler.export_chrome_trace(f"{file}.part")
        os.replace(f"{file}.part", file)
    except OSError as error:
        report(logging.WARNING, f"The profile of the request cannot be written: {error}")
    finally:
        _free.release()
