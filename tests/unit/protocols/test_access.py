"""Who is let in over HTTP: tokens on both ways into the front, calls that a web page may have made, and CORS."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.unit.protocols.conftest import Front, listening
from torchserve_lite.config.settings import AccessConfig, Address
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.management.access import Access

FAILED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
SHARED = dict.fromkeys(("inference", "management", "metrics"), Address())  # one listener
SEPARATE = dict(zip(SHARED, map(Address, ("127.0.0.1", "127.0.0.2", "127.0.0.3")), strict=True))


class Locked:
    """A front end that asks for tokens, and its keys."""

    def __init__(self, front: Front, file: Path) -> None:
        self.front = front
        self._file = file

    def bearer(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {json.loads(self._file.read_text())[name]['key']}"}

    async def status(self, method: str, path: str, role: str = "inference", **facts: Any) -> int:
        async with self.front.client.request(method, self.front.http.addresses[role] + path, **facts) as answer:
            await answer.read()
            return answer.status


@asynccontextmanager
async def locked(folder: Path, *, shared: bool = False, access: AccessConfig | None = None, **config: Any) -> Any:
    keys = Access(access or AccessConfig(), folder / "key_file.json")
    facts: dict[str, Any] = {**(SHARED if shared else SEPARATE), **config}
    async with listening(access=keys, **facts) as front, keys.keys_in_file():
        yield Locked(front, folder / "key_file.json")


@pytest.fixture(params=[True, False], ids=["fast", "aiohttp"])
async def separate(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Locked]:
    async with locked(tmp_path, fast_path=request.param) as made:
        yield made


@pytest.fixture(params=[True, False], ids=["fast", "aiohttp"])
async def together(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Locked]:
    async with locked(tmp_path, shared=True, fast_path=request.param) as made:
        yield made


# Tokens

INFERENCE = [
    ("POST", "/predictions/tiny"),
    ("POST", "/predictions/token"),
    ("POST", "/explanations/tiny"),
    ("POST", "/v1/models/tiny:predict"),
    ("POST", "/v1/models/tiny%3Apredict"),
    ("GET", "/v1/models/tiny:predict?a=1"),
    ("POST", "/v2/models/tiny/infer"),
    ("POST", "/v2/models/tiny/versions/1.0/infer"),
    ("POST", "/models/tiny/invoke"),
    ("POST", "/invocations"),
    ("POST", "/tiny/predict"),
    ("POST", "/token/predict"),
    ("GET", "/v1/models"),
    ("GET", "/v2/models/tiny"),
    ("GET", "/nowhere"),
    ("GET", "/v2/nowhere"),
    ("DELETE", "/predictions/tiny"),
]
MANAGEMENT = [
    ("GET", "/models"),
    ("GET", "/models/tiny"),
    ("PUT", "/models/tiny/1.0?min_worker=1"),
    ("DELETE", "/models/tiny"),
    ("POST", "/models?url=/token"),
]
OPEN = [
    ("GET", "/ping"),
    ("POST", "/ping"),
    ("GET", "/"),
    ("GET", "/v2/health/live"),
    ("GET", "/v2/health/ready"),
    ("GET", "/v1/models/tiny"),
    ("GET", "/v2/models/tiny/ready"),
    ("OPTIONS", "/predictions/tiny"),
    ("OPTIONS", "/nowhere"),
]


@pytest.mark.parametrize(("method", "path"), INFERENCE)
async def test_inference_needs_its_key(separate: Locked, method: str, path: str) -> None:
    assert await separate.status(method, path, data=b"7") == 401
    assert await separate.status(method, path, data=b"7", headers=separate.bearer("management")) == 401
    assert await separate.status(method, path, data=b"7", headers=separate.bearer("inference")) != 401


@pytest.mark.parametrize(("method", "path"), MANAGEMENT)
async def test_management_needs_its_key(separate: Locked, method: str, path: str) -> None:
    assert await separate.status(method, path, "management") == 401
    assert await separate.status(method, path, "management", headers=separate.bearer("inference")) == 401
    assert await separate.status(method, path, "management", headers=separate.bearer("management")) != 401


@pytest.mark.parametrize(("method", "path"), OPEN)
async def test_health_and_options_need_no_key(separate: Locked, method: str, path: str) -> None:
    assert await separate.status(method, path) not in (401, 405)


async def test_metrics_need_no_key(separate: Locked, together: Locked) -> None:
    assert await separate.status("GET", "/metrics", "metrics") == 200
    assert await together.status("GET", "/metrics") == 200


async def test_management_key_opens_both_on_a_shared_listener_and_the_inference_key_one(together: Locked) -> None:
    for key, infers, manages in (("management", 200, 200), ("inference", 200, 401), ("API", 401, 401)):
        headers = together.bearer(key)
        assert await together.status("POST", "/predictions/tiny", data=b"7", headers=headers) == infers
        assert await together.status("GET", "/models", headers=headers) == manages


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param([], id="none"),
        pytest.param(["Authorization:"], id="empty"),
        pytest.param(["Authorization: Bearer "], id="no token"),
        pytest.param(["Authorization: Bearer wrong"], id="wrong"),
        pytest.param(["Authorization: Bearer {prefix}"], id="prefix"),
        pytest.param(["Authorization: Basic {key}"], id="basic"),
        pytest.param(["Authorization: Bearer {key}", "Authorization: Bearer {key}"], id="twice"),
        pytest.param(["Authorization: Bearer wrong", "Authorization: Bearer {key}"], id="two"),
        pytest.param(["X-Authorization: Bearer {key}"], id="another header"),
    ],
)
async def test_refusal_is_the_same_for_all_that_is_no_key(separate: Locked, lines: list[str]) -> None:
    key = separate.bearer("inference")["Authorization"].split()[1]
    sent = [line.format(key=key, prefix=key[:20]) for line in [*lines, "Content-Length: 1"]]
    head, _, body = (await separate.front.raw("\r\n".join(sent).encode(), b"7")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\n")
    assert json.loads(body) == {"code": 401, "type": "InvalidKeyException", "message": FAILED}
    assert separate.front.engine.jobs == []


async def test_kept_connection_is_asked_for_its_token_each_time(separate: Locked) -> None:
    """The fast path keeps what it has read of a head, and must not keep that its token was good."""

    async def ask(headers: dict[str, str]) -> int:
        return await separate.status("POST", "/predictions/tiny", data=b"7", headers=headers)

    old = separate.bearer("inference")
    assert await ask(old) == 200
    renew = separate.bearer("API")
    assert await separate.status("GET", "/token?type=inference", "management", headers=renew) == 200
    assert await ask(old) == 401
    assert await ask(separate.bearer("inference")) == 200


async def test_expired_key_is_refused_on_a_kept_connection(tmp_path: Path) -> None:
    now = [0.0]
    keys = Access(AccessConfig(token_lifetime=60), tmp_path / "key_file.json", lambda: now[0])
    async with listening(access=keys) as front, keys.keys_in_file():
        headers = Locked(front, tmp_path / "key_file.json").bearer("inference")
        assert (await front.post("/predictions/tiny", headers=headers)).status == 200
        now[0] = 60.0
        assert (await front.post("/predictions/tiny", headers=headers)).status == 401


async def test_good_token_keeps_the_request_on_the_fast_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with locked(tmp_path) as there:
        monkeypatch.setattr("torchserve_lite.protocols.http.fast_path.Connection._pass_on", None)  # to aiohttp
        headers = there.bearer("inference")
        assert await there.status("POST", "/predictions/tiny", data=b"7", headers=headers) == 200


async def test_refused_token_has_torchserves_status_when_that_is_wanted(tmp_path: Path) -> None:
    async with locked(tmp_path, access=AccessConfig(token_failure_status=400)) as there:
        answer = await there.front.post("/predictions/tiny")
        assert (answer.status, answer.json["code"]) == (400, 400)
        assert "WWW-Authenticate" not in answer.headers


async def test_referer_that_names_the_token_page_changes_nothing(separate: Locked) -> None:
    """TorchServe looks for "/token" anywhere in the request, and then wants the API key."""
    headers = {**separate.bearer("management"), "Referer": "http://x/tokenpage"}
    assert await separate.status("GET", "/models", "management", headers=headers) == 200


# Renewing


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_key_is_renewed_and_the_answer_is_torchserves(separate: Locked, method: str) -> None:
    before = separate.bearer("management")
    url = separate.front.http.addresses["management"] + "/token?type=management"
    async with separate.front.client.request(method, url, headers=separate.bearer("API")) as answer:
        assert (answer.status, await answer.read()) == (200, b"\n")
    assert separate.bearer("management") != before
    assert await separate.status("GET", "/models", "management", headers=before) == 401


@pytest.mark.parametrize("key", ["management", "inference", ""])
async def test_only_the_api_key_renews(separate: Locked, key: str) -> None:
    before = separate.bearer("management")
    headers = separate.bearer(key) if key else {}
    assert await separate.status("GET", "/token?type=management", "management", headers=headers) == 401
    assert separate.bearer("management") == before


@pytest.mark.parametrize("query", ["", "?type=", "?type=API", "?type=Management", "?type=inference&type=inference"])
async def test_what_is_to_be_renewed_must_be_said(separate: Locked, query: str) -> None:
    assert await separate.status("GET", f"/token{query}", "management", headers=separate.bearer("API")) == 400


async def test_options_renews_nothing(separate: Locked) -> None:
    before = separate.bearer("management")
    headers = separate.bearer("API")
    assert await separate.status("OPTIONS", "/token?type=management", "management", headers=headers) == 200
    assert separate.bearer("management") == before


async def test_there_is_no_token_page_without_tokens(front: Front) -> None:
    assert (await front.ask("GET", "/token?type=management")).status == 404


# Calls that a web page may have made

SCALE = "/models/tiny?min_worker=1"


async def scaled(*, to: str = "127.0.0.1", method: str = "PUT", config: Any = None, **headers: str) -> tuple[int, str]:
    """The status of a scale call with these headers, and what is wrong with it."""
    async with listening(management=Address(to), **(config or {})) as front:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        url = front.http.addresses["management"].replace("0.0.0.0", "127.0.0.1")
        async with front.client.request(method, url + SCALE, headers=sent) as answer:
            body = await answer.json()
            return answer.status, "" if answer.status < 400 else body["message"]


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8081", "localhost.:1", "a.localhost", "127.0.0.1:8081", "10.1.2.3", "[::1]:8081", "mine"],
)
async def test_management_is_called_by_names_of_this_machine(host: str) -> None:
    assert await scaled(Host=host, config={"management_hosts": ("mine",)}) == (202, "")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8081", "localhost.evil.example", "127.0.0.1.evil.x", "127.1"]
)
async def test_name_that_leads_here_is_no_name_of_this_machine(host: str) -> None:
    """DNS rebinding: a page's own name leads to a listener that only this machine reaches."""
    status, message = await scaled(Host=host)
    assert status == 403
    assert "management_allowed_hosts" in message


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Origin": "http://evil.example"}, 403, id="another site"),
        pytest.param({"Origin": "null"}, 403, id="a site that is kept secret"),
        pytest.param({"Origin": "http://localhost:3000"}, 403, id="another port"),
        pytest.param({"Origin": "http://[::1"}, 403, id="no origin at all"),
        pytest.param({"Sec_Fetch_Site": "cross-site"}, 403, id="the browser says so"),
        pytest.param({"Origin": "http://localhost"}, 202, id="our own page"),
        pytest.param({"Sec_Fetch_Site": "same-origin"}, 202, id="the browser says that it is ours"),
        pytest.param({"Sec_Fetch_Site": "none"}, 202, id="no page at all"),
        pytest.param({"Referer": "http://evil.example/token"}, 202, id="referer"),
    ],
)
async def test_page_of_another_site_changes_nothing(headers: dict[str, str], status: int) -> None:
    found, message = await scaled(Host="localhost:80", **headers)
    assert found == status
    assert ("management_allowed_hosts" in message) == (status == 403)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
async def test_every_method_that_changes_something_is_watched(method: str) -> None:
    assert (await scaled(method=method, Host="evil.example"))[0] == 403


@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
async def test_reading_is_not_watched(method: str) -> None:
    async with listening() as front:
        url = front.http.addresses["management"] + "/models"
        async with front.client.request(method, url, headers={"Host": "evil.example"}) as answer:
            assert answer.status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({}, 202, id="program"),
        pytest.param({"User_Agent": "Mozilla/5.0 (X11)"}, 403, id="browser"),
        pytest.param({"Origin": "http://my-svc:8085"}, 403, id="page of that name"),
        pytest.param({"Sec_Fetch_Site": "same-origin"}, 403, id="the browser says that it is ours"),
    ],
)
async def test_listener_that_others_reach_is_called_by_any_name_but_not_from_a_page(
    headers: dict[str, str], status: int
) -> None:
    """As with KServe: the names of Services and gateways cannot be known."""
    assert (await scaled(to="0.0.0.0", Host="my-svc:8085", **headers))[0] == status
    known: dict[str, Any] = {"management_hosts": ("my-*",)}
    assert (await scaled(to="0.0.0.0", Host="my-svc:8085", config=known, **headers))[0] == 202


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"management_hosts": ("*.ops.example",)}, id="its host is configured"),
        pytest.param({"cors": {"access-control-allow-origin": "https://ui.ops.example"}}, id="CORS names it"),
    ],
)
async def test_page_that_the_operator_has_named_may_manage(config: dict[str, Any]) -> None:
    page = {"Origin": "https://ui.ops.example", "Sec_Fetch_Site": "cross-site"}
    assert (await scaled(Host="localhost", config=config, **page))[0] == 202


async def test_cors_for_everybody_opens_inference_alone() -> None:
    config: dict[str, Any] = {"cors": {"access-control-allow-origin": "*"}}
    assert (await scaled(Host="localhost", config=config, Origin="http://evil.example"))[0] == 403


async def test_token_makes_the_name_unimportant(tmp_path: Path) -> None:
    async with locked(tmp_path) as there:
        headers = {**there.bearer("management"), "Host": "my-svc", "Origin": "http://ui.example"}
        assert await there.status("PUT", SCALE, "management", headers=headers) == 202


@pytest.mark.parametrize("path", ["/predictions/tiny", "/v2/models/tiny/infer", "/ping"])
async def test_inference_on_a_shared_listener_is_never_refused_for_its_name(path: str) -> None:
    async with listening() as front:
        headers = {"Host": "mnist.example.com", "Origin": "http://a.example", "Sec-Fetch-Site": "cross-site"}
        assert (await front.post(path, b'{"inputs": []}', headers=headers)).status == 200


# CORS

CORS = {
    "access-control-allow-origin": "https://ui.example",
    "access-control-allow-methods": "GET, POST",
    "access-control-allow-headers": "authorization",
}


@pytest.mark.parametrize("role", ["inference", "management", "metrics"])
@pytest.mark.parametrize("path", ["/predictions/tiny", "/models/tiny", "/metrics", "/nowhere"])
async def test_preflight_needs_no_token(tmp_path: Path, role: str, path: str) -> None:
    async with locked(tmp_path, cors=CORS) as there:
        asked = {"Origin": "https://ui.example", "Access-Control-Request-Method": "POST"}
        url = there.front.http.addresses[role] + path
        async with there.front.client.options(url, headers=asked) as answer:
            assert answer.status == 200
            assert {name: answer.headers.getall(name) for name in CORS} == {name: [text] for name, text in CORS.items()}


@pytest.mark.parametrize(
    ("lines", "target", "status"),
    [
        pytest.param(b"Content-Length: 1", b"/predictions/tiny", b"200", id="answer of the fast path"),
        pytest.param(b"Content-Length: 1", b"/predictions/nope", b"404", id="error"),
        pytest.param(b"Content-Length: 1", b"/nowhere", b"404", id="no route"),
        pytest.param(b"Content-Length: 1", b"*", b"400", id="no path"),
        pytest.param(b"Content-Length: 99999", b"/predictions/tiny", b"413", id="too large"),
        pytest.param(b"Content-Length: x", b"/predictions/tiny", b"400", id="no HTTP"),
        pytest.param(b"Expect: x\r\nContent-Length: 1", b"/predictions/tiny", b"417", id="unknown expectation"),
    ],
)
@pytest.mark.parametrize("fast_path", [True, False], ids=["fast", "aiohttp"])
async def test_every_answer_has_the_headers_of_cors_once(
    lines: bytes, target: bytes, status: bytes, fast_path: bool
) -> None:
    async with listening(cors=CORS, fast_path=fast_path) as front:
        body = bytes(99_999) if status == b"413" else b"7"  # all of it: what is missing would be waited for
        answer = await front.raw(lines, body, target=target)
    assert answer.partition(b" ")[2].startswith(status)
    for name, text in CORS.items():
        assert answer.lower().count(f"\r\n{name}: {text.lower()}\r\n".encode()) == 1


async def test_refused_token_has_the_headers_of_cors(tmp_path: Path) -> None:
    """Or the page that asked would not learn why."""
    async with locked(tmp_path, cors=CORS) as there:
        answer = await there.front.post("/predictions/tiny")
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (401, "https://ui.example")


@pytest.mark.parametrize("method", ["POST", "GET"], ids=["fast", "aiohttp"])
@pytest.mark.parametrize("version", [aiohttp.HttpVersion10, aiohttp.HttpVersion11], ids=str)
async def test_header_of_cors_that_the_handler_sets_takes_the_place_of_ours(
    method: str, version: aiohttp.HttpVersion
) -> None:
    async with listening(cors=CORS) as front:
        own = (("Access-Control-Allow-Origin", "null"), ("Server", "mine"))
        front.engine.answer = lambda job: job.succeed(InferenceResponse(b"8", headers=own))
        async with aiohttp.ClientSession(version=version) as client:
            url = front.url + "/predictions/tiny"
            async with client.request(method, url, data=b"7") as answer:
                assert answer.headers.getall("access-control-allow-origin") == ["null"]
                assert answer.headers.getall("access-control-allow-methods") == ["GET, POST"]
                assert answer.headers.getall("server") == ["torchserve-lite"]
