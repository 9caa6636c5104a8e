"""Two hundred streams at once, of which a third of the clients leave half-way: the others are whole and in order, and
nothing is left of those that were left."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.server import PATIENCE, Server, running, until, write_model
from tests.e2e.test_grpc import clients
from tests.sse import events_in

pytestmark = pytest.mark.asyncio(loop_scope="module")

STREAMS = 200
PIECES = 40  # of each; half of them before the gate
HALF = PIECES // 2

# Four workers run 50 such requests each. One look at the gate serves all streams of a worker.
HANDLER = f"""
import asyncio
import pathlib

from ts.handler_utils.utils import send_intermediate_predict_response


class Teller:
    def initialize(self, context):
        self.looks = {{}}

    async def look(self, gate):
        while not pathlib.Path(gate).exists():
            await asyncio.sleep(0.005)

    async def handle(self, data, context):
        name, gate = bytes(data[0].get("body") or data[0].get("data")).decode().split()
        for number in range({PIECES}):
            if number == {HALF}:
                if gate not in self.looks:
                    self.looks[gate] = asyncio.ensure_future(self.look(gate))
                await asyncio.shield(self.looks[gate])
            send_intermediate_predict_response([f"{{name}} {{number}};"], context.request_ids, "", 200, context)
            await asyncio.sleep(0)
        return [f"{{name}} end;"]
"""
CONFIG = "minWorkers: 4\nmaxWorkers: 4\nbatchSize: 1\njobQueueSize: 1000\nasyncCommunication: true\n"

OpenStream = Callable[[int, Path], AsyncGenerator[bytes, None]]
Way = Callable[[Server], AbstractAsyncContextManager[OpenStream]]


@asynccontextmanager
async def over_http(server: Server) -> AsyncIterator[OpenStream]:
    """Every second one as events."""

    async def open_stream(number: int, gate: Path) -> AsyncGenerator[bytes, None]:
        headers = {"Accept": "text/event-stream"} if number % 2 else {}
        url, body = f"{server.url}/predictions/teller", f"{number} {gate}".encode()
        async with client.post(url, data=body, headers=headers) as response:
            assert response.status == 200
            async for piece in response.content.iter_any():
                yield piece

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as client:
        yield open_stream


@asynccontextmanager
async def over_grpc(server: Server) -> AsyncIterator[OpenStream]:
    """All on one connection."""
    client, _ = clients(server)

    async def open_stream(number: int, gate: Path) -> AsyncGenerator[bytes, None]:
        call = client.call("StreamPredictions", model_name="teller", input={"data": f"{number} {gate}".encode()})
        try:
            async for message in call:
                yield message.prediction
        finally:
            call.cancel()

    async with client.channel:
        yield open_stream


async def told(open_stream: OpenStream, number: int, gate: Path, half_way: asyncio.Barrier) -> str:
    """The pieces that this client has got when it leaves, or at the end."""
    received, half = "", f"{number} {HALF - 1};"
    async with aclosing(open_stream(number, gate)) as pieces:
        async for piece in pieces:
            had_half = half in received
            received += piece.decode()
            if half in received and not had_half:
                await half_way.wait()
                if number % 3 == 0:
                    break
    return "".join(event.data for event in events_in(received.encode())) or received


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Its stop waits for every request in progress, so it ends only when none was left."""
    folder = tmp_path_factory.mktemp("streams")
    write_model(folder / "store", "teller", HANDLER, config=CONFIG)
    settings = {"autoscale": "false", "shutdown_grace_seconds": 1000, "shutdown_linger_seconds": 0}
    async with running(folder, folder / "store", settings) as server:
        yield server


@pytest.mark.parametrize("way", [over_http, over_grpc])
async def test_streams_are_whole_whoever_leaves(served: Server, way: Way, tmp_path: Path) -> None:
    gate, opened = tmp_path / "gate", tmp_path / "opened"
    opened.touch()
    async with way(served) as open_stream, asyncio.timeout(PATIENCE):
        assert "end;" in await told(open_stream, 1, opened, asyncio.Barrier(1))
        workers = await served.worker_pids("teller")
        await alone(served)
        before = served.descriptors()
        half_way = asyncio.Barrier(STREAMS)
        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(told(open_stream, number, gate, half_way)) for number in range(STREAMS)]
            for leaver in reading[::3]:
                await leaver
            gate.touch()
        for number, task in enumerate(reading):
            expected = [f"{number} {piece};" for piece in [*range(PIECES), "end"]]
            assert task.result() == "".join(expected[:HALF] if number % 3 == 0 else expected)
        await alone(served)
        await until(lambda: served.descriptors() == before)
        assert await served.worker_pids("teller") == workers


async def alone(server: Server) -> None:
    """Waits until no request runs."""
    while not re.search(r'^ts_running_requests\{[^}]*"teller"[^}]*\} 0\.0$', await server.metrics(), re.M):
        pass
