"""Ten times as many requests as can be answered: as many are answered as ever, the others are refused at once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.e2e.server import Server, running, write_model
from tests.faults.wire import Answer, Client

SERVICE = 0.05  # seconds that the handler takes for a request, alone
WORKERS = 2
QUEUE = 20
TAKEN = WORKERS + QUEUE  # requests that can be in the server at once
MODEL = f"""
import time

def handle(data, context):
    if data is None:
        return None
    time.sleep({SERVICE})
    return ["served"]
"""


class Flood:
    """Clients that each send their next request when the last is answered. One that is refused comes back after
    ``pause`` seconds, so that the clients together ask for a known multiple of what can be served."""

    def __init__(self, server: Server, clients: int, pause: float) -> None:
        self._url = server.url
        self._clients = clients
        self._pause = pause
        self._over = asyncio.Event()
        self.answers: list[tuple[Answer, float]] = []

    async def run(self, seconds: float) -> float:
        """Requests served a second."""
        async with asyncio.TaskGroup() as clients:
            for number in range(self._clients):
                clients.create_task(self._ask(self._pause * number / self._clients))
            await asyncio.sleep(seconds)
            served = sum(answer.status == 200 for answer, _ in self.answers)
            self._over.set()
        return served / seconds

    async def _ask(self, after: float) -> None:
        """``after`` seconds, so that not all come in one moment: how long a machine takes over that is no promise."""
        await asyncio.sleep(after)
        client = await Client.connect(self._url)
        while not self._over.is_set():
            begun = time.perf_counter()
            client.post("/predictions/m", b"")
            answer = await client.answer()
            self.answers.append((answer, time.perf_counter() - begun))
            if answer.status != 200:
                await asyncio.sleep(self._pause)
        await client.close()


@pytest.mark.alone  # how much the machine serves, which is compared between moments
async def test_flood_is_served_as_far_as_it_can_be_and_refused_at_once_beyond(tmp_path: Path) -> None:
    """All figures are compared with figures of the same round: how fast this machine is does not matter. One round of
    three has to hold, because what else the machine does may change in the middle of one."""
    write_model(tmp_path / "store", "m", MODEL, config=f"minWorkers: {WORKERS}\nbatchSize: 1\njobQueueSize: {QUEUE}\n")
    rounds: list[tuple[float, float]] = []
    async with running(tmp_path, tmp_path / "store", {}) as server:
        while len(rounds) < 3 and not any(served >= 0.9 and wait < SERVICE for served, wait in rounds):
            rounds.append(await flooded(server))
    assert any(served >= 0.9 and wait < SERVICE for served, wait in rounds), rounds


async def flooded(server: Server) -> tuple[float, float]:
    """What part of the capacity was served, and the seconds in which 99 of 100 refusals came."""
    capacity = await Flood(server, clients=TAKEN // 2, pause=0).run(2)
    clients = 10 * TAKEN
    flood = Flood(server, clients, pause=clients / (10 * capacity))
    goodput = await flood.run(4)
    assert await server.post("/predictions/m", b"") == (200, b"served")
    refused = [answer for answer, _ in flood.answers if answer.status != 200]
    assert refused
    assert {(answer.status, int(answer.headers["retry-after"]) > 0) for answer in refused} == {(503, True)}
    waits = sorted(seconds for answer, seconds in flood.answers if answer.status != 200)
    return goodput / capacity, waits[int(len(waits) * 0.99)]
