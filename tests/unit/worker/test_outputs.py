"""From what a handler returned to the bytes and the content type of a reply."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import decimal
import enum
import io
import json
import math
import pathlib
import types
import uuid
from typing import Any

import numpy as np
import pytest
import torch

from torchserve_lite.ipc import messages
from torchserve_lite.ipc.messages import Answer, Answers, Reply
from torchserve_lite.worker.outputs import ImpossibleStatus, Unserialisable, encode, encode_enveloped, reply_of

JSON, TEXT, BYTES = "application/json", "text/plain; charset=utf-8", "application/octet-stream"


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


CYCLE: list[Any] = []
CYCLE.append(CYCLE)

HOPELESS = [
    pytest.param(object(), id="object"),
    pytest.param(1j, id="complex number"),
    pytest.param({"a": iter([])}, id="iterator"),
    pytest.param({("a", 1): 2}, id="tuple as a key"),
    pytest.param(CYCLE, id="cycle"),
    pytest.param(nested(100_000), id="nested too deeply"),
    pytest.param("\ud800", id="text that is no utf-8"),
]


@pytest.mark.parametrize(
    ("value", "body", "kind"),
    [
        pytest.param(b"\xff", b"\xff", BYTES, id="bytes"),
        pytest.param(bytearray(b"\xff"), b"\xff", BYTES, id="bytearray"),
        pytest.param("sn\u00f6", "sn\u00f6".encode(), TEXT, id="text"),
        pytest.param(42, b"42", JSON, id="number"),
        pytest.param(None, b"null", JSON, id="none"),
        pytest.param({"a": [1]}, b'{\n  "a": [\n    1\n  ]\n}', JSON, id="object, indented as by torchserve"),
        pytest.param(float("nan"), b"NaN", JSON, id="nan as by torchserve"),
    ],
)
def test_result_is_encoded_by_its_type(value: Any, body: bytes, kind: str) -> None:
    assert encode(value) == (body, kind)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        pytest.param({"predictions": [2]}, b'{"predictions": [2]}', id="compact"),
        pytest.param({"x": [float("nan"), float("inf"), 1.0]}, b'{"x": [null, null, 1.0]}', id="no nan"),
        pytest.param("already text", b"already text", id="text"),
    ],
)
def test_enveloped_answer_is_json_that_every_parser_reads(value: Any, body: bytes) -> None:
    assert encode_enveloped(value) == (body, JSON)


@pytest.mark.parametrize("value", HOPELESS)
@pytest.mark.parametrize("encoder", [encode, encode_enveloped])
def test_hopeless_result_is_one_kind_of_error(encoder: Any, value: Any) -> None:
    with pytest.raises(Unserialisable):
        encoder(value)


class Processor:
    """What a handler set on its answer."""

    untouched = False

    def __init__(self, headers: dict[Any, Any] | None = None, status: Any = 200, phrase: Any = None) -> None:
        self.get_response_headers = lambda: headers or {}
        self.get_response_status_code = lambda: status
        self.get_response_status_phrase = lambda: phrase


def test_handlers_content_type_replaces_ours() -> None:
    reply = reply_of("x", Processor({"Content-Type": "text/html", "X-Own": "1"}))
    assert (reply.content_type, reply.headers) == ("text/html", (("X-Own", "1"),))


@pytest.mark.parametrize(
    "processor",
    [
        pytest.param(Processor({"X-Count": 3, "X-Odd": "\ud800"}), id="headers that are no text"),
        pytest.param(Processor(status="202", phrase=b"Noted"), id="status and phrase of other types"),
        pytest.param(Processor(status=202.0, phrase="\ud800"), id="float, and a phrase that is no text"),
    ],
)
def test_whatever_a_handler_sets_can_be_sent(processor: Processor) -> None:
    """Structs check no types when they are made: a wrong one was found by the parent, which ended the worker."""
    message = Answers(1, (Answer(0, reply_of("x", processor)),))
    received = messages.decode_from_worker([bytearray(piece) for piece in messages.encode(message)])
    assert isinstance(received, Answers)
    assert isinstance(received.answers[0].reply, Reply)


@pytest.mark.parametrize(
    "status", [99, 100, 199, 600, -1, 0, 10**400, "OK", "", None, True, False, 404.5, math.nan, [200]]
)
def test_status_of_no_final_answer_is_refused(status: Any) -> None:
    with pytest.raises(ImpossibleStatus, match="must be a number from 200 to 599"):
        reply_of("x", Processor(status=status))


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Box:
    label: str
    corners: Any


DAY = datetime.datetime(2026, 5, 4, 3, 2, 1, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("value", "sent"),
    [
        pytest.param(np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]], id="array"),
        pytest.param([np.float32(0.5), np.int64(7), np.bool_(True)], [0.5, 7, True], id="numpy scalars"),
        pytest.param(np.array(["2026-05-04"], "datetime64[D]"), ["2026-05-04"], id="numpy date"),
        pytest.param({"a": torch.tensor([[1.5]], requires_grad=True)}, {"a": [[1.5]]}, id="tensor inside"),
        pytest.param([torch.tensor([1], dtype=torch.bfloat16)], [[1.0]], id="bfloat16 tensor inside"),
        pytest.param([torch.eye(2).to_sparse()], [[[1.0, 0.0], [0.0, 1.0]]], id="sparse tensor inside"),
        pytest.param([torch.tensor([0.5]).to(torch.float8_e4m3fn)], [[0.5]], id="float8 tensor inside"),
        pytest.param([torch._neg_view(torch.ones(1))], [[-1.0]], id="tensor that is a negating view"),
        pytest.param([np.longdouble("0.5")], [0.5], id="more than 64 bits"),
        pytest.param([np.array([1.5], np.longdouble)], [[1.5]], id="array of more than 64 bits"),
        pytest.param(
            [DAY, DAY.date(), DAY.time()], ["2026-05-04T03:02:01+00:00", "2026-05-04", "03:02:01"], id="dates"
        ),
        pytest.param(datetime.timedelta(minutes=1), 60.0, id="duration"),
        pytest.param(uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001", id="uuid"),
        pytest.param(decimal.Decimal("0.10"), "0.10", id="decimal"),
        pytest.param({3, 1, 2}, [1, 2, 3], id="set"),
        pytest.param(frozenset([1]), [1], id="frozen set"),
        pytest.param(collections.deque([1]), [1], id="deque"),
        pytest.param(range(2), [0, 1], id="range"),
        pytest.param(Colour.RED, "red", id="enum"),
        pytest.param(Box("cat", np.array([1])), {"label": "cat", "corners": [1]}, id="dataclass"),
        pytest.param(types.MappingProxyType({"a": (1, 2)}), {"a": [1, 2]}, id="mapping"),
        pytest.param({np.int64(1): 1, Colour.RED: 2, DAY.date(): 3}, {"1": 1, "red": 2, "2026-05-04": 3}, id="keys"),
        pytest.param([b"a", memoryview(b"\xff")], ["a", "/w=="], id="bytes inside"),
        pytest.param(pathlib.PurePosixPath("a/b"), "a/b", id="path"),
    ],
)
@pytest.mark.parametrize("encoder", [encode, encode_enveloped])
def test_values_that_json_lacks_are_encoded_on_every_route(encoder: Any, value: Any, sent: Any) -> None:
    body, kind = encoder(value)
    assert (json.loads(body), kind) == (sent, JSON)


def test_tensor_that_is_the_whole_result_is_saved_as_by_torchserve() -> None:
    body, kind = encode(torch.tensor([1.5]))
    assert kind == BYTES
    assert torch.load(io.BytesIO(body), weights_only=True).tolist() == [1.5]


def test_nan_beside_an_array_stays_nan_on_torchserves_routes() -> None:
    assert encode({"a": [np.float32("nan")]})[0] == b'{\n  "a": [\n    NaN\n  ]\n}'
    assert encode_enveloped({"a": [np.float32("nan")]})[0] == b'{"a": [null]}'


class Odd(str):
    """A text whose methods are not those of texts."""

    def encode(self, *args: Any) -> Any:
        return 5

    def __len__(self) -> int:
        raise RuntimeError("no length")


def test_reply_is_made_of_the_built_in_types_whatever_classes_a_handler_uses() -> None:
    reply = reply_of(Odd("text"), Processor({Odd("X-A"): Odd("b"), Odd("Content-Type"): Odd("c")}, 201, Odd("d")))
    assert reply == Reply(b"text", 201, "d", "c", (("X-A", "b"),))
    assert {type(part) for part in (reply.body, reply.reason, reply.content_type, *reply.headers[0])} == {bytes, str}


def test_content_type_is_sent_once_however_often_it_was_set() -> None:
    reply = reply_of("x", Processor({"Content-Type": "a/b", "content-type": "c/d", "X-A": "1"}))
    assert (reply.content_type, reply.headers) == ("c/d", (("X-A", "1"),))
