"""A server that is stopped while many clients send: whoever got in has a whole answer, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from tests.e2e.server import PATIENCE, Server, running, write_model
from tests.faults.wire import Answer, Client

# A batch takes so long that jobs wait in the queue when the signal comes, or wait still when the linger time is over.
MODEL = """
import time

def handle(data, context):
    if data is None:
        return None
    time.sleep({seconds})
    return [bytes(row["body"]) for row in data]
"""
LINGER = 1.0  # seconds: the default, which leaves these clients enough where the tests share two cores
CLIENTS = 32
SLOW_CLIENTS = 2
PIPELINED = 3  # requests that a client which pipelines sends in one piece
BEFORE_THE_SIGNAL = 1250  # requests: over the twelve runs, 15,000 and those that come while the server stops
_RUNS = int(os.environ.get("STOPPING_RUNS", "1"))  # of each


class Load:
    """Clients that send one request after the other until they cannot connect any more."""

    def __init__(self, server: Server, *, keep: bool, pipelined: int) -> None:
        self._url = server.url
        self._keep = keep
        self._pipelined = pipelined
        self.answers: list[Answer] = []
        self.lost: list[str] = []
        self.enough = asyncio.Event()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                model = "slow" if number < SLOW_CLIENTS else "fast"
                clients.create_task(self._ask_until_refused(model, b"%d" % number))

    async def _ask_until_refused(self, model: str, body: bytes) -> None:
        while True:
            try:
                client = await Client.connect(self._url)
            except ConnectionRefusedError:
                return
            try:
                await self._ask_until_told_to_leave(client, model, body)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.lost.append(repr(error))
            await client.close()

    async def _ask_until_told_to_leave(self, client: Client, model: str, body: bytes) -> None:
        """One request at least; a client that does not keep its connection leaves by itself. What it has sent behind a
        request whose answer tells it to leave was never begun: no byte may come of it."""
        while True:
            client.post(f"/predictions/{model}", body, times=self._pipelined)
            for _ in range(self._pipelined):
                answer = await client.answer()
                assert answer.status != 200 or answer.body == body
                self.answers.append(answer)
                if len(self.answers) == BEFORE_THE_SIGNAL:
                    self.enough.set()
                if answer.closes:
                    assert await client.rest() == b""
                    return
            if not self._keep:
                return


@pytest.mark.parametrize("run", range(_RUNS))
@pytest.mark.parametrize(
    ("keep", "pipelined", "launcher"),
    [
        pytest.param(True, 1, "forked", id="kept connections, forked"),
        pytest.param(True, PIPELINED, "forked", id="pipelined, forked"),
        pytest.param(False, 1, "exec", id="new connections, exec"),
    ],
)
@pytest.mark.parametrize("to", ["the server", "its group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_stop_under_load_loses_no_request_and_leaves_nothing(
    number: signal.Signals, to: str, keep: bool, pipelined: int, launcher: str, run: int, tmp_path: Path
) -> None:
    """A terminal's Ctrl-C and a service manager's stop reach the workers as well. ``STOPPING_RUNS=20`` does it so many
    times."""
    store = tmp_path / "store"
    write_model(store, "slow", MODEL.format(seconds=LINGER + 0.05))
    write_model(store, "fast", MODEL.format(seconds=0.005), config="minWorkers: 2\nbatchSize: 8\nmaxBatchDelay: 5\n")
    settings = {"shutdown_linger_seconds": LINGER, "worker_launcher": launcher}
    async with running(tmp_path, store, settings) as server:
        family = server.family()
        load = Load(server, keep=keep, pipelined=pipelined)
        sending = asyncio.create_task(load.run())
        await load.enough.wait()
        (os.kill if to == "the server" else os.killpg)(server.process.pid, number)
        async with asyncio.timeout(PATIENCE):
            await sending
            assert await server.process.wait() == 0
    assert not load.lost
    assert len(load.answers) > BEFORE_THE_SIGNAL
    assert {answer.status for answer in load.answers} == {200}
    _, alive = psutil.wait_procs(family, timeout=PATIENCE)
    assert not alive
    assert [path.name for path in (tmp_path / "tmp").iterdir()] == [f"torchserve-lite-environments-{os.getuid()}"]
