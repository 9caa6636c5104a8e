"""A stop loses nobody who had begun: not ready first, accepting for a while, then finishing, within one grace time."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.protocols.http import connections

from .conftest import Front, listening

POST = b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n"
LONG = 60.0


class Stopping:
    """A front end, and its stop as a task once ``begin`` has been called."""

    def __init__(self, front: Front, stack: AsyncExitStack) -> None:
        self.front = front
        self._stack = stack
        self.task: asyncio.Task[None]

    async def begin(self) -> None:
        self.task = asyncio.create_task(self._stack.aclose())
        await asyncio.sleep(0)  # it runs to its first wait


@asynccontextmanager
async def server(**config: Any) -> AsyncIterator[Stopping]:
    async with AsyncExitStack() as stack:
        yield Stopping(await stack.enter_async_context(listening(**config)), stack)


async def get(front: Front, path: bytes) -> bytes:
    reader, writer = await front.connect()
    writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"/ping", b"500"),
        (b"/v2/health/ready", b"503"),
        (b"/v2/models/tiny/ready", b"503"),
        (b"/v1/models/tiny", b"503"),
        (b"/v2/health/live", b"200"),
    ],
)
async def test_server_that_stops_is_not_ready_while_it_still_accepts(path: bytes, status: bytes) -> None:
    async with server(shutdown_linger=0.3) as stopping:
        await stopping.begin()
        answer = await get(stopping.front, path)
        assert answer.split(b" ", 2)[1] == status
        assert b"\r\nConnection: close\r\n" in answer
        assert status == b"200" or b"shutting down" in answer
        await stopping.task


async def test_request_that_comes_in_the_linger_time_is_answered() -> None:
    async with server(shutdown_linger=0.3) as stopping:
        reader, writer = await stopping.front.connect()
        await stopping.begin()
        writer.write(POST + b"77")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"\r\nConnection: close\r\n" in answer
        await stopping.task
        writer.close()


@pytest.mark.parametrize("body_first", [b"", b"7"], ids=["head only", "half the body"])
async def test_body_that_is_half_sent_is_waited_for_and_answered(body_first: bytes) -> None:
    """The rest came 2 s after SIGTERM: its answer was lost, and the stop took the whole grace time."""
    async with server(shutdown_grace=LONG) as stopping:
        reader, writer = await stopping.front.connect()
        writer.write(POST + body_first)
        await stopping.front.ask("GET", "/ping")  # by now the first request has begun as well
        await stopping.begin()
        await asyncio.sleep(0.1)
        writer.write(b"77"[len(body_first) :])
        assert (await reader.read()).endswith(b"\r\n\r\n77")
        await stopping.task
        writer.close()


async def test_request_in_flight_is_answered() -> None:
    async with server(shutdown_grace=LONG) as stopping:
        came = asyncio.Event()
        stopping.front.engine.answer = lambda job: came.set()
        reader, writer = await stopping.front.connect()
        writer.write(POST + b"77")
        await came.wait()
        await stopping.begin()
        await asyncio.sleep(0.1)
        stopping.front.engine.jobs[0].succeed(InferenceResponse(b"the answer"))
        answer = await reader.read()
        assert (answer[:12], answer[-14:]) == (b"HTTP/1.1 200", b"\r\n\r\nthe answer")
        assert b"\r\nConnection: close\r\n" in answer
        await stopping.task
        writer.close()


@pytest.mark.parametrize("sent", [POST, POST + b"7", POST + b"77"], ids=["head", "half the body", "the whole"])
async def test_whoever_is_not_done_when_the_grace_time_ends_is_cut_off(sent: bytes) -> None:
    async with server(shutdown_grace=0.2) as stopping:
        stopping.front.engine.answer = lambda job: None
        reader, writer = await stopping.front.connect()
        writer.write(sent)
        await stopping.front.ask("GET", "/ping")
        await stopping.begin()
        await asyncio.wait_for(stopping.task, LONG)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert not [job for job in stopping.front.engine.jobs if job.wanted]
        writer.close()


@pytest.mark.parametrize("asks", [False, True], ids=["has never asked", "has been answered"])
async def test_idle_connection_does_not_hold_the_stop_up(asks: bool) -> None:
    async with server(shutdown_grace=LONG * 10) as stopping:
        reader, writer = await stopping.front.connect()
        if asks:
            writer.write(POST + b"77")
            await reader.readuntil(b"\r\n\r\n77")
        await stopping.begin()
        await asyncio.wait_for(stopping.task, LONG)
        assert await reader.read() == b""
        writer.close()


async def test_nobody_gets_in_when_the_linger_time_is_over() -> None:
    async with server(shutdown_grace=LONG) as stopping:
        came = asyncio.Event()
        stopping.front.engine.answer = lambda job: came.set()
        _, writer = await stopping.front.connect()
        writer.write(POST + b"77")
        await came.wait()
        await stopping.begin()
        await asyncio.sleep(0.1)
        with pytest.raises(ConnectionRefusedError):
            await stopping.front.connect()
        stopping.front.engine.jobs[0].succeed(InferenceResponse(b""))
        await stopping.task
        writer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="turning clients away before a socket is closed is Linux's")
async def test_client_that_comes_between_the_last_accept_and_the_close_is_not_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It finished its handshake in those microseconds, sent its request, and was reset with the socket."""
    accept_all, let_in = connections._accept_all, list[bool]()

    def accept_all_and_let_another_come(listening: socket.socket) -> list[socket.socket]:
        accepted = accept_all(listening)
        with socket.socket() as late:
            late.setblocking(False)
            late.connect_ex(listening.getsockname())
            _, connected, _ = select.select([], [late], [], 0.1)
            let_in.append(bool(connected))
        return accepted

    monkeypatch.setattr(connections, "_accept_all", accept_all_and_let_another_come)
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    with socket.create_connection(listener.sockets[0].getsockname()):  # the loop has had no turn to accept it
        await connections.stop_accepting(listener, asyncio.Protocol)
    assert let_in == [False]
