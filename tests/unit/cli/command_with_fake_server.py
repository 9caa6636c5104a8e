"""Runs a command as its console script would, with a server that does what FAKE_SERVER says instead of serving."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from types import ModuleType

from torchserve_lite.config.settings import Config
from torchserve_lite.core.progress import StartupProgress
from torchserve_lite.errors import ConfigurationError


def run(config: Config, progress: StartupProgress, console: logging.Handler) -> int:
    behaviour = os.environ["FAKE_SERVER"]
    if behaviour == "refuses":
        raise ConfigurationError("inference_address=http://127.0.0.1:1 cannot be used: taken")
    if behaviour == "crashes":
        os._exit(3)
    if behaviour == "fails when it listens":
        progress.listening({"inference": "http://127.0.0.1:1"})
        raise ConfigurationError("model_store=/gone cannot be read")
    for level, message in ((logging.INFO, "a line of no weight"), (logging.WARNING, "a warning")):
        console.handle(logging.makeLogRecord({"levelno": level, "msg": message}))
    return _serve(progress)


def _serve(progress: StartupProgress) -> int:
    stop, noted = socket.socketpair()  # a signal that another thread gets wakes no lock that this one waits for
    noted.setblocking(False)
    signal.set_wakeup_fd(noted.fileno())
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    progress.listening({"inference": "http://127.0.0.1:1", "management": "http://127.0.0.1:1"})
    progress.loading(["m"])
    progress.model_ready("m", "1.0", 1, 0.5)
    progress.started(1.0)
    stop.recv(1)
    progress.stopping()
    return 0


def _fake(name: str, **attributes: object) -> None:
    module = ModuleType(name)
    vars(module).update(attributes)
    sys.modules[name] = module


if __name__ == "__main__":
    _fake("torchserve_lite.server", run=run)
    _fake("torchserve_lite.engine.launchers")
    _fake("torchserve_lite.ipc.preloading", start_preloading=lambda: print("preloading"))
    from torchserve_lite import cli

    commands = {"torchserve": cli.torchserve, "torchserve-lite": cli.main}
    sys.exit(commands[sys.argv[1]](sys.argv[2:]))
