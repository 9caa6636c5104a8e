"""A server whose descriptors run out: it answers with the cause, and serves again when they are back."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.e2e.server import Server, running, write_model

ECHO = "def handle(data, context):\n    return None if data is None else [bytes(row['body']) for row in data]\n"


@pytest.mark.parametrize("again", ["scale", "restart"])
async def test_model_without_descriptors_for_a_worker_answers_why_and_serves_when_they_are_back(
    again: str, tmp_path: Path
) -> None:
    """The slot's task ended, it stayed RESTARTING, and every request waited for ever."""
    store = tmp_path / "store"
    write_model(store, "echo", ECHO)
    settings = {"load_models": "echo"}
    async with running(tmp_path, store, settings) as server, asyncio.timeout(60):
        (pid,) = await server.worker_pids("echo")
        limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
        os.kill(pid, signal.SIGKILL)
        await server.line("could not be started")
        for _ in range(3):
            status, body = await server.post("/predictions/echo", b"7")
            assert (status, "Too many open files" in body["message"]) == (503, True)  # type: ignore[index]
        status, body = await server.get("/ping")
        assert status == 500
        assert "Too many open files" in str(body)
        resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)
        if again == "scale":
            status, body = await server.put("/models/echo?min_worker=1&synchronous=true")
            assert status == 200, body
        else:
            await serves(server)
        assert await server.post("/predictions/echo", b"7") == (200, 7)


async def test_clients_of_grpc_leave_enough_for_workers_and_for_http(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model(store, "echo", ECHO)
    limited = ("sh", "-c", 'ulimit -n 256; exec "$@"', "sh")
    async with running(tmp_path, store, {"load_models": "echo"}, wrapper=limited) as server, asyncio.timeout(60):
        listening = next(line for line in server.lines if line.startswith("listening: gRPC inference"))
        channels = [
            grpc.aio.insecure_channel(listening.rpartition("://")[2], options=[("grpc.use_local_subchannel_pool", 1)])
            for _ in range(300)
        ]
        codes = Counter([await code_of_health(channel) for channel in channels])
        assert codes == {"OK": 36, "UNAVAILABLE": 264}  # of 192 for clients a quarter, of that three quarters
        (pid,) = await server.worker_pids("echo")
        os.kill(pid, signal.SIGKILL)
        await serves(server)
        assert await server.post("/predictions/echo", b"7") == (200, 7)
        assert await code_of_health(channels[0]) == "OK"
        await asyncio.gather(*(channel.close() for channel in channels))


async def code_of_health(channel: grpc.aio.Channel) -> str:
    """OK, or the code of the failure."""
    check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
    try:
        await check(b"")
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


async def serves(server: Server) -> None:
    """Waits until the restart that goes on behind has succeeded."""
    await server.line(r"is ready \(pid", after=len(server.lines))
