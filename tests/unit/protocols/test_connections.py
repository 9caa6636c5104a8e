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

POST = b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\n"
NEXT = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"  # what must not be answered after what is in doubt
CHUNKS = b"1\r\n7\r\n0\r\n\r\n"
FRAMING = {
    "length and chunks": b"Content-Length: 1\r\nTransfer-Encoding: chunked",
    "chunks and length": b"Transfer-Encoding: chunked\r\nContent-Length: 1",
    "two equal lengths": b"Content-Length: 1\r\nContent-Length: 1",
    "two lengths": b"Content-Length: 1\r\nContent-Length: 2",
    "no length": b"Content-Length: ",
    "negative length": b"Content-Length: -1",
    "length beyond 64 bits": b"Content-Length: 18446744073709551616",
    "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "chunked, then another coding": b"Transfer-Encoding: chunked, identity",
    "only another coding": b"Transfer-Encoding: gzip",
    "coding that ends like chunked": b"Transfer-Encoding: xchunked",
    "coding with a tabulator": b"Transfer-Encoding: \x0bchunked",
    "folded header": b"Transfer-Encoding:\r\n chunked",
    "line feed alone": b"X: y\nContent-Length: 1",
    "carriage return alone": b"X: y\rContent-Length: 1",
    "zero byte": b"X: \x00\r\nContent-Length: 1",
    "control character": b"X: \x01\r\nContent-Length: 1",
    "name with a zero byte": b"X\x00: 1\r\nContent-Length: 1",
    "no name": b": 1\r\nContent-Length: 1",
}

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
    *(pytest.param(POST + lines + b"\r\n\r\n" + CHUNKS + NEXT, id=name) for name, lines in FRAMING.items()),
    pytest.param(b"GET /ping HTTP/2.0\r\nHost: x\r\n\r\n" + NEXT, id="HTTP/2.0 without its preface"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2.0"),
    pytest.param(b"GET /ping\r\n\r\n", id="HTTP/0.9"),
    pytest.param(b"GET /ping HTTP/1.1\r\n\r\n" + NEXT, id="no host"),
    pytest.param(b"GET /ping HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n" + NEXT, id="two hosts"),
    pytest.param(b"GET /ping HTTP/1.1\r\nHost: a b/c@d\r\n\r\n" + NEXT, id="a host that is none"),
    pytest.param(b"GET /ping HTTP/1.1\r\nHost: \xc3\xa4.example\r\n\r\n" + NEXT, id="a host that is not ASCII"),
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
    answer = json.loads(body)  # one, and the connection has been closed
    assert (answer["code"], answer["type"]) == (400, "BadRequestException")
    assert answer["message"].isprintable()
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
    writer.close()


@pytest.mark.parametrize(
    ("codings", "body"),
    [
        *((codings, CHUNKS) for codings in (b"gzip, chunked", b"identity, chunked", b"br, gzip, chunked", b",chunked")),
        (b"", b""),
        (b"\r\nContent-Length: 1", b"7"),
    ],
)
async def test_coding_that_is_not_understood_is_not_read_as_another_one(
    front: Front, codings: bytes, body: bytes
) -> None:
    """A compressed body reached the handler as if it were plain."""
    reader, writer = await front.connect()
    writer.write(POST + b"Transfer-Encoding: " + codings + b"\r\n\r\n" + body + NEXT)
    head, _, told = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 501")
    assert "Transfer-Encoding" in json.loads(told)["message"]
    assert front.engine.jobs == []
    writer.close()


async def test_chunks_of_http_1_0_are_refused(front: Front) -> None:
    reader, writer = await front.connect()
    writer.write(POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS)
    head, _, told = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.0 400")
    assert "Transfer-Encoding" in json.loads(told)["message"]
    assert front.engine.jobs == []
    writer.close()


@pytest.mark.parametrize("half", [b"G", b"GET /ping HTTP/1.1\r\n", NEXT[:-2], b"\r\n\r\nGET"])
@pytest.mark.parametrize("before", [b"", NEXT], ids=["at once", "after a request"])
async def test_head_that_is_never_finished_is_given_up(half: bytes, before: bytes) -> None:
    async with listening(slow_header_seconds=0.05) as front:
        reader, writer = await front.connect()
        if before:
            writer.write(before)
            await reader.readuntil(b"}\n")
        writer.write(half)
        async with asyncio.timeout(30):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408")
        assert "slow_header_seconds" in json.loads(body)["message"]
        writer.close()


@pytest.mark.parametrize(
    "sent", [b"", b"\r\n", NEXT, NEXT + b"\r\n"], ids=["nothing", "line break", "a request", "both"]
)
async def test_client_between_two_requests_may_take_its_time(sent: bytes) -> None:
    """Some send a line break after their body, which belongs to no request."""
    async with listening(slow_header_seconds=0.01) as front:
        reader, writer = await front.connect()
        writer.write(sent)
        await asyncio.sleep(0.1)  # being silent is the subject
        writer.write(NEXT)
        for _ in range(sent.count(b"GET") + 1):
            assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_new_client_takes_the_place_of_the_one_that_is_idle_for_longest(caplog: pytest.LogCaptureFixture) -> None:
    async with listening(most_clients=3) as front:
        clients = [await front.connect() for _ in range(3)]
        for reader, writer in (clients[1], clients[2], clients[0]):  # so the second is the longest idle
            writer.write(NEXT)
            await reader.readuntil(b"}\n")
        clients.append(await front.connect())
        assert await clients[1][0].read() == b""
        for reader, writer in (clients[0], clients[2], clients[3]):
            writer.write(NEXT)
            assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200")
        assert len([record for record in caplog.records if "ulimit -n" in record.getMessage()]) == 1
        for _, writer in clients:
            writer.close()


@pytest.mark.parametrize("sent", [b"", b"POST /pred", NEXT], ids=["nothing", "half a head", "answered"])
async def test_flood_of_idle_clients_does_not_keep_others_out(sent: bytes) -> None:
    async with listening(most_clients=20) as front:
        clients = []
        for number in range(105):
            reader, writer = await front.connect()
            clients.append(writer)
            writer.write(sent if number < 100 else NEXT)
            if number >= 100:
                assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200")
        for writer in clients:
            writer.close()


async def test_places_of_clients_that_have_left_are_free_again() -> None:
    async with listening(most_clients=2) as front:
        for sent in (b"", b"GET /pi", NEXT, b"nonsense\r\n\r\n", POST + b"Content-Length: 9\r\n\r\n7") * 3:
            _, writer = await front.connect()
            writer.write(sent)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        jobs: asyncio.Queue[Job] = asyncio.Queue()
        front.engine.answer = jobs.put_nowait
        busy = [asyncio.create_task(front.post("/predictions/tiny")) for _ in range(2)]
        for job in (await jobs.get(), await jobs.get()):
            job.succeed(InferenceResponse(b"7"))
        assert [answer.status for answer in await asyncio.gather(*busy)] == [200, 200]


@pytest.mark.parametrize("doing", ["waits for its answer", "sends its body", "reads its answer"])
async def test_client_is_turned_away_where_all_are_busy_and_these_are_served(doing: str) -> None:
    jobs: asyncio.Queue[Job] = asyncio.Queue()
    async with listening(most_clients=2, slow_client_seconds=600.0) as front:
        large = InferenceResponse(b"x" * 30_000_000)
        front.engine.answer = (lambda job: job.succeed(large)) if doing == "reads its answer" else jobs.put_nowait
        busy = [await front.connect() for _ in range(2)]
        for reader, writer in busy:
            writer.write(POST + b"Content-Length: 1\r\nExpect: 100-continue\r\n\r\n")
            await reader.readuntil(b"100 Continue\r\n\r\n")
            if doing != "sends its body":
                writer.write(b"7")
            if doing == "reads its answer":
                await reader.readuntil(b"\r\n\r\n")
        waiting = [await jobs.get() for _ in busy] if doing == "waits for its answer" else []
        refused, rejected = await front.connect()
        head, _, body = (await refused.read()).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"\r\nRetry-After: " in head
        assert "ulimit -n" in json.loads(body)["message"]
        rejected.close()
        for job in waiting:
            job.succeed(InferenceResponse(b"7"))
        for reader, writer in busy:
            if doing == "reads its answer":
                assert len(await reader.readexactly(30_000_000)) == 30_000_000
            elif doing == "sends its body":
                writer.write(b"7")
                (await jobs.get()).succeed(InferenceResponse(b"7"))
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            else:
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
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
    assert ("openapi" in json.loads(body)) if status == b"200" else (json.loads(body)["code"] == int(status))
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
        self.unsent = self.written = 0
        self.goal = 0.0
        self.is_cut = False
        self.peer = "a client"

    def cut(self) -> None:
        self.is_cut = True


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
    for written, connection.unsent in steps:
        connection.written += written
        readers.check([connection])
    assert connection.is_cut is cut


def test_pace_of_readers_can_be_left_to_them() -> None:
    readers = SlowReaders(HttpConfig(slow_client_rate=0.0))
    connection: Any = FakeConnection()
    connection.unsent = connection.written = 5000
    for _ in range(5):
        readers.check([connection])
    assert not connection.is_cut


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
