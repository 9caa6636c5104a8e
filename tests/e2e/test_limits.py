"""The server uses what the operator allows it; a handler finds the limits as the operator set them."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.e2e.server import PATIENCE, running, write_model

HANDLER = """
import resource

def handle(data, context):
    return None if data is None else [list(resource.getrlimit(resource.RLIMIT_NOFILE))]
"""
COLLECTS = """
import gc

def handle(data, context):
    return None if data is None else [gc.isenabled()]
"""


async def test_more_clients_than_the_soft_limit_are_served(tmp_path: Path) -> None:
    """`ulimit -n 256` and 300 idle clients. Workers still find 256, those as well whose parents were started later."""
    write_model(tmp_path / "store", "m", HANDLER)
    allowed = [256, resource.getrlimit(resource.RLIMIT_NOFILE)[1]]
    limited = ("sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh")
    async with running(tmp_path, tmp_path / "store", {}, wrapper=limited) as server, asyncio.timeout(PATIENCE):
        address = urlsplit(server.url)
        idle = [await asyncio.open_connection(address.hostname, address.port) for _ in range(300)]
        assert await server.post("/predictions/m", b"x") == (200, allowed)
        seen = len(server.lines)
        (starter,) = psutil.Process(server.process.pid).children()
        starter.kill()
        await server.line(r"is ready \(pid", after=seen)
        assert await server.post("/predictions/m", b"x") == (200, allowed)
        for _, writer in idle:
            writer.close()


async def test_a_server_that_answers_collects_its_garbage(tmp_path: Path) -> None:
    """Until it listens its collector is off. A handler that runs in the server sees that this is over."""
    write_model(tmp_path / "store", "m", COLLECTS)
    async with running(tmp_path, tmp_path / "store", {}, flags=["--inline"]) as server:
        assert await server.post("/predictions/m", b"x") == (200, True)
