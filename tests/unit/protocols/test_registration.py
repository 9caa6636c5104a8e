"""The parameters of a registration, from a query or a JSON body."""

from __future__ import annotations

from typing import Any

import pytest

from torchserve_lite.core.options import ServingOptions
from torchserve_lite.errors import BadRequest
from torchserve_lite.protocols.registration import parameters_of, registration_of


def test_query_says_all_that_there_is_to_say() -> None:
    query = {
        "url": "m.mar",
        "model_name": "we ird/name",
        "runtime": "python3",
        "handler": "h.py:handle",
        "initial_workers": "2",
        "max_workers": "3",
        "batch_size": "8",
        "max_batch_delay": "50",
        "response_timeout": "60",
        "startup_timeout": "90",
        "s3_sse_kms": "TRUE",
        "synchronous": "false",
    }
    read = registration_of(query)
    assert read.options == ServingOptions(
        url="m.mar",
        name="we ird/name",
        runtime="python3",
        handler="h.py:handle",
        min_workers=2,
        max_workers=3,
        batch_size=8,
        batch_delay=0.05,
        response_timeout=60.0,
        startup_timeout=90.0,
        s3_sse_kms=True,
    )
    assert not read.synchronous


def test_what_is_not_said_is_left_to_the_archive() -> None:
    """TorchServe stores -10000 for a max_batch_delay that a JSON body leaves out."""
    read = registration_of(parameters_of(b'{"url": "m.mar"}'))
    assert (read.options, read.synchronous) == (ServingOptions(url="m.mar"), True)


@pytest.mark.parametrize(
    ("said", "option", "value"),
    [
        pytest.param({"batch_size": 4}, "batch_size", 4, id="number of JSON"),
        pytest.param({"batch_size": "4"}, "batch_size", 4, id="number as text"),
        pytest.param({"batch_size": 4.0}, "batch_size", 4, id="number with a point"),
        pytest.param({"batch_size": 0}, "batch_size", None, id="no batch size"),
        pytest.param({"max_batch_delay": 0}, "batch_delay", 0.0, id="no waiting for a batch"),
        pytest.param({"initial_workers": "0"}, "min_workers", 0, id="no workers"),
        pytest.param({"response_timeout": ""}, "response_timeout", None, id="empty"),
        pytest.param({"model_name": None}, "name", None, id="null"),
    ],
)
def test_number_is_read_as_it_is_meant(said: dict[str, Any], option: str, value: object) -> None:
    assert getattr(registration_of({"url": "m.mar", **said}).options, option) == value


@pytest.mark.parametrize(
    ("said", "told"),
    [
        pytest.param({"url": None}, "Parameter url is required.", id="no url"),
        pytest.param({"url": ""}, "Parameter url is required.", id="empty url"),
        pytest.param({"url": ["m.mar"]}, "url", id="list"),
        pytest.param({"batch_size": "many"}, "batch_size", id="no number"),
        pytest.param({"batch_size": True}, "batch_size", id="boolean"),
        pytest.param({"batch_size": 2.5}, "batch_size", id="half a number"),
        pytest.param({"batch_size": -1}, "batch_size", id="below the least"),
        pytest.param({"initial_workers": 100000}, "initial_workers", id="too many workers"),
        pytest.param({"initial_workers": 3, "max_workers": 2}, "initial_workers=3.*max_workers=2", id="contradiction"),
        pytest.param({"runtime": "LSP"}, "runtime=LSP", id="runtime of C++"),
        pytest.param({"runtime": "ruby"}, "Invalid RuntimeType value: ruby", id="runtime"),
        pytest.param({"model_name": "a\nb"}, "model_name", id="control character"),
        pytest.param({"model_name": "a" * 201}, "model_name", id="long name"),
        pytest.param({"model_name": "a\ud800"}, "model_name", id="half a character"),
    ],
)
def test_value_that_cannot_be_used_is_refused_by_name(said: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        registration_of({"url": "m.mar", **said})


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"7", b'"url"', b"\xff", b"[" * 100_000])
def test_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest, match="JSON object"):
        parameters_of(body)


def test_body_that_says_something_twice_is_refused_by_name() -> None:
    with pytest.raises(BadRequest, match="url is in the JSON body more than once"):
        parameters_of(b'{"url": "a.mar", "url": "b.mar"}')
