"""A management API that answers what a test wants, and commands that are run against it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from torchserve_lite.cli import main


@dataclass
class FakeServer:
    """``answers``: method and target -> status and body. What has no answer there gets the server's 404."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    url: str = ""
    holding: Callable[[web.Request], Awaitable[web.Response]] | None = None  # answers in place of all that

    async def answer(self, request: web.Request) -> web.Response:
        if self.holding is not None:
            return await self.holding(request)
        self.asked.append(target := f"{request.method} {request.raw_path}")
        self.keys.append(request.headers.get("Authorization"))
        status, body = self.answers.get(target, (404, error(404, "ResourceNotFoundException", "Not found.")))
        return web.json_response(body, status=status) if not isinstance(body, str) else web.Response(text=body)

    def serves(self, *models: list[dict[str, Any]]) -> None:
        """Each a list of a model's descriptions, the default version first."""
        names = [{"modelName": versions[0]["modelName"]} for versions in models]
        self.answers["GET /models?limit=100"] = (200, {"models": names})
        for versions in models:
            path = f"GET /models/{versions[0]['modelName']}"
            self.answers[path] = (200, versions[:1])
            self.answers[f"{path}/all"] = (200, versions)


def heed_interruption() -> None:
    """For a process that is to be interrupted, before it begins: what runs in the background of a shell without jobs,
    as CI may, ignores SIGINT, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Command = Callable[..., Coroutine[Any, Any, Outcome]]


def error(code: int, type_name: str, message: str) -> dict[str, Any]:
    return {"code": code, "type": type_name, "message": message}


def described(name: str = "mnist", version: str = "1.0", **facts: Any) -> dict[str, Any]:
    """A version with one worker that is ready."""
    worker = {
        "id": "9000",
        "startTime": "2026-01-01T00:00:00.000Z",
        "status": "READY",
        "memoryUsage": 150 * 2**20,
        "pid": 4711,
        "gpu": False,
        "gpuUsage": "N/A",
        "state": "READY",
    }
    return {
        "modelName": name,
        "modelVersion": version,
        "modelUrl": f"{name}.mar",
        "minWorkers": 1,
        "maxWorkers": 4,
        "batchSize": 8,
        "maxBatchDelay": 50,
        "deviceType": "cpu",
        "workers": [worker],
        "jobQueueStatus": {"remainingCapacity": 97, "pendingRequests": 3},
        **facts,
    }


@pytest.fixture
async def server() -> AsyncIterator[FakeServer]:
    fake = FakeServer()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", fake.answer)
    async with TestServer(app) as listening:
        fake.url = str(listening.make_url("")).rstrip("/")
        yield fake


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where commands are run: an empty folder, with nothing set in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("TS_URL", "TS_MANAGEMENT_KEY", "TS_CONFIG_FILE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def command(folder: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """``await command("models", "--json")``: in a thread, since the server it asks is in this one."""

    async def run(*argv: str) -> Outcome:
        code = await asyncio.to_thread(main, argv)
        return Outcome(code, *capsys.readouterr())

    return run
