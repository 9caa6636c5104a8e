"""A stop waits for what clients wait for, until its deadline, and for nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import aiohttp
import psutil
import pytest

from tests.e2e.server import Server, running, write_model

# Tells through the pipe that its path is sent that it runs, and does not come back.
ASLEEP = """
import pathlib, time
def handle(data, context):
    if data is None:
        return None
    with open(bytes(data[0]["body"]).decode(), "w") as pipe:
        pipe.write("running")
    time.sleep(600)
"""
IDLE = "def handle(data, context):\n    return None if data is None else [b''] * len(data)\n"
LOADING = """
import pathlib, time
def handle(data, context):
    if data is None:
        print("loading begins")
        time.sleep(600)
"""


@pytest.mark.parametrize("launcher", ["forked", "shared", "exec"])
@pytest.mark.parametrize("client", ["waits", "has left"])
async def test_running_handler_is_killed_at_the_deadline(client: str, launcher: str, tmp_path: Path) -> None:
    """It was there 45 s after SIGTERM, with ``shutdown_grace_seconds=2``."""
    store, pipe = tmp_path / "store", tmp_path / "pipe"
    write_model(store, "asleep", ASLEEP)
    os.mkfifo(pipe)
    settings = {"load_models": "asleep", "shutdown_grace_seconds": 2 if client == "waits" else 500}
    settings |= {"worker_launcher": launcher, "shutdown_linger_seconds": 0}
    async with running(tmp_path, store, settings) as server:
        asking = asyncio.create_task(server.post("/predictions/asleep", os.fsencode(pipe)))
        assert await asyncio.to_thread(pipe.read_text) == "running"
        if client == "has left":
            asking.cancel()
        await stops_with_all_its_processes(server)
        with pytest.raises(aiohttp.ClientError if client == "waits" else asyncio.CancelledError):
            await asking


@pytest.mark.parametrize("launcher", ["forked", "shared", "exec"])
async def test_worker_that_loads_is_killed_at_once(launcher: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model(store, "slow", LOADING)
    settings = {"load_models": "slow", "worker_launcher": launcher, "shutdown_grace_seconds": 500}
    async with running(tmp_path, store, settings, ready=False) as server:
        await server.line("loading begins")
        await stops_with_all_its_processes(server)


@pytest.mark.parametrize("launcher", ["forked", "shared", "exec"])
async def test_worker_that_stands_still_is_killed_though_the_deadline_is_far(launcher: str, tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model(store, "idle", IDLE)
    settings = {"load_models": "idle", "worker_launcher": launcher, "shutdown_grace_seconds": 500}
    async with running(tmp_path, store, settings) as server:
        for pid in await server.worker_pids("idle"):
            os.kill(pid, signal.SIGSTOP)
        await stops_with_all_its_processes(server)


async def stops_with_all_its_processes(server: Server) -> None:
    family = server.family()
    assert await server.stop() == 0
    _, alive = await asyncio.to_thread(psutil.wait_procs, family[1:], timeout=30)
    assert not alive
