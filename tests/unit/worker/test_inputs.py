"""What a handler sees of a request: TorchServe's decoding by content type, and what it does wrong mended."""

from __future__ import annotations

from typing import Any

import pytest

from torchserve_lite.core.requests import Headers
from torchserve_lite.ipc.messages import Call, SentPart
from torchserve_lite.worker.inputs import headers_of, row_of


def call(*parts: SentPart, headers: Headers = ()) -> Call:
    return Call("id", "predict", parts, headers)


@pytest.mark.parametrize(
    ("data", "content_type", "value"),
    [
        pytest.param(b'{"a": 1}', "application/json", {"a": 1}, id="json"),
        pytest.param(b"[1]", "Application/JSON", [1], id="json in capitals"),
        pytest.param(b"[1]", "application/vnd.x+json", [1], id="json by suffix"),
        pytest.param(b"{", "application/json", bytearray(b"{"), id="broken json"),
        pytest.param(b"[" * 100_000, "application/json", bytearray(b"[" * 100_000), id="json nested too deeply"),
        pytest.param(b"1" * 5000, "application/json", bytearray(b"1" * 5000), id="number of too many digits"),
        pytest.param(b"\xff", "application/json", bytearray(b"\xff"), id="json that is no utf-8"),
        pytest.param("sn\u00f6".encode(), "text/plain", "sn\u00f6", id="text"),
        pytest.param(b"a,b", "text/csv", "a,b", id="other text"),
        pytest.param(b"\xff", "text/plain", bytearray(b"\xff"), id="text that is no utf-8"),
        pytest.param(b"\xff\xd8", "image/jpeg", bytearray(b"\xff\xd8"), id="image"),
        pytest.param(b"x", "", bytearray(b"x"), id="no type"),
        pytest.param(b"", "application/json", bytearray(), id="empty json"),
    ],
)
def test_value_depends_on_the_content_type(data: bytes, content_type: str, value: Any) -> None:
    row = row_of(call(SentPart("body", data, content_type)), decode=True)
    assert row == {"body": value}
    assert type(row["body"]) is type(value)


def test_nothing_is_decoded_when_decoding_is_off() -> None:
    assert row_of(call(SentPart("body", b"[1]", "application/json")), decode=False) == {"body": bytearray(b"[1]")}


def test_parts_of_one_name_are_a_list_in_their_order() -> None:
    """TorchServe kept the last one and lost the others without a word."""
    parts = (SentPart("a", b"1", "text/plain"), SentPart("b", b"2"), SentPart("a", b"[3]", "application/json"))
    asked = call(*parts)
    assert row_of(asked, decode=True) == {"a": ["1", [3]], "b": bytearray(b"2")}
    assert row_of(asked, decode=False) == {"a": [bytearray(b"1"), bytearray(b"[3]")], "b": bytearray(b"2")}
    assert headers_of(asked)["a"] == [{"content-type": "text/plain"}, {"content-type": "application/json"}]


def test_headers_tell_the_type_of_each_part_and_keep_the_clients_spelling() -> None:
    headers = headers_of(call(SentPart("body", b"", "image/png"), headers=(("X-Own", "1"), ("x-other", "2"))))
    assert headers == {"body": {"content-type": "image/png"}, "X-Own": "1", "x-other": "2", "explain": "False"}


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        pytest.param((("X-A", "1"), ("X-A", "2")), {"X-A": "1, 2"}, id="twice"),
        pytest.param((("X-A", "1"), ("x-b", ""), ("x-a", "2"), ("X-a", "3")), {"X-A": "1, 2, 3", "x-b": ""}, id="case"),
        pytest.param((("Cookie", "a=1"), ("cookie", "b=2")), {"Cookie": "a=1; b=2"}, id="cookies"),
        pytest.param((("url_path", "client's"), ("url_path", "v1")), {"url_path": "v1"}, id="the server's own"),
    ],
)
def test_header_that_repeats_has_all_its_values(sent: Headers, seen: dict[str, str]) -> None:
    assert headers_of(call(headers=sent)) == {**seen, "explain": "False"}


@pytest.mark.parametrize("data", [pytest.param(b"x" * 20_000, id="large"), pytest.param(b"x", id="small")])
def test_received_bytearray_is_handed_over_without_a_copy(data: bytes) -> None:
    received = bytearray(data)
    assert row_of(call(SentPart("body", received)), decode=True)["body"] is received


@pytest.mark.parametrize(
    ("verb", "headers"),
    [("predict", {"explain": "False"}), ("explain", {"explain": "True"}), ("describe", {"describe": "True"})],
)
def test_handler_is_told_what_is_asked_whatever_the_client_says(verb: str, headers: dict[str, str]) -> None:
    told = headers_of(Call("id", verb, (), (("explain", "True"), ("describe", "no"))))
    assert headers.items() <= told.items()
