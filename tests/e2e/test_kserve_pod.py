"""A server where KServe runs it: its ports open late and give way, and process 1 of the container does its duties."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.e2e.server import Server, running, until, write_model
from tests.gate import Gate

_WAITS = """
def handle(data, context):
    if data is None:
        open({gate!r}).read()
        return None
    return ["answered"] * len(data)
"""
_LEAVES_AN_ORPHAN = """
import subprocess
def handle(data, context):
    if data is not None:
        subprocess.run(["sh", "-c", "sleep 0 &"], check=True)
    return ["answered"] * len(data or [])
"""
_ADDRESS = "KServe's requests are taken on "


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


async def test_kserves_port_opens_once_the_models_are_ready(tmp_path: Path, store: Path) -> None:
    gate = Gate(tmp_path)
    write_model(store, "slow", _WAITS.format(gate=str(gate.path)))
    settings = {"kserve": "true", "kserve_address": "http://127.0.0.2:0", "kserve_grpc_port": 0}
    async with running(tmp_path, store, settings, ready=False) as server:
        await gate.reached()
        status, _ = await server.get("/v2/health/ready")
        assert (status, _ADDRESS in server.output) == (503, False)
        gate.open()
        server.url = (await server.line(_ADDRESS + "http")).rpartition(" ")[2].rstrip(".")
        assert await server.get("/") == (200, {"status": "alive"})
        assert await server.get("/v1/models/slow") == (200, {"name": "slow", "ready": True})
        assert await server.post("/predictions/slow", {}) == (200, b"answered")
        await server.line(_ADDRESS + "grpc")


async def test_kserves_port_is_left_to_a_neighbour_that_has_it(tmp_path: Path, store: Path) -> None:
    """A transformer in the same pod listens on 8080, and calls this server on 8085."""
    with socket.create_server(("127.0.0.1", 0)) as neighbour:
        port = neighbour.getsockname()[1]
        settings = {"kserve": "true", "kserve_address": f"http://127.0.0.1:{port}", "kserve_grpc_port": 0}
        async with running(tmp_path, store, settings) as server:
            await server.line(rf"kserve_address=http://127\.0\.0\.1:{port} cannot be used: .* reaches this server by")
            await server.line(_ADDRESS + "grpc")
            assert (await server.get("/v2/health/ready"))[0] == 200


def _own_processes() -> tuple[str, ...]:
    """A command that runs another as process 1, as a container does; skips where that is not allowed."""
    command = ("unshare", "-r", "--pid", "--fork", "--mount-proc", "--kill-child")
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode != 0:
        pytest.skip("needs a namespace of processes")
    return command


def _zombies(server: Server) -> list[psutil.Process]:
    family = psutil.Process(server.process.pid).children(recursive=True)
    return [process for process in family if process.status() == psutil.STATUS_ZOMBIE]


async def test_process_1_hands_sigterm_on_and_takes_orphans_in(tmp_path: Path, store: Path) -> None:
    write_model(store, "orphans", _LEAVES_AN_ORPHAN)
    settings = {"shutdown_linger_seconds": 0}
    async with running(tmp_path, store, settings, wrapper=_own_processes()) as server:
        (first,) = psutil.Process(server.process.pid).children()
        assert await server.post("/predictions/orphans", {}) == (200, b"answered")
        await until(lambda: not _zombies(server))
        first.terminate()
        assert await server.process.wait() == 0
        await server.line("^Stopping: ")
