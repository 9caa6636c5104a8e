"""Workers forked from a process that has imported torch already: ready in tens of milliseconds, sharing those pages.

That process (``worker/preload.py``) runs no torch operator, so it owns no thread pool that a fork would break. It is
started before anything else, because importing torch is the longest step of a start.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import pkgutil
import socket
import sys
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager

from torchserve_lite.core.models import ModelKey, ModelSpec
from torchserve_lite.engine.interface import Worker
from torchserve_lite.engine.launchers.child import ChildHandle, StartChild
from torchserve_lite.engine.launchers.loading import ProcessSetup, loaded_worker
from torchserve_lite.engine.launchers.processes import AlreadyLoaded, processes
from torchserve_lite.engine.launchers.worker_logs import LogPipe
from torchserve_lite.engine.slot import Slot
from torchserve_lite.ipc.preloading import python_command
from torchserve_lite.ipc.stages import StageMarker

log = logging.getLogger(__name__)


class ForkedLauncher:
    """A ``WorkerLauncher``. A model that brings a module of its own under the name of one that a fork would have is
    executed instead: its handler must find its own."""

    def __init__(self, setup: ProcessSetup) -> None:
        self._setup = setup
        self._told: dict[ModelKey, str] = {}

    def __call__(self, spec: ModelSpec, slot: Slot) -> AbstractAsyncContextManager[Worker]:
        return loaded_worker(self._setup, spec, slot, self.starting(spec), lambda: processes().forking_waits_for())

    def starting(self, spec: ModelSpec, forks: socket.socket | None = None) -> StartChild:
        """``forks`` is handed to a process that is forked, not to one that is executed."""

        async def start(link: socket.socket, stage: StageMarker, stdout: LogPipe, stderr: LogPipe) -> ChildHandle:
            descriptors = self._setup.descriptors(link, stage, stdout, stderr)
            more = [] if forks is None else [forks.fileno()]
            brought = await asyncio.to_thread(_modules_in, self._setup.import_folders(spec))
            try:
                return await processes().fork([*descriptors, *more], unless_loaded=brought)
            except AlreadyLoaded as error:
                self._tell(spec.key, brought[error.index])
            except OSError as error:
                if error.errno != errno.E2BIG:  # too many modules to ask about
                    raise
            return await processes().execute(python_command(sys.executable, "run_worker"), descriptors)

        return start

    def _tell(self, key: ModelKey, module: str) -> None:
        """Once for each model, not for each worker."""
        if self._told.get(key) != module:
            self._told[key] = module
            log.info(
                "Model %s brings its own %s, so each of its workers imports everything for itself: starts take "
                "seconds longer, and no memory is shared between them.",
                key,
                module,
            )


def _modules_in(folders: Sequence[str]) -> list[str]:
    """The top-level modules that imports find there. A folder without ``__init__`` is not one as long as there is a
    package of its name anywhere."""
    found = sorted({module.name for module in pkgutil.iter_modules(folders)})
    for folder in folders:
        sys.path_importer_cache.pop(folder, None)  # models come and go
    return found
