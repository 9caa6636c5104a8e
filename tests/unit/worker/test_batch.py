"""How a batch meets a handler: a bad request fails alone, a failing handler fails its batch, nobody is mixed up."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from torchserve_lite import testing
from torchserve_lite.core.requests import Part
from torchserve_lite.ipc.messages import Call, FailureKind, Load, Reply
from torchserve_lite.worker.batch import Service
from torchserve_lite.worker.handlers import Handler

LOAD = Load(model_name="m", model_version="1.0", model_dir=".", handler="h", manifest=None, model_config=None)

EntryPoint = Callable[[list[Any], Any], Any]


def service_of(entry_point: EntryPoint, **facts: Any) -> Service:
    """``facts`` complete the load message."""
    context = testing.context(manifest={"model": {}}, model_yaml_config={})
    load = msgspec.structs.replace(LOAD, **facts)
    return Service(Handler(entry_point, context), load, lambda stage, row: None)


def replies_of(service: Service, *calls: Call) -> tuple[Reply, ...]:
    return service.predict(calls, lambda index, reply: None)


def call(body: object, name: str = "id", **facts: Any) -> Call:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Call(name, facts.pop("verb", "predict"), (Part("body", data),), (), **facts)


def upper(rows: list[Any], context: Any) -> list[Any]:
    return [bytes(row["body"]).upper() for row in rows]


def test_each_call_gets_its_own_reply_in_order() -> None:
    assert [reply.body for reply in replies_of(service_of(upper), call(b"a"), call(b"b"))] == [b"A", b"B"]


def test_call_past_its_deadline_never_reaches_the_handler() -> None:
    late, good = replies_of(service_of(upper), call(b"late", remaining=0.0), call(b"good", remaining=60.0))
    assert late.failure == FailureKind.DEADLINE
    assert good.body == b"GOOD"


def test_handler_is_not_called_when_nothing_is_left() -> None:
    def must_not_run(rows: list[Any], context: Any) -> list[Any]:
        raise AssertionError

    (reply,) = replies_of(service_of(must_not_run), call(b"late", remaining=-1.0))
    assert reply.failure == FailureKind.DEADLINE


def add_one(rows: list[Any], context: Any) -> list[Any]:
    return [row["data"] + 1 if isinstance(row, dict) else row + 1 for row in rows]


def test_request_that_cannot_be_unpacked_fails_alone() -> None:
    bad, good = replies_of(
        service_of(add_one), call(b"{", envelope="kserve"), call({"instances": [1, 2]}, envelope="kserve")
    )
    assert bad.failure == FailureKind.REFUSED
    assert b"line 1" in bad.body
    assert json.loads(good.body) == {"predictions": [2, 3]}


def test_requests_with_and_without_envelope_share_a_call_of_the_handler() -> None:
    seen: list[int] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        seen.append(len(rows))
        return list(range(len(rows)))

    replies = replies_of(service_of(handle), call(b"plain"), call({"instances": [1, 2]}, envelope="kserve"))
    assert [json.loads(reply.body) for reply in replies] == [0, {"predictions": [1, 2]}]
    assert seen == [3]


def test_row_that_the_handler_refuses_fails_its_own_request_only() -> None:
    from ts.utils.util import InvalidRow

    def handle(rows: list[Any], context: Any) -> list[Any]:
        for index, row in enumerate(rows):
            if row == "bad":
                raise InvalidRow(index, "no picture")
        return rows

    replies = replies_of(
        service_of(handle),
        call({"instances": ["a"]}, envelope="kserve"),
        call({"instances": ["b", "bad"]}, envelope="kserve"),
        call({"instances": ["c"]}, envelope="kserve"),
    )
    assert [reply.failure for reply in replies] == ["", FailureKind.REFUSED, ""]
    assert replies[1].body == b"instance 1: no picture"
    assert json.loads(replies[2].body) == {"predictions": ["c"]}


def test_handlers_failure_fails_the_whole_batch() -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        raise ValueError("boom")

    replies = replies_of(service_of(handle), call(b"a"), call(b"b"))
    assert [(reply.failure, reply.body) for reply in replies] == [("handler", b"Prediction failed")] * 2


def test_answer_beyond_the_limit_is_refused_and_the_others_are_sent() -> None:
    small, large = replies_of(service_of(upper, max_response_size=3), call(b"abc"), call(b"abcd"))
    assert small.body == b"ABC"
    assert (large.failure, large.body) == ("too_large", b"The answer has 4 bytes, more than max_response_size=3.")


def test_describe_gets_one_empty_row() -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        return [{"rows": rows}]

    (reply,) = replies_of(service_of(handle, envelope="kserve"), call(b"", verb="describe"))
    assert json.loads(reply.body) == {"rows": [{}]}


def test_context_speaks_of_each_row() -> None:
    def handle(rows: list[Any], context: Any) -> list[Any]:
        for index in range(len(rows)):
            context.set_response_header(index, "X-Row", str(index))
        return [context.get_request_id(index) for index in range(len(rows))]

    replies = replies_of(service_of(handle), call(b"", "first"), call(b"", "second"))
    assert [(reply.body, reply.headers) for reply in replies] == [
        (b"first", (("X-Row", "0"),)),
        (b"second", (("X-Row", "1"),)),
    ]


def test_pieces_are_sent_to_the_request_they_belong_to() -> None:
    sent: list[tuple[int, bytes]] = []

    def handle(rows: list[Any], context: Any) -> list[Any]:
        context.send(1, "for the second")
        context.send(0, "for the first")
        return ["end"] * len(rows)

    service_of(handle).predict((call(b""), call(b"")), lambda index, reply: sent.append((index, reply.body)))
    assert sent == [(1, b"for the second"), (0, b"for the first")]


@pytest.mark.parametrize(
    ("message", "body"), [("no customer", b"no customer"), ("\ud800", b"?")], ids=["plain", "no utf-8"]
)
def test_prediction_exception_chooses_status_and_message(message: str, body: bytes) -> None:
    from ts.utils.util import PredictionException

    def handle(rows: list[Any], context: Any) -> list[Any]:
        raise PredictionException(message, 404)

    (reply,) = replies_of(service_of(handle), call(b""))
    assert (reply.status, reply.body) == (404, body)


async def test_batches_of_a_coroutine_handler_keep_their_own_requests() -> None:
    first_waits = asyncio.Event()

    async def handle(rows: list[Any], context: Any) -> list[Any]:
        if bytes(rows[0]["body"]) == b"1":
            await first_waits.wait()
        else:
            first_waits.set()
        context.set_response_header(0, "X-Id", context.get_request_id(0))
        return [context.get_request_id(0)]

    service = service_of(handle)
    both = await asyncio.gather(
        *(service.predict_beside_others((call(name.encode(), name),), lambda index, reply: None) for name in "12")
    )
    assert [(reply.body, reply.headers) for (reply,) in both] == [(b"1", (("X-Id", "1"),)), (b"2", (("X-Id", "2"),))]


async def test_coroutine_that_waited_for_a_cancelled_task_fails_its_own_batch() -> None:
    """Its batch's task counted as cancelled itself and ended without an answer; the client waited for the timeout."""

    async def handle(rows: list[Any], context: Any) -> list[Any]:
        raise asyncio.CancelledError

    (reply,) = await service_of(handle).predict_beside_others((call(b""),), lambda index, reply: None)
    assert (reply.failure, reply.body) == ("handler", b"Prediction failed")
