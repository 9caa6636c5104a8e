"""What parent and child say to one another arrives as it was sent."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.conftest import spec_of
from torchserve_lite.core.models import BatchPolicy, DevicePolicy
from torchserve_lite.ipc.messages import (
    Answer,
    Answers,
    BatchDone,
    Call,
    Cancel,
    FromWorker,
    Load,
    Loaded,
    LoadFailure,
    Metric,
    Predict,
    Reply,
    SentPart,
    ToWorker,
    decode_from_worker,
    decode_to_worker,
    encode,
    encoded_headers,
    header_pairs,
)

LOAD = Load(
    spec=spec_of(
        handler="handler.py:handle",
        manifest={"model": {"modelName": "m", "nested": [1, 2.5, None, True]}},
        model_config={"handler": {"topk": 5, "labels": {1: "one"}}, 2: "a number as a key"},
        batch=BatchPolicy(size=4, delay=0.5),
        device=DevicePolicy(type="gpu", ids=(0, 2)),
    ),
    model_dir="/somewhere",
    gpu_id=1,
    python_path=("a", "b"),
)
HEADERS = (("X-A", "ä"), ("x-a", ""))
CALL = Call(
    "id",
    "predict",
    (SentPart("body", b"\x00\xff", "image/png"),),
    msgspec.Raw(encoded_headers(HEADERS)),
    "kserve",
    2.5,
    "00-ab-cd-01",
)
REPLY = Reply(b"\xff", 201, "Made", "text/plain", (("X-B", "1"),))
METRIC = Metric("name-with.dots", "counter", "Count", 1e25, (("Level", "Model"),), "a,b")


def arrived(message: Any, decode: Callable[[list[bytearray]], Any]) -> Any:
    return decode([bytearray(piece) for piece in encode(copy.deepcopy(message))])


@pytest.mark.parametrize("message", [LOAD, Predict(7, (CALL, CALL), 2), Cancel(7, 1)], ids=lambda m: type(m).__name__)
def test_message_to_a_worker_arrives_as_it_was_sent(message: ToWorker) -> None:
    assert arrived(message, decode_to_worker) == message


@pytest.mark.parametrize(
    "message",
    [
        Loaded(0.5),
        LoadFailure("ImportError: x", "Traceback", out_of_memory=True),
        Answers(7, (Answer(0, REPLY, last=False),)),
        Answers(7, (Answer(0, REPLY), Answer(2, Reply(b"no", failure="handler"))), BatchDone(0.1, (METRIC,))),
    ],
    ids=lambda m: type(m).__name__,
)
def test_message_from_a_worker_arrives_as_it_was_sent(message: FromWorker) -> None:
    assert arrived(message, decode_from_worker) == message


@pytest.mark.parametrize("headers", [HEADERS, msgspec.Raw(encoded_headers(HEADERS))], ids=["pairs", "encoded"])
def test_headers_arrive_encoded_however_they_were_given(headers: Any) -> None:
    asked = Call("id", "predict", (), headers)
    (call,) = arrived(Predict(1, (asked,)), decode_to_worker).calls
    assert type(call.headers) is msgspec.Raw
    assert header_pairs(call) == header_pairs(asked) == HEADERS


def test_small_payload_is_received_into_a_bytearray_of_its_own() -> None:
    """Which is what a handler gets."""
    first, second = arrived(Predict(1, (CALL, CALL)), decode_to_worker).calls
    assert type(first.parts[0].data) is bytearray
    first.parts[0].data[:] = b"changed"
    assert second.parts[0].data == b"\x00\xff"


def test_metric_values_keep_what_text_would_lose() -> None:
    metrics = tuple(Metric("m", "gauge", "", value, ()) for value in (math.inf, 0.1 + 0.2, -0.0))
    assert arrived(Answers(1, (), BatchDone(0.0, metrics)), decode_from_worker).done.metrics == metrics


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(msgspec.msgpack.encode({"type": "Unknown"}), id="unknown message"),
        pytest.param(msgspec.msgpack.encode({"type": "Answers", "batch": "one"}), id="wrong type"),
        pytest.param(msgspec.msgpack.encode(CALL), id="part of a message"),
        pytest.param(msgspec.msgpack.encode(LOAD), id="message for the other direction"),
        pytest.param(b"\x81\xa4type\xa7\xffnswers", id="type that is no UTF-8"),
        pytest.param(b"\x82\xa4type\xa6Loaded\xa1\xff\x00", id="key that is no UTF-8"),
        pytest.param(b"\x83\xa4type\xabLoadFailure\xa5cause\xa1\xff\xa9traceback\xa0", id="text that is no UTF-8"),
        pytest.param(b"\x82\xa4type\xa6Loaded\xa1x" + b"\x91" * 100_000 + b"\x90", id="nested without end"),
    ],
)
def test_garbage_is_refused_as_one_kind_of_error(garbage: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_from_worker([bytearray(garbage)])


@pytest.mark.parametrize("number", [-1, 0, 2, 2**40])
def test_number_of_no_buffer_is_refused(number: int) -> None:
    answers = msgspec.msgpack.encode(Answers(1, (Answer(0, Reply(number)),)))
    with pytest.raises(msgspec.DecodeError):
        decode_from_worker([bytearray(answers), bytearray(b"the only one")])


def test_large_payloads_travel_beside_the_message_and_are_not_copied_out_of_it() -> None:
    large = bytes(1_000_000)
    header, *buffers = encode(Predict(1, (Call("id", "predict", (SentPart("a", b"small"), SentPart("b", large)), ()),)))
    assert len(header) < 100
    assert buffers[0] is large
    received = bytearray(large)
    predict = decode_to_worker([bytearray(header), received])
    assert isinstance(predict, Predict)
    assert [part.data for part in predict.calls[0].parts] == [b"small", large]
    assert predict.calls[0].parts[1].data is received
