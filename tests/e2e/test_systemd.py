"""A server as systemd starts it: what it hears of the start, the reload and the stop."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

from tests.e2e.server import PATIENCE, running, write_model

MODEL = """
import pathlib, time
while not pathlib.Path({go_on!r}).exists():
    time.sleep(0.01)

def handle(data, context):
    return None if data is None else ["fine"]
"""


class Manager:
    """systemd's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.told: list[str] = []
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._end.setblocking(False)
        self._end.bind(str(path))

    async def until(self, fact: str) -> list[str]:
        """The facts that were told before that one, since the last call."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            while fact not in self.told:
                self.told += (await loop.sock_recv(self._end, 4096)).decode().splitlines()
        before = self.told[: self.told.index(fact)]
        del self.told[: len(before) + 1]
        return before

    def close(self) -> None:
        self._end.close()


async def test_service_manager_hears_of_start_life_reload_and_stop(tmp_path: Path) -> None:
    store, go_on, pid_file = tmp_path / "store", tmp_path / "go", tmp_path / "pid"
    write_model(store, "m", MODEL.format(go_on=str(go_on)))
    manager = Manager(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
    flags = ["--pid-file", str(pid_file)]
    async with running(tmp_path, store, {}, ready=False, environment=environment, flags=flags) as server:
        await manager.until("STATUS=Loading m; ready: 0")
        before = await manager.until("WATCHDOG=1")
        assert "READY=1" not in before
        go_on.touch()
        assert "STATUS=Models ready: 1" not in await manager.until("READY=1")
        await manager.until("STATUS=Models ready: 1")
        assert pid_file.read_text() == f"{server.process.pid}\n"
        os.kill(server.process.pid, signal.SIGHUP)
        await manager.until("RELOADING=1")
        await manager.until("READY=1")
        assert await server.post("/predictions/m", b"x") == (200, b"fine")
        assert await server.stop() == 0
        await manager.until("STOPPING=1")
    manager.close()
    assert not pid_file.exists()
