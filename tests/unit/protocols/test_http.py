"""What every HTTP exchange promises, over real sockets."""

from __future__ import annotations

import asyncio
import re
import socket
import uuid
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.conftest import Holder, failed_deployment
from torchserve_lite.config.settings import Address
from torchserve_lite.core.jobs import Job
from torchserve_lite.core.requests import Headers, InferenceResponse
from torchserve_lite.errors import (
    BadRequest,
    ConfigurationError,
    HandlerError,
    InvalidInput,
    ModelFailed,
    PredictionFailed,
    QueueFull,
    ServingError,
    WorkerDied,
    WorkerKilled,
)

from .conftest import LIMIT, Front, listening

PREDICT = ["/predictions/tiny", "/v1/models/tiny:predict", "/v2/models/tiny/infer"]
EXPLAIN = ["/explanations/tiny", "/v1/models/tiny:explain", "/v2/models/tiny/explain"]
KSERVE = ["/v1/models/tiny:predict", "/v2/models/tiny/infer", "/v2/models/tiny/versions/2.0/infer"]


def answering(front: Front, response: InferenceResponse) -> None:
    front.engine.answer = lambda job: job.succeed(response)


def failing(front: Front, error: ServingError) -> None:
    front.engine.answer = lambda job: job.fail(error)


# Refusals


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("GET", "/nowhere", 404, "ResourceNotFoundException"),
        ("POST", "/predictions", 404, "ResourceNotFoundException"),
        ("POST", "/predictions/", 404, "ResourceNotFoundException"),
        ("POST", "/predictions/unknown", 404, "ModelNotFoundException"),
        ("POST", "/predictions/tiny/9", 404, "ModelVersionNotFoundException"),
        ("POST", "/v1/models/unknown:predict", 404, "ModelNotFoundException"),
        ("POST", "/v1/models/tiny:dance", 404, "ResourceNotFoundException"),
        ("GET", "/v1/models/unknown", 404, "ModelNotFoundException"),
        ("POST", "/v2/models/unknown/infer", 404, "ModelNotFoundException"),
        ("GET", "/v2/models/unknown", 404, "ModelNotFoundException"),
        ("GET", "/v2/models/tiny/versions/9/ready", 404, "ModelVersionNotFoundException"),
        ("POST", "/predictions/a%0Ab", 404, "ModelNotFoundException"),
        ("GET", "/v1/models/a%0Ab", 404, "ModelNotFoundException"),
        ("GET", "/v1/a%0Ab", 404, "ResourceNotFoundException"),
        ("DELETE", "/predictions/tiny", 405, "MethodNotAllowedException"),
        ("POST", "/v1/models", 405, "MethodNotAllowedException"),
        ("POST", "/v1/models/tiny", 405, "MethodNotAllowedException"),
        ("DELETE", "/v2/models/tiny/infer", 405, "MethodNotAllowedException"),
        ("POST", "/metrics", 405, "MethodNotAllowedException"),
        ("PATCH", "/models/tiny", 405, "MethodNotAllowedException"),
    ],
)
async def test_refusal_is_json_of_the_one_shape(front: Front, method: str, path: str, status: int, kind: str) -> None:
    answer = await front.ask(method, path)
    assert (answer.status, answer.json["code"], answer.json["type"]) == (status, status, kind)
    assert answer.headers["Content-Type"] == "application/json"
    assert ("error" in answer.json) is path.startswith(("/v1/", "/v2"))
    assert front.engine.jobs == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/v1/models", "GET, HEAD"), ("/predictions/tiny", "POST, PUT, GET"), ("/models", "GET, HEAD, POST")],
)
async def test_refused_method_is_told_the_allowed_ones(front: Front, path: str, allowed: str) -> None:
    assert (await front.ask("DELETE", path)).headers["Allow"] == allowed


@pytest.mark.parametrize("path", [*PREDICT, *EXPLAIN])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_crawler_does_not_run_a_model(front: Front, method: str, path: str) -> None:
    assert (await front.ask(method, path)).status == 405
    assert front.engine.jobs == []


@pytest.mark.parametrize("path", PREDICT)
async def test_head_runs_no_model_even_with_a_query(front: Front, path: str) -> None:
    assert (await front.ask("HEAD", f"{path}?a=1")).status == 405
    assert front.engine.jobs == []


@pytest.mark.parametrize(
    ("method", "query", "body"),
    [("POST", "", b"7"), ("PUT", "", b"7"), ("GET", "", b"7"), ("GET", "?a=1", None), ("POST", "", b"")],
)
async def test_methods_that_infer(front: Front, method: str, query: str, body: bytes | None) -> None:
    answer = await front.ask(method, f"/predictions/tiny{query}", data=body)
    assert (answer.status, answer.body) == (200, body or b"")


@pytest.mark.parametrize("path", PREDICT)
@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "chunked"])
async def test_body_over_the_limit_is_refused_in_json(front: Front, path: str, chunked: bool) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LIMIT // 1000):
            yield b"x" * 1000
        yield b"x"

    answer = await front.post(path, pieces() if chunked else b"x" * (LIMIT + 1))
    assert (answer.status, answer.json["type"]) == (413, "BadRequestException")
    assert f"max_request_size={LIMIT}" in answer.json["message"]
    assert front.engine.jobs == []


async def test_body_of_exactly_the_limit_is_accepted(front: Front) -> None:
    assert (await front.post("/predictions/tiny", b"x" * LIMIT)).status == 200


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("inference", "/ping"),
        ("inference", "/v2"),
        ("inference", "/v2/models/tiny/ready"),
        ("management", "/models"),
        ("management", "/models/tiny"),
        ("management", "/models/tiny/1.0"),
        ("management", "/v1/models/tiny"),
        ("metrics", "/metrics"),
    ],
)
async def test_slash_at_the_end_does_not_count(front: Front, role: str, path: str) -> None:
    """As with TorchServe; scripts that put a path together have one too many easily."""
    async with front.client.get(f"{front.http.addresses[role]}{path}/") as answer:
        assert answer.status == 200


async def test_body_over_the_limit_is_refused_where_no_route_reads_it(front: Front) -> None:
    for role, target in (("management", "/models/tiny?min_worker=1"), ("inference", "/ping"), ("metrics", "/metrics")):
        answer = await front.client.put(front.http.addresses[role] + target, data=b"x" * (LIMIT + 1), expect100=True)
        assert (answer.status, f"max_request_size={LIMIT}" in await answer.text()) == (413, True)
    assert front.manager.scaled == []


async def test_unknown_model_is_told_before_its_body_is_read(front: Front) -> None:
    reader, writer = await front.connect()
    writer.write(b"POST /predictions/unknown HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\n\r\n")
    assert (await reader.readline()).startswith(b"HTTP/1.1 404")
    writer.close()


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        pytest.param(b"Transfer-Encoding: chunked", b"zz\r\n", b"400", id="bad chunk size"),
        pytest.param(b"Expect: the-unexpected\r\nContent-Length: 1", b"7", b"417", id="unknown expectation"),
        pytest.param(b"Content-Length: 5", b"7", b"", id="body cut short"),
        pytest.param(b"Content-Encoding: gzip\r\nContent-Length: 4", b"abcd", b"200", id="gzip that is none"),
        pytest.param(b"Content-Length: 1\r\nContent-Length: 2", b"7", b"400", id="two lengths"),
        pytest.param(b"Content-Length: 1\r\nTransfer-Encoding: chunked", b"7", b"400", id="length and chunks"),
    ],
)
async def test_malformed_request_is_no_failure_of_the_server(
    front: Front, headers: bytes, body: bytes, status: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    answer = await front.raw(headers, body, then_leave=not status)
    assert answer.split(b" ", 2)[1:2] == ([status] if status else [])
    assert "unexpectedly" not in caplog.text
    assert (await front.post("/predictions/tiny")).status == 200


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(b"/a\x1b[31m", id="terminal control"),
        pytest.param("/a\u2028b".encode(), id="line separator"),
        pytest.param(b'/a"200', id="quote"),
        pytest.param(b"/a 200 1", id="spaces"),
        pytest.param(b"/%0d%0aforged", id="encoded line break"),
        pytest.param(b"/a\x00b", id="nul"),
    ],
)
async def test_request_target_cannot_forge_a_log_line(front: Front, target: bytes) -> None:
    answer = await front.raw(b"Content-Length: 1", b"7", target=target)
    assert answer.split(b" ", 2)[1] in (b"400", b"404")
    front.access_log.flush()
    assert all(line.isprintable() and line.count('"') == 2 for line in front.log)


# Failures


@pytest.mark.parametrize("path", PREDICT)
@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(HandlerError("no such customer", 404), 404, id="prediction exception"),
        pytest.param(InvalidInput("bad"), 400, id="bad input"),
        pytest.param(WorkerKilled("It was shot."), 507, id="out of memory"),
        pytest.param(BadRequest("odd"), 400, id="bad request"),
    ],
)
async def test_failure_has_its_status_on_every_route(front: Front, path: str, error: ServingError, status: int) -> None:
    failing(front, error)
    answer = await front.post(path)
    assert (answer.status, answer.json["message"]) == (status, str(error))


@pytest.mark.parametrize(("path", "status"), [("/predictions/tiny", 503), *[(path, 500) for path in KSERVE]])
async def test_handlers_exception_is_503_as_in_torchserve_and_500_for_kserve(
    front: Front, path: str, status: int
) -> None:
    failing(front, PredictionFailed("Prediction failed"))
    assert (await front.post(path)).status == status


@pytest.mark.parametrize("path", PREDICT)
async def test_full_queue_says_when_to_come_back(front: Front, path: str) -> None:
    front.engine.refusal = QueueFull("tiny", 100)
    answer = await front.post(path)
    assert (answer.status, answer.headers["Retry-After"]) == (503, "1")


@pytest.mark.parametrize("path", PREDICT)
async def test_clients_time_limit_is_kept(front: Front, path: str) -> None:
    front.engine.answer = lambda job: None
    answer = await front.post(path, headers={"X-Request-Timeout-Ms": "10"})
    assert (answer.status, answer.json["type"]) == (504, "RequestTimeoutException")
    assert not front.engine.jobs[0].wanted


@pytest.mark.parametrize("path", PREDICT)
async def test_time_limit_that_is_none_is_a_bad_request(front: Front, path: str) -> None:
    answer = await front.post(path, headers={"X-Request-Timeout-Ms": "soon"})
    assert answer.status == 400
    assert "X-Request-Timeout-Ms is 'soon'" in answer.json["message"]


async def test_unexpected_error_is_logged_and_tells_the_client_nothing(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(job: Job) -> None:
        raise RuntimeError("secret")

    front.engine.answer = fail
    answer = await front.post("/predictions/tiny")
    assert (answer.status, answer.json["type"]) == (500, "InternalServerException")
    assert b"secret" not in answer.body
    assert "secret" in caplog.text


async def test_client_that_goes_away_takes_its_job_along(front: Front) -> None:
    came, went = asyncio.Event(), asyncio.Event()

    def wait(job: Job) -> None:
        job.holder = Holder(lambda job: went.set())
        came.set()

    front.engine.answer = wait
    _, writer = await front.connect()
    writer.write(b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n7")
    await came.wait()
    writer.transport.abort()
    await asyncio.wait_for(went.wait(), 60)


# Answers


async def test_answer_is_the_handlers(front: Front) -> None:
    answering(front, InferenceResponse(b"<b>7</b>", 201, "Made It", "text/html", (("X-Own", "1"), ("x-own2", "2"))))
    raw = await front.raw(b"Content-Length: 1", b"7")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 Made It\r\n")
    assert {b"Content-Type: text/html", b"X-Own: 1", b"x-own2: 2", b"Content-Length: 8"} <= set(head.split(b"\r\n"))
    assert body == b"<b>7</b>"


@pytest.mark.parametrize(("method", "path"), [("POST", "/predictions/tiny"), ("GET", "/nowhere"), ("GET", "/ping")])
async def test_every_response_carries_an_id_and_is_not_cached(front: Front, method: str, path: str) -> None:
    answer = await front.ask(method, path, headers={"x-request-id": "mine"})
    assert uuid.UUID(answer.headers["x-request-id"]).version == 4
    assert answer.headers["Cache-Control"] == "no-cache; no-store, must-revalidate, private"
    assert (answer.headers["Pragma"], answer.headers["Expires"]) == ("no-cache", "Thu, 01 Jan 1970 00:00:00 UTC")


async def test_handler_sees_the_id_that_the_client_gets(front: Front) -> None:
    answer = await front.post("/predictions/tiny")
    assert answer.headers["x-request-id"] == front.asked.id


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(("Content-Length", "3"), id="length"),
        pytest.param(("content-length", "300"), id="length, too long"),
        pytest.param(("Transfer-Encoding", "chunked"), id="encoding"),
        pytest.param(("Connection", "upgrade"), id="connection"),
        pytest.param(("X-Own", "1\r\nX-Forged: 2"), id="line break in the value"),
        pytest.param(("X-Own", "1\nX-Forged: 2"), id="bare line feed"),
        pytest.param(("X-Own: 1\r\nX-Forged", "2"), id="line break in the name"),
        pytest.param(("X-Own", "a\x00b"), id="nul"),
        pytest.param(("", "x"), id="no name"),
        pytest.param(("x-request-id", "mine"), id="request id"),
    ],
)
async def test_handlers_headers_cannot_break_the_framing(front: Front, header: tuple[str, str]) -> None:
    answering(front, InferenceResponse(b"answer", headers=(header,)))
    for _ in range(2):  # the second shows whether the connection is still in step
        answer = await front.post("/predictions/tiny")
        assert (answer.status, answer.body) == (200, b"answer")
        assert "X-Forged" not in answer.headers
        assert answer.headers["x-request-id"] == front.engine.jobs[-1].request.id


async def test_reason_phrase_stays_one_line(front: Front) -> None:
    answering(front, InferenceResponse(b"answer", 202, "Made\r\nX-Forged: 1"))
    answer = await front.post("/predictions/tiny")
    assert (answer.status, answer.body) == (202, b"answer")
    assert "X-Forged" not in answer.headers


@pytest.mark.parametrize("kind", ["text/html\r\nX-Forged: 1", "text/html\nX-Forged: 1"])
@pytest.mark.parametrize("headers", [(), (("X-Own", "1"),)], ids=["in one piece", "by aiohttp"])
async def test_content_type_of_the_handler_stays_one_line(front: Front, kind: str, headers: Headers) -> None:
    answering(front, InferenceResponse(b"answer", content_type=kind, headers=headers))
    answer = await front.post("/predictions/tiny")
    assert (answer.status, answer.body) == (200, b"answer")
    assert "X-Forged" not in answer.headers


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 5_000_000])
async def test_body_arrives_whole_whatever_its_size(front: Front, size: int) -> None:
    answering(front, InferenceResponse(b"x" * size))
    answer = await front.post("/predictions/tiny")
    assert (answer.body, answer.headers["Content-Length"]) == (b"x" * size, str(size))


async def test_connection_serves_one_request_after_the_other(front: Front) -> None:
    """Pipelined ones too, each with an id of its own."""
    reader, writer = await front.connect()
    request = b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    writer.write(request + b"1" + request + b"2" + b"GET /nowhere HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    received = (await reader.read()).decode()
    assert re.findall(r"HTTP/1.1 (\d+)", received) == ["200", "200", "404"]
    assert re.findall(r"\r\n\r\n(\d)HTTP", received) == ["1", "2"]
    assert len(set(re.findall(r"x-request-id: (\S+)", received))) == 3
    writer.close()


async def test_client_of_http_1_0_is_answered_and_let_go(front: Front) -> None:
    reader, writer = await front.connect()
    writer.write(b"POST /predictions/tiny HTTP/1.0\r\nContent-Length: 1\r\n\r\n7")
    received = await reader.read()
    assert received.startswith(b"HTTP/1.0 200")
    assert received.endswith(b"\r\n\r\n7")
    writer.close()


async def test_answer_without_content_has_no_body(front: Front) -> None:
    answering(front, InferenceResponse(b"ignored", 204, content_type="text/plain"))
    for _ in range(2):
        answer = await front.post("/predictions/tiny")
        assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize("status", [100, 101, -1, 0, 99, 199, 600, 1000])
async def test_status_that_is_none_is_a_failure_of_that_request_alone(front: Front, status: int) -> None:
    answering(front, InferenceResponse(b"answer", status))
    answer = await front.post("/predictions/tiny")
    assert (answer.status, answer.json["code"]) == (500, 500)
    assert str(status) in answer.json["message"]


@pytest.mark.parametrize("status", [100, -1, 600])
async def test_code_that_is_no_http_status_is_500(front: Front, status: int) -> None:
    failing(front, HandlerError("x", status))
    assert (await front.post("/predictions/tiny")).status == 500


@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [204, 304])
async def test_answer_that_may_have_no_body_leaves_the_connection_in_step(
    front: Front, status: int, streams: bool
) -> None:
    def answer(job: Job) -> None:
        response = InferenceResponse(b"ignored", status, content_type="text/plain")
        if streams:
            job.add_piece(response)
        job.succeed(response)

    front.engine.answer = answer
    for _ in range(2):
        found = await front.post("/predictions/tiny")
        assert (found.status, found.body) == (status, b"")


@pytest.mark.parametrize("text", ["\udcff", "a\ud800", "\u00fc\u20ac", "\x85", "\u2028"])
@pytest.mark.parametrize("size", [1, 100_000], ids=["in one piece", "by aiohttp"])
async def test_text_of_a_handler_that_has_no_place_in_a_head_costs_nobody_the_answer(
    front: Front, text: str, size: int
) -> None:
    answering(front, InferenceResponse(b"x" * size, 200, text, f"text/plain; a={text}", (("X-Own", text),)))
    answer = await front.post("/predictions/tiny")
    assert (answer.status, len(answer.body)) == (200, size)


async def test_header_of_a_handler_may_repeat(front: Front) -> None:
    answering(front, InferenceResponse(b"x", headers=(("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"))))
    assert (await front.post("/predictions/tiny")).headers.getall("Set-Cookie") == ["a=1", "b=2"]


# Streams


def stream(front: Front, *pieces: bytes, last: ServingError | bytes) -> None:
    def answer(job: Job) -> None:
        for piece in pieces:
            job.add_piece(InferenceResponse(piece, 201, content_type="text/plain", headers=(("X-Own", "1"),)))
        if isinstance(last, bytes):
            job.succeed(InferenceResponse(last))
        else:
            job.fail(last)

    front.engine.answer = answer


async def test_stream_is_sent_in_chunks(front: Front) -> None:
    stream(front, b"one", b"", b"two", last=b"end")
    raw = await front.raw(b"Content-Length: 1", b"7")
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201")
    assert {b"Transfer-Encoding: chunked", b"Content-Type: text/plain", b"X-Own: 1"} <= set(head.split(b"\r\n"))
    assert b"x-request-id: " in head
    assert body == b"3\r\none\r\n3\r\ntwo\r\n3\r\nend\r\n0\r\n\r\n"


@pytest.mark.parametrize("wish", [b"", b"Connection: keep-alive\r\n"])
async def test_stream_to_a_client_of_http_1_0_ends_with_the_connection(front: Front, wish: bytes) -> None:
    stream(front, b"one", b"two", last=b"end")
    reader, writer = await front.connect()
    writer.write(b"POST /predictions/tiny HTTP/1.0\r\n" + wish + b"Content-Length: 1\r\n\r\n7")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert (head.split(b"\r\n")[0], body) == (b"HTTP/1.0 201 Created", b"onetwoend")
    assert b"chunked" not in head
    writer.close()


async def test_stream_that_breaks_off_has_no_end_mark(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    stream(front, b"one", last=WorkerDied("It was shot."))
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientOSError, aiohttp.ServerDisconnectedError)):
        await front.post("/predictions/tiny")
    assert "broke off: Worker died. It was shot." in caplog.text


async def test_reader_that_leaves_a_stream_frees_its_worker_and_is_no_error(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    came, went = asyncio.Event(), asyncio.Event()

    def answer(job: Job) -> None:
        job.holder = Holder(lambda job: went.set())
        job.add_piece(InferenceResponse(b"one"))
        came.set()

    front.engine.answer = answer
    reader, writer = await front.connect()
    writer.write(b"POST /predictions/tiny HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n7")
    await reader.readuntil(b"one")
    writer.transport.abort()
    await asyncio.wait_for(went.wait(), 60)
    assert not front.engine.jobs[0].wanted
    assert "unexpectedly" not in caplog.text


async def test_stream_to_a_connection_that_is_closing_is_no_error(
    front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    stream(front, b"one", last=b"end")
    await front.raw(b"Content-Length: 1", b"7", then_leave=True)
    assert caplog.records == []


# Figures, log, configuration


async def test_exchanges_are_counted_and_logged(front: Front) -> None:
    await front.post("/predictions/tiny")
    await front.ask("GET", "/nowhere%0A")
    front.access_log.flush()
    assert [re.sub(r".* - /127\.0\.0\.1:\d+ (.*) \d+", r"\1", line) for line in front.log] == [
        '"POST /predictions/tiny HTTP/1.1" 200',
        '"GET /nowhere%0A HTTP/1.1" 404',
    ]
    page = front.metrics.registry.render(["Requests2XX", "Requests4XX"])
    assert re.findall(r"^(Requests.XX).* (\S+)$", page, re.M) == [("Requests2XX", "1.0"), ("Requests4XX", "1.0")]


@pytest.mark.parametrize(("query", "families"), [("", None), ("?name[]=Requests2XX", ["Requests2XX"])])
async def test_metrics_page(front: Front, query: str, families: list[str] | None) -> None:
    answer = await front.ask("GET", f"/metrics{query}")
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = re.findall(r"^# TYPE (\S+)", answer.body.decode(), re.M)
    assert names == families if families else "ts_queue_length" in names


async def test_metrics_can_be_switched_off() -> None:
    async with listening(enable_metrics_api=False) as front:
        assert (await front.ask("GET", "/metrics")).status == 404


async def test_cors_headers_are_those_configured() -> None:
    async with listening(cors={"access-control-allow-origin": "*"}) as front:
        assert (await front.ask("GET", "/ping")).headers["Access-Control-Allow-Origin"] == "*"


CORS = {
    "access-control-allow-origin": "https://shop.example",
    "access-control-allow-methods": "GET, POST, PUT",
    "access-control-allow-headers": "content-type",
}


@pytest.mark.parametrize("role", ["inference", "management", "metrics"])
@pytest.mark.parametrize(
    "path", ["/", "/ping", *PREDICT, *EXPLAIN, "/v2", "/models", "/models/tiny", "/metrics", "/nowhere", "/v2/nowhere"]
)
async def test_preflight_is_answered_on_every_listener_and_path(role: str, path: str) -> None:
    """It was 405 everywhere, so no browser got in."""
    ports = [Address(port=0, host=host) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3")]
    async with listening(inference=ports[0], management=ports[1], metrics=ports[2], cors=CORS) as front:
        asked = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        async with front.client.options(front.http.addresses[role] + path, headers=asked) as response:
            assert response.status == 200
            assert {name: response.headers[name] for name in CORS} == CORS
        assert front.engine.jobs == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/predictions/tiny", "POST, PUT, GET, OPTIONS"),
        ("/models", "GET, HEAD, POST, OPTIONS"),
        ("/models/tiny", "GET, HEAD, PUT, DELETE, OPTIONS"),
        ("/v2/health/live", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_tell_what_a_path_allows(front: Front, path: str, allowed: str) -> None:
    answer = await front.ask("OPTIONS", path)
    assert (answer.status, answer.headers["Allow"]) == (200, allowed)


async def test_roles_with_their_own_addresses_serve_their_own_routes_only() -> None:
    ports = [Address(port=0, host=host) for host in ("127.0.0.1", "127.0.0.2", "127.0.0.3")]
    async with listening(inference=ports[0], management=ports[1], metrics=ports[2]) as front:
        found = {}
        for role, url in front.http.addresses.items():
            for path in ("/ping", "/models", "/metrics"):
                async with front.client.get(url + path) as response:
                    found[role, path] = response.status
    assert [key for key, status in found.items() if status == 200] == [
        ("inference", "/ping"),
        ("management", "/models"),
        ("metrics", "/metrics"),
    ]


async def test_address_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"inference_address=http://127\.0\.0\.1:{port} cannot be used"):
            async with listening(inference=Address(port=port)):
                pass


async def test_unix_socket_can_be_listened_on(tmp_path: object) -> None:
    path = f"{tmp_path}/s"
    async with listening(inference=Address(path=path)) as front:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"Healthy" in await reader.read()
        writer.close()
        front.access_log.flush()
        assert ' - 127.0.0.1 "GET /ping' in front.log[0]


async def test_failed_model_says_why(front: Front) -> None:
    failing(front, ModelFailed("tiny", "no such weights"))
    answer = await front.post("/predictions/tiny")
    assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert "no such weights" in answer.json["message"]


BROKEN = [
    ("POST", "/predictions/broken"),
    ("POST", "/predictions/broken/1.0"),
    ("POST", "/explanations/broken"),
    ("POST", "/invocations?model_name=broken"),
    ("POST", "/models/broken/invoke"),
    ("POST", "/broken/predict"),
    ("GET", "/v1/models/broken"),
    ("POST", "/v1/models/broken:predict"),
    ("POST", "/v1/models/broken:explain"),
    ("GET", "/v2/models/broken"),
    ("GET", "/v2/models/broken/ready"),
    ("POST", "/v2/models/broken/infer"),
    ("POST", "/v2/models/broken/versions/1.0/infer"),
    ("GET", "/ping"),
    ("GET", "/v2/health/ready"),
]


@pytest.mark.parametrize(("method", "path"), BROKEN)
async def test_model_that_could_not_be_registered_is_told_with_its_cause_and_what_helps(
    front: Front, method: str, path: str
) -> None:
    """It was said that its workers had failed, of which it never had any."""
    front.registry.unopened.append(failed_deployment("broken", "broken.mar: is empty."))
    answer = await front.ask(method, path, data=b"7" if method == "POST" else None)
    assert answer.status == (500 if path == "/ping" else 503)
    assert "broken.mar: is empty." in str(answer.json)
    assert "restart the server" in str(answer.json)
    assert "workers" not in str(answer.json)


@pytest.mark.parametrize("query", ["", "?aiohttp"])
async def test_answer_of_a_model_says_where_its_time_went(front: Front, query: str) -> None:
    answer = await front.post(f"/predictions/tiny{query}")
    assert re.fullmatch(r"queue;dur=\d+\.\d\d, total;dur=\d+\.\d\d", answer.headers["Server-Timing"])
    assert "Server-Timing" not in (await front.post(f"/predictions/unknown{query}")).headers


async def test_client_of_http_1_0_is_told_as_well_where_the_time_went(front: Front) -> None:
    reader, writer = await front.connect()
    writer.write(b"POST /predictions/tiny HTTP/1.0\r\nContent-Length: 1\r\n\r\n7")
    assert b"\r\nServer-Timing: queue;dur=" in await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        pytest.param("", False, id="no wish"),
        pytest.param("*/*", False, id="anything"),
        pytest.param("application/openmetrics-text", True, id="openmetrics"),
        pytest.param(
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
            True,
            id="Prometheus",
        ),
        pytest.param("text/plain, application/openmetrics-text;q=0.5", False, id="rather plain"),
    ],
)
async def test_metrics_are_told_in_the_form_that_is_asked_for(front: Front, accept: str, openmetrics: bool) -> None:
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    await front.post("/predictions/tiny", headers={"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"})
    url = f"{front.http.addresses['metrics']}/metrics"
    async with front.client.get(url, headers={"Accept": accept} if accept else {}) as response:
        text = await response.text()
    assert response.content_type == ("application/openmetrics-text" if openmetrics else "text/plain")
    assert (f'# {{trace_id="{trace_id}"}}' in text) is openmetrics
    assert text.endswith("# EOF\n") is openmetrics
