"""Server-Sent Events: who gets them, what they carry, and that both ways into the front send the same."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.fake_engine import silence
from tests.sse import Event, events_in
from tests.virtual_time import virtual_time
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.core.streams import AnswerStream, Buffer
from torchserve_lite.errors import PredictionFailed, WorkerDied
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.http.events import Events, OwnEvents, accepts_events, pieces_of

from .conftest import Front, listening
from .test_fast_path import Listener, post, turn

ACCEPT = b"Accept: text/event-stream"
WAYS = pytest.mark.parametrize("way", [b"", b"\r\nX_Odd: 1"], ids=["fast path", "aiohttp"])


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    async with listening(sse_heartbeat=0.01) as made:
        yield made


def answering(*pieces: bytes, failure: PredictionFailed | WorkerDied | None = None, **facts: Any) -> Any:
    def answer(job: Job) -> None:
        for piece in pieces[: None if failure else -1]:
            job.add_piece(InferenceResponse(piece, **{"content_type": "text/plain", **facts}))
        if failure:
            job.fail(failure)
        else:
            job.succeed(InferenceResponse(pieces[-1]))

    return answer


def split(raw: bytes) -> tuple[bytes, bytes]:
    """Head and body of a chunked answer that has its end mark; the body without the chunks' frames and heartbeats."""
    head, _, chunks = raw.partition(b"\r\n\r\n")
    assert chunks.endswith(b"0\r\n\r\n")
    body = b""
    while size := int(chunks[: chunks.index(b"\r\n")], 16):
        begin = chunks.index(b"\r\n") + 2
        body += chunks[begin : begin + size]
        chunks = chunks[begin + size + 2 :]
    return head, body.replace(b": heartbeat\n\n", b"")


@pytest.mark.parametrize(
    ("accept", "taken"),
    [
        ("text/event-stream", True),
        ("application/json, text/event-stream", True),
        ("Text/Event-Stream;Q=0.1", True),
        ('text/plain;a="b, c" , text/event-stream;charset="utf-8";q=1.0', True),
        ("", False),
        ("*/*", False),
        ("text/*", False),
        ("text/event-stream;q=0", False),
        ("text/event-stream; q=0.000, */*", False),
        ("text/event-stream;q=much", False),
        ('text/plain;a=", text/event-stream,"', False),
        ("text/event-streams", False),
    ],
)
def test_events_are_for_clients_that_name_them(accept: str, taken: bool) -> None:
    assert accepts_events(accept) is taken


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param([b"one", b" two"], [Event("one"), Event(" two")], id="an event a piece"),
        pytest.param([b"a\nb\r\nc\rd\n"], [Event("a\nb\nc\nd\n")], id="lines"),
        pytest.param([b"a\x0bb\xe2\x80\xa8"], [Event("a\x0bb\u2028")], id="no line breaks of events"),
        pytest.param([b"\n"], [Event("\n")], id="a line break alone"),
        pytest.param([b"sm\xc3", b"\xb6r"], [Event("sm"), Event("ör")], id="a character in two pieces"),
        pytest.param([b"\xf0", b"\x9f\x98", b"\x80"], [Event("😀")], id="a character in three pieces"),
        pytest.param([bytearray(b"a"), memoryview(b"b")], [Event("a"), Event("b")], id="any kind of bytes"),
        pytest.param([b"\xff\x00", b"a"], [Event("/wA=", "base64"), Event("a")], id="no text"),
        pytest.param([b"a\xc3", b"\xc3\xb6"], [Event("a"), Event("w8O2", "base64")], id="what was held is no text"),
        pytest.param([b"a\xc3"], [Event("a"), Event("ww==", "base64")], id="half a character at the end"),
    ],
)
def test_pieces_become_events_without_a_loss(pieces: list[Buffer], expected: list[Event]) -> None:
    events = Events(ErrorForm.TORCHSERVE, None)
    assert events_in(b"".join([*map(bytes, map(events.piece, pieces)), events.rest()])) == expected


def test_failure_comes_behind_what_was_held() -> None:
    events = Events(ErrorForm.TORCHSERVE, None)
    held, failure = events_in(bytes(events.piece(b"\xc3")) + (events.failure(WorkerDied("It was shot.")) or b""))
    assert held == Event(base64.b64encode(b"\xc3").decode(), "base64")
    assert failure.name == "error"


@pytest.mark.parametrize("event", [b"data: a\n\n", b"data: a\r\r", b"data: a\r\n\r\n", b"data: a\r\n\n"])
def test_only_between_two_of_a_handlers_own_events_may_others_stand(event: bytes) -> None:
    events = OwnEvents(ErrorForm.TORCHSERVE, 1.0)
    told = [(events.may_beat, events.failure(WorkerDied("It was shot.")) is not None)]
    for byte in event:
        assert events.piece(bytes([byte])) == bytes([byte])
        told.append((events.may_beat, events.failure(WorkerDied("It was shot.")) is not None))
    assert told == [(True, True), *[(False, False)] * (len(event) - 1), (True, True)]


def test_content_that_is_encoded_is_sent_as_it_is() -> None:
    zipped = InferenceResponse(b"\x1f", headers=(("Content-Encoding", "gzip"),), stream=AnswerStream(lambda: None))
    sent, pieces = pieces_of(zipped, ErrorForm.TORCHSERVE, None, wants_events=True)
    assert sent is zipped
    assert pieces.piece(b"\x1f") == b"\x1f"


@WAYS
async def test_client_that_accepts_events_gets_an_event_for_each_piece(front: Front, way: bytes) -> None:
    front.engine.answer = answering(b"one", b"", b"two\nlines", b"end", status=201, headers=(("X-Own", "1"),))
    head, body = split(await front.raw(ACCEPT + way + b"\r\nContent-Length: 1", b"7"))
    lines = set(head.split(b"\r\n"))
    assert head.startswith(b"HTTP/1.1 201 Created\r\n")
    assert {b"Content-Type: text/event-stream", b"X-Accel-Buffering: no", b"X-Own: 1"} <= lines
    assert b"text/plain" not in head
    assert any(line.startswith(b"Cache-Control: no-cache") for line in lines)
    assert body == b"data: one\n\ndata: two\ndata: lines\n\ndata: end\n\n"


@WAYS
async def test_answer_in_one_piece_is_the_same_for_clients_that_accept_events(front: Front, way: bytes) -> None:
    raw = await front.raw(ACCEPT + way + b"\r\nContent-Length: 1", b"7")
    assert raw.endswith(b"\r\n\r\n7")
    assert b"text/plain" in raw


@WAYS
@pytest.mark.parametrize("accept", [b"Accept: */*", ACCEPT], ids=["any", "events"])
async def test_handlers_own_events_are_not_changed(front: Front, way: bytes, accept: bytes) -> None:
    kind = "Text/Event-Stream; charset=utf-8"
    front.engine.answer = answering(b"id: 1\ndata: a\n\n", b"data: b\r\n\r\n", content_type=kind)
    head, body = split(await front.raw(accept + way + b"\r\nContent-Length: 1", b"7"))
    assert f"Content-Type: {kind}".encode() in head.split(b"\r\n")
    assert b"X-Accel-Buffering: no" in head
    assert body == b"id: 1\ndata: a\n\ndata: b\r\n\r\n"


async def test_events_that_a_handler_calls_text_are_taken_for_events(front: Front) -> None:
    """TorchServe's handler for vLLM does not say what its chunks are."""
    front.engine.answer = answering(b'data: {"id": 1}\n\n', b"data: [DONE]\n\n")
    head, body = split(await front.raw(ACCEPT + b"\r\nContent-Length: 1", b"7"))
    assert b"Content-Type: text/event-stream\r\n" in head
    assert body == b'data: {"id": 1}\n\ndata: [DONE]\n\n'


@WAYS
@pytest.mark.parametrize(
    ("path", "status"), [(b"/predictions/tiny", 503), (b"/v1/models/tiny:predict", 500)], ids=["TorchServe", "V1"]
)
async def test_broken_stream_ends_with_an_event_and_the_connection_goes_on(
    front: Front, way: bytes, path: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    front.engine.answer = answering(b"one", failure=PredictionFailed("No more.\nReally."))
    reader, writer = await front.connect()
    sent = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n" + ACCEPT + way + b"\r\nContent-Length: 1\r\n\r\n7"
    for _ in range(2):
        writer.write(sent)
        _, body = split(await reader.readuntil(b"\r\n0\r\n\r\n"))
        one, error = events_in(body)
        assert (one, error.name) == (Event("one"), "error")
        told = json.loads(error.data)
        assert (told["code"], told["type"], told["message"]) == (status, "InternalServerException", "No more.\nReally.")
        assert told["error"]
    assert "broke off: No more." in caplog.text
    writer.close()


@WAYS
async def test_handlers_own_event_that_breaks_off_in_the_middle_has_no_end_mark(front: Front, way: bytes) -> None:
    front.engine.answer = answering(b"data: a", failure=WorkerDied("Shot."), content_type="text/event-stream")
    raw = await front.raw(ACCEPT + way + b"\r\nContent-Length: 1", b"7")
    assert raw == b"" or raw.endswith(b"data: a\r\n")  # the connection is reset, and bytes may be lost with it


async def test_events_for_a_client_of_http_1_0_end_with_the_connection(front: Front) -> None:
    front.engine.answer = answering(b"one", failure=WorkerDied("It was shot."))
    reader, writer = await front.connect()
    writer.write(b"POST /predictions/tiny HTTP/1.0\r\n" + ACCEPT + b"\r\nContent-Length: 1\r\n\r\n7")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert b"Content-Type: text/event-stream\r\n" in head
    assert b"chunked" not in head
    assert [event.name for event in events_in(body)] == ["message", "error"]
    writer.close()


@WAYS
async def test_get_of_a_browser_is_answered_with_events(front: Front, way: bytes) -> None:
    front.engine.answer = answering(b"one", b"end")
    reader, writer = await front.connect()
    writer.write(b"GET /models/tiny/invoke?data=7 HTTP/1.1\r\nHost: x\r\n" + ACCEPT + way + b"\r\n\r\n")
    _, body = split(await reader.readuntil(b"\r\n0\r\n\r\n"))
    assert events_in(body) == [Event("one"), Event("end")]
    writer.close()


@WAYS
async def test_heartbeats_come_while_nothing_else_does(front: Front, way: bytes) -> None:
    front.engine.answer = lambda job: job.add_piece(InferenceResponse(b"one"))
    reader, writer = await front.connect()
    head = b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n"
    writer.write(head + ACCEPT + way + b"\r\n\r\n7")
    begun = await reader.readuntil(b": heartbeat\n\n")
    assert re.search(rb"\r\nb\r\ndata: one\n\n\r\nd\r\n: heartbeat\n\n$", begun)
    await reader.readuntil(b": heartbeat\n\n")
    front.engine.jobs[0].succeed(InferenceResponse(b"end"))
    await reader.readuntil(b"\r\nb\r\ndata: end\n\n\r\n0\r\n\r\n")
    writer.close()


@virtual_time
async def test_heartbeats_wait_for_the_end_of_a_handlers_own_event() -> None:
    listener = Listener()
    listener.engine.answer = silence
    connection, transport = listener.connect()
    connection.data_received(post())
    job = listener.engine.jobs[0]
    job.add_piece(InferenceResponse(b"data: a\n", content_type="text/event-stream"))
    await asyncio.sleep(100)
    assert transport.pieces[1:] == [b"8\r\ndata: a\n\r\n"]
    job.add_piece(InferenceResponse(b"\n"))
    await asyncio.sleep(14)
    assert transport.pieces[2:] == [b"1\r\n\n\r\n"]
    await asyncio.sleep(2)
    assert transport.pieces[3:] == [b"d\r\n: heartbeat\n\n\r\n"]


@pytest.mark.parametrize(("accept", "seconds"), [(b"Accept: */*", 15.0), (ACCEPT, 0.0)], ids=["chunks", "off"])
@virtual_time
async def test_there_are_no_heartbeats_for_others(accept: bytes, seconds: float) -> None:
    listener = Listener(sse_heartbeat=seconds)
    listener.engine.answer = silence
    connection, transport = listener.connect()
    connection.data_received(post(accept))
    listener.engine.jobs[0].add_piece(InferenceResponse(b"one"))
    await asyncio.sleep(1000)
    assert len(transport.pieces) == 2
    listener.engine.jobs[0].succeed(InferenceResponse(b""))
    await turn()
    assert transport.pieces[-1] == b"0\r\n\r\n"
