"""What a handler sees of a request: TorchServe's decoding by content type, and what it does wrong mended."""

from __future__ import annotations

from typing import Any

import pytest

from torchserve_lite.core.requests import Headers, Part
from torchserve_lite.ipc.messages import Call
from torchserve_lite.worker.inputs import headers_of, row_of


def call(*parts: Part, headers: Headers = ()) -> Call:
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
    row = row_of(call(Part("body", data, content_type)), decode=True)
    assert row == {"body": value}
    assert type(row["body"]) is type(value)


def test_nothing_is_decoded_when_decoding_is_off() -> None:
    assert row_of(call(Part("body", b"[1]", "application/json")), decode=False) == {"body": bytearray(b"[1]")}


def test_last_of_several_parts_with_one_name_counts() -> None:
    parts = (Part("a", b"1"), Part("b", b"2"), Part("a", b"3"))
    assert row_of(call(*parts), decode=True) == {"a": bytearray(b"3"), "b": bytearray(b"2")}


def test_headers_tell_the_type_of_each_part_and_keep_the_clients_spelling() -> None:
    headers = headers_of(call(Part("body", b"", "image/png"), headers=(("X-Own", "1"), ("x-own", "2"))))
    assert headers == {"body": {"content-type": "image/png"}, "X-Own": "1", "x-own": "2", "explain": "False"}


@pytest.mark.parametrize(
    ("verb", "headers"),
    [("predict", {"explain": "False"}), ("explain", {"explain": "True"}), ("describe", {"describe": "True"})],
)
def test_handler_is_told_what_is_asked_whatever_the_client_says(verb: str, headers: dict[str, str]) -> None:
    told = headers_of(Call("id", verb, (), (("explain", "True"), ("describe", "no"))))
    assert headers.items() <= told.items()
