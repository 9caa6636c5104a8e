"""Large bodies that are received straight into their memory, on a connection that goes on afterwards."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import uvloop

from torchserve_lite.protocols.http import fast_path
from torchserve_lite.protocols.http.incoming import IncomingBody

from .conftest import Front, listening

BODY = bytes(range(251)) * 4000
HEAD = b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY)


async def answers_to_halves(front: Front) -> None:
    """Three requests, cut in their middles, so that each begins in one piece with the end of the one before."""
    stream = (HEAD + BODY) * 3
    half = len(stream) // 6
    reader, writer = await front.connect()
    for begin, end in pairwise((0, half, 3 * half, 5 * half, len(stream))):
        writer.write(stream[begin:end])
        await writer.drain()
        await front.ask("GET", "/ping")  # by now the piece has been read
    for _ in range(3):
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        assert await reader.readexactly(len(BODY)) == BODY
    writer.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_large_bodies_come_whole_one_behind_the_other(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """The transport changes its protocol while it hands over what it has read; each event loop has its own way."""

    async def serve_and_ask() -> None:
        async with listening(max_request_size=len(BODY)) as front:
            await answers_to_halves(front)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(serve_and_ask())


async def test_large_body_that_stops_coming_is_waited_for_within_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_path, "_PATIENCE", 0.0)
    async with listening(max_request_size=len(BODY)) as front:
        reader, writer = await front.connect()
        writer.write(HEAD + BODY[:500_000])
        await writer.drain()
        await front.ask("GET", "/ping")
        writer.write(BODY[500_000:] + HEAD + BODY)
        for _ in range(2):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            assert await reader.readexactly(len(BODY)) == BODY
        writer.close()


async def test_client_that_leaves_in_the_middle_of_a_large_body_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fast_path, "_PATIENCE", 3600.0)
    async with asyncio.timeout(30), listening(max_request_size=len(BODY), shutdown_grace=3600.0) as front:
        _, writer = await front.connect()
        writer.write(HEAD + BODY[:500_000])
        await writer.drain()
        await front.ask("GET", "/ping")
        writer.close()
        await writer.wait_closed()
        await front.ask("GET", "/ping")
        assert front.engine.jobs == []
    # and it has ended at once: a request that is in progress would have been waited for


def test_large_body_that_has_come_is_let_go_of_although_the_transport_remembers_who_received_it() -> None:
    """uvloop does. Each connection that stayed open kept the last large body that had come over it."""

    class Transport(asyncio.Transport):
        def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...

    body = memoryview(bytearray(10))
    sent = weakref.ref(body)
    incoming = IncomingBody(asyncio.Protocol(), Transport(), body, 4, lambda whole: None)
    incoming.buffer_updated(6)
    del body
    assert sent() is None
