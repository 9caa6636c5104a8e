"""Clients that send slowly, never finish or never read: they end by the configured limits and cost nobody an answer."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.e2e.server import PATIENCE, Server, running, write_model

HANDLER = """
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    while bytes(data[0]["body"]) == b"ever":
        send_intermediate_predict_response(["x" * 100_000], context.request_ids, "", 200, context)
    return [b"x" * 20_000_000 if bytes(row["body"]) == b"much" else bytes(row["body"]) for row in data]
"""
LIMITS = {
    "slow_header_seconds": 1,
    "slow_client_seconds": 1,
    "slow_client_bytes_per_second": 1000,
    "max_response_size": 30_000_000,
    "job_queue_size": 1000,
}
GOOD = range(4)  # the clients that behave, one connection each at a time
HEAD = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\n"


class Client:
    """A socket to the server that does nothing by itself, so that what is not read stays unread."""

    def __init__(self, server: Server) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect((host, int(port)))
        self._socket.setblocking(False)

    @property
    def port(self) -> int:
        port: int = self._socket.getsockname()[1]
        return port

    async def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the server may have ended it
            await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def read(self, size: int = 65536) -> bytes:
        """What has come; nothing at the connection's end, however it ended."""
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, size)
        except ConnectionError:
            return b""

    async def read_to_end(self) -> bytes:
        answer = b""
        while piece := await self.read():
            answer += piece
        return answer

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def serving(tmp_path: Path, *, most_files: int | None = None) -> AsyncIterator[Server]:
    write_model(tmp_path / "store", "m", HANDLER)
    settings = LIMITS if most_files is None else {}
    wrapper = () if most_files is None else ("sh", "-c", f'ulimit -n {most_files}; exec "$@"', "sh")
    async with running(tmp_path, tmp_path / "store", settings, wrapper=wrapper) as server:
        async with asyncio.timeout(PATIENCE):
            yield server


@asynccontextmanager
async def good_traffic(server: Server) -> AsyncIterator[None]:
    """Twenty requests a second, sixty at least. Each must be answered."""
    leave = asyncio.Event()

    async def ask() -> None:
        asked = 0
        while not leave.is_set() or asked < 15:
            assert await server.post("/predictions/m", b"7", Connection="close") == (200, 7)
            asked += 1
            await asyncio.sleep(0.2)  # the pace of the traffic

    async with asyncio.TaskGroup() as group:
        for _ in GOOD:
            group.create_task(ask())
        yield
        leave.set()


@contextlib.contextmanager
def clients(server: Server, count: int) -> Iterator[list[Client]]:
    made = [Client(server) for _ in range(count)]
    try:
        yield made
    finally:
        for client in made:
            client.close()


def descriptors(server: Server) -> int:
    return psutil.Process(server.process.pid).num_fds()


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    """For what no line of the server's output tells."""
    while True:
        if await true():
            return
        await asyncio.sleep(0.05)


async def back_to(server: Server, before: int) -> None:
    """No more descriptors than ``before``: those of the last clients are closed a moment after they have gone."""

    async def is_back() -> bool:
        return descriptors(server) <= before

    await until(is_back)


async def slow_head(client: Client) -> bytes:
    """A byte now and then, as far as the server lets it."""
    reading = asyncio.create_task(client.read_to_end())
    for byte in HEAD * 1000:
        await client.send(bytes([byte]))
        done, _ = await asyncio.wait([reading], timeout=0.1)
        if done:
            break
    return await reading


async def slow_body(client: Client) -> bytes:
    await client.send(HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * 100)
    return await client.read_to_end()


async def slow_chunks(client: Client) -> bytes:
    await client.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n1")
    return await client.read_to_end()


async def test_two_hundred_slow_senders_are_ended_and_others_are_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        before = descriptors(server)
        with clients(server, 200) as slow:
            async with good_traffic(server):
                ways = [slow_head, slow_body, slow_head, slow_chunks] * 50
                ends = await asyncio.gather(*(way(client) for way, client in zip(ways, slow, strict=True)))
                assert {end.split(b"\r\n")[0] for end in ends} == {b"HTTP/1.1 408 Request Timeout"}
            await back_to(server, before)


async def test_readers_that_never_read_are_ended_and_others_are_answered(tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        before = descriptors(server)
        with clients(server, 10) as deaf:
            async with good_traffic(server):
                for client in deaf:
                    await client.send(HEAD + b"Content-Length: 4\r\n\r\nmuch")
                for client in deaf:
                    await server.line(rf"\b{client.port}\b.* is cut off")
            await back_to(server, before)
            for client in deaf:
                assert len(await client.read_to_end()) < 20_000_000


@pytest.mark.parametrize("accept", [b"", b"Accept: text/event-stream\r\n"], ids=["chunks", "events"])
async def test_reader_of_a_stream_that_never_reads_is_ended_and_its_worker_is_free(
    tmp_path: Path, accept: bytes
) -> None:
    async with serving(tmp_path) as server:
        with clients(server, 1) as (deaf,):
            await deaf.send(HEAD + accept + b"Content-Length: 4\r\n\r\never")
            await server.line(rf"\b{deaf.port}\b.* is cut off")
            assert await server.post("/predictions/m", b"7") == (200, 7)


async def test_flood_of_idle_clients_leaves_room_for_new_ones_and_for_workers(tmp_path: Path) -> None:
    """`ulimit -n 1024` and 1,000 idle clients shut everybody out, and no worker could be started any more."""
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 1500, "this test needs 1,000 sockets of its own"
    async with serving(tmp_path, most_files=1024) as server:
        with clients(server, 1000) as idle:
            for client in idle[::2]:
                await client.send(b"GET /ping HTTP/1.1\r\n")
            assert await server.post("/predictions/m", b"7") == (200, 7)
            status, body = await server.put("/models/m?min_worker=4&max_worker=4&synchronous=true")
            assert status == 200, body
            old = set(await server.worker_pids("m"))
            for pid in old:
                os.kill(pid, signal.SIGKILL)

            async def are_replaced() -> bool:
                workers = (await server.describe("m"))["workers"]
                return all(worker["status"] == "READY" and worker["pid"] not in old for worker in workers)

            await until(are_replaced)
            assert await server.post("/predictions/m", b"7") == (200, 7)
