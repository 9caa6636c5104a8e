"""Workers in an interpreter of their own: per-model virtual environments, systems without fork, or by configuration."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import torchserve_lite
from torchserve_lite.core.models import ModelSpec
from torchserve_lite.engine.interface import Worker
from torchserve_lite.engine.launchers.child import ChildHandle
from torchserve_lite.engine.launchers.loading import ProcessSetup, loaded_worker
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.engine.slot import Slot
from torchserve_lite.ipc.stages import StageMarker

_ROOT = str(Path(torchserve_lite.__file__).parent.parent)
# A virtual environment need not contain us: it gets the folder we were imported from, behind its own packages.
_PROGRAM = (
    "import sys; sys.path[:1] = []; sys.path.append({root!r}); "
    "from torchserve_lite.ipc.child import run_worker; run_worker({link}, {stage})"
)


class ExecLauncher:
    """A ``WorkerLauncher``."""

    def __init__(self, setup: ProcessSetup) -> None:
        self._setup = setup

    def __call__(self, spec: ModelSpec, slot: Slot) -> AbstractAsyncContextManager[Worker]:
        async def start(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
            child = await asyncio.create_subprocess_exec(
                self._setup.interpreter(spec) or sys.executable,
                "-c",
                _PROGRAM.format(root=_ROOT, link=link.fileno(), stage=stage.fd),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout.write_end,
                stderr=stderr.write_end,
                pass_fds=(link.fileno(), stage.fd),
            )
            return ChildHandle(child.pid, asyncio.ensure_future(child.wait()))

        return loaded_worker(self._setup, spec, slot, start)
