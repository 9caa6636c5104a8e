"""Workers forked from a process that has imported torch already: ready in tens of milliseconds, sharing those pages.

That process (``worker/preload.py``) runs no torch operator, so it owns no thread pool that a fork would break. It is
started before anything else, because importing torch is the longest step of a start.
"""

from __future__ import annotations

import socket
from contextlib import AbstractAsyncContextManager

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.engine.interface import Worker
from torchserve_lite.engine.launchers.child import ChildHandle
from torchserve_lite.engine.launchers.loading import ProcessSetup, loaded_worker
from torchserve_lite.engine.launchers.processes import processes
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.engine.slot import Slot
from torchserve_lite.ipc.stages import StageMarker


class ForkedLauncher:
    """A ``WorkerLauncher``."""

    def __init__(self, setup: ProcessSetup) -> None:
        self._setup = setup

    def __call__(self, spec: ModelSpec, slot: Slot) -> AbstractAsyncContextManager[Worker]:
        return loaded_worker(self._setup, spec, slot, _start, lambda: processes().forking_waits_for())


async def _start(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
    return await processes().fork([link.fileno(), stage.fd, stdout.write_end, stderr.write_end])
