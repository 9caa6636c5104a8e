"""Bodies come in within their limit, at a minimum pace, and not before they are asked for."""

from __future__ import annotations

import asyncio
import threading

import pytest

from torchserve_lite.core.requests import Part
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
