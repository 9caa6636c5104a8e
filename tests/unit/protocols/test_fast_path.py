"""The short way in: what is plain, and all that can happen to a request and its connection, without sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import KEY, Holder, deployment_of
from tests.fake_engine import FakeEngine, silence
from tests.virtual_time import virtual_time
from torchserve_lite.config.settings import AccessConfig, Address, HttpConfig, MetricsConfig
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.models import ModelKey
from torchserve_lite.core.requests import Envelope, InferenceResponse, Verb
from torchserve_lite.dataplane.local import LocalDataPlane
from torchserve_lite.errors import QueueFull, WorkerDied
from torchserve_lite.ipc.messages import encoded_headers
from torchserve_lite.management.access import Access
from torchserve_lite.management.registry import ModelRegistry
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.access_log import AccessLog
from torchserve_lite.protocols.http.bodies import Bodies
from torchserve_lite.protocols.http.cloud_events import CloudEvents
from torchserve_lite.protocols.http.connections import Client, Clients
from torchserve_lite.protocols.http.exchange import Exchange
from torchserve_lite.protocols.http.fast_path import Connection, Front
from torchserve_lite.protocols.http.guard import Guard
from torchserve_lite.protocols.http.incoming import IncomingBody
from torchserve_lite.protocols.http.kserve_v1 import KServeV1Routes
from torchserve_lite.protocols.http.kserve_v2 import KServeV2Routes
from torchserve_lite.protocols.http.plain import PlainHeads
from torchserve_lite.protocols.http.refusals import Refusals
from torchserve_lite.protocols.http.routing import RouteTable
from torchserve_lite.protocols.http.sagemaker import SageMakerRoutes
from torchserve_lite.protocols.http.torchserve import TorchServeRoutes
from torchserve_lite.telemetry.catalogue import ServerMetrics

from .conftest import LIMIT, listening

TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def post(*lines: bytes, path: bytes = b"/predictions/tiny", method: bytes = b"POST", body: bytes = b"7") -> bytes:
    head = b"".join(line + b"\r\n" for line in (b"Host: x", *lines, b"Content-Length: %d" % len(body)))
    return method + b" " + path + b" HTTP/1.1\r\n" + head + b"\r\n" + body


PLAIN = post()
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__({"peername": ("10.0.0.1", 5), "socket": SimpleNamespace(setsockopt=lambda *option: None)})
        self.pieces: list[bytes] = []  # what one call each has written
        self.last: list[Any] = []  # the objects of the last such call, where it had several
        self.unsent = 0
        self.reads = True
        self.closed = self.aborted = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.pieces.append(bytes(data))

    def writelines(self, list_of_data: Iterable[Any]) -> None:
        self.last = list(list_of_data)
        self.write(b"".join(self.last))

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def get_write_buffer_size(self) -> int:
        return self.unsent

    @property
    def bodies(self) -> list[bytes]:
        """Of whole answers."""
        return [piece.partition(b"\r\n\r\n")[2] for piece in self.pieces]


class Aiohttp:
    """In place of aiohttp's connection: what it was given, and whether it says that it is at rest."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.is_at_rest = False
        self.is_waiting = True
        self.told: list[str] = []
        self.data_received = self.pieces.append

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.told.append("made")

    def connection_lost(self, exc: BaseException | None) -> None:
        self.told.append("lost")

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")


class Listener:
    """All that stands behind a connection, but for the socket and aiohttp."""

    def __init__(self, *, most_clients: int = 10, **config: Any) -> None:
        self.engine = FakeEngine()
        self.registry = ModelRegistry()
        for version in ("1.0", "2.0"):
            self.registry.add(deployment_of(key=ModelKey(KEY.name, version)))
        self.metrics = ServerMetrics(MetricsConfig())
        self.log: list[str] = []
        self.access_log = AccessLog(lambda text: self.log.extend(text.splitlines()))
        settings = HttpConfig(**{"max_request_size": LIMIT, **config})
        plane = LocalDataPlane(self.engine, self.registry, self.metrics)
        self.health = Health(plane)
        self.clients = Clients(most_clients, 75.0)
        self.exchange = Exchange(settings, self.health, self.metrics, self.access_log, self.clients)
        guard = Guard(Access(AccessConfig(tokens=False)), settings, Address(), ("inference",))
        table = RouteTable(self.exchange.answer, guard)
        refusals = Refusals(settings, self.metrics, table.description)
        shared = (plane, self.health, Bodies(settings))
        events = CloudEvents(settings)
        kserve = (KServeV1Routes(*shared, events), KServeV2Routes(*shared, events))
        for routes in (TorchServeRoutes(*shared), SageMakerRoutes(*shared), *kserve):
            routes.add_to(table)
        self.aiohttp: list[Aiohttp] = []
        heads = PlainHeads(table.plain, settings.max_request_size)
        self.front = Front(self.clients, refusals, self.exchange, plane, heads, guard, self._speak_aiohttp)

    def connect(self) -> tuple[Connection, Transport]:
        connection = Connection(self.front)
        transport = Transport()
        connection.connection_made(transport)
        return connection, transport

    def _speak_aiohttp(self, client: Client) -> Any:
        self.aiohttp.append(Aiohttp())
        return self.aiohttp[-1]

    @property
    def passed_on(self) -> list[bytes]:
        return [piece for connection in self.aiohttp for piece in connection.pieces]


async def turn() -> None:
    """What has been scheduled runs."""
    for _ in range(5):
        await asyncio.sleep(0)


# What is plain


@pytest.mark.parametrize(
    ("sent", "facts"),
    [
        (PLAIN, ("tiny", None, Verb.PREDICT, Envelope.NONE, "")),
        (post(method=b"PUT"), ("tiny", None, Verb.PREDICT, Envelope.NONE, "")),
        (post(b"Content-Type: Text/Plain; charset=utf-8"), ("tiny", None, Verb.PREDICT, Envelope.NONE, "Text/Plain")),
        (post(path=b"/predictions/tiny/1.0/a/b"), ("tiny", "1.0", Verb.PREDICT, Envelope.NONE, "")),
        (post(path=b"/explanations/tiny"), ("tiny", None, Verb.EXPLAIN, Envelope.NONE, "")),
        (post(path=b"/models/tiny/invoke"), ("tiny", None, Verb.PREDICT, Envelope.NONE, "")),
        (post(path=b"/v1/models/tiny:predict"), ("tiny", None, Verb.PREDICT, Envelope.KSERVE, "application/json")),
        (post(path=b"/v1/models/tiny:explain"), ("tiny", None, Verb.EXPLAIN, Envelope.KSERVE, "application/json")),
        (post(path=b"/v2/models/tiny/infer"), ("tiny", None, Verb.PREDICT, Envelope.KSERVE_V2, "application/json")),
        (
            post(path=b"/v2/models/tiny/versions/2.0/explain"),
            ("tiny", "2.0", Verb.EXPLAIN, Envelope.KSERVE_V2, "application/json"),
        ),
    ],
)
@virtual_time
async def test_plain_request_is_answered_without_aiohttp(sent: bytes, facts: tuple[object, ...]) -> None:
    listener = Listener()
    connection, transport = listener.connect()
    connection.data_received(sent)
    await turn()
    (job,) = listener.engine.jobs
    asked = job.request
    assert (asked.model, asked.version, asked.verb, asked.envelope, asked.parts[0].content_type) == facts
    assert (asked.parts[0].name, asked.parts[0].data) == ("body", b"7")
    assert transport.bodies == [b"7"]
    assert listener.aiohttp == []


ODD = {
    "another method": PING,
    "no method": b"hello\r\n\r\n",
    "half a head": PLAIN[:20],
    "line break": b"\r\n",
    "line break first": b"\r\n" + PLAIN,
    "unknown path": post(path=b"/nowhere"),
    "path of the legacy routes": post(path=b"/tiny/predict"),
    "no verb": post(path=b"/v1/models/tiny"),
    "unknown verb": post(path=b"/v1/models/tiny:dance"),
    "no model": post(path=b"/predictions/"),
    "query": post(path=b"/predictions/tiny?a=1"),
    "fragment": post(path=b"/predictions/tiny#a"),
    "escape": post(path=b"/predictions/t%69ny"),
    "empty segment": post(path=b"/predictions//tiny"),
    "dots": post(path=b"/predictions/../tiny"),
    "whole address": post(path=b"http://x/predictions/tiny"),
    "HTTP/1.0": PLAIN.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "two spaces": PLAIN.replace(b" HTTP", b"  HTTP"),
    "no length": PLAIN.replace(b"Content-Length: 1\r\n", b""),
    "length with a sign": PLAIN.replace(b"Length: 1", b"Length: +1"),
    "length with a zero first": PLAIN.replace(b"Length: 1", b"Length: 01"),
    "two lengths": post(b"content-length: 1"),
    "body over the limit": post(body=b"x" * (LIMIT + 1)),
    "no host": PLAIN.replace(b"Host: x\r\n", b""),
    "two hosts": post(b"host: y"),
    "a host that is none": PLAIN.replace(b"Host: x", b"Host: a b"),
    "form": post(b"Content-Type: multipart/form-data; boundary=cut"),
    "encoded form": post(b"Content-Type: Application/X-WWW-Form-Urlencoded"),
    "chunks": post(b"Transfer-Encoding: chunked"),
    "coding": post(b"Content-Encoding: gzip"),
    "expectation": post(b"Expect: 100-continue"),
    "upgrade": post(b"Connection: Upgrade", b"Upgrade: websocket"),
    "last request": post(b"Connection: close"),
    "binary tensors": post(b"Inference-Header-Content-Length: 1", path=b"/v2/models/tiny/infer"),
    "event in headers": post(b"ce-id: 1", path=b"/v1/models/tiny:predict"),
    "event as body": post(b"Content-Type: Application/CloudEvents+json", path=b"/v1/models/tiny:predict"),
    "time limit that is none": post(b"X-Request-Timeout-Ms: soon"),
    "unknown header": post(b"Trailer: x"),
    "repeated header": post(b"Accept: a", b"accept: b"),
    "underscore": post(b"x_a: 1"),
    "empty value": post(b"X-A: "),
    "no space": post(b"X-A:1"),
    "two spaces before a value": post(b"X-A:  1"),
    "space behind a value": post(b"X-A: 1 "),
    "space before the colon": post(b"X-A : 1"),
    "tabulator": post(b"X-A: a\tb"),
    "control character": post(b"X-A: a\x01b"),
    "zero byte": post(b"X-A: a\x00b"),
    "no ASCII": post(b"X-A: \xc3\xa4"),
    "folded": post(b"X-A: a\r\n b"),
    "line feed alone": post(b"X-A: a\nX-B: b"),
    "carriage return alone": post(b"X-A: a\rX-B: b"),
    "many headers": post(*(b"X-%d: 1" % number for number in range(100))),
    "long head": post(b"X-A: " + b"x" * 9000),
    "another request behind it": PLAIN + PLAIN,
    "nonsense behind it": PLAIN + b"\x00",
    "half a head behind it": PLAIN + PLAIN[:20],
}


@pytest.mark.parametrize("sent", [pytest.param(sent, id=name) for name, sent in ODD.items()])
@virtual_time
async def test_what_is_not_plain_is_aiohttps_byte_for_byte(sent: bytes) -> None:
    listener = Listener()
    connection, transport = listener.connect()
    connection.data_received(sent)
    await turn()
    assert listener.passed_on == [sent]
    assert (listener.engine.jobs, transport.pieces, listener.exchange.in_progress) == ([], [], 0)


@virtual_time
async def test_nothing_is_plain_where_no_route_is() -> None:
    """As with ``http_fast_path=false``, and on addresses without inference."""
    listener = Listener()
    listener.front = replace(listener.front, plain=PlainHeads((), LIMIT))
    connection, _ = listener.connect()
    connection.data_received(PLAIN)
    assert listener.passed_on == [PLAIN]


LINES = (
    b"User-Agent: me",
    b"X-Own: a: b",
    b"X-Request-Timeout-Ms: 1500",
    b"traceparent: " + TRACE,
    b"connection: Keep-Alive",
    b"Content-Type: a/b ; c=d",
)


@pytest.mark.parametrize(
    "path", [b"/predictions/tiny", b"/predictions/tiny/2.0/x/", b"/v1/models/tiny:predict", b"/v2/models/tiny/infer"]
)
async def test_both_ways_ask_the_same(path: bytes) -> None:
    asked = []
    for fast in (False, True):
        async with listening(fast_path=fast) as front:
            reader, writer = await front.connect()
            for number in range(3):  # a head that is known is not read again
                writer.write(post(*LINES, b"X-Number: %d" % (number // 2), path=path, body=b"%d" % number))
                await reader.readuntil(b"\r\n\r\n%d" % number)
            writer.close()
            asked += [job.request for job in front.engine.jobs]
    for request in asked[3:]:
        assert request.encoded_headers == encoded_headers(request.headers)
    asked = [replace(request, id="") for request in asked]
    assert asked[:3] == asked[3:]
    assert (asked[0].timeout, asked[0].trace_context) == (1.5, TRACE.decode())
    assert ("X-Own", "a: b") in asked[0].headers


# A body in pieces


@virtual_time
async def test_body_may_come_in_pieces() -> None:
    listener = Listener()
    body = bytes(range(100))
    sent = post(body=body)
    for first in range(len(sent) - len(body), len(sent)):
        connection, transport = listener.connect()
        for piece in (sent[:first], sent[first : first + 7], sent[first + 7 :]):
            if piece:
                connection.data_received(piece)
        await turn()
        assert transport.bodies == [body]
        connection.connection_lost(None)
    assert listener.aiohttp == []
    assert listener.exchange.in_progress == 0


@virtual_time
async def test_body_that_does_not_come_is_left_to_aiohttp_and_its_limits() -> None:
    listener = Listener()
    connection, _ = listener.connect()
    sent = post(body=b"12345")
    connection.data_received(sent[:-4])
    assert listener.exchange.in_progress == 1  # a server that stops waits for it
    connection.data_received(b"2")
    await asyncio.sleep(1)
    connection.data_received(b"3")
    assert listener.passed_on == [sent[:-3], b"3"]
    assert listener.exchange.in_progress == 0


@virtual_time
async def test_request_whose_body_has_come_is_not_given_away() -> None:
    listener = Listener()
    listener.engine.answer = silence
    connection, transport = listener.connect()
    connection.data_received(PLAIN[:-1])
    connection.data_received(b"7")
    await asyncio.sleep(1)
    assert (listener.aiohttp, connection.is_waiting) == ([], False)
    listener.engine.jobs[0].succeed(InferenceResponse(b"8"))
    await turn()
    assert (transport.bodies, connection.is_waiting) == ([b"8"], True)


@virtual_time
async def test_more_than_the_body_is_left_to_aiohttp() -> None:
    listener = Listener()
    connection, _ = listener.connect()
    connection.data_received(PLAIN[:-1])
    connection.data_received(b"7" + PING)
    await asyncio.sleep(1)
    assert listener.passed_on == [PLAIN[:-1], b"7" + PING]
    assert listener.engine.jobs == []


@pytest.mark.parametrize(
    ("step", "ours"),
    [pytest.param(262_144, True, id="comes on"), pytest.param(262_143, False, id="too slow for the short way")],
)
@virtual_time
async def test_large_body_is_waited_for_as_long_as_it_comes_on(step: int, ours: bool) -> None:
    listener = Listener(max_request_size=10_000_000)
    connection, transport = listener.connect()
    sent = post(body=bytes(range(256)) * 4 * 1024)
    connection.data_received(sent[:1000])
    taken = 1000
    while taken < len(sent) and isinstance(body := transport.protocol, IncomingBody):
        piece = sent[taken : taken + step]
        body.get_buffer(-1)[: len(piece)] = piece
        body.buffer_updated(len(piece))
        taken += len(piece)
        await asyncio.sleep(0.25)
    await turn()
    assert transport.protocol is connection
    if ours:
        assert transport.bodies == [sent.partition(b"\r\n\r\n")[2]]
    assert listener.passed_on == ([] if ours else [sent[:taken]])


@pytest.mark.parametrize("cuts", [[], [1000], [30_000], [1000, 30_000]])
@virtual_time
async def test_large_body_is_received_where_its_worker_can_take_it_from(cuts: list[int]) -> None:
    listener = Listener(max_request_size=10_000_000)
    connection, transport = listener.connect()
    sent = post(body=b"x" * 50_000)
    for begin, end in pairwise([0, *cuts, len(sent)]):
        connection.data_received(sent[begin:end])
    await turn()
    assert transport.bodies == [b"x" * 50_000]
    assert isinstance(listener.engine.jobs[0].request.parts[0].data, memoryview), "as the engine gave it"


# One request behind the other


@virtual_time
async def test_requests_that_come_while_one_runs_are_answered_in_their_order() -> None:
    listener = Listener()
    listener.engine.answer = silence
    connection, transport = listener.connect()
    for body in (b"a", b"b", b"c"):
        connection.data_received(post(body=body))
    for number, body in enumerate((b"a", b"b", b"c")):
        assert len(listener.engine.jobs) == number + 1
        listener.engine.jobs[-1].succeed(InferenceResponse(body))
        await turn()
    assert transport.bodies == [b"a", b"b", b"c"]


@pytest.mark.parametrize("behind", [[PING, b"x" * 70_000], [b"x"] * 17], ids=["bytes", "pieces"])
@virtual_time
async def test_what_comes_while_a_request_runs_is_bounded(behind: list[bytes]) -> None:
    listener = Listener()
    listener.engine.answer = silence
    connection, transport = listener.connect()
    reads = []
    for piece in (PLAIN, *behind):
        connection.data_received(piece)
        reads.append(transport.reads)
    listener.engine.jobs[0].succeed(InferenceResponse(b""))
    await turn()
    assert [*reads, transport.reads] == [*[True] * len(behind), False, True]
    assert listener.passed_on == behind


@virtual_time
async def test_connection_comes_back_from_aiohttp_when_that_is_at_rest() -> None:
    listener = Listener()
    connection, transport = listener.connect()
    connection.data_received(PING)
    connection.data_received(PLAIN)  # which must not overtake the answer to the first
    listener.aiohttp[0].is_at_rest = True
    connection.data_received(PLAIN)
    connection.data_received(PING)
    await turn()
    assert listener.passed_on == [PING, PLAIN, PING]
    assert transport.bodies == [b"7"]
    assert len(listener.aiohttp) == 1


@virtual_time
async def test_client_that_does_not_take_its_answers_gets_no_more() -> None:
    listener = Listener()
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    await turn()
    connection.pause_writing()
    connection.data_received(PLAIN)
    connection.data_received(PING)
    await turn()
    assert (len(listener.engine.jobs), listener.passed_on) == (1, [])
    connection.resume_writing()
    await turn()
    assert (len(listener.engine.jobs), listener.passed_on) == (2, [PING])
    assert transport.bodies == [b"7", b"7"]


@virtual_time
async def test_answer_that_fills_the_connection_is_the_last_for_now() -> None:
    listener = Listener()
    listener.engine.answer = silence
    connection, _ = listener.connect()
    for body in (b"a", b"b"):
        connection.data_received(post(body=body))
    connection.pause_writing()
    listener.engine.jobs[0].succeed(InferenceResponse(b"a"))
    await turn()
    assert len(listener.engine.jobs) == 1
    connection.resume_writing()
    assert len(listener.engine.jobs) == 2


@virtual_time
async def test_aiohttp_hears_of_a_client_that_is_behind() -> None:
    listener = Listener()
    connection, _ = listener.connect()
    connection.pause_writing()
    connection._pass_on(PING)
    connection.resume_writing()
    assert listener.aiohttp[0].told == ["made", "pause", "resume"]


FORM = b"--cut\r\nContent-Disposition: form-data; name=a\r\n\r\n1\r\n--cut--\r\n"
MULTIPART = post(b"Content-Type: multipart/form-data; boundary=cut", body=FORM)
CHUNKED = PLAIN.replace(b"Content-Length: 1", b"Transfer-Encoding: chunked")[:-1] + b"1\r\n7\r\n0\r\n\r\n"
HALF = b"GET /ping HTTP/1.1\r\nX: "  # of a head
UPGRADE = PING[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
EXPECTING = post(b"Expect: 100-continue")


@pytest.mark.parametrize(
    ("pieces", "by_aiohttp"),
    [
        pytest.param([PLAIN], 0, id="plain"),
        pytest.param([PING], 1, id="no body"),
        pytest.param([MULTIPART], 1, id="body"),
        pytest.param([MULTIPART[:-10], MULTIPART[-10:]], 1, id="body in pieces"),
        pytest.param([CHUNKED], 1, id="chunks"),
        pytest.param([PLAIN + PING], 2, id="two at once"),
        pytest.param([PING + PING], 2, id="two at once without bodies"),
        pytest.param([PLAIN[:30], PLAIN[30:]], 1, id="head in pieces"),
        pytest.param([PING, b"\r\n"], 1, id="a line break behind"),
        pytest.param([EXPECTING[:-1], b"7"], 1, id="continue"),
        pytest.param([UPGRADE], 1, id="another protocol that there is not"),
    ],
)
async def test_next_request_is_answered_here_again(
    pieces: list[bytes], by_aiohttp: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = count_aiohttps_answers(monkeypatch)
    async with listening() as front:
        reader, writer = await front.connect()
        for _ in range(2):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0.02)  # the pieces are to come apart
            answered = await ask_here(reader, writer)
            assert answered.count(b"HTTP/1.1 200 OK") == max(by_aiohttp, 1) + 1
        writer.close()
    assert len(answers) == 2 * by_aiohttp


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([PING, HALF, PLAIN], id="in a head"),
        pytest.param([PING + HALF, PLAIN], id="in a head behind a request"),
        pytest.param([MULTIPART + HALF, PLAIN], id="in a head behind a body"),
        pytest.param([MULTIPART, HALF.ljust(len(FORM), b"x"), PLAIN], id="in a head as long as the last body"),
        pytest.param([post(b"Content-Encoding: x", body=PLAIN)[: -len(PLAIN)], PLAIN], id="in a body"),
        pytest.param(
            [PLAIN.replace(b"Content-Length: 1", b"Content-Length: %d" % len(PLAIN))[:-1], PLAIN], id="in ours"
        ),
    ],
)
async def test_what_looks_plain_inside_of_another_request_is_a_part_of_it(
    pieces: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy before us would have been told of one answer too many."""
    asked = len(b"".join(pieces).split(b"\r\n\r\n"))
    async with listening() as front:
        reader, writer = await front.connect()
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0.02)  # the pieces are to come apart
        writer.write(post(b"Connection: close", body=b"the last"))
        answered = await reader.read()
        bodies = [bytes(job.request.parts[0].data) for job in front.engine.jobs]
        writer.close()
    assert b"7" not in bodies
    assert bodies[-1] == b"the last"
    assert answered.count(b"HTTP/1.1 ") <= asked


def count_aiohttps_answers(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    answers: list[None] = []
    answer = Exchange.answer

    def counted(self: Exchange, *args: Any) -> Any:
        answers.append(None)
        return answer(self, *args)

    monkeypatch.setattr(Exchange, "answer", counted)
    return answers


async def ask_here(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """A plain request; all that has come up to the end of its answer."""
    writer.write(post(body=b"the last"))
    return await reader.readuntil(b"the last")


# Ends


def begin_body(listener: Listener, connection: Connection) -> None:
    connection.data_received(PLAIN[:-1])


def ask(listener: Listener, connection: Connection) -> None:
    connection.data_received(PLAIN)


def ask_twice(listener: Listener, connection: Connection) -> None:
    connection.data_received(PLAIN)
    connection.data_received(PLAIN)


def begin_stream(listener: Listener, connection: Connection) -> None:
    connection.data_received(PLAIN)
    listener.engine.jobs[0].add_piece(InferenceResponse(b"one"))


@pytest.mark.parametrize("turns", [0, 5])
@pytest.mark.parametrize("before", [begin_body, ask, ask_twice, begin_stream])
@virtual_time
async def test_client_that_leaves_frees_all_that_it_had(
    before: Callable[[Listener, Connection], None], turns: int, caplog: pytest.LogCaptureFixture
) -> None:
    listener = Listener()
    unwanted: list[Job] = []

    def hold(job: Job) -> None:
        job.holder = Holder(unwanted.append)

    listener.engine.answer = hold
    connection, transport = listener.connect()
    before(listener, connection)
    for _ in range(turns):
        await asyncio.sleep(0)
    transport.close()
    connection.connection_lost(None)
    await asyncio.sleep(1)
    assert unwanted == listener.engine.jobs
    assert len(listener.engine.jobs) == (0 if before is begin_body else 1)
    listener.access_log.flush()
    assert (listener.exchange.in_progress, listener.clients.open, listener.log) == (0, set(), [])
    assert caplog.records == []


@virtual_time
async def test_answer_that_comes_while_the_connection_closes_is_not_written(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    listener.engine.answer = silence
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    transport.close()
    listener.engine.jobs[0].succeed(InferenceResponse(b"7"))
    connection.connection_lost(None)
    assert (transport.pieces, listener.exchange.in_progress, caplog.records) == ([], 0, [])


@virtual_time
async def test_aiohttp_hears_of_a_client_that_has_left() -> None:
    listener = Listener()
    connection, _ = listener.connect()
    connection.data_received(PING)
    connection.connection_lost(None)
    assert listener.aiohttp[0].told == ["made", "lost"]


@virtual_time
async def test_answer_of_a_server_that_stops_is_the_last_one() -> None:
    listener = Listener()
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    connection.data_received(PLAIN)
    listener.health.stopping = True
    await turn()
    (answer,) = transport.pieces
    assert b"\r\nConnection: close\r\n" in answer
    assert transport.closed
    assert not transport.aborted


@virtual_time
async def test_client_is_closed_when_it_has_been_idle_for_the_keep_alive_time() -> None:
    listener = Listener()
    listener.engine.answer = silence
    watching = asyncio.create_task(listener.clients.watch())
    silent, busy, answered, unsent, aiohttp = (listener.connect() for _ in range(5))
    busy[0].data_received(PLAIN)
    aiohttp[0].data_received(PING)
    await asyncio.sleep(60)
    answered[0].data_received(PLAIN)
    listener.engine.jobs[-1].succeed(InferenceResponse(b""))
    unsent[1].unsent = 1
    await asyncio.sleep(17)
    ends = [transport for _, transport in (silent, busy, answered, unsent, aiohttp)]
    assert [transport.closed for transport in ends] == [True, False, False, False, True]
    await asyncio.sleep(60)
    assert [transport.closed for transport in ends] == [True, False, True, False, True]
    watching.cancel()


@virtual_time
async def test_client_for_whom_there_is_no_room_is_told_so() -> None:
    listener = Listener(most_clients=1)
    listener.engine.answer = silence
    connection, _ = listener.connect()
    connection.data_received(PLAIN)
    refused, transport = listener.connect()
    assert transport.pieces[0].startswith(b"HTTP/1.1 503")
    assert transport.closed
    refused.connection_lost(None)
    assert listener.clients.open == {connection}


@virtual_time
async def test_client_that_has_left_is_not_kept_as_idle() -> None:
    """aiohttp's handlers end after their client has gone."""
    listener = Listener()
    connection, _ = listener.connect()
    listener.exchange.begin(connection)
    connection.connection_lost(None)
    listener.exchange.end(connection)
    assert connection not in listener.clients._idle


# Answers


@virtual_time
async def test_answer_goes_out_in_one_piece_and_is_recorded() -> None:
    listener = Listener(cors={"access-control-allow-origin": "*"})
    answer = InferenceResponse(b"yes", 201, "Made", "text/plain", (("X-Own", "1"), ("Connection", "close")))
    listener.engine.answer = lambda job: job.succeed(answer)
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    await turn()
    (piece,) = transport.pieces
    head, _, body = piece.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    request_id = listener.engine.jobs[0].request.id.encode()
    assert (first, body) == (b"HTTP/1.1 201 Made", b"yes")
    assert [line for line in lines if line.startswith((b"X-", b"x-", b"Con", b"a"))] == [
        b"X-Own: 1",
        b"Content-Type: text/plain",
        b"Content-Length: 3",
        b"access-control-allow-origin: *",
        b"x-request-id: " + request_id,
    ]
    listener.access_log.flush()
    assert ' - /10.0.0.1:5 "POST /predictions/tiny HTTP/1.1" 201 ' in listener.log[0]
    assert "\nRequests2XX{" in listener.metrics.registry.render(["Requests2XX"])
    assert connection.written == 3


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("streamed", [False, True])
@virtual_time
async def test_answer_without_a_body_has_none(status: int, streamed: bool) -> None:
    listener = Listener()

    def answer(job: Job) -> None:
        if streamed:
            job.add_piece(InferenceResponse(b"no", status))
        else:
            job.succeed(InferenceResponse(b"no", status))

    listener.engine.answer = answer
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    await turn()
    (piece,) = transport.pieces
    assert piece.endswith(b"\r\n\r\n")
    assert b"Content-Length" not in piece
    assert not listener.engine.jobs[0].wanted
    assert connection.is_waiting


@virtual_time
async def test_answer_is_not_copied() -> None:
    listener = Listener()
    body = b"x" * 100_000
    listener.engine.answer = lambda job: job.succeed(InferenceResponse(body))
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    await turn()
    assert transport.last[1] is body


@pytest.mark.parametrize(
    ("path", "refusal", "status"),
    [
        (b"/predictions/unknown", None, 404),
        (b"/predictions/tiny", QueueFull("tiny", 1), 503),
        (b"/v2/models/tiny/infer", QueueFull("tiny", 1), 503),
    ],
)
@virtual_time
async def test_refusal_is_told_and_the_connection_goes_on(path: bytes, refusal: QueueFull | None, status: int) -> None:
    listener = Listener()
    listener.engine.refusal = refusal
    connection, transport = listener.connect()
    connection.data_received(post(path=path))
    listener.engine.refusal = None
    connection.data_received(PLAIN)
    await turn()
    told = json.loads(transport.bodies[0])
    assert (told["code"], "error" in told) == (status, path.startswith(b"/v2"))
    assert transport.bodies[1] == b"7"
    assert (b"\r\nRetry-After: " in transport.pieces[0]) is (status == 503)
    assert listener.exchange.in_progress == 0


@virtual_time
async def test_answers_of_a_batch_are_written_one_after_the_other() -> None:
    """A client on another core was woken by each of them, and slept again while the next one was being made."""
    listener = Listener()
    listener.engine.answer = silence
    pairs = [listener.connect() for _ in range(3)]
    for connection, _ in pairs:
        connection.data_received(PLAIN)
    seen = []
    for job in listener.engine.jobs:
        job.succeed(InferenceResponse(b"7"))
        seen.append([transport.bodies for _, transport in pairs])
    await turn()
    assert seen == [[[], [], []]] * 3
    assert [transport.bodies for _, transport in pairs] == [[b"7"]] * 3


@virtual_time
async def test_large_answer_is_written_at_once_and_what_is_held_behind_it_is_asked() -> None:
    """Else its client could send the next body before the memory of this one is free."""
    listener = Listener()
    listener.engine.answer = silence
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    connection.data_received(PLAIN)
    listener.engine.jobs[0].succeed(InferenceResponse(b"x" * 100_000))
    assert [len(body) for body in transport.bodies] == [100_000]
    assert len(listener.engine.jobs) == 2


@virtual_time
async def test_client_that_goes_before_its_answer_is_written_harms_nobody() -> None:
    listener = Listener()
    listener.engine.answer = silence
    (gone, gone_transport), (stays, transport) = [listener.connect() for _ in range(2)]
    for connection in (gone, stays):
        connection.data_received(PLAIN)
    for job in listener.engine.jobs:
        job.succeed(InferenceResponse(b"7"))
    gone.connection_lost(None)
    await turn()
    assert (gone_transport.bodies, transport.bodies, listener.exchange.in_progress) == ([], [b"7"], 0)


@virtual_time
async def test_failure_of_ours_is_500_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()

    def fail(job: Job) -> None:
        raise RuntimeError("of ours")

    listener.engine.answer = fail
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    await turn()
    assert json.loads(transport.bodies[0])["code"] == 500
    assert "POST /predictions/tiny HTTP/1.1 failed unexpectedly" in caplog.text
    assert connection.is_waiting


@virtual_time
async def test_failure_while_an_answer_is_written_ends_the_connection_and_nothing_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener()
    listener.engine.answer = silence
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    monkeypatch.setattr(listener.exchange, "answer_to", None)
    listener.engine.jobs[0].succeed(InferenceResponse(b"7"))  # the engine does not hear of it
    assert "failed unexpectedly" in caplog.text
    assert transport.aborted


@pytest.mark.parametrize("status", [99, 600])
@virtual_time
async def test_status_that_is_none_is_500(status: int) -> None:
    listener = Listener()
    listener.engine.answer = lambda job: job.succeed(InferenceResponse(b"", status))
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    await turn()
    assert transport.pieces[0].startswith(b"HTTP/1.1 500")


# Streamed answers


@virtual_time
async def test_streamed_answer_is_sent_in_chunks_as_it_comes() -> None:
    listener = Listener()
    listener.engine.answer = silence
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    connection.data_received(post(body=b"next"))
    job = listener.engine.jobs[0]
    job.add_piece(InferenceResponse(b"one", content_type="text/plain"))
    await turn()
    assert b"\r\nTransfer-Encoding: chunked\r\n" in transport.pieces[0]
    assert transport.pieces[1:] == [b"3\r\none\r\n"]
    job.add_piece(InferenceResponse(b"two"))
    job.succeed(InferenceResponse(b""))
    listener.engine.answer = lambda job: job.succeed(InferenceResponse(b"8"))
    await turn()
    assert transport.pieces[2:4] == [b"3\r\ntwo\r\n", b"0\r\n\r\n"]
    assert transport.pieces[4].endswith(b"\r\n\r\n8")
    assert connection.written == len(b"".join(transport.pieces[1:4]) + b"8")
    assert connection.is_waiting


@virtual_time
async def test_stream_waits_for_a_client_that_is_behind() -> None:
    listener = Listener()
    listener.engine.answer = silence
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    connection.pause_writing()
    job = listener.engine.jobs[0]
    for _ in range(3):
        job.add_piece(InferenceResponse(b"one"))
    await turn()
    assert len(transport.pieces) == 2
    connection.resume_writing()
    await turn()
    assert len(transport.pieces) == 4


@virtual_time
async def test_stream_that_breaks_off_has_no_end_mark(caplog: pytest.LogCaptureFixture) -> None:
    listener = Listener()
    listener.engine.answer = silence
    connection, transport = listener.connect()
    connection.data_received(PLAIN)
    connection.data_received(PLAIN)
    listener.engine.jobs[0].add_piece(InferenceResponse(b"one"))
    listener.engine.jobs[0].fail(WorkerDied("It was shot."))
    await turn()
    assert transport.pieces[-1] == b"3\r\none\r\n"
    assert transport.aborted
    assert "broke off: Worker died. It was shot." in caplog.text
    assert len(listener.engine.jobs) == 1
    connection.connection_lost(None)
    assert listener.exchange.in_progress == 0
