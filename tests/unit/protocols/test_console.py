"""The routes of the web console, and what its pages are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import torchserve_lite
from tests.conftest import KEY, failed_deployment
from tests.e2e.server import until
from tests.unit.protocols.conftest import Front, listening
from torchserve_lite.config.settings import AccessConfig
from torchserve_lite.core.requests import Envelope, Verb
from torchserve_lite.errors import WorkerKilled
from torchserve_lite.management.access import Access
from torchserve_lite.telemetry.recent import seen_failure

FILES = sorted((Path(torchserve_lite.__file__).parent / "console").iterdir())


class Events:
    """What one page is told."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self) -> dict[str, Any]:
        line = await self._response.content.readline()
        assert line.startswith(b"data: ")
        assert await self._response.content.readline() == b"\n"
        told = json.loads(line.removeprefix(b"data: "))
        assert isinstance(told, dict)
        return told

    async def next_with(self, key: str) -> dict[str, Any]:
        while key not in (told := await self.next()):
            pass
        return told


@asynccontextmanager
async def events(front: Front) -> AsyncIterator[Events]:
    async with front.client.get(f"{front.url}/console/events") as response:
        assert (response.status, response.content_type) == (200, "text/event-stream")
        yield Events(response)


async def status_of_events(front: Front, headers: Mapping[str, str] | None = None) -> int:
    """Without reading them: they have no end."""
    async with front.client.get(f"{front.url}/console/events", headers=headers) as response:
        return response.status


@asynccontextmanager
async def ticking(front: Front) -> AsyncIterator[None]:
    clock = asyncio.create_task(front.console.run())
    try:
        yield
    finally:
        clock.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await clock


async def test_page_loads_from_this_server_alone() -> None:
    async with listening(with_console=True) as front:
        for path in ("/console", "/console/", *(f"/console/{file.name}" for file in FILES)):
            answer = await front.ask("GET", path)
            assert answer.status == 200, path
            assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'; ")
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/console", "/console/"])
async def test_pages_links_lead_to_its_files_under_any_path(path: str) -> None:
    async with listening(with_console=True) as front:
        page = (await front.ask("GET", path)).body.decode()
        links = re.findall(r'(?:src|href)="([^"#]+)"', page)
        assert len(links) == 3
        for link in links:
            assert not link.startswith("/")
            assert (await front.ask("GET", f"{path.rpartition('/')[0]}/{link}")).status == 200


def test_page_needs_nothing_that_its_policy_forbids() -> None:
    page = next(file for file in FILES if file.suffix == ".html").read_text()
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", page)
    for file in FILES:
        text = file.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            file
        )
        assert not re.search(r"https?://(?!www\.w3\.org/)", text), file


@pytest.mark.parametrize("path", ["/console", "/console/app.js", "/console/events"])
async def test_closed_console_says_why(path: str) -> None:
    async with listening(console="off") as front:
        answer = await front.ask("GET", path)
        assert answer.status == 403
        assert "console=auto" in answer.json["message"]


async def test_page_is_told_of_everything_first() -> None:
    async with listening(with_console=True) as front:
        front.registry.unopened.append(failed_deployment("wrong", "no archive"))
        front.failures.add(seen_failure(KEY, "9000", WorkerKilled("by hand")))
        async with events(front) as told:
            everything = await told.next()
    assert [(one["name"], one["version"], one.get("default")) for one in everything["models"]] == [
        (KEY.name, "1.0", True),
        (KEY.name, "2.0", False),
        ("wrong", "", None),
    ]
    assert everything["models"][0]["workers"][0]["state"] == "ready"
    assert everything["models"][2]["cause"] == "no archive"
    assert everything["failures"][0]["message"] == "Worker died. by hand"
    assert everything["memory"] > 0


async def test_page_is_told_of_requests_as_they_end() -> None:
    async with listening(with_console=True) as front, events(front) as told, ticking(front):
        assert "requests" not in await told.next()
        answer = await front.post("/predictions/tiny")
        (request,) = (await told.next_with("requests"))["requests"]
    assert (request["id"], request["status"]) == (answer.headers["x-request-id"], 200)
    assert request["asked"].startswith("POST /predictions/tiny")
    assert request["runs"][0]["name"] == "tiny"


async def test_requests_pay_nothing_while_no_page_is_open() -> None:
    async with listening(with_console=True) as front, ticking(front):
        assert front.watch.listeners == []
        async with events(front) as told:
            await told.next()
            assert len(front.watch.listeners) == 1
        await until(lambda: not front.watch.listeners)


async def test_so_many_requests_of_a_second_are_enough() -> None:
    async with listening(with_console=True) as front, events(front) as told:
        await told.next()
        for _ in range(60):
            await front.post("/predictions/tiny")
        async with ticking(front):
            assert len((await told.next_with("requests"))["requests"]) == 50


async def test_pages_are_told_when_the_server_stops() -> None:
    """Or each open page would hold up the stop until its deadline."""
    async with listening(with_console=True) as front, events(front) as told:
        async with ticking(front):
            await told.next()
            await told.next()
        assert await told._response.content.read() == b""
        assert await status_of_events(front) == 503


@pytest.mark.parametrize(
    ("path", "verb", "envelope"),
    [
        pytest.param("predictions/tiny", Verb.PREDICT, Envelope.NONE, id="predict"),
        pytest.param("explanations/tiny/1.0", Verb.EXPLAIN, Envelope.NONE, id="explain"),
        pytest.param("v1/models/tiny:explain", Verb.EXPLAIN, Envelope.KSERVE, id="V1"),
        pytest.param("v2/models/tiny/versions/1.0/infer", Verb.PREDICT, Envelope.KSERVE_V2, id="V2"),
    ],
)
async def test_models_are_asked_as_by_the_inference_routes(path: str, verb: Verb, envelope: Envelope) -> None:
    async with listening(with_console=True) as front:
        answer = await front.post(f"/console/{path}", b"{}", headers={"Authorization": "Bearer secret", "X-Mine": "1"})
        assert (answer.status, answer.body) == (200, b"{}")
        assert answer.headers["Content-Security-Policy"].startswith("sandbox")
        assert (front.asked.verb, front.asked.envelope) == (verb, envelope)
        names = {name.lower() for name, _ in front.asked.headers}
        assert "x-mine" in names
        assert "authorization" not in names  # the management key is no handler's business


async def test_with_tokens_the_page_is_open_and_what_it_shows_is_not() -> None:
    async with listening(with_console=True, access=Access(AccessConfig())) as front:
        assert (await front.ask("GET", "/console")).status == 200
        assert (await front.ask("GET", "/console/app.js")).status == 200
        assert await status_of_events(front) == 401
        assert (await front.post("/console/predictions/tiny")).status == 401


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Origin": "https://evil.example"}, id="page of another site"),
        pytest.param({"Host": "evil.example"}, id="name that leads here"),
    ],
)
async def test_pages_of_others_can_neither_read_nor_ask(headers: dict[str, str]) -> None:
    async with listening(with_console=True) as front:
        assert await status_of_events(front, headers) == 403
        assert (await front.post("/console/predictions/tiny", headers=headers)).status == 403


async def test_file_that_is_none_is_not_found() -> None:
    async with listening(with_console=True) as front:
        for path in ("/console/nothing.js", "/console/..%2fserver.py", "/console/%00"):
            assert (await front.ask("GET", path)).status == 404, path
