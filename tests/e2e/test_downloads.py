"""A whole server that fetches archives from a web server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.e2e.server import running
from tests.e2e.test_bad_archives import truncated, zipped
from tests.unit.management.origins import origin, silent

LOOPBACK = {"allowed_urls": r"http://127\\.0\\.0\\.1:\\d+/.*", "allowed_url_networks": "127.0.0.1"}


async def test_archive_is_fetched_at_start_and_found_in_the_store_at_the_next(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    async with origin() as web:
        url = web.serve("/echo.mar", zipped())
        broken = web.serve("/broken.mar", truncated())
        settings = {**LOOPBACK, "load_models": f"echo={url}?key=hush, broken={broken}"}
        async with running(tmp_path, store, settings) as server:
            assert await server.post("/predictions/echo", b"hello") == (200, b"hello")
            assert (await server.describe("echo"))["modelUrl"] == f"{url}?key=hush"
            await server.line(r"failed: broken: broken\.mar: .*(cut short|incomplete|not a whole)")
            await server.line(r"Downloaded echo\.mar: .* SHA-256 [0-9a-f]{64}")
            assert "hush" not in server.output
    assert [path.name for path in store.iterdir()] == ["echo.mar"]

    async with running(tmp_path, store, {"load_models": "echo=echo.mar"}) as server:
        assert await server.post("/predictions/echo", b"again") == (200, b"again")


async def test_stop_ends_a_download_and_leaves_nothing(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    async with origin() as web:
        web.answers["/slow.mar"] = silent(asyncio.Event(), after=b"HTTP/1.1 200 OK\r\n\r\nPK\3\4")
        settings = {**LOOPBACK, "load_models": f"{web.url}/slow.mar"}
        async with running(tmp_path, store, settings, ready=False) as server:
            await server.line(r"Downloading slow\.mar")
            assert await server.stop() == 0
    assert list(store.iterdir()) == []
