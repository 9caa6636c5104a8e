"""What the fast response relies on in aiohttp. A new minor version of aiohttp is let in when these hold."""

from __future__ import annotations

import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.protocols.http.raw_response import Heads, RawResponse


class Recorder(RawResponse):
    """Notes every attribute that aiohttp asks for after the handler has returned it."""

    asked: set[str] = set()

    def __getattribute__(self, name: str) -> Any:
        Recorder.asked.add(name)
        return super().__getattribute__(name)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async def handler(request: web.Request) -> web.StreamResponse:
        close = request.path == "/close"
        answer = InferenceResponse(b"the answer", headers=(("X-Own", "1"),))
        assert request.transport is not None
        peer = request.transport.get_extra_info("peername")[1]
        head = Heads({"X-Peer": str(peer)}).head(answer, "the id", close=close)
        request.transport.writelines((head, answer.body))
        response = Recorder(answer.status, not close)
        Recorder.asked.clear()
        return response

    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_aiohttp_asks_a_response_for_nothing_but_what_the_raw_one_answers(url: str) -> None:
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        assert await response.read() == b"the answer"
    assert {name for name in Recorder.asked if not name.startswith("_")} == {"prepare", "write_eof", "keep_alive"}
    private = {name for name in Recorder.asked if name.startswith("_")}
    assert private <= {"__class__", "__http_exception__", "_stays_open"}


@pytest.mark.parametrize(("path", "connections"), [("/", 1), ("/close", 2)])
async def test_connection_stays_open_as_the_raw_response_says(url: str, path: str, connections: int) -> None:
    peers: set[str] = set()
    async with aiohttp.ClientSession() as client:
        for _ in range(2):
            async with client.get(url + path) as response:
                peers.add(response.headers["X-Peer"])
    assert len(peers) == connections


async def test_head_has_all_that_a_client_needs(url: str) -> None:
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        headers = response.headers
    assert (headers["Content-Length"], headers["X-Own"], response.reason) == ("10", "1", "OK")
    assert headers["x-request-id"] == "the id"
    assert {"Date", "X-Peer"} <= set(headers)


def test_aiohttp_has_an_upper_bound() -> None:
    """The interface above is aiohttp's own affair: a version that nobody has tried must not be installed."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    (wanted,) = [text for text in project["dependencies"] if text.startswith("aiohttp")]
    assert "<" in wanted
