"""The server uses what the operator allows it; a handler finds the limits as the operator set them."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from pathlib import Path

from tests.e2e.server import PATIENCE, environment_for, write_config, write_model

HANDLER = """
import resource

def handle(data, context):
    return None if data is None else [list(resource.getrlimit(resource.RLIMIT_NOFILE))]
"""


async def test_more_clients_than_the_soft_limit_are_served(tmp_path: Path) -> None:
    """`ulimit -n 256` and 300 idle clients; forked workers still find 256."""
    write_model(tmp_path / "store", "m", HANDLER)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    command = f"ulimit -Sn 256; exec {sys.executable} -m torchserve_lite start --ts-config "
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-c",
        command + str(write_config(tmp_path, tmp_path / "store", {})),
        cwd=tmp_path,
        env=environment_for(tmp_path, {}),
        stdout=subprocess.PIPE,
    )
    try:
        port = await _port_when_ready(process)
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(300)]
        reader, writer = idle[-1]
        writer.write(b"POST /predictions/m HTTP/1.1\r\nHost: m\r\nContent-Length: 1\r\n\r\nx")
        async with asyncio.timeout(PATIENCE):
            answer = await reader.readuntil(b"\r\n\r\n")
            limits = await reader.readuntil(b"]")
        for _, writer in idle:
            writer.close()
    finally:
        process.terminate()
        await process.communicate()
    assert answer.startswith(b"HTTP/1.1 200")
    assert limits.split() == [b"[", b"256,", b"%d" % hard, b"]"]


async def _port_when_ready(process: asyncio.subprocess.Process) -> int:
    port = 0
    assert process.stdout is not None
    async for line in process.stdout:
        if line.startswith(b"listening: inference"):
            port = int(line.rpartition(b":")[2])
        if line.startswith(b"Model server started."):
            return port
    raise AssertionError("the server ended")
