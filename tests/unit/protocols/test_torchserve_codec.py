"""TorchServe's own routes: paths and bodies become a model, a version and parts."""

from __future__ import annotations

import json

import aiohttp
import pytest
import yarl
from aiohttp.test_utils import make_mocked_request

from tests.conftest import KEY, failed_deployment
from torchserve_lite.core.models import WorkerState
from torchserve_lite.core.requests import Part, Verb
from torchserve_lite.errors import BadRequest, RouteNotFound
from torchserve_lite.protocols.http.heads import check_head
from torchserve_lite.protocols.http.torchserve import split_path

from .conftest import LIMIT, Front, listening

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
        pytest.param(b"name=a", Part("a", b"\xff\r\n--x"), id="name without quotes"),
        pytest.param(b'name="a;b=\\"c\\""', Part('a;b="c"', b"\xff\r\n--x"), id="name with everything"),
        pytest.param('name="\u00f6"'.encode(), Part("\u00f6", b"\xff\r\n--x"), id="name in UTF-8"),
        pytest.param(b'name="\xff"', Part("\u00ff", b"\xff\r\n--x"), id="name that is no UTF-8"),
        pytest.param(b"name*=utf-8''%C3%B6", Part("\u00f6", b"\xff\r\n--x"), id="name in RFC 5987"),
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
        pytest.param(multipart(b'Content-Disposition: form-data; name="a\r\n\r\n1'), id="quote without end"),
        pytest.param(multipart(FIELD, b"X: " + b"x" * 9000 + b"\r\n\r\n1"), id="header too long"),
        pytest.param(multipart(b"Content-Transfer-Encoding: base64\r\n\r\n!!"), id="base64 that is none"),
        pytest.param(multipart(b"Content-Transfer-Encoding: uuencode\r\n\r\n1"), id="unknown transfer encoding"),
    ],
)
async def test_multipart_that_cannot_be_read_is_a_bad_request(front: Front, body: bytes) -> None:
    answer = await front.post("/predictions/tiny", body, headers=MULTIPART)
    assert (answer.status, answer.json["type"]) == (400, "BadRequestException")
    assert front.engine.jobs == []


@pytest.mark.parametrize(
    ("content_type", "body", "told"),
    [
        pytest.param(FORM, b"a=1&" * 1001, "more than 1000 fields", id="urlencoded"),
        pytest.param(FORM, b"a=1" + b"&" * 20_000, "more than 1000 fields", id="urlencoded, nothing but separators"),
        pytest.param(MULTIPART["Content-Type"], multipart(*[FIELD] * 1001), "more than 1000 parts", id="multipart"),
    ],
)
async def test_form_of_too_many_fields_is_a_bad_request(content_type: str, body: bytes, told: str) -> None:
    async with listening(max_request_size=100_000) as front:
        answer = await front.post("/predictions/tiny", body, headers={"Content-Type": content_type})
    assert (answer.status, told in answer.json["message"]) == (400, True)


@pytest.mark.parametrize("where", ["preamble", "data", "epilogue", "names"])
@pytest.mark.parametrize("over", [0, 1])
async def test_limit_holds_for_a_multipart_body_as_it_is_on_the_wire(front: Front, where: str, over: int) -> None:
    def body(size: int) -> bytes:
        filling = b"x" * size
        if where == "preamble":
            return filling + b"\r\n" + multipart(FIELD)
        if where == "epilogue":
            return multipart(FIELD) + filling
        if where == "names":
            name = b'Content-Disposition: form-data; name="%s"\r\n\r\n1'
            return multipart(name % filling[: size // 2], name % filling[size // 2 :])
        return multipart(FIELD, b'Content-Disposition: form-data; name="b"\r\n\r\n' + filling)

    whole = body(LIMIT - len(body(0)) + over)
    answer = await front.post("/predictions/tiny", whole, headers=MULTIPART)
    assert (len(whole), answer.status) == (LIMIT + over, 413 if over else 200)


@pytest.mark.parametrize("over", [0, 1])
async def test_limit_holds_for_a_form_before_its_escapes_are_decoded(front: Front, over: int) -> None:
    body = b"a=" + b"%41" * ((LIMIT - 2) // 3) + b"x" * ((LIMIT - 2) % 3 + over)
    answer = await front.post("/predictions/tiny", body, headers={"Content-Type": FORM})
    assert answer.status == (413 if over else 200)


async def test_every_part_of_one_name_is_kept_in_order(front: Front) -> None:
    form = aiohttp.FormData()
    for number in (b"1", b"2", b"3"):
        form.add_field("image", number, filename="a.png", content_type="image/png")
    assert (await front.post("/predictions/tiny", form)).status == 200
    assert list(front.asked.parts) == [Part("image", number, "image/png") for number in (b"1", b"2", b"3")]


@pytest.mark.parametrize("path", ["/invocations", "/models/tiny/invoke", "/tiny/predict", "/tiny/2.0/predict"])
async def test_query_arguments_are_parts_and_none_is_lost(front: Front, path: str) -> None:
    await front.post(f"{path}?a=1&a=2&model_name=tiny&b=%C3%B6&c=%FF&d=%zz", b"7")
    expected = [Part("a", b"1"), Part("a", b"2"), Part("model_name", b"tiny"), Part("b", "\u00f6".encode())]
    assert list(front.asked.parts)[:6] == [*expected, Part("c", b"\xff"), Part("d", b"%zz")]


@pytest.mark.parametrize(
    "path", ["/predictions/no", "/explanations/no", "/models/no/invoke", "/no/predict", "/tiny/9.0/predict"]
)
async def test_unknown_model_is_told_before_its_body_is_looked_at(front: Front, path: str) -> None:
    form = b'--b\r\nContent-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: odd\r\n\r\n7\r\n--b--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert (await front.post(path.replace("/no", "/tiny").replace("/9.0", ""), form, headers=headers)).status == 400
    assert (await front.post(path, form, headers=headers)).status == 404


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="a"; name="b"',
        b'Content-Disposition: form-data; name="a"; filename=x; FileName=y',
        b'Content-Disposition: form-data; name="a"\r\ncontent-disposition: form-data; name="b"',
        b'Content-Disposition: form-data; name="a"\r\nContent-Type: text/plain\r\nContent-Type: image/png',
    ],
)
async def test_part_that_says_a_thing_in_two_ways_is_refused(front: Front, head: bytes) -> None:
    """The last one won, in silence."""
    answer = await front.post("/predictions/tiny", multipart(head + b"\r\n\r\n7"), headers=MULTIPART)
    assert answer.status == 400
    assert front.engine.jobs == []


@pytest.mark.parametrize(
    ("encoding", "sent", "data"),
    [
        ("base64", b"AP8=", b"\x00\xff"),
        ("BASE64", b"AP\r\n8=", b"\x00\xff"),
        ("quoted-printable", b"a=FFb", b"a\xffb"),
        ("binary", b"AP8=", b"AP8="),
        ("8bit", b"\xff", b"\xff"),
    ],
)
async def test_transfer_encoding_of_a_part_is_undone(front: Front, encoding: str, sent: bytes, data: bytes) -> None:
    head = b'Content-Disposition: form-data; name="a"\r\nContent-Transfer-Encoding: ' + encoding.encode()
    await front.post("/predictions/tiny", multipart(head + b"\r\n\r\n" + sent), headers=MULTIPART)
    assert list(front.asked.parts) == [Part("a", data)]


async def test_headers_reach_the_handler_in_the_clients_spelling(front: Front) -> None:
    """HTTP libraries change the case of names; handlers written for TorchServe look for what the client wrote."""
    await front.raw(b"X-oWn: One\r\nx-own: two\r\nContent-Length: 1", b"7")
    assert front.asked.headers[0] == ("hOST", "x")
    assert front.asked.headers[2:5] == (("X-oWn", "One"), ("x-own", "two"), ("Content-Length", "1"))


UNENCODABLE = [
    pytest.param(b"\xff", id="no UTF-8"),
    pytest.param(b"a\xc3", id="cut character"),
    pytest.param(b"\xed\xa0\x80", id="surrogate"),
    pytest.param(b"\xc3\xb6", id="UTF-8"),
]


def texts(front: Front) -> list[str]:
    asked = front.asked
    named = [text for part in asked.parts for text in (part.name, part.content_type)]
    return [asked.model, asked.version or "", asked.trace_context, *named, *(t for pair in asked.headers for t in pair)]


@pytest.mark.parametrize("raw", UNENCODABLE)
@pytest.mark.parametrize("name", [b"traceparent", b"Content-Type", b"X-Own", b"Cookie", b"User-Agent", b"tracestate"])
@pytest.mark.parametrize(
    "target", [b"/predictions/tiny", b"/v1/models/tiny:predict", b"/v2/models/tiny/infer", b"/models/tiny/invoke"]
)
async def test_header_that_is_no_utf_8_reaches_the_handler_as_text_that_can_be_encoded(
    front: Front, target: bytes, name: bytes, raw: bytes
) -> None:
    """``traceparent: \\xff`` ended the worker's slot: the message to it could not be encoded."""
    answer = await front.raw(name + b": " + raw + b"\r\nContent-Length: 1", b"7", target=target)
    assert answer.startswith(b"HTTP/1.1 200")
    assert "".join(texts(front)).encode()


@pytest.mark.parametrize("raw", UNENCODABLE)
@pytest.mark.parametrize(
    "form",
    [
        pytest.param(b'Content-Disposition: form-data; name="%s"\r\n\r\n1', id="part name"),
        pytest.param(b'Content-Disposition: form-data; name="a"; filename="%s"\r\n\r\n1', id="file name"),
        pytest.param(
            b'Content-Disposition: form-data; name="a"; filename="f"\r\nContent-Type: %s\r\n\r\n1', id="part type"
        ),
        pytest.param(b'X-%s: 1\r\nContent-Disposition: form-data; name="a"\r\n\r\n1', id="header of the part"),
    ],
)
async def test_part_that_is_no_utf_8_reaches_the_handler_as_text_that_can_be_encoded(
    front: Front, form: bytes, raw: bytes
) -> None:
    assert (await front.post("/predictions/tiny", multipart(form % raw), headers=MULTIPART)).status == 200
    assert "".join(texts(front)).encode()


@pytest.mark.parametrize("raw", [b"\xff", b"a\xc3", b"\xed\xa0\x80"])
@pytest.mark.parametrize(
    "target",
    [
        b"/predictions/%s",
        b"/predictions/tiny/%s",
        b"/predictions/tiny?a=%s",
        b"/models/tiny/invoke?%s=1",
        b"/v1/models/%s:predict",
        b"/v2/models/tiny?%s",
        b"/models/%s",
        b"/%s",
    ],
)
async def test_target_that_is_no_utf_8_is_refused(front: Front, target: bytes, raw: bytes) -> None:
    answer = await front.raw(b"Content-Length: 1", b"7", target=target % raw)
    assert (answer.split(b" ", 2)[1], front.engine.jobs) == (b"400", [])


@pytest.mark.parametrize("target", ["/\udcff", "/predictions/\udcc3", "/a?b=\udced\udca0\udc80"])
def test_target_that_cannot_be_encoded_is_refused_whoever_parsed_it(target: str) -> None:
    """aiohttp's parser in C refuses it already; the one in Python, for machines without a wheel, lets it through."""
    with pytest.raises(BadRequest, match="percent-encode"):
        check_head(make_mocked_request("GET", target))


@pytest.mark.parametrize("escaped", ["%FF", "%ED%A0%80", "%C3", "%00", "..", "%2e%2e%2f", "%252e", "%F0%9F%A6%8A"])
@pytest.mark.parametrize(
    "path", ["/predictions/{}", "/predictions/tiny/{}", "/v1/models/{}:predict", "/v2/models/{}/infer", "/models/{}"]
)
async def test_odd_name_in_the_path_is_just_not_found(front: Front, path: str, escaped: str) -> None:
    url = yarl.URL(front.url + path.format(escaped), encoded=True)
    async with front.client.request("GET" if path.startswith("/models") else "POST", url) as response:
        assert response.status in (404, 405)
        assert json.loads(await response.read())["code"] == response.status


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
    front.registry.unopened += [failed_deployment("broken", failed)] if failed else []
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
