"""What runs beside a server in KServe: the agent's batcher and puller, and a transformer made with KServe's SDK."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tests.e2e.conftest import DATA, ROOT
from tests.e2e.server import Server, running, write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOUBLE = """
def handle(data, context):
    return data and [2 * row for row in data]
"""


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the agent puts models."""
    return tmp_path_factory.mktemp("pulled")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(mnist_store: Path, pulled: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder, store = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("store")
    shutil.copy(mnist_store / "mnist.mar", store)
    write_model(store, "double", DOUBLE, config="{batchSize: 4, maxBatchDelay: 50, maxWorkers: 1}")
    settings = {"load_models": "all", "enable_model_api": "true", "pulled_models": str(pulled)}
    async with running(folder, store, {**settings, "default_workers_per_model": "1"}) as made:
        yield made


async def test_batcher_merges_instances_and_sends_no_headers(server: Server) -> None:
    """It counts the predictions: one for each instance, in their order."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    body = json.dumps({"instances": list(range(32))}).encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/models/double:predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    status = (await reader.readuntil(b"\r\n\r\n")).decode()
    length = next(int(line.split()[1]) for line in status.split("\r\n") if line.lower().startswith("content-length"))
    answer = json.loads(await reader.readexactly(length))
    writer.close()
    assert status.startswith("HTTP/1.1 200 ")
    assert answer == {"predictions": [2 * number for number in range(32)]}


async def test_puller_loads_a_folder_that_it_deletes_before_the_model(server: Server, pulled: Path) -> None:
    write_model(pulled, "fetched", DOUBLE)
    headers = {"Content-Type": "application/json"}
    assert (await server.post("/v2/repository/models/fetched/load", b"{}", **headers))[0] == 200
    assert await server.post("/v1/models/fetched:predict", b'{"instances": [1]}') == (200, {"predictions": [2]})
    shutil.rmtree(pulled / "fetched")
    assert await server.post("/v1/models/fetched:predict", b'{"instances": [3]}') == (200, {"predictions": [6]})
    assert (await server.post("/v2/repository/models/fetched/unload", b"{}", **headers))[0] == 200
    assert (await server.get("/v2/models/fetched/ready"))[0] == 404


@pytest.fixture(scope="module")
def clients_python() -> Path:
    """The interpreter of the clients' environment, which is made here where ``make`` has not made it."""
    made = subprocess.run(["make", "clients"], cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
    if made.returncode:
        pytest.skip(f"KServe's SDK cannot be installed, so it is NOT TESTED: {made.stderr[-500:]}")
    return ROOT / ".venv-clients" / "bin" / "python"


async def test_transformer_waits_for_its_predictor_and_asks_it(server: Server, clients_python: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:  # the SDK cannot choose one by itself
        port = probe.getsockname()[1]
    arguments = [
        "--model_name",
        "mnist",
        "--predictor_host",
        server.url.removeprefix("http://"),
        "--http_port",
        str(port),
    ]
    arguments += ["--enable_grpc", "false", "--predictor_protocol", "v1", "--enable_predictor_health_check"]
    program = ROOT / "tests" / "clients" / "transformer.py"
    process = await asyncio.create_subprocess_exec(
        clients_python, program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    url = f"http://127.0.0.1:{port}"
    picture = json.loads((DATA / "kserve_requests" / "v1_mnist.json").read_text())["instances"][0]["data"]
    try:
        async with aiohttp.ClientSession() as client:
            assert await _ready(client, f"{url}/v1/models/mnist", process)
            async with client.post(f"{url}/v1/models/mnist:predict", json={"instances": [picture, picture]}) as answer:
                assert (answer.status, await answer.json()) == (200, {"predictions": [{"digit": 2}, {"digit": 2}]})
            async with client.post(f"{url}/v1/models/mnist:predict", json={"instances": ["no picture"]}) as answer:
                assert "base64" in await answer.text()  # the SDK makes a 500 of it, and shows the reason
    finally:
        process.terminate()
        await process.communicate()


async def _ready(client: aiohttp.ClientSession, url: str, process: asyncio.subprocess.Process) -> Any:
    """Its readiness, which it knows when it has asked its predictor; asked until it listens."""
    async with asyncio.timeout(120):
        while process.returncode is None:
            try:
                async with client.get(url) as answer:
                    return (await answer.json())["ready"]
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.2)
    assert process.stdout is not None
    raise AssertionError((await process.stdout.read()).decode()[-3000:])
