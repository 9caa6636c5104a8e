"""What connections promise beyond their requests: an answer to what is no HTTP, an end to clients that never read."""

from __future__ import annotations

import asyncio
import json
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from torchserve_lite.config.settings import HttpConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.protocols.http.connections import SlowReaders, stop_accepting

from .conftest import Front, listening

NO_HTTP = [
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
    pytest.param(b"hello\r\n\r\n", id="a word"),
    pytest.param(b"GET / HTTP/9.9\r\n\r\n", id="version"),
    pytest.param(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", id="space before the colon"),
    pytest.param(b"GET / HTTP/1.1\r\nno header\r\n\r\n", id="no header"),
    pytest.param(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", id="header too long"),
    pytest.param(b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 200 + b"\r\n", id="too many headers"),
    pytest.param(b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\n\r\n", id="target too long"),
    pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +5\r\n\r\n", id="length with a sign"),
    pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0x5\r\n\r\n", id="length in hex"),
    pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5,5\r\n\r\n", id="two lengths in one"),
    pytest.param(b"GET /predictions/\xff HTTP/1.1\r\nHost: x\r\n\r\n", id="target that is no UTF-8"),
]


@pytest.mark.parametrize("sent", NO_HTTP)
async def test_what_is_no_http_is_refused_in_our_form(
    front: Front, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = await front.connect()
    writer.write(sent)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.split(b" ", 2)[1] == b"400"
    assert b"Content-Type: application/json" in head
    assert b"x-request-id: " in head
    answer = json.loads(body)
    assert (answer["code"], answer["type"]) == (400, "BadRequestException")
    assert answer["message"].isprintable()
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
    writer.close()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        pytest.param(b"OPTIONS *", b"200", id="options of the server"),
        pytest.param(b"CONNECT other:80", b"404", id="proxy"),
        pytest.param(b"GET *", b"400", id="star"),
        pytest.param(b"GET other:80", b"400", id="authority"),
    ],
)
async def test_target_without_a_path_is_answered_in_our_form(front: Front, line: bytes, status: bytes) -> None:
    reader, writer = await front.connect()
    writer.write(line + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.split(b" ", 2)[1] == status
    assert b"x-request-id: " in head
    assert (body == b"") if status == b"200" else (json.loads(body)["code"] == int(status))
    writer.close()


async def test_pipeline_of_a_client_that_reads_late_is_answered_in_full(front: Front) -> None:
    reader, writer = await front.connect()
    request = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    writer.write(request * 5000 + request.replace(b"Host", b"Connection: close\r\nHost"))
    assert (await reader.read()).count(b"HTTP/1.1 200") == 5001
    writer.close()


async def test_other_clients_are_served_beside_one_that_talks_nonsense(front: Front) -> None:
    _, writer = await front.connect()
    writer.write(b"\x00" * 100_000)
    assert (await front.post("/predictions/tiny")).status == 200
    writer.close()


async def test_connection_that_nobody_has_accepted_yet_is_served_when_the_socket_closes() -> None:
    """Closing a listening socket resets what waits in its queue: clients that had connected lost their request."""
    made: list[asyncio.BaseTransport] = []

    class Noting(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    server = await asyncio.get_running_loop().create_server(Noting, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()
    clients = [socket.create_connection(address) for _ in range(5)]  # the event loop has not run since
    await stop_accepting(server, Noting)
    assert len(made) == 5
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    ends: list[asyncio.BaseTransport | socket.socket] = [*made, *clients]
    for end in ends:
        end.close()


class FakeConnection:
    def __init__(self) -> None:
        self.waiting = self.written = 0
        self.goal = 0.0
        self.cut = False
        self.peername = "a client"
        self.transport: Any = SimpleNamespace(get_write_buffer_size=lambda: self.waiting, abort=self.abort)

    def abort(self) -> None:
        self.cut = True


@pytest.mark.parametrize(
    ("steps", "cut"),
    [
        pytest.param([(5000, 5000), (0, 5000)], True, id="never reads"),
        pytest.param([(5000, 5000), (0, 4500)], True, id="reads too slowly"),
        pytest.param([(5000, 5000), (0, 4000), (0, 3000), (0, 2000)], False, id="reads at the least pace"),
        pytest.param([(5000, 5000), (0, 0), (0, 0)], False, id="takes all"),
        pytest.param([(5000, 100), (5000, 5000)], False, id="took the old answer, has just got a new one"),
        pytest.param([(5000, 5000), (5000, 10_000)], True, id="gets more and more and never reads"),
        pytest.param([(5000, 100), (0, 100)], True, id="leaves the very end"),
        pytest.param([(5000, 5000)], False, id="has just got it"),
    ],
)
def test_client_is_cut_off_when_it_takes_its_answers_too_slowly(steps: list[tuple[int, int]], cut: bool) -> None:
    """Each step: bytes written in a window, bytes that wait at its end. The least is 1000."""
    readers = SlowReaders(HttpConfig(slow_client_seconds=10.0, slow_client_rate=100.0))
    connection: Any = FakeConnection()
    for written, connection.waiting in steps:
        connection.written += written
        readers.check([connection])
    assert connection.cut is cut


def test_pace_of_readers_can_be_left_to_them() -> None:
    readers = SlowReaders(HttpConfig(slow_client_rate=0.0))
    connection: Any = FakeConnection()
    connection.waiting = connection.written = 5000
    for _ in range(5):
        readers.check([connection])
    assert not connection.cut


@pytest.mark.parametrize("target", ["/predictions/tiny", "/v1/models/tiny:predict", "/v2/models/tiny/infer"])
async def test_reader_of_a_stream_that_never_reads_frees_its_worker(target: str) -> None:
    went = asyncio.Event()

    def answer(job: Job) -> None:
        job.holder = SimpleNamespace(unwanted=lambda job: went.set())
        for _ in range(30):
            job.add_piece(InferenceResponse(b"x" * 1_000_000))

    async with listening(slow_client_seconds=0.05, slow_client_rate=1000.0) as front:
        front.engine.answer = answer
        _, writer = await front.connect()
        writer.write(f"POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n7".encode())
        await asyncio.wait_for(went.wait(), 5)
        writer.close()


async def test_connection_whose_answer_is_never_read_is_closed() -> None:
    async with listening(slow_client_seconds=0.05, slow_client_rate=1000.0) as front:
        front.engine.answer = lambda job: job.succeed(InferenceResponse(b"x" * 30_000_000))
        reader, writer = await front.connect()
        writer.write(b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n7")
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.3)  # not reading is the subject
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(30_000_000)
        writer.close()
