"""The pieces that all HTTP protocols share."""

from __future__ import annotations

import asyncio
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.http import StreamWriter
from aiohttp.test_utils import make_mocked_request

from torchserve_lite.config.settings import HttpConfig, MetricsConfig
from torchserve_lite.core.requests import InferenceResponse
from torchserve_lite.errors import BadRequest
from torchserve_lite.protocols.errors import ErrorForm
from torchserve_lite.protocols.health import Health
from torchserve_lite.protocols.http.access_log import AccessLog
from torchserve_lite.protocols.http.answers import new_request_id
from torchserve_lite.protocols.http.connections import Client, Clients
from torchserve_lite.protocols.http.exchange import Exchange
from torchserve_lite.protocols.http.requests import REQUEST_ID, Target, make_request, media_type
from torchserve_lite.telemetry.catalogue import ServerMetrics


def test_request_ids_are_random_uuids() -> None:
    ids = [new_request_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    for text in ids:
        made = uuid.UUID(text)
        assert (str(made), made.version, made.variant) == (text, 4, uuid.RFC_4122)


@pytest.mark.parametrize(
    ("header", "kind"),
    [
        ("application/json", "application/json"),
        ("Application/JSON; charset=utf-8", "Application/JSON"),
        ('multipart/form-data; boundary="a;b"', "multipart/form-data"),
        ("", ""),
    ],
)
def test_media_type_has_no_parameters(header: str, kind: str) -> None:
    assert media_type(make_mocked_request("POST", "/", headers={"Content-Type": header})) == kind


@pytest.mark.parametrize(("text", "seconds"), [("250", 0.25), ("1500.5", 1.5005), ("1e3", 1.0)])
def test_clients_time_limit_is_in_milliseconds(text: str, seconds: float) -> None:
    request = make_mocked_request("POST", "/", headers={"x-request-timeout-ms": text})
    request[REQUEST_ID] = "id"
    assert make_request(request, Target("m"), ()).timeout == seconds


@pytest.mark.parametrize("text", ["0", "-1", "soon", "", "inf", "nan", "1,5"])
def test_time_limit_that_is_none_is_refused_by_name(text: str) -> None:
    request = make_mocked_request("POST", "/", headers={"X-Request-Timeout-Ms": text})
    request[REQUEST_ID] = "id"
    with pytest.raises(BadRequest, match="X-Request-Timeout-Ms"):
        make_request(request, Target("m"), ())


@pytest.mark.parametrize("answer", [InferenceResponse(b"x"), InferenceResponse(b"x" * 100_000)], ids=["small", "large"])
async def test_answer_to_a_client_that_has_gone_is_no_error(
    answer: InferenceResponse, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: web.Request) -> InferenceResponse:
        return answer

    nobody: Any = SimpleNamespace(transport=None)
    writer = StreamWriter(nobody, asyncio.get_running_loop())
    request = make_mocked_request("POST", "/", writer=writer)
    request.protocol.transport, request.protocol.client = None, Client()  # type: ignore[attr-defined]
    clients = Clients(1, 75.0)
    metrics = ServerMetrics(MetricsConfig())
    health = Health(None)  # type: ignore[arg-type]
    exchange = Exchange(HttpConfig(), health, metrics, AccessLog(lambda text: None), clients)
    response = await exchange.answer(request, handler, ErrorForm.TORCHSERVE)
    assert (response.keep_alive, exchange.in_progress, caplog.records) == (False, 0, [])
