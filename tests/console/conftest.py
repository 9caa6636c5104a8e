"""A browser and a server for the tests of the console."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.console.browser import chromium
from tests.e2e.conftest import build_mnist
from tests.e2e.server import Server, running, write_archive, write_model

HOSTILE = "<img src=x onerror=window.pwned=1>"

_CRASHING = """
import os, signal

def handle(data, context):
    if data and bytes(data[0]["body"]) == b"crash":
        os.kill(os.getpid(), signal.SIGKILL)
    return data and ["ok"] * len(data)
"""
_BROKEN = """
import a_package_that_nobody_has

def handle(data, context):
    return data
"""
_HOSTILE = f"""
def handle(data, context):
    if not data:
        return
    print("{HOSTILE}")
    context.set_response_header(0, "X-Hostile", "{HOSTILE}")
    return ["{HOSTILE}"] * len(data)
"""
_ECHO = """
def handle(data, context):
    return data and [str(row["body"]) for row in data]
"""


@dataclass(frozen=True, slots=True)
class Served:
    """A server whose management listens by itself, at ``url``, as in production."""

    server: Server
    url: str

    async def predict(self, model: str, body: bytes = b"hello") -> int:
        async with self.server.client.post(f"{self.server.url}/predictions/{model}", data=body) as response:
            return response.status


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    build_mnist(folder)
    write_model(folder, "crashing", _CRASHING)
    write_model(folder, "hostile", _HOSTILE)
    write_model(folder, "echo", _ECHO, config="{minWorkers: 1, maxWorkers: 1}")
    write_model(folder, "broken", _BROKEN)
    for version in ("2.0", "2.1"):
        write_archive(folder, f"echo-{version}.mar", "echo", version, _ECHO)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(store: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    settings = {
        "management_address": "http://127.0.0.2:0",
        "load_models": "mnist.mar,crashing,echo,broken",
        "enable_model_api": "true",
    }
    async with running(tmp_path_factory.mktemp("server"), store, settings) as server:
        url = (await server.line("listening: management")).rpartition(" ")[2]
        named = {"url": "hostile", "model_name": HOSTILE, "initial_workers": "1"}
        async with server.client.post(f"{url}/models", params=named) as response:
            assert response.status == 200, await response.text()
        yield Served(server, url)
