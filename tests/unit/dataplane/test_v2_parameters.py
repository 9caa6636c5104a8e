"""What a V2 request says to the server itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from torchserve_lite.core.models import SequenceHeaders, SequencePolicy
from torchserve_lite.core.requests import Envelope, Headers, InferenceRequest, Part, Verb
from torchserve_lite.core.streams import Buffer
from torchserve_lite.dataplane.v2_parameters import obeyed
from torchserve_lite.errors import BadRequest

SEQUENCES = SequencePolicy(max_idle=60.0, headers=SequenceHeaders(id="Seq", start="Begin", end="End"))
INPUTS = [{"name": "timeout", "datatype": "BYTES", "shape": [1], "data": ["sequence_id"]}]


def request(body: Buffer, timeout: float | None = None, headers: Headers = ()) -> InferenceRequest:
    parts = (Part("body", body),)
    return InferenceRequest(
        "id", "m", None, Verb.PREDICT, parts, headers, Envelope.KSERVE_V2, timeout, encoded_headers=b"old"
    )


def asking(**parameters: Any) -> bytes:
    return json.dumps({"parameters": parameters, "inputs": INPUTS}).encode()


@pytest.mark.parametrize(
    ("microseconds", "said", "seconds"),
    [(1_500_000, None, 1.5), (1_500_000, 1.0, 1.0), (500_000, 1.0, 0.5), (0, None, None), (0, 2.0, 2.0)],
)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_timeout_is_a_time_limit_unless_a_shorter_one_is_said(
    kind: type, microseconds: int, said: float | None, seconds: float | None
) -> None:
    assert obeyed(request(kind(asking(timeout=microseconds)), said), None).timeout == seconds


@pytest.mark.parametrize(
    ("parameters", "headers"),
    [
        ({"sequence_id": 7}, (("Seq", "7"),)),
        ({"sequence_id": "film", "sequence_start": True, "sequence_end": False}, (("Seq", "film"), ("Begin", "true"))),
        ({"sequence_id": 7, "sequence_end": True}, (("Seq", "7"), ("End", "true"))),
        ({"sequence_id": 0, "sequence_start": True}, ()),
        ({"sequence_id": ""}, ()),
    ],
)
def test_sequence_is_named_by_the_headers_of_the_model(parameters: dict[str, Any], headers: Headers) -> None:
    made = obeyed(request(asking(**parameters)), SEQUENCES)
    assert made.headers == headers
    assert made.encoded_headers == (b"" if headers else b"old")


def test_header_of_the_client_wins() -> None:
    made = obeyed(request(asking(sequence_id=7, sequence_end=True), headers=(("seq", "mine"),)), SEQUENCES)
    assert made.headers == (("seq", "mine"), ("End", "true"))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(asking(sequence_id=7), id="a model without sequences"),
        pytest.param(json.dumps({"inputs": INPUTS}).encode(), id="the names elsewhere"),
        pytest.param(b'{"parameters": {"timeout": 5}', id="JSON that is none"),
        pytest.param(b'{"parameters": ["timeout"], "x": {"timeout": 1}}', id="parameters that are none"),
        pytest.param(b'{"parameters": {"timeout": "\xff"}}', id="no UTF-8"),
        pytest.param(b'{"timeout": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", id="nested without end"),
    ],
)
def test_other_requests_stay_as_they_are(body: bytes) -> None:
    given = request(body)
    assert obeyed(given, None) is given


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({"timeout": "5"}, "'5'; it must be a number of microseconds"),
        ({"timeout": -1}, "-1; it must be a number of microseconds"),
        ({"timeout": True}, "True; it must be"),
        ({"timeout": 0.5}, "0.5; it must be"),
        ({"sequence_id": 1.5}, "1.5; it must be a number or a text"),
        ({"sequence_id": None}, "None; it must be a number or a text"),
        ({"sequence_id": 7, "sequence_end": "yes"}, "\"sequence_end\" is 'yes'; it must be true or false"),
    ],
)
def test_what_makes_no_sense_is_refused(parameters: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        obeyed(request(asking(**parameters)), SEQUENCES)
