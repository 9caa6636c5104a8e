"""Bodies come in within their limit, at a minimum pace, and not before they are asked for."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc

import pytest

from torchserve_lite.core.requests import InferenceResponse, Part
from torchserve_lite.protocols.http import forms

from .conftest import LIMIT, Front, listening

ROUTES = [
    pytest.param(b"/predictions/tiny", id="torchserve"),
    pytest.param(b"/v1/models/tiny:predict", id="v1"),
    pytest.param(b"/v2/models/tiny/infer", id="v2"),
    pytest.param(b"/invocations?model_name=tiny", id="sagemaker"),
]


def head(target: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"POST " + target + b" HTTP/1.1", b"Host: x", *lines, b"", b""])


@pytest.mark.parametrize("target", ROUTES)
async def test_body_is_asked_for_when_its_client_waits_for_that(front: Front, target: bytes) -> None:
    reader, writer = await front.connect()
    writer.write(head(target, b"Content-Length: 1", b"Expect: 100-continue"))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"7")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


@pytest.mark.parametrize(
    ("target", "length", "status"),
    [
        pytest.param(b"/predictions/tiny", b"10000000000", b"413", id="torchserve"),
        pytest.param(b"/v1/models/tiny:predict", b"10000000000", b"413", id="v1"),
        pytest.param(b"/v2/models/tiny/infer", b"10000000000", b"413", id="v2"),
        pytest.param(b"/invocations?model_name=tiny", b"10000000000", b"413", id="sagemaker"),
        pytest.param(b"/predictions/tiny", b"%d" % (LIMIT + 1), b"413", id="one too many"),
        pytest.param(b"/predictions/unknown", b"7", b"404", id="unknown model"),
        pytest.param(b"/nowhere", b"7", b"404", id="unknown route"),
    ],
)
async def test_body_that_would_be_refused_is_not_asked_for(
    front: Front, target: bytes, length: bytes, status: bytes
) -> None:
    reader, writer = await front.connect()
    writer.write(head(target, b"Content-Length: " + length, b"Expect: 100-continue"))
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.split(b" ", 2)[1] == status
    assert b"\r\nConnection: close\r\n" in answer  # or the next request would be taken for the body
    writer.close()


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize("expectation", [b"the-unexpected", b"\xff", b"100-continue, x"])
async def test_expectation_that_cannot_be_met_is_refused(front: Front, target: bytes, expectation: bytes) -> None:
    answer = await front.raw(b"Content-Length: 1\r\nExpect: " + expectation, b"7", target=target)
    assert answer.startswith(b"HTTP/1.1 417")
    assert b'"code": 417' in answer


@pytest.mark.parametrize("target", ROUTES)
async def test_endless_chunks_are_refused_when_they_pass_the_limit(front: Front, target: bytes) -> None:
    reader, writer = await front.connect()
    writer.write(head(target, b"Transfer-Encoding: chunked") + b"1\r\nx\r\n" * (LIMIT + 1))
    answer = await reader.readuntil(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")
    assert f"max_request_size={LIMIT}".encode() in await reader.readuntil(b"}")
    writer.close()


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize(
    ("framing", "sent"),
    [
        pytest.param(b"Content-Length: 1000", b"", id="nothing"),
        pytest.param(b"Content-Length: 1000", b"7", id="a byte"),
        pytest.param(b"Transfer-Encoding: chunked", b"3e8\r\n7", id="half a chunk"),
        pytest.param(b"Transfer-Encoding: chunked", b"1\r\n7\r\n", id="no last chunk"),
    ],
)
async def test_body_that_never_ends_is_given_up(target: bytes, framing: bytes, sent: bytes) -> None:
    async with listening(slow_client_seconds=0.05, slow_client_rate=1000.0) as front:
        reader, writer = await front.connect()
        writer.write(head(target, framing) + sent)
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 408")
        assert b"\r\nConnection: close\r\n" in answer
        assert b"slow_client_seconds" in await reader.readuntil(b"}")
        assert front.engine.jobs == []
        writer.close()


@pytest.mark.parametrize("target", ROUTES)
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(b"zz\r\n7\r\n0\r\n\r\n", id="size is no number"),
        pytest.param(b"-1\r\n7\r\n", id="negative size"),
        pytest.param(b"0x1\r\n7\r\n", id="size with a prefix"),
        pytest.param(b"fffffffffffffffff\r\n7\r\n", id="size beyond 64 bits"),
        pytest.param(b"1\n7\n0\n\n", id="bare line feeds"),
        pytest.param(b"1\r\n77\r\n", id="longer than it says"),
        pytest.param(b"1;a\nb\r\n7\r\n", id="line feed in an extension"),
        pytest.param(b"0\r\nno trailer\r\n\r\n", id="trailer that is no header"),
        pytest.param(b"0\r\nContent-Length : 1\r\n\r\n", id="trailer with a space before its colon"),
    ],
)
async def test_body_whose_chunks_break_is_refused_at_once_and_once(target: bytes, broken: bytes) -> None:
    """It was answered 408 when the window of the minimum pace had passed."""
    async with listening(slow_client_seconds=600.0) as front:
        reader, writer = await front.connect()
        writer.write(head(target, b"Transfer-Encoding: chunked", b"Expect: 100-continue"))
        await reader.readuntil(b"100 Continue\r\n\r\n")  # now the head has been taken in, and the body is read
        writer.write(b"1\r\n7\r\n" + broken + b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(30):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"\r\nConnection: close\r\n" in answer
        assert b'"code": 400' in answer
        assert answer.count(b"HTTP/1.1 ") == 1
        assert front.engine.jobs == []
        writer.close()


async def test_connection_ends_when_a_body_breaks_that_nobody_reads(caplog: pytest.LogCaptureFixture) -> None:
    """The request has had its answer; a second one would be taken for another request's."""
    async with listening() as front:
        reader, writer = await front.connect()
        writer.write(head(b"/predictions/unknown", b"Transfer-Encoding: chunked") + b"1\r\n7\r\n")
        first = await reader.readuntil(b"}")
        writer.write(b"zz\r\n")
        async with asyncio.timeout(30):
            assert b"HTTP/1." not in await reader.read()
        assert first.startswith(b"HTTP/1.1 404")
        assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []
        writer.close()


@pytest.mark.parametrize(
    "lines", [(b"Expect: 100-continue",) * 2, (b"Expect: 100-Continue",), (b"Expect: , 100-continue",)]
)
async def test_expectation_may_be_repeated(front: Front, lines: tuple[bytes, ...]) -> None:
    reader, writer = await front.connect()
    writer.write(head(b"/predictions/tiny", b"Content-Length: 1", *lines))
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"7")
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_client_that_expects_and_has_sent_all_keeps_its_connection(front: Front) -> None:
    reader, writer = await front.connect()
    for _ in range(2):
        writer.write(head(b"/predictions/tiny", b"Content-Length: 1", b"Expect: 100-continue") + b"7")
        answer = await reader.readuntil(b"\r\n\r\n7")
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"Connection: close" not in answer
    writer.close()


async def test_client_of_http_1_0_is_never_told_to_continue(front: Front) -> None:
    reader, writer = await front.connect()
    old = head(b"/predictions/tiny", b"Content-Length: 1", b"Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    writer.write(old)
    await front.ask("GET", "/ping")
    writer.write(b"7")
    assert (await reader.read()).startswith(b"HTTP/1.0 200")
    writer.close()


@pytest.mark.parametrize("kind", ["application/octet-stream", 'multipart/form-data; boundary="b"'])
async def test_body_is_held_once_on_its_way_in(kind: str) -> None:
    """It was copied when it was complete, and each part of a form was copied out of it."""
    size = 20_000_000
    async with listening(max_request_size=2 * size) as front:
        front.engine.answer = lambda job: job.succeed(InferenceResponse(b"%d" % len(job.request.parts[0].data)))
        boundary = b"--b\r\nContent-Disposition: form-data; name=a; filename=f\r\n\r\n"
        sent = boundary + bytes(size) + b"\r\n--b--" if "multipart" in kind else bytes(size)
        reader, writer = await front.connect()
        await front.ask("GET", "/ping")
        tracemalloc.start()
        try:
            writer.write(
                head(b"/predictions/tiny", b"Content-Length: %d" % len(sent), b"Content-Type: " + kind.encode())
            )
            view = memoryview(sent)
            for at in range(0, len(sent), 100_000):  # the writer, which is in this process, must not hold it as well
                writer.write(view[at : at + 100_000])
                await writer.drain()
            assert await reader.readuntil(b"\r\n\r\n%d" % size)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1.5 * size
        writer.close()


async def test_slow_but_steady_client_is_heard_out() -> None:
    """It needs several windows, and sends just more than the least in each."""
    async with listening(slow_client_seconds=0.2, slow_client_rate=5.0) as front:
        reader, writer = await front.connect()
        writer.write(head(b"/predictions/tiny", b"Content-Length: 8"))
        for _ in range(8):
            await asyncio.sleep(0.1)  # the pace is the subject
            writer.write(b"7")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        assert bytes(front.asked.parts[0].data) == b"7" * 8
        writer.close()


async def test_pace_can_be_left_to_clients() -> None:
    async with listening(slow_client_seconds=0.01, slow_client_rate=0.0) as front:
        reader, writer = await front.connect()
        writer.write(head(b"/predictions/tiny", b"Content-Length: 2") + b"7")
        await asyncio.sleep(0.05)
        writer.write(b"7")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


async def test_large_form_leaves_the_event_loop_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Six megabytes of escapes took 1.6 s, in which nobody else was answered."""
    parsing, others_served = threading.Event(), threading.Event()

    def parse(body: bytes) -> list[Part]:
        parsing.set()
        assert others_served.wait(60)
        return [Part("a", b"1")]

    monkeypatch.setattr(forms, "urlencoded", parse)
    async with listening(max_request_size=1_000_000) as front:
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        large = asyncio.create_task(front.post("/predictions/tiny", b"a=" + b"%" * 100_000, headers=kind))
        await asyncio.to_thread(parsing.wait, 60)
        assert (await front.ask("GET", "/ping")).status == 200
        others_served.set()
        assert (await large).body == b"1"
