"""A whole server that fetches archives from a web server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.e2e.server import Server, running, until, write_model
from tests.e2e.test_bad_archives import BAD, ECHO, truncated, zipped
from tests.unit.management.origins import Origin, endless, origin, silent

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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def registering(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Server, Origin, Path]]:
    """A server that lets models be registered, a web server, and the model store."""
    folder = tmp_path_factory.mktemp("registering")
    store = folder / "store"
    store.mkdir()
    write_model(store, "good", ECHO)
    async with origin() as web:
        for name, (make, _) in BAD.items():
            web.serve(f"/{name}", make())
        web.answers["/endless.mar"] = endless()
        web.serve("/page.mar", b"<html>not here</html>")
        web.redirect("/to_metadata", "http://169.254.169.254/latest")
        web.redirect("/to_file", "file:///etc/passwd")
        settings = {**LOOPBACK, "enable_model_api": "true", "max_download_size": 10**7}
        async with running(folder, store, settings) as server:
            yield server, web, store


async def register(server: Server, url: str) -> tuple[int, Any]:
    return await server.post(f"/models?initial_workers=1&url={quote(url, safe='')}")


@pytest.mark.asyncio(loop_scope="module")
async def test_registered_url_is_served_and_its_file_goes_with_it(registering: tuple[Server, Origin, Path]) -> None:
    server, web, store = registering
    status, body = await register(server, web.serve("/echo.mar", zipped()))
    assert (status, body["status"]) == (200, 'Model "m" Version: 1.0 registered with 1 initial workers')
    assert await server.post("/predictions/m", b"hello") == (200, b"hello")
    assert (store / "echo.mar").exists()
    async with server.client.delete(f"{server.url}/models/m") as gone:
        assert gone.status == 200
    assert sorted(path.name for path in store.iterdir()) == ["good"]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(
    ("url", "expected", "kind", "told"),
    [
        pytest.param("http://elsewhere/m.mar", 404, "ModelNotFoundException", "does not match any allowed", id="host"),
        pytest.param("file:///etc/passwd", 404, "ModelNotFoundException", "does not match any allowed", id="file"),
        pytest.param("/etc", 404, "ModelNotFoundException", "Model not found at: /etc", id="folder"),
        pytest.param("{}/to_metadata", 404, "ModelNotFoundException", "169.254.169.254", id="redirect to metadata"),
        pytest.param("{}/to_file", 404, "ModelNotFoundException", "does not match any allowed", id="redirect to file"),
        pytest.param("http://127.0.0.1:1/x.mar", 400, "DownloadArchiveException", "Failed to download", id="nobody"),
        pytest.param("{}/none.mar", 400, "DownloadArchiveException", "answers 404", id="404"),
        pytest.param("{}/endless.mar", 400, "DownloadArchiveException", "max_download_size", id="endless"),
        pytest.param("{}/page.mar", 400, "InvalidModelException", "a web page", id="web page"),
        pytest.param("{}/traversal.mar", 400, "InvalidModelException", "leads out of the archive", id="traversal"),
        pytest.param("{}/symlink.mar", 400, "InvalidModelException", "symbolic link", id="link"),
        pytest.param("{}/truncated.mar", 400, "InvalidModelException", "truncated.mar", id="truncated"),
        pytest.param("{}/bomb.mar", 400, "InvalidModelException", "unpacks to far more", id="bomb"),
        pytest.param("{}/tarlink.tar.gz", 400, "InvalidModelException", "symbolic link", id="link in a tar"),
    ],
)
async def test_url_that_cannot_be_served_is_told_and_leaves_nothing(
    url: str, expected: int, kind: str, told: str, registering: tuple[Server, Origin, Path]
) -> None:
    server, web, store = registering
    status, body = await register(server, url.format(web.url))

    assert (status, body["type"]) == (expected, kind)
    assert told in body["message"]
    assert sorted(path.name for path in store.iterdir()) == ["good"]
    (unpacked,) = store.parent.glob("tmp/torchserve-lite-models-*/models")
    assert len(list(unpacked.iterdir())) == 1  # the good one's
    assert await server.post("/predictions/good", b"hello") == (200, b"hello")


@pytest.mark.asyncio(loop_scope="module")
async def test_client_that_leaves_takes_its_download_along(registering: tuple[Server, Origin, Path]) -> None:
    server, web, store = registering
    begun = asyncio.Event()
    web.answers["/slow.mar"] = silent(begun, after=b"HTTP/1.1 200 OK\r\n\r\nPK\3\4")
    asking = asyncio.create_task(register(server, f"{web.url}/slow.mar"))
    await begun.wait()
    asking.cancel()
    await until(lambda: sorted(path.name for path in store.iterdir()) == ["good"])


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
