"""How a worker is started, a ``WorkerLauncher`` each: ``forked`` (default), ``shared`` (forked from one that
has loaded the model), ``exec`` (an interpreter of its own), ``inline`` (in this process)."""

from __future__ import annotations

import logging
from contextlib import AbstractAsyncContextManager

from torchserve_lite.core.models import ModelSpec
from torchserve_lite.engine.interface import Worker, WorkerLauncher
from torchserve_lite.engine.launchers.exec import ExecLauncher
from torchserve_lite.engine.launchers.forked import ForkedLauncher
from torchserve_lite.engine.launchers.inline import InlineLauncher
from torchserve_lite.engine.launchers.loading import ProcessSetup
from torchserve_lite.engine.launchers.shared import SharedLauncher
from torchserve_lite.engine.slot import Slot

log = logging.getLogger(__name__)


def launcher(setup: ProcessSetup) -> WorkerLauncher:
    """Starts each model in its own way, or in the configured one. A model with an interpreter of its own is always
    executed by that, also where handlers run in this process (``debug=true``), which has another one."""
    forked = ForkedLauncher(setup)
    launchers: dict[str, WorkerLauncher] = {
        "forked": forked,
        "shared": SharedLauncher(setup, forked),
        "exec": ExecLauncher(setup),
        "inline": InlineLauncher(setup),
    }

    def launch(spec: ModelSpec, slot: Slot) -> AbstractAsyncContextManager[Worker]:
        name = spec.launcher or setup.config.launcher
        if name in ("forked", "shared") and setup.interpreter(spec):
            name = "exec"
        elif name == "inline" and setup.locate(spec).python:
            log.warning("Model %s runs in an interpreter of its own and not in the server: it has useVenv.", spec.key)
            name = "exec"
        return launchers[name](spec, slot)

    return launch
