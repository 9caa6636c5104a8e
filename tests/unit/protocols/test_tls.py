"""Encrypted listeners over real sockets, on both event loops: each has a TLS of its own."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import json
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop

from tests.certificates import Certified, issue
from torchserve_lite.config.settings import Address, TlsConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceResponse

from .conftest import Front, listening

AUTHORITY = issue("authority", authority=True)
SERVER = issue("server", AUTHORITY)
LARGE = bytes(range(250)) * 40_000  # 10 MB
POST = b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
PATIENCE = 60.0  # seconds after which a test has failed

Test = Callable[..., Awaitable[None]]


def on_both_loops(test: Test) -> Callable[..., None]:
    @pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    def run(new_loop: Callable[[], asyncio.AbstractEventLoop], **facts: Any) -> None:
        async def within_time() -> None:
            async with asyncio.timeout(PATIENCE):
                await test(**facts)

        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(within_time())

    facts = inspect.signature(test).parameters.values()
    new_loop = inspect.Parameter("new_loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__dict__["__signature__"] = inspect.Signature([new_loop, *facts])  # by which pytest finds the fixtures
    both: Callable[..., None] = run
    return both


@asynccontextmanager
async def encrypted(folder: Path, *, client_ca: Certified | None = None, **config: Any) -> AsyncIterator[Front]:
    key, chain = SERVER.write(folder)
    authorities = None
    if client_ca is not None:
        authorities = folder / "clients.pem"
        authorities.write_bytes(client_ca.pem)
    tls = TlsConfig(private_key=key, certificate=chain, client_ca=authorities)
    facts = {"inference": Address(tls=True), "max_request_size": len(LARGE), **config}
    async with listening(tls=tls, **facts) as front:
        yield front


def trusting(version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context


def port_of(front: Front) -> int:
    return int(front.url.rpartition(":")[2])


async def connect(
    front: Front, context: ssl.SSLContext | None = None, **facts: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    facts.setdefault("limit", 2**20)
    return await asyncio.open_connection("127.0.0.1", port_of(front), ssl=context or trusting(), **facts)


async def answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of the next one that has a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    return head, await reader.readexactly(length)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


# Handshakes


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@on_both_loops
async def test_request_is_answered_over_tls(tmp_path: Path, version: ssl.TLSVersion) -> None:
    async with encrypted(tmp_path) as front:
        assert front.url.startswith("https://127.0.0.1:")
        reader, writer = await connect(front, trusting(version))
        suite, spoken, _ = writer.get_extra_info("cipher")
        assert (spoken, "GCM" in suite or "CHACHA20" in suite) == (version.name.replace("_", "."), True)
        for body in (b"7", b"", LARGE, b"77"):  # on one connection, one after the other
            writer.write(POST % len(body) + body)
            head, back = await answer(reader)
            assert (head[:12], back) == (b"HTTP/1.1 200", body)
        await closed(writer)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
@on_both_loops
async def test_older_version_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    old = trusting()
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with encrypted(tmp_path) as front:
        with pytest.raises(OSError):
            await connect(front, old)
    assert "handshake of /127.0.0.1" in caplog.text  # so it was the server who did not want to


@on_both_loops
async def test_plain_http_is_answered_as_torchserve_does_and_closed(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(front))
        writer.write(POST % len(LARGE) + LARGE)  # more than the system takes before it is read
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert json.loads(body) == {"status": "This TorchServe instance only accepts HTTPS requests"}
        await closed(writer)
        _, writer = await connect(front)  # the next client is served
        await closed(writer)


@pytest.mark.parametrize("sent", [b"\0\0\0\0", b"\x80\x2e\x01\x03\x01", b"\x16\x03\x01\xff\xff" + b"?" * 99])
@on_both_loops
async def test_garbage_is_cut_off(tmp_path: Path, sent: bytes) -> None:
    async with encrypted(tmp_path) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(front))
        writer.write(sent)
        with contextlib.suppress(ConnectionError):
            assert b"HTTP" not in await reader.read()
        await closed(writer)


@on_both_loops
async def test_handshake_that_does_not_go_on_is_cut_off(tmp_path: Path) -> None:
    async with encrypted(tmp_path, slow_header_seconds=0.1) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(front))
        writer.write(b"\x16\x03\x01")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        await closed(writer)


@pytest.mark.parametrize("begun", [b"", b"\x16\x03\x01"], ids=["silent", "in their handshake"])
@on_both_loops
async def test_clients_without_a_handshake_count_and_make_room_for_others(tmp_path: Path, begun: bytes) -> None:
    async with encrypted(tmp_path, most_clients=3) as front:
        silent = [await asyncio.open_connection("127.0.0.1", port_of(front)) for _ in range(5)]
        for _, writer in silent:
            writer.write(begun)
        reader, writer = await connect(front)
        writer.write(POST % 1 + b"7")
        assert (await answer(reader))[1] == b"7"
        with contextlib.suppress(ConnectionError):
            assert await silent[0][0].read() == b""  # the one that had waited for longest
        for _, other in [*silent, (reader, writer)]:
            await closed(other)


@on_both_loops
async def test_client_that_leaves_in_its_handshake_leaves_nothing_behind(tmp_path: Path) -> None:
    async with encrypted(tmp_path, most_clients=1) as front:
        for begun in (b"", b"\x16", b"\x16\x03\x01", b"GET / HTTP/1.1\r\n"):
            _, writer = await asyncio.open_connection("127.0.0.1", port_of(front))
            writer.write(begun)
            await closed(writer)
        reader, writer = await connect(front)
        writer.write(POST % 1 + b"7")
        assert (await answer(reader))[1] == b"7"
        await closed(writer)


class ByHand:
    """A client whose bytes of TLS a test can cut and join as it likes."""

    def __init__(self, front: Front) -> None:
        self._from_server, self._to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = trusting().wrap_bio(self._from_server, self._to_server, server_hostname="localhost")
        self._address = ("127.0.0.1", port_of(front))

    async def __aenter__(self) -> ByHand:
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self

    async def __aexit__(self, *error: object) -> None:
        await closed(self._writer)

    async def until_done(self, step: Callable[[], Any], send: Callable[[bytes], Awaitable[None]]) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                await send(self._to_server.read())
                self._from_server.write(await self._reader.read(2**16))

    async def at_once(self, data: bytes) -> None:
        self._writer.write(data)

    async def byte_by_byte(self, data: bytes) -> None:
        for value in data:
            self._writer.write(bytes((value,)))
            await self._writer.drain()
            await asyncio.sleep(0)

    async def receive_until(self, end: bytes) -> None:
        """All that comes, when what has been written is out."""
        received = b""
        while not received.endswith(end):
            received += await self.until_done(lambda: self.tls.read(2**16), self.at_once)


@on_both_loops
async def test_handshake_that_comes_byte_by_byte_is_understood(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as front, ByHand(front) as client:
        await client.until_done(client.tls.do_handshake, client.byte_by_byte)
        client.tls.write(POST % 1 + b"7")
        await client.receive_until(b"\r\n\r\n7")


@on_both_loops
async def test_request_in_one_piece_with_the_end_of_the_handshake_is_answered(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as front, ByHand(front) as client:
        await client.until_done(client.tls.do_handshake, client.at_once)  # its last message has not been sent yet
        client.tls.write(POST % 1 + b"7")
        await client.receive_until(b"\r\n\r\n7")


# Certificates of clients


@on_both_loops
async def test_client_needs_a_certificate_of_the_configured_authority(tmp_path: Path) -> None:
    others = issue("others", authority=True)
    async with encrypted(tmp_path, client_ca=AUTHORITY) as front:
        for issuer, served in ((AUTHORITY, True), (others, False), (None, False)):
            context = trusting()
            if issuer is not None:
                folder = tmp_path / issuer.certificate.subject.rfc4514_string()
                folder.mkdir()
                key, chain = issue("client", issuer).write(folder)
                context.load_cert_chain(chain, key)
            got = b""
            with contextlib.suppress(OSError, EOFError):  # TLS 1.3 tells a client with its first answer
                reader, writer = await connect(front, context)
                writer.write(POST % 1 + b"7")
                got = (await answer(reader))[1]
                await closed(writer)
            assert (got == b"7") is served
        assert len(front.engine.jobs) == 1


# Reload


@on_both_loops
async def test_new_certificate_is_for_new_connections_and_the_old_ones_go_on(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as front:
        before, old_writer = await connect(front)
        new = issue("new", AUTHORITY)
        new.write(tmp_path)
        await front.certificates.refresh()
        after, new_writer = await connect(front)
        shown = new_writer.get_extra_info("ssl_object").getpeercert()
        assert int(shown["serialNumber"], 16) == new.serial
        for reader, writer in ((before, old_writer), (after, new_writer)):
            writer.write(POST % 1 + b"7")
            assert (await answer(reader))[1] == b"7"
            await closed(writer)


# What follows is the same as on plain connections, but for the transport


@on_both_loops
async def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as front:
        reader, writer = await connect(front)
        bodies = [b"%d" % number * 1000 for number in range(50)]
        writer.write(b"".join(POST % len(body) + body for body in bodies))
        assert [(await answer(reader))[1] for _ in bodies] == bodies
        await closed(writer)


@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "aiohttp"])
@on_both_loops
async def test_large_bodies_go_both_ways_one_behind_the_other(tmp_path: Path, fast_path: bool) -> None:
    async with encrypted(tmp_path, fast_path=fast_path) as front:
        reader, writer = await connect(front)
        for _ in range(3):
            writer.write(POST % len(LARGE) + LARGE)
        for _ in range(3):
            assert (await answer(reader))[1] == LARGE
        writer.write(POST.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked"))
        writer.write(b"".join(b"%x\r\n%b\r\n" % (9000, LARGE[at : at + 9000]) for at in range(0, 900_000, 9000)))
        writer.write(b"0\r\n\r\n")
        assert (await answer(reader))[1] == LARGE[:900_000]
        await closed(writer)


@on_both_loops
async def test_streamed_answer_waits_for_its_reader_and_comes_whole(tmp_path: Path) -> None:
    piece = b"x" * 100_000

    async def go_on(job: Job) -> None:
        for _ in range(100):
            job.add_piece(InferenceResponse(piece))
            if job.behind:
                behind.set()
                read = asyncio.Event()
                job.when_read(read.set)
                await read.wait()
        job.succeed(InferenceResponse(b"end"))

    tasks: list[asyncio.Task[None]] = []
    behind = asyncio.Event()
    async with encrypted(tmp_path) as front:
        front.engine.answer = lambda job: tasks.append(asyncio.get_running_loop().create_task(go_on(job)))
        reader, writer = await connect(front, limit=1000)
        writer.write(POST % 1 + b"7")
        await reader.readuntil(b"\r\n\r\n")
        await behind.wait()  # for a client that does not read, the handler is held up
        body = b""
        while size := int(await reader.readline(), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        assert body == piece * 100 + b"end"
        await closed(writer)


@on_both_loops
async def test_access_log_shows_the_client(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as front:
        for request in (POST % 1 + b"7", b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"):  # the fast path's, and aiohttp's
            reader, writer = await connect(front)
            writer.write(request)
            await answer(reader)
            host, port = writer.get_extra_info("sockname")
            front.access_log.flush()
            assert f" - /{host}:{port} " in front.log[-1]
            await closed(writer)


@on_both_loops
async def test_large_answer_is_finished_when_the_server_stops(tmp_path: Path) -> None:
    """What is encrypted already waits in a transport below the one that was written to, and was cut off unseen."""
    async with contextlib.AsyncExitStack() as stack:
        front = await stack.enter_async_context(encrypted(tmp_path, shutdown_grace=PATIENCE))
        reader, writer = await connect(front, limit=1000)
        writer.write(POST % len(LARGE) + LARGE)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        stopping = asyncio.create_task(stack.aclose())
        await asyncio.sleep(0.3)  # it does not read; a stop that overlooked its answer would be over by now
        assert await reader.readexactly(len(LARGE)) == LARGE
        await stopping
        await closed(writer)


@on_both_loops
async def test_what_a_client_does_not_take_is_counted(tmp_path: Path) -> None:
    async with encrypted(tmp_path) as front:
        reader, writer = await connect(front, limit=1000)
        writer.write(POST % len(LARGE) + LARGE)
        await reader.readuntil(b"\r\n\r\n")
        (client,) = front.http._clients.open
        assert client.unsent > len(LARGE) // 10
        assert not client.is_waiting
        await reader.readexactly(len(LARGE))
        await closed(writer)
