"""What parent and child say to one another arrives as it was sent."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from torchserve_lite.core.requests import Part
from torchserve_lite.ipc.messages import (
    Call,
    Cancel,
    Chunk,
    FromWorker,
    Load,
    Loaded,
    LoadFailure,
    Metric,
    Predict,
    Reply,
    Result,
    ToWorker,
)

LOAD = Load(
    model_name="m",
    model_version="1.0",
    model_dir="/somewhere",
    handler="handler.py:handle",
    manifest={"model": {"modelName": "m", "nested": [1, 2.5, None, True]}},
    model_config={"handler": {"topk": 5, "labels": {1: "one"}}, 2: "a number as a key"},
    gpu_id=1,
    python_path=("a", "b"),
)
CALL = Call("id", "predict", (Part("body", b"\x00\xff", "image/png"),), (("X-A", "ä"),), "kserve", 2.5, "00-ab-cd-01")
REPLY = Reply(b"\xff", 201, "Made", "text/plain", (("X-B", "1"),))
METRIC = Metric("name-with.dots", "counter", "Count", 1e25, (("Level", "Model"),), "a,b")


def sent(message: Any, kind: Any) -> Any:
    return msgspec.msgpack.Decoder(kind).decode(msgspec.msgpack.Encoder().encode(message))


@pytest.mark.parametrize("message", [LOAD, Predict(7, (CALL, CALL), 2), Cancel(7, 1)], ids=lambda m: type(m).__name__)
def test_message_to_a_worker_arrives_as_it_was_sent(message: ToWorker) -> None:
    assert sent(message, ToWorker) == message


@pytest.mark.parametrize(
    "message",
    [
        Loaded(0.5),
        LoadFailure("ImportError: x", "Traceback", out_of_memory=True),
        Chunk(7, 0, REPLY),
        Result(7, (REPLY, Reply(b"no", 503, failed=True)), 0.1, (METRIC,)),
    ],
    ids=lambda m: type(m).__name__,
)
def test_message_from_a_worker_arrives_as_it_was_sent(message: FromWorker) -> None:
    assert sent(message, FromWorker) == message


def test_metric_values_keep_what_text_would_lose() -> None:
    metrics = tuple(Metric("m", "gauge", "", value, ()) for value in (math.inf, 0.1 + 0.2, -0.0))
    assert sent(Result(1, (), 0.0, metrics), FromWorker).metrics == metrics


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(msgspec.msgpack.encode({"type": "Unknown"}), id="unknown message"),
        pytest.param(msgspec.msgpack.encode({"type": "Result", "batch": "one"}), id="wrong type"),
        pytest.param(msgspec.msgpack.encode(CALL), id="part of a message"),
        pytest.param(msgspec.msgpack.encode(LOAD), id="message for the other direction"),
    ],
)
def test_garbage_is_refused_as_one_kind_of_error(garbage: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.Decoder(FromWorker).decode(garbage)
