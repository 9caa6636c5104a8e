"""A profile of one request, because its client asks for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.server import Server, running, write_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

MULTIPLIES = """
import torch
from ts.torch_handler.base_handler import BaseHandler

class Multiplies(BaseHandler):
    def initialize(self, context):
        self.device = torch.device("cpu")
        self.model = lambda rows: rows @ torch.ones(2, 2)

    def preprocess(self, data):
        return torch.ones(len(data), 2)
"""
COROUTINE = """
async def handle(data, context):
    return None if data is None else ["7"] * len(data)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("profiled")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(folder: Path) -> AsyncIterator[Server]:
    write_model(folder / "store", "multiplies", MULTIPLIES, config="{batchSize: 4, maxBatchDelay: 1}")
    write_model(folder / "store", "coroutine", COROUTINE, config="asyncCommunication: true")
    write_model(folder / "store", "continuous", COROUTINE.replace("async ", ""), config="continuousBatching: true")
    async with running(folder, folder / "store", {"profile_requests": "true"}) as made:
        yield made


async def profile_of(server: Server, folder: Path, model: str) -> list[str]:
    """The names of what the profiler saw."""
    headers = {"X-TorchServe-Profile": "true"}
    async with server.client.post(f"{server.url}/predictions/{model}", data=b"7", headers=headers) as response:
        assert response.status == 200, await response.text()
        file = folder / "logs" / "profiles" / response.headers["x-torchserve-profile"]
        assert response.headers["x-request-id"] in file.name
    return [event.get("name", "") for event in json.loads(file.read_text())["traceEvents"]]


async def test_profile_has_the_operators_and_the_handlers_steps(server: Server, folder: Path) -> None:
    assert {"aten::matmul", "preprocess", "inference", "postprocess"} <= set(
        await profile_of(server, folder, "multiplies")
    )


async def test_coroutine_handler_is_profiled_as_well(server: Server, folder: Path) -> None:
    assert await profile_of(server, folder, "coroutine")


async def test_request_that_does_not_ask_is_not_profiled(server: Server) -> None:
    for headers in ({}, {"x-torchserve-profile": "false"}):
        async with server.client.post(f"{server.url}/predictions/multiplies", data=b"7", headers=headers) as response:
            assert response.status == 200
            assert "x-torchserve-profile" not in response.headers


async def test_model_that_runs_no_request_alone_says_so(server: Server) -> None:
    headers = {"x-torchserve-profile": "true"}
    async with server.client.post(f"{server.url}/predictions/continuous", data=b"7", headers=headers) as response:
        assert response.status == 400
        assert "continuousBatching" in await response.text()
