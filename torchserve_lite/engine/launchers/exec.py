"""Workers in an interpreter of their own: per-model virtual environments, systems without fork, or by configuration."""

from __future__ import annotations

import socket
import sys
from contextlib import AbstractAsyncContextManager

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.engine.interface import Worker
from torchserve_lite.engine.launchers.child import ChildHandle
from torchserve_lite.engine.launchers.loading import ProcessSetup, loaded_worker
from torchserve_lite.engine.launchers.processes import processes
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.engine.slot import Slot
from torchserve_lite.ipc.preloading import python_command
from torchserve_lite.ipc.stages import StageMarker


class ExecLauncher:
    """A ``WorkerLauncher``."""

    def __init__(self, setup: ProcessSetup) -> None:
        self._setup = setup

    def __call__(self, spec: ModelSpec, slot: Slot) -> AbstractAsyncContextManager[Worker]:
        async def start(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
            command = python_command(self._setup.interpreter(spec) or sys.executable, "run_worker")
            return await processes().execute(command, self._setup.descriptors(link, stage, stdout, stderr))

        return loaded_worker(self._setup, spec, slot, start, lambda: processes().executing_waits_for())
