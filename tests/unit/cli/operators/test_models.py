"""What ``torchserve-lite models`` shows."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys

import pytest
from aiohttp import web

from tests.unit.cli.operators.conftest import Command, FakeServer, described, error, heed_interruption

WORKER = described()["workers"][0]


async def test_every_version_is_a_line(server: FakeServer, command: Command) -> None:
    server.serves([described("mnist", "2.0"), described("mnist", "1.0", workers=[], minWorkers=0)], [described("cat")])
    outcome = await command("models", "--url", server.url)
    assert [line.split() for line in outcome.out.splitlines()] == [
        ["model", "version", "default", "workers", "batch", "device", "status", "queue"],
        ["mnist", "2.0", "yes", "1/1", "(1-4)", "8,", "50", "ms", "cpu", "ready", "3/100"],
        ["mnist", "1.0", "0/0", "(0-4)", "8,", "50", "ms", "cpu", "no", "workers", "3/100"],
        ["cat", "1.0", "yes", "1/1", "(1-4)", "8,", "50", "ms", "cpu", "ready", "3/100"],
    ]
    assert outcome.code == 0


async def test_all_pages_of_the_list_are_read(server: FakeServer, command: Command) -> None:
    server.serves([described("a")])
    server.serves([described("b")])
    server.answers["GET /models?limit=100"] = (200, {"nextPageToken": "1", "models": [{"modelName": "a"}]})
    server.answers["GET /models?limit=100&next_page_token=1"] = (200, {"models": [{"modelName": "b"}]})
    outcome = await command("models", "--json", "--url", server.url)
    assert [entry["modelName"] for entry in json.loads(outcome.out)] == ["a", "b"]


async def test_one_model_is_shown_with_its_workers(server: FakeServer, command: Command) -> None:
    failing = {**WORKER, "id": "9001", "status": "UNLOADING", "state": "RESTARTING", "pid": -1, "lastFailure": "Why."}
    server.serves([described("mnist", workers=[WORKER, failing])])
    outcome = await command("models", "mnist", "--url", server.url)
    lines = [" ".join(line.split()) for line in outcome.out.splitlines()]
    assert lines[1] == "mnist 1.0 yes 1/2 (1-4) 8, 50 ms cpu ready, restarting 3/100"
    assert lines[3:] == [
        "mnist 1.0, from mnist.mar",
        "worker pid state memory gpu since last failure",
        "9000 4711 ready 150 MiB - 2026-01-01T00:00:00.000Z",
        "9001 - restarting 150 MiB - 2026-01-01T00:00:00.000Z Why.",
    ]


async def test_json_of_one_model_is_the_servers_description(server: FakeServer, command: Command) -> None:
    versions = [described("mnist", "2.0"), described("mnist", "1.0")]
    server.serves(versions)
    outcome = await command("models", "mnist", "--json", "--url", server.url)
    assert json.loads(outcome.out) == versions


async def test_model_that_is_removed_meanwhile_is_left_out(server: FakeServer, command: Command) -> None:
    server.serves([described("a")], [described("b")])
    gone = error(404, "ModelNotFoundException", "Model not found: a")
    server.answers["GET /models/a/all"] = (404, gone)
    outcome = await command("models", "--json", "--url", server.url)
    assert [entry["modelName"] for entry in json.loads(outcome.out)] == ["b"]


async def test_model_that_cannot_be_described_does_not_hide_the_others(server: FakeServer, command: Command) -> None:
    server.serves([described("a")], [described("b")])
    server.answers["GET /models/a/all"] = (503, error(503, "ServiceUnavailableException", "It could not be set up."))
    outcome = await command("models", "--url", server.url)
    assert "a" in outcome.out.splitlines()[1].split()
    assert "It could not be set up." in outcome.out
    assert "b" in outcome.out.splitlines()[2].split()


async def test_server_without_models_says_so(server: FakeServer, command: Command) -> None:
    server.serves()
    outcome = await command("models", "--url", server.url)
    assert (outcome.code, outcome.out) == (0, "The server has no models.\n")


async def test_names_do_not_drive_the_terminal(server: FakeServer, command: Command) -> None:
    server.serves([described("m", "[red]\x1b[2J")])
    outcome = await command("models", "--url", server.url)
    assert "[red]\\x1b[2J" in outcome.out


@pytest.mark.parametrize("more", ["--json", "--timeout=9"], ids=["for programs", "into a file"])
async def test_watch_needs_somebody_who_watches(more: str, command: Command) -> None:
    outcome = await command("models", "--watch", more)
    assert outcome.code == 1
    assert "--watch" in outcome.err


async def test_watch_asks_again_until_it_is_interrupted(server: FakeServer) -> None:
    """As a process, which is told that it writes to a terminal."""
    asked = asyncio.Semaphore(0)

    async def answer(request: web.Request) -> web.Response:
        asked.release()
        return web.json_response({"models": []})

    server.holding = answer
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "torchserve_lite", "models", "--watch", "0.01", "--url", server.url),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "FORCE_COLOR": "1", "TERM": "xterm"},
        preexec_fn=heed_interruption,
    )
    async with asyncio.timeout(60):
        await asked.acquire()
        await asked.acquire()
        process.send_signal(signal.SIGINT)
        out, _ = await process.communicate()
    assert process.returncode == 0
    assert b"The server has no models." in out
