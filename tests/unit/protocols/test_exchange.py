"""The pieces that all HTTP protocols share."""

from __future__ import annotations

import uuid

import pytest
from aiohttp.test_utils import make_mocked_request

from torchserve_lite.errors import BadRequest
from torchserve_lite.protocols.http.exchange import new_request_id
from torchserve_lite.protocols.http.requests import REQUEST_ID, make_request, media_type


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
    assert make_request(request, model="m", parts=()).timeout == seconds


@pytest.mark.parametrize("text", ["0", "-1", "soon", "", "inf", "nan", "1,5"])
def test_time_limit_that_is_none_is_refused_by_name(text: str) -> None:
    request = make_mocked_request("POST", "/", headers={"X-Request-Timeout-Ms": text})
    request[REQUEST_ID] = "id"
    with pytest.raises(BadRequest, match="X-Request-Timeout-Ms"):
        make_request(request, model="m", parts=())
