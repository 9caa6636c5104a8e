"""Keys of config.properties and model-config.yaml, seen from where they matter: by a handler, a client, an operator."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.e2e.server import Server, running, write_model

SEEN = """
import os

def handle(data, context):
    if data is None:  # it is being loaded
        return
    names = ("HIDDEN_SECRET", "SHOWN", "TS_DECODE_INPUT_REQUEST", "TS_IPEX_ENABLE")
    found = {name: os.environ.get(name) for name in names}
    found["pixels"] = context.system_properties["limit_max_image_pixels"]
    found["gpu"] = context.system_properties["gpu_id"]
    found["body"] = type(data[0].get("body")).__name__
    return [found] * len(data)
"""
LONG = "def handle(data, context):\n    return data and ['x' * 2001] * len(data)\n"
STUCK = "import threading\n\ndef handle(data, context):\n    return data and threading.Event().wait()\n"

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("configured")
    store = folder / "store"
    write_model(store, "seen", SEEN, config="deviceType: cpu\nmaxRetryTimeoutInSec: 20\n", manifest={"handler": ""})
    write_model(store, "long", LONG, config="minWorkers: 1\nresponseTimeout: 9\njobQueueSize: 5\n")
    write_model(store, "stuck", STUCK, config="minWorkers: 1\nclientTimeoutInMills: 200\n")
    settings = {
        "enable_envvars_config": "true",
        "default_service_handler": "handler.py:handle",
        "default_workers_per_model": 2,
        "default_response_timeout": 50,
        "job_queue_size": 30,
        "initial_worker_port": 9700,
        "max_request_size": 5000,
        "max_response_size": 2000,
        "blacklist_env_vars": "HIDDEN_.*",
        "decode_input_request": "false",
        "limit_max_image_pixels": "false",
        "number_of_gpu": 0,
        "ipex_enable": "true",
        "cors_allowed_origin": "https://example.org",
    }
    environment = {"HIDDEN_SECRET": "1", "SHOWN": "1", "TS_DEFAULT_RESPONSE_TIMEOUT": "77"}
    async with running(folder, store, settings, environment=environment) as server:
        yield server


async def _described(server: Server, model: str) -> Any:
    address = next(line for line in server.lines if line.startswith("listening:") and "management" in line)
    async with server.client.get(f"{address.rpartition(' ')[2]}/models/{model}") as response:
        return (await response.json())[0]


async def test_handler_finds_what_the_configuration_says_about_it(server: Server) -> None:
    """Its archive names no handler, and its JSON body is not to be decoded."""
    status, answer = await server.post("/predictions/seen", {"a": 1}, **{"Content-Type": "application/json"})
    assert (status, answer) == (
        200,
        {
            "HIDDEN_SECRET": None,
            "SHOWN": "1",
            "TS_DECODE_INPUT_REQUEST": "false",
            "TS_IPEX_ENABLE": "true",
            "pixels": False,
            "gpu": None,
            "body": "bytearray",
        },
    )


async def test_model_that_says_nothing_has_the_servers_values(server: Server) -> None:
    """The response timeout is the environment's, which stands above the file's."""
    model = await _described(server, "seen")
    assert (model["minWorkers"], model["maxWorkers"], model["responseTimeout"]) == (2, 2, 77)
    assert (model["maxRetryTimeoutInSec"], model["jobQueueStatus"]["remainingCapacity"]) == (20, 30)


async def test_model_that_speaks_is_heard(server: Server) -> None:
    model = await _described(server, "long")
    assert (model["minWorkers"], model["responseTimeout"], model["jobQueueStatus"]["remainingCapacity"]) == (1, 9, 5)


async def test_worker_ids_count_from_initial_worker_port(server: Server) -> None:
    ids = [
        int(worker["id"])
        for name in ("seen", "long", "stuck")
        for worker in (await _described(server, name))["workers"]
    ]
    assert sorted(ids) == [9700, 9701, 9702, 9703]


async def test_answer_and_body_beyond_their_limits_are_refused(server: Server) -> None:
    assert (await server.post("/predictions/long", b"x"))[0] == 500
    assert (await server.post("/predictions/seen", b"x" * 5001))[0] == 413


async def test_client_timeout_of_a_model_is_504(server: Server) -> None:
    assert (await server.post("/predictions/stuck", b"x"))[0] == 504


async def test_cors_header_is_sent(server: Server) -> None:
    async with server.client.get(f"{server.url}/ping") as response:
        assert response.headers["access-control-allow-origin"] == "https://example.org"


async def test_archive_with_a_wrong_type_in_its_config_is_told_and_others_are_served(tmp_path: Path) -> None:
    store = tmp_path / "store"
    write_model(store, "wrong", LONG, config='minWorkers: "2"\n')
    write_model(store, "right", SEEN)
    async with running(tmp_path, store, {}) as server:
        await server.line(r'failed: wrong.*model-config.yaml has minWorkers: "2" where a whole number is expected')
        assert (await server.post("/predictions/right", b"x"))[0] == 200
