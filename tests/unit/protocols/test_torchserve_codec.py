"""TorchServe's own routes: paths and bodies become a model, a version and parts."""

from __future__ import annotations

import aiohttp
import pytest

from tests.conftest import KEY
from torchserve_lite.core.models import WorkerState
from torchserve_lite.core.requests import Part, Verb
from torchserve_lite.errors import RouteNotFound
from torchserve_lite.protocols.http.torchserve import split_path

from .conftest import LIMIT, Front

JSON, FORM = "application/json", "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("m", ("m", None, "")),
        ("m/", ("m", None, "")),
        ("m/1.0", ("m", "1.0", "")),
        ("m/1.0/", ("m", "1.0", "")),
        ("m/1.0/v1/chat", ("m", "1.0", "v1/chat")),
        ("/m", ("m", None, "")),
    ],
)
def test_path_is_model_version_and_rest(path: str, expected: tuple[str, str | None, str]) -> None:
    assert split_path(path) == expected


@pytest.mark.parametrize("path", ["", "/", "//"])
def test_path_without_a_model_is_no_route(path: str) -> None:
    with pytest.raises(RouteNotFound):
        split_path(path)


@pytest.mark.parametrize(
    ("path", "version", "verb", "rest"),
    [
        ("/predictions/tiny", None, Verb.PREDICT, ""),
        ("/predictions/tiny/2.0", "2.0", Verb.PREDICT, ""),
        ("/predictions/tiny/2.0/a/b", "2.0", Verb.PREDICT, "a/b"),
        ("/explanations/tiny", None, Verb.EXPLAIN, ""),
    ],
)
async def test_request_says_what_the_path_says(
    front: Front, path: str, version: str | None, verb: Verb, rest: str
) -> None:
    assert (await front.post(path)).body == b"7"
    asked = front.asked
    assert (asked.model, asked.version, asked.verb) == ("tiny", version, verb)
    assert dict(asked.headers)["url_path"] == rest
    assert dict(asked.headers)["explain"] == str(verb is Verb.EXPLAIN)


@pytest.mark.parametrize(
    ("content_type", "body", "parts"),
    [
        pytest.param("image/png", b"\x89PNG", [Part("body", b"\x89PNG", "image/png")], id="raw"),
        pytest.param("application/json; charset=utf-8", b"{}", [Part("body", b"{}", JSON)], id="json"),
        pytest.param("text/plain", b"", [Part("body", b"", "text/plain")], id="empty"),
        pytest.param(FORM, b"data=a%20b&x=1", [Part("data", b"a b"), Part("x", b"1")], id="form"),
        pytest.param(FORM, b"a=1&a=2&b=", [Part("a", b"1"), Part("a", b"2"), Part("b", b"")], id="form, repeated"),
        pytest.param(FORM, b"a+b=c+d&%C3%B6=%FF", [Part("a b", b"c d"), Part("\u00f6", b"\xff")], id="form, escapes"),
        pytest.param(FORM, b"a=%zz&=x", [Part("a", b"%zz"), Part("", b"x")], id="form, odd"),
        pytest.param(FORM, b"plain text", [Part("body", b"plain text", FORM)], id="form that is none"),
        pytest.param("multipart/form-data", b"x", [Part("body", b"x", "multipart/form-data")], id="no boundary"),
    ],
)
async def test_body_becomes_parts(front: Front, content_type: str, body: bytes, parts: list[Part]) -> None:
    answer = await front.post("/predictions/tiny", body, headers={"Content-Type": content_type})
    assert answer.status == 200
    assert list(front.asked.parts) == parts


def multipart(*parts: bytes, end: bytes = b"--B--\r\n") -> bytes:
    return b"".join(b"--B\r\n" + part + b"\r\n" for part in parts) + end


MULTIPART = {"Content-Type": "multipart/form-data; boundary=B"}
FIELD = b'Content-Disposition: form-data; name="a"\r\n\r\n1'


@pytest.mark.parametrize(
    ("head", "part"),
    [
        pytest.param(b'name="a"', Part("a", b"\xff\r\n--x"), id="field"),
        pytest.param(b'name="a"\r\nContent-Type: application/json', Part("a", b"\xff\r\n--x"), id="field with a type"),
        pytest.param(
            b'name="a"; filename="f.png"\r\nContent-Type: image/png; q=1',
            Part("a", b"\xff\r\n--x", "image/png"),
            id="file",
        ),
        pytest.param(
            b'name="a"; filename="f"',
            Part("a", b"\xff\r\n--x", "application/octet-stream"),
            id="file without a type",
        ),
        pytest.param(b'filename="f"', Part("", b"\xff\r\n--x", "application/octet-stream"), id="no name"),
    ],
)
async def test_multipart_form_becomes_parts(front: Front, head: bytes, part: Part) -> None:
    """Only a part with a file name keeps its type, as in TorchServe."""
    body = multipart(FIELD, b"Content-Disposition: form-data; " + head + b"\r\n\r\n\xff\r\n--x")
    assert (await front.post("/predictions/tiny", body, headers=MULTIPART)).status == 200
    assert list(front.asked.parts) == [Part("a", b"1"), part]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(multipart(FIELD, end=b""), id="no end"),
        pytest.param(b"no boundary at all", id="no boundary"),
        pytest.param(b"", id="nothing"),
        pytest.param(multipart(b"no header\r\n\r\n1"), id="broken header"),
        pytest.param(multipart(b"Content-Type: multipart/mixed; boundary=C\r\n\r\n--C--\r\n"), id="nested"),
        pytest.param(multipart(*[FIELD] * 1001), id="too many parts"),
    ],
)
async def test_multipart_that_cannot_be_read_is_a_bad_request(front: Front, body: bytes) -> None:
    answer = await front.post("/predictions/tiny", body, headers=MULTIPART)
    assert (answer.status, answer.json["type"]) == (400, "BadRequestException")
    assert front.engine.jobs == []


async def test_form_of_too_many_fields_is_a_bad_request(front: Front) -> None:
    answer = await front.post("/predictions/tiny", b"a=1&" * 1001, headers={"Content-Type": FORM})
    assert answer.status == 400
    assert "1001 fields; at most 1000" in answer.json["message"]


@pytest.mark.parametrize("over", [0, 1])
async def test_forms_obey_the_limit_of_the_body_too(front: Front, over: int) -> None:
    form = aiohttp.FormData()
    form.add_field("a", b"x" * (LIMIT // 2), filename="a")
    form.add_field("b", b"x" * (LIMIT // 2 + over), filename="b")
    assert (await front.post("/predictions/tiny", form)).status == (413 if over else 200)


async def test_headers_reach_the_handler_in_the_clients_spelling(front: Front) -> None:
    """HTTP libraries change the case of names; handlers written for TorchServe look for what the client wrote."""
    await front.raw(b"X-oWn: One\r\nx-own: two\r\nContent-Length: 1", b"7")
    assert front.asked.headers[0] == ("hOST", "x")
    assert front.asked.headers[2:5] == (("X-oWn", "One"), ("x-own", "two"), ("Content-Length", "1"))


async def test_trace_context_and_time_limit_travel_along(front: Front) -> None:
    await front.post("/predictions/tiny", headers={"traceparent": "00-ab-cd-01", "X-Request-Timeout-Ms": "250"})
    assert (front.asked.trace_context, front.asked.timeout) == ("00-ab-cd-01", 0.25)


async def test_ping_of_a_healthy_server_is_torchserves(front: Front) -> None:
    answer = await front.ask("GET", "/ping")
    assert (answer.status, answer.body) == (200, b'{\n  "status": "Healthy"\n}\n')
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("state", "failed", "model", "cause"),
    [
        pytest.param(None, "no such weights", "broken", "no such weights", id="could not be registered"),
        pytest.param(WorkerState.STARTING, "", "tiny", "still loading", id="loading"),
        pytest.param(WorkerState.FAILED, "", "tiny", "shot", id="given up"),
    ],
)
@pytest.mark.parametrize(("path", "status", "key"), [("/ping", 500, "status"), ("/v2/health/ready", 503, "ready")])
async def test_server_that_is_not_healthy_says_which_model_and_why(
    front: Front, path: str, status: int, key: str, state: WorkerState | None, failed: str, model: str, cause: str
) -> None:
    front.failed.update({"broken": failed} if failed else {})
    front.engine.states.update({KEY: state} if state else {})
    answer = await front.ask("GET", path)
    assert (answer.status, answer.json[key]) == (status, "Unhealthy" if key == "status" else False)
    assert list(answer.json["models"]) == [model]
    assert cause in answer.json["models"][model]


@pytest.mark.parametrize("path", ["/ping", "/v2/health/ready"])
async def test_model_scaled_to_nothing_on_purpose_is_not_unhealthy(front: Front, path: str) -> None:
    await front.engine.scale(KEY, 0)
    assert (await front.ask("GET", path)).status == 200
    ready = await front.ask("GET", "/v2/models/tiny/ready")
    assert (ready.status, "no worker" in ready.json["error"]) == (503, True)
