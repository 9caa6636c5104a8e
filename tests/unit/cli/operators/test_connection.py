"""Which server a command asks, with which key, and what it says when nobody answers."""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import subprocess
from pathlib import Path

import pytest
from aiohttp import web

from tests.unit.cli.operators.conftest import Command, FakeServer, error
from torchserve_lite.cli.operators.connection import add_connection_arguments, find_connection


def _write_key(folder: Path, key: str, **more: str) -> None:
    (folder / "key_file.json").write_text(json.dumps({"management": {"key": key, **more}}))


@pytest.mark.parametrize("place", ["--url", "TS_URL", "config.properties", "--ts-config"])
async def test_address_is_found(
    place: str, server: FakeServer, command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serves()
    match place:
        case "--url":
            argv = ["--url", server.url]
        case "TS_URL":
            argv = []
            monkeypatch.setenv("TS_URL", server.url)
        case _:
            name = "config.properties" if place == "config.properties" else "other.properties"
            (folder / name).write_text(f"management_address={server.url}\n")
            argv = [] if place == "config.properties" else ["--ts-config", name]
    assert (await command("models", *argv)).code == 0


@pytest.mark.parametrize(("bound", "reached"), [("0.0.0.0", "127.0.0.1"), ("[::]", "[::1]")])
async def test_address_that_binds_to_all_is_reached_through_loopback(
    bound: str, reached: str, command: Command, folder: Path, unused_tcp_port: int
) -> None:
    (folder / "config.properties").write_text(f"management_address=http://{bound}:{unused_tcp_port}\n")
    outcome = await command("models")
    assert f"http://{reached}:{unused_tcp_port}" in outcome.err


async def test_port_that_the_server_chose_has_to_be_named(command: Command, folder: Path) -> None:
    (folder / "config.properties").write_text("management_address=http://127.0.0.1:0\n")
    outcome = await command("models")
    assert outcome.code == 1
    assert "--url" in outcome.err


async def test_unix_socket_is_spoken_to(server: FakeServer, command: Command, folder: Path) -> None:
    server.serves()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.UnixSite(runner, str(folder / "management.sock")).start()
    outcome = await command("models", "--url", f"unix:{folder}/management.sock")
    await runner.cleanup()
    assert outcome.code == 0


async def test_nobody_at_the_address_gives_exit_code_3_and_where_it_came_from(
    command: Command, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.setenv("TS_URL", f"http://127.0.0.1:{unused_tcp_port}")
    outcome = await command("models")
    assert outcome.code == 3
    assert f"No server answers at http://127.0.0.1:{unused_tcp_port} (TS_URL)" in outcome.err
    assert "--url" in outcome.err


async def test_somebody_who_speaks_no_http_gives_exit_code_3(command: Command) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 mail.example\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as mail:
        port = mail.sockets[0].getsockname()[1]
        outcome = await command("models", "--url", f"http://127.0.0.1:{port}")
    assert outcome.code == 3
    assert "gave no answer in HTTP" in outcome.err


async def test_silent_server_is_given_up(command: Command) -> None:
    async def keep_quiet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(keep_quiet, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        outcome = await command("models", "--timeout", "0.05", "--url", f"http://127.0.0.1:{port}")
    assert outcome.code == 3
    assert "--timeout" in outcome.err


async def test_page_of_somebody_else_is_no_management_api(server: FakeServer, command: Command) -> None:
    server.answers["GET /models?limit=100"] = (200, "<h1>Hello</h1>")
    outcome = await command("models", "--url", server.url)
    assert outcome.code == 1
    assert f"{server.url} (--url)" in outcome.err


@pytest.mark.parametrize("place", ["--key", "--key-file", "TS_MANAGEMENT_KEY", "this folder", "beside the file"])
async def test_key_is_found(
    place: str, server: FakeServer, command: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serves()
    argv = ["--url", server.url]
    match place:
        case "--key":
            argv += ["--key", "secret"]
        case "--key-file":
            _write_key(folder, "secret")
            (folder / "key_file.json").rename(folder / "keys")
            argv += ["--key-file", "keys"]
        case "TS_MANAGEMENT_KEY":
            monkeypatch.setenv("TS_MANAGEMENT_KEY", "secret")
        case "this folder":
            _write_key(folder, "secret")
        case "beside the file":
            (folder / "server").mkdir()
            _write_key(folder / "server", "secret")
            (folder / "server" / "config.properties").write_text("")
            argv += ["--ts-config", "server/config.properties"]
    await command("models", *argv)
    assert server.keys == ["Bearer secret"]


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://127.0.0.1:8081", "secret"),
        ("https://[::1]:8081", "secret"),
        ("http://localhost:8081", "secret"),
        ("unix:/run/management", "secret"),
        ("http://models.example:8081", ""),
        ("http://10.0.0.7:8081", ""),
        ("http://localhost.example:8081", ""),
    ],
)
def test_key_that_was_only_found_is_not_sent_to_another_machine(url: str, sent: str, folder: Path) -> None:
    _write_key(folder, "secret")
    parser = argparse.ArgumentParser()
    add_connection_arguments(parser)
    assert find_connection(parser.parse_args(["--url", url]), {}).key.value == sent
    assert find_connection(parser.parse_args([]), {"TS_URL": url}).key.value == sent
    assert find_connection(parser.parse_args(["--url", url, "--key-file", "key_file.json"]), {}).key.value == "secret"


async def test_refused_key_says_where_keys_are_looked_for(server: FakeServer, command: Command, folder: Path) -> None:
    server.answers["GET /models?limit=100"] = (401, error(401, "InvalidKeyException", "Token Authorization failed."))
    outcome = await command("models", "--url", server.url)
    assert outcome.code == 1
    assert f"{folder}/key_file.json does not exist" in outcome.err


@pytest.mark.parametrize(
    ("until", "told"),
    [
        ("2026-01-01T00:00:00.000Z", "expired at 2026-01-01 00:00"),
        ("2999-01-01T00:00:00Z", "expires at 2999"),
        ("?", ""),
    ],
)
async def test_refused_key_says_when_it_expires(
    until: str, told: str, server: FakeServer, command: Command, folder: Path
) -> None:
    _write_key(folder, "secret", **{"expiration time": until})
    server.answers["GET /models?limit=100"] = (401, error(401, "InvalidKeyException", "Token Authorization failed."))
    outcome = await command("models", "--url", server.url)
    assert told in outcome.err
    assert "secret" not in outcome.err


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"management": {}}', '{"management": {"key": "a\\nb"}}'],
    ids=["none", "list", "no key", "two"],
)
async def test_file_without_a_key_is_passed_over(
    content: str, server: FakeServer, command: Command, folder: Path
) -> None:
    server.serves()
    (folder / "key_file.json").write_text(content)
    assert (await command("models", "--url", server.url)).code == 0
    assert server.keys == [None]


async def test_named_key_file_without_a_key_is_an_error(server: FakeServer, command: Command, folder: Path) -> None:
    outcome = await command("models", "--url", server.url, "--key-file", "nowhere.json")
    assert (outcome.code, server.asked) == (1, [])
    assert "nowhere.json" in outcome.err


async def test_redirect_is_not_followed_with_the_key(server: FakeServer, command: Command) -> None:
    asked: list[str] = []

    async def lead_away(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response({"status": "elsewhere"}, status=307, headers={"Location": f"{server.url}/elsewhere"})

    server.holding = lead_away
    outcome = await command("models", "--url", server.url, "--key", "secret")
    assert (outcome.code, asked) == (1, ["/models"])


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Of 127.0.0.1, signed by itself; its key is beside it."""
    file = tmp_path / "server.pem"
    names = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [*new, *names, "-keyout", f"{file}.key", "-out", str(file)], check=True, stderr=subprocess.DEVNULL, timeout=60
    )
    return file


@pytest.mark.parametrize(
    ("flags", "code"), [(["--cacert"], 0), (["--insecure"], 0), ([], 3)], ids=["checked", "not checked", "not trusted"]
)
async def test_https_server_is_checked(
    flags: list[str], code: int, certificate: Path, server: FakeServer, command: Command
) -> None:
    server.serves()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", server.answer)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, f"{certificate}.key")
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    port = runner.addresses[0][1]
    more = [*flags, str(certificate)] if flags == ["--cacert"] else flags
    outcome = await command("models", "--url", f"https://127.0.0.1:{port}", *more)
    await runner.cleanup()
    assert outcome.code == code
    assert ("--cacert" in outcome.err) == (code == 3)


async def test_certificate_that_is_none_is_an_error(command: Command, folder: Path) -> None:
    (folder / "no.pem").write_text("nothing")
    outcome = await command("models", "--url", "https://127.0.0.1:1", "--cacert", "no.pem")
    assert outcome.code == 1
    assert "no.pem" in outcome.err
